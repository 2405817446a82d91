package skew_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"consilium.dev/internal/skew"
)

const m = time.Minute

func readings(ahead ...time.Duration) []skew.Reading {
	var all []skew.Reading
	for i, d := range ahead {
		all = append(all, skew.Reading{Member: fmt.Sprintf("m%d", i), Ahead: d})
	}
	return all
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name  string
		ahead []time.Duration
		want  time.Duration // 0: ours is good
		of    string
	}{
		{"nobody", nil, 0, ""},
		{"one alone", []time.Duration{time.Hour}, 0, ""},
		{"at the limit", []time.Duration{2 * m, 2 * m, 2 * m}, 0, ""},
		{"two of two ahead", []time.Duration{time.Hour, 3 * m}, 3 * m, "m0 m1"},
		{"two of two behind", []time.Duration{-time.Hour, -3 * m}, -3 * m, "m0 m1"},
		{"two that contradict each other", []time.Duration{time.Hour, -time.Hour}, 0, ""},
		{"one of two", []time.Duration{time.Hour, 0}, 0, ""},
		{"one of three", []time.Duration{time.Hour, 0, m}, 0, ""},
		{"two of three", []time.Duration{-9 * m, 0, -8 * m}, -8 * m, "m0 m2"},
		{"two of four", []time.Duration{9 * m, 0, 8 * m, 0}, 0, ""},
		{"three of four", []time.Duration{9 * m, 0, 8 * m, 7 * m}, 7 * m, "m0 m2 m3"},
		{"a member on each side", []time.Duration{-9 * m, 0, 0, 9 * m}, 0, ""},
	} {
		err := skew.Judge(readings(c.ahead...), 2*m)
		var e *skew.Error
		switch {
		case c.want == 0 && err != nil:
			t.Errorf("%s: Judge = %v, want nil", c.name, err)
		case c.want != 0 && !errors.As(err, &e):
			t.Errorf("%s: Judge = %v, want an *Error", c.name, err)
		case c.want != 0 && (e.Ahead != c.want || strings.Join(e.Members, " ") != c.of || e.Of != len(c.ahead)):
			t.Errorf("%s: Judge = %+v, want %v by %s", c.name, e, c.want, c.of)
		}
	}
	err := skew.Judge(readings(-8*m, 0, -9*m), 2*m)
	const want = "own clock: 8m0s ahead of the median of 3 members' clocks (m0, m2), at most 2m0s is allowed; nothing is written until they agree"
	if fmt.Sprint(err) != want {
		t.Errorf("Judge = %q, want %q", err, want)
	}
	for ahead, want := range map[time.Duration]string{
		-61 * time.Second: "1m1s behind", 1500 * time.Millisecond: "2s ahead of", time.Second: "1s ahead of", -999 * time.Millisecond: "999ms behind",
		3400 * time.Microsecond: "3ms ahead of", 400 * time.Microsecond: "as", -400 * time.Microsecond: "as", 0: "as", math.MinInt64: "2562047h47m16.854775807s behind",
	} {
		if got := skew.Text(ahead); got != want {
			t.Errorf("Text(%s) = %q, want %q", ahead, got, want)
		}
	}
}

// TestMinority: whatever fewer than half of the members say, a clock that the others agree with is trusted; and order is nothing.
func TestMinority(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		any := rapid.Map(rapid.Int64Range(-1e15, 1e15), func(n int64) time.Duration { return time.Duration(n) })
		good := rapid.SliceOfN(rapid.Map(rapid.Int64Range(-int64(2*m), int64(2*m)), func(n int64) time.Duration { return time.Duration(n) }), 1, 6).Draw(r, "good")
		bad := rapid.SliceOfN(any, 0, len(good)).Draw(r, "bad")
		all := readings(append(slices.Clone(good), bad...)...)
		if err := skew.Judge(all, 2*m); err != nil {
			r.Fatalf("Judge = %v, though %d of %d are within the limit", err, len(good), len(all))
		}
		wrong := readings(rapid.SliceOfN(any, 0, 7).Draw(r, "any")...)
		mixed := rapid.Permutation(wrong).Draw(r, "mixed")
		if a, b := skew.Judge(wrong, 2*m), skew.Judge(mixed, 2*m); fmt.Sprint(a) != fmt.Sprint(b) {
			r.Fatalf("in another order: %v and %v", a, b)
		}
	})
}

func TestFar(t *testing.T) {
	for d, want := range map[time.Duration]bool{0: false, m: false, -m: false, m + 1: true, -m - 1: true} {
		if got := skew.Far(d, m); got != want {
			t.Errorf("Far(%v, 1m) = %t, want %t", d, got, want)
		}
	}
}
