package round

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
)

// Limits is what the manifest and the coordinator's configuration allow a run. A list that is empty allows nothing.
type Limits struct {
	Members           []entry.Member
	Strategies        []string
	Trainers          []string
	LeastParticipants int
	MaxAbs            float64
	RoundsMax         int
	OpenRuns          int
	Budget            entry.Budget // of privacy; zero: none, and then no run may ask for noise
	Starts            int          // runs that one lead may create within any 24 hours; 0: as many as it likes
}

func (s *State) create(now time.Time, in Create) ([]entry.Fact, error) {
	if known := s.requests[request{in.Fact.Lead, in.Fact.Request}]; known != nil {
		if !samePlan(known.fact.Plan, in.Fact.Plan) {
			return nil, fmt.Errorf("%w, run %s", ErrRequest, known.fact.Run)
		}
		return nil, nil
	}
	if s.byID[in.Fact.Run] != nil {
		return nil, fmt.Errorf("%w: the id %s is that of another run", ErrRequest, in.Fact.Run)
	}
	if err := in.Limits.allow(in.Fact); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPlan, err)
	}
	if n := len(s.live); n >= in.Limits.OpenRuns {
		return nil, fmt.Errorf("%w: %d, and no more than %d may be", ErrOpenRuns, n, in.Limits.OpenRuns)
	}
	if err := s.affordable(in.Fact.Plan, in.Limits.Budget); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPlan, err)
	}
	if n := s.started(in.Fact.Lead, now.Add(-24*time.Hour)); in.Limits.Starts > 0 && n >= in.Limits.Starts {
		return nil, fmt.Errorf("%w: %s started %d in the last 24 hours, and no more than %d may be", ErrStarts, in.Fact.Lead, n, in.Limits.Starts)
	}
	return facts(in.Fact), nil
}

// started returns how many runs the lead has created since an instant, whatever became of them.
func (s *State) started(lead string, since time.Time) int {
	n := 0
	for _, r := range slices.Backward(s.runs) {
		if !r.created.After(since) {
			break
		}
		if r.fact.Lead == lead {
			n++
		}
	}
	return n
}

func samePlan(a, b entry.Plan) bool {
	x, err := json.Marshal(a)
	y, _ := json.Marshal(b) // nothing for a plan that JSON cannot hold: it is the same as none
	return err == nil && bytes.Equal(x, y)
}

// allow compares a plan with the members' limits.
func (l Limits) allow(f entry.RunCreated) error {
	if err := l.allowPlan(f.Plan); err != nil {
		return err
	}
	for _, m := range f.Members {
		if !slices.Contains(l.Members, m) {
			return fmt.Errorf("%s is no member of the federation", m)
		}
	}
	return sound(f)
}

// allowPlan is allow for what a plan says without its members.
func (l Limits) allowPlan(p entry.Plan) error {
	switch {
	case !slices.Contains(l.Strategies, p.Strategy.Name):
		return fmt.Errorf("strategy %s; allowed: %s", p.Strategy.Name, listed(l.Strategies))
	case !slices.Contains(l.Trainers, p.Trainer):
		return fmt.Errorf("trainer %s; allowed: %s", p.Trainer, listed(l.Trainers))
	case p.Rounds > l.RoundsMax:
		return fmt.Errorf("%d rounds; allowed are %d at most", p.Rounds, l.RoundsMax)
	case !(p.MaxAbs <= l.MaxAbs):
		return fmt.Errorf("max_abs %g; allowed is %g at most", p.MaxAbs, l.MaxAbs)
	case p.Standardize != nil && !(p.Standardize.MaxAbs <= l.MaxAbs):
		return fmt.Errorf("standardize.max_abs %g; allowed is %g at most", p.Standardize.MaxAbs, l.MaxAbs)
	case p.Quorum < l.LeastParticipants:
		return fmt.Errorf("quorum %d; allowed is %d at least", p.Quorum, l.LeastParticipants)
	}
	return l.allowPrivacy(p.Privacy)
}

// listed words names for people.
func listed[T ~string](names []T) string {
	if len(names) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, name := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(name))
	}
	return b.String()
}

// sound reports why no run can be made of a plan, whatever the limits are.
func sound(f entry.RunCreated) error {
	p := f.Plan
	for i, m := range f.Members {
		if i > 0 && f.Members[i-1] >= m {
			return errors.New("the members are not in order, or one is there twice")
		}
	}
	s, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params)
	if err == nil { // before the quorum, which may follow from it
		if err := CheckBufferSize(s, len(f.Members)); err != nil {
			return err
		}
	}
	switch {
	case p.Quorum < 1 || p.Quorum > len(f.Members):
		return fmt.Errorf("quorum %d of %d members", p.Quorum, len(f.Members))
	case p.ReportGoal != 0 && (p.ReportGoal < p.Quorum || p.ReportGoal > len(f.Members)):
		return fmt.Errorf("report_goal %d, want %d, the quorum, to %d, the members", p.ReportGoal, p.Quorum, len(f.Members))
	case p.Grace < 0 || p.MaxTime < 0:
		return errors.New("a grace or a max_time below 0")
	case p.Rounds < 1 || p.Tries < 1 || p.Deadline <= 0:
		return errors.New("no rounds, no tries, or no time for one")
	case !p.Measured() && f.Initial == nil:
		return errors.New("no initial model and no round that makes one")
	case (f.Initial == nil) != f.Model.IsZero():
		return errors.New("an initial model without its digest, or the digest alone")
	}
	if err == nil {
		if s.Least() > p.Quorum {
			return fmt.Errorf("quorum %d; strategy %s makes a model of %d updates or more", p.Quorum, s.Name(), s.Least())
		}
		if m := entry.Member(s.Member()); m != "" && !slices.Contains(f.Members, m) {
			return fmt.Errorf("%s, by whose updates strategy %s measures the others, is not asked", m, s.Name())
		}
		if err := CheckBuffer(p, s, len(f.Members)); err != nil {
			return err
		}
	}
	if err := CheckMasks(p, len(f.Members)); err != nil {
		return err
	}
	return CheckPrivacy(p)
}
