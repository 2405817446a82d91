package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lines returns the lines of go test -json for tests of one package, each "ACTION TEST" or "output TEST text".
func lines(t *testing.T, all ...string) string {
	t.Helper()
	var b strings.Builder
	for _, one := range all {
		words := strings.SplitN(one, " ", 3)
		e := event{Action: words[0], Package: "consilium.dev/internal/x"}
		if len(words) > 1 && words[1] != "-" {
			e.Test = words[1]
		}
		if len(words) > 2 {
			e.Output = words[2] + "\n"
		}
		if e.Action == "build-output" {
			e.ImportPath = "consilium.dev/internal/x"
		}
		if e.Action == "fail" && e.Test == "" && len(words) > 2 {
			e.FailedBuild, e.Output = "consilium.dev/internal/x", ""
		}
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(text, '\n'))
	}
	return b.String()
}

func TestReport(t *testing.T) {
	skipped := []string{
		"run TestA", "output TestA === RUN   TestA", "output TestA     x_test.go:9: no gcc here", "output TestA --- SKIP: TestA (0.00s)",
		"skip TestA", "run TestB", "pass TestB", "pass -",
	}
	unset := []string{"output TestA     x_test.go:9: CONSILIUM_DATA is not set: the folder", "skip TestA", "pass TestB", "pass -"}
	for _, c := range []struct {
		name   string
		events []string
		strict bool
		err    error // of go test
		ok     bool
		want   []string // lines of the summary, in order
	}{
		{"all well", []string{"pass TestA", "pass TestA/sub", "pass -"}, true, nil, true, []string{"2 passed, 0 failed, 0 skipped"}},
		{
			"a failure",
			[]string{"output TestA got 1, want 2", "fail TestA", "pass TestB", "fail -"},
			false, errors.New("exit status 1"), false,
			[]string{"got 1, want 2", "  internal/x TestA", "1 passed, 1 failed, 0 skipped"},
		},
		{"a skip", skipped, false, nil, true, []string{"  internal/x TestA: no gcc here", "1 passed, 0 failed, 1 skipped"}},
		{
			"a skip where all is required", skipped, true, nil, false,
			[]string{"  internal/x TestA: no gcc here  NOT ALLOWED under CONSILIUM_REQUIRE_ALL", "1 passed, 1 failed, 0 skipped"},
		},
		{
			"a folder that is not set where all is required", unset, true, nil, true,
			[]string{"  internal/x TestA: CONSILIUM_DATA is not set: the folder", "1 passed, 0 failed, 1 skipped"},
		},
		{
			"an expected skip where all is required",
			[]string{"output TestOld/a     x_test.go:1: not supported yet", "skip TestOld/a", "pass TestOld", "pass -"},
			true, nil, true,
			[]string{"  internal/x TestOld/a: not supported yet", "1 passed, 0 failed, 1 skipped"},
		},
		{
			"a skip whose name only begins like an expected one",
			[]string{"output TestOld/ab     x_test.go:1: no gcc", "skip TestOld/ab", "pass TestOld", "pass -"},
			true, nil, false,
			[]string{"1 passed, 1 failed, 0 skipped"},
		},
		{
			"a skip without a reason",
			[]string{"output TestA --- SKIP: TestA (0.00s)", "skip TestA", "pass TestB", "pass -"},
			false, nil, true,
			[]string{"  internal/x TestA: no reason given"},
		},
		{
			"a package that does not build",
			[]string{"build-output - x.go:1: undefined: y", "fail - build"},
			false, errors.New("exit status 1"), false,
			[]string{"x.go:1: undefined: y", "  internal/x ", "0 passed, 1 failed, 0 skipped"},
		},
		{
			"a package that breaks outside its tests",
			[]string{"pass TestA", "output - panic: no", "fail -"},
			false, errors.New("exit status 1"), false,
			[]string{"panic: no", "1 passed, 1 failed, 0 skipped"},
		},
		{
			"tests that hang",
			[]string{"output TestB panic: test timed out", "output TestA === RUN   TestA", "pass TestC", "fail -"},
			false, errors.New("exit status 1"), false,
			[]string{"--- never ended: TestA", "panic: test timed out", "--- never ended: TestB", "  internal/x TestA", "  internal/x TestB", "1 passed, 2 failed, 0 skipped"},
		},
		{"an interruption", []string{"pass TestA"}, false, errors.New("interrupt"), false, []string{"go test: interrupt", "1 passed, 1 failed, 0 skipped"}},
		{"no test", nil, false, nil, false, []string{"0 passed, 0 failed, 0 skipped"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out, c.strict)
			file := filepath.Join(t.TempDir(), "skips")
			if err := os.WriteFile(file, []byte("# why\ninternal/x TestOld/. it is old\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := r.expect(file); err != nil {
				t.Fatal(err)
			}
			if err := r.read(strings.NewReader(lines(t, c.events...))); err != nil {
				t.Fatal(err)
			}
			if got := r.summarize(c.err); got != c.ok {
				t.Errorf("summarize: %t, want %t", got, c.ok)
			}
			if diff := cmp.Diff(c.want, having(out.String(), c.want)); diff != "" {
				t.Errorf("lines (-want +got):\n%s\nall of it:\n%s", diff, &out)
			}
			if last := strings.Split(out.String(), "\n"); !strings.Contains(last[len(last)-2], " passed, ") {
				t.Errorf("the last line is %q", last[len(last)-2])
			}
		})
	}
}

// having returns those of the lines wanted that text has, in the order in which it has them.
func having(text string, want []string) []string {
	var got []string
	for line := range strings.Lines(text) {
		for _, w := range want {
			if line == w+"\n" {
				got = append(got, w)
			}
		}
	}
	return got
}

func TestExpectRefuses(t *testing.T) {
	for _, text := range []string{"internal/x TestA\n", "internal/x Test( why\n"} {
		file := filepath.Join(t.TempDir(), "skips")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := newReport(&strings.Builder{}, true).expect(file); err == nil {
			t.Errorf("expect took %q", text)
		}
	}
}

func TestReason(t *testing.T) {
	if got, want := reason("# runtime/cgo\ncgo: C compiler \"gcc\" not found\nmore"), `cgo: C compiler "gcc" not found`; got != want {
		t.Errorf("reason: %q, want %q", got, want)
	}
}
