package privacy_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/privacy"
)

// TestRecipe: whatever a recipe is, its grid is a power of two, of which the noise has 2^26 steps and more and no more than the sampler takes;
// and the noise is no smaller than noise multiplier times the longest that a clipped update can be after rounding to the grid.
func TestRecipe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := privacy.Recipe{
			Clip:  math.Exp2(rapid.Float64Range(-40, 40).Draw(t, "log of clip")),
			Noise: math.Exp(rapid.Float64Range(math.Log(0.011), math.Log(100)).Draw(t, "log of noise")),
		}
		n := rapid.IntRange(1, 1<<24).Draw(t, "values")
		if err := r.Validate(); err != nil {
			t.Fatal(err)
		}
		step := r.Step(r.Clip)
		g, err := r.Sampler(r.Clip, step, n, nil)
		if err != nil {
			t.Fatal(err)
		}
		if frac, _ := math.Frexp(step); frac != 0.5 || g.Sigma() < 1<<26 || g.Sigma() > 1<<28 {
			t.Fatalf("a grid of %v, of which sigma has %v", step, g.Sigma())
		}
		if sigma := g.Sigma() * step; sigma < r.Noise*(r.Clip+math.Sqrt(float64(n))*step/2) || sigma > r.Noise*r.Clip*1.01 && n < 1<<20 {
			t.Fatalf("sigma is %v, the noise multiplier %v and the clip norm %v", sigma, r.Noise, r.Clip)
		}
	})
}

func TestRecipeDomain(t *testing.T) {
	adaptive := func(q, rate, count float64) *privacy.Adaptive {
		return &privacy.Adaptive{Quantile: q, Rate: rate, CountStddev: count}
	}
	nan := math.NaN()
	for _, r := range []privacy.Recipe{
		{Clip: 0, Noise: 1, Adaptive: nil},
		{Clip: nan, Noise: 1, Adaptive: nil},
		{Clip: 0x1p41, Noise: 1, Adaptive: nil},
		{Clip: 1, Noise: 0, Adaptive: nil},
		{Clip: 1, Noise: nan, Adaptive: nil},
		{Clip: 1, Noise: 2e6, Adaptive: nil},
		{Clip: 1, Noise: 1, Adaptive: adaptive(-0.1, 0.2, 1)},
		{Clip: 1, Noise: 1, Adaptive: adaptive(nan, 0.2, 1)},
		{Clip: 1, Noise: 1, Adaptive: adaptive(0.5, 0, 1)},
		{Clip: 1, Noise: 1, Adaptive: adaptive(0.5, 2, 1)},
		{Clip: 1, Noise: 1, Adaptive: adaptive(0.5, 0.2, 1e6)},
	} {
		if err := r.Validate(); !errors.Is(err, privacy.ErrParameter) {
			t.Errorf("Validate(%+v) = %v, want a refusal", r, err)
		}
	}
	if err := (privacy.Recipe{Clip: 1, Noise: 2, Adaptive: adaptive(0.5, 0.2, 1)}).Validate(); !errors.Is(err, privacy.ErrNoise) {
		t.Errorf("a count whose noise alone costs what all may: %v, want a refusal", err)
	}
}

// TestNext: over many draws an adaptive clip norm moves by the true share of unclipped updates; whoever did not answer counts for half.
func TestNext(t *testing.T) {
	r := privacy.Recipe{Clip: 1, Noise: 1, Adaptive: &privacy.Adaptive{Quantile: 0.5, Rate: 0.1, CountStddev: 1}}
	chance := rand.NewChaCha8([32]byte{4})
	for _, c := range []struct {
		added, unclipped int
		share            float64
	}{{20, 20, 1}, {20, 0, 0}, {20, 15, 0.75}, {10, 10, 0.75}, {0, 0, 0.5}} {
		mean := 0.0
		const draws = 4000
		for range draws {
			next, err := r.Next(1, 20, c.added, c.unclipped, chance)
			if err != nil {
				t.Fatal(err)
			}
			mean += math.Log(next) / draws
		}
		// The clamp at 0 and 1 takes half of the noise away, whose mean is 1/20 * 0.4.
		if want := -0.1 * (c.share - 0.5); math.Abs(mean-want) > 0.1*0.025 {
			t.Errorf("%d of 20 answered, %d unclipped: the clip norm moves by %v, want %v", c.added, c.unclipped, mean, want)
		}
	}
	if _, err := r.Next(1, 3, 4, 4, chance); err == nil {
		t.Error("more updates were counted than asked for")
	}
}
