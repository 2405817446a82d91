package aggregate_test

import (
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/aggregate"
)

func fedBuff(t testing.TB, params map[string]any) aggregate.Buffer {
	t.Helper()
	if params["buffer_size"] == nil {
		params["buffer_size"] = 4.0
	}
	return strategy(t, "fedbuff", params).Buffer()
}

// TestFedBuffWeighs pins the weights of stale updates, in 2^-28, which every processor must reach.
func TestFedBuffWeighs(t *testing.T) {
	for _, c := range []struct {
		exponent  float64
		staleness int
		want      float64
	}{
		{0.5, 0, 1 << 28},
		{0.5, 1, 189812531}, // 2^27.5
		{0.5, 2, 154981283},
		{0.5, 3, 1 << 27},
		{0.5, 1 << 16, 1048568},
		{0, 1000, 1 << 28},
		{1, 1, 1 << 27},
		{1, 4, 53687091},
		{1.5, 3, 1 << 25},
		{8, 1, 1 << 20},
		{8, 100, 1}, // never nothing
		{0.3, 9, 134536424},
	} {
		weight, counted := fedBuff(t, map[string]any{"exponent": c.exponent}).Weigh(77, c.staleness)
		if weight != c.want || counted != 1<<28 {
			t.Errorf("exponent %v, staleness %d: weighs %v and counts as %v, want %v and 2^28", c.exponent, c.staleness, weight, counted, c.want)
		}
		s := fedBuff(t, map[string]any{"exponent": c.exponent, "normalize": "sum_of_weights"})
		if weight, counted := s.Weigh(77, c.staleness); weight != c.want || counted != c.want {
			t.Errorf("exponent %v, staleness %d: weighs %v and counts as %v, want %v twice", c.exponent, c.staleness, weight, counted, c.want)
		}
	}
	if weight, counted := strategy(t, "fedavg", nil).Buffer().Weigh(77, 0); weight != 77 || counted != 77 {
		t.Errorf("under fedavg 77 records weigh %v and count as %v", weight, counted)
	}
}

// TestFedBuffWeighsRight: a weight is within one step of 2^-28 of the power that the paper says.
func TestFedBuffWeighsRight(top *testing.T) {
	rapid.Check(top, func(t *rapid.T) {
		exponent := rapid.Float64Range(0, 8).Draw(t, "exponent")
		staleness := rapid.IntRange(0, 1<<16).Draw(t, "staleness")
		got, _ := fedBuff(top, map[string]any{"exponent": exponent}).Weigh(1, staleness)
		want := math.Max(0x1p28*math.Pow(float64(1+staleness), -exponent), 1)
		if got != math.Trunc(got) || math.Abs(got-want) > 0.51 {
			t.Errorf("weight = %v, want %v, rounded", got, want)
		}
	})
}

func TestFedBuffStaleness(t *testing.T) {
	few := fedBuff(t, map[string]any{"max_staleness": 2.0})
	for _, c := range []struct {
		buffer     aggregate.Buffer
		open, base int
		want       int
		reason     aggregate.Reason
	}{
		{few, 5, 5, 0, ""},
		{few, 5, 3, 2, ""},
		{few, 5, 2, 0, aggregate.TooStale},
		{few, 5, 6, 0, aggregate.FromTheFuture},
		{fedBuff(t, map[string]any{}), 1 << 16, 1, 1<<16 - 1, ""},
		{strategy(t, "fedavg", nil).Buffer(), 5, 5, 0, ""},
		{strategy(t, "fedavg", nil).Buffer(), 5, 4, 0, aggregate.TooStale},
		{strategy(t, "fedavg", nil).Buffer(), 5, 6, 0, aggregate.FromTheFuture},
	} {
		if got, reason := c.buffer.Staleness(c.open, c.base); got != c.want || reason != c.reason {
			t.Errorf("%+v: base of round %d in round %d: staleness %d, %q, want %d, %q", c.buffer, c.base, c.open, got, reason, c.want, c.reason)
		}
	}
	if n := few.Size(); n != 4 {
		t.Errorf("buffer of %d, want 4", n)
	}
	if n := strategy(t, "fedavg", nil).Buffer().Size(); n != 0 {
		t.Errorf("fedavg has a buffer of %d", n)
	}
}

// stale is an update that is so stale.
type stale struct {
	party
	staleness int
}

// buffered empties a buffer: updates are added in the order given, each part of the vector by a worker of its own that begins at another of them.
func buffered(t testing.TB, s aggregate.Buffer, maxAbs float64, all []stale, order []int, workers int) []float64 {
	t.Helper()
	n, records := len(all[0].update), make([]int64, len(all))
	for i, u := range all {
		records[i] = u.weight
	}
	sum, err := aggregate.NewSum(aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: maxAbs}}, Weights: s.Weights(records)})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range order {
		_, counted := s.Weigh(all[i].weight, all[i].staleness)
		sum.AddWeight(counted)
	}
	mean := make([]float64, n)
	var g sync.WaitGroup
	for w := range workers {
		lo, hi, first := w*n/workers, (w+1)*n/workers, w*len(order)/workers
		g.Go(func() {
			for k := range order {
				u := all[order[(first+k)%len(order)]]
				weight, _ := s.Weigh(u.weight, u.staleness)
				sum.Add(lo, u.update[lo:hi], weight)
			}
			sum.Mean(lo, mean[lo:hi])
		})
	}
	g.Wait()
	return mean
}

// TestFedBuffSameBits: whoever comes first, and whoever adds, the bits are the same; and what the sum is divided into is as near what 400 bits give
// as the round promises.
func TestFedBuffSameBits(top *testing.T) {
	rapid.Check(top, func(t *rapid.T) {
		const maxAbs, rounds = 16, 200
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 9))
		params := map[string]any{
			"exponent": rapid.SampledFrom([]float64{0, 0.3, 0.5, 1, 2}).Draw(t, "exponent"), "buffer_size": 4.0,
			"normalize":     rapid.SampledFrom([]string{"buffer_size", "sum_of_weights"}).Draw(t, "normalize"),
			"max_staleness": float64(rapid.IntRange(0, 300).Draw(t, "max_staleness")),
		}
		s := fedBuff(top, params)
		var all []stale
		for _, p := range parties(chance, rapid.IntRange(1, 30).Draw(t, "updates"), rapid.IntRange(1, 60).Draw(t, "values"), 500, maxAbs) {
			all = append(all, stale{p, chance.IntN(min(s.MaxStaleness(), rounds-1) + 1)})
		}
		want := buffered(top, s, maxAbs, all, chance.Perm(len(all)), 1)
		got := buffered(top, s, maxAbs, all, chance.Perm(len(all)), rapid.IntRange(1, 4).Draw(t, "workers"))
		sameBits(top, got, want, "in another order")
		var records []int64
		for _, u := range all {
			records = append(records, u.weight)
		}
		bound := s.Bound(maxAbs, records, len(all), rounds)
		for j := range want {
			sum, by := new(big.Float).SetPrec(400), new(big.Float).SetPrec(400)
			for _, u := range all {
				weight, counted := s.Weigh(u.weight, u.staleness)
				x := new(big.Float).SetPrec(400).SetFloat64(float64(u.update[j]))
				sum.Add(sum, x.Mul(x, new(big.Float).SetFloat64(weight)))
				by.Add(by, new(big.Float).SetFloat64(counted))
			}
			if d := off(want[j], sum.Quo(sum, by)); d > bound {
				t.Fatalf("value %d is off by %g, and the bound is %g", j, d, bound)
			}
		}
	})
}

// TestFedBuffBound: the bound of a mean that is divided by small weights grows with how small they may be, and no other does.
func TestFedBuffBound(t *testing.T) {
	records := []int64{10, 500, 70}
	plain := aggregate.Bound(16, []int64{1 << 28, 1 << 28, 1 << 28}, 2)
	for _, c := range []struct {
		params map[string]any
		rounds int
		want   float64
	}{
		{map[string]any{}, 100, plain},
		{map[string]any{"normalize": "sum_of_weights"}, 1, plain},
		{map[string]any{"normalize": "sum_of_weights"}, 4, 2 * plain},
		{map[string]any{"normalize": "sum_of_weights", "exponent": 1.0, "max_staleness": 3.0}, 100, 4 * plain},
		{map[string]any{"normalize": "sum_of_weights", "max_staleness": 0.0}, 100, plain},
	} {
		if got := fedBuff(t, c.params).Bound(16, records, 2, c.rounds); got != c.want {
			t.Errorf("%v in %d rounds: bound %v, want %v", c.params, c.rounds, got, c.want)
		}
	}
	if got, want := strategy(t, "fedavg", nil).Buffer().Bound(16, records, 2, 9), aggregate.Bound(16, records, 2); got != want {
		t.Errorf("fedavg: bound %v, want %v", got, want)
	}
	if w := (aggregate.Buffer{}).Weights(records); !slices.Equal(w, records) {
		t.Errorf("without a strategy weights are %v", w)
	}
}

// TestFedBuffRefusesToWeigh: who has not asked [aggregate.Buffer.Staleness] is at fault.
func TestFedBuffRefusesToWeigh(t *testing.T) {
	for _, staleness := range []int{-1, 3} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("an update of staleness %d is weighed", staleness)
				}
			}()
			fedBuff(t, map[string]any{"max_staleness": 2.0}).Weigh(1, staleness)
		}()
	}
}
