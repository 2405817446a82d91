package witness

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Set is who witnesses a log from an epoch of the manifest on: Quorum of the named decide. One without names is nobody: nothing
// waits for witnesses, and nothing protects the log.
type Set struct {
	Epoch  uint64
	Names  []string // ascending
	Quorum int
}

// ParseSet reads what a log says of an epoch's witnesses: "QUORUM of N: NAME, NAME", or "none: REASON".
func ParseSet(epoch uint64, text string) (Set, error) {
	if strings.HasPrefix(text, "none:") {
		return Set{Epoch: epoch}, nil
	}
	wrong := fmt.Errorf("the witnesses of epoch %d are %.200q, want QUORUM of N: NAME, NAME, or none: REASON", epoch, text)
	numbers, names, _ := strings.Cut(text, ": ")
	quorum, of, _ := strings.Cut(numbers, " of ")
	q, err := strconv.Atoi(quorum)
	s := Set{Epoch: epoch, Names: strings.Split(names, ", "), Quorum: q}
	if err != nil || of != strconv.Itoa(len(s.Names)) || slices.Contains(s.Names, "") {
		return Set{}, wrong
	}
	if _, err := New(s.Names, s.Quorum); err != nil {
		return Set{}, fmt.Errorf("%w: %w", wrong, err)
	}
	return s, nil
}

// Nobody reports whether the set is empty.
func (s Set) Nobody() bool { return len(s.Names) == 0 }

// Same reports whether both sets have the same witnesses, of whom as many decide, in whatever epochs.
func (s Set) Same(t Set) bool { return s.Quorum == t.Quorum && slices.Equal(s.Names, t.Names) }

// Sets is which witnesses decide over which heads of one log: a fold over its lines. An epoch that changes the witnesses does not
// take the old ones' word away: from the line that adopts it on, a head is released by a quorum of the old set and a quorum of the
// new one. Only a line which says that a head with that adoption in it was so released hands over: from that line on the new set
// decides alone. Its zero value is that of an empty log.
//
// Two histories are then never both released. Where they part, one set is the newest in both. Beyond that point neither
// history releases a head without that set's quorum but after a handover from it, and the handover needs a head beyond that
// point with that very quorum: so each history has a head beyond it that a quorum of this set has cosigned, and two quorums have a
// witness in common. A set of nobody is the exception that its name says: while it decides alone nothing is protected.
type Sets struct {
	all    []tenure // oldest first; neighbours differ
	epochs []epoch  // every manifest's, oldest first
}

// epoch is a manifest and the line that adopted it.
type epoch struct {
	number uint64
	from   int64
}

// tenure is a set's time.
type tenure struct {
	set  Set
	from int64 // line that adopted it
	over int64 // line that handed over from it; 0: it decides, since no log begins with a handover
}

// Adopt takes down that a line adopts a manifest with that set.
func (s *Sets) Adopt(line int64, set Set) {
	s.epochs = append(s.epochs, epoch{set.Epoch, line})
	if n := len(s.all); n == 0 || !s.all[n-1].set.Same(set) {
		s.all = append(s.all, tenure{set: set, from: line})
	}
}

// ErrHandover is what a line is refused with that hands over where it may not.
var ErrHandover = errors.New("the witnesses cannot hand over here")

// HandOver takes down that a line hands over to the newest set, after a head of that many lines was released by all that decided.
func (s *Sets) HandOver(line, size int64) error {
	switch {
	case !s.Changing():
		return fmt.Errorf("%w: they have not changed", ErrHandover)
	case size <= s.adopted() || size > line:
		return fmt.Errorf("%w: the head of %d lines does not have the adoption at line %d in it, or is not before line %d", ErrHandover, size, s.adopted(), line)
	}
	for i := range s.all[:len(s.all)-1] {
		if t := &s.all[i]; t.over == 0 {
			t.over = line
		}
	}
	return nil
}

// adopted returns the line of the newest adoption.
func (s *Sets) adopted() int64 { return s.epochs[len(s.epochs)-1].from }

// Epoch returns the epoch of the manifest that a head of the log's first size lines is under, 0 for none.
func (s *Sets) Epoch(size int64) uint64 {
	number := uint64(0)
	for _, e := range s.epochs {
		if e.from < size {
			number = e.number
		}
	}
	return number
}

// Due reports whether a released head of that size lets the witnesses hand over.
func (s *Sets) Due(size int64) bool { return s.Changing() && size > s.adopted() }

// Changing reports whether an older set than the newest decides too.
func (s *Sets) Changing() bool {
	if len(s.all) == 0 {
		return false
	}
	newest := s.all[len(s.all)-1].set
	return slices.ContainsFunc(s.all, func(t tenure) bool { return t.over == 0 && !t.set.Nobody() && !t.set.Same(newest) })
}

// Deciding returns the sets a quorum of each of which releases a head of the log's first size lines, oldest first; none where
// nobody has to. Sets that are the same stand there once.
func (s *Sets) Deciding(size int64) []Set {
	var out []Set
	for _, t := range s.all {
		if t.from < size && (t.over == 0 || t.over >= size) && !t.set.Nobody() && !slices.ContainsFunc(out, t.set.Same) {
			out = append(out, t.set)
		}
	}
	return out
}

// Clone returns a copy, to look ahead with.
func (s *Sets) Clone() *Sets { return &Sets{slices.Clone(s.all), slices.Clone(s.epochs)} }

// Free returns the number of lines, of a log of size lines, that everybody may see without anybody's cosignature: those of
// before witnesses were first named; all that will ever be, where nobody decides now.
func (s *Sets) Free(size int64) int64 {
	if len(s.Deciding(size)) == 0 {
		return math.MaxInt64
	}
	free := int64(0)
	for _, t := range s.all {
		if len(s.Deciding(t.from)) == 0 {
			free = t.from
		}
	}
	return free
}
