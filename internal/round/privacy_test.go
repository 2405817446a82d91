package round_test

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/privacy"
	"consilium.dev/internal/round"
)

var (
	budget   = entry.Budget{Unit: entry.Participant, Epsilon: 8, Delta: 1e-5}
	ofRecord = entry.Budget{Unit: entry.Record, Epsilon: 8, Delta: 1e-5}
)

// records makes the unit of a plan with noise a record.
func records(p *entry.Plan) {
	p.Privacy.Unit, p.Privacy.ExpectedRecords, p.MaxAbs = entry.Record, 500, 250
}

// privately is the fact of a run with noise.
func privately(change func(*entry.Plan)) entry.RunCreated {
	return with(created(), func(f *entry.RunCreated) {
		f.Plan.Standardize, f.Plan.Quorum, f.Plan.Rounds, f.Plan.Resolution = nil, 3, 4, 0
		f.Initial, f.Model = &zeros, zeros.Plain
		f.Plan.Privacy = &entry.Privacy{Unit: entry.Participant, ClipNorm: 0.5, NoiseMultiplier: 1.5, Delta: 1e-5}
		if change != nil {
			change(&f.Plan)
		}
	}).(entry.RunCreated)
}

func budgeted(b entry.Budget) (round.Limits, entry.ManifestAdopted) {
	f := privately(nil)
	return round.Limits{
		Members: f.Members, Strategies: []string{f.Plan.Strategy.Name}, Trainers: []string{f.Plan.Trainer}, LeastParticipants: 1, MaxAbs: 1 << 20,
		RoundsMax: 1000, OpenRuns: 4, Budget: b,
	}, entry.ManifestAdopted{Federation: "f", Epoch: 1, Manifest: entry.Digest{1}, Budget: b}
}

// TestPrivacyAtStart: what no run with noise can be made of, what the budget does not allow, and that a run without noise passes any.
func TestPrivacyAtStart(t *testing.T) {
	for name, c := range map[string]struct {
		budget entry.Budget
		change func(*entry.Plan)
		want   string // "" for a run
	}{
		"within":       {budget, nil, ""},
		"no budget":    {entry.Budget{}, nil, "no budget of privacy"},
		"no noise":     {budget, func(p *entry.Plan) { p.Privacy = nil }, "would pass any"},
		"neither":      {entry.Budget{}, func(p *entry.Plan) { p.Privacy = nil }, ""},
		"other unit":   {budget, func(p *entry.Plan) { p.Privacy.Unit = "patient" }, "unit patient"},
		"two of three": {budget, func(p *entry.Plan) { p.Quorum = 2 }, "want 3 at least"},
		"statistics":   {budget, func(p *entry.Plan) { p.Standardize = &entry.Standardize{MaxAbs: 16} }, "has no noise"},
		"too little":   {budget, func(p *entry.Plan) { p.Privacy.NoiseMultiplier = 1 }, "a noise_multiplier of 1."},
		"too many":     {budget, func(p *entry.Plan) { p.Rounds = 40 }, "or fewer rounds would do"},
		"no clip norm": {budget, func(p *entry.Plan) { p.Privacy.ClipNorm = 0 }, "clip norm 0"},
		"resolution":   {budget, func(p *entry.Plan) { p.Resolution = 1e-9 }, "a resolution in a run with privacy"},
		"no delta":     {budget, func(p *entry.Plan) { p.Privacy.Delta = 0 }, "delta 0"},
		"adaptive": {budget, func(p *entry.Plan) {
			p.Privacy.Adaptive = &entry.AdaptiveClip{Quantile: 0.5, LearningRate: 0.2, CountStddev: 2}
		}, ""},
		"record":                {ofRecord, records, ""},
		"record, other budget":  {budget, records, "privacy of unit record; the manifest's budget is for unit participant"},
		"member, other budget":  {ofRecord, nil, "privacy of unit participant; the manifest's budget is for unit record"},
		"record, drawn":         {ofRecord, func(p *entry.Plan) { records(p); p.Rounds, p.Privacy.SamplingRate = 40, 0.1 }, ""},
		"record, none drawn":    {ofRecord, func(p *entry.Plan) { records(p); p.Privacy.SamplingRate = -1 }, "sampling_rate is -1"},
		"record, too many":      {ofRecord, func(p *entry.Plan) { records(p); p.Rounds = 40 }, "for a record"},
		"record, of two":        {ofRecord, func(p *entry.Plan) { records(p); p.Quorum = 2 }, "want 3 at least"},
		"record, none expected": {ofRecord, func(p *entry.Plan) { records(p); p.Privacy.ExpectedRecords = 0 }, "expected_records is 0"},
		"record, adaptive": {ofRecord, func(p *entry.Plan) {
			records(p)
			p.Privacy.Adaptive = &entry.AdaptiveClip{Quantile: 0.5, LearningRate: 0.2, CountStddev: 2}
		}, "adapts"},
		"member, drawn": {budget, func(p *entry.Plan) { p.Privacy.SamplingRate = 0.5 }, "they go with unit record"},
		"member, public numbers": {budget, func(p *entry.Plan) {
			p.Standardize = &entry.Standardize{Given: map[string]entry.Scale{"age": {Mean: 55, Scale: 10}}}
		}, ""},
		"count too fine": {budget, func(p *entry.Plan) {
			p.Privacy.Adaptive = &entry.AdaptiveClip{Quantile: 0.5, LearningRate: 0.2, CountStddev: 0.5}
		}, "count_stddev"},
	} {
		t.Run(name, func(t *testing.T) {
			limits, manifest := budgeted(c.budget)
			_, err := folded(t, []entry.Fact{manifest, entry.Booted{}}).Decide(start, round.Create{Fact: privately(c.change), Limits: limits})
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, round.ErrPlan) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("Create = %v, want %q", err, c.want)
			}
		})
	}
}

// TestPrivacyAdvice: the noise that a refusal names is enough, fewer rounds are advised where one would do, and epsilon is written in as many digits
// as show that it passes the budget.
func TestPrivacyAdvice(t *testing.T) {
	limits, manifest := budgeted(budget)
	s := folded(t, []entry.Fact{manifest, entry.Booted{}})
	refusal := func(rounds int, noise float64) string {
		_, err := s.Decide(start, round.Create{Limits: limits, Fact: privately(func(p *entry.Plan) { p.Rounds, p.Privacy.NoiseMultiplier = rounds, noise })})
		if err == nil {
			return ""
		}
		return err.Error()
	}
	for _, c := range []struct {
		rounds int
		noise  float64
		fewer  bool // rounds would do
	}{{1, 0.5, false}, {40, 1.5, true}, {40, 0.5, false}, {1000, 2, true}, {900, 5, true}} {
		why := refusal(c.rounds, c.noise)
		_, advice, _ := strings.Cut(why, "a noise_multiplier of ")
		number, fewer, _ := strings.Cut(strings.TrimSuffix(advice, " would do"), " ")
		noise, err := strconv.ParseFloat(number, 64)
		if err != nil || noise <= c.noise || (fewer == "or fewer rounds") != c.fewer || !c.fewer && fewer != "" {
			t.Errorf("%d rounds with noise %v are refused: %s", c.rounds, c.noise, why)
		}
		if why := refusal(c.rounds, noise); why != "" {
			t.Errorf("%d rounds with the advised noise %v are refused: %s", c.rounds, noise, why)
		}
	}
	least := privacy.Least(0.5, 10, func(z float64) bool { return refusal(2, z) == "" })
	for short, want := range map[float64]string{1e-3: "epsilon could reach 8.0", 1e-9: "epsilon could reach 8.00000"} {
		if why := refusal(2, least*(1-short)); !strings.Contains(why, want) {
			t.Errorf("with noise that is too little by %v of it: %q, want %q", short, why, want)
		}
	}
}

// TestPrivacyAcrossRuns: what was spent, and what open runs will spend, counts; a smaller budget of a later epoch ends a run before its
// next round.
func TestPrivacyAcrossRuns(t *testing.T) {
	limits, manifest := budgeted(budget)
	log := []entry.Fact{manifest, entry.Booted{}, privately(nil)}
	second := with(privately(nil), func(f *entry.RunCreated) { f.Run, f.Request = "second", "second" }).(entry.RunCreated)
	if _, err := folded(t, log).Decide(start, round.Create{Fact: second, Limits: limits}); !errors.Is(err, round.ErrPlan) {
		t.Errorf("a second run beside one that will spend nearly all: %v, want a refusal", err)
	}

	for _, m := range privately(nil).Members {
		log = append(log, entry.Consented{Run: "run", Member: m, Records: 1})
	}
	tick := func(log []entry.Fact) []entry.Fact {
		facts, err := folded(t, log).Decide(start, round.Tick{})
		if err != nil {
			t.Fatal(err)
		}
		return facts
	}
	opened := tick(log)
	log = append(log, opened...)
	o, ok := opened[0].(entry.RoundOpened)
	// The noise of 1.5 * 0.5 has 2^26 steps at least, and half of one is what rounding may take from a value.
	if !ok || o.Clip != 0.5 || o.Bound != 0x1p-28 {
		t.Fatalf("the first round is %+v, want one that clips to 0.5 on a grid of 2^-27", opened[0])
	}
	for _, s := range o.Selected {
		log = append(log, entry.UpdateAccepted{Run: "run", Round: 1, Try: 1, Member: s.Member, Update: digest("u"), Weight: 1})
	}
	s := folded(t, log)
	todo := s.Todo(round.View{Now: start, Held: func(string, int, int, entry.Member) (entry.Digest, bool) { return digest("u"), true }})
	combine := todo[0].(round.Combine)
	closing, err := s.Decide(start, round.Combined{
		Run: "run", Round: 1, Try: 1, Members: combine.Members, Model: digest("first"), Blob: entry.Blob{Plain: digest("first")},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := folded(t, log).Spend(budget, round.Cost(privately(nil).Plan, 1))
	if f := closing[0].(entry.RoundClosed); f.Spent != want || want.Epsilon < 2 || want.Epsilon > 3.5 {
		t.Errorf("the round's commit says that %+v was spent, want %+v, some 3", f.Spent, want)
	}
	log = append(log, closing...)
	if next := tick(log); len(next) != 1 || cmp.Diff(next[0].(entry.RoundOpened).Round, 2) != "" {
		t.Errorf("after the first round: %+v, want the second one", next)
	}
	for _, a := range folded(t, log).Todo(round.View{Now: start}) {
		if e, ok := a.(round.Evaluate); ok {
			t.Errorf("%+v is asked for, and figures have no noise", e)
		}
	}
	if _, err := folded(t, log).Decide(start, round.Evaluation{Run: "run", Round: 1, Member: "a", Model: digest("first")}); !errors.Is(err, round.ErrFigures) {
		t.Errorf("figures of a run with privacy: %v, want a refusal", err)
	}

	small := budget
	small.Epsilon = 3
	less := entry.ManifestAdopted{
		Federation: "f", Epoch: 2, Manifest: entry.Digest{2}, Previous: entry.Digest{1}, Members: privately(nil).Members, Spent: want, Budget: small,
	}
	next := tick(append(log, less))
	if e, ok := next[0].(entry.RunEnded); !ok || e.Outcome != "failed" || !strings.Contains(e.Reason, "the federation's budget is 3") {
		t.Errorf("under a smaller budget: %+v, want the end of the run", next)
	}
}

// TestOver: a noised sum is divided by what hangs on nobody's records.
func TestOver(t *testing.T) {
	for _, c := range []struct {
		change func(*entry.Plan)
		want   int
	}{
		{nil, 7},
		{records, 500},
		{func(p *entry.Plan) { records(p); p.Privacy.SamplingRate = 0.1 }, 50},
		{func(p *entry.Plan) { records(p); p.Privacy.SamplingRate = 1e-6 }, 1},
	} {
		if got := round.Over(privately(c.change).Plan, 7); got != c.want {
			t.Errorf("Over = %d of %+v, want %d", got, privately(c.change).Plan.Privacy, c.want)
		}
	}
}

// TestPrivacyCarried: what the first line of a log says was spent before it counts, epsilon and delta; what it says of another unit nothing is compared with.
func TestPrivacyCarried(t *testing.T) {
	for _, c := range []struct {
		before entry.Spent
		ok     bool
	}{
		{entry.Spent{}, true},
		{entry.Spent{Epsilon: 1, Delta: 1e-6, Unit: entry.Participant}, true},
		{entry.Spent{Epsilon: 2, Delta: 1e-6, Unit: entry.Participant}, false},
		{entry.Spent{Epsilon: 0.1, Delta: 1e-5, Unit: entry.Participant}, false},
		{entry.Spent{Epsilon: 0.1, Delta: 1e-6, Unit: entry.Record}, false},
	} {
		limits, manifest := budgeted(budget)
		manifest.Spent = c.before
		_, err := folded(t, []entry.Fact{manifest, entry.Booted{}}).Decide(start, round.Create{Fact: privately(nil), Limits: limits})
		if (err == nil) != c.ok {
			t.Errorf("after %+v: %v, want a run: %v", c.before, err, c.ok)
		}
	}
}
