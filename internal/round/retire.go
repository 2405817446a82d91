package round

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/entry"
)

// What one decision drops at most: a fact of so many rounds is far below the limit of a line.
const (
	maxDropped = 10_000 // rounds of a run
	maxRetired = 64     // runs
)

// retire drops what runs that ended long ago need no more: of each round but the newest the model and the optimiser's state.
//
// What an open run has is all needed: its newest model by the next round, others by members that are behind. Of a run that has
// ended the newest model is what it was for, and stays, with its state. A new run begins from a plan and needs none. A model that
// a tag names stays while the tag does.
func (s *State) retire(now time.Time, in Retire) []entry.Fact {
	var out []entry.Fact
	for _, r := range s.runs {
		if len(out) == maxRetired {
			break
		}
		if r.ended == "" || in.Run != "" && in.Run != r.fact.Run || now.Before(r.phased.Add(in.Kept)) {
			continue
		}
		if rounds := s.retired(r); len(rounds) > 0 {
			out = append(out, entry.Dropped{Run: r.fact.Run, Rounds: rounds, Kept: entry.Duration(in.Kept)})
		}
	}
	return out
}

// retired returns the rounds of a run that has ended whose blobs nothing needs.
func (s *State) retired(r *run) []int {
	var rounds []int
	for _, v := range r.made() {
		if len(rounds) < maxDropped && s.mayDrop(r, v) == nil {
			rounds = append(rounds, v.round)
		}
	}
	return rounds
}

// made is what a round made.
type made struct {
	round  int
	model  entry.Digest
	blob   entry.Blob  // of model
	memory *entry.Blob // the optimiser's state; nil for none
}

// made returns what the run's closed rounds made, ascending. Where no statistics were taken the initial model is that of round 0.
func (r *run) made() []made {
	var all []made
	if r.fact.Initial != nil {
		all = append(all, made{0, r.fact.Model, *r.fact.Initial, nil})
	}
	for _, t := range r.tries {
		if t.state == closed {
			all = append(all, made{t.fact.Round, t.model, t.blob, t.memory})
		}
	}
	return all
}

// mayDrop says why what a round made is not dropped.
func (s *State) mayDrop(r *run, v made) error {
	switch {
	case v.round >= r.closed:
		return errors.New("its model is the newest of the run")
	case r.dropped[v.round]:
		return errors.New("its blobs were dropped before")
	}
	for tag, named := range s.tags {
		if named == v.model {
			return fmt.Errorf("the tag %s names its model", tag)
		}
	}
	return nil
}

func (s *State) drops(f entry.Dropped) error {
	r := s.byID[f.Run]
	if r == nil || r.ended == "" {
		return fmt.Errorf("run %s has not ended, and its blobs are dropped", f.Run)
	}
	if len(f.Rounds) == 0 || f.Kept <= 0 || !slices.IsSorted(f.Rounds) {
		return fmt.Errorf("no rounds of run %s are dropped, or at once, or they are not ascending", f.Run)
	}
	left := f.Rounds
	for _, v := range r.made() {
		if len(left) == 0 || left[0] != v.round {
			continue
		}
		if err := s.mayDrop(r, v); err != nil {
			return fmt.Errorf("the blobs of round %d of run %s are dropped: %w", v.round, f.Run, err)
		}
		left = left[1:]
	}
	if len(left) > 0 {
		return fmt.Errorf("the blobs of round %d of run %s are dropped, which made none, or twice", left[0], f.Run)
	}
	if r.dropped == nil {
		r.dropped = map[int]bool{}
	}
	for _, number := range f.Rounds {
		r.dropped[number] = true
	}
	return nil
}

// Blobs returns what a fact drops that was applied. Nothing needs these blobs any more, so they can be deleted, also again after
// a crash.
func (s *State) Blobs(f entry.Dropped) []entry.Blob {
	r := s.byID[f.Run]
	if r == nil {
		return nil
	}
	var all []entry.Blob
	for _, v := range r.made() {
		if _, of := slices.BinarySearch(f.Rounds, v.round); !of {
			continue
		}
		all = append(all, v.blob)
		if v.memory != nil {
			all = append(all, *v.memory)
		}
	}
	return all
}
