package aggregate

import (
	"errors"
	"fmt"
	"math"
)

// ErrBeyond is wrapped where a sum of whole numbers is one that updates within the limits cannot have.
var ErrBeyond = errors.New("beyond what these updates can sum to")

// Grid is where the values of a round's updates are rounded to, for those who send whole numbers of its steps instead of values: so sums
// can be made modulo 2^64, under masks. It may be used by several goroutines at once.
type Grid struct {
	grids    []grid
	declared float64
	n        int
}

// NewGrid returns the grid of spec, or why there is none.
func NewGrid(spec Spec) (*Grid, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	return &Grid{spec.grids(), spec.total(), spec.Len()}, nil
}

// Whole fills dst with weight times part, the values from lo on of an update that [Spec.Check] has passed, each rounded to a whole number of
// steps of the grid, in two's complement. They are the steps that [Sum.Add] adds, bit by bit; all are at most 2^51 in magnitude. It panics
// where Add does.
func (g *Grid) Whole(dst []uint64, lo int, part []float32, weight float64) {
	if len(dst) != len(part) {
		panic("aggregate: a part is rounded into one of another length")
	}
	if lo < 0 || lo > g.n || len(part) > g.n-lo {
		panic(fmt.Sprintf("aggregate: part of %d values at %d, the vector has %d", len(part), lo, g.n))
	}
	if !(weight > 0 && weight <= g.declared) {
		panic("aggregate: the weight is not within those that were declared")
	}
	for _, r := range g.grids {
		from, to := max(lo, r.lo), min(lo+len(part), r.hi)
		if from >= to {
			continue
		}
		if r.magic == 0 {
			clear(dst[from-lo : to-lo]) // checked to be 0
			continue
		}
		whole(dst[from-lo:to-lo], part[from-lo:to-lo], weight, r.magic)
	}
}

// whole fills dst, which is as long as src. A float64 from 2^52 to 2^53 steps has the step as unit of its last place, so what rounding adds
// to magic is the difference of the two bit patterns.
func whole(dst []uint64, src []float32, weight, magic float64) {
	dst = dst[:len(src)]
	zero := math.Float64bits(magic)
	for i, x := range src {
		r := float64(weight * float64(x))
		dst[i] = math.Float64bits(float64(r+magic)) - zero
	}
}

// Mean fills dst with the weighted mean of the values from lo on, of sums modulo 2^64 of what [Grid.Whole] gave for so many updates, whose
// weights come to weight: what [Sum.Mean] gives for the updates themselves, to the bit. A value that no updates within their limits can
// sum to is an error that wraps [ErrBeyond] and says which it is, not what.
func (g *Grid) Mean(dst []float64, lo int, sums []uint64, updates int, weight float64) error {
	g.within(len(dst), lo, sums)
	if !(weight > 0 && weight <= g.declared) || updates < 1 {
		panic("aggregate: the weight is not within those that were declared")
	}
	for _, r := range g.grids {
		step := r.magic / 0x1.8p52
		// Each update rounds up by half a step at most; the product itself rounds once, by less than a step.
		most := float64(r.most*weight) + float64(updates)/2 + 1
		if step == 0 {
			most = 0
		}
		for i := max(lo, r.lo); i < min(lo+len(sums), r.hi); i++ {
			v := float64(int64(sums[i-lo])) // exact where it is not refused
			if math.Abs(v) > most {
				return fmt.Errorf("value %d of the sum is %w", i, ErrBeyond)
			}
			dst[i-lo] = float64(v*step) / weight
		}
	}
	return nil
}

// Noisy is [Grid.Mean] with noise, over a number that does not depend on whose updates were added: what [Sum.Noisy] gives for the updates
// themselves, to the bit, where the noise has at most spread steps.
//
// No value is refused, or somebody whose own vector is not within its limits could ask, refusal by refusal, how large the sum of the others is,
// without noise. So the noise is added modulo 2^64, as masks are, before anything else is done with a value: what is written hangs on the sum and the noise by
// their sum alone. One that is then beyond what all updates and spread can come to is cut to that.
func (g *Grid) Noisy(dst []float64, lo int, sums []uint64, over int, spread int64, noise func() (int64, error)) error {
	g.within(len(dst), lo, sums)
	if over < 1 || spread < 0 || spread > 1<<50 {
		panic("aggregate: mean over no updates, or with noise that no grid holds")
	}
	for _, r := range g.grids {
		step := r.magic / 0x1.8p52
		most := float64(r.most*g.declared) + g.declared/2 + 1 + float64(spread) // less than 2^53
		for i := max(lo, r.lo); i < min(lo+len(sums), r.hi); i++ {
			if step == 0 {
				dst[i-lo] = 0
				continue
			}
			k, err := noise()
			if err != nil {
				return fmt.Errorf("noise for value %d: %w", i, err)
			}
			v := max(-most, min(most, float64(int64(sums[i-lo]+uint64(k)))))
			dst[i-lo] = float64(v*step) / float64(over)
		}
	}
	return nil
}

// within panics unless sums are part of the vector, and as many as there is room for.
func (g *Grid) within(room, lo int, sums []uint64) {
	if room != len(sums) || lo < 0 || lo > g.n || len(sums) > g.n-lo {
		panic(fmt.Sprintf("aggregate: mean of %d values at %d into %d, the vector has %d", len(sums), lo, room, g.n))
	}
}
