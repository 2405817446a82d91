package internal_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/aggregate"
)

// strategy returns a strategy that there is.
func strategy(t *testing.T, name string, params map[string]any) aggregate.Strategy {
	t.Helper()
	s, err := aggregate.NewStrategy(name, params)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// client is a participant of a case; update is what it has less what it got.
type client struct {
	ID     string   `json:"id"`
	Weight number   `json:"weight"`
	Update []number `json:"update"`
}

type rejection struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

type fedAvgInput struct {
	Global  []number `json:"global"`
	Clients []client `json:"clients"`
}

type fedAvgParams struct {
	ServerLR  float64  `json:"server_lr"`
	Weighting string   `json:"weighting"`
	MaxAbs    *float64 `json:"max_abs"`
}

type fedAvgExpected struct {
	Accepted    []string    `json:"accepted"`
	Rejected    []rejection `json:"rejected"`
	TotalWeight float64     `json:"total_weight"`
	MeanUpdate  []number    `json:"mean_update"`
	Global      []number    `json:"global"`
	Error       string      `json:"error"`
}

type fedAvgSample = sample[fedAvgInput, fedAvgParams, fedAvgExpected]

func fedAvgCase(t *testing.T, c fedAvgSample) {
	accepted, rejected := admit(t, c.Input, c.Params)
	if diff := cmp.Diff(rejected, append([]rejection{}, c.Expected.Rejected...)); diff != "" {
		t.Errorf("rejected (-got +want):\n%s", diff)
	}
	mean, total, err := meanOf(accepted, len(c.Input.Global), c.Params)
	if c.Expected.Error != "" {
		if c.Expected.Error != "no_updates" || !errors.Is(err, errNoUpdates) || len(accepted) > 0 {
			t.Errorf("mean of %d updates: %v, want %s", len(accepted), err, c.Expected.Error)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, a := range accepted {
		ids = append(ids, a.ID)
	}
	if !slices.Equal(ids, c.Expected.Accepted) {
		t.Errorf("accepted = %v, want %v", ids, c.Expected.Accepted)
	}
	c.Tolerance.check(t, "total_weight", []float64{total}, []number{number(c.Expected.TotalWeight)})
	c.Tolerance.check(t, "mean_update", mean, c.Expected.MeanUpdate)
	global := float32s(c.Input.Global)
	strategy(t, "fedavg", map[string]any{"learning_rate": c.Params.ServerLR}).Optimizer(1).Step(global, global, mean, nil)
	c.Tolerance.check(t, "global", widen(global), c.Expected.Global)
}

// fedAvgSameBits: the clients of basic in another order give the same bits.
func fedAvgSameBits(t *testing.T, all []fedAvgSample) {
	means := map[string][]float64{}
	for _, c := range all {
		if c.Name == "basic" || c.Name == "permuted" {
			accepted, _ := admit(t, c.Input, c.Params)
			means[c.Name], _, _ = meanOf(accepted, len(c.Input.Global), c.Params)
		}
	}
	if basic := means["basic"]; len(basic) == 0 || !slices.Equal(means["permuted"], basic) {
		t.Errorf("permuted has the mean %x, want the bits of basic, %x", means["permuted"], basic)
	}
}

// admit judges a case's updates as the product does: their values by Spec.Check; weights, which the round declares, here.
func admit(t *testing.T, in fedAvgInput, p fedAvgParams) (accepted []client, rejected []rejection) {
	t.Helper()
	maxAbs := 0x1p127
	if p.MaxAbs != nil {
		maxAbs = *p.MaxAbs
	}
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: len(in.Global), MaxAbs: maxAbs}}}
	rejected = []rejection{}
	for _, c := range in.Clients {
		var e *aggregate.ValueError
		switch err := spec.Check(float32s(c.Update)); {
		case err != nil && !errors.As(err, &e):
			t.Fatal(err)
		case err != nil && e.Reason == aggregate.Shape:
			rejected = append(rejected, rejection{c.ID, "shape"})
		case !(c.Weight > 0 && !math.IsInf(float64(c.Weight), 1)):
			rejected = append(rejected, rejection{c.ID, "weight"})
		case err != nil:
			rejected = append(rejected, rejection{c.ID, string(e.Reason)})
		default:
			accepted = append(accepted, c)
		}
	}
	return accepted, rejected
}

var errNoUpdates = errors.New("no round can be summed")

// meanOf returns the weighted mean of n values and the weight behind it. Where a case sets no bound, the largest value does.
func meanOf(all []client, n int, p fedAvgParams) (mean []float64, total float64, err error) {
	maxAbs := 0x1p-126
	for i := range all {
		if p.Weighting == "uniform" {
			all[i].Weight = 1
		}
		total += float64(all[i].Weight)
		for _, v := range all[i].Update {
			maxAbs = max(maxAbs, math.Abs(float64(v)))
		}
	}
	if p.MaxAbs != nil {
		maxAbs = *p.MaxAbs
	}
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: maxAbs}}, Weights: declared(total)}
	sum, err := aggregate.NewSum(spec)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %v", errNoUpdates, err)
	}
	for _, c := range all {
		sum.AddWeight(float64(c.Weight))
		sum.Add(0, float32s(c.Update), float64(c.Weight))
	}
	mean = make([]float64, n)
	sum.Mean(0, mean)
	return mean, total, nil
}

// declared returns whole weights of which the total is part, since some cases have weights that are not whole, or larger than
// a round's.
func declared(total float64) []int64 {
	var w []int64
	for left := int64(math.Ceil(total)); left > 0; left -= w[len(w)-1] {
		w = append(w, min(left, aggregate.MaxWeight))
	}
	return w
}

// roundsInput is a model and one mean update a round.
type roundsInput struct {
	Global      []number   `json:"global"`
	MeanUpdates [][]number `json:"mean_updates"`
}

// steps goes through the rounds of a case by a strategy, and has each judged with the model and the state behind it.
func steps(t *testing.T, s aggregate.Strategy, in roundsInput, want int, judge func(i int, global, state []float64)) {
	t.Helper()
	if len(in.MeanUpdates) == 0 || len(in.MeanUpdates) != want {
		t.Fatalf("%d mean updates and %d rounds", len(in.MeanUpdates), want)
	}
	global := float32s(in.Global)
	state := make([]float64, s.Optimizer(1).StateLen(len(global)))
	for i, mean := range in.MeanUpdates {
		s.Optimizer(i+1).Step(global, global, float64s(mean), state)
		judge(i, widen(global), state)
	}
}

type fedAvgMParams struct {
	ServerLR float64 `json:"server_lr"`
	Momentum float64 `json:"momentum"`
	Nesterov bool    `json:"nesterov"`
}

type fedAvgMExpected struct {
	Rounds []struct {
		Global   []number `json:"global"`
		Velocity []number `json:"velocity"`
	} `json:"rounds"`
}

func fedAvgMCase(t *testing.T, c sample[roundsInput, fedAvgMParams, fedAvgMExpected]) {
	s := strategy(t, "fedavgm", map[string]any{
		"learning_rate": c.Params.ServerLR, "momentum": c.Params.Momentum, "nesterov": c.Params.Nesterov,
	})
	steps(t, s, c.Input, len(c.Expected.Rounds), func(i int, global, state []float64) {
		c.Tolerance.check(t, fmt.Sprintf("round %d: global", i+1), global, c.Expected.Rounds[i].Global)
		c.Tolerance.check(t, fmt.Sprintf("round %d: velocity", i+1), state, c.Expected.Rounds[i].Velocity)
	})
}

type adaptiveParams struct {
	ServerLR       float64 `json:"server_lr"`
	Beta1          float64 `json:"beta1"`
	Beta2          float64 `json:"beta2"`
	Tau            float64 `json:"tau"`
	InitV          string  `json:"init_v"`
	BiasCorrection string  `json:"bias_correction"`
}

type adaptiveExpected struct {
	Rounds []struct {
		Global []number `json:"global"`
		M      []number `json:"m"`
		V      []number `json:"v"`
	} `json:"rounds"`
}

// adaptiveCase holds FedAdam, FedYogi and FedAdagrad, whose files have one shape.
func adaptiveCase(name string) func(*testing.T, sample[roundsInput, adaptiveParams, adaptiveExpected]) {
	return func(t *testing.T, c sample[roundsInput, adaptiveParams, adaptiveExpected]) {
		params := map[string]any{
			"learning_rate": c.Params.ServerLR, "beta1": c.Params.Beta1, "beta2": c.Params.Beta2, "tau": c.Params.Tau,
			"bias_correction": c.Params.BiasCorrection,
		}
		switch c.Params.InitV {
		case "tau2": // the default
		case "zero":
			params["initial_v"] = 0.0
		default:
			t.Fatalf("init_v %q is unknown", c.Params.InitV)
		}
		steps(t, strategy(t, name, params), c.Input, len(c.Expected.Rounds), func(i int, global, state []float64) {
			want := c.Expected.Rounds[i]
			c.Tolerance.check(t, fmt.Sprintf("round %d: global", i+1), global, want.Global)
			c.Tolerance.check(t, fmt.Sprintf("round %d: m", i+1), every(state, 0, 2), want.M)
			c.Tolerance.check(t, fmt.Sprintf("round %d: v", i+1), every(state, 1, 2), want.V)
		})
	}
}

// every returns each step-th value from the first on.
func every(v []float64, first, step int) []float64 {
	var x []float64
	for i := first; i < len(v); i += step {
		x = append(x, v[i])
	}
	return x
}
