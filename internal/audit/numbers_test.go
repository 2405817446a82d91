package audit

import (
	"slices"
	"testing"
	"time"

	"consilium.dev/internal/entry"
)

// TestRising: a number that is lower than one by which somebody was judged before is found, of its own name alone, and the one before
// still counts. Somebody who was judged earlier, or at the same time, and written down later is no such finding: any member can have that.
func TestRising(t *testing.T) {
	a := &auditor{numbers: map[string][]seen{}, report: &Report{}}
	for n, of := range []struct {
		name, number string
		minute       float64 // at which it was judged
	}{
		{"a.crl", "9", 0},
		{"b.crl", "2", 2},
		{"a.crl", "9", 4},
		{"a.crl", "10", 6},
		{"a.crl", "9", 8}, // found
		{"a.crl", "10", 10},
		{"b.crl", "1", 12}, // found
		{"a.crl", "340282366920938463463374607431768211456", 14},
		{"a.crl", "10", 13},
		{"a.crl", "10", 14.5},
		{"a.crl", "9", 5},
		{"a.crl", "9", 13}, // found: of 10 somebody was judged long before
	} {
		judged := time.Unix(0, 0).Add(time.Duration(of.minute * float64(time.Minute)))
		a.rising(int64(n), judged, entry.Admitted{Office: "participant", Name: "budapest", Numbers: []entry.Number{{Name: of.name, Number: of.number}}})
	}
	var lines []int64
	for _, f := range a.report.Findings {
		lines = append(lines, f.Line)
	}
	if !slices.Equal(lines, []int64{4, 6, 11}) {
		t.Errorf("found %+v, want something at the lines 4, 6 and 11", a.report.Findings)
	}
}
