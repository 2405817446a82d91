package aggregate

import "slices"

// medianRule is the coordinate-wise median: Yin et al. 2018, arXiv:1803.01498, definition 1.
//
//	x += learning_rate*med
//
// med has, for each parameter, the median of the updates' values; for an even number of them the mean of the two in the middle. Weights are not
// used.
//
//	learning_rate   1   above 0 to 1e6
func medianRule(p *params) rule {
	return gathering(p, func(s *gathered) (gatherer, error) {
		n := len(s.updates)
		return &sorted{s, (n - 1) / 2}, nil
	})
}

// trimmedMeanRule is the coordinate-wise trimmed mean: Yin et al. 2018, arXiv:1803.01498, definition 2.
//
//	x += learning_rate*trimmed
//
// trimmed has, for each parameter, the mean of the updates' values without the floor(share*n) smallest and as many largest of the n. Weights are
// not used. With a share of 0.5 and an even n nothing is left, so a plan cannot ask for it.
//
//	learning_rate   1     above 0 to 1e6
//	share           0.2   0 up to but not 0.5
func trimmedMeanRule(p *params) rule {
	share := p.number("share", 0.2, 0, 0.5-0x1p-54)
	return gathering(p, func(s *gathered) (gatherer, error) {
		return &sorted{s, int(float64(share * float64(len(s.updates))))}, nil
	})
}

// gathering returns a rule without a state of its own, whose next model is a step along what gather makes of the updates.
func gathering(p *params, gather func(*gathered) (gatherer, error)) rule {
	r := fedAvgRule(p)
	r.gather = gather
	return r
}

// sorted is the mean of what is left of a parameter's values without the trim smallest and the trim largest.
type sorted struct {
	*gathered
	trim int // on each side, less than half
}

func (*sorted) next([]float64) int           { return 0 }
func (*sorted) scan(int, int, []float64)     {}
func (s *sorted) effects() []Effect          { return s.none() }
func (s *sorted) mean(lo int, dst []float64) { s.columns(lo, dst, s.middle) }

// middle returns the mean of the values in the middle, added up in their order. It sorts them.
func (s *sorted) middle(column []float32) float64 {
	sortFew(column)
	sum := 0.0
	left := column[s.trim : len(column)-s.trim]
	for _, v := range left {
		sum += float64(v)
	}
	return sum / float64(len(left))
}

// columns fills dst with what f makes of each parameter's values, in the order of the updates.
func (s *gathered) columns(lo int, dst []float64, f func([]float32) float64) {
	column := make([]float32, len(s.updates))
	for j := range dst {
		for i, u := range s.updates {
			column[i] = u.Values[lo+j]
		}
		dst[j] = f(column)
	}
}

// sortFew sorts values, which are few as a rule.
func sortFew(v []float32) {
	if len(v) > 32 {
		slices.Sort(v)
		return
	}
	for i := 1; i < len(v); i++ {
		x, j := v[i], i
		for ; j > 0 && v[j-1] > x; j-- {
			v[j] = v[j-1]
		}
		v[j] = x
	}
}
