package main

import (
	"bytes"
	"strings"
	"testing"
)

const printed = `goos: linux
BenchmarkAdd/kernel=loop/updates=4-2         	      20	  24829514 ns/op	         3.659 GB/s	         0.2960 of-copy
BenchmarkVerify/tdx/ours                     	    1366	    961163 ns/op	      1040 verifications/s	  148832 B/op	    1636 allocs/op
BenchmarkVerify/tdx/go-tdx-guest-2           	     769	   1498125 ns/op	       520.0 verifications/s
--- BENCH: BenchmarkAdd-2
PASS
`

func TestReport(t *testing.T) {
	seen := results{}
	if err := seen.note("./p", strings.NewReader(printed)); err != nil {
		t.Fatal(err)
	}
	loop := row{what: "loop", pkg: "./p", bench: "Add/kernel=loop/updates=4", metric: "of-copy", least: 0.20}
	tdx := row{what: "tdx", pkg: "./p", bench: "Verify/tdx/ours", metric: "verifications/s", over: "Verify/tdx/go-tdx-guest", most: 2}
	gone := row{what: "gone", pkg: "./p", bench: "Gone", metric: "of-copy", least: 1}
	other := row{what: "other", pkg: "./q", bench: "Add/kernel=loop/updates=4", metric: "of-copy"}
	change := func(r row, f func(*row)) row { f(&r); return r }
	for _, c := range []struct {
		name string
		rows []row
		ok   bool
		want string
	}{
		{"met", []row{loop, tdx}, true, "loop   0.30      >= 0.20  0.25            \ntdx    2.00      <= 2.00  -               \n"},
		{"too little", []row{change(loop, func(r *row) { r.least = 0.31 })}, false, ">= 0.31  0.25            MISSED"},
		{"too much", []row{change(tdx, func(r *row) { r.most = 1.99 })}, false, "<= 1.99  -               MISSED"},
		{"not measured", []row{gone}, false, "NOT MEASURED"},
		{"not measured, with a reason", []row{change(gone, func(r *row) { r.absent = "no AVX2" })}, true, "no AVX2"},
		{"of another package", []row{other}, false, "NOT MEASURED"},
		{"over nothing", []row{change(tdx, func(r *row) { r.over = "Verify/sgx" })}, false, "NOT MEASURED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			ok, reached := report(&out, c.rows, seen, map[string]string{"loop": "0.25"})
			if ok != c.ok || !strings.Contains(out.String(), c.want) {
				t.Errorf("report = %v, want %v, with %q:\n%s", ok, c.ok, c.want, out.String())
			}
			if c.ok && c.rows[0].what == "loop" && reached["loop"] != "0.30" {
				t.Errorf("reached = %v", reached)
			}
		})
	}
	if err := seen.note("./p", strings.NewReader("BenchmarkX-2 20 fast ns/op\n")); err == nil {
		t.Error("a value that is no number was read")
	}
}

// TestRows: no two rows are kept under one name, and each can be met or is for reading only.
func TestRows(t *testing.T) {
	names := map[string]bool{}
	for _, r := range rows {
		if names[r.what] || r.what == "" || r.pkg == "" || r.bench == "" || r.metric == "" || r.least > 0 && r.most > 0 || strings.Contains(r.what, "  ") {
			t.Errorf("row %+v", r)
		}
		names[r.what] = true
	}
	if got := functions([]row{{pkg: "./p", bench: "A/x"}, {pkg: "./p", bench: "A/y"}, {pkg: "./q", bench: "A"}}); len(got) != 2 {
		t.Errorf("functions = %v, want each once", got)
	}
}
