package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"consilium.dev/internal/entry"
)

func TestScreenShowsWhatPrints(t *testing.T) {
	for _, test := range []struct{ name, in, want, line string }{
		{"plain", "run 東京: 3 of 4\nnext\n", "run 東京: 3 of 4\nnext\n", `run 東京: 3 of 4\nnext\n`},
		{"a terminal's commands", "a\x1b[2Jb", `a\x1b[2Jb`, `a\x1b[2Jb`},
		{"one byte of them", "a\u009b2Jb", `a\u009b2Jb`, `a\u009b2Jb`},
		{"from right to left", "lead\u202edael", `lead\u202edael`, `lead\u202edael`},
		{"over what is there", "refused\raccepted", `refused\raccepted`, `refused\raccepted`},
		{"no UTF-8", "a\xffb", `a\xffb`, `a\xffb`},
		{"U+FFFD itself", "a\ufffdb", "a\ufffdb", "a\ufffdb"},
		{"a tab", "a\tb", `a\tb`, `a\tb`},
	} {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			if n, err := (&screen{&out}).Write([]byte(test.in)); n != len(test.in) || err != nil {
				t.Errorf("Write = %d, %v, want %d and no error", n, err, len(test.in))
			}
			if out.String() != test.want {
				t.Errorf("screen shows %q, want %q", out.String(), test.want)
			}
			if got := name(test.in); got != test.line {
				t.Errorf("name = %q, want %q", got, test.line)
			}
		})
	}
}

func TestNothingHiddenReachesATerminal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) + rapid.String().Draw(t, "text")
		a := &app{output: outputJSON}
		var out bytes.Buffer
		a.out = &out
		if err := a.emit("x", map[string]string{"name": s}, nil); err != nil {
			t.Fatal(err)
		}
		a.output = outputTable
		if err := a.emit("x", nil, func(p *page) { p.printf("%s", s) }); err != nil {
			t.Fatal(err)
		}
		for _, r := range out.String() {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Fatalf("%q holds %q", out.String(), r)
			}
		}
	})
}

func TestJSONKeepsItsMeaning(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "text")
		a := &app{output: outputJSON}
		var out bytes.Buffer
		a.out = &out
		if err := a.emit("kind", s, nil); err != nil {
			t.Fatal(err)
		}
		var got envelope
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v", out.String(), err)
		}
		if got.Schema != "consilium.cli/1" || got.Kind != "kind" || got.Data != s {
			t.Errorf("got %+v, want %q as data", got, s)
		}
	})
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1 KB", 1234: "1.2 KB", 999_949: "999.9 KB", 999_999: "1 MB", 1_500_000: "1.5 MB",
		2_000_000_000: "2 GB", 9_223_372_036_854_775_807: "9.2 EB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("bytesText(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestEdits(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"timeout", "tmieout", 2}, {"out", "put", 1}, {"watch", "watch", 0}, {"name", "", 4}, {"ab", "ba", 2}} {
		if got := edits(test.a, test.b); got != test.want {
			t.Errorf("edits(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

func TestExitCodesDiffer(t *testing.T) {
	codes, exits := map[string]bool{}, map[int]bool{0: true}
	for _, k := range kinds() {
		if codes[k.code] || exits[k.exit] || k.means == "" {
			t.Errorf("%+v stands twice or means nothing", k)
		}
		codes[k.code], exits[k.exit] = true, true
		if help := exitCodesTopic().Long; !strings.Contains(help, k.code) || !strings.Contains(help, k.means) {
			t.Errorf("the help does not name %+v", k)
		}
	}
}

func TestStrategyText(t *testing.T) {
	for _, test := range []struct {
		strategy entry.Strategy
		want     string
	}{
		{entry.Strategy{Name: "fedavg"}, "fedavg"},
		{
			entry.Strategy{Name: "fedadam", Params: map[string]any{"tau": 1e-8, "learning_rate": 1.0, "bias_correction": "ad\ram"}},
			`fedadam (bias_correction ad\ram, learning_rate 1, tau 1e-08)`,
		},
	} {
		if got := strategyText(test.strategy); got != test.want {
			t.Errorf("strategyText(%v) = %q, want %q", test.strategy, got, test.want)
		}
	}
}
