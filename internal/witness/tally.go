package witness

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrNoWitness is what a Tally says to a name that is none of its witnesses'.
var ErrNoWitness = errors.New("not a witness of this federation")

// ConflictError says that a witness has seen what this log does not begin with.
type ConflictError struct {
	Witness string
	Seen    int64 // lines that the witness has seen
	Size    int64 // lines that this log has
}

func (e *ConflictError) Error() string {
	if e.Seen > e.Size {
		return fmt.Sprintf("storage was rolled back: witness %s has seen %d lines, this log has %d: restore a newer copy of the store",
			e.Witness, e.Seen, e.Size)
	}
	return fmt.Sprintf("this log is not the one that was witnessed: witness %s has seen another history of %d lines, this log has %d: "+
		"restore the copy of the store that the federation went on with", e.Witness, e.Seen, e.Size)
}

// Standing is how a witness stands to this coordinator's log.
type Standing struct {
	Name     string
	Shown    bool  // it has shown what it keeps
	Seen     int64 // lines of the newest head that it is known to keep
	Cosigned Head  // newest head of this log that it has cosigned since the coordinator started
	Conflict error // why it cannot cosign this log; nil if it can
}

// Tally counts a federation's witnesses for one process of a coordinator: first those that have shown what they keep, then
// their cosignatures. It is not safe for concurrent use.
//
// A change of the witnesses keeps one Tally for the old ones and one for the new: what both have to allow is allowed when each
// of the two says so.
type Tally struct {
	quorum   int
	all      []Standing // ascending by name
	open     bool
	ballot   Head // that cosignatures are gathered for; no lines: none is
	released Head
}

// New returns the tally of the named witnesses. quorum of them decide: more than half, at most all.
func New(names []string, quorum int) (*Tally, error) {
	if err := CheckQuorum(len(names), quorum); err != nil {
		return nil, err
	}
	t := &Tally{quorum: quorum}
	for _, name := range slices.Sorted(slices.Values(names)) {
		if n := len(t.all); n > 0 && t.all[n-1].Name == name {
			return nil, fmt.Errorf("the witness %q stands twice", name)
		}
		t.all = append(t.all, Standing{Name: name})
	}
	return t, nil
}

// CheckQuorum returns an error unless quorum of so many witnesses are more than half of them, and no more than there are: two
// halves could cosign two histories.
func CheckQuorum(witnesses, quorum int) error {
	if 2*quorum <= witnesses || quorum > witnesses {
		return fmt.Errorf("a quorum of %d of %d witnesses, want more than half: %d to %d", quorum, witnesses, witnesses/2+1, witnesses)
	}
	return nil
}

func (t *Tally) of(name string) *Standing {
	i, ok := slices.BinarySearchFunc(t.all, name, func(s Standing, name string) int { return strings.Compare(s.Name, name) })
	if !ok {
		return nil
	}
	return &t.all[i]
}

// Quorum returns how many witnesses decide, and out of how many.
func (t *Tally) Quorum() (quorum, of int) { return t.quorum, len(t.all) }

// Show takes down what a witness keeps: the head it has seen, Size 0 for none, after its caller has found out whether that was
// a head of the log whose key this coordinator holds. size is that of our own log now, root the Merkle tree hash of its first
// seen.Size lines; it counts for nothing where there are not so many. A witness whose head our log does not begin with is a
// [*ConflictError], does not count, and is never asked to cosign. Who shows again, over a new connection, is judged anew.
func (t *Tally) Show(name string, seen Head, size int64, root [32]byte) error {
	s := t.of(name)
	if s == nil {
		return fmt.Errorf("%w: %s", ErrNoWitness, name)
	}
	s.Shown, s.Seen, s.Conflict = true, seen.Size, nil
	if seen.Size > size || seen.Size > 0 && seen.Root != root {
		s.Conflict = &ConflictError{name, seen.Size, size}
		return s.Conflict
	}
	t.open = t.open || len(t.counted()) >= t.quorum
	return nil
}

// Contradict takes down that a witness keeps to another log for a reason that its caller found: one under another key, say.
func (t *Tally) Contradict(name string, why error) error {
	s := t.of(name)
	if s == nil {
		return fmt.Errorf("%w: %s", ErrNoWitness, name)
	}
	s.Shown, s.Conflict = true, why
	return nil
}

// counted returns the witnesses that stand for this log's being the newest: those that have shown what they keep, and the log
// begins with it. One that keeps nothing counts too. It cannot help an older copy: of the q that have cosigned what was released
// at least 2q - n are among any q that count, and what they keep the older copy does not begin with. If it did not count, a
// coordinator that was killed when fewer than q had cosigned a new log's first head could never go on.
func (t *Tally) counted() []Standing {
	var out []Standing
	for _, s := range t.all {
		if s.Shown && s.Conflict == nil {
			out = append(out, s)
		}
	}
	return out
}

// Open reports whether the log may grow: a quorum has shown what it keeps, and the log extends it. Once it may, it may.
func (t *Tally) Open() bool { return t.open }

// Lost returns an error once so many witnesses have seen another history that no quorum is left for this one: this coordinator
// cannot go on. It joins what each of them has seen.
func (t *Tally) Lost() error {
	var all []error
	for _, s := range t.all {
		if s.Conflict != nil {
			all = append(all, s.Conflict)
		}
	}
	if len(t.all)-len(all) >= t.quorum {
		return nil
	}
	return errors.Join(all...)
}

// Propose makes h, the newest durable head of our log, what cosignatures are gathered for, and returns true; unless the log is
// not open, has not grown since the last such head, or cosignatures for another one are being gathered.
func (t *Tally) Propose(h Head) bool {
	if !t.open || t.ballot.Size > 0 || h.Size <= t.released.Size {
		return false
	}
	t.ballot = h
	return true
}

// Ballot returns the head that cosignatures are gathered for; one without lines if there is none.
func (t *Tally) Ballot() Head { return t.ballot }

// Cosign takes down that a witness has cosigned h, a head that was proposed, and reports whether that releases it: all lines
// below h.Size. Its caller has checked the cosignature. One that comes late, or twice, releases nothing.
func (t *Tally) Cosign(name string, h Head) (released bool) {
	s := t.of(name)
	if s == nil || h.Size <= 0 {
		return false
	}
	if h.Size >= s.Cosigned.Size {
		s.Cosigned = h
	}
	s.Seen = max(s.Seen, h.Size)
	if h != t.ballot || len(t.Cosigners(h)) < t.quorum {
		return false
	}
	t.released, t.ballot = h, Head{}
	return true
}

// Restore takes down what a quorum is known to have cosigned before this process started: cosignatures that were kept, checked
// by the caller, over a head that our log begins with. Fewer than a quorum restore nothing.
func (t *Tally) Restore(h Head, names []string) bool {
	known := map[string]bool{}
	for _, name := range names {
		if t.of(name) != nil {
			known[name] = true
		}
	}
	if len(known) < t.quorum || h.Size <= t.released.Size {
		return false
	}
	t.released = h
	return true
}

// Cosigners returns who has cosigned exactly h as its newest head, ascending.
func (t *Tally) Cosigners(h Head) []string {
	var names []string
	for _, s := range t.all {
		if s.Cosigned == h && h.Size > 0 {
			names = append(names, s.Name)
		}
	}
	return names
}

// Released returns the newest head that a quorum has cosigned. Lines below its size may be seen by those who may see lines.
func (t *Tally) Released() Head { return t.released }

// Missing returns whose word is missing, ascending: before the log is open, of those who have not shown what they keep, or do
// not count; then of those who have not cosigned the head that is being gathered for. It is empty when nothing is waited for.
func (t *Tally) Missing() []Standing {
	there := t.counted()
	return slices.DeleteFunc(t.Standings(), func(s Standing) bool {
		if t.open {
			return t.ballot.Size == 0 || s.Cosigned == t.ballot
		}
		return slices.Contains(there, s)
	})
}

// Standings returns how each witness stands, ascending by name.
func (t *Tally) Standings() []Standing { return slices.Clone(t.all) }
