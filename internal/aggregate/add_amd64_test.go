package aggregate

import "testing"

// TestAvailable: what a processor lacks is not called.
func TestAvailable(t *testing.T) {
	for _, c := range []struct {
		avx2, avx512 bool
		want         string
	}{{false, false, "loop"}, {true, false, "avx2"}, {true, true, "avx512"}} {
		all := available(c.avx2, c.avx512)
		if got := all[len(all)-1].name; got != c.want || all[0].name != "loop" {
			t.Errorf("AVX2 %v, AVX-512F %v: %s of %v, want %s", c.avx2, c.avx512, got, all, c.want)
		}
	}
}
