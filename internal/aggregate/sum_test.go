package aggregate_test

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/aggregate"
)

// party is a participant's update with its declared weight.
type party struct {
	weight int64
	update []float32
}

// parties draws k updates of n values of any magnitude up to maxAbs, some at the limit itself.
func parties(chance *rand.Rand, k, n int, maxWeight int64, maxAbs float64) []party {
	all := make([]party, k)
	for i := range all {
		all[i] = party{1 + chance.Int64N(maxWeight), make([]float32, n)}
		for j := range all[i].update {
			x := float32(math.Ldexp(maxAbs, -chance.IntN(40)))
			if chance.IntN(8) > 0 {
				x *= chance.Float32()
			}
			if chance.IntN(2) == 0 {
				x = -x
			}
			all[i].update[j] = x
		}
	}
	return all
}

func weights(all []party) []int64 {
	var w []int64
	for _, p := range all {
		w = append(w, p.weight)
	}
	return w
}

// combine adds the updates and returns the mean. Each of the workers has its own part of the vector and goes through the
// updates in the order given, but begins at another of them, so that no two parts are added in the same order.
func combine(t testing.TB, spec aggregate.Spec, all []party, order []int, workers int) []float64 {
	t.Helper()
	sum, err := aggregate.NewSum(spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range order {
		if err := spec.Check(all[i].update); err != nil {
			t.Fatal(err)
		}
		sum.AddWeight(float64(all[i].weight))
	}
	n := spec.Len()
	mean := make([]float64, n)
	var wg sync.WaitGroup
	for w := range workers {
		lo, hi, first := w*n/workers, (w+1)*n/workers, w*len(order)/workers
		wg.Go(func() {
			for k := range order {
				p := all[order[(first+k)%len(order)]]
				sum.Add(lo, p.update[lo:hi], float64(p.weight))
			}
			sum.Mean(lo, mean[lo:hi])
		})
	}
	wg.Wait()
	return mean
}

// exact returns the weighted mean with 400 bits.
func exact(all []party, j int) *big.Float {
	sum, total := new(big.Float).SetPrec(400), new(big.Float).SetPrec(400)
	for _, p := range all {
		x := new(big.Float).SetPrec(400).SetFloat64(float64(p.update[j]))
		w := new(big.Float).SetPrec(400).SetInt64(p.weight)
		sum.Add(sum, x.Mul(x, w))
		total.Add(total, w)
	}
	return sum.Quo(sum, total)
}

// off returns how far v is from want.
func off(v float64, want *big.Float) float64 {
	d := new(big.Float).SetPrec(400).SetFloat64(v)
	f, _ := d.Sub(d, want).Abs(d).Float64()
	return f
}

func sameBits(t *testing.T, got, want []float64, what string) {
	t.Helper()
	for i := range want {
		if math.Float64bits(got[i]) != math.Float64bits(want[i]) {
			t.Fatalf("%s: value %d = %x, want the same bits as %x", what, i, got[i], want[i])
		}
	}
}

// TestSumExact adds the updates of up to 1,000 participants in 20 orders, each with 1, 2 and 4 workers. The bits never differ,
// and the mean is as near the true one as the round promised.
func TestSumExact(t *testing.T) {
	for _, c := range []struct {
		k, n      int
		maxWeight int64
		maxAbs    float64
	}{
		{1, 5000, 1 << 20, 16},
		{2, 3000, 1, 1},
		{4, 2100, 199, 16},
		{7, 5000, 500, 16},
		{10, 999, 1 << 20, 1 << 10},
		{100, 257, 1 << 20, 1 << 10},
		{100, 257, 1 << 10, 1},
		{1000, 67, 1 << 20, 1 << 10},
		{1000, 67, 1, 1 << 10},
		{1000, 67, 1, 16},
		{1000, 33, 1 << 20, 0x1p-30},
		{3, 100, aggregate.MaxWeight, 1000},
	} {
		t.Run(fmt.Sprintf("k=%d,w=%d,max=%g", c.k, c.maxWeight, c.maxAbs), func(t *testing.T) {
			t.Parallel()
			chance := rand.New(rand.NewPCG(1, uint64(c.k*c.n)))
			all := parties(chance, c.k, c.n, c.maxWeight, c.maxAbs)
			spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: c.n / 3, MaxAbs: c.maxAbs}, {Len: c.n - c.n/3, MaxAbs: c.maxAbs}}, Weights: weights(all)}
			order := chance.Perm(c.k)
			first := combine(t, spec, all, order, 1)
			for range 20 {
				order := chance.Perm(c.k)
				for _, workers := range []int{1, 2, 4} {
					sameBits(t, combine(t, spec, all, order, workers), first, fmt.Sprintf("another order, %d workers", workers))
				}
			}
			bound := aggregate.Bound(c.maxAbs, spec.Weights, c.k)
			for j, v := range first {
				if d := off(v, exact(all, j)); d > bound {
					t.Fatalf("value %d is off by %g, the bound is %g", j, d, bound)
				}
			}
		})
	}
}

// TestSumSubset takes any participants at or above a quorum, as a round does that not all answer.
func TestSumSubset(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		k := rapid.IntRange(1, 12).Draw(r, "k")
		maxAbs := math.Ldexp(rapid.Float64Range(0.5, 1).Draw(r, "fraction"), rapid.IntRange(-60, 60).Draw(r, "exponent"))
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 0))
		all := parties(chance, k, 9, 1<<rapid.IntRange(0, 29).Draw(r, "weight bits"), float64(float32(maxAbs)*(1-0x1p-20)))
		spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 9, MaxAbs: maxAbs}}, Weights: weights(all)}
		quorum := rapid.IntRange(1, k).Draw(r, "quorum")
		present := chance.Perm(k)[:quorum+chance.IntN(k-quorum+1)]
		var here []party
		for _, i := range present {
			here = append(here, all[i])
		}
		mean := combine(t, spec, all, present, 1)
		bound := aggregate.Bound(maxAbs, spec.Weights, quorum)
		for j, v := range mean {
			if d := off(v, exact(here, j)); d > bound {
				r.Fatalf("value %d is off by %g, the bound is %g", j, d, bound)
			}
		}
		slices.Reverse(present)
		again := combine(t, spec, all, present, 2)
		if !slices.Equal(mean, again) {
			r.Fatalf("another order gives %v, want %v", again, mean)
		}
	})
}

// TestBoundIsReached: updates that all lie half a grid step off, on the same side, are as far from the true mean as the bound
// says, so that no smaller one would do.
func TestBoundIsReached(t *testing.T) {
	const maxAbs = 16
	for _, c := range []struct {
		k      int
		weight int64
		g      float64 // 2^(e-51), where 2^e is the first power of two from maxAbs*k*weight on
	}{{1, 1, 0x1p-47}, {4, 1, 0x1p-45}, {4, 8, 0x1p-42}, {1000, 1, 0x1p-37}, {1000, 1 << 20, 0x1p-17}} {
		all := make([]party, c.k)
		for i := range all {
			all[i] = party{c.weight, []float32{float32(c.g / 2 / float64(c.weight))}} // ties go to even, which is 0
		}
		spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 1, MaxAbs: maxAbs}}, Weights: weights(all)}
		d := off(combine(t, spec, all, rand.New(rand.NewPCG(1, 1)).Perm(c.k), 1)[0], exact(all, 0))
		bound := aggregate.Bound(maxAbs, spec.Weights, c.k)
		if d > bound || d < bound-maxAbs*0x1p-53 {
			t.Errorf("%d updates of weight %d: mean is off by %g, want nearly the bound %g", c.k, c.weight, d, bound)
		}
	}
}

// TestSumRoundsToGrid compares single values with the rounding of the grid done by hand.
func TestSumRoundsToGrid(t *testing.T) {
	// maxAbs*W = 3*1 = 3, so 2^e = 4 and g = 2^-49.
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 5, MaxAbs: 3}}, Weights: []int64{1}}
	sum, err := aggregate.NewSum(spec)
	if err != nil {
		t.Fatal(err)
	}
	sum.AddWeight(1)
	sum.Add(0, []float32{0x1p-49, 0x1p-50, 0x1.8p-49, -0x1.4p-49, 3}, 1) // g, g/2, 3g/2, -5g/4, the limit
	got := make([]float64, 5)
	sum.Mean(0, got)
	want := []float64{0x1p-49, 0, 0x1p-48, -0x1p-49, 3} // ties to even
	if !slices.Equal(got, want) {
		t.Errorf("mean = %x, want %x", got, want)
	}
	if got, want := aggregate.Bound(3, []int64{1}, 1), 0x1p-50+3*0x1p-53; got != want {
		t.Errorf("Bound(3, 1) = %g, want g/2 + 3*2^-53 = %g", got, want)
	}
}

func TestSumPowerOfTwo(t *testing.T) {
	// maxAbs*W is a power of two: 2^e is that power itself, not the next.
	if got, want := aggregate.Bound(16, []int64{1, 1, 1, 1}, 4), 0x1p-45/2+0x1p-49; got != want {
		t.Errorf("Bound(16, 4 times 1) = %g, want %g", got, want)
	}
	equal := slices.Repeat([]int64{1}, 1000)
	if got := aggregate.Bound(16, equal, 1000); got >= 1e-11 {
		t.Errorf("Bound(16, 1000 equal weights) = %g, want below 1e-11", got)
	}
}

func TestBoundOfNothing(t *testing.T) {
	for name, b := range map[string]float64{
		"no weights": aggregate.Bound(16, nil, 1), "no quorum": aggregate.Bound(16, []int64{1}, 0),
		"quorum too large": aggregate.Bound(16, []int64{1}, 2), "weight 0": aggregate.Bound(16, []int64{0}, 1),
		"NaN": aggregate.Bound(math.NaN(), []int64{1}, 1), "infinite": aggregate.Bound(math.Inf(1), []int64{1}, 1),
	} {
		if !math.IsInf(b, 1) {
			t.Errorf("%s: bound = %v, want +Inf", name, b)
		}
	}
	if b := aggregate.Bound(0, []int64{1}, 1); b != 0 {
		t.Errorf("bound of values that are all 0 = %v, want 0", b)
	}
}

func TestCheck(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 2, MaxAbs: 1}, {Len: 1}, {Len: 2, MaxAbs: 0.1}}, Weights: []int64{1}}
	for _, c := range []struct {
		name   string
		values []float32
		reason aggregate.Reason
		index  int
	}{
		{"good", []float32{1, -1, 0, 0.09, -0.09}, "", 0},
		{"short", []float32{1, 1, 0, 0}, aggregate.Shape, 4},
		{"empty", nil, aggregate.Shape, 0},
		{"long", make([]float32, 6), aggregate.Shape, 6},
		{"beyond", []float32{0, -1.0000001, 0, 0, 0}, aggregate.TooLarge, 1},
		{"beyond twice", []float32{0, 3, 0, 0.5, 0}, aggregate.TooLarge, 1},
		{"frozen", []float32{0, 0, 1e-45, 0, 0}, aggregate.TooLarge, 2},
		{"limit of the own range", []float32{0, 0, 0, 0, 0.5}, aggregate.TooLarge, 4},
		{"float32 above its limit", []float32{0, 0, 0, 0.1, 0}, aggregate.TooLarge, 3}, // 0.1 rounds up in float32
		{"nan", []float32{0, 0, 0, nan, 0}, aggregate.NotFinite, 3},
		{"infinity in a frozen range", []float32{0, 0, inf, 0, 0}, aggregate.NotFinite, 2},
		{"nan behind a large one", []float32{2, 0, 0, nan, 0}, aggregate.NotFinite, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := spec.Check(c.values)
			if c.reason == "" {
				if err != nil {
					t.Fatalf("Check(%v) = %v, want it good", c.values, err)
				}
				return
			}
			e, ok := err.(*aggregate.ValueError)
			if !ok || e.Reason != c.reason || e.Index != c.index {
				t.Errorf("Check(%v) = %#v, want %s at %d", c.values, err, c.reason, c.index)
			}
		})
	}
}

func TestSpecRefused(t *testing.T) {
	one := []aggregate.Range{{Len: 1, MaxAbs: 1}}
	for name, spec := range map[string]aggregate.Spec{
		"zero":                 {},
		"no weights":           {Ranges: one},
		"weight 0":             {Ranges: one, Weights: []int64{1, 0}},
		"weight too large":     {Ranges: one, Weights: []int64{aggregate.MaxWeight + 1}},
		"empty range":          {Ranges: []aggregate.Range{{MaxAbs: 1}}, Weights: []int64{1}},
		"negative length":      {Ranges: []aggregate.Range{{Len: -1, MaxAbs: 1}}, Weights: []int64{1}},
		"too long":             {Ranges: []aggregate.Range{{Len: aggregate.MaxLen, MaxAbs: 1}, {Len: 1}}, Weights: []int64{1}},
		"negative max_abs":     {Ranges: []aggregate.Range{{Len: 1, MaxAbs: -1}}, Weights: []int64{1}},
		"NaN as max_abs":       {Ranges: []aggregate.Range{{Len: 1, MaxAbs: math.NaN()}}, Weights: []int64{1}},
		"infinite max_abs":     {Ranges: []aggregate.Range{{Len: 1, MaxAbs: math.Inf(1)}}, Weights: []int64{1}},
		"max_abs without grid": {Ranges: []aggregate.Range{{Len: 1, MaxAbs: 0x1p-1000}}, Weights: []int64{1}},
	} {
		if _, err := aggregate.NewSum(spec); err == nil {
			t.Errorf("%s: NewSum makes a sum, want an error", name)
		}
	}
}

// TestSumPanics shows that rules which callers keep are not silently broken.
func TestSumPanics(t *testing.T) {
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 3, MaxAbs: 1}}, Weights: []int64{2, 3}}
	for name, f := range map[string]func(*aggregate.Sum){
		"part behind the end":   func(s *aggregate.Sum) { s.Add(2, make([]float32, 2), 1) },
		"part before the start": func(s *aggregate.Sum) { s.Add(-1, make([]float32, 1), 1) },
		"part far away":         func(s *aggregate.Sum) { s.Add(math.MaxInt, make([]float32, 2), 1) },
		"weight of nobody":      func(s *aggregate.Sum) { s.Add(0, make([]float32, 3), 6) },
		"weight 0":              func(s *aggregate.Sum) { s.Add(0, make([]float32, 3), 0) },
		"one weight of two":     func(s *aggregate.Sum) { s.AddAll(0, make([][]float32, 2), []float64{1}) },
		"no parts":              func(s *aggregate.Sum) { s.AddAll(0, nil, nil) },
		"parts that differ": func(s *aggregate.Sum) {
			s.AddAll(0, [][]float32{make([]float32, 3), make([]float32, 2)}, []float64{1, 2})
		},
		"weight NaN":          func(s *aggregate.Sum) { s.AddWeight(math.NaN()) },
		"more than declared":  func(s *aggregate.Sum) { s.AddWeight(3); s.AddWeight(3) },
		"mean of nothing":     func(s *aggregate.Sum) { s.Mean(0, make([]float64, 3)) },
		"mean behind the end": func(s *aggregate.Sum) { s.AddWeight(3); s.Mean(1, make([]float64, 3)) },
	} {
		t.Run(name, func(t *testing.T) {
			sum, err := aggregate.NewSum(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			f(sum)
		})
	}
}

func TestMemory(t *testing.T) {
	spec := aggregate.Spec{Ranges: make([]aggregate.Range, 2), Weights: make([]int64, 4)}
	n1, n4 := aggregate.Memory(spec, 1_000_000, 1), aggregate.Memory(spec, 1_000_000, 4)
	if n1 < 12_000_000 || n1 > 12_001_000 || n4-n1 != 12_000_000 {
		t.Errorf("Memory = %d with one update held, %d with four, want 12 and 24 bytes a parameter and little more", n1, n4)
	}
	if got := aggregate.Memory(spec, math.MaxInt, 3); got != math.MaxInt64 {
		t.Errorf("Memory of the largest model = %d, want the largest int64", got)
	}
	if got := aggregate.Memory(spec, 1, math.MaxInt); got != math.MaxInt64 {
		t.Errorf("Memory of the most participants = %d, want the largest int64", got)
	}
	if a, b := aggregate.Memory(spec, -1, 1), aggregate.Memory(spec, 1, -1); a != 0 || b != 0 {
		t.Errorf("Memory of fewer than no values or participants = %d, %d, want 0", a, b)
	}
}

// TestMemoryHolds measures a round, from the sum's making to its mean, and holds it against what was said beforehand.
func TestMemoryHolds(t *testing.T) {
	const n, k = 300_000, 5
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 1000, MaxAbs: 1}, {Len: n - 1000, MaxAbs: 16}}, Weights: []int64{1, 2, 3, 4, 5}}
	block := make([]float64, 4096) // the mean is taken block by block, into memory that is the caller's
	said := aggregate.Memory(spec, n, k)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	sum, err := aggregate.NewSum(spec)
	if err != nil {
		t.Fatal(err)
	}
	held := make([][]float32, k)
	for i := range held {
		held[i] = make([]float32, n)
		if err := spec.Check(held[i]); err != nil {
			t.Fatal(err)
		}
		sum.AddWeight(float64(i + 1))
		sum.Add(0, held[i], float64(i+1))
	}
	for lo := 0; lo < n; lo += len(block) {
		sum.Mean(lo, block[:min(len(block), n-lo)])
	}
	runtime.ReadMemStats(&after)
	const pages = 8192 * (k + 2) // the allocator rounds large slices up to them
	if took := int64(after.TotalAlloc - before.TotalAlloc); took > said+pages || took < said-pages {
		t.Errorf("the round took %d bytes, Memory said %d", took, said)
	}
}

// TestSumAllocates: once a sum is made, adding to it takes no memory.
func TestSumAllocates(t *testing.T) {
	sum, err := aggregate.NewSum(aggregate.Spec{Ranges: []aggregate.Range{{Len: 9000, MaxAbs: 1}}, Weights: []int64{1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	update := make([]float32, 9000)
	if n := testing.AllocsPerRun(100, func() { sum.AddWeight(1); sum.Add(0, update, 1) }); n > 0 {
		t.Errorf("%v allocations for each update, want none", n)
	}
	parts, each := [][]float32{update, update}, []float64{1, 2}
	if n := testing.AllocsPerRun(100, func() { sum.AddAll(0, parts, each) }); n > 0 {
		t.Errorf("%v allocations for two updates at once, want none", n)
	}
}

// TestSumAgainstReference holds a whole sum to the bits of gonum's calls, at every length around a block.
func TestSumAgainstReference(t *testing.T) {
	chance := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 2, 3, 7, 8, 9, 511, 512, 513, 2049} {
		all := parties(chance, 3, n, 1000, 16)
		spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: 16}}, Weights: weights(all)}
		var w float64
		for _, p := range all {
			w += float64(p.weight)
		}
		frac, exp := math.Frexp(16 * w)
		if frac == 0.5 {
			exp--
		}
		want := make([]float64, n)
		for _, p := range all {
			reference(want, p.update, float64(p.weight), math.Ldexp(1.5, 52+exp-51))
		}
		for i := range want {
			want[i] /= w
		}
		sameBits(t, combine(t, spec, all, []int{0, 1, 2}, 1), want, "blocks")
	}
}

func BenchmarkCheck(b *testing.B) {
	const n = 1 << 20
	update := parties(rand.New(rand.NewPCG(5, 6)), 1, n, 1, 16)[0].update
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: 16}}, Weights: []int64{199}}
	b.SetBytes(4 * n)
	for b.Loop() {
		if err := spec.Check(update); err != nil {
			b.Fatal(err)
		}
	}
}
