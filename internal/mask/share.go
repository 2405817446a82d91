package mask

import (
	"crypto/subtle"
	"fmt"
	"io"
)

// MaxHolders is the most holders that a secret can have: the elements of the field but 0.
const MaxHolders = 255

// Share is one of the shares of a secret: the value Y of the secret's polynomials at X, one polynomial for each byte.
type Share struct {
	X byte // not 0
	Y []byte
}

// Split divides a secret into shares at xs, of which any threshold give it and fewer tell nothing of it but its length (Shamir 1979, over
// GF(2^8) with the polynomial x^8+x^4+x^3+x+1). It draws threshold-1 times the secret's length of chance.
func Split(secret []byte, threshold int, xs []byte, chance io.Reader) ([]Share, error) {
	if len(secret) == 0 {
		return nil, fmt.Errorf("no secret to split")
	}
	if threshold < 1 || threshold > len(xs) {
		return nil, fmt.Errorf("threshold %d of %d shares, want 1 to %d", threshold, len(xs), len(xs))
	}
	if err := checkPlaces(xs); err != nil {
		return nil, err
	}
	n := len(secret)
	coefficients := make([]byte, (threshold-1)*n)
	defer clear(coefficients)
	if err := draw(chance, coefficients); err != nil {
		return nil, err
	}
	shares := make([]Share, len(xs))
	for i, x := range xs {
		y := make([]byte, n)
		for c := threshold - 2; c >= 0; c-- { // Horner's rule
			for j, v := range coefficients[c*n : (c+1)*n] {
				y[j] = times(y[j]^v, x)
			}
		}
		for j, v := range secret {
			y[j] ^= v
		}
		shares[i] = Share{x, y}
	}
	return shares, nil
}

// Combine returns the secret that shares of it give, threshold of them at least. Where there are more, all have to be of one secret:
// [ErrShares] if not. Whether the secret is the right one it cannot know.
func Combine(threshold int, shares []Share) ([]byte, error) {
	if threshold < 1 || threshold > MaxHolders {
		return nil, fmt.Errorf("threshold %d, want 1 to %d", threshold, MaxHolders)
	}
	if len(shares) < threshold {
		return nil, fmt.Errorf("%w: %d of them, want %d", ErrShares, len(shares), threshold)
	}
	xs := make([]byte, len(shares))
	for i, s := range shares {
		xs[i] = s.X
		if len(s.Y) != len(shares[0].Y) || len(s.Y) == 0 {
			return nil, fmt.Errorf("%w: their lengths are %d and %d", ErrShares, len(shares[0].Y), len(s.Y))
		}
	}
	if err := checkPlaces(xs); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrShares, err)
	}
	few := shares[:threshold]
	for _, s := range shares[threshold:] {
		if subtle.ConstantTimeCompare(interpolate(few, s.X), s.Y) != 1 {
			return nil, fmt.Errorf("%w: not all are of one secret", ErrShares)
		}
	}
	return interpolate(few, 0), nil
}

// checkPlaces refuses places of shares that are 0, doubled or too many.
func checkPlaces(xs []byte) error {
	var seen [MaxHolders + 1]bool
	for _, x := range xs {
		switch {
		case x == 0:
			return fmt.Errorf("share at 0, where the secret is")
		case seen[x]:
			return fmt.Errorf("two shares at %d", x)
		}
		seen[x] = true
	}
	return nil
}

// interpolate returns the values at x of the polynomials through the shares (Lagrange).
func interpolate(shares []Share, x byte) []byte {
	value := make([]byte, len(shares[0].Y))
	for _, s := range shares {
		above, below := byte(1), byte(1)
		for _, o := range shares {
			if o.X != s.X {
				above, below = times(above, x^o.X), times(below, s.X^o.X)
			}
		}
		factor := times(above, inverse(below))
		for j, y := range s.Y {
			value[j] ^= times(y, factor)
		}
	}
	return value
}

// times multiplies in GF(2^8), in the same steps whatever the factors are.
func times(a, b byte) byte {
	var p byte
	for range 8 {
		p ^= a & -(b & 1)
		a = a<<1 ^ 0x1b&-(a>>7)
		b >>= 1
	}
	return p
}

// inverse returns 1/a = a^254, a not 0.
func inverse(a byte) byte {
	p := byte(1)
	for range 7 { // 254 = 2 + 4 + ... + 128
		a = times(a, a)
		p = times(p, a)
	}
	return p
}
