package witness

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Tallies is a [Tally] for each set of witnesses that decides: one, or while the witnesses change, several. What they have to allow is
// allowed when each of them says so. Of none everything is allowed and nothing is gathered. It is not safe for concurrent use.
type Tallies struct {
	sets     []Set
	all      []*Tally // of the sets, in their order
	open     bool
	ballot   Head
	released Head
}

// NewTallies returns the tallies of those sets.
func NewTallies(sets []Set) (*Tallies, error) {
	a := &Tallies{}
	if err := a.Turn(sets); err != nil {
		return nil, err
	}
	return a, nil
}

// Turn has other sets decide from now on. What is known of those that stay is kept. Cosignatures are gathered anew: those of
// before may have been given under another manifest. A log that may grow may go on growing.
func (a *Tallies) Turn(sets []Set) error {
	var all []*Tally
	for _, set := range sets {
		if i := slices.IndexFunc(a.sets, set.Same); i >= 0 {
			all = append(all, a.all[i])
			continue
		}
		t, err := New(set.Names, set.Quorum)
		if err != nil {
			return fmt.Errorf("the witnesses of epoch %d: %w", set.Epoch, err)
		}
		all = append(all, t)
	}
	for _, t := range all {
		t.open, t.ballot, t.released = a.open, Head{}, a.released
	}
	a.sets, a.all, a.ballot = slices.Clone(sets), all, Head{}
	a.opens()
	return nil
}

// Sets returns the sets that decide.
func (a *Tallies) Sets() []Set { return slices.Clone(a.sets) }

// each has every tally that knows the name do something, and returns the first error, ErrNoWitness where none knows it.
func (a *Tallies) each(name string, do func(*Tally) error) error {
	known, first := false, error(nil)
	for _, t := range a.all {
		if t.of(name) != nil {
			known = true
			if err := do(t); first == nil {
				first = err
			}
		}
	}
	if !known {
		return fmt.Errorf("%w: %s", ErrNoWitness, name)
	}
	a.opens()
	return first
}

// opens finds out whether the log may grow. Each set has to have its quorum at one moment: while another is waited for, somebody may
// have seen more over another coordinator, and say so.
func (a *Tallies) opens() {
	if a.open {
		return
	}
	a.open = true
	for _, t := range a.all {
		t.open = len(t.counted()) >= t.quorum
		a.open = a.open && t.open
	}
}

// Show is [Tally.Show] in each set that has the witness.
func (a *Tallies) Show(name string, seen Head, size int64, root [32]byte) error {
	return a.each(name, func(t *Tally) error { return t.Show(name, seen, size, root) })
}

// Contradict is [Tally.Contradict] in each set that has the witness.
func (a *Tallies) Contradict(name string, why error) error {
	return a.each(name, func(t *Tally) error { return t.Contradict(name, why) })
}

// Open reports whether the log may grow: a quorum of each set has shown what it keeps, and the log extends it. Once it may, it may.
func (a *Tallies) Open() bool { return a.open }

// Lost returns an error once a set has no quorum left for this log.
func (a *Tallies) Lost() error {
	var all []error
	for _, t := range a.all {
		all = append(all, t.Lost())
	}
	return errors.Join(all...)
}

// Propose is [Tally.Propose] for all sets together. Of none it is false.
func (a *Tallies) Propose(h Head) bool {
	if len(a.all) == 0 || !a.open || a.ballot.Size > 0 || h.Size <= a.released.Size {
		return false
	}
	for _, t := range a.all {
		t.ballot = h
	}
	a.ballot = h
	return true
}

// Ballot returns the head that cosignatures are gathered for; one without lines if there is none.
func (a *Tallies) Ballot() Head { return a.ballot }

// Cosign takes down that a witness has cosigned h, and reports whether that releases it: it is the head that was proposed, and a
// quorum of each set has now cosigned it. Its caller has checked the cosignature.
func (a *Tallies) Cosign(name string, h Head) (released bool) {
	released = h.Size > 0 && h == a.ballot
	for _, t := range a.all {
		t.Cosign(name, h)
		released = released && t.released == h
	}
	if released {
		a.released, a.ballot = h, Head{}
	}
	return released
}

// Restore is [Tally.Restore] for sets that decide over h: those of the log as it was then, which may be others than those of now.
// Fewer than a quorum of each restore nothing.
func (a *Tallies) Restore(h Head, sets []Set, names []string) bool {
	if h.Size <= a.released.Size || !Decided(sets, names) {
		return false
	}
	a.released = h
	for _, t := range a.all {
		t.released = h
	}
	return true
}

// Decided reports whether the named are a quorum of each set. Nobody decides nothing.
func Decided(sets []Set, names []string) bool {
	for _, set := range sets {
		n := 0
		for _, name := range set.Names {
			if slices.Contains(names, name) {
				n++
			}
		}
		if n < set.Quorum {
			return false
		}
	}
	return len(sets) > 0
}

// Released returns the newest head that a quorum of each set has cosigned.
func (a *Tallies) Released() Head { return a.released }

// Cosigners returns who has cosigned exactly h as its newest head, ascending.
func (a *Tallies) Cosigners(h Head) []string {
	var names []string
	for _, t := range a.all {
		names = append(names, t.Cosigners(h)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Standings returns how each witness stands, ascending by name.
func (a *Tallies) Standings() []Standing {
	var all []Standing
	for _, t := range a.all {
		for _, s := range t.all {
			if !slices.ContainsFunc(all, func(o Standing) bool { return o.Name == s.Name }) {
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, func(a, b Standing) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Lack is what one set's word is waiting for.
type Lack struct {
	Set     Set
	There   int        // of its witnesses have given it; while the set has a quorum it lacks nothing, and this is not told
	Missing []Standing // ascending
}

// Lacks returns which sets are waited for, oldest first, and in each whose word is missing: see [Tally.Missing].
func (a *Tallies) Lacks() []Lack {
	var out []Lack
	for i, t := range a.all {
		if missing := t.Missing(); len(missing) > 0 {
			out = append(out, Lack{a.sets[i], len(t.all) - len(missing), missing})
		}
	}
	return out
}
