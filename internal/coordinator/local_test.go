package coordinator_test

import (
	"cmp"
	"math"
	"slices"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
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
	plain := lastModel(t, plan(t, locally("fedavg", nil)), hospitals, false)
	for name, params := range map[string]map[string]any{
		"fedprox": {"mu": 0.5}, "fednova": {"momentum": 0.5, "mu": 0.1}, "scaffold": nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backwards := slices.Clone(hospitals)
			slices.Reverse(backwards)
			want := lastModel(t, plan(t, locally(name, params)), hospitals, false)
			if got := lastModel(t, plan(t, locally(name, params)), backwards, true); got != want {
				t.Errorf("model %s, want %s as undisturbed", got, want)
			}
			if want == plain {
				t.Error("the model is that of fedavg")
			}
		})
	}
}

// lastModel returns the last model of a run; where asked for, the coordinator and one member after the other begin again between rounds.
func lastModel(t *testing.T, p entry.Plan, order []string, disturb bool) (id entry.Digest) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
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
		v := w.comingAndGoing(p)

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
				u, _, err := trainer.TrainCarrying(t.Context(), p, x, trainer.Carried{Control: own[name]}, train, round, name, nil)
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
		w.carriesNothing()
	})
}

// TestUnsent follows a run whose members send three values of their updates and the others later, some of them away for a while. What a member sends
// is what is largest of its training and of what it has not sent so far, where an update that no round was closed with counts for nothing.
func TestUnsent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		p := plan(t, func(p *entry.Plan) { p.Quorum, p.Rounds, p.Encoding, p.TopK = 3, 6, "top-k", 0.2 })
		whole := p
		whole.Encoding, whole.TopK = "", 0
		v := w.comingAndGoing(p)

		x := w.model(entry.Digest(v.Rounds[0].Model))
		unsent := map[string][]float64{}
		away, later := 0, 0
		for _, c := range only[entry.RoundClosed](w.facts())[1:] {
			sum, rows := make([]float64, len(x.Params)), 0.0
			for _, m := range c.Members {
				name := string(m.Member)
				train := trainingSet(t, p.Schema, name)
				u, err := trainer.Train(t.Context(), whole, x, train, c.Round, name, nil)
				if err != nil {
					t.Fatal(err)
				}
				if unsent[name] == nil {
					unsent[name] = make([]float64, len(u))
				}
				order := make([]int, len(u))
				for i := range u {
					unsent[name][i] = float64(float32(unsent[name][i] + float64(u[i])))
					order[i] = i
				}
				slices.SortStableFunc(order, func(a, b int) int {
					return -cmp.Compare(math.Abs(unsent[name][a]), math.Abs(unsent[name][b]))
				})
				for _, i := range order[:3] {
					if unsent[name][i] != float64(u[i]) {
						later++
					}
					sum[i] += float64(train.Rows()) * unsent[name][i]
					unsent[name][i] = 0
				}
				rows += float64(train.Rows())
			}
			away += len(hospitals) - len(c.Members)
			got := w.model(entry.Digest(v.Rounds[c.Round].Model))
			for i := range sum {
				want := float64(x.Params[i]) + sum[i]/rows
				if math.Abs(float64(got.Params[i])-want) > 1e-6*math.Max(1, math.Abs(want)) {
					t.Errorf("round %d, value %d is off by %g", c.Round, i, float64(got.Params[i])-want)
				}
			}
			x = got
		}
		if away == 0 || later == 0 {
			t.Errorf("%d times a member is away, and %d values are sent later: nothing is shown of those", away, later)
		}
		w.carriesNothing()
	})
}

// comingAndGoing follows a run of six rounds to its end, to whose first one member does not come, and where others are away later.
func (w *world) comingAndGoing(p entry.Plan) *pb.ShowReply {
	t := w.t
	t.Helper()
	late := w.join("longbeach")
	run := w.start(p)
	w.books["council"].await(t, "consented", "run", run) // whose answer may come after the news of it, and then longbeach does not say so
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
	return w.completed(run)
}

// carriesNothing checks that what members carried from one round to the next is gone with the run.
func (w *world) carriesNothing() {
	w.t.Helper()
	for _, name := range hospitals {
		for object, err := range w.disks[name].List(w.t.Context(), "carried/") {
			w.t.Errorf("%s still keeps %s: %v", name, object, err)
		}
	}
}
