package trainer_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/trainer"
)

// plan is a plan over so many number columns.
func plan(columns int, standardize bool) entry.Plan {
	p := entry.Plan{
		Name: "test", Trainer: trainer.Logistic, Strategy: entry.Strategy{Name: "fedavg"}, Rounds: 5, Quorum: 1, Tries: 1,
		Deadline: minute, MaxAbs: 16, Local: entry.Local{Steps: 1, LearningRate: 0.5},
		Schema: fmt.Appendf(nil, `{"columns": [{"name": "x", "use": "number", "count": %d}, {"name": "y", "use": "label", "above": 0}]}`, columns),
	}
	if standardize {
		p.Standardize = &entry.Standardize{MaxAbs: 1024}
	}
	return p
}

// drawn is a set whose label depends on its columns, the later ones being larger.
func drawn(rows, columns int, seed uint64) *dataset.Set {
	chance := rand.New(rand.NewPCG(seed, 0))
	set := &dataset.Set{Names: make([]string, columns)}
	for i := range rows {
		z := 0.0
		for j := range columns {
			v := chance.NormFloat64() + float64(j)
			z += v - float64(j)
			set.Features = append(set.Features, v)
		}
		label := 0.0
		if z+chance.NormFloat64() > 0 {
			label = 1
		}
		set.Labels, set.Lines = append(set.Labels, label), append(set.Lines, i+1)
	}
	return set
}

// start is a model of the plan with values of every sign in it.
func start(t testing.TB, p entry.Plan) *model.Model {
	t.Helper()
	d, err := trainer.Describe(p)
	if err != nil {
		t.Fatal(err)
	}
	m := &model.Model{Layout: d.Layout, Params: make([]float32, d.Layout.Len())}
	for i := range m.Params {
		m.Params[i] = float32(i%5)/4 - 0.4
	}
	if scale, ok := m.Layout.Slice(m.Params, "standardize.scale"); ok {
		for j := range scale {
			scale[j] = 0.5 + float32(j)
		}
	}
	return m
}

// loss is the penalised mean log loss of a model of params [bias, weights...], as the package's comment gives it.
func loss(m *model.Model, params []float64, set *dataset.Set, l2 float64) float64 {
	mean, standardized := m.Layout.Slice(m.Params, "standardize.mean")
	scale, _ := m.Layout.Slice(m.Params, "standardize.scale")
	total := 0.0
	for i, y := range set.Labels {
		z := params[0]
		for j, x := range set.Row(i) {
			if standardized {
				x = (x - float64(mean[j])) / float64(scale[j])
			}
			z += x * params[1+j]
		}
		p := 1 / (1 + math.Exp(-z))
		total -= y*math.Log(p) + (1-y)*math.Log(1-p)
	}
	total /= float64(set.Rows())
	for _, w := range params[1:] {
		total += l2 / 2 * w * w
	}
	return total
}

// TestGradient compares one step with the loss's difference in each direction.
func TestGradient(t *testing.T) {
	for _, c := range []struct {
		name        string
		standardize bool
		l2          float64
	}{{"plain", false, 0}, {"penalised", false, 0.25}, {"standardised", true, 0}, {"both", true, 0.5}} {
		t.Run(c.name, func(t *testing.T) {
			p := plan(4, c.standardize)
			p.Local.L2 = c.l2
			m, set := start(t, p), drawn(57, 4, 1)
			before := slices.Clone(m.Params)
			update, err := trainer.Train(t.Context(), p, m, set, 1, "north", nil)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(m.Params, before) {
				t.Error("training changed its base")
			}
			params := make([]float64, 5) // bias and weights come first in the layout
			for i := range params {
				params[i] = float64(m.Params[i])
			}
			for i := range params {
				const h = 1e-5
				up, down := slices.Clone(params), slices.Clone(params)
				up[i], down[i] = up[i]+h, down[i]-h
				slope := (loss(m, up, set, c.l2) - loss(m, down, set, c.l2)) / (2 * h)
				if got, want := float64(update[i]), -p.Local.LearningRate*slope; math.Abs(got-want) > 1e-6*(1+math.Abs(want)) {
					t.Errorf("parameter %d moves by %v, want %v", i, got, want)
				}
			}
			for i, v := range update[5:] {
				if v != 0 {
					t.Errorf("value %d of the tensors of standardising moves by %v, want 0", i, v)
				}
			}
		})
	}
}

// train trains from zero, where all there is to see is the order of the rows.
func train(t *testing.T, p entry.Plan, set *dataset.Set, round int, member string) []float32 {
	t.Helper()
	m, err := trainer.Initial(p, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	u, err := trainer.Train(t.Context(), p, m, set, round, member, nil)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// units is a set of n records, of which record i has column i alone: a weight moves when its record is used.
func units(n int) *dataset.Set {
	set := &dataset.Set{Names: make([]string, n), Features: make([]float64, n*n), Labels: make([]float64, n)}
	for i := range n {
		set.Features[i*n+i] = 1
		set.Labels[i] = float64(i % 2)
	}
	return set
}

// used returns which records a training of units has used.
func used(u []float32) []int {
	var at []int
	for i, w := range u[1:] {
		if w != 0 {
			at = append(at, i)
		}
	}
	return at
}

// TestBatches: each pass uses every record once, in batches of the plan's size, the last one shorter.
func TestBatches(t *testing.T) {
	const n = 10
	p := plan(n, false)
	p.Local.Batch = 3
	for steps, want := range map[int]int{1: 3, 2: 6, 3: 9, 4: 10, 5: 10} {
		p.Local.Steps = steps
		if got := used(train(t, p, units(n), 1, "north")); len(got) != want {
			t.Errorf("after %d steps %d records are used, want %d", steps, len(got), want)
		}
	}
	// A batch of one, as many steps as records: nothing is used twice, so every weight has moved by about half the rate.
	p.Local.Batch, p.Local.Steps, p.Local.LearningRate = 1, n, 1e-3
	for i, w := range train(t, p, units(n), 1, "north")[1:] {
		if math.Abs(math.Abs(float64(w))-0.5e-3) > 1e-5 {
			t.Errorf("weight %d moves by %v, want about 0.0005 either way", i, w)
		}
	}
	p.Local.Steps = 2 * n
	for i, w := range train(t, p, units(n), 1, "north")[1:] {
		if math.Abs(math.Abs(float64(w))-1e-3) > 2e-5 {
			t.Errorf("weight %d moves by %v in two passes, want about 0.001 either way", i, w)
		}
	}
}

// TestBatchOrder: the order comes from seed, round and member, and is new for each pass; nothing else matters.
func TestBatchOrder(t *testing.T) {
	const n = 40
	p := plan(n, false)
	p.Local.Batch, p.Seed = 5, 7
	first := used(train(t, p, units(n), 3, "north"))
	if again := used(train(t, p, units(n), 3, "north")); !slices.Equal(again, first) {
		t.Errorf("the same round uses %v, then %v, want the same records", first, again)
	}
	other := p
	other.Seed, other.Name, other.Rounds = 8, "another", 9
	for name, got := range map[string][]int{
		"another round": used(train(t, p, units(n), 4, "north")), "another member": used(train(t, p, units(n), 3, "south")),
		"another seed": used(train(t, other, units(n), 3, "north")), "round and member run together": used(train(t, p, units(n), 0, "\x03north")),
	} {
		if slices.Equal(got, first) {
			t.Errorf("%s: uses the same records %v", name, got)
		}
	}
	other.Seed = 7
	if got := used(train(t, other, units(n), 3, "north")); !slices.Equal(got, first) {
		t.Errorf("another name of the plan uses %v, want %v", got, first)
	}
	// Records used in the first step of the second pass are those whose weights have moved twice.
	p.Local.Steps, p.Local.LearningRate = n/5+1, 1e-3
	var second []int
	for i, w := range train(t, p, units(n), 3, "north")[1:] {
		if math.Abs(float64(w)) > 1.5e-4 {
			second = append(second, i)
		}
	}
	if len(second) != 5 || slices.Equal(second, first) {
		t.Errorf("the second pass begins with %v, the first with %v, want five others", second, first)
	}
}

// TestFullBatch: with all rows in each step, round, member and seed change nothing.
func TestFullBatch(t *testing.T) {
	set := drawn(30, 3, 2)
	p := plan(3, false)
	p.Local.Steps = 4
	want := train(t, p, set, 1, "north")
	for _, batch := range []int{0, 30, 31, dataset.MaxRows} {
		p.Local.Batch, p.Seed = batch, uint64(batch)
		if got := train(t, p, set, 2, "south"); !slices.Equal(got, want) {
			t.Errorf("batch %d: update %v, want %v", batch, got, want)
		}
	}
	p.Local.Batch = 29
	if got := train(t, p, set, 2, "south"); slices.Equal(got, want) {
		t.Error("batch 29 of 30: the same update as with all rows")
	}
}

func TestTrainRefuses(t *testing.T) {
	p, set := plan(3, true), drawn(20, 3, 3)
	base := start(t, p)
	other := plan(3, false)
	alter := func(change func(m *model.Model)) *model.Model {
		m := &model.Model{Layout: slices.Clone(base.Layout), Params: slices.Clone(base.Params)}
		change(m)
		return m
	}
	fast := p
	fast.Local.LearningRate, fast.Local.Steps, fast.Local.L2 = 1e6, 3, 0
	huge := drawn(20, 3, 3)
	huge.Features[4] = 1e308
	for _, c := range []struct {
		name string
		plan entry.Plan
		base *model.Model
		set  *dataset.Set
		want string
	}{
		{"no plan", entry.Plan{}, base, set, "plan: "},
		{"model of another plan", other, base, set, `model has other tensors than the plan "test" asks for`},
		{"too few values", p, alter(func(m *model.Model) { m.Params = m.Params[1:] }), set, "model has 9 values, its layout 10"},
		{"scale 0", p, alter(func(m *model.Model) { m.Params[8] = 0 }), set, "value 1 of tensor standardize.scale is no scale"},
		{"scale NaN", p, alter(func(m *model.Model) { m.Params[9] = float32(math.NaN()) }), set, "value 2 of tensor standardize.scale is no scale"},
		{"scale infinite", p, alter(func(m *model.Model) { m.Params[7] = float32(math.Inf(1)) }), set, "value 0 of tensor standardize.scale is no scale"},
		{"no records", p, base, &dataset.Set{Names: make([]string, 3)}, "no record to train on"},
		{"records of other columns", p, base, drawn(20, 4, 1), "records have 4 features, the model 3"},
		{"training that diverges", fast, base, set, "training diverged, or max_abs is too small"},
		{"records that are too large", p, base, huge, "training diverged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u, err := trainer.Train(t.Context(), c.plan, c.base, c.set, 1, "north", nil)
			if err == nil || !strings.Contains(err.Error(), c.want) || u != nil {
				t.Errorf("Train = %v, %v, want an error with %q alone", u, err, c.want)
			}
		})
	}
}

// TestTrainFar: chances so near 0 and 1 that nothing is left to learn are no fault.
func TestTrainFar(t *testing.T) {
	p := plan(1, false)
	m := start(t, p)
	m.Params[0], m.Params[1] = 0, 1000
	set := &dataset.Set{Names: make([]string, 1), Features: []float64{5, -5}, Labels: []float64{1, 0}}
	u, err := trainer.Train(t.Context(), p, m, set, 1, "north", nil)
	if err != nil || u[0] != 0 || u[1] != 0 {
		t.Errorf("Train = %v, %v, want no move", u, err)
	}
}

// TestTrainStops ends soon after its context, with the reason.
func TestTrainStops(t *testing.T) {
	p := plan(3, false)
	p.Local.Steps = 1 << 20
	m, err := trainer.Initial(p, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("the round is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := trainer.Train(ctx, p, m, drawn(10, 3, 1), 4, "north", nil); !errors.Is(err, why) || !strings.HasPrefix(err.Error(), "training round 4: ") {
		t.Errorf("Train = %v, want %q of round 4", err, why)
	}
}

// TestProximal: the term draws every parameter towards the base, the bias too.
func TestProximal(t *testing.T) {
	p, set := plan(3, false), drawn(40, 3, 2)
	p.Local.Steps = 50
	m := start(t, p)
	length := func(rule entry.Strategy) []float64 {
		p.Strategy = rule
		u, err := trainer.Train(t.Context(), p, m, set, 1, "north", nil)
		if err != nil {
			t.Fatal(err)
		}
		all := make([]float64, len(u))
		for i, v := range u {
			all[i] = math.Abs(float64(v))
		}
		return all
	}
	free, zero, held := length(entry.Strategy{Name: "fedavg"}), length(prox(0)), length(prox(2))
	if !slices.Equal(free, zero) {
		t.Errorf("with mu 0 it moves by %v, want %v as without", zero, free)
	}
	for i := range free {
		if held[i] >= free[i] {
			t.Errorf("parameter %d moves by %v, without the term by %v", i, held[i], free[i])
		}
	}
}

// TestNormalized: FedNova's update is the way divided by the weight of its gradients.
func TestNormalized(t *testing.T) {
	p, set := plan(3, false), drawn(40, 3, 2)
	p.Local = entry.Local{Epochs: 2, Batch: 7, LearningRate: 0.125} // 12 steps
	m := start(t, p)
	way, err := trainer.Train(t.Context(), p, m, set, 1, "north", nil)
	if err != nil {
		t.Fatal(err)
	}
	p.Strategy.Name = "fednova"
	taken := 0
	got, err := trainer.Train(t.Context(), p, m, set, 1, "north", func(done int) { taken = done })
	if err != nil {
		t.Fatal(err)
	}
	if taken != 12 {
		t.Errorf("%d steps, want 12", taken)
	}
	for i, v := range got {
		if want := float64(way[i]) / 12; math.Abs(float64(v)-want) > 1e-7 {
			t.Errorf("value %d is %v, want %v", i, v, want)
		}
	}
}

// TestScale: the mean of a round is multiplied by the mean number of steps, where a rule asks for it.
func TestScale(t *testing.T) {
	p := plan(3, false)
	p.Local = entry.Local{Epochs: 1, Batch: 10, LearningRate: 0.125}
	for rule, want := range map[string]float64{"fedavg": 1, "fedprox": 1, "fednova": (30.0*3 + 10*1) / 40} {
		p.Strategy.Name = rule
		scale, err := trainer.Scale(p, []int64{30, 10}, 2)
		if err != nil {
			t.Fatal(err)
		}
		mean := []float64{1, -2}
		scale(2, mean)
		if mean[0] != want || mean[1] != -2*want {
			t.Errorf("%s: the mean becomes %v, want %v times", rule, mean, want)
		}
	}
}

// TestControlled: a step is corrected by everybody's control variate less the own, and what becomes of the own is the mean gradient on the way,
// or that at the base.
func TestControlled(t *testing.T) {
	const n, rate = 4, 0.5 // bias and three weights
	set := drawn(40, 3, 2)
	p := plan(3, true)
	m := start(t, p)
	gradient := make([]float64, n)
	u, err := trainer.Train(t.Context(), p, m, set, 1, "north", nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range gradient {
		gradient[i] = -float64(u[i]) / rate
	}
	for _, c := range []struct {
		option string
		steps  int
	}{{"II", 1}, {"I", 1}, {"I", 7}, {"II", 7}} {
		p.Strategy = entry.Strategy{Name: "scaffold", Params: map[string]any{"option": c.option}}
		p.Local.Steps = c.steps
		d, err := trainer.Describe(p)
		if err != nil {
			t.Fatal(err)
		}
		if d.Control != n || d.Layout.Len() != len(m.Params)+n {
			t.Fatalf("%d control variates in a model of %d, want %d more than the %d of before", d.Control, d.Layout.Len(), n, len(m.Params))
		}
		base := &model.Model{Layout: d.Layout, Params: append([]float32{0.25, -0.5, 0.125, 1}, m.Params...)}
		own := []float64{1, -0.25, 0.5, 0}
		got, next, err := trainer.TrainCarrying(t.Context(), p, base, trainer.Carried{Control: own}, set, 1, "north", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := (aggregate.Spec{Ranges: d.Training}).Check(got); err != nil {
			t.Error(err)
		}
		for i := range n {
			all := float64(base.Params[i])
			want := -all - float64(got[n+i])/(rate*float64(c.steps)) // option II, less own
			if c.option == "I" {
				want = gradient[i] - own[i]
			}
			if math.Abs(float64(got[i])-want) > 1e-5 {
				t.Errorf("option %s, %d steps: variate %d changes by %v, want %v", c.option, c.steps, i, got[i], want)
			}
			if want := -rate * (gradient[i] - own[i] + all); c.steps == 1 && math.Abs(float64(got[n+i])-want) > 1e-5 {
				t.Errorf("parameter %d moves by %v, want %v", i, got[n+i], want)
			}
		}
		p.Encoding = "bf16"
		coarse, rounded, err := trainer.TrainCarrying(t.Context(), p, base, trainer.Carried{Control: own}, set, 1, "north", nil)
		if p.Encoding = ""; err != nil || slices.Equal(coarse, got) {
			t.Errorf("a coarser update: %v, %v", coarse, err)
		}
		_, first, err := trainer.TrainCarrying(t.Context(), p, base, trainer.Carried{}, set, 1, "north", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, zero, err := trainer.TrainCarrying(t.Context(), p, base, trainer.Carried{Control: make([]float64, n)}, set, 1, "north", nil)
		if err != nil || !slices.Equal(first.Control, zero.Control) {
			t.Errorf("from nothing the variate becomes %v, and from zeros %v, %v", first.Control, zero.Control, err)
		}
		for i := range own {
			if v := next.Control[i]; v != own[i]+float64(got[i]) {
				t.Errorf("the variate becomes %v, want %v as the update says", v, own[i]+float64(got[i]))
			}
			if v := rounded.Control[i]; v != own[i]+float64(coarse[i]) {
				t.Errorf("the variate becomes %v, want %v as the coarser update says", v, own[i]+float64(coarse[i]))
			}
		}
		if _, _, err := trainer.TrainCarrying(t.Context(), p, base, trainer.Carried{Control: own[:n-1]}, set, 1, "north", nil); err == nil {
			t.Error("a variate of another length is taken")
		}
	}
	p.Strategy = entry.Strategy{Name: "fedavg"}
	if _, next, err := trainer.TrainCarrying(t.Context(), p, m, trainer.Carried{Control: []float64{1}}, set, 1, "north", nil); next.Control != nil || err != nil {
		t.Errorf("without control variates: %v, %v, want none", next, err)
	}
}

// TestScaleControls: a block of the mean may begin and end anywhere.
func TestScaleControls(t *testing.T) {
	p := plan(3, false)
	p.Strategy = entry.Strategy{Name: "scaffold", Params: map[string]any{"learning_rate": 0.5}}
	scale, err := trainer.Scale(p, []int64{30, 10, 5}, 4)
	if err != nil {
		t.Fatal(err)
	}
	want := []float64{0.75, 0.75, 0.75, 0.75, 0.5, 0.5, 0.5, 0.5} // three of four, and the rate
	for size := 1; size <= len(want); size++ {
		mean := []float64{1, 1, 1, 1, 1, 1, 1, 1}
		for lo := 0; lo < len(mean); lo += size {
			scale(lo, mean[lo:min(lo+size, len(mean))])
		}
		if !slices.Equal(mean, want) {
			t.Errorf("in blocks of %d the mean becomes %v, want %v", size, mean, want)
		}
	}
}
