package round

import (
	"fmt"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
)

// defaultResolution is, in parts of max_abs, the most that a mean may be off where the plan does not say.
const defaultResolution = 0x1p-36

// reopen opens the next try, or ends a run that too many have left, whose mean would be too coarse, or whose next round the budget of
// privacy does not allow.
func (s *State) reopen(now time.Time, r *run, early entry.Early) []entry.Fact {
	if why := r.deserted(); why != "" {
		return facts(r.end(failed, why))
	}
	if why := s.overspends(r); why != "" {
		return facts(r.end(failed, why))
	}
	f := r.opening(now)
	f.Early = early
	if _, resolution := r.grid(f.Round); r.fact.Plan.Privacy == nil && !(f.Bound <= resolution) {
		return facts(r.end(failed, fmt.Sprintf("round %d was not opened: with the smallest records of %d members its mean could be "+
			"off by %.3g, the plan's resolution is %.3g; a larger quorum, a smaller max_abs or a coarser resolution would do",
			f.Round, r.fact.Plan.Quorum, f.Bound, resolution)))
	}
	return facts(f)
}

// opening returns the fact that opens the next try at the instant now, with everybody who has consented by then.
func (r *run) opening(now time.Time) entry.RoundOpened {
	number, attempt := r.next()
	f := entry.RoundOpened{
		Run: r.fact.Run, Round: number, Try: attempt, Kind: entry.Training, Base: r.base, Model: r.model, Clip: r.clip,
		Deadline: now.Add(time.Duration(r.fact.Plan.Deadline)),
	}
	if number == 0 {
		f.Kind, f.Base, f.Model = entry.Statistics, nil, entry.Digest{}
	}
	for _, m := range r.members {
		if m.State == consented {
			f.Selected = append(f.Selected, entry.Share{Member: m.Member, Weight: m.Records})
		}
	}
	f.Bound = r.bound(number, r.weights())
	if recipe, private := Recipe(r.fact.Plan); private { // the grid is that of the noise, which comes on top
		f.Bound = max(f.Bound, recipe.Step(r.clip)/2)
	}
	return f
}

// bound returns the most that a value of the mean of that round may be off, where members have declared so many records.
func (r *run) bound(number int, records []int64) float64 {
	maxAbs, _ := r.grid(number)
	if number == 0 { // statistics are added up whatever the strategy is
		return aggregate.Bound(maxAbs, records, r.fact.Plan.Quorum)
	}
	return r.buffer.Bound(maxAbs, records, r.fact.Plan.Quorum, r.fact.Plan.Rounds)
}

// grid returns the most that a value of an update may be in that round, and the most that the mean may be off.
func (r *run) grid(number int) (maxAbs, resolution float64) {
	p := r.fact.Plan
	maxAbs, resolution = p.MaxAbs, p.Resolution
	if number == 0 {
		// Twice the limit of the mean squares: the limits of their float32s have a little room for rounding.
		maxAbs, resolution = 2*p.Standardize.MaxAbs, 0
	}
	if resolution == 0 {
		resolution = defaultResolution * maxAbs
	}
	return maxAbs, resolution
}

// weights returns what those who have consented declared.
func (r *run) weights() []int64 {
	var out []int64
	for _, m := range r.members {
		if m.State == consented {
			out = append(out, m.Records)
		}
	}
	return out
}

// coarsens reports whether one more member with so many records would end the run: with them a round to come, be it the
// statistics or training, is not opened.
func (r *run) coarsens(records int64) bool {
	if r.fact.Plan.Privacy != nil { // all are equal
		return false
	}
	weights := append(r.weights(), records)
	next, _ := r.next()
	for _, number := range []int{next, r.fact.Plan.Rounds} {
		_, resolution := r.grid(number)
		if !(r.bound(number, weights) <= resolution) {
			return true
		}
	}
	return false
}
