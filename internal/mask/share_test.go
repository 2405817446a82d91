package mask_test

import (
	"bytes"
	"errors"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/mask"
)

// TestSplit: any threshold of shares give the secret, whichever and in whichever order, and fewer an error.
func TestSplit(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		secret := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(r, "secret")
		xs := rapid.SliceOfNDistinct(rapid.ByteMin(1), 1, 12, rapid.ID).Draw(r, "places")
		threshold := rapid.IntRange(1, len(xs)).Draw(r, "threshold")
		shares, err := mask.Split(secret, threshold, xs, chance(rapid.Byte().Draw(r, "chance")))
		if err != nil {
			r.Fatal(err)
		}
		some := rapid.Permutation(shares).Draw(r, "shares")[:rapid.IntRange(0, len(xs)).Draw(r, "how many")]
		got, err := mask.Combine(threshold, some)
		switch {
		case len(some) < threshold:
			if !errors.Is(err, mask.ErrShares) || got != nil {
				r.Fatalf("Combine of %d of %d = %x, %v, want %v", len(some), threshold, got, err, mask.ErrShares)
			}
		case err != nil || !bytes.Equal(got, secret):
			r.Fatalf("Combine = %x, %v, want %x", got, err, secret)
		case len(some) > threshold:
			i, j := rapid.IntRange(0, len(some)-1).Draw(r, "whose"), rapid.IntRange(0, len(secret)-1).Draw(r, "where")
			some[i].Y[j] ^= rapid.ByteMin(1).Draw(r, "change")
			if got, err := mask.Combine(threshold, some); !errors.Is(err, mask.ErrShares) || got != nil {
				r.Fatalf("Combine with a wrong share too many = %x, %v, want %v", got, err, mask.ErrShares)
			}
		}
	})
}

// TestSplitMost: all the places that there are.
func TestSplitMost(t *testing.T) {
	xs := make([]byte, mask.MaxHolders)
	for i := range xs {
		xs[i] = byte(i + 1)
	}
	shares, err := mask.Split([]byte("secret"), 255, xs, chance(1))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := mask.Combine(255, shares); err != nil || string(got) != "secret" {
		t.Errorf("Combine = %q, %v", got, err)
	}
}

// TestFewTellNothing: below the threshold each secret has just as many polynomials: over all coefficients a share takes each value alike.
func TestFewTellNothing(t *testing.T) {
	for _, secret := range []byte{0, 1, 0xff} {
		var seen [256]int
		for c := range 256 {
			shares, err := mask.Split([]byte{secret}, 2, []byte{7, 9}, bytes.NewReader([]byte{byte(c)}))
			if err != nil {
				t.Fatal(err)
			}
			seen[shares[0].Y[0]]++
		}
		for v, times := range seen {
			if times != 1 {
				t.Errorf("secret %d: share %d came %d times, want once", secret, v, times)
			}
		}
	}
}

// TestField holds products and inverses to polynomials over GF(2) divided by 0x11b: a share at x of the secret 0 with one coefficient is a
// product, and what two shares give holds two quotients.
func TestField(t *testing.T) {
	slow := func(a, b byte) byte {
		var p uint32
		for i := range 8 {
			if b>>i&1 == 1 {
				p ^= uint32(a) << i
			}
		}
		for bits.Len32(p) > 8 {
			p ^= 0x11b << (bits.Len32(p) - 9)
		}
		return byte(p)
	}
	all := make([]byte, 255)
	for i := range all {
		all[i] = byte(i + 1)
	}
	for a := range 256 {
		shares, err := mask.Split([]byte{0}, 2, all, bytes.NewReader([]byte{byte(a)}))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range shares {
			if want := slow(byte(a), s.X); s.Y[0] != want {
				t.Fatalf("%#x times %#x = %#x, want %#x", a, s.X, s.Y[0], want)
			}
		}
		for x := byte(2); x != 0 && a%51 == 2; x++ {
			if got, err := mask.Combine(2, []mask.Share{shares[0], shares[x-1]}); err != nil || got[0] != 0 {
				t.Fatalf("Combine at 1 and %d = %x, %v, want 0", x, got, err)
			}
		}
	}
}

func TestSplitRefuses(t *testing.T) {
	for _, c := range []struct {
		name      string
		secret    string
		threshold int
		xs        []byte
		chance    string
		want      string
	}{
		{"no secret", "", 1, []byte{1}, "", "no secret to split"},
		{"threshold 0", "s", 0, []byte{1}, "", "threshold 0 of 1 shares, want 1 to 1"},
		{"threshold beyond", "s", 3, []byte{1, 2}, "xx", "threshold 3 of 2 shares, want 1 to 2"},
		{"no shares", "s", 1, nil, "", "threshold 1 of 0 shares, want 1 to 0"},
		{"share at 0", "s", 1, []byte{1, 0}, "", "share at 0, where the secret is"},
		{"two at one place", "s", 1, []byte{1, 2, 1}, "", "two shares at 1"},
		{"too many", "s", 1, slices.Concat(make([]byte, 0), bytes.Repeat([]byte{5}, 256)), "", "two shares at 5"},
		{"no chance", "s", 2, []byte{1, 2}, "", "reading chance: EOF"},
		{"too little chance", "ss", 3, []byte{1, 2, 3}, "xxx", "reading chance: unexpected EOF"},
	} {
		if shares, err := mask.Split([]byte(c.secret), c.threshold, c.xs, strings.NewReader(c.chance)); err == nil || err.Error() != c.want || shares != nil {
			t.Errorf("%s: Split = %v, %v, want %s", c.name, shares, err, c.want)
		}
	}
}

func TestCombineRefuses(t *testing.T) {
	one := mask.Share{X: 1, Y: []byte{1, 2}}
	for _, c := range []struct {
		name      string
		threshold int
		shares    []mask.Share
		want      string
	}{
		{"threshold 0", 0, []mask.Share{one}, "threshold 0, want 1 to 255"},
		{"threshold 256", 256, []mask.Share{one}, "threshold 256, want 1 to 255"},
		{"none", 1, nil, "shares do not give the secret: 0 of them, want 1"},
		{"too few", 2, []mask.Share{one}, "shares do not give the secret: 1 of them, want 2"},
		{"empty", 1, []mask.Share{{X: 1}}, "shares do not give the secret: their lengths are 0 and 0"},
		{"other length", 2, []mask.Share{one, {X: 2, Y: []byte{1}}}, "shares do not give the secret: their lengths are 2 and 1"},
		{"at 0", 1, []mask.Share{{X: 0, Y: []byte{1}}}, "shares do not give the secret: share at 0, where the secret is"},
		{"twice", 2, []mask.Share{one, one}, "shares do not give the secret: two shares at 1"},
	} {
		if got, err := mask.Combine(c.threshold, c.shares); err == nil || err.Error() != c.want || got != nil {
			t.Errorf("%s: Combine = %x, %v, want %s", c.name, got, err, c.want)
		}
	}
}
