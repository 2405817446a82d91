package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestPlay: the table has a line for each strategy, and an attack that ruins the mean does not ruin the others.
func TestPlay(t *testing.T) {
	var out bytes.Buffer
	if err := play(t.Context(), &out, "..", 0); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, s := range strategies {
		if !strings.Contains(out.String(), " "+s.Name+"  ") {
			t.Errorf("no line for %s", s.Name)
		}
	}
	t.Logf("\n%s", &out)
}

// TestPlayFinds: before anything is learned no strategy is better than another, which is a fault.
func TestPlayFinds(t *testing.T) {
	kept := attacks
	defer func() { attacks = kept }()
	attacks = attacks[:1]
	if err := play(t.Context(), &bytes.Buffer{}, "..", 1); err == nil || !strings.Contains(err.Error(), "not as it should be") {
		t.Errorf("without an attack: %v, want that nothing is better than the mean", err)
	}
	if err := play(t.Context(), &bytes.Buffer{}, "nowhere", 1); err == nil {
		t.Error("there are no records nowhere")
	}
}

// TestPatients: privacy of a patient at epsilon 8, with the noise that records.yaml has, and 3 costs what it should and little accuracy; at an epsilon at which noise is all that is left, that is
// found.
func TestPatients(t *testing.T) {
	var out bytes.Buffer
	if err := patients(t.Context(), &out, ".."); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{" 2.8518 ", " 7.9998 ", " 3.0000 ", "epsilon for one record at delta 1e-05"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, &out)
		}
	}
	t.Logf("\n%s", &out)
	kept := epsilons
	defer func() { epsilons = kept }()
	epsilons = []float64{0.01}
	if err := patients(t.Context(), &bytes.Buffer{}, ".."); err == nil || !strings.Contains(err.Error(), "not as it should be") {
		t.Errorf("at epsilon 0.01: %v, want that too much is lost", err)
	}
}
