package trainer

import (
	"fmt"
	"math"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
)

const (
	// slack is room for one rounding to float32 in a limit.
	slack = 1 + 0x1p-20
	// lowPart is the most that the low float32 of a pair can be of its high one: half a unit in the last place is 2^-24.
	lowPart = 0x1p-23
	// scaleFloor is added to every standard deviation, so that a column that never changes divides by it and not by 0.
	scaleFloor = 1e-9
)

// statisticsRanges returns the limits of round 0's vector of n features: high parts of the means, low parts of the means, high
// parts and low parts of the mean squares. A mean is at most the root of its mean square.
func statisticsRanges(n int, maxSquare float64) []aggregate.Range {
	mean, square := float64(math.Sqrt(maxSquare)*slack), float64(maxSquare*slack)
	return []aggregate.Range{
		{Len: n, MaxAbs: mean},
		{Len: n, MaxAbs: mean * lowPart},
		{Len: n, MaxAbs: square},
		{Len: n, MaxAbs: square * lowPart},
	}
}

// Statistics returns a participant's vector of round 0: of each column the mean and the mean square over its training rows.
// Each is a pair of float32s whose sum has about 48 bits, since a variance is a small difference of large numbers. The vector
// has four parts of one value a column: means, their low parts, mean squares, their low parts. Weighted by rows, the mean of
// these vectors gives the pooled records' means and mean squares; no participant learns another's.
func Statistics(p entry.Plan, train *dataset.Set) ([]float32, error) {
	s, err := check(p)
	if err != nil {
		return nil, err
	}
	if !p.Measured() {
		return nil, fmt.Errorf("plan %q asks for no statistics", p.Name)
	}
	n := len(s.Features())
	if train.Rows() == 0 || train.Columns() != n {
		return nil, fmt.Errorf("%d records with %d features, want some with %d", train.Rows(), train.Columns(), n)
	}
	sum, square := make([]float64, n), make([]float64, n)
	for i := range train.Rows() {
		for j, v := range train.Row(i) {
			sum[j] += v
			square[j] += v * v
		}
	}
	u := make([]float32, 4*n)
	rows := float64(train.Rows())
	for j := range n {
		if v := square[j] / rows; !(v <= p.Standardize.MaxAbs) {
			return nil, fmt.Errorf("mean square of column %s is beyond the plan's standardize.max_abs %v", s.Features()[j], p.Standardize.MaxAbs)
		}
		u[j], u[n+j] = split(sum[j] / rows)
		u[2*n+j], u[3*n+j] = split(square[j] / rows)
	}
	return u, nil
}

// split returns two float32s whose sum is v to about 48 bits.
func split(v float64) (hi, lo float32) {
	hi = float32(v)
	return hi, float32(v - float64(hi))
}

// Initial returns the model that the first training round starts from: weights and bias 0 and, where the plan standardises,
// the pooled records' means and standard deviations (with n-1) plus 1e-9, or what the plan gives. mean is the weighted mean of the participants'
// [Statistics] and rows the number of records that it is of; without a statistics round they are nil and unused. The same
// input gives the same bits on every processor.
func Initial(p entry.Plan, mean []float64, rows int64) (*model.Model, error) {
	d, err := Describe(p)
	if err != nil {
		return nil, err
	}
	m := &model.Model{Layout: d.Layout, Params: make([]float32, d.Layout.Len())}
	if !p.Measured() {
		if mean != nil {
			return nil, fmt.Errorf("plan %q asks for no statistics", p.Name)
		}
		return m, give(p, m)
	}
	means, _ := m.Layout.Slice(m.Params, tensorMean)
	scales, _ := m.Layout.Slice(m.Params, tensorScale)
	n := len(means)
	if len(mean) != 4*n || rows < 2 {
		return nil, fmt.Errorf("statistics: %d values of %d records, want %d of at least 2", len(mean), rows, 4*n)
	}
	for j := range n {
		mu, square := mean[j]+mean[n+j], mean[2*n+j]+mean[3*n+j]
		if math.IsNaN(mu-square) || math.IsInf(mu-square, 0) {
			return nil, fmt.Errorf("statistics: column %d is not finite", j)
		}
		means[j], scales[j] = float32(mu), float32(deviation(mu, square, rows))
	}
	return m, nil
}

// give puts what a plan gives to standardise by, if it does, into a model.
func give(p entry.Plan, m *model.Model) error {
	if p.Standardize == nil {
		return nil
	}
	s, err := check(p)
	if err != nil {
		return err
	}
	means, _ := m.Layout.Slice(m.Params, tensorMean)
	scales, _ := m.Layout.Slice(m.Params, tensorScale)
	for j, name := range s.Features() {
		scales[j] = 1
		if g, ok := p.Standardize.Given[name]; ok {
			means[j], scales[j] = float32(g.Mean), float32(g.Scale)
		}
	}
	return nil
}

// deviation returns the standard deviation, with n-1, of n records with this mean and mean square, plus the floor.
func deviation(mean, square float64, n int64) float64 {
	v := max(square-float64(mean*mean), 0) // rounding may have left a constant column a little below 0
	return math.Sqrt(float64(v*float64(n))/float64(n-1)) + scaleFloor
}
