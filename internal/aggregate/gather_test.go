package aggregate_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/aggregate"
)

// robust are strategies that need all updates at once, in each of their ways, with parameters that allow seven updates and more.
var robust = map[string]struct {
	name   string
	params map[string]any
}{
	"median":            {"median", nil},
	"trimmed mean":      {"trimmed-mean", map[string]any{"share": 0.3}},
	"krum":              {"krum", map[string]any{"attackers": 2.0}},
	"multi-krum":        {"multi-krum", nil},
	"krum by examples":  {"multi-krum", map[string]any{"attackers": 2.0, "keep": 3.0, "average": "examples"}},
	"bulyan":            {"bulyan", nil},
	"bulyan once":       {"bulyan", map[string]any{"selection": "krum_once"}},
	"geometric median":  {"geometric-median", nil},
	"without weights":   {"geometric-median", map[string]any{"weighting": "uniform", "iterations": 2.0, "smoothing": 0.1}},
	"centered clipping": {"centered-clipping", map[string]any{"radius": 20.0, "iterations": 3.0}},
	"fltrust":           {"fltrust", map[string]any{"reference": "m3"}},
}

// updates draws k updates of n values, some of which are the same.
func updates(chance *rand.Rand, k, n int) []aggregate.Update {
	all := make([]aggregate.Update, k)
	for i := range all {
		all[i] = aggregate.Update{Member: fmt.Sprintf("m%d", i), Weight: 1 + chance.Int64N(1000), Values: make([]float32, n)}
		if i > 0 && chance.IntN(4) == 0 {
			copy(all[i].Values, all[i-1].Values)
			continue
		}
		for j := range all[i].Values {
			all[i].Values[j] = float32(math.Ldexp(chance.NormFloat64(), -chance.IntN(20)))
		}
	}
	return all
}

// gather goes through a round by so many workers, each with its own blocks, and takes the result in parts of their own.
func gather(t rapid.TB, s aggregate.Strategy, all []aggregate.Update, state []float64, workers int) ([]float64, []aggregate.Effect) {
	t.Helper()
	g, err := s.Gather(all, state)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g.Pass() {
		for w := range workers {
			wg.Go(func() {
				for b := g.Blocks() - 1 - w; b >= 0; b -= workers {
					g.Scan(b)
				}
			})
		}
		wg.Wait()
	}
	mean := make([]float64, len(all[0].Values))
	part := len(mean)/workers + 1
	for lo := 0; lo < len(mean); lo += part {
		wg.Go(func() { g.Mean(lo, mean[lo:min(lo+part, len(mean))]) })
	}
	wg.Wait()
	return mean, g.Effects()
}

// TestGatherSameBits: the same updates give the same bits in any order, by any number of workers, and from copies of them, as after a restart.
// With state, a round begins from what the one before has left.
func TestGatherSameBits(t *testing.T) {
	for name, r := range robust {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
				k, n := rapid.IntRange(7, 9).Draw(t, "updates"), rapid.SampledFrom([]int{1, 2, 1023, 4097, 9001}).Draw(t, "values")
				s, err := aggregate.NewStrategy(r.name, r.params)
				if err != nil {
					t.Fatal(err)
				}
				all := updates(chance, k, n)
				state := make([]float64, s.Optimizer(1).StateLen(n))
				for i := range state {
					state[i] = chance.NormFloat64()
				}
				before := slices.Clone(state)
				want, judged := gather(t, s, all, state, 1)
				if !slices.Equal(state, before) {
					t.Fatal("gathering altered the state")
				}
				again := make([]aggregate.Update, k)
				for i, j := range chance.Perm(k) {
					again[i] = all[j]
					again[i].Values = slices.Clone(all[j].Values)
				}
				got, effects := gather(t, s, again, state, rapid.IntRange(1, 5).Draw(t, "workers"))
				for i := range want {
					if math.Float64bits(got[i]) != math.Float64bits(want[i]) {
						t.Fatalf("value %d = %x, want %x", i, got[i], want[i])
					}
				}
				if !slices.Equal(effects, judged) {
					t.Fatalf("effects = %q, want %q", effects, judged)
				}
			})
		})
	}
}

// TestRobustIsAll: no strategy that gathers is forgotten above.
func TestRobustIsAll(t *testing.T) {
	for _, name := range aggregate.Strategies() {
		tested := false
		for _, r := range robust {
			tested = tested || r.name == name
		}
		if s := strategy(t, name, needed[name]); s.Gathers() != tested {
			t.Errorf("%s gathers: %t, tested: %t", name, s.Gathers(), tested)
		}
	}
}

// TestGatherWithstands: one hostile update among seven, whatever it is, does not take the result away from the others.
func TestGatherWithstands(t *testing.T) {
	for name, r := range robust {
		if r.name == "fltrust" || r.name == "geometric-median" || r.name == "centered-clipping" {
			continue // which come near, no nearer: their expected values are in golden files
		}
		t.Run(name, func(t *testing.T) {
			s := strategy(t, r.name, r.params)
			all := make([]aggregate.Update, 7)
			for i := range all {
				all[i] = aggregate.Update{Member: fmt.Sprintf("m%d", i), Weight: 10, Values: []float32{1 + float32(i)/64, -1}}
			}
			for _, lie := range []float32{-1, 0, 100, -1e30} {
				for i := range all {
					lied := slices.Clone(all)
					lied[i].Values, lied[i].Weight = []float32{lie, -lie}, 1<<29
					got, _ := gather(t, s, lied, nil, 1)
					if !(got[0] >= 1 && got[0] <= 1.1 && got[1] == -1) {
						t.Errorf("with %v of %d the result is %v", lie, i, got)
					}
				}
			}
		})
	}
}

// TestGatherNeeds: a round with fewer updates than the rule needs is refused, and so is a reference that is not there.
func TestGatherNeeds(t *testing.T) {
	for _, c := range []struct {
		name   string
		params map[string]any
		least  int
	}{
		{"median", nil, 1},
		{"trimmed-mean", nil, 1},
		{"krum", nil, 5},
		{"krum", map[string]any{"attackers": 0.0}, 3},
		{"krum", map[string]any{"attackers": 2.0}, 7},
		{"multi-krum", map[string]any{"keep": 9.0}, 9},
		{"bulyan", nil, 7},
		{"bulyan", map[string]any{"attackers": 2.0}, 11},
		{"geometric-median", nil, 1},
		{"centered-clipping", map[string]any{"radius": 1.0}, 1},
		{"fltrust", map[string]any{"reference": "m0"}, 2},
	} {
		s := strategy(t, c.name, c.params)
		if s.Least() != c.least {
			t.Errorf("%s with %v needs %d updates, want %d", c.name, c.params, s.Least(), c.least)
		}
		all := updates(rand.New(rand.NewPCG(1, 2)), c.least, 3)
		if _, err := s.Gather(all[1:], make([]float64, 3)); !errors.Is(err, aggregate.ErrTooFew) {
			t.Errorf("%s with %v, %d updates: %v, want too few", c.name, c.params, c.least-1, err)
		}
		if _, err := s.Gather(all, make([]float64, 3)); err != nil {
			t.Errorf("%s with %v, %d updates: %v", c.name, c.params, c.least, err)
		}
	}
	s := strategy(t, "fltrust", map[string]any{"reference": "nobody"})
	if _, err := s.Gather(updates(rand.New(rand.NewPCG(1, 2)), 3, 3), nil); err == nil || !strings.Contains(err.Error(), `no update of "nobody"`) {
		t.Errorf("without its reference: %v", err)
	}
	if s.Member() != "nobody" {
		t.Errorf("the member that a round needs is %q", s.Member())
	}
}

// TestEffects: what is told of each update.
func TestEffects(t *testing.T) {
	of := func(values ...float32) (all []aggregate.Update) {
		for i, v := range values {
			all = append(all, aggregate.Update{Member: fmt.Sprint(i), Weight: 1, Values: []float32{v, 0}})
		}
		return all
	}
	const out, cut = aggregate.LeftOut, aggregate.Clipped
	for _, c := range []struct {
		name   string
		params map[string]any
		all    []aggregate.Update
		want   []aggregate.Effect
	}{
		{"median", nil, of(1, 2), []aggregate.Effect{"", ""}},
		{"krum", nil, of(9, 1, 1.5, 1, 1), []aggregate.Effect{out, "", out, out, out}},
		{"multi-krum", nil, of(9, 1, 1, 1, 1), []aggregate.Effect{out, "", "", "", ""}},
		{"bulyan", nil, of(1, 1, 1, 1, 1, 20, -9), []aggregate.Effect{"", "", "", "", "", out, out}},
		{"centered-clipping", map[string]any{"radius": 2.0}, of(1, -3, 2), []aggregate.Effect{"", cut, ""}},
		{"fltrust", map[string]any{"reference": "1"}, of(1, 2, -1, 0), []aggregate.Effect{"", aggregate.Reference, out, out}},
	} {
		s := strategy(t, c.name, c.params)
		if _, got := gather(t, s, c.all, make([]float64, s.Optimizer(1).StateLen(2)), 1); !slices.Equal(got, c.want) {
			t.Errorf("%s: effects = %q, want %q", c.name, got, c.want)
		}
	}
}

// TestBulyanTies: of values that are equally near to the median those count that were selected first, which is not the order of names. By their
// first values m0, m2, m1, m3, m4 are selected, in this order; their second ones are 1, -1, 1/2, 0, -5, with the median 0.
func TestBulyanTies(t *testing.T) {
	first, second := []float32{0, 1, -2, 4, -8, 100, 200}, []float32{1, 0.5, -1, 0, -5, 7, 8}
	all := make([]aggregate.Update, 7)
	for i := range all {
		all[i] = aggregate.Update{Member: fmt.Sprintf("m%d", i), Weight: 1, Values: []float32{first[i], second[i] * 0x1p-30}}
	}
	got, _ := gather(t, strategy(t, "bulyan", map[string]any{"selection": "krum_once"}), all, nil, 1)
	if want := (0 + 0.5 + 1) * 0x1p-30 / 3; got[1] != want {
		t.Errorf("mean of the nearest = %v, want %v", got[1], want)
	}
}

// TestGatherLengths: what does not belong together is a caller's fault.
func TestGatherLengths(t *testing.T) {
	s := strategy(t, "median", nil)
	all := updates(rand.New(rand.NewPCG(1, 2)), 3, 5)
	other := func(alter func(u *aggregate.Update)) []aggregate.Update {
		o := slices.Clone(all)
		alter(&o[1])
		return o
	}
	begun, err := s.Gather(all, nil)
	if err != nil {
		t.Fatal(err)
	}
	done, err := s.Gather(all, nil)
	if err != nil || done.Pass() {
		t.Fatal("a median wants no pass")
	}
	for name, f := range map[string]func(){
		"longer":           func() { s.Gather(other(func(u *aggregate.Update) { u.Values = make([]float32, 6) }), nil) },
		"twice":            func() { s.Gather(other(func(u *aggregate.Update) { u.Member = "m0" }), nil) },
		"without weight":   func() { s.Gather(other(func(u *aggregate.Update) { u.Weight = 0 }), nil) },
		"without passes":   func() { begun.Mean(0, make([]float64, 5)) },
		"beyond the end":   func() { done.Mean(3, make([]float64, 3)) },
		"before the start": func() { done.Mean(-1, make([]float64, 3)) },
		"not gathering":    func() { strategy(t, "fedavg", nil).Gather(all, nil) },
		"not clipping":     func() { s.Clip(nil, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if said, _ := recover().(string); !strings.HasPrefix(said, "aggregate: ") {
					t.Errorf("panic %q, want one of aggregate", said)
				}
			}()
			f()
		})
	}
}

// TestClip: what is added of a clipped update are its values times weight and factor, exact on the grid in any order.
func TestClip(t *testing.T) {
	chance := rand.New(rand.NewPCG(3, 4))
	all := updates(chance, 5, 5000)
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 5000, MaxAbs: 64}}}
	for _, u := range all {
		spec.Weights = append(spec.Weights, u.Weight)
	}
	for _, scope := range []string{"flat", "per_tensor"} {
		s := strategy(t, "norm-clipping", map[string]any{"max_norm": 3.0, "scope": scope})
		mean := func(order []int) []float64 {
			sum, err := aggregate.NewSum(spec)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range order {
				u := all[i]
				sum.AddWeight(float64(u.Weight))
				lo := 0
				for _, p := range s.Clip([]int{3000, 0, 2000}, u.Values) {
					sum.Add(lo, u.Values[lo:lo+p.Len], float64(u.Weight)*p.Scale)
					lo += p.Len
				}
			}
			got := make([]float64, 5000)
			sum.Mean(0, got)
			return got
		}
		want := mean([]int{0, 1, 2, 3, 4})
		for range 10 {
			sameBits(t, mean(chance.Perm(5)), want, scope)
		}
		norm := 0.0
		for _, v := range want {
			norm += v * v
		}
		if most := map[string]float64{"flat": 3, "per_tensor": 3 * math.Sqrt2}[scope]; math.Sqrt(norm) > most*1.000001 {
			t.Errorf("%s: the mean is %v long, want %v at most", scope, math.Sqrt(norm), most)
		}
	}
	s := strategy(t, "norm-clipping", map[string]any{"max_norm": 3.0, "scope": "per_tensor"})
	for _, layout := range [][]int{{4999}, {5000, 1}} {
		func() {
			defer func() {
				if said, _ := recover().(string); !strings.HasPrefix(said, "aggregate: ") {
					t.Errorf("layout %v: panic %q, want one of aggregate", layout, said)
				}
			}()
			s.Clip(layout, all[0].Values)
		}()
	}
}

func TestGatherMemory(t *testing.T) {
	for _, c := range []struct {
		params, participants int
		want                 int64
	}{
		{0, 0, 0},
		{-1, 3, 0},
		{1 << 28, 32, 4<<33 + 8*257*(496+64)},
		{aggregate.MaxLen / 2, 1 << 20, 4<<59 + 8*257*(1<<19*(1<<20-1)+2<<20)},
		{math.MaxInt, 3, math.MaxInt64},
		{1, math.MaxInt, math.MaxInt64},
	} {
		if got := aggregate.GatherMemory(c.params, c.participants); got != c.want {
			t.Errorf("GatherMemory(%d, %d) = %d, want %d", c.params, c.participants, got, c.want)
		}
	}
}

// gatherDigest is what every processor must reach, as goldenDigest.
const gatherDigest = "1ee44042956cd4b54b917148311bca1c560251a2e3f374f023570584722bd20a"

// TestGoldenDigestGather pins every bit of two rounds of each strategy that gathers, and of an update's norm.
func TestGoldenDigestGather(t *testing.T) {
	const n, k = 10000, 9
	var chance lcg = 43
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(robust)) {
		s := strategy(t, robust[name].name, robust[name].params)
		state, x := make([]float64, s.Optimizer(1).StateLen(n)), make([]float32, n)
		for round := range 2 {
			all := make([]aggregate.Update, k)
			for i := range all {
				all[i] = aggregate.Update{Member: fmt.Sprintf("m%d", i), Weight: int64(chance.next()%(1<<20)) + 1, Values: make([]float32, n)}
				for j := range all[i].Values {
					whole := int32(chance.next()%(1<<24)) - 1<<23 // exact in a float32
					all[i].Values[j] = float32(math.Ldexp(float64(whole), -21-int(chance.next()%24)))
				}
			}
			mean, _ := gather(t, s, all, state, 1)
			s.Optimizer(round+1).Step(x, x, mean, state)
			for _, v := range append(mean, aggregate.Norm(all[0].Values)) {
				binary.Write(h, binary.LittleEndian, math.Float64bits(v))
			}
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != gatherDigest {
		t.Errorf("digest of all rules = %s, want %s", got, gatherDigest)
	}
}

// BenchmarkGather goes over 16 updates of a million values by one worker.
func BenchmarkGather(b *testing.B) {
	all := updates(rand.New(rand.NewPCG(5, 6)), 16, 1<<20)
	for _, name := range slices.Sorted(maps.Keys(robust)) {
		b.Run(name, func(b *testing.B) {
			s := strategy(b, robust[name].name, robust[name].params)
			state := make([]float64, s.Optimizer(1).StateLen(1<<20))
			b.SetBytes(16 * 4 << 20)
			for b.Loop() {
				gather(b, s, all, state, 1)
			}
		})
	}
}
