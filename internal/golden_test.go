package internal_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// goldens has, for each file of expected numbers, the adapter that holds the code to it. A file's definition is the exact rule that
// the code has to follow.
var goldens = map[string]adapter{
	"fedavg":     cases(fedAvgCase, fedAvgSameBits),
	"fedavgm":    cases(fedAvgMCase),
	"fedadam":    cases(adaptiveCase("fedadam")),
	"fedyogi":    cases(adaptiveCase("fedyogi")),
	"fedadagrad": cases(adaptiveCase("fedadagrad")),

	"fedprox":  cases(fedProxCase),
	"scaffold": cases(scaffoldCase),
	"fednova":  cases(fedNovaCase),
	"fedbuff":  cases(fedBuffCase),

	"median":            cases(medianCase),
	"trimmed-mean":      cases(trimmedMeanCase),
	"krum":              cases(krumCase),
	"bulyan":            cases(bulyanCase),
	"geometric-median":  cases(geometricMedianCase),
	"centered-clipping": cases(centeredClippingCase),
	"fltrust":           cases(flTrustCase),
	"norm-clipping":     cases(normClippingCase),

	"dp-fedavg-fixed":    cases(dpFixedCase),
	"dp-fedavg-adaptive": cases(dpAdaptiveCase),
	"rdp-accountant":     cases(rdpCase),
	"pld-accountant":     cases(pldCase),
	"analytic-gaussian":  cases(gaussianCase),
	"ddgauss":            cases(distributedCase),
	"skellam":            cases(distributedCase),

	"secagg":       cases(maskCase),
	"shamir":       cases(shamirCase),
	"quantization": cases(quantizationCase),
}

// adapter runs all cases of a file, each in a subtest.
type adapter func(t *testing.T, text []byte)

// TestGolden walks a folder of expected numbers: that of CONSILIUM_GOLDEN, or the copies in testdata. A file without an adapter and an
// adapter without a file are errors.
func TestGolden(t *testing.T) {
	dir := os.Getenv("CONSILIUM_GOLDEN")
	if dir == "" {
		dir = filepath.Join("testdata", "golden")
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		there[name] = true
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			run, ok := goldens[name]
			if !ok {
				t.Fatalf("%s is of no algorithm that is known here", file)
			}
			run(t, text)
		})
	}
	for _, name := range slices.Sorted(maps.Keys(goldens)) {
		if !there[name] {
			t.Errorf("%s has no file %s.json", dir, name)
		}
	}
}

// golden is a file of expected numbers. An unknown key is an error of the test.
type golden[Input, Params, Expected any] struct {
	Algorithm  string                            `json:"algorithm"`
	Paper      string                            `json:"paper"`
	Definition string                            `json:"definition"`
	Cases      []sample[Input, Params, Expected] `json:"cases"`
}

// sample is one case of a file.
type sample[Input, Params, Expected any] struct {
	Name      string    `json:"name"`
	Input     Input     `json:"input"`
	Params    Params    `json:"params"`
	Expected  Expected  `json:"expected"`
	Tolerance tolerance `json:"tolerance"`
	Note      string    `json:"note"`
}

// cases makes the adapter of a file out of what holds one case, and what holds all of them together.
func cases[I, P, E any](one func(*testing.T, sample[I, P, E]), all ...func(*testing.T, []sample[I, P, E])) adapter {
	return func(t *testing.T, text []byte) {
		var g golden[I, P, E]
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&g); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Token(); err != io.EOF {
			t.Fatal("the file goes on behind its end")
		}
		if len(g.Cases) == 0 {
			t.Fatal("the file has no cases")
		}
		seen := map[string]bool{}
		for _, c := range g.Cases {
			if seen[c.Name] {
				t.Errorf("two cases are called %s", c.Name)
			}
			seen[c.Name] = true
			t.Run(c.Name, func(t *testing.T) { one(t, c) })
		}
		for _, f := range all {
			f(t, g.Cases)
		}
	}
}

// number is a number that may also be "NaN", "Infinity" or "-Infinity".
type number float64

func (n *number) UnmarshalJSON(text []byte) error {
	switch string(text) {
	case `"NaN"`:
		*n = number(math.NaN())
	case `"Infinity"`:
		*n = number(math.Inf(1))
	case `"-Infinity"`:
		*n = number(math.Inf(-1))
	default:
		var v float64
		if err := json.Unmarshal(text, &v); err != nil {
			return err
		}
		*n = number(v)
	}
	return nil
}

// float32s returns numbers as an update holds them.
func float32s(v []number) []float32 {
	x := make([]float32, len(v))
	for i, n := range v {
		x[i] = float32(n)
	}
	return x
}

// float64s returns numbers as a mean holds them.
func float64s(v []number) []float64 {
	x := make([]float64, len(v))
	for i, n := range v {
		x[i] = float64(n)
	}
	return x
}

// widen returns values of a model or an update as float64.
func widen(v []float32) []float64 {
	x := make([]float64, len(v))
	for i, n := range v {
		x[i] = float64(n)
	}
	return x
}

// tolerance says how far a number may be off: |v - e| <= abs + rel*|e|.
type tolerance struct {
	Abs float64 `json:"abs"`
	Rel float64 `json:"rel"`
}

func (tol tolerance) check(t *testing.T, what string, got []float64, want []number) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s has %d values, want %d", what, len(got), len(want))
		return
	}
	for i, v := range got {
		if e := float64(want[i]); !(math.Abs(v-e) <= tol.Abs+tol.Rel*math.Abs(e)) {
			t.Errorf("%s[%d] = %v, want %v", what, i, v, e)
		}
	}
}
