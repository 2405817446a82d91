package codec_test

import (
	"cmp"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/codec"
)

func TestLargest(t *testing.T) {
	const tiny = math.SmallestNonzeroFloat32
	for _, c := range []struct {
		name           string
		values, unsent []float32
		k              int
		limit          float64
		sent, left     []float32
	}{
		{"nothing", nil, nil, 1, 1, nil, nil},
		{"the largest by magnitude", []float32{1, -3, 2}, []float32{0, 0, 0}, 1, 9, []float32{0, -3, 0}, []float32{1, 0, 2}},
		{"with what was left", []float32{1, -3, 2}, []float32{4, 1, 0}, 1, 9, []float32{5, 0, 0}, []float32{0, -2, 2}},
		{"the first of those alike", []float32{2, -1, 1, -1, 1}, []float32{0, 0, 0, 0, 0}, 3, 9, []float32{2, -1, 1, 0, 0}, []float32{0, 0, 0, -1, 1}},
		{"as many as there are", []float32{2, -1}, []float32{1, 1}, 2, 9, []float32{3, 0}, []float32{0, 0}},
		{"more than there are", []float32{2, -1}, []float32{0, 0}, 9, 9, []float32{2, -1}, []float32{0, 0}},
		{"none of any size", []float32{0, 0, 0}, []float32{0, 0, 0}, 1, 9, []float32{0, 0, 0}, []float32{0, 0, 0}},
		{"beyond the limit", []float32{3, -4, 1}, []float32{2, -2, 0}, 2, 4.5, []float32{4.5, -4.5, 0}, []float32{0.5, -1.5, 1}},
		{"a limit that is no float32", []float32{1}, []float32{0}, 1, 1 - 0x1p-40, []float32{1 - 0x1p-24}, []float32{0x1p-24}},
		{"the smallest there are", []float32{tiny, 2 * tiny, 0}, []float32{0, 0, 0}, 1, 1, []float32{0, 2 * tiny, 0}, []float32{tiny, 0, 0}},
		{"alike but for their lowest bit", []float32{1, 1 + 0x1p-23, 1}, []float32{0, 0, 0}, 1, 2, []float32{0, 1 + 0x1p-23, 0}, []float32{1, 0, 1}},
	} {
		codec.Largest(c.values, c.unsent, c.k, c.limit)
		if !slices.Equal(c.values, c.sent) || !slices.Equal(c.unsent, c.left) {
			t.Errorf("%s: %v are sent and %v left, want %v and %v", c.name, c.values, c.unsent, c.sent, c.left)
		}
	}
}

func TestLargestPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic where what is unsent has another length")
		}
	}()
	codec.Largest(make([]float32, 2), make([]float32, 1), 1, 1)
}

// TestLargestSum follows a member over rounds. What it has sent in all and what it has left are together its updates, exactly, once the
// roundings of its additions are counted, each of which is half a unit in the last place at most. Each round it sends what sorting says.
func TestLargestSum(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(r, "length")
		k := rapid.IntRange(1, n+1).Draw(r, "k")
		limit := rapid.SampledFrom([]float64{0.25, 1, 1e30}).Draw(r, "limit")
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 0))
		unsent := make([]float32, n)
		exact := func(v float32) *big.Float { return new(big.Float).SetPrec(600).SetFloat64(float64(v)) }
		all := make([]*big.Float, n) // updates, and roundings, less what was sent
		for i := range all {
			all[i] = exact(0)
		}
		for range rapid.IntRange(1, 12).Draw(r, "rounds") {
			sent, sums, order := make([]float32, n), make([]float32, n), make([]int, n)
			for i := range sent {
				sent[i] = float32(math.Ldexp(math.Trunc(32*(2*chance.Float64()-1)), chance.IntN(9)-9)) // some alike
				all[i].Add(all[i], exact(sent[i]))
				sums[i], order[i] = sent[i]+unsent[i], i
				rounding := new(big.Float).Sub(exact(sums[i]), new(big.Float).Add(exact(sent[i]), exact(unsent[i])))
				if half := math.Abs(float64(sums[i])) * 0x1p-24; new(big.Float).Abs(rounding).Cmp(big.NewFloat(half)) > 0 {
					r.Fatalf("%v and %v are %v, %v off", sent[i], unsent[i], sums[i], rounding)
				}
				all[i].Add(all[i], rounding)
			}
			slices.SortStableFunc(order, func(a, b int) int { return -cmp.Compare(math.Abs(float64(sums[a])), math.Abs(float64(sums[b]))) })
			codec.Largest(sent, unsent, k, limit)
			for rank, i := range order {
				want := float32(0)
				if rank < k {
					want = float32(max(-limit, min(float64(sums[i]), limit)))
				}
				if sent[i] != want {
					r.Fatalf("of %v %v is sent, want %v", sums[i], sent[i], want)
				}
				all[i].Sub(all[i], exact(sent[i]))
			}
		}
		for i, v := range unsent {
			if all[i].Cmp(exact(v)) != 0 {
				r.Fatalf("%v is left of a value, want %v", v, all[i])
			}
		}
	})
}

func BenchmarkLargest(b *testing.B) {
	const n = 1 << 20
	chance := rand.New(rand.NewPCG(7, 8))
	update, sent, unsent := make([]float32, n), make([]float32, n), make([]float32, n)
	for i := range update {
		update[i] = float32(0.02 * chance.NormFloat64())
	}
	b.SetBytes(4 * n)
	for b.Loop() {
		copy(sent, update)
		codec.Largest(sent, unsent, n/100, 16)
	}
}
