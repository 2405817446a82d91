package pages_test

import (
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"consilium.dev/internal/pages"
)

// resident returns how many bytes of memory the process has, see proc_pid_statm(5).
func resident(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		t.Fatal(err)
	}
	return n * os.Getpagesize()
}

// TestMake: vectors are zeros, apart from each other, and their memory is there when it is touched and gone when it is given back.
func TestMake(t *testing.T) {
	const n = 64 << 20 / 8
	before := resident(t)
	a, freeA, err := pages.Make[float64](n)
	if err != nil {
		t.Fatal(err)
	}
	b, freeB, err := pages.Make[float32](2 * n)
	if err != nil {
		t.Fatal(err)
	}
	if got := resident(t) - before; got > 16<<20 {
		t.Errorf("%d bytes are taken before any is touched", got)
	}
	for i := range a {
		if a[i] != 0 || b[i] != 0 || b[n+i] != 0 {
			t.Fatalf("value %d is not 0", i)
		}
		a[i], b[i], b[n+i] = 1, 2, 3
	}
	if got := resident(t) - before; got < 128<<20 {
		t.Errorf("%d bytes are taken, want those of two vectors of 64 MiB", got)
	}
	freeA()
	for i := range b[:n] {
		if b[i] != 2 || b[n+i] != 3 {
			t.Fatalf("value %d was changed", i)
		}
	}
	if got := resident(t) - before; got < 64<<20 || got > 96<<20 {
		t.Errorf("%d bytes are taken when one is given back, want 64 MiB and little more", got)
	}
	freeB()
	if got := resident(t) - before; got > 32<<20 {
		t.Errorf("%d bytes are taken when both are given back", got)
	}
}

// TestMakeOdd: short vectors, none, and one that no machine has.
func TestMakeOdd(t *testing.T) {
	for _, n := range []int{0, 1, 1<<18 - 1, 1 << 18} {
		v, free, err := pages.Make[float32](n)
		if err != nil || len(v) != n {
			t.Fatalf("Make(%d) = %d values, %v", n, len(v), err)
		}
		for i := range v {
			v[i] = 1
		}
		free()
	}
	for _, n := range []int{math.MaxInt, math.MaxInt / 8} {
		if _, _, err := pages.Make[float64](n); err == nil {
			t.Errorf("Make(%d) = no error", n)
		}
	}
}
