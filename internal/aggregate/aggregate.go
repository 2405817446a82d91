// Package aggregate combines the updates of a round so that the same updates give the same bits: whatever their order, the
// workers that added them, the crash in between or the processor.
//
// The plan bounds every value of an update by max_abs, and the weights of a round are declared before it opens. So when a
// round opens its sums have a largest possible magnitude max_abs*W, where W is the sum of the declared weights, and with it a
// grid: let 2^e be the least power of two that is not less than max_abs*W, and g = 2^(e-51). Each product weight*value is
// rounded once, to the nearest multiple of g (ties to even). Sums of such multiples stay below 2^53 g, hence each of them is
// a float64 and no addition rounds: addition is associative and commutative. What is lost is at most g/2 per update, which
// [Bound] turns into the most that a mean can be off.
//
// An update is one flat vector. [Spec] divides it into ranges, each with its own limit and grid; [Spec.Check] judges an update
// that came from outside, [Sum] adds it, and an [Optimizer] makes the next model of the mean:
//
//	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: 16}}, Weights: []int64{199, 172, 30, 85}}
//	sum, err := aggregate.NewSum(spec)
//	...
//	if err := spec.Check(update); err != nil { refuse }
//	sum.AddWeight(199)
//	sum.Add(0, update, 199) // or parts of it, by several workers
//	sum.Mean(0, mean)
//	rule.Step(next, base, mean, state)
//
// Go may fuse x*y+z into one instruction, which rounds once where two instructions round twice, and does so on some
// processors only. Every product here whose rounding matters is therefore fenced by a conversion, float64(x*y), and nothing
// but elementwise addition, subtraction, multiplication, division and square root decides a bit: no sum whose order a library
// chooses. On amd64 the one loop that takes updates in is assembly where the processor has AVX2 or AVX-512, made by .ci/kernels: the
// same four operations on several values at once, and no fused one.
package aggregate

import (
	"fmt"
	"math"
	"slices"
)

const (
	// MaxLen is the most values that an update may have.
	MaxLen = 1 << 40
	// MaxWeight is the largest declared weight: with it the product of a weight and a float32 is exact in float64.
	MaxWeight = 1 << 29
	// maxParticipants keeps the sum of all weights well inside an int64 and exact in a float64.
	maxParticipants = 1 << 20
	// minMaxAbs and maxMaxAbs keep every grid and every rounding constant a normal float64.
	minMaxAbs, maxMaxAbs = 0x1p-126, 0x1p127
)

// Range is a run of consecutive values of the flat vector that share a limit.
type Range struct {
	Len    int
	MaxAbs float64 // most that a value's magnitude may be; 0: all values must be 0
	Step   float64 // of the grid, a power of two; 0: the finest on which no sum rounds. See [Spec.Coarsened]
}

// Spec says how the updates of one round are judged and summed. It is made when the round opens and fixes the grids. A Spec is
// a value: nobody changes its slices afterwards.
type Spec struct {
	Ranges  []Range // in order, without gaps
	Weights []int64 // declared by the participants selected, present or not; each 1 to MaxWeight
}

// Len returns the number of values of an update.
func (s Spec) Len() int {
	n := 0
	for _, r := range s.Ranges {
		n += r.Len
	}
	return n
}

// Validate reports why no round can be summed under s, if so.
func (s Spec) Validate() error {
	if len(s.Ranges) == 0 {
		return fmt.Errorf("no values to sum")
	}
	n := 0
	for i, r := range s.Ranges {
		if r.Len < 1 || r.Len > MaxLen-n {
			return fmt.Errorf("range %d has %d values, want 1 to %d over all ranges", i, r.Len, MaxLen)
		}
		n += r.Len
		if err := CheckMaxAbs(r.MaxAbs); r.MaxAbs != 0 && err != nil {
			return fmt.Errorf("range %d: %w", i, err)
		}
	}
	if len(s.Weights) == 0 || len(s.Weights) > maxParticipants {
		return fmt.Errorf("%d weights declared, want 1 to %d", len(s.Weights), maxParticipants)
	}
	for i, w := range s.Weights {
		if w < 1 || w > MaxWeight {
			return fmt.Errorf("weight %d is %d, want 1 to %d", i, w, MaxWeight)
		}
	}
	for i, r := range s.Ranges {
		if frac, _ := math.Frexp(r.Step); r.Step != 0 && (frac != 0.5 || r.Step < step(r.MaxAbs, s.total()) || r.Step > maxMaxAbs) {
			return fmt.Errorf("range %d has a grid of %v, want a power of two and none finer than %v", i, r.Step, step(r.MaxAbs, s.total()))
		}
	}
	return nil
}

// Coarsened returns s with one grid for all its values: of the given step, a power of two, or the finest on which no sum rounds where that
// is coarser.
func (s Spec) Coarsened(least float64) Spec {
	for _, r := range s.Ranges {
		if r.MaxAbs > 0 {
			least = max(least, step(r.MaxAbs, s.total()))
		}
	}
	s.Ranges = slices.Clone(s.Ranges)
	for i, r := range s.Ranges {
		if r.MaxAbs > 0 {
			s.Ranges[i].Step = least
		}
	}
	return s
}

// CheckMaxAbs reports why v cannot be the limit of an update's values: it must be from 2^-126 to 2^127.
func CheckMaxAbs(v float64) error {
	if !(v >= minMaxAbs && v <= maxMaxAbs) { // also true for NaN
		return fmt.Errorf("max_abs is %v, want 2^-126 to 2^127", v)
	}
	return nil
}

// total returns the sum of the declared weights.
func (s Spec) total() float64 {
	var w int64
	for _, x := range s.Weights {
		w += x
	}
	return float64(w)
}

// Reason names what is wrong with an update. It is fit for logs and for peers: it says nothing of the values.
type Reason string

// The reasons for which an update is not added.
const (
	Shape     Reason = "shape"      // another number of values than the model
	NotFinite Reason = "not_finite" // a NaN or an infinity
	TooLarge  Reason = "too_large"  // a magnitude beyond the limit of its range
)

// ValueError says why an update is refused and where. It never holds a value of the update.
type ValueError struct {
	Reason Reason
	Index  int // of the first such value; for Shape, the number of values that were there
}

func (e *ValueError) Error() string {
	switch e.Reason {
	case Shape:
		return fmt.Sprintf("update has the wrong shape: %d values", e.Index)
	case NotFinite:
		return fmt.Sprintf("value %d of the update is not finite", e.Index)
	default:
		return fmt.Sprintf("value %d of the update is beyond max_abs", e.Index)
	}
}

// Check returns a [*ValueError] if the update must not be added: wrong length, then NaN or infinity, then a value beyond its
// range's limit, in this order. It reads values once and changes nothing.
func (s Spec) Check(values []float32) error {
	if len(values) != s.Len() {
		return &ValueError{Shape, len(values)}
	}
	large, lo := -1, 0
	for _, r := range s.Ranges {
		for i, x := range values[lo : lo+r.Len] {
			v := math.Abs(float64(x))
			if v <= r.MaxAbs {
				continue
			}
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return &ValueError{NotFinite, lo + i}
			}
			if large < 0 {
				large = lo + i
			}
		}
		lo += r.Len
	}
	if large >= 0 {
		return &ValueError{TooLarge, large}
	}
	return nil
}

// Bound returns the most that a value of a round's float64 mean can be off, if at least quorum of the participants that
// declared weights take part and values are at most maxAbs: half a grid step for each update over the smallest weights that
// can come together, and the rounding of the one division, g*quorum/(2*weight) + 2^-53*maxAbs. It is +Inf where nothing is
// bounded: quorum outside 1 to len(weights), or a maxAbs or weights that [Spec.Validate] refuses.
func Bound(maxAbs float64, weights []int64, quorum int) float64 {
	if maxAbs == 0 {
		return 0
	}
	s := Spec{Ranges: []Range{{Len: 1, MaxAbs: maxAbs}}, Weights: weights}
	if s.Validate() != nil || quorum < 1 || quorum > len(weights) {
		return math.Inf(1)
	}
	least := slices.Clone(weights)
	slices.Sort(least)
	var w int64
	for _, x := range least[:quorum] {
		w += x
	}
	g := step(maxAbs, s.total())
	return float64(g*float64(quorum))/float64(2*w) + float64(maxAbs*0x1p-53)
}

// Memory returns how many bytes a round needs at once, beside its models: the sums, 8 bytes a parameter once, and the updates
// that are held whole while they are checked, 4 bytes a parameter for each of the participants that send at the same time. It is the largest int64 where that is more than an int64 holds.
func Memory(spec Spec, params, participants int) int64 {
	if params < 0 || participants < 0 {
		return 0
	}
	fixed := int64(len(spec.Weights))*8 + int64(len(spec.Ranges))*gridSize
	if participants > (math.MaxInt64-8)/4-2 {
		return math.MaxInt64
	}
	each := 8 + 4*int64(participants)
	if int64(params) > (math.MaxInt64-fixed)/each {
		return math.MaxInt64
	}
	return fixed + int64(params)*each
}
