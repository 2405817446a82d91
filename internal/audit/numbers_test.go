package audit

import (
	"slices"
	"testing"

	"consilium.dev/internal/entry"
)

// TestRising: a number that is lower than one before is found, of its own name alone, and the one before still counts.
func TestRising(t *testing.T) {
	a := &auditor{numbers: map[string]highest{}, report: &Report{}}
	for n, of := range []entry.Number{
		{Name: "a.crl", Number: "9"},
		{Name: "b.crl", Number: "2"},
		{Name: "a.crl", Number: "9"},
		{Name: "a.crl", Number: "10"},
		{Name: "a.crl", Number: "9"},
		{Name: "a.crl", Number: "10"},
		{Name: "b.crl", Number: "1"},
		{Name: "a.crl", Number: "340282366920938463463374607431768211456"},
	} {
		a.rising(int64(n), entry.Admitted{Office: "participant", Name: "budapest", Numbers: []entry.Number{of}})
	}
	var lines []int64
	for _, f := range a.report.Findings {
		lines = append(lines, f.Line)
	}
	if !slices.Equal(lines, []int64{4, 6}) {
		t.Errorf("found %+v, want something at the lines 4 and 6", a.report.Findings)
	}
}
