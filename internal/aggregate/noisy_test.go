package aggregate_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"consilium.dev/internal/aggregate"
)

// TestNoisy: steps of the grid are added exactly to each value that may differ from 0, over a number that is not that of the updates, and
// the sum stays as it was.
func TestNoisy(t *testing.T) {
	spec := aggregate.Spec{
		Ranges:  []aggregate.Range{{Len: 3, MaxAbs: 16}, {Len: 2}, {Len: 2, MaxAbs: 1}},
		Weights: []int64{1, 1, 1},
	}.Coarsened(0x1p-20)
	sum, err := aggregate.NewSum(spec)
	if err != nil {
		t.Fatal(err)
	}
	sum.AddWeight(1)
	sum.Add(0, []float32{1, -2, 3 + 0x1p-21, 0, 0, 0.25, 0.5}, 0.5)
	for range 2 {
		k := int64(0)
		got := make([]float64, 5)
		if err := sum.Noisy(1, got, 4, func() (int64, error) { k++; return k << 30, nil }); err != nil {
			t.Fatal(err)
		}
		// The third value is half of 3 + 2^-21, rounded to the grid: ties and less go to 1.5.
		want := []float64{(-1 + 0x1p10) / 4, (1.5 + 0x1p11) / 4, 0, 0, (0.125 + 3*0x1p10) / 4}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("value %d = %v, want %v", i+1, got[i], want[i])
			}
		}
	}
	broken := errors.New("no more")
	if err := sum.Noisy(0, make([]float64, 1), 4, func() (int64, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("without chance: %v, want %v", err, broken)
	}
}

// TestCoarsened: one grid for all values, no finer than the finest on which no sum rounds, and none other is taken.
func TestCoarsened(t *testing.T) {
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 1, MaxAbs: 16}, {Len: 1, MaxAbs: 1}, {Len: 1}}, Weights: []int64{3}}
	for _, c := range []struct{ least, want float64 }{{0x1p-60, 0x1p-45}, {0x1p-45, 0x1p-45}, {0x1p-10, 0x1p-10}} {
		got := spec.Coarsened(c.least)
		if got.Ranges[0].Step != c.want || got.Ranges[1].Step != c.want || got.Ranges[2].Step != 0 || spec.Ranges[0].Step != 0 || got.Validate() != nil {
			t.Errorf("Coarsened(%v) = %+v, %v, want %v", c.least, got.Ranges, got.Validate(), c.want)
		}
	}
	for _, step := range []float64{0x1p-46, 0.75, -1, math.NaN(), math.Inf(1)} {
		bad := aggregate.Spec{Ranges: []aggregate.Range{{Len: 1, MaxAbs: 16, Step: step}}, Weights: []int64{3}}
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), "want a power of two") {
			t.Errorf("a grid of %v: %v, want a refusal", step, err)
		}
	}
}
