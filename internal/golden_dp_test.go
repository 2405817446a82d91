package internal_test

import (
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/privacy"
)

// noisyMean is a round with noise as the coordinator makes it: updates clipped and summed exactly on the noise's grid, noise in whole steps
// of it. Here the noise is given, of standard deviation 1, and is rounded to the grid.
func noisyMean(t *testing.T, recipe privacy.Recipe, clip float64, updates [][]float32, noise []number, stddev float64, over int) (mean, norms []float64, unclipped int) {
	t.Helper()
	n := len(updates[0])
	fine := recipe
	if fine.Noise == 0 {
		fine = privacy.Recipe{Clip: clip, Noise: 1} // any grid will do
	}
	largest := 0.0
	for _, u := range updates {
		for _, v := range u {
			largest = max(largest, math.Abs(float64(v)))
		}
	}
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: n, MaxAbs: max(largest, 0x1p-20)}}}
	for range updates {
		spec.Weights = append(spec.Weights, 1)
	}
	spec = spec.Coarsened(fine.Step(clip))
	sum, err := aggregate.NewSum(spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range updates {
		norm := aggregate.Norm(u)
		norms = append(norms, norm)
		if norm <= clip {
			unclipped++
		}
		sum.AddWeight(1)
		sum.Add(0, u, privacy.Clip(norm, clip))
	}
	mean, i := make([]float64, n), 0
	if err := sum.Noisy(0, mean, over, func() (int64, error) {
		i++
		return int64(math.RoundToEven(float64(noise[i-1]) * stddev / spec.Ranges[0].Step)), nil
	}); err != nil {
		t.Fatal(err)
	}
	return mean, norms, unclipped
}

type dpFixedInput struct {
	Global  []number `json:"global"`
	Clients []client `json:"clients"`
	Normal  []number `json:"standard_normal"`
}

type dpFixedParams struct {
	ClipNorm        float64 `json:"clip_norm"`
	NoiseMultiplier float64 `json:"noise_multiplier"`
	Denominator     int     `json:"denominator"`
}

type dpFixedExpected struct {
	Norms        []number    `json:"norms"`
	Clipped      []bool      `json:"clipped"`
	StddevOfSum  number      `json:"noise_stddev_of_sum"`
	StddevOfMean number      `json:"noise_stddev_of_mean"`
	MeanUpdate   []number    `json:"mean_update"`
	Global       []number    `json:"global"`
	Rejected     []rejection `json:"rejected"`
}

func dpFixedCase(t *testing.T, c sample[dpFixedInput, dpFixedParams, dpFixedExpected]) {
	global := c.Input.Global
	if global == nil {
		global = make([]number, len(c.Input.Clients[0].Update))
	}
	accepted, rejected := admit(t, fedAvgInput{Global: global, Clients: c.Input.Clients}, fedAvgParams{})
	if diff := cmp.Diff(rejected, append([]rejection{}, c.Expected.Rejected...)); diff != "" {
		t.Errorf("rejected (-got +want):\n%s", diff)
	}
	if c.Expected.Norms == nil {
		return
	}
	var updates [][]float32
	for _, a := range accepted {
		updates = append(updates, float32s(a.Update))
	}
	p := c.Params
	recipe := privacy.Recipe{Clip: p.ClipNorm, Noise: p.NoiseMultiplier}
	mean, norms, _ := noisyMean(t, recipe, p.ClipNorm, updates, c.Input.Normal, p.NoiseMultiplier*p.ClipNorm, p.Denominator)
	c.Tolerance.check(t, "norms", norms, c.Expected.Norms)
	var clipped []bool
	for _, norm := range norms {
		clipped = append(clipped, privacy.Clip(norm, p.ClipNorm) != 1)
	}
	if !slices.Equal(clipped, c.Expected.Clipped) {
		t.Errorf("clipped = %v, want %v", clipped, c.Expected.Clipped)
	}
	c.Tolerance.check(t, "mean_update", mean, c.Expected.MeanUpdate)
	next := float32s(global)
	strategy(t, "fedavg", nil).Optimizer(1).Step(next, next, mean, nil)
	c.Tolerance.check(t, "global", widen(next), c.Expected.Global)
	if p.NoiseMultiplier == 0 {
		return
	}
	// What the product draws has the expected deviation, but for what rounding adds: 2^-20 and less.
	grid := recipe.Step(p.ClipNorm)
	sigma := stddevOf(t, recipe, p.ClipNorm, grid, len(global))
	c.Tolerance.check(t, "noise_stddev", []float64{sigma * grid, sigma * grid / float64(p.Denominator)},
		[]number{c.Expected.StddevOfSum, c.Expected.StddevOfMean})
}

// stddevOf returns the standard deviation, in steps of the grid, with which a round's noise is drawn.
func stddevOf(t *testing.T, r privacy.Recipe, clip, grid float64, n int) float64 {
	t.Helper()
	g, err := r.Sampler(clip, grid, n, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g.Sigma()
}

type dpAdaptiveInput struct {
	Rounds []struct {
		Updates [][]number `json:"updates"`
		Normal  []number   `json:"standard_normal"`
		Count   number     `json:"standard_normal_count"`
	} `json:"rounds"`
	Records []number `json:"records"`
}

type dpAdaptiveParams struct {
	Initial    float64 `json:"initial_clip_norm"`
	Noise      float64 `json:"noise_multiplier"`
	Quantile   float64 `json:"target_unclipped_quantile"`
	Rate       float64 `json:"clip_norm_lr"`
	Count      float64 `json:"count_stddev"`
	UpdateRule string  `json:"update_rule"`
}

type dpAdaptiveExpected struct {
	NoiseDelta *number `json:"noise_multiplier_delta"`
	Rounds     []struct {
		ClipNorm    float64  `json:"clip_norm"`
		Unclipped   int      `json:"unclipped_count"`
		Fraction    number   `json:"noised_fraction"`
		StddevOfSum number   `json:"noise_stddev_of_sum"`
		MeanUpdate  []number `json:"mean_update"`
		Next        number   `json:"next_clip_norm"`
	} `json:"rounds"`
	Sums  []number `json:"sums"`
	Clips []number `json:"clip_norms_after_each_round"`
	Error string   `json:"error"`
}

func dpAdaptiveCase(t *testing.T, c sample[dpAdaptiveInput, dpAdaptiveParams, dpAdaptiveExpected]) {
	p := c.Params
	z, err := privacy.SplitNoise(p.Noise, p.Count)
	if c.Expected.Error != "" {
		if c.Expected.Error != "noise_multiplier_too_large" || !errors.Is(err, privacy.ErrNoise) {
			t.Errorf("error = %v, want %s", err, c.Expected.Error)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Tolerance.one(t, "noise_multiplier_delta", z, c.Expected.NoiseDelta)
	adaptive := &privacy.Adaptive{Quantile: p.Quantile, Rate: p.Rate, CountStddev: p.Count, Arithmetic: p.UpdateRule == "arithmetic"}
	if c.Input.Records != nil {
		clip := p.Initial
		var sums, clips []float64
		for range c.Expected.Sums {
			sum, unclipped := 0.0, 0
			for _, v := range c.Input.Records {
				norm := math.Abs(float64(v))
				if norm <= clip+1e-6 { // as the float32 of the case's origin
					unclipped++
				}
				sum += float64(v) * privacy.Clip(norm, clip)
			}
			clip = adaptive.Next(clip, float64(unclipped)/float64(len(c.Input.Records)))
			sums, clips = append(sums, sum), append(clips, clip)
		}
		c.Tolerance.check(t, "sums", sums, c.Expected.Sums)
		c.Tolerance.check(t, "clip_norms_after_each_round", clips, c.Expected.Clips)
		return
	}
	if len(c.Input.Rounds) != len(c.Expected.Rounds) {
		t.Fatalf("%d rounds, want %d", len(c.Input.Rounds), len(c.Expected.Rounds))
	}
	clip := p.Initial
	recipe := privacy.Recipe{Clip: clip, Noise: p.Noise, Adaptive: adaptive}
	for i, r := range c.Input.Rounds {
		want, n := c.Expected.Rounds[i], len(r.Updates)
		var updates [][]float32
		for _, u := range r.Updates {
			updates = append(updates, float32s(u))
		}
		mean, _, unclipped := noisyMean(t, recipe, clip, updates, r.Normal, z*clip, n)
		fraction := min(max((float64(unclipped)+p.Count*float64(r.Count))/float64(n), 0), 1)
		if unclipped != want.Unclipped {
			t.Errorf("round %d: %d not clipped, want %d", i, unclipped, want.Unclipped)
		}
		c.Tolerance.check(t, "clip_norm", []float64{clip}, []number{number(want.ClipNorm)})
		c.Tolerance.check(t, "mean_update", mean, want.MeanUpdate)
		c.Tolerance.check(t, "noised_fraction", []float64{fraction}, []number{want.Fraction})
		if p.Noise > 0 {
			grid := recipe.Step(clip)
			c.Tolerance.check(t, "noise_stddev_of_sum", []float64{stddevOf(t, recipe, clip, grid, len(mean)) * grid}, []number{want.StddevOfSum})
		}
		clip = adaptive.Next(clip, fraction)
		c.Tolerance.check(t, "next_clip_norm", []float64{clip}, []number{want.Next})
	}
}
