package coordinator_test

import (
	"math"
	"slices"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/trainer"
)

// locally makes a plan of three rounds in which members take different numbers of steps, under a rule with a part for them.
func locally(rule string, params map[string]any) func(*entry.Plan) {
	return func(p *entry.Plan) {
		p.Rounds, p.Strategy = 3, entry.Strategy{Name: rule, Params: params}
		p.Local = entry.Local{Epochs: 2, Batch: 16, LearningRate: 0.1}
	}
}

// localWorld is a world whose members allow one rule.
func localWorld(t *testing.T, rule string) (w *world, join func(string) *program) {
	w = newWorld(t, "[fedavg, fedadam]", "["+rule+"]")
	return w, func(name string) *program {
		return w.join(name, func(o *participant.Options) { o.Policy.Strategies = []string{rule} })
	}
}

// TestLocalRules: under a rule with a part for participants the same records give the same models, in whatever order members come, and
// where the coordinator and members begin again in between; and they are other models than without the rule.
func TestLocalRules(t *testing.T) {
	t.Parallel()
	run := func(t *testing.T, change func(*entry.Plan), order []string, disturb bool) (id entry.Digest) {
		synctest.Test(t, func(t *testing.T) {
			p := plan(t, change)
			w, join := localWorld(t, p.Strategy.Name)
			council, all := w.serve(), map[string]*program{}
			for _, name := range order {
				all[name] = join(name)
			}
			run := w.start(p)
			for n := 1; disturb && n < p.Rounds; n++ {
				w.books["council"].awaitMany(t, n+1, "round closed", "run", run)
				all[order[n]].stop()
				council.stop()
				council = w.serve()
				all[order[n]] = join(order[n])
			}
			id = final(w.completed(run))
		})
		return id
	}
	plain := run(t, locally("fedavg", nil), hospitals, false)
	for name, params := range map[string]map[string]any{
		"fedprox": {"mu": 0.5}, "fednova": {"momentum": 0.5, "mu": 0.1},
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
		w, join := localWorld(t, "fednova")
		w.serve()
		for _, name := range hospitals {
			join(name)
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
