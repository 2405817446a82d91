package trainer_test

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
)

// TestEvaluate: three figures, computed here anew, and nothing else.
func TestEvaluate(t *testing.T) {
	for _, standardize := range []bool{false, true} {
		p := plan(3, standardize)
		p.Local.L2 = 0.5 // stands in no figure
		m, train, test := start(t, p), drawn(40, 3, 5), drawn(25, 3, 6)
		params := []float64{float64(m.Params[0]), float64(m.Params[1]), float64(m.Params[2]), float64(m.Params[3])}
		right := 0
		for i, y := range test.Labels {
			one := &dataset.Set{Names: test.Names, Features: test.Row(i), Labels: []float64{1}}
			if (loss(m, params, one, 0) < math.Ln2) == (y == 1) { // the label 1 has more than even odds
				right++
			}
		}
		want := []entry.Metric{
			{Set: "train", Name: "loss", Value: loss(m, params, train, 0), Count: 40, Better: "min"},
			{Set: "test", Name: "loss", Value: loss(m, params, test, 0), Count: 25, Better: "min"},
			{Set: "test", Name: "accuracy", Value: float64(right) / 25, Count: 25, Better: "max"},
		}
		got, err := trainer.Evaluate(p, m, train, test)
		if err != nil {
			t.Fatal(err)
		}
		near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-12 })
		if diff := cmp.Diff(got, want, near); diff != "" {
			t.Errorf("standardize %t: figures (-got +want):\n%s", standardize, diff)
		}
		empty := &dataset.Set{Names: make([]string, 3)}
		for name, c := range map[string]struct {
			train, test *dataset.Set
			want        []entry.Metric
		}{"no test rows": {train, nil, want[:1]}, "empty test set": {train, empty, want[:1]}, "no training rows": {nil, test, want[1:]}, "nothing": {empty, nil, nil}} {
			got, err := trainer.Evaluate(p, m, c.train, c.test)
			if diff := cmp.Diff(got, c.want, near); err != nil || diff != "" {
				t.Errorf("%s: %v, figures (-got +want):\n%s", name, err, diff)
			}
		}
	}
}

// TestEvaluateFar: losses far from even odds are neither 0 nor infinite.
func TestEvaluateFar(t *testing.T) {
	p := plan(1, false)
	m := start(t, p)
	m.Params[0], m.Params[1] = 0, 1000
	set := &dataset.Set{Names: make([]string, 1), Features: []float64{5, -5, 5}, Labels: []float64{1, 0, 0}}
	got, err := trainer.Evaluate(p, m, nil, set)
	if err != nil {
		t.Fatal(err)
	}
	if loss, right := got[0].Value, got[1].Value; math.Abs(loss-5000./3) > 1e-9 || right != 2./3 {
		t.Errorf("loss and accuracy = %v, %v, want %v, %v", loss, right, 5000./3, 2./3)
	}
}

func TestEvaluateRefuses(t *testing.T) {
	p := plan(2, false)
	m := start(t, p)
	m.Params[1], m.Params[2] = math.MaxFloat32, -math.MaxFloat32
	huge := &dataset.Set{Names: make([]string, 2), Features: []float64{1e308, 1e308}, Labels: []float64{1}}
	sure := &dataset.Set{Names: make([]string, 2), Features: []float64{-1e308, 0}, Labels: []float64{1}} // gives the label no chance at all
	for name, c := range map[string]struct {
		train, test *dataset.Set
		want        string
	}{
		"infinite loss":           {sure, nil, "no finite number"},
		"training rows too large": {huge, nil, "no finite number"},
		"test rows too large":     {nil, huge, "no finite number"},
		"other columns":           {drawn(3, 3, 1), nil, "records have 3 features, the model 2"},
		"other columns in test":   {nil, drawn(3, 3, 1), "records have 3 features, the model 2"},
	} {
		if got, err := trainer.Evaluate(p, m, c.train, c.test); err == nil || !strings.Contains(err.Error(), c.want) || got != nil {
			t.Errorf("%s: Evaluate = %v, %v, want an error with %q alone", name, got, err, c.want)
		}
	}
	if _, err := trainer.Evaluate(plan(3, false), m, nil, nil); err == nil {
		t.Error("Evaluate with the model of another plan = nil, want an error")
	}
}
