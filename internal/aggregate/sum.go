package aggregate

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/floats"
)

// block is how many values go through gonum at a time: 16 KiB of float64, which stay in the first-level cache over the four
// passes.
const block = 2048

// gridSize is about what a range costs in memory.
const gridSize = 64

// grid is a range with the constants of its rounding.
type grid struct {
	lo, hi int
	magic  float64 // 1.5 * 2^52 * g: adding and subtracting it rounds to a multiple of g. 0 where all values are 0
}

// step returns g = 2^(e-51), where 2^e is the least power of two that is not less than maxAbs*total. The product may round
// down by half a unit in its last place, which at worst lets 2^e be that much less than the exact product: the sums keep
// within 2^53 g by a factor of nearly four.
func step(maxAbs, total float64) float64 {
	frac, exp := math.Frexp(float64(maxAbs * total)) // maxAbs*total = frac * 2^exp, frac in [1/2, 1)
	if frac == 0.5 {
		exp--
	}
	return math.Ldexp(1, exp-51)
}

// Sum is the weighted sum of a round's updates, exact on its grids. It holds 8 bytes a value, whatever the number of updates.
//
// Add and Mean may be called by several goroutines at once over disjoint parts of the vector; AddWeight by one at a time.
// Sum trusts what it is given: the caller has checked each update with [Spec.Check], and adds each of its values once, with
// the weight that its participant declared. It panics for a part or a weight that a checked caller cannot have.
type Sum struct {
	sum      []float64
	grids    []grid
	declared float64 // sum of the declared weights
	weight   float64 // of the updates added
}

// NewSum returns an empty sum for spec, or why there is none.
func NewSum(spec Spec) (*Sum, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	s := &Sum{sum: make([]float64, spec.Len()), declared: spec.total()}
	lo := 0
	for _, r := range spec.Ranges {
		g := grid{lo: lo, hi: lo + r.Len}
		if r.MaxAbs > 0 {
			g.magic = 0x1.8p52 * step(r.MaxAbs, s.declared)
		}
		s.grids = append(s.grids, g)
		lo = g.hi
	}
	return s, nil
}

// Add adds weight times part to the values from lo on. Each product is rounded to the grid once; then nothing rounds any more.
// With whole weights up to MaxWeight the product itself is exact. It takes up to 16 KiB of memory while it lasts.
func (s *Sum) Add(lo int, part []float32, weight float64) {
	if !(weight > 0 && weight <= s.declared) {
		panic("aggregate: the weight is not within those that were declared")
	}
	s.within(lo, len(part))
	buf := make([]float64, min(block, len(part)))
	for _, g := range s.grids {
		from, to := max(lo, g.lo), min(lo+len(part), g.hi)
		if g.magic == 0 {
			continue // checked to be 0, and so is their sum
		}
		for ; from < to; from += block {
			dst := s.sum[from:min(from+block, to)]
			addBlock(dst, part[from-lo:][:len(dst)], weight, g.magic, buf[:len(dst)])
		}
	}
}

// addBlock adds weight*src, rounded to the grid, to dst. Each of the four calls is elementwise and rounds by itself.
func addBlock(dst []float64, src []float32, weight, magic float64, buf []float64) {
	for i, x := range src {
		buf[i] = float64(x)
	}
	floats.Scale(weight, buf)
	floats.AddConst(magic, buf)
	floats.AddConst(-magic, buf)
	floats.Add(dst, buf)
}

// AddWeight counts the weight of an update whose values are being added. Whole weights add up exactly in any order.
func (s *Sum) AddWeight(w float64) {
	if !(w > 0 && w <= s.declared-s.weight) {
		panic("aggregate: more weight is added than was declared")
	}
	s.weight += w
}

// Mean fills dst with the weighted mean of the values from lo on: the exact sum over the weight added, rounded once.
func (s *Sum) Mean(lo int, dst []float64) {
	if s.weight == 0 {
		panic("aggregate: mean of no updates")
	}
	s.within(lo, len(dst))
	for i, v := range s.sum[lo : lo+len(dst)] {
		dst[i] = v / s.weight
	}
}

// within panics unless the n values from lo on are part of the vector.
func (s *Sum) within(lo, n int) {
	if lo < 0 || lo > len(s.sum) || n > len(s.sum)-lo {
		panic(fmt.Sprintf("aggregate: part of %d values at %d, the vector has %d", n, lo, len(s.sum)))
	}
}
