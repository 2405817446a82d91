package dataset_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"consilium.dev/internal/dataset"
)

// FuzzRead: no file makes Read panic, and a set that it gives is whole: finite numbers, labels 0 or 1, lines that ascend.
func FuzzRead(f *testing.F) {
	f.Add(false, "1,1,x,2,3,1\n")
	f.Add(true, wardHeader+"1,3.5,\"a\n\"\"b\",2,-.3e1,1\r\n")
	f.Add(false, "\ufeff1,2,?,2,3,?\n2,1,,0,0,0")
	f.Fuzz(func(t *testing.T, header bool, file string) {
		text := ward
		if !header {
			text = dropping()
		}
		set, err := dataset.Read(strings.NewReader(file), "f", schema(t, text))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f: ") {
				t.Fatalf("Read = %v, want an error that begins with the file's name", err)
			}
			return
		}
		n := set.Rows()
		if n == 0 || len(set.Features) != n*set.Columns() || len(set.Lines) != n || set.Columns() != 5 {
			t.Fatalf("%d rows, %d features, %d lines, %d columns", n, len(set.Features), len(set.Lines), set.Columns())
		}
		if slices.ContainsFunc(set.Features, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }) {
			t.Fatalf("features = %v, want finite numbers", set.Features)
		}
		if slices.ContainsFunc(set.Labels, func(v float64) bool { return v != 0 && v != 1 }) {
			t.Fatalf("labels = %v, want 0 or 1", set.Labels)
		}
		last := 0
		for _, line := range set.Lines {
			if line <= last || line > strings.Count(file, "\n")+1 {
				t.Fatalf("lines = %v of %d, want them to ascend", set.Lines, strings.Count(file, "\n")+1)
			}
			last = line
		}
	})
}

// FuzzReadSplit: no file makes ReadSplit panic.
func FuzzReadSplit(f *testing.F) {
	f.Add("line,set\n1,train\n2,test\n")
	f.Add("line,set\r\n\"3\",\"test\"\r\n")
	f.Fuzz(func(t *testing.T, file string) {
		if _, err := dataset.ReadSplit(strings.NewReader(file), "f"); err != nil && !strings.HasPrefix(err.Error(), "f: ") {
			t.Fatalf("ReadSplit = %v, want an error that begins with the file's name", err)
		}
	})
}

// FuzzParseSchema: no text makes ParseSchema panic, and a schema that it gives has features with different names.
func FuzzParseSchema(f *testing.F) {
	f.Add(ward)
	f.Add(dropping())
	f.Add(`{"columns":[{"name":"a","use":"number"},{"name":"b","use":"label","above":1e3}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := dataset.ParseSchema([]byte(text))
		if err != nil {
			return
		}
		names := slices.Sorted(slices.Values(s.Features()))
		if len(names) == 0 || len(names) > dataset.MaxColumns || len(slices.Compact(names)) != len(s.Features()) {
			t.Fatalf("features = %q, want some with names of their own", s.Features())
		}
		if _, err := dataset.Read(strings.NewReader(""), "f", s); err == nil {
			t.Fatal("Read of an empty file = nil, want an error")
		}
	})
}
