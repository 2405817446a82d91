package aggregate_test

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/aggregate"
)

// strategy returns a strategy that there is.
func strategy(t testing.TB, name string, params map[string]any) aggregate.Strategy {
	t.Helper()
	s, err := aggregate.NewStrategy(name, params)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// optimizer returns how a strategy steps in the first round.
func optimizer(t testing.TB, name string, params map[string]any) aggregate.Optimizer {
	t.Helper()
	return strategy(t, name, params).Optimizer(1)
}

func TestNewStrategyRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		params map[string]any
		want   string
	}{
		{"", nil, "unknown"},
		{"FedAvg", nil, "unknown"},
		{"mediane", nil, `"mediane" is unknown, want one of `},
		{"fedavg", map[string]any{"momentum": 0.9}, `strategy fedavg has no parameter "momentum", only learning_rate`},
		{"fedavg", map[string]any{"learning_rate": 0.0}, "parameter learning_rate of strategy fedavg is 0, want 5e-324 to 1e+06"},
		{"fedavg", map[string]any{"learning_rate": -1.0}, "learning_rate"},
		{"fedavg", map[string]any{"learning_rate": math.NaN()}, "learning_rate"},
		{"fedavg", map[string]any{"learning_rate": math.Inf(1)}, "learning_rate"},
		{"fedavg", map[string]any{"learning_rate": "fast"}, `learning_rate of strategy fedavg is "fast"`},
		{"fedavg", map[string]any{"learning_rate": true}, "learning_rate of strategy fedavg is true"},
		{"fedavg", map[string]any{"learning_rate": nil}, "learning_rate of strategy fedavg is <nil>"},
		{"fedavg", map[string]any{"learning_rate": []any{1.0}}, "learning_rate of strategy fedavg is [1]"},
		{"fedavgm", map[string]any{"momentum": 1.0}, "momentum"},
		{"fedavgm", map[string]any{"nesterov": 1.0}, "nesterov of strategy fedavgm is 1, want true or false"},
		{"fedadam", map[string]any{"beta1": 1.0}, "beta1"},
		{"fedadam", map[string]any{"beta2": -0.1}, "beta2"},
		{"fedadam", map[string]any{"beta2": 1.0}, "beta2"},
		{"fedadam", map[string]any{"tau": 0.0}, "tau"},
		{"fedadam", map[string]any{"initial_v": -1.0}, "initial_v"},
		{"fedadam", map[string]any{"beta3": 0.5}, "no parameter"},
		{"fedadam", map[string]any{"beta1": 2.0, "beta3": 0.5}, "no parameter"}, // the name before the value
		{"fedyogi", map[string]any{"bias_correction": "flour"}, `bias_correction of strategy fedyogi is "flour", want none or adam or flower`},
		{"trimmed-mean", map[string]any{"share": 0.5}, "parameter share of strategy trimmed-mean is 0.5, want 0 to 0.4999"},
		{"trimmed-mean", map[string]any{"share": -0.1}, "share"},
		{"krum", map[string]any{"attackers": 1.5}, "parameter attackers of strategy krum is 1.5, want a whole number"},
		{"krum", map[string]any{"attackers": -1.0}, "attackers"},
		{"krum", map[string]any{"keep": 2.0}, "no parameter"},
		{"multi-krum", map[string]any{"average": "records"}, "average of strategy multi-krum is \"records\", want uniform or examples"},
		{"bulyan", map[string]any{"selection": "krum"}, "selection"},
		{"geometric-median", map[string]any{"smoothing": 0.0}, "smoothing"},
		{"geometric-median", map[string]any{"iterations": 10001.0}, "iterations"},
		{"centered-clipping", nil, "strategy centered-clipping needs the parameter radius, a number"},
		{"centered-clipping", map[string]any{"radius": 0.0}, "radius"},
		{"centered-clipping", map[string]any{"radius": 1.0, "iterations": 0.0}, "iterations"},
		{"fltrust", nil, "strategy fltrust needs the parameter reference, a text"},
		{"fltrust", map[string]any{"reference": ""}, `parameter reference of strategy fltrust is "", want a text`},
		{"norm-clipping", nil, "strategy norm-clipping needs the parameter max_norm"},
		{"norm-clipping", map[string]any{"max_norm": math.Inf(1)}, "max_norm"},
		{"fedbuff", nil, "strategy fedbuff needs the parameter buffer_size, a number"},
		{"fedbuff", map[string]any{"buffer_size": 0.0}, "parameter buffer_size of strategy fedbuff is 0, want 1 to"},
		{"fedbuff", map[string]any{"buffer_size": 2.5}, "parameter buffer_size of strategy fedbuff is 2.5, want a whole number"},
		{"fedbuff", map[string]any{"buffer_size": 2.0, "exponent": -0.5}, "parameter exponent of strategy fedbuff is -0.5, want 0 to 8"},
		{"fedbuff", map[string]any{"buffer_size": 2.0, "max_staleness": -1.0}, "max_staleness"},
		{"fedbuff", map[string]any{"buffer_size": 2.0, "max_staleness": 0.5}, "max_staleness of strategy fedbuff is 0.5, want a whole number"},
		{"fedbuff", map[string]any{"buffer_size": 2.0, "normalize": "records"}, "normalize of strategy fedbuff is \"records\", want buffer_size or sum_of_weights"},
		{"fedadagrad", map[string]any{"bias_correction": 1.0}, "bias_correction of strategy fedadagrad is 1"},
	} {
		s, err := aggregate.NewStrategy(c.name, c.params)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("NewStrategy(%q, %v): %v, want an error with %q", c.name, c.params, err, c.want)
		}
		if s.Name() != "" {
			t.Errorf("NewStrategy(%q, %v) = %q beside an error, want none", c.name, c.params, s.Name())
		}
	}
}

// TestStrategies: every name that is listed is one, and is not refused as a name.
func TestStrategies(t *testing.T) {
	all := aggregate.Strategies()
	if !slices.IsSorted(all) || !slices.Contains(all, "fedavg") {
		t.Errorf("strategies = %v, want all, in order", all)
	}
	for _, name := range all {
		if err := aggregate.CheckName(name); err != nil {
			t.Error(err)
		}
	}
	if err := aggregate.CheckName("fedaverage"); err == nil {
		t.Error("fedaverage is taken for a strategy")
	}
}

func TestFedAvg(t *testing.T) {
	base, mean := []float32{1, -2, 0.5}, []float64{0.25, 0.5, -1}
	for _, c := range []struct {
		params map[string]any
		want   []float32
	}{
		{nil, []float32{1.25, -1.5, -0.5}},
		{map[string]any{"learning_rate": 0.5}, []float32{1.125, -1.75, 0}},
	} {
		o := optimizer(t, "fedavg", c.params)
		got := make([]float32, 3)
		o.Step(got, base, mean, make([]float64, o.StateLen(3)))
		if !slices.Equal(got, c.want) {
			t.Errorf("step with %v = %v, want %v", c.params, got, c.want)
		}
	}
}

// TestFedAdamFollowsPaper compares some rounds with algorithm 2 in 200-bit arithmetic.
func TestFedAdamFollowsPaper(t *testing.T) {
	const rate, beta1, beta2, tau = 0.125, 0.75, 0.9375, 0.03125 // exact in every arithmetic
	adam := strategy(t, "fedadam", map[string]any{"learning_rate": rate, "beta1": beta1, "beta2": beta2, "tau": tau})
	f := func(v float64) *big.Float { return new(big.Float).SetPrec(200).SetFloat64(v) }
	mul := func(a, b *big.Float) *big.Float { return f(0).Mul(a, b) }
	x, state := []float32{1}, make([]float64, 2)
	wx, wm, wv := f(1), f(0), f(tau*tau)
	for i := range 20 {
		d := math.Ldexp(float64(i-7), -4)
		adam.Optimizer(i+1).Step(x, x, []float64{d}, state)
		wm = f(0).Add(mul(f(beta1), wm), mul(f(1-beta1), f(d)))
		wv = f(0).Add(mul(f(beta2), wv), mul(f(1-beta2), f(d*d)))
		root := f(0).Sqrt(wv)
		wx.Add(wx, f(0).Quo(mul(f(rate), wm), root.Add(root, f(tau))))
		want, _ := wx.Float64()
		if math.Abs(float64(x[0])-want) > 1e-6 {
			t.Fatalf("round %d: model = %v, want %v", i+1, x[0], want)
		}
		if m, _ := wm.Float64(); math.Abs(state[0]-m) > 1e-15 {
			t.Fatalf("round %d: m = %v, want %v", i+1, state[0], m)
		}
	}
}

// needed are the parameters that strategies have no default for.
var needed = map[string]map[string]any{
	"fltrust": {"reference": "m3"}, "centered-clipping": {"radius": 1.0}, "norm-clipping": {"max_norm": 1.0}, "fedbuff": {"buffer_size": 2.0},
}

// TestStepSameBits goes through three rounds of each strategy in one piece, and in parts of any length in any order, with the state written down and
// read back between two rounds, as where the coordinator was killed there: the bits are the same.
func TestStepSameBits(t *testing.T) {
	for _, name := range aggregate.Strategies() {
		t.Run(name, func(t *testing.T) {
			s := strategy(t, name, needed[name])
			rapid.Check(t, func(t *rapid.T) {
				n := rapid.IntRange(1, 200).Draw(t, "values")
				chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 8))
				length := func(n int) int { return s.Optimizer(1).StateLen(n) }
				whole, state := make([]float32, n), make([]float64, length(n))
				for i := range whole {
					whole[i] = chance.Float32()
				}
				parts, kept := slices.Clone(whole), make([]byte, 8*length(n))
				for round := 1; round <= 3; round++ {
					mean := make([]float64, n)
					for i := range mean {
						mean[i] = math.Ldexp(chance.NormFloat64(), -chance.IntN(30))
					}
					s.Optimizer(round).Step(whole, whole, mean, state)

					again := make([]float64, length(n))
					for i := range again {
						again[i] = math.Float64frombits(binary.LittleEndian.Uint64(kept[8*i:]))
					}
					var cuts [][2]int
					for lo := 0; lo < n; {
						hi := min(n, lo+1+chance.IntN(50))
						cuts = append(cuts, [2]int{lo, hi})
						lo = hi
					}
					chance.Shuffle(len(cuts), func(i, j int) { cuts[i], cuts[j] = cuts[j], cuts[i] })
					for _, c := range cuts {
						lo, hi := c[0], c[1]
						s.Optimizer(round).Step(parts[lo:hi], parts[lo:hi], mean[lo:hi], again[length(lo):length(hi)])
					}
					for i, v := range again {
						binary.LittleEndian.PutUint64(kept[8*i:], math.Float64bits(v))
						if math.Float64bits(v) != math.Float64bits(state[i]) {
							t.Fatalf("round %d: state %d = %x, want %x", round, i, v, state[i])
						}
					}
					for i, v := range parts {
						if math.Float32bits(v) != math.Float32bits(whole[i]) {
							t.Fatalf("round %d: value %d = %x, want %x", round, i, v, whole[i])
						}
					}
				}
			})
		})
	}
}

// TestAdaptiveBegins: v begins with initial_v in the first round and in no other, also where it has come back to 0.
func TestAdaptiveBegins(t *testing.T) {
	for _, name := range []string{"fedadam", "fedyogi", "fedadagrad"} {
		s := strategy(t, name, map[string]any{"initial_v": 0.25, "beta2": 0.5})
		x, state := []float32{1}, make([]float64, 2)
		s.Optimizer(1).Step(x, x, []float64{0}, state)
		if want := map[string]float64{"fedadam": 0.125, "fedyogi": 0.25, "fedadagrad": 0.25}[name]; state[1] != want || x[0] != 1 {
			t.Errorf("%s: state %v, model %v after round 1, want v = %v and the model unchanged", name, state, x, want)
		}
		state[1] = 0
		s.Optimizer(2).Step(x, x, []float64{0}, state)
		if state[1] != 0 || x[0] != 1 {
			t.Errorf("%s: state %v, model %v after round 2, want v = 0 and the model unchanged", name, state, x)
		}
	}
}

// TestRoundsAreCounted: there is no training round 0.
func TestRoundsAreCounted(t *testing.T) {
	defer func() {
		if said, _ := recover().(string); !strings.Contains(said, "training round 0") {
			t.Errorf("panic %q, want one that names the round", said)
		}
	}()
	strategy(t, "fedadam", nil).Optimizer(0)
}

// TestStepPanicsOnLengths: lengths that do not fit together are a caller's fault and name themselves.
func TestStepPanicsOnLengths(t *testing.T) {
	for name, n := range map[string][4]int{"dst": {3, 2, 2, 4}, "base": {2, 3, 2, 4}, "mean": {2, 2, 1, 4}, "short state": {2, 2, 2, 2}, "long state": {2, 2, 2, 5}} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if said, _ := recover().(string); !strings.HasPrefix(said, "aggregate: step over") {
					t.Errorf("panic %q, want one that begins with %q", said, "aggregate: step over")
				}
			}()
			optimizer(t, "fedadam", nil).Step(make([]float32, n[0]), make([]float32, n[1]), make([]float64, n[2]), make([]float64, n[3]))
		})
	}
}

// TestDefaults: a parameter that is left out has the value that its rule's comment gives.
func TestDefaults(t *testing.T) {
	for name, params := range map[string]map[string]any{
		"fedavg":     {"learning_rate": 1.0},
		"fedavgm":    {"learning_rate": 1.0, "momentum": 0.9, "nesterov": false},
		"fedadam":    {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3, "initial_v": 1e-3 * 1e-3, "bias_correction": "none"},
		"fedyogi":    {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3, "initial_v": 1e-3 * 1e-3, "bias_correction": "none"},
		"fedadagrad": {"learning_rate": 0.1, "beta1": 0.0, "tau": 1e-3, "initial_v": 1e-3 * 1e-3, "bias_correction": "none"},
	} {
		given, left := optimizer(t, name, params), optimizer(t, name, nil)
		x, y := []float32{1}, []float32{1}
		sx, sy := make([]float64, given.StateLen(1)), make([]float64, left.StateLen(1))
		for range 3 {
			given.Step(x, x, []float64{0.003}, sx)
			left.Step(y, y, []float64{0.003}, sy)
		}
		if x[0] != y[0] || !slices.Equal(sx, sy) {
			t.Errorf("%s with defaults = %v, %v, want %v, %v as with the same values given", name, y, sy, x, sx)
		}
	}
}
