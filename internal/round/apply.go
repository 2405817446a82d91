package round

import (
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
)

// Apply folds a fact into the state. It returns an error, and leaves the state as it was, for a fact that cannot
// follow from the facts before it: the log is not one that Decide wrote. What a fact says by itself, such as its figures, is
// not judged again, nor what was known only when it was decided: the limits, and which updates were in memory.
func (s *State) Apply(at time.Time, f entry.Fact) error {
	if at.Before(s.newest) {
		return fmt.Errorf("fact %T of %s is before the newest one, of %s", f, at, s.newest)
	}
	if err := s.fold(at, f); err != nil {
		return fmt.Errorf("fact %T cannot follow: %w", f, err)
	}
	if r := s.byID[runOf(f)]; r != nil && r.phase() != r.was {
		r.was, r.phased = r.phase(), at
	}
	s.newest = at
	return nil
}

// runOf returns the run that a fact is of, "" for one that is of none.
func runOf(f entry.Fact) string {
	switch f := f.(type) {
	case entry.RunCreated:
		return f.Run
	case entry.RoundOpened:
		return f.Run
	case entry.RoundClosed:
		return f.Run
	case entry.RunEnded:
		return f.Run
	}
	return "" // no other changes a phase
}

func (s *State) fold(at time.Time, f entry.Fact) error {
	switch f := f.(type) {
	case entry.ManifestAdopted:
		return s.adopts(at, f)
	case entry.HandedOver:
		return s.holds(f.Epoch)
	case entry.Booted:
		s.boot(at)
	case entry.Admitted: // history
	case entry.TagMoved: // which model it is, the registry judges
		s.tags[f.Tag] = f.Model
	case entry.Dropped:
		return s.drops(f)
	case entry.RunCreated:
		return s.created(at, f)
	case entry.Consented:
		return s.answered(f.Run, Member{Member: f.Member, State: consented, Records: f.Records, Since: at})
	case entry.Declined:
		return s.answered(f.Run, Member{Member: f.Member, State: declined, Rule: f.Rule, Since: at})
	case entry.Left:
		return s.departed(at, f)
	case entry.RoundOpened:
		return s.opened(at, f)
	case entry.UpdateAccepted:
		return s.accepted(f)
	case entry.UpdateRefused:
		return s.refused(f)
	case entry.MasksAgreed:
		return s.masksAgreed(f)
	case entry.Unmasking:
		return s.unmasking(at, f)
	case entry.RoundFailed:
		return s.failed(at, f)
	case entry.RoundClosed:
		return s.closed(at, f)
	case entry.Evaluated:
		return s.evaluated(f)
	case entry.RunEnded:
		return s.ended(at, f)
	default:
		return fmt.Errorf("unknown kind of fact")
	}
	return nil
}

// boot gives every open try its whole deadline again: what the members had sent is gone.
func (s *State) boot(at time.Time) {
	s.booted = at
	for _, r := range s.live {
		if t := r.open(); t != nil {
			t.deadline = at.Add(time.Duration(r.fact.Plan.Deadline))
			t.lost = r.fact.Plan.Masks
		}
	}
}

func (s *State) created(at time.Time, f entry.RunCreated) error {
	key := request{f.Lead, f.Request}
	if s.byID[f.Run] != nil || s.requests[key] != nil {
		return fmt.Errorf("run %s or its request exists", f.Run)
	}
	if err := sound(f); err != nil {
		return fmt.Errorf("run %s: %w", f.Run, err)
	}
	r := &run{fact: f, created: at, closed: -1, base: f.Initial, model: f.Model, since: at, contributed: map[entry.Member]contribution{}}
	// A strategy that this version does not have needs nobody: its plan was refused where its name was read.
	if s, err := aggregate.NewStrategy(f.Plan.Strategy.Name, f.Plan.Strategy.Params); err == nil {
		r.buffer, r.needs, r.judges = s.Buffer(), entry.Member(s.Member()), s.Gathers() || s.Clips()
	}
	if p := f.Plan.Privacy; p != nil {
		r.clip = p.ClipNorm
	}
	for _, m := range f.Members {
		r.members = append(r.members, Member{Member: m, State: invited, Since: at})
	}
	s.runs, s.live = append(s.runs, r), append(s.live, r)
	s.byID[f.Run], s.requests[key] = r, r
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

func (s *State) departed(at time.Time, f entry.Left) error {
	r, err := s.run(f.Run)
	if err != nil {
		return err
	}
	m := r.member(f.Member)
	if m == nil || m.State != invited && m.State != consented {
		return fmt.Errorf("%s takes no part in run %s, or no more", f.Member, f.Run)
	}
	m.State, m.Rule, m.Since = left, f.Reason, at
	return nil
}

func (s *State) opened(at time.Time, f entry.RoundOpened) error {
	r, err := s.run(f.Run)
	if err != nil {
		return err
	}
	switch next := r.opening(at); {
	case r.open() != nil || r.finished() || f.Round != next.Round || f.Try != next.Try || f.Kind != next.Kind:
		return fmt.Errorf("%s round %d, try %d, is not the next of run %s", f.Kind, f.Round, f.Try, f.Run)
	case !sameBlob(f.Base, next.Base) || f.Model != next.Model:
		return fmt.Errorf("round %d of run %s begins with another model than the newest", f.Round, f.Run)
	case !slices.Equal(f.Selected, next.Selected) || len(f.Selected) < r.fact.Plan.Quorum:
		return fmt.Errorf("round %d of run %s selects others than those who consented, or fewer than a quorum", f.Round, f.Run)
	case f.Clip != r.clip:
		return fmt.Errorf("round %d of run %s clips to another norm than it is to", f.Round, f.Run)
	case f.Early != "" && (f.Early != entry.Absent || len(r.tries) > 0):
		return fmt.Errorf("round %d of run %s is opened early for a reason that there is not", f.Round, f.Run)
	case !f.Deadline.After(at):
		return fmt.Errorf("round %d of run %s has no time", f.Round, f.Run)
	}
	r.tries = append(r.tries, &try{
		fact: f, opened: at, deadline: f.Deadline, state: open, index: map[entry.Member]int{}, refused: map[entry.Member]int{},
		reported: map[entry.Member]bool{},
	})
	return nil
}

func sameBlob(a, b *entry.Blob) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

func (s *State) accepted(f entry.UpdateAccepted) error {
	t, err := s.try(f.Run, f.Round, f.Try)
	if err != nil {
		return err
	}
	if share, ok := t.share(f.Member); !ok || share.Weight != f.Weight || s.byID[f.Run].member(f.Member).State == left {
		return fmt.Errorf("%s was not selected with weight %d", f.Member, f.Weight)
	}
	if !s.byID[f.Run].masks(t, f.Member) || t.lost {
		return fmt.Errorf("an update of %s is there, and nobody has agreed upon its masks", f.Member)
	}
	if _, twice := t.of(f.Member); twice || t.refused[f.Member] >= maxRefusals {
		return fmt.Errorf("an update of %s was accepted before, or none is taken any more", f.Member)
	}
	switch n, err := s.byID[f.Run].staleness(t, f.Member, Source{Base: f.Round - f.Staleness}); {
	case err != nil:
		return err
	case n != f.Staleness: // that of an update of round 0
		return fmt.Errorf("an update of %s was accepted as %d rounds late in round %d", f.Member, f.Staleness, f.Round)
	}
	t.index[f.Member] = len(t.accepted)
	t.accepted = append(t.accepted, f)
	return nil
}

func (s *State) refused(f entry.UpdateRefused) error {
	t, err := s.try(f.Run, f.Round, f.Try)
	if err != nil {
		return err
	}
	if _, ok := t.share(f.Member); !ok || t.refused[f.Member] >= maxRefusals || s.byID[f.Run].member(f.Member).State == left {
		return fmt.Errorf("%s was not selected, or was out of the try", f.Member)
	}
	t.refused[f.Member]++
	return nil
}

func (s *State) failed(at time.Time, f entry.RoundFailed) error {
	t, err := s.try(f.Run, f.Round, f.Try)
	if err != nil {
		return err
	}
	if f.Spared && !at.Equal(s.adopted) && !t.lost {
		return fmt.Errorf("%s is to cost no try, and neither was a manifest adopted at that instant nor did its masks go with a boot", t)
	}
	if f.Unmade && !s.byID[f.Run].combinable(t) {
		return fmt.Errorf("%s is to have failed at its model, and there was none to be made yet", t)
	}
	t.state, t.closedAt, t.spared = failed, at, f.Spared
	return nil
}

func (s *State) closed(at time.Time, f entry.RoundClosed) error {
	t, err := s.try(f.Run, f.Round, f.Try)
	if err != nil {
		return err
	}
	r := s.byID[f.Run]
	switch {
	case f.Kind != t.fact.Kind || f.Base != t.fact.Model:
		return fmt.Errorf("%s is closed as another kind or with another base than it was opened with", t)
	case !r.sums(t, f.Members) || f.Model.IsZero():
		return fmt.Errorf("%s is closed with what was not accepted, with fewer than a quorum, or without a model", t)
	case !r.unmasked(t, f.Members, f.Early):
		return fmt.Errorf("%s is closed with other updates than those that were unmasked", t)
	case !r.early(t, f.Early, f.Members):
		return fmt.Errorf("%s is closed early for a reason that its plan does not know", t)
	case !r.adapts(f.Clip):
		return fmt.Errorf("%s is closed with a clip norm that its plan does not ask for, or without one that it does", t)
	}
	if r.fact.Plan.Privacy != nil {
		s.spend(r.fact.Plan)
		s.spent = f.Spent
	}
	if f.Clip != 0 {
		r.clip = f.Clip
	}
	r.tally(t, f.Members)
	t.state, t.closedAt, t.model, t.members, t.blob, t.memory, t.early = closed, at, f.Model, f.Members, f.Blob, f.State, f.Early
	r.base, r.model, r.state, r.closed, r.since = &f.Blob, f.Model, f.State, f.Round, at
	if f.Kind == entry.Training {
		for _, m := range f.Members {
			r.contributed[m.Member] = contribution{m.Update, f.Round}
		}
	}
	return nil
}

func (s *State) evaluated(f entry.Evaluated) error {
	r, err := s.run(f.Run)
	if err != nil {
		return err
	}
	if m := r.member(f.Member); m == nil || m.State != consented {
		return fmt.Errorf("%s takes no part in run %s and has figures", f.Member, f.Run)
	}
	t := r.closing(f.Round)
	if t == nil || t.model != f.Model || t.reported[f.Member] {
		return fmt.Errorf("figures of %s for round %d are of another model, or the second ones", f.Member, f.Round)
	}
	t.reported[f.Member] = true
	t.figures = append(t.figures, f)
	return nil
}

// ended ends a run, and with it the try that is open.
func (s *State) ended(at time.Time, f entry.RunEnded) error {
	r, err := s.run(f.Run)
	if err != nil {
		return err
	}
	if f.Early != "" && (f.Early != entry.Absent || f.Outcome != completed) {
		return fmt.Errorf("run %s ends early for a reason that there is not", f.Run)
	}
	switch f.Outcome {
	case failed, cancelled:
	case completed:
		if !r.finished() {
			return fmt.Errorf("run %s is completed before its last round is closed", f.Run)
		}
	default:
		return fmt.Errorf("run %s ends as %q, which is no outcome", f.Run, f.Outcome)
	}
	if t := r.open(); t != nil {
		t.state, t.closedAt = failed, at
	}
	r.ended, r.reason = f.Outcome, f.Reason
	s.live = slices.DeleteFunc(s.live, func(x *run) bool { return x == r })
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
