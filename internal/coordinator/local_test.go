package coordinator_test

import (
	"math"
	"slices"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
)

// locally makes a plan of three rounds in which members take different numbers of steps, under a rule with a part for them.
func locally(rule string, params map[string]any) func(*entry.Plan) {
	return func(p *entry.Plan) {
		p.Rounds, p.Strategy = 3, entry.Strategy{Name: rule, Params: params}
		p.Local = entry.Local{Epochs: 2, Batch: 16, LearningRate: 0.1}
	}
}

// TestLocalRules: under a rule with a part for participants the same records give the same models, in whatever order members come, and
// where the coordinator and members begin again in between; and they are other models than without the rule.
func TestLocalRules(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, change func(*entry.Plan), order []string, disturb bool) (id entry.Digest) {
		synctest.Test(t, func(t *testing.T) {
			p := plan(t, change)
			w := newWorld(t)
			council, all := w.serve(), map[string]*program{}
			for _, name := range order {
				all[name] = w.join(name)
			}
			run := w.start(p)
			for n := 1; disturb && n < p.Rounds; n++ {
				w.books["council"].awaitMany(t, n+1, "round closed", "run", run)
				all[order[n]].stop()
				council.stop()
				council = w.serve()
				all[order[n]] = w.join(order[n])
			}
			id = final(w.completed(run))
		})
		return id
	}
	plain := run(t, locally("fedavg", nil), hospitals, false)
	for name, params := range map[string]map[string]any{
		"fedprox": {"mu": 0.5}, "fednova": {"momentum": 0.5, "mu": 0.1}, "scaffold": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backwards := slices.Clone(hospitals)
			slices.Reverse(backwards)
			want := run(t, locally(name, params), hospitals, false)
			if got := run(t, locally(name, params), backwards, true); got != want {
				t.Errorf("model %s, want %s as undisturbed", got, want)
			}
			if want == plain {
				t.Error("the model is that of fedavg")
			}
		})
	}
}

// TestFedNova follows a run's models by the formula of FedNova, in this test's own words: each member's way, divided by its own number of
// steps, and all of them times the mean number.
func TestFedNova(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		for _, name := range hospitals {
			w.join(name)
		}
		p := plan(t, locally("fednova", nil))
		v := w.completed(w.start(p))
		plain := p
		plain.Strategy = entry.Strategy{Name: "fedavg"}
		x := w.model(entry.Digest(v.Rounds[0].Model))
		seen := map[float64]bool{}
		for round := 1; round <= 3; round++ {
			mean, rows, tau := make([]float64, len(x.Params)), 0.0, 0.0
			for _, name := range hospitals {
				train := trainingSet(t, p.Schema, name)
				u, err := trainer.Train(t.Context(), plain, x, train, round, name, nil)
				if err != nil {
					t.Fatal(err)
				}
				n := float64(train.Rows())
				steps := 2 * math.Ceil(n/16)
				seen[steps] = true
				for i := range u {
					mean[i] += n * float64(u[i]) / steps
				}
				rows, tau = rows+n, tau+n*steps
			}
			got := w.model(entry.Digest(v.Rounds[round].Model))
			for i := range mean {
				want := float64(x.Params[i]) + tau/rows*mean[i]/rows
				if math.Abs(float64(got.Params[i])-want) > 1e-6*math.Max(1, math.Abs(want)) {
					t.Errorf("round %d, value %d is off by %g", round, i, float64(got.Params[i])-want)
				}
			}
			x = got
		}
		if len(seen) != len(hospitals) {
			t.Errorf("members take %v steps, want each another number", seen)
		}
	})
}

// TestScaffold follows a run's models by the formulas of SCAFFOLD, in this test's own words, where one member is away at first and then others
// are, for a while: what each keeps between rounds is what was of its newest update in a closed one.
func TestScaffold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		p := plan(t, locally("scaffold", map[string]any{"learning_rate": 0.5}), func(p *entry.Plan) { p.Quorum, p.Rounds = 3, 6 })
		late := w.join("longbeach")
		run := w.start(p)
		w.books["longbeach"].await(t, "consented")
		late.stop()
		first := w.join("budapest")
		w.join("cleveland")
		w.join("switzerland")
		closed := func(n int) { w.books["council"].awaitMany(t, n+1, "round closed", "run", run) }
		closed(2) // the third waits for whoever is absent, until time passes
		late = w.join("longbeach")
		closed(4)
		late.stop()
		first.stop()
		w.join("budapest")
		closed(5)
		w.join("longbeach")
		v := w.completed(run)

		of := map[int][]entry.Contribution{}
		for _, c := range only[entry.RoundClosed](w.facts()) {
			of[c.Round] = c.Members
		}
		x := w.model(entry.Digest(v.Rounds[0].Model))
		n := 14 // bias and weights
		own := map[string][]float64{}
		away := 0
		for round := 1; round <= p.Rounds; round++ {
			mean, rows := make([]float64, len(x.Params)), 0.0
			for _, m := range of[round] {
				name := string(m.Member)
				train := trainingSet(t, p.Schema, name)
				if own[name] == nil {
					own[name] = make([]float64, n)
				}
				u, err := trainer.TrainControlled(t.Context(), p, x, own[name], train, round, name, nil)
				if err != nil {
					t.Fatal(err)
				}
				steps := 2 * math.Ceil(float64(train.Rows())/16)
				for i := range n {
					want := -float64(x.Params[i]) - float64(u[n+i])/(steps*0.1)
					if math.Abs(float64(u[i])-want) > 1e-5 {
						t.Errorf("round %d: control variate %d of %s changes by %v, want %v", round, i, name, u[i], want)
					}
					own[name][i] += float64(u[i])
				}
				for i := range u {
					mean[i] += float64(u[i]) * float64(train.Rows())
				}
				rows += float64(train.Rows())
			}
			away += len(hospitals) - len(of[round])
			got := w.model(entry.Digest(v.Rounds[round].Model))
			for i := range mean {
				rate := 0.5
				if i < n {
					rate = float64(len(of[round])) / float64(len(hospitals))
				}
				want := float64(x.Params[i]) + rate*mean[i]/rows
				if math.Abs(float64(got.Params[i])-want) > 1e-6*math.Max(1, math.Abs(want)) {
					t.Errorf("round %d, value %d is off by %g", round, i, float64(got.Params[i])-want)
				}
			}
			x = got
		}
		if away == 0 {
			t.Error("every round has everybody's update: nothing is shown of those who are away")
		}
		for _, name := range hospitals { // the run has ended
			for object, err := range w.disks[name].List(t.Context(), "control/") {
				t.Errorf("%s still keeps %s: %v", name, object, err)
			}
		}
	})
}
