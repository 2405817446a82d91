package strictyaml_test

import (
	"errors"
	"fmt"
	"testing"

	"consilium.dev/internal/strictyaml"
)

// TestApart says each of several faults on a line of its own, and what is one error in one line.
func TestApart(t *testing.T) {
	var c config
	several := strictyaml.Load([]byte("name: [a]\nn: x\n"), &c)
	for _, test := range []struct {
		name string
		err  error
		want string
	}{
		{"one", errors.New("no such file"), "no such file"},
		{"one fault", fmt.Errorf("a.yaml: %w", strictyaml.Faults{"line 1: no"}), "a.yaml: line 1: no"},
		{
			"several, in a file", fmt.Errorf("a.yaml: %w", several),
			"a.yaml:\n  line 1, column 7: want text, not a list\n  line 2, column 4: want a whole number within bounds, not text",
		},
		{"several alone", strictyaml.Faults{"line 1: no", "line 2: nor this"}, "line 1: no\n  line 2: nor this"},
		{"text behind them", fmt.Errorf("a.yaml: %w (see help)", strictyaml.Faults{"x", "y"}), "a.yaml:\n  x\n  y (see help)"},
		{"joined", errors.Join(errors.New("first"), errors.New("second")), "first\n  second"},
	} {
		if got := strictyaml.Apart(test.err); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}
