package privacy_test

import (
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/privacy"
)

func mechanisms(t *rapid.T) []privacy.Mechanism {
	var all []privacy.Mechanism
	for range rapid.IntRange(1, 3).Draw(t, "mechanisms") {
		all = append(all, privacy.Mechanism{
			Rate:   rapid.SampledFrom([]float64{0.003, 0.05, 0.4, 1}).Draw(t, "rate"),
			Noise:  rapid.Float64Range(0.5, 20).Draw(t, "noise"),
			Rounds: rapid.IntRange(1, 60).Draw(t, "rounds"),
		})
	}
	return all
}

// more returns what costs more than all for delta, by what was done to it.
func more(all []privacy.Mechanism, delta float64) map[string]func(epsilon func([]privacy.Mechanism, float64) float64) float64 {
	with := func(change func(*privacy.Mechanism), delta float64) func(func([]privacy.Mechanism, float64) float64) float64 {
		other := slices.Clone(all)
		change(&other[0])
		return func(epsilon func([]privacy.Mechanism, float64) float64) float64 { return epsilon(other, delta) }
	}
	return map[string]func(func([]privacy.Mechanism, float64) float64) float64{
		"a smaller delta": with(func(*privacy.Mechanism) {}, delta/10),
		"less noise":      with(func(m *privacy.Mechanism) { m.Noise *= 0.8 }, delta),
		"more rounds":     with(func(m *privacy.Mechanism) { m.Rounds++ }, delta),
		"a higher rate":   with(func(m *privacy.Mechanism) { m.Rate = min(1, m.Rate*1.2) }, delta),
	}
}

// TestRenyi holds the bound to what must be true of any accountant: more releases, more of a unit in them, less noise and a smaller
// delta cost more, and splitting releases in two changes nothing.
func TestRenyi(t *testing.T) {
	whole := privacy.Whole(privacy.DefaultOrders())
	rapid.Check(t, func(t *rapid.T) {
		all := mechanisms(t)
		delta := rapid.SampledFrom([]float64{1e-7, 1e-5, 1e-3}).Draw(t, "delta")
		epsilon := func(all []privacy.Mechanism, delta float64) float64 {
			e, _, err := privacy.RenyiEpsilon(all, delta, whole)
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		before := epsilon(all, delta)
		for what, of := range more(all, delta) {
			if got := of(epsilon); !(got >= before*(1-1e-9)) || math.IsInf(got, 0) {
				t.Fatalf("with %s epsilon is %v, before %v", what, got, before)
			}
		}
		part := all[0]
		part.Rounds /= 2
		rest := all[0]
		rest.Rounds -= part.Rounds
		if got := epsilon(append([]privacy.Mechanism{part, rest}, all[1:]...), delta); math.Abs(got-before) > 1e-9*before {
			t.Fatalf("split: epsilon %v, together %v", got, before)
		}
	})
}

// TestEpsilon holds the nearly exact figure to the same, and to be at most the bound, on a few mixtures: it is computed on another
// grid each time.
func TestEpsilon(t *testing.T) {
	for name, all := range map[string][]privacy.Mechanism{
		"sampled":        {{0.05, 1.2, 40}},
		"rarely sampled": {{0.003, 0.8, 200}},
		"mixed":          {{0.4, 3, 10}, {1, 6, 5}, {0.05, 1, 20}},
	} {
		t.Run(name, func(t *testing.T) {
			const delta = 1e-5
			epsilon := func(all []privacy.Mechanism, delta float64) float64 {
				e, err := privacy.Epsilon(all, delta)
				bound, _, err2 := privacy.RenyiEpsilon(all, delta, nil)
				if err != nil || err2 != nil || !(e > 0 && e < bound) {
					t.Fatalf("epsilon = %v, %v, and its bound = %v, %v", e, err, bound, err2)
				}
				return e
			}
			before := epsilon(all, delta)
			for what, of := range more(all, delta) {
				if got := of(epsilon); !(got > before) {
					t.Errorf("with %s epsilon is %v, before %v", what, got, before)
				}
			}
			part := all[0]
			part.Rounds /= 2
			if got := epsilon(append([]privacy.Mechanism{part, part}, all[1:]...), delta); math.Abs(got-before) > 1e-3*before {
				t.Errorf("split: epsilon %v, together %v", got, before)
			}
		})
	}
}

// TestEpsilonOfHalves compares the composed loss distribution with what is exact: a rate so near 1 that the analytic Gaussian holds.
func TestEpsilonOfHalves(t *testing.T) {
	for _, z := range []float64{1, 4, 20} {
		want, err := privacy.GaussianEpsilon(math.Sqrt(25)/z, 1e-5)
		if err != nil {
			t.Fatal(err)
		}
		got, err := privacy.Epsilon([]privacy.Mechanism{{Rate: 1 - 1e-12, Noise: z, Rounds: 25}}, 1e-5)
		if err != nil || got < want*(1-1e-9) || got > want*1.001 {
			t.Errorf("noise %v: epsilon = %v, %v, want %v or a little more", z, got, err, want)
		}
	}
}

func TestNothingAndNoNoise(t *testing.T) {
	for _, all := range [][]privacy.Mechanism{nil, {{Rate: 0, Noise: 1, Rounds: 3}}, {{Rate: 1, Noise: 0, Rounds: 0}}} {
		if e, err := privacy.Epsilon(all, 1e-5); e != 0 || err != nil {
			t.Errorf("Epsilon(%v) = %v, %v, want 0", all, e, err)
		}
	}
	if e, err := privacy.Epsilon([]privacy.Mechanism{{1, 5, 1}, {0.1, 0, 1}}, 1e-5); !math.IsInf(e, 1) || err != nil {
		t.Errorf("one release without noise: %v, %v, want +Inf", e, err)
	}
	for _, m := range []privacy.Mechanism{
		{math.NaN(), 1, 1}, {-0.1, 1, 1}, {1.1, 1, 1}, {1, math.NaN(), 1}, {1, -1, 1}, {1, math.Inf(1), 1}, {1, 1, -1},
	} {
		if _, err := privacy.Epsilon([]privacy.Mechanism{m}, 1e-5); !errors.Is(err, privacy.ErrParameter) {
			t.Errorf("Epsilon(%v) = %v, want a refusal", m, err)
		}
	}
	for _, delta := range []float64{0, 1, math.NaN(), -1} {
		if _, err := privacy.Epsilon(nil, delta); !errors.Is(err, privacy.ErrParameter) {
			t.Errorf("delta %v: %v, want a refusal", delta, err)
		}
	}
}

func TestClip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		norm := rapid.Float64Range(0, 1e30).Draw(t, "norm")
		clip := rapid.Float64Range(1e-6, 1e6).Draw(t, "clip")
		s := privacy.Clip(norm, clip)
		if !(s > 0 && s <= 1) || norm*s > clip*(1+1e-15) || norm <= clip && s != 1 {
			t.Fatalf("norm %v, clip %v: scale %v", norm, clip, s)
		}
	})
}

// TestAdaptiveDirection: where all updates are clipped the clip norm grows, where none is it shrinks, and exp is that of package math.
func TestAdaptiveDirection(t *testing.T) {
	a := privacy.Adaptive{Quantile: 0.5, Rate: 1, CountStddev: 1}
	for _, c := range []struct{ fraction, want float64 }{{-3, math.Exp(0.5)}, {0.5, 1}, {7, math.Exp(-0.5)}} {
		if got := a.Next(1, c.fraction); math.Abs(got-c.want) > 1e-15 {
			t.Errorf("fraction %v: clip norm 1 becomes %v, want %v", c.fraction, got, c.want)
		}
	}
}
