package privacy_test

import (
	"errors"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/privacy"
)

// perRecord draws a recipe whose unit is a record.
func perRecord(t *rapid.T) privacy.Recipe {
	r := privacy.Recipe{
		Clip:  math.Exp2(rapid.Float64Range(-40, 40).Draw(t, "log of clip")),
		Noise: math.Exp(rapid.Float64Range(math.Log(0.011), math.Log(1000)).Draw(t, "log of noise")),
	}
	r.Most = r.Clip * math.Exp2(rapid.Float64Range(0, 20).Draw(t, "log of clip norms in a sum"))
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRecordsSensitivity: a record that is there or is not changes a sum, as it travels, by whole steps of the grid, and by no longer a vector than the noise is
// reckoned for, however large the records are and where the sum is cut off.
func TestRecordsSensitivity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := perRecord(t)
		n := rapid.IntRange(1, 20).Draw(t, "values")
		length := rapid.Float64Range(-1e-3, 8)
		vector := rapid.Custom(func(t *rapid.T) []float64 {
			v := rapid.SliceOfN(rapid.Float64Range(-1, 1), n, n).Draw(t, "direction")
			scale := r.Clip * math.Exp2(length.Draw(t, "log of length"))
			for i := range v {
				v[i] *= scale
			}
			return v
		})
		rows := rapid.SliceOfN(vector, 1, 40).Draw(t, "records")
		less := rapid.IntRange(0, len(rows)-1).Draw(t, "the one that is not there")
		all, without := sumOf(r, n, rows), sumOf(r, n, slices.Delete(slices.Clone(rows), less, less+1))
		step := r.Step(r.Clip)
		square := 0.0
		for i := range all {
			if k := float64(all[i]) / step; k != math.Trunc(k) || math.Abs(float64(all[i])) > r.Most {
				t.Fatalf("value %d of the sum is %v, want whole steps of %v and at most %v", i, all[i], step, r.Most)
			}
			d := float64(all[i]) - float64(without[i])
			square += d * d
		}
		g, err := r.Sampler(r.Clip, step, n, nil)
		if err != nil {
			t.Fatal(err)
		}
		if far, reckoned := math.Sqrt(square), g.Sigma()*step/r.Noise; far > reckoned*(1+1e-12) {
			t.Fatalf("one record changes the sum by %v, the noise is reckoned for %v", far, reckoned)
		}
	})
}

func sumOf(r privacy.Recipe, n int, rows [][]float64) []float32 {
	s, dst := r.Records(n), make([]float32, n)
	for _, row := range rows {
		s.Add(row)
	}
	s.Sum(dst)
	return dst
}

// TestRecords: what records add, whole where they are short, shortened where they are long, to the grid's nearest step, and up to the recipe's
// most; what has no length adds nothing.
func TestRecords(t *testing.T) {
	r := privacy.Recipe{Clip: 1, Noise: 1, Most: 4}
	step := r.Step(1)
	if step != 0x1p-22 {
		t.Fatalf("a grid of %v, want 2^-22: of 4 a float32 holds so many", step)
	}
	inf := math.Inf(1)
	for name, c := range map[string]struct {
		rows [][]float64
		want []float32
	}{
		"none":            {nil, []float32{0, 0}},
		"short":           {[][]float64{{0.25, -0.5}, {0.25, 0}}, []float32{0.5, -0.5}},
		"at the bound":    {[][]float64{{0, 1}}, []float32{0, 1}},
		"long":            {[][]float64{{30, 40}}, []float32{float32(math.RoundToEven(0.6/step) * step), float32(math.RoundToEven(0.8/step) * step)}},
		"between steps":   {[][]float64{{0x1.8p-22, 0x1p-24}}, []float32{0x1p-21, 0}},
		"beyond the most": {[][]float64{{1, 0}, {1, 0}, {1, 0}, {1, 0}, {1, 0}, {0, -1}}, []float32{4, -1}},
		"no number":       {[][]float64{{math.NaN(), 0}, {1e200, 0}, {0.5, 0.5}}, []float32{0.5, 0.5}},
		"no length":       {[][]float64{{inf, 0}, {0.5, 0.5}}, []float32{0.5, 0.5}},
	} {
		if got := sumOf(r, 2, c.rows); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestRecordsGrid: the grid is that of the noise where sums are small, and the finest that a float32 holds where they are not; the noise is what the
// sampler takes.
func TestRecordsGrid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := perRecord(t)
		step := r.Step(r.Clip)
		frac, _ := math.Frexp(step)
		if frac != 0.5 || r.Most/step > 1<<24 {
			t.Fatalf("a grid of %v for sums up to %v", step, r.Most)
		}
		whole := privacy.Recipe{Clip: r.Clip, Noise: r.Noise}.Step(r.Clip)
		if step != whole && r.Most/step <= 1<<23 {
			t.Fatalf("a grid of %v, where %v would do", step, step/2)
		}
		n := rapid.IntRange(1, 1<<20).Draw(t, "values")
		if g, err := r.Sampler(r.Clip, step, n, nil); err != nil {
			if r.Noise*math.Sqrt(float64(n)) < 1<<20 {
				t.Fatal(err)
			}
		} else if g.Sigma()*step < r.Noise*r.Clip {
			t.Fatalf("sigma %v is below %v", g.Sigma()*step, r.Noise*r.Clip)
		}
	})
}

// TestDiscreteEpsilon: the Rényi divergences of discrete noise on a unit of whole steps that is drawn are, for whole orders, those that are reckoned with, summed here over
// the integers one by one; those of the other direction are no larger. Where all units are in the sum all orders count.
func TestDiscreteEpsilon(t *testing.T) {
	for _, c := range []struct {
		q, sigma float64
		shift    int
	}{{0.3, 1.3, 1}, {0.05, 0.8, 1}, {0.5, 4, 3}, {0.9, 2.5, 2}} {
		m := privacy.Mechanism{Rate: c.q, Noise: c.sigma / float64(c.shift), Rounds: 1}
		for _, order := range []float64{2, 3, 5, 8} {
			var removed, added float64
			for k := -200; k <= 200; k++ {
				still, _ := privacy.GaussianMass(int64(k), c.sigma)
				moved, _ := privacy.GaussianMass(int64(k-c.shift), c.sigma)
				mixed := (1-c.q)*still + c.q*moved
				if still > 0 && mixed > 0 {
					removed += still * math.Pow(mixed/still, order)
					added += mixed * math.Pow(still/mixed, order)
				}
			}
			want, err := m.Renyi(order)
			if err != nil {
				t.Fatal(err)
			}
			if got := math.Log(removed) / (order - 1); math.Abs(got-want) > 1e-9*want {
				t.Errorf("%+v, order %v: divergence %v, reckoned with %v", c, order, got, want)
			}
			if got := math.Log(added) / (order - 1); got > want*(1+1e-9) {
				t.Errorf("%+v, order %v: the other direction has divergence %v, reckoned with %v", c, order, got, want)
			}
		}
	}
	for _, rate := range []float64{1, 0.25} {
		all := []privacy.Mechanism{{Rate: rate, Noise: 1.5, Rounds: 7}}
		orders := privacy.DefaultOrders()
		if rate < 1 {
			orders = privacy.Whole(orders)
		}
		want, _, err := privacy.RenyiEpsilon(all, 1e-5, orders)
		if got, gotErr := privacy.DiscreteEpsilon(all, 1e-5); err != nil || gotErr != nil || got != want {
			t.Errorf("rate %v: epsilon %v, %v, want %v, %v", rate, got, gotErr, want, err)
		}
	}
}

// TestCurve: a curve to which mechanisms come one after the other is, to the bit, that of all of them, and so their epsilon, whatever is drawn.
func TestCurve(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) privacy.Mechanism {
			return privacy.Mechanism{
				Rate: rapid.SampledFrom([]float64{0, 0.1, 0.5, 1}).Draw(t, "rate"), Noise: rapid.SampledFrom([]float64{0, 0.7, 2, 1e6}).Draw(t, "noise"),
				Rounds: rapid.IntRange(0, 3).Draw(t, "rounds"),
			}
		}), 0, 4).Draw(t, "mechanisms")
		c, err := privacy.NewCurve()
		orders := privacy.DefaultOrders()
		for _, m := range all {
			if err == nil {
				c, err = c.With(m)
			}
			if m.Rate > 0 && m.Rounds > 0 && m.Rate < 1 {
				orders = privacy.Whole(orders)
			}
		}
		want, _, wantErr := privacy.RenyiEpsilon(all, 1e-5, orders)
		got, gotErr := c.Epsilon(1e-5)
		if err != nil || wantErr != nil || gotErr != nil || got != want {
			t.Errorf("%v: epsilon %v, %v, want %v, %v", all, got, errors.Join(err, gotErr), want, wantErr)
		}
	})
	c, err := privacy.NewCurve(privacy.Mechanism{Rate: 1, Noise: 1, Rounds: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.With(privacy.Mechanism{Rate: 2}); !errors.Is(err, privacy.ErrParameter) {
		t.Errorf("a rate of 2: %v, want ErrParameter", err)
	}
	if _, err := c.Epsilon(0); !errors.Is(err, privacy.ErrParameter) {
		t.Errorf("delta 0: %v, want ErrParameter", err)
	}
}
