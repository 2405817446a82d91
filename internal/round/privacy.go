package round

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/privacy"
)

// LeastPrivate is the fewest updates that close a round with noise. With two, each of the two knows the other's update but for the noise.
const LeastPrivate = 3

// Recipe returns how a plan's rounds are made private, false where the plan asks for no noise.
func Recipe(p entry.Plan) (privacy.Recipe, bool) {
	if p.Privacy == nil {
		return privacy.Recipe{}, false
	}
	r := privacy.Recipe{Clip: p.Privacy.ClipNorm, Noise: p.Privacy.NoiseMultiplier}
	if p.PerRecord() {
		r.Most = p.MaxAbs
	}
	if a := p.Privacy.Adaptive; a != nil {
		r.Adaptive = &privacy.Adaptive{Quantile: a.Quantile, Rate: a.LearningRate, CountStddev: a.CountStddev}
	}
	return r, true
}

// allowPrivacy compares what a plan asks for with the members' budget. A run without noise would pass any budget.
func (l Limits) allowPrivacy(p *entry.Privacy) error {
	switch {
	case p == nil && l.Budget == entry.Budget{}:
		return nil
	case p == nil:
		return errors.New("no privacy block; the manifest has a budget of privacy, and a run without noise would pass any")
	case l.Budget == entry.Budget{}:
		return errors.New("a privacy block; the manifest has no budget of privacy that it could be held to (runs.privacy)")
	case p.Unit != l.Budget.Unit:
		return fmt.Errorf("privacy of unit %s; the manifest's budget is for unit %s", p.Unit, l.Budget.Unit)
	}
	return nil
}

// CheckPrivacy reports why no rounds with noise can be made of a plan.
func CheckPrivacy(p entry.Plan) error {
	recipe, private := Recipe(p)
	if !private {
		return nil
	}
	if err := CheckExpected(*p.Privacy); err != nil { // before what follows from it, max_abs
		return err
	}
	if err := recipe.Validate(); err != nil {
		return fmt.Errorf("privacy: %w", err)
	}
	if err := privacy.CheckDelta(p.Privacy.Delta); err != nil {
		return fmt.Errorf("privacy: %w", err)
	}
	switch {
	case p.Privacy.Unit != entry.Participant && p.Privacy.Unit != entry.Record:
		return fmt.Errorf("privacy of unit %.32q, want %s or %s", p.Privacy.Unit, entry.Participant, entry.Record)
	case p.Quorum < LeastPrivate:
		return fmt.Errorf("quorum %d of a run with privacy, want %d at least", p.Quorum, LeastPrivate)
	case p.Resolution != 0:
		return errors.New("a resolution in a run with privacy, whose noise is far coarser")
	case p.Measured():
		return errors.New("a round of statistics, which has no noise, in a run with privacy: give public numbers in standardize.given")
	}
	return checkUnit(*p.Privacy)
}

// CheckExpected reports an expected_records that does not go with the unit of privacy: it has to be there where the unit is a record.
func CheckExpected(p entry.Privacy) error {
	if p.Unit == entry.Record && (p.ExpectedRecords < 1 || p.ExpectedRecords > aggregate.MaxWeight) {
		return fmt.Errorf("privacy.expected_records is %d, want 1 to %d: about how many records all members have, from what everybody knows",
			p.ExpectedRecords, aggregate.MaxWeight)
	}
	return nil
}

// checkUnit reports what does not go with the unit of privacy.
func checkUnit(p entry.Privacy) error {
	if p.Unit != entry.Record {
		if p.ExpectedRecords != 0 || p.SamplingRate != 0 {
			return fmt.Errorf("privacy.expected_records or sampling_rate with unit %s: they go with unit %s", p.Unit, entry.Record)
		}
		return nil
	}
	switch {
	case p.Adaptive != nil:
		return fmt.Errorf("privacy.adaptive with unit %s: how many records are clipped nobody counts", p.Unit)
	case !(p.SamplingRate >= 0 && p.SamplingRate <= 1):
		return fmt.Errorf("privacy.sampling_rate is %v, want above 0 and at most 1 (or none: all records are in every round)", p.SamplingRate)
	}
	return nil
}

// Over returns by what the noised sum of a round is divided, in which so many members were asked: a number that hangs on nobody's records.
func Over(p entry.Plan, asked int) int {
	if !p.PerRecord() {
		return asked
	}
	return int(max(1, math.Round(rate(*p.Privacy)*float64(p.Privacy.ExpectedRecords))))
}

// rate returns with what probability a unit is in a round. A member is in every round: the log says so. A record is drawn by its member's
// enclave, each for itself, and nobody learns which were.
func rate(p entry.Privacy) float64 {
	if p.Unit != entry.Record || p.SamplingRate == 0 {
		return 1
	}
	return p.SamplingRate
}

// Cost returns what a number of a plan's rounds cost, nothing where it asks for no noise.
func Cost(p entry.Plan, rounds int) privacy.Mechanism {
	if p.Privacy == nil {
		return privacy.Mechanism{}
	}
	return privacy.Mechanism{Rate: rate(*p.Privacy), Noise: p.Privacy.NoiseMultiplier, Rounds: rounds}
}

// spend counts a round of a plan.
func (s *State) spend(p entry.Plan) {
	m := Cost(p, 1)
	i := slices.IndexFunc(s.ledger, func(x privacy.Mechanism) bool { return x.Noise == m.Noise && x.Rate == m.Rate })
	if i < 0 {
		s.ledger = append(s.ledger, m)
		return
	}
	s.ledger[i].Rounds++
}

// Spend returns what all closed rounds cost together with more, for a budget's delta: by the bound of Rényi divergences for discrete noise.
// All rounds have the budget's unit, see affordable. Epsilon is +Inf where the bound is of no use.
func (s *State) Spend(b entry.Budget, more ...privacy.Mechanism) entry.Spent {
	c, err := privacy.NewCurve(slices.Concat(s.ledger, more)...)
	if err != nil {
		return entry.Spent{Epsilon: math.Inf(1), Delta: b.Delta, Unit: b.Unit}
	}
	return entry.Spent{Epsilon: s.epsilon(b, c), Delta: b.Delta, Unit: b.Unit}
}

// epsilon returns what a curve comes to beside what was spent before the log began, which is a sum: to it epsilon and delta of the rest are added.
func (s *State) epsilon(b entry.Budget, c privacy.Curve, more ...privacy.Mechanism) float64 {
	c, err := c.With(more...)
	if err != nil {
		return math.Inf(1)
	}
	e, err := c.Epsilon(b.Delta - s.carried.Delta)
	if err != nil {
		return math.Inf(1)
	}
	return e + s.carried.Epsilon
}

// promised returns what the rounds of open runs will cost that are not closed.
func (s *State) promised() []privacy.Mechanism {
	var out []privacy.Mechanism
	for _, r := range s.live {
		if p := r.fact.Plan; p.Privacy != nil {
			out = append(out, Cost(p, p.Rounds-max(r.closed, 0)))
		}
	}
	return out
}

// affordable reports why a run of the plan would pass the budget, with all that was spent and all that open runs will spend.
func (s *State) affordable(p entry.Plan, b entry.Budget) error {
	if p.Privacy == nil {
		return nil
	}
	if u := s.spent.Unit; u != "" && u != b.Unit {
		return fmt.Errorf("privacy: the federation's budget is for unit %s, and what was spent is for unit %s, of which nothing follows for the other: "+
			"a budget of another unit begins with a new log", b.Unit, u)
	}
	// A lead may ask again and again, and the search below for some hundred multipliers: so what does not change is reckoned once.
	before, err := privacy.NewCurve(slices.Concat(s.ledger, s.promised())...)
	if err != nil {
		return fmt.Errorf("privacy: %w", err)
	}
	with := func(z float64) float64 {
		m := Cost(p, p.Rounds)
		m.Noise = z
		return s.epsilon(b, before, m)
	}
	if e := with(p.Privacy.NoiseMultiplier); !(e <= b.Epsilon) {
		advice := "no noise would do"
		if s.epsilon(b, before) < b.Epsilon {
			z := privacy.Least(p.Privacy.NoiseMultiplier, 1e6, func(z float64) bool { return with(z) <= b.Epsilon })
			if z <= 1e6 {
				fewer := ""
				if p.Rounds > 1 && s.epsilon(b, before, Cost(p, 1)) <= b.Epsilon {
					fewer = " or fewer rounds"
				}
				advice = fmt.Sprintf("a noise_multiplier of %s%s would do", upwards(z), fewer)
			}
		}
		return fmt.Errorf("privacy: with its %d rounds epsilon could reach %s at delta %g for a %s, and the federation's budget is %g "+
			"(spent until now: %.4g); %s", p.Rounds, beyond(e, b.Epsilon), b.Delta, b.Unit, b.Epsilon, s.Spend(b).Epsilon, advice)
	}
	return nil
}

// beyond writes an epsilon that passes a budget in as many digits, four at least, as show that it does.
func beyond(e, budget float64) string {
	text := ""
	for digits := 4; digits <= 17; digits++ { // 17 tell any two numbers apart
		text = strconv.FormatFloat(e, 'g', digits, 64)
		if shown, err := strconv.ParseFloat(text, 64); err == nil && shown > budget {
			break
		}
	}
	return text
}

// upwards writes a number above 0 in four digits, of which none is rounded down: it is to be enough.
func upwards(x float64) string {
	step := math.Pow(10, math.Floor(math.Log10(x))-3)
	for n := math.Ceil(x / step); ; n++ {
		text := strconv.FormatFloat(n*step, 'g', 4, 64)
		if shown, err := strconv.ParseFloat(text, 64); err != nil || shown >= x {
			return text
		}
	}
}

// overspends says why the next round of a run may not be opened: with it, and the rounds that are open, the budget would be passed. It
// is "" where it may. That happens only where the budget has become smaller since the run began.
func (s *State) overspends(r *run) string {
	if r.fact.Plan.Privacy == nil {
		return ""
	}
	more := []privacy.Mechanism{Cost(r.fact.Plan, 1)}
	for _, o := range s.live {
		if o != r && o.open() != nil && o.fact.Plan.Privacy != nil {
			more = append(more, Cost(o.fact.Plan, 1))
		}
	}
	b := s.manifest.Budget
	if e := s.Spend(b, more...).Epsilon; !(e <= b.Epsilon) {
		return fmt.Sprintf("one more round would bring epsilon to %s at delta %g for a %s, and the federation's budget is %g", beyond(e, b.Epsilon), b.Delta, b.Unit, b.Epsilon)
	}
	return ""
}

// epsilon returns what the closed rounds of a run cost by themselves, at its plan's delta.
func (r *run) epsilon() float64 {
	if r.fact.Plan.Privacy == nil {
		return 0
	}
	e, err := privacy.DiscreteEpsilon([]privacy.Mechanism{Cost(r.fact.Plan, max(r.closed, 0))}, r.fact.Plan.Privacy.Delta)
	if err != nil {
		return math.Inf(1)
	}
	return e
}

// adapts reports whether a closing may set that clip norm for the next round: one where the plan's adapts, and else none.
func (r *run) adapts(clip float64) bool {
	if p := r.fact.Plan.Privacy; p == nil || p.Adaptive == nil {
		return clip == 0
	}
	return clip >= privacy.LeastClip && clip <= privacy.MostClip
}
