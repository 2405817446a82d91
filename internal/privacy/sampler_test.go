package privacy_test

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"testing"

	"gonum.org/v1/gonum/stat/distuv"

	"consilium.dev/internal/privacy"
)

// TestGaussianFits holds draws against the distribution's masses by a chi-square test. The seed is fixed: it fails for wrong code
// only, where its statistic is beyond what one honest sampler in a million reaches.
func TestGaussianFits(t *testing.T) {
	for name, v := range map[string]struct{ num, den uint64 }{
		"sigma 1/2": {1, 4}, "sigma 1": {1, 1}, "sigma^2 7/3": {7, 3}, "sigma 3": {9, 1}, "sigma 20": {400, 1},
	} {
		t.Run(name, func(t *testing.T) {
			const draws = 200_000
			sigma := math.Sqrt(float64(v.num) / float64(v.den))
			g, err := privacy.NewGaussian(v.num, v.den, rand.NewChaCha8([32]byte{1}))
			if err != nil {
				t.Fatal(err)
			}
			seen := map[int64]float64{}
			for range draws {
				k, err := g.Draw()
				if err != nil {
					t.Fatal(err)
				}
				seen[k]++
			}
			statistic, rest, counted, cells := 0.0, 1.0, 0.0, 0
			for k := -int64(8*sigma) - 8; k <= int64(8*sigma)+8; k++ {
				mass, _ := privacy.GaussianMass(k, sigma)
				if mass*draws < 10 {
					continue // with the tails
				}
				d := seen[k] - mass*draws
				statistic += d * d / mass / draws
				rest, counted, cells = rest-mass, counted+seen[k], cells+1
			}
			if want := rest * draws; math.Abs(draws-counted-want) > 6*math.Sqrt(want)+6 {
				t.Errorf("%v draws in the tails, want about %v", draws-counted, want)
			}
			if most := (distuv.ChiSquared{K: float64(cells)}).Quantile(1 - 1e-6); statistic > most || cells < 3 {
				t.Errorf("chi-square over %d cells = %v, want at most %v", cells, statistic, most)
			}
		})
	}
}

// TestGaussianWide checks the moments where the integers are as fine as a round's grid, and that sigma there is what was asked for.
func TestGaussianWide(t *testing.T) {
	const draws, sigma = 100_000, 1 << 27
	g, err := privacy.NewGaussian(sigma*sigma, 1, rand.NewChaCha8([32]byte{2}))
	if err != nil {
		t.Fatal(err)
	}
	var mean, square, fourth float64
	odd := 0
	for range draws {
		k, err := g.Draw()
		if err != nil {
			t.Fatal(err)
		}
		x := float64(k) / sigma
		mean, square, fourth = mean+x/draws, square+x*x/draws, fourth+x*x*x*x/draws
		if k%2 != 0 {
			odd++
		}
	}
	if math.Abs(mean) > 5/math.Sqrt(draws) || math.Abs(square-1) > 5*math.Sqrt(2.0/draws) || math.Abs(fourth-3) > 5*math.Sqrt(96.0/draws) {
		t.Errorf("moments of draws over sigma = %v, %v, %v, want 0, 1, 3", mean, square, fourth)
	}
	if math.Abs(float64(odd)-draws/2) > 5*math.Sqrt(draws)/2 {
		t.Errorf("%d of %d draws are odd", odd, draws)
	}
}

func TestGaussianNeedsChance(t *testing.T) {
	g, err := privacy.NewGaussian(4, 1, bytes.NewReader(make([]byte, 100)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Draw(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("draw with a source of 100 bytes = %v, want that it ended", err)
	}
	// A source that is none must not make it loop or leave its arithmetic.
	for _, fill := range []byte{0, 0xff} {
		g, err := privacy.NewGaussian(1<<54, 1, constant(fill))
		if err != nil {
			t.Fatal(err)
		}
		if k, err := g.Draw(); err == nil {
			t.Errorf("a source of nothing but %#x gave %d, want an error", fill, k)
		}
	}
}

type constant byte

func (c constant) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c)
	}
	return len(p), nil
}

func TestGaussianDomain(t *testing.T) {
	for _, v := range []struct{ num, den uint64 }{{0, 1}, {1, 0}, {1<<56 + 1, 1}, {1, 1<<56 + 1}, {1 << 56, 1 << 20}} {
		if _, err := privacy.NewGaussian(v.num, v.den, nil); !errors.Is(err, privacy.ErrParameter) {
			t.Errorf("variance %d/%d: %v, want a refusal", v.num, v.den, err)
		}
	}
	for _, v := range []struct{ num, den uint64 }{{1 << 56, 1}, {1, 1 << 56}, {1 << 40, 1 << 20}} {
		if _, err := privacy.NewGaussian(v.num, v.den, nil); err != nil {
			t.Errorf("variance %d/%d: %v", v.num, v.den, err)
		}
	}
}

func BenchmarkGaussian(b *testing.B) {
	g, err := privacy.NewGaussian(1<<54, 1, rand.NewChaCha8([32]byte{3}))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := g.Draw(); err != nil {
			b.Fatal(err)
		}
	}
}
