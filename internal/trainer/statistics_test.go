package trainer_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/trainer"
)

// TestStatistics: a vector that is given is never refused by its own round, and holds means and mean squares to 2^-46, or
// to the last place of float32's smallest numbers.
func TestStatistics(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		p := plan(3, true)
		p.Standardize.MaxAbs = math.Ldexp(rapid.Float64Range(0.5, 1).Draw(r, "fraction"), rapid.IntRange(-60, 119).Draw(r, "exponent"))
		chance := rand.New(rand.NewPCG(rapid.Uint64().Draw(r, "seed"), 0))
		root := math.Sqrt(p.Standardize.MaxAbs)
		set := &dataset.Set{Names: make([]string, 3)}
		for range rapid.IntRange(1, 20).Draw(r, "rows") {
			set.Features = append(set.Features, root*(1-0x1p-40), root*(2*chance.Float64()-1), math.Ldexp(root*(1-0x1p-40), -chance.IntN(60)))
			set.Labels = append(set.Labels, 0)
		}
		u, err := trainer.Statistics(p, set)
		if err != nil {
			r.Fatalf("Statistics = %v, want no error", err)
		}
		d, err := trainer.Describe(p)
		if err != nil {
			r.Fatal(err)
		}
		if err := (aggregate.Spec{Ranges: d.Statistics}).Check(u); err != nil {
			r.Fatalf("Check of the vector = %v, want no error", err)
		}
		for j := range 3 {
			var sum, square float64
			for i := range set.Rows() {
				sum, square = sum+set.Row(i)[j], square+set.Row(i)[j]*set.Row(i)[j]
			}
			n := float64(set.Rows())
			if got, want := float64(u[j])+float64(u[3+j]), sum/n; math.Abs(got-want) > 0x1p-46*math.Abs(want)+0x1p-149 {
				r.Fatalf("column %d: mean %v, want %v", j, got, want)
			}
			if got, want := float64(u[6+j])+float64(u[9+j]), square/n; math.Abs(got-want) > 0x1p-46*want+0x1p-149 {
				r.Fatalf("column %d: mean square %v, want %v", j, got, want)
			}
		}
	})
}

func TestStatisticsRefuses(t *testing.T) {
	good := drawn(10, 2, 1)
	beyond := &dataset.Set{Names: make([]string, 2), Features: []float64{1, 40}, Labels: []float64{0}} // 1600 is beyond 1024
	huge := &dataset.Set{Names: make([]string, 2), Features: []float64{1e300, 0}, Labels: []float64{0}}
	none := &dataset.Set{Names: make([]string, 2)}
	bad := plan(2, true)
	bad.Rounds = 0
	for name, c := range map[string]struct {
		standardize bool
		set         *dataset.Set
		want        string
	}{
		"plan without statistics": {false, good, `plan "test" asks for no statistics`},
		"no records":              {true, none, "0 records with 2 features"},
		"other columns":           {true, drawn(10, 3, 1), "10 records with 3 features, want some with 2"},
		"beyond the limit":        {true, beyond, "mean square of column x_2 is beyond the plan's standardize.max_abs 1024"},
		"beyond float64":          {true, huge, "mean square of column x_1 is beyond"},
	} {
		u, err := trainer.Statistics(plan(2, c.standardize), c.set)
		if err == nil || !strings.Contains(err.Error(), c.want) || u != nil {
			t.Errorf("%s: Statistics = %v, %v, want an error with %q alone", name, u, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "40") {
			t.Errorf("%s: Statistics = %v, which repeats a record's value", name, err)
		}
	}
	if _, err := trainer.Statistics(bad, good); err == nil {
		t.Error("Statistics of a plan that cannot be run = nil, want an error")
	}
}

func TestInitial(t *testing.T) {
	p := plan(2, true)
	// Two columns of four records: 1, 2, 3, 6 with the deviation sqrt(14/3), and 5 four times.
	m, err := trainer.Initial(p, []float64{3, 4, 0, 1, 12, 25, 0.5, 0}, 4)
	if err != nil {
		t.Fatal(err)
	}
	mean, _ := m.Layout.Slice(m.Params, "standardize.mean")
	scale, _ := m.Layout.Slice(m.Params, "standardize.scale")
	if sd := float32(math.Sqrt(14./3) + 1e-9); mean[0] != 3 || mean[1] != 5 || scale[0] != sd || scale[1] != 1e-9 {
		t.Errorf("means %v, scales %v, want 3 5, %v 1e-9", mean, scale, sd)
	}
	for i, v := range m.Params[:3] {
		if v != 0 {
			t.Errorf("parameter %d = %v, want 0", i, v)
		}
	}
	// Rounding may leave a constant column's mean square a little below the square of its mean.
	m, err = trainer.Initial(p, []float64{3, 3, 0, 0, 9 - 1e-12, 9, 0, 0}, 4)
	if scale, _ := m.Layout.Slice(m.Params, "standardize.scale"); err != nil || scale[0] != 1e-9 {
		t.Errorf("Initial with a variance below 0 = %v, scale %v, want 1e-9", err, scale[0])
	}

	plain := plan(2, false)
	m, err = trainer.Initial(plain, nil, 0)
	if err != nil || len(m.Params) != 3 || len(m.Layout) != 2 {
		t.Errorf("Initial without statistics = %v, %v, want three zeros in two tensors", m, err)
	}
	nan, inf := math.NaN(), math.Inf(1)
	bad := p
	bad.Tries = 0
	for name, err := range map[string]error{
		"bad plan":            second(trainer.Initial(bad, make([]float64, 8), 4)),
		"statistics unasked":  second(trainer.Initial(plain, make([]float64, 8), 4)),
		"too few statistics":  second(trainer.Initial(p, make([]float64, 7), 4)),
		"too many statistics": second(trainer.Initial(p, make([]float64, 9), 4)),
		"none":                second(trainer.Initial(p, nil, 4)),
		"one record":          second(trainer.Initial(p, make([]float64, 8), 1)),
		"NaN":                 second(trainer.Initial(p, []float64{0, nan, 0, 0, 1, 1, 0, 0}, 4)),
		"infinity":            second(trainer.Initial(p, []float64{0, 0, 0, 0, 1, 1, 0, inf}, 4)),
	} {
		if err == nil {
			t.Errorf("%s: Initial = nil, want an error", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }
