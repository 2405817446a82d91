package aggregate

import (
	"fmt"
	"math"
)

// normClippingRule is FedAvg over updates that are no longer than max_norm: McMahan et al. 2018, arXiv:1710.06963 (FlatClip, PerLayerClip);
// Sun et al. 2019, arXiv:1911.07963, as a defence.
//
//	x += learning_rate * sum w_i*min(1, max_norm/|update_i|)*update_i / sum w_i
//
// w_i are the records declared. The norm is that of the whole update with scope "flat", and of each tensor by itself with "per_tensor". An update that
// is exactly as long as max_norm is not shortened. It is shortened when it is added, so the round needs no more memory than FedAvg's. No noise is
// added: this promises nothing of privacy.
//
//	learning_rate   1      above 0 to 1e6
//	max_norm        -      2^-126 to the largest float32
//	scope           flat   flat or per_tensor
func normClippingRule(p *params) rule {
	r := fedAvgRule(p)
	r.clip = &clip{most: p.number("max_norm", math.NaN(), 0x1p-126, math.MaxFloat32), perTensor: p.choice("scope", "flat", "per_tensor") == "per_tensor"}
	return r
}

type clip struct {
	most      float64
	perTensor bool
}

// Norm returns the Euclidean norm of an update's values. Nothing overflows and nothing vanishes, and the bits are those of every processor: blocks
// are summed by themselves and added up in their order.
func Norm(values []float32) float64 {
	sum, n := 0.0, gatherBlock(len(values))
	for lo := 0; lo < len(values); lo += n {
		sum += squares(values[lo:min(lo+n, len(values))])
	}
	return math.Sqrt(sum)
}

// Clips reports whether the strategy shortens updates before they are added to a [Sum].
func (s Strategy) Clips() bool { return s.rule.clip != nil }

// Scaled is a run of consecutive values of an update and what they are multiplied by.
type Scaled struct {
	Len   int
	Scale float64 // above 0, at most 1
}

// Clip returns by what the values of an update are to be multiplied: one factor for all, or one for each tensor, whose lengths layout gives. The sum
// of the round is then of weight*scale*value over the weights: see [Sum.Add].
func (s Strategy) Clip(layout []int, values []float32) []Scaled {
	c := s.rule.clip
	if c == nil {
		panic("aggregate: strategy " + s.name + " does not clip updates")
	}
	if !c.perTensor {
		layout = []int{len(values)}
	}
	parts := make([]Scaled, len(layout))
	for i, n := range layout {
		if n > len(values) {
			panic(fmt.Sprintf("aggregate: a tensor of %d values, %d are left", n, len(values)))
		}
		parts[i] = Scaled{n, 1}
		if norm := Norm(values[:n]); norm > c.most {
			parts[i].Scale = c.most / norm
		}
		values = values[n:]
	}
	if len(values) > 0 {
		panic(fmt.Sprintf("aggregate: %d values are of no tensor", len(values)))
	}
	return parts
}
