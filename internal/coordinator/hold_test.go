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

// BenchmarkAddAll adds four updates that wait, by one core and by two, some times each by turns. It takes the best turn of either: what else the machine does
// leaves two cores free at the same time less often than one.
func BenchmarkAddAll(b *testing.B) {
	const n, some, turns = 4 << 20, 50, 1000
	updates := make([][]float32, aggregate.AtOnce)
	for i := range updates {
		updates[i] = series(n, i+1)
	}
	acc, err := aggregate.NewSum(aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: 16}}, Weights: slices.Repeat([]int64{1 << 20}, 1<<18)})
	if err != nil {
		b.Fatal(err)
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	best := [2]time.Duration{math.MaxInt64, math.MaxInt64}
	for b.Loop() {
		for turn := range turns {
			cores := turn / some % 2
			if turn%some == 0 {
				runtime.GOMAXPROCS(cores + 1)
			}
			began := time.Now()
			coordinator.AddAll(acc, 1, updates...)
			best[cores] = min(best[cores], time.Since(began))
		}
	}
	b.ReportMetric(4*n*aggregate.AtOnce/float64(best[0]), "GB/s-one-core")
	if runtime.NumCPU() > 1 {
		b.ReportMetric(float64(best[0])/float64(best[1]), "two-cores/one")
	}
}
