package internal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/aggregate"
)

// golden is a file of expected numbers. Its definition is what the code has to follow; an unknown key is an error of the test.
type golden[Input, Params, Expected any] struct {
	Algorithm  string `json:"algorithm"`
	Paper      string `json:"paper"`
	Definition string `json:"definition"`
	Cases      []struct {
		Name      string    `json:"name"`
		Input     Input     `json:"input"`
		Params    Params    `json:"params"`
		Expected  Expected  `json:"expected"`
		Tolerance tolerance `json:"tolerance"`
		Note      string    `json:"note"`
	} `json:"cases"`
}

// readGolden reads a file of CONSILIUM_GOLDEN into g.
func readGolden(t *testing.T, file string, g any) {
	t.Helper()
	dir := os.Getenv("CONSILIUM_GOLDEN")
	if dir == "" {
		t.Skipf("CONSILIUM_GOLDEN is not set: the folder with %s", file)
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(g); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if _, err := d.Token(); err != io.EOF {
		t.Fatalf("%s: goes on behind its end", file)
	}
}

// number is a number that may also be "NaN", "Infinity" or "-Infinity".
type number float64

func (n *number) UnmarshalJSON(text []byte) error {
	switch string(text) {
	case `"NaN"`:
		*n = number(math.NaN())
	case `"Infinity"`:
		*n = number(math.Inf(1))
	case `"-Infinity"`:
		*n = number(math.Inf(-1))
	default:
		var v float64
		if err := json.Unmarshal(text, &v); err != nil {
			return err
		}
		*n = number(v)
	}
	return nil
}

// float32s returns numbers as an update holds them.
func float32s(v []number) []float32 {
	x := make([]float32, len(v))
	for i, n := range v {
		x[i] = float32(n)
	}
	return x
}

// tolerance says how far a number may be off: |v - e| <= abs + rel*|e|.
type tolerance struct {
	Abs float64 `json:"abs"`
	Rel float64 `json:"rel"`
}

func (tol tolerance) check(t *testing.T, what string, got []float64, want []number) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s has %d values, want %d", what, len(got), len(want))
		return
	}
	for i, v := range got {
		if e := float64(want[i]); !(math.Abs(v-e) <= tol.Abs+tol.Rel*math.Abs(e)) {
			t.Errorf("%s[%d] = %v, want %v", what, i, v, e)
		}
	}
}

func widen(v []float32) []float64 {
	x := make([]float64, len(v))
	for i, n := range v {
		x[i] = float64(n)
	}
	return x
}

func optimizer(t *testing.T, name string, params map[string]float64) aggregate.Optimizer {
	t.Helper()
	o, err := aggregate.NewOptimizer(name, params)
	if err != nil {
		t.Fatal(err)
	}
	return o
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

func TestGoldenFedAvg(t *testing.T) {
	var g golden[fedAvgInput, fedAvgParams, fedAvgExpected]
	readGolden(t, "fedavg.json", &g)
	means := map[string][]float64{}
	for _, c := range g.Cases {
		t.Run(c.Name, func(t *testing.T) {
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
			optimizer(t, "fedavg", map[string]float64{"learning_rate": c.Params.ServerLR}).Step(global, global, mean, nil)
			c.Tolerance.check(t, "global", widen(global), c.Expected.Global)
			means[c.Name] = mean
		})
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

type fedAdamInput struct {
	Global      []number   `json:"global"`
	MeanUpdates [][]number `json:"mean_updates"`
}

type fedAdamParams struct {
	ServerLR       float64 `json:"server_lr"`
	Beta1          float64 `json:"beta1"`
	Beta2          float64 `json:"beta2"`
	Tau            float64 `json:"tau"`
	InitV          string  `json:"init_v"`
	BiasCorrection string  `json:"bias_correction"`
}

type fedAdamExpected struct {
	Rounds []struct {
		Global []number `json:"global"`
		M      []number `json:"m"`
		V      []number `json:"v"`
	} `json:"rounds"`
}

func TestGoldenFedAdam(t *testing.T) {
	var g golden[fedAdamInput, fedAdamParams, fedAdamExpected]
	readGolden(t, "fedadam.json", &g)
	for _, c := range g.Cases {
		t.Run(c.Name, func(t *testing.T) {
			if c.Params.BiasCorrection != "none" {
				t.Skipf("bias correction %q: the strategy corrects no bias, as in the paper", c.Params.BiasCorrection)
			}
			params := map[string]float64{
				"learning_rate": c.Params.ServerLR, "beta1": c.Params.Beta1, "beta2": c.Params.Beta2, "tau": c.Params.Tau,
			}
			switch c.Params.InitV {
			case "tau2": // the default
			case "zero":
				params["initial_v"] = 0
			default:
				t.Fatalf("init_v %q is unknown", c.Params.InitV)
			}
			if len(c.Expected.Rounds) == 0 || len(c.Expected.Rounds) != len(c.Input.MeanUpdates) {
				t.Fatalf("%d mean updates and %d rounds", len(c.Input.MeanUpdates), len(c.Expected.Rounds))
			}
			o, global := optimizer(t, "fedadam", params), float32s(c.Input.Global)
			state := make([]float64, o.StateLen(len(global)))
			for i, want := range c.Expected.Rounds {
				mean := make([]float64, len(global))
				for j, v := range c.Input.MeanUpdates[i] {
					mean[j] = float64(v)
				}
				o.Step(global, global, mean, state)
				c.Tolerance.check(t, fmt.Sprintf("round %d: global", i+1), widen(global), want.Global)
				c.Tolerance.check(t, fmt.Sprintf("round %d: m", i+1), every(state, 0, 2), want.M)
				c.Tolerance.check(t, fmt.Sprintf("round %d: v", i+1), every(state, 1, 2), want.V)
			}
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
