package coordinator_test

import (
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/coordinator"
)

// TestHoldAdds: updates that come faster than they are added are added several at a time, by all cores; the mean has the bits of one after
// the other, and their memory is given back.
func TestHoldAdds(t *testing.T) {
	const n, k = 1<<17 + 1, 11 // more than two workers' blocks
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 1 << 16, MaxAbs: 16}, {Len: n - 1<<16, MaxAbs: 8}}}
	var updates [][]float32
	for i := range k {
		spec.Weights = append(spec.Weights, int64(100+i))
		updates = append(updates, series(n, i+1))
	}
	one, err := aggregate.NewSum(spec)
	if err != nil {
		t.Fatal(err)
	}
	for i, u := range updates {
		one.AddWeight(float64(spec.Weights[i]))
		one.Add(0, u, float64(spec.Weights[i]))
	}
	want := make([]float64, n)
	one.Mean(0, want)
	for range 5 {
		h := coordinator.NewHold(4*n*k, time.Minute, 1)
		got, err := h.Sum(spec, updates)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if math.Float64bits(got[i]) != math.Float64bits(want[i]) {
				t.Fatalf("value %d of the mean is %x, want %x", i, got[i], want[i])
			}
		}
		if _, ok := h.Try("member", 4*n*k); !ok {
			t.Error("not all memory was given back")
		}
		h.Close()
	}
}

// BenchmarkAddAll adds four updates that wait, by one core and by two, by turns with one core that copies as many bytes.
func BenchmarkAddAll(b *testing.B) {
	const n = 4 << 20
	updates := make([][]float32, aggregate.AtOnce)
	for i := range updates {
		updates[i] = series(n, i+1)
	}
	other := make([]float32, n)
	acc, err := aggregate.NewSum(aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: 16}}, Weights: make64(1<<16, 1<<20)})
	if err != nil {
		b.Fatal(err)
	}
	cores := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(cores)
	var copied, one, two []float64
	rate := func(cores int, f func()) float64 {
		runtime.GOMAXPROCS(cores)
		began := time.Now()
		f()
		return 4 * n * aggregate.AtOnce / float64(time.Since(began))
	}
	for b.Loop() {
		copied = append(copied, rate(1, func() {
			for _, u := range updates {
				copy(other, u)
			}
		}))
		one = append(one, rate(1, func() { coordinator.AddAll(acc, 1, updates...) }))
		two = append(two, rate(2, func() { coordinator.AddAll(acc, 1, updates...) }))
	}
	b.ReportMetric(median(one), "GB/s-one-core")
	b.ReportMetric(median(one)/median(copied), "of-copy")
	b.ReportMetric(median(two)/median(one), "two-cores/one")
}

// make64 returns n whole numbers v.
func make64(n int, v int64) []int64 { return slices.Repeat([]int64{v}, n) }

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}
