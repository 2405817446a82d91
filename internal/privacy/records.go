package privacy

import "math"

// Records sums vectors of single records, each clipped to the recipe's norm and then rounded to its grid. A record that is there or is not
// changes the sum by one such vector and by nothing else: the vectors do not hang on each other, and they are added as whole numbers. Its
// norm is at most what [Recipe.Sampler] takes for the sensitivity. A Records is for one goroutine.
type Records struct {
	clip, step float64
	most       int64 // steps
	sum        []int64
}

// Records returns an empty sum of vectors of n values. The recipe's unit is a record.
func (r Recipe) Records(n int) *Records {
	if !r.PerRecord() {
		panic("privacy: records are summed under a recipe whose unit is an update")
	}
	step := r.Step(r.Clip)
	return &Records{clip: r.Clip, step: step, most: int64(math.Floor(r.Most / step)), sum: make([]int64, n)}
}

// Add adds one record's vector, of as many values as the sum has, each rounded to the nearest step of the grid. A vector whose norm is no
// finite number adds nothing.
func (r *Records) Add(vector []float64) {
	if len(vector) != len(r.sum) {
		panic("privacy: a record's vector has another length than the sum")
	}
	square := 0.0
	for _, v := range vector {
		square += v * v
	}
	if math.IsNaN(square) || math.IsInf(square, 1) {
		return
	}
	factor := Clip(math.Sqrt(square), r.clip)
	for i, v := range vector {
		r.sum[i] += int64(math.RoundToEven(factor * v / r.step))
	}
}

// Sum fills dst with the sum so far, exactly. What is beyond the recipe's Most counts as Most: that brings no two sums further from each other.
func (r *Records) Sum(dst []float32) {
	if len(dst) != len(r.sum) {
		panic("privacy: the sum of records has another length than what is to hold it")
	}
	for i, k := range r.sum {
		dst[i] = float32(float64(max(-r.most, min(r.most, k))) * r.step)
	}
}
