package aggregate_test

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/mask"
)

// TestMaskedSum: whoever takes part, whole numbers that were summed modulo 2^64, under masks which are then taken away, give the bits of
// the updates added as they are.
func TestMaskedSum(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		spec := aggregate.Spec{}
		for range rapid.IntRange(1, 3).Draw(r, "ranges") {
			most := math.Ldexp(rapid.Float64Range(1, 2).Draw(r, "fraction"), rapid.IntRange(-60, 60).Draw(r, "exponent"))
			spec.Ranges = append(spec.Ranges, aggregate.Range{
				Len: rapid.IntRange(1, 40).Draw(r, "length"), MaxAbs: rapid.SampledFrom([]float64{most, most, most, 0}).Draw(r, "max_abs"),
			})
		}
		spec.Weights = rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(1, 5), rapid.Int64Range(1, aggregate.MaxWeight)), 1, 6).Draw(r, "weights")
		if rapid.Bool().Draw(r, "coarse") {
			spec = spec.Coarsened(math.Ldexp(1, rapid.IntRange(-100, 20).Draw(r, "step")))
		}
		want, err := aggregate.NewSum(spec)
		if err != nil {
			r.Fatal(err)
		}
		grid, err := aggregate.NewGrid(spec)
		if err != nil {
			r.Fatal(err)
		}
		n, present, weight := spec.Len(), 0, 0.0
		sums := make([]uint64, n)
		var terms []mask.Term
		for i, w := range spec.Weights {
			if i > 0 && rapid.Bool().Draw(r, "drops out") {
				continue
			}
			update := draw(r, spec)
			if err := spec.Check(update); err != nil {
				r.Fatal(err)
			}
			times := float64(w) // an update that is shortened is one of less weight
			if rapid.Bool().Draw(r, "shortened") {
				times *= rapid.Float64Range(0.01, 1).Draw(r, "factor")
			}
			want.Add(0, update, times)
			want.AddWeight(float64(w))
			whole := slices.Repeat([]uint64{7}, n) // what was there before does not count
			cut := rapid.IntRange(0, n).Draw(r, "cut")
			grid.Whole(whole[cut:], cut, update[cut:], times)
			grid.Whole(whole[:cut], 0, update[:cut], times)
			terms = append(terms, mask.Term{Seed: mask.Seed{byte(i)}, Minus: i%2 == 1})
			mask.Apply(whole, 0, terms[len(terms)-1])
			for k, v := range whole {
				sums[k] += v
			}
			present, weight = present+1, weight+float64(w)
		}
		for i := range terms {
			terms[i] = terms[i].Negated()
		}
		mask.Apply(sums, 0, terms...)
		cut := rapid.IntRange(0, n).Draw(r, "cut of the sum")
		one, two := make([]float64, n), make([]float64, n)
		if err := errors.Join(grid.Mean(two[cut:], cut, sums[cut:], present, weight), grid.Mean(two[:cut], 0, sums[:cut], present, weight)); err != nil {
			r.Fatal(err)
		}
		want.Mean(0, one)
		same := func(what string) {
			for i := range one {
				if math.Float64bits(one[i]) != math.Float64bits(two[i]) {
					r.Fatalf("value %d%s is %x, want %x", i, what, two[i], one[i])
				}
			}
		}
		same("")
		over := rapid.IntRange(1, 1000).Draw(r, "over")
		noise := func() func() (int64, error) {
			chance := rand.New(rand.NewPCG(1, 2))
			return func() (int64, error) { return chance.Int64N(1<<40) - 1<<39, nil }
		}
		if err := errors.Join(want.Noisy(0, one, over, noise()), grid.Noisy(two, 0, sums, over, 1<<40, noise())); err != nil {
			r.Fatal(err)
		}
		same(" with noise")
	})
}

// TestNoisyTellsNothingElse: what is made of a sum and noise hangs on the sum of both alone, also where somebody has sent what no update is: it is neither
// refused nor rounded before there is noise, and it stays within what updates and noise can come to.
func TestNoisyTellsNothingElse(t *testing.T) {
	grid, err := aggregate.NewGrid(aggregate.Spec{Ranges: []aggregate.Range{{Len: 1, MaxAbs: 1}, {Len: 1}}, Weights: []int64{1, 1, 1}})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		const spread = 1 << 30
		sum := rapid.Uint64().Draw(t, "sum")
		if rapid.Bool().Draw(t, "at the edge") { // where they change their sign
			sum = 1<<63 + uint64(rapid.Int64Range(-spread, spread).Draw(t, "by"))
		}
		k := rapid.Int64Range(-spread, spread).Draw(t, "noise")
		one, other := make([]float64, 2), make([]float64, 2)
		noise := func(k int64) func() (int64, error) { return func() (int64, error) { return k, nil } }
		if err := errors.Join(grid.Noisy(one, 0, []uint64{sum, sum}, 3, spread, noise(k)),
			grid.Noisy(other, 0, []uint64{sum + uint64(k), 7}, 3, spread, noise(0))); err != nil {
			t.Fatal(err)
		}
		if one[0] != other[0] || one[1] != 0 || other[1] != 0 || !(math.Abs(one[0]) < 1.01) {
			t.Errorf("sum %d and noise %d make %v, and their sum without noise %v", sum, k, one, other)
		}
	})
}

// TestWholeFenced: where the weight is no whole number, products are rounded by themselves and then to the grid, as those that are added are:
// fused, some would be others. TestPortable, one folder up, runs it where the processor can.
func TestWholeFenced(t *testing.T) {
	const n = 4096
	var chance lcg = 7
	update := make([]float32, n)
	for i := range update {
		update[i] = float32(int32(chance.next()%(1<<24))-1<<23) * 0x1p-23
	}
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: 1}}, Weights: []int64{199}}
	grid, err := aggregate.NewGrid(spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, factor := range []float64{0.9, 1 / 3.0, 0.999999} {
		want, got := make([]float64, n), make([]float64, n)
		plain, _ := aggregate.NewSum(spec)
		plain.AddWeight(199)
		plain.Add(0, update, 199*factor)
		plain.Mean(0, want)
		whole := make([]uint64, n)
		grid.Whole(whole, 0, update, 199*factor)
		if err := grid.Mean(got, 0, whole, 1, 199); err != nil {
			t.Fatal(err)
		}
		sameBits(t, got, want, "rounded before")
	}
}

// draw returns an update that spec's Check passes, with many values at the limit and around ties.
func draw(r *rapid.T, spec aggregate.Spec) []float32 {
	var update []float32
	for _, of := range spec.Ranges {
		most := float32(of.MaxAbs)
		if float64(most) > of.MaxAbs {
			most = math.Nextafter32(most, 0)
		}
		for range of.Len {
			v := float32(rapid.Float64Range(-1, 1).Draw(r, "value"))
			update = append(update, rapid.SampledFrom([]float32{v * most, v * most * 0x1p-20, most, -most, 0, float32(math.Copysign(0, -1))}).Draw(r, "kind"))
		}
	}
	return update
}

// TestGridMeanRefuses: a sum that updates of these weights cannot have is refused, and the largest that they can have is not.
func TestGridMeanRefuses(t *testing.T) {
	spec := aggregate.Spec{
		Ranges:  []aggregate.Range{{Len: 2, MaxAbs: 16}, {Len: 1}, {Len: 1, MaxAbs: 0x1p-3, Step: 1}},
		Weights: []int64{3, 5, 8},
	}
	const step = 0x1p-43 // 2^8 is 16 times 16
	for _, c := range []struct {
		name string
		at   int
		sum  int64
		ok   bool
	}{
		{"the most", 0, 8 * 16 / step, true},
		{"the least", 1, -8 * 16 / step, true},
		{"with what rounding adds", 1, -8*16/step - 2, true},
		{"too much", 0, 8*16/step + 3, false},
		{"too little", 1, -8*16/step - 3, false},
		{"a wrong mask", 0, 0x123456789abcdef0, false},
		{"the least number", 0, math.MinInt64, false},
		{"the largest number", 0, math.MaxInt64, false},
		{"where all are zero", 2, 1, false},
		{"where all are zero, below", 2, -1, false},
		{"on a coarse grid", 3, 3, true},
		{"on a coarse grid, too much", 3, 4, false},
	} {
		g, err := aggregate.NewGrid(spec)
		if err != nil {
			t.Fatal(err)
		}
		sums, mean := make([]uint64, spec.Len()), make([]float64, spec.Len())
		sums[c.at] = uint64(c.sum)
		if err := g.Mean(mean, 0, sums, 2, 8); (err == nil) != c.ok || err != nil && !errors.Is(err, aggregate.ErrBeyond) {
			t.Errorf("%s: Mean = %v, want none: %v", c.name, err, c.ok)
		}
		if !c.ok {
			continue
		}
		if want := float64(c.sum) * []float64{step, step, 0, 1}[c.at] / 8; mean[c.at] != want {
			t.Errorf("%s: mean = %v, want %v", c.name, mean[c.at], want)
		}
	}
	if _, err := aggregate.NewGrid(aggregate.Spec{}); err == nil {
		t.Error("there is a grid for no values")
	}
}

// TestWholePanics: what a checked caller cannot ask for.
func TestWholePanics(t *testing.T) {
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 4, MaxAbs: 1}}, Weights: []int64{2}}
	g, err := aggregate.NewGrid(spec)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(){
		"lengths":     func() { g.Whole(make([]uint64, 1), 0, make([]float32, 2), 1) },
		"before":      func() { g.Whole(make([]uint64, 1), -1, make([]float32, 1), 1) },
		"beyond":      func() { g.Whole(make([]uint64, 2), 3, make([]float32, 2), 1) },
		"no weight":   func() { g.Whole(make([]uint64, 1), 0, make([]float32, 1), 0) },
		"weight":      func() { g.Whole(make([]uint64, 1), 0, make([]float32, 1), 3) },
		"sums beyond": func() { _ = g.Mean(make([]float64, 2), 3, make([]uint64, 2), 1, 1) },
		"sums weight": func() { _ = g.Mean(make([]float64, 2), 0, make([]uint64, 2), 1, 3) },
		"no number":   func() { _ = g.Noisy(make([]float64, 2), 0, make([]uint64, 2), 0, 0, nil) },
		"no updates":  func() { _ = g.Mean(make([]float64, 2), 0, make([]uint64, 2), 0, 1) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
}

// FuzzWhole: no values, weights and limits make whole numbers of the grid's steps differ from what is added.
func FuzzWhole(f *testing.F) {
	f.Add([]byte("\x00\x00\x80\x3f\x00\x00\x00\x80\x01\x00\x00\x00"), uint32(1), uint32(7), 16.0)
	f.Add([]byte("\xff\xff\x7f\x3f\x00\x00\x80\x3f\xcd\xcc\xcc\xbd"), uint32(199), uint32(1<<29-1), 1.0)
	f.Fuzz(func(t *testing.T, text []byte, one, two uint32, limit float64) {
		values := make([]float32, min(len(text)/4, 1<<10))
		for i := range values {
			values[i] = math.Float32frombits(binary.LittleEndian.Uint32(text[4*i:]))
		}
		weights := []int64{int64(one%aggregate.MaxWeight) + 1, int64(two%aggregate.MaxWeight) + 1}
		spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: len(values), MaxAbs: limit}}, Weights: weights}
		if spec.Validate() != nil || spec.Check(values) != nil {
			return
		}
		want, err := aggregate.NewSum(spec)
		if err != nil {
			t.Fatal(err)
		}
		grid, err := aggregate.NewGrid(spec)
		if err != nil {
			t.Fatal(err)
		}
		whole, other := make([]uint64, len(values)), slices.Clone(values)
		slices.Reverse(other)
		sums := make([]uint64, len(values))
		var total float64
		for i, update := range [][]float32{values, other} {
			w := float64(weights[i])
			want.Add(0, update, w)
			grid.Whole(whole, 0, update, w)
			for k, v := range whole {
				sums[k] += v
				if int64(v) > 1<<51 || int64(v) < -1<<51 {
					t.Fatalf("%x times %v is %d steps", update[k], w, int64(v))
				}
			}
			total += w
		}
		a, b := make([]float64, len(values)), make([]float64, len(values))
		if err := grid.Mean(b, 0, sums, 2, total); err != nil {
			t.Fatal(err)
		}
		want.AddWeight(total)
		want.Mean(0, a)
		sameBits(t, b, a, "as whole numbers")
	})
}
