package aggregate

import (
	"fmt"
	"math"
)

// block is how many values of the sum take in several updates before the next values do: 4 KiB of float64, which stay in the
// first-level cache meanwhile. So the sum goes through memory once for all of them.
const block = 512

// AtOnce is the most updates for which one pass over the sum pays: with more, the streams that are read at the same time get into each
// other's way in the caches. [Sum.AddAll] takes any number, so many at a time.
const AtOnce = 4

// gridSize is about what a range costs in memory.
const gridSize = 64

// grid is a range with the constants of its rounding.
type grid struct {
	lo, hi int
	magic  float64 // 1.5 * 2^52 * g: adding and subtracting it rounds to a multiple of g. 0 where all values are 0
	most   float64 // max_abs in steps of g
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
// Add, AddAll and Mean may be called by several goroutines at once over disjoint parts of the vector; AddWeight by one at a time.
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
	return NewSumIn(make([]float64, spec.Len()), spec)
}

// NewSumIn is NewSum in memory that the caller has, all zeros; nobody else uses it while the sum is used.
func NewSumIn(memory []float64, spec Spec) (*Sum, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if len(memory) != spec.Len() {
		return nil, fmt.Errorf("memory for %d values, the sum has %d", len(memory), spec.Len())
	}
	return &Sum{sum: memory, grids: spec.grids(), declared: spec.total()}, nil
}

// grids returns the grids of a spec that is valid.
func (s Spec) grids() []grid {
	all := make([]grid, 0, len(s.Ranges))
	lo, total := 0, s.total()
	for _, r := range s.Ranges {
		g := grid{lo: lo, hi: lo + r.Len}
		if r.MaxAbs > 0 {
			size := max(r.Step, step(r.MaxAbs, total))
			g.magic, g.most = 0x1.8p52*size, r.MaxAbs/size
		}
		all = append(all, g)
		lo = g.hi
	}
	return all
}

// Add adds weight times part to the values from lo on. Each product is rounded to the grid once; then nothing rounds any more.
// With whole weights up to MaxWeight the product itself is exact. It takes no memory.
func (s *Sum) Add(lo int, part []float32, weight float64) {
	s.AddAll(lo, [][]float32{part}, []float64{weight})
}

// AddAll adds the parts of several updates, all of one length, each with its weight, to the values from lo on, in one pass over the
// sum for [AtOnce] of them. It is as if each were added by itself.
func (s *Sum) AddAll(lo int, parts [][]float32, weights []float64) {
	if len(parts) != len(weights) || len(parts) == 0 {
		panic("aggregate: as many parts as weights, and one at least, are to be added")
	}
	n := len(parts[0])
	s.within(lo, n)
	for i, w := range weights {
		if !(w > 0 && w <= s.declared) {
			panic("aggregate: the weight is not within those that were declared")
		}
		if len(parts[i]) != n {
			panic("aggregate: parts of different lengths are to be added at once")
		}
	}
	for i := 0; i < len(parts); i += AtOnce {
		k := min(i+AtOnce, len(parts))
		s.pass(lo, n, parts[i:k], weights[i:k])
	}
}

// pass adds a few updates' values in one pass over the sum.
func (s *Sum) pass(lo, n int, parts [][]float32, weights []float64) {
	for _, g := range s.grids {
		from, to := max(lo, g.lo), min(lo+n, g.hi)
		if g.magic == 0 {
			continue // checked to be 0, and so is their sum
		}
		for ; from < to; from += block {
			dst := s.sum[from:min(from+block, to)]
			for i, w := range weights {
				addTo(dst, parts[i][from-lo:][:len(dst)], w, g.magic)
			}
		}
	}
}

// adder adds weight*src, rounded to the grid that magic stands for, to dst, which is as long: for each value a product, a sum, a
// difference and a sum, each rounded by itself. All adders give the same bits.
type adder func(dst []float64, src []float32, weight, magic float64)

// kernel is an adder that this processor can run.
type kernel struct {
	name string
	add  adder
}

// addTo is the fastest of them.
var addTo = kernels[len(kernels)-1].add

// addLoop is the adder that runs everywhere. The conversions keep a compiler from fusing the product with what follows.
func addLoop(dst []float64, src []float32, weight, magic float64) {
	dst = dst[:len(src)]
	for i, x := range src {
		r := float64(weight * float64(x))
		dst[i] += float64(float64(r+magic) - magic)
	}
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
