package round

import (
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/entry"
)

// Apply folds a durable fact into the state. It returns an error, and leaves the state as it was, for a fact that cannot
// follow from the facts before it: the log is not one that Decide wrote.
func (s *State) Apply(at time.Time, f entry.Fact) error {
	if at.Before(s.newest) {
		return fmt.Errorf("fact %T of %s is before the newest one, of %s", f, at, s.newest)
	}
	if err := s.fold(at, f); err != nil {
		return fmt.Errorf("fact %T cannot follow: %w", f, err)
	}
	s.newest = at
	return nil
}

func (s *State) fold(at time.Time, f entry.Fact) error {
	switch f := f.(type) {
	case entry.ManifestAdopted:
		s.manifest = f
	case entry.Booted:
		s.boot(at)
	case entry.Admitted, entry.TagMoved: // history, and the registry's
	case entry.RunCreated:
		return s.created(at, f)
	case entry.Consented:
		return s.answered(f.Run, Member{Member: f.Member, State: consented, Records: f.Records})
	case entry.Declined:
		return s.answered(f.Run, Member{Member: f.Member, State: declined, Rule: f.Rule})
	case entry.RoundOpened:
		return s.opened(at, f)
	case entry.UpdateAccepted:
		return s.accepted(f)
	case entry.UpdateRefused:
		t, err := s.try(f.Run, f.Round, f.Try)
		if err == nil {
			t.refused[f.Member]++
		}
		return err
	case entry.RoundFailed:
		t, err := s.try(f.Run, f.Round, f.Try)
		if err == nil {
			t.state, t.closedAt = failed, at
		}
		return err
	case entry.RoundClosed:
		return s.closed(at, f)
	case entry.Evaluated:
		return s.evaluated(f)
	case entry.RunEnded:
		r, err := s.run(f.Run)
		if err == nil {
			r.ended, r.reason = f.Outcome, f.Reason
		}
		return err
	default:
		return fmt.Errorf("unknown kind of fact")
	}
	return nil
}

// boot gives every open try its whole deadline again: what the members had sent is gone.
func (s *State) boot(at time.Time) {
	s.booted = at
	for _, r := range s.runs {
		if t := r.open(); t != nil {
			t.deadline = at.Add(time.Duration(r.fact.Plan.Deadline))
		}
	}
}

func (s *State) created(at time.Time, f entry.RunCreated) error {
	key := request{f.Lead, f.Request}
	if s.byID[f.Run] != nil || s.requests[key] != nil {
		return fmt.Errorf("run %s or its request exists", f.Run)
	}
	r := &run{fact: f, created: at, closed: -1, base: f.Initial, model: f.Model, since: at}
	for _, m := range f.Members {
		r.members = append(r.members, Member{Member: m, State: invited})
	}
	if !slices.IsSortedFunc(r.members, func(a, b Member) int { return compare(a.Member, b.Member) }) {
		return fmt.Errorf("members of run %s are not in order", f.Run)
	}
	s.runs, s.byID[f.Run], s.requests[key] = append(s.runs, r), r, r
	return nil
}

func (s *State) answered(run string, answer Member) error {
	r, err := s.run(run)
	if err != nil {
		return err
	}
	m := r.member(answer.Member)
	if m == nil || m.State != invited {
		return fmt.Errorf("%s was not asked, or has answered", answer.Member)
	}
	*m = answer
	return nil
}

func (s *State) opened(at time.Time, f entry.RoundOpened) error {
	r, err := s.run(f.Run)
	if err != nil {
		return err
	}
	if number, attempt := r.next(); r.open() != nil || r.finished() || f.Round != number || f.Try != attempt {
		return fmt.Errorf("round %d, try %d, is not the next of run %s", f.Round, f.Try, f.Run)
	}
	r.tries = append(r.tries, &try{
		fact: f, opened: at, deadline: f.Deadline, state: open, index: map[entry.Member]int{}, refused: map[entry.Member]int{},
		reported: map[entry.Member]bool{},
	})
	return nil
}

func (s *State) accepted(f entry.UpdateAccepted) error {
	t, err := s.try(f.Run, f.Round, f.Try)
	if err != nil {
		return err
	}
	if share, ok := t.share(f.Member); !ok || share.Weight != f.Weight {
		return fmt.Errorf("%s was not selected with weight %d", f.Member, f.Weight)
	}
	if _, twice := t.of(f.Member); twice {
		return fmt.Errorf("an update of %s was accepted before", f.Member)
	}
	t.index[f.Member] = len(t.accepted)
	t.accepted = append(t.accepted, f)
	return nil
}

func (s *State) closed(at time.Time, f entry.RoundClosed) error {
	t, err := s.try(f.Run, f.Round, f.Try)
	if err != nil {
		return err
	}
	for _, c := range f.Members {
		if a, ok := t.of(c.Member); !ok || a.Update != c.Update || a.Weight != c.Weight {
			return fmt.Errorf("closed with an update of %s that was not accepted", c.Member)
		}
	}
	t.state, t.closedAt, t.model, t.blob = closed, at, f.Model, f.Blob
	r := s.byID[f.Run]
	r.base, r.model, r.state, r.closed, r.since = &f.Blob, f.Model, f.State, f.Round, at
	return nil
}

func (s *State) evaluated(f entry.Evaluated) error {
	r, err := s.run(f.Run)
	if err != nil {
		return err
	}
	t := r.closing(f.Round)
	if t == nil || t.model != f.Model || t.reported[f.Member] {
		return fmt.Errorf("figures of %s for round %d are of another model, or the second ones", f.Member, f.Round)
	}
	t.reported[f.Member] = true
	t.figures = append(t.figures, f)
	return nil
}

// run returns the open run with that id.
func (s *State) run(id string) (*run, error) {
	r := s.byID[id]
	if r == nil {
		return nil, ErrUnknownRun
	}
	if r.ended != "" {
		return nil, fmt.Errorf("%w: the run has ended (%s)", ErrClosed, r.ended)
	}
	return r, nil
}

// try returns the open try of that name.
func (s *State) try(id string, number, attempt int) (*try, error) {
	r, err := s.run(id)
	if err != nil {
		return nil, err
	}
	t := r.open()
	if t == nil || t.fact.Round != number || t.fact.Try != attempt {
		return nil, fmt.Errorf("%w: round %d, try %d", ErrClosed, number, attempt)
	}
	return t, nil
}
