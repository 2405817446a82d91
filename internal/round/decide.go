package round

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
)

const (
	// maxRefusals is how many updates of a member a try refuses before the member is out of it.
	maxRefusals = 8
	// maxMetrics is the most figures of one member for one model.
	maxMetrics = 16
)

// Decide returns the facts that follow from an input at the instant now, or why it is refused. It changes nothing: the caller
// writes the facts, and then applies them. now is not before [State.Newest].
func (s *State) Decide(now time.Time, in Input) ([]entry.Fact, error) {
	switch in := in.(type) {
	case Adopt:
		return s.adopt(in)
	case HandOver:
		if err := s.holds(in.Fact.Epoch); err != nil {
			return nil, err
		}
		return facts(in.Fact), nil
	case Boot:
		return facts(in.Fact), nil
	case Admit:
		return facts(in.Fact), nil
	case Create:
		return s.create(now, in)
	case Consent:
		return s.consent(in)
	case Decline:
		if _, answered, err := s.invitation(in.Run, in.Member); err != nil || answered {
			return nil, err
		}
		return facts(entry.Declined{Run: in.Run, Member: in.Member, Rule: in.Rule}), nil
	case Leave:
		return s.leave(in)
	case Query:
		_, err := s.asked(in)
		return nil, err
	case Offer:
		return s.offer(in)
	case Reject:
		return s.reject(in)
	case Veiled:
		return nil, s.veiledInput(in)
	case Spoil:
		return s.spoil(in)
	case Combined:
		return s.combined(in)
	case Evaluation:
		return s.evaluation(in)
	case Cancel:
		return s.cancel(in)
	case Retire:
		return s.retire(now, in), nil
	case Tick:
		return s.tick(now, in), nil
	}
	panic(fmt.Sprintf("round: unknown input %T", in))
}

func facts(f entry.Fact) []entry.Fact { return []entry.Fact{f} }

// invitation returns the run to which the member is asked, and whether it has answered already.
func (s *State) invitation(id string, who entry.Member) (r *run, answered bool, err error) {
	if r, err = s.run(id); err != nil {
		return nil, false, err
	}
	m := r.member(who)
	if m == nil {
		return nil, false, fmt.Errorf("%w: %s, in run %s", ErrStranger, who, id)
	}
	return r, m.State != invited, nil
}

// consent takes an answer while the run is open. Once its rounds have begun it takes none that would end them: a weight beside
// which the mean of the others is too coarse.
func (s *State) consent(in Consent) ([]entry.Fact, error) {
	r, answered, err := s.invitation(in.Run, in.Member)
	switch {
	case err != nil || answered:
		return nil, err
	case in.Records < 1 || in.Records > aggregate.MaxWeight:
		return nil, fmt.Errorf("%w: %d records, want 1 to %d", ErrWeight, in.Records, aggregate.MaxWeight)
	case r.fact.Plan.Privacy != nil && in.Records != 1:
		return nil, fmt.Errorf("%w: %d records, want 1: with privacy each member counts as one", ErrWeight, in.Records)
	case in.Most > 0 && in.Records > in.Most:
		return nil, fmt.Errorf("%w: %d, at most %d are allowed", ErrRecords, in.Records, in.Most)
	case len(r.tries) > 0 && r.coarsens(in.Records):
		return nil, fmt.Errorf("%w: with %d records more the means would be coarser than the plan's resolution", ErrWeight, in.Records)
	}
	return facts(entry.Consented{Run: in.Run, Member: in.Member, Records: in.Records}), nil
}

func (s *State) leave(in Leave) ([]entry.Fact, error) {
	r, err := s.run(in.Run)
	if err != nil {
		return nil, err
	}
	switch m := r.member(in.Member); {
	case m == nil:
		return nil, fmt.Errorf("%w: %s, in run %s", ErrStranger, in.Member, in.Run)
	case m.State == left || m.State == declined:
		return nil, nil
	}
	return facts(entry.Left{Run: in.Run, Member: in.Member, Reason: in.Reason}), nil
}

// asked returns the open try to which an update may be offered.
func (s *State) asked(q Query) (*try, error) {
	t, err := s.meant(q.Run, q.Round, q.Try, q.Source)
	if err != nil {
		return nil, err
	}
	share, ok := t.share(q.Member)
	if !ok || s.byID[q.Run].member(q.Member).State == left {
		return nil, fmt.Errorf("%w: %s, in %s", ErrStranger, q.Member, t)
	}
	if q.Weight != 0 && q.Weight != share.Weight {
		return nil, fmt.Errorf("%w: %d, declared were %d", ErrWeight, q.Weight, share.Weight)
	}
	staleness, err := s.byID[q.Run].staleness(t, q.Member, q.Source)
	if err != nil {
		return nil, err
	}
	if a, ok := t.of(q.Member); ok && (a.Update != q.Update || a.Staleness != staleness) {
		return nil, fmt.Errorf("%w: %s of %s", ErrSecond, a.Update.Short(), q.Member)
	} else if !ok && (t.lost || !s.byID[q.Run].masks(t, q.Member)) {
		return nil, fmt.Errorf("%w: no masks are agreed upon with %s in %s, or they are coming off", ErrClosed, q.Member, t)
	} else if !ok && t.refused[q.Member] >= maxRefusals {
		return nil, fmt.Errorf("%w: %d times", ErrOften, maxRefusals)
	}
	return t, nil
}

func (s *State) offer(in Offer) ([]entry.Fact, error) {
	q := Query{Run: in.Run, Round: in.Round, Try: in.Try, Member: in.Member, Update: in.Update, Weight: in.Weight, Source: in.Source}
	if in.Weight < 1 {
		return nil, fmt.Errorf("%w: %d", ErrWeight, in.Weight)
	}
	t, err := s.asked(q)
	if err != nil {
		return nil, err
	}
	if _, again := t.of(in.Member); again {
		return nil, nil
	}
	staleness, _ := s.byID[in.Run].staleness(t, in.Member, in.Source) // which was judged above
	return facts(entry.UpdateAccepted{
		Run: in.Run, Round: t.fact.Round, Try: t.fact.Try, Member: in.Member, Update: in.Update, Weight: in.Weight, Bytes: in.Bytes,
		Resent: in.Resent, Staleness: staleness,
	}), nil
}

func (s *State) cancel(in Cancel) ([]entry.Fact, error) {
	if r := s.byID[in.Run]; r != nil && r.ended == cancelled {
		return nil, nil
	}
	r, err := s.run(in.Run)
	if err != nil {
		return nil, err
	}
	reason := "by " + in.By
	if in.Reason != "" {
		reason += ": " + in.Reason
	}
	return facts(r.end(cancelled, reason)), nil
}

func (s *State) reject(in Reject) ([]entry.Fact, error) {
	t, err := s.meant(in.Run, in.Round, in.Try, in.Source)
	if err != nil {
		return nil, err
	}
	if _, ok := t.share(in.Member); !ok || s.byID[in.Run].member(in.Member).State == left {
		return nil, fmt.Errorf("%w: %s, in %s", ErrStranger, in.Member, t)
	}
	if t.refused[in.Member] >= maxRefusals {
		return nil, nil
	}
	return facts(entry.UpdateRefused{
		Run: in.Run, Round: t.fact.Round, Try: t.fact.Try, Member: in.Member, Update: in.Update, Reason: in.Reason,
	}), nil
}

// combined is the one commit of a round. That the right updates were summed is the caller's promise, and a broken one is a bug.
func (s *State) combined(in Combined) ([]entry.Fact, error) {
	t, err := s.try(in.Run, in.Round, in.Try)
	if err != nil {
		return nil, err
	}
	if !s.byID[in.Run].sums(t, in.Members) || in.Model.IsZero() {
		panic("round: combined what was not accepted, or fewer than a quorum")
	}
	if !s.byID[in.Run].unmasked(t, in.Members, in.Early) {
		panic("round: combined others than were unmasked")
	}
	if !s.byID[in.Run].early(t, in.Early, in.Members) {
		panic("round: closed early for a reason that the plan does not know")
	}
	r := s.byID[in.Run]
	if !r.adapts(in.Clip) {
		panic("round: combined with a clip norm that the plan does not ask for, or without one that it does")
	}
	f := entry.RoundClosed{
		Run: in.Run, Round: in.Round, Try: in.Try, Kind: t.fact.Kind, Base: t.fact.Model, Model: in.Model, Blob: in.Blob,
		State: in.State, Members: in.Members, Clip: in.Clip, Early: in.Early,
	}
	if r.fact.Plan.Privacy != nil {
		f.Spent = s.Spend(s.manifest.Budget, Cost(r.fact.Plan, 1))
	}
	return facts(f), nil
}

func (s *State) evaluation(in Evaluation) ([]entry.Fact, error) {
	r, err := s.run(in.Run)
	if err != nil {
		return nil, err
	}
	if m := r.member(in.Member); m == nil || m.State != consented {
		return nil, fmt.Errorf("%w: %s, in run %s", ErrStranger, in.Member, in.Run)
	}
	if r.fact.Plan.Privacy != nil {
		return nil, fmt.Errorf("%w: none are taken in a run with privacy, they have no noise", ErrFigures)
	}
	t := r.closing(in.Round)
	if t == nil || t.model != in.Model {
		return nil, fmt.Errorf("%w: round %d, model %s", ErrModel, in.Round, in.Model.Short())
	}
	if t.reported[in.Member] {
		return nil, nil
	}
	if err := checkMetrics(in.Metrics); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFigures, err)
	}
	return facts(entry.Evaluated{
		Run: in.Run, Round: in.Round, Member: in.Member, Model: in.Model, Metrics: slices.Clone(in.Metrics),
	}), nil
}

// checkMetrics takes few figures, each finite, with a plain name and a direction, and none twice.
func checkMetrics(all []entry.Metric) error {
	if len(all) > maxMetrics {
		return fmt.Errorf("%d of them, at most %d are allowed", len(all), maxMetrics)
	}
	seen := map[[2]string]bool{}
	for i, m := range all {
		key := [2]string{m.Set, m.Name}
		switch {
		case m.Set != "train" && m.Set != "test":
			return fmt.Errorf("figure %d is of no set of rows, want train or test", i)
		case !plainName(m.Name):
			return fmt.Errorf("figure %d has a name other than 1 to 32 of a-z, 0-9 and _", i)
		case m.Better != "min" && m.Better != "max":
			return fmt.Errorf("figure %d says neither min nor max", i)
		case math.IsNaN(m.Value) || math.IsInf(m.Value, 0):
			return fmt.Errorf("figure %d is not finite", i)
		case m.Count < 0 || m.Count > aggregate.MaxWeight:
			return fmt.Errorf("figure %d is over %d rows, want 0 to %d", i, m.Count, aggregate.MaxWeight)
		case seen[key]:
			return fmt.Errorf("figure %d is there twice", i)
		}
		seen[key] = true
	}
	return nil
}

func plainName(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_'
	})
}
