package mask

import (
	"crypto/subtle"
	"encoding/binary"
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
			subtle.XORBytes(y, y, coefficients[c*n:(c+1)*n])
			scale(y, x)
		}
		subtle.XORBytes(y, y, secret)
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
	p := through(shares[:threshold])
	for _, s := range shares[threshold:] {
		if subtle.ConstantTimeCompare(p.at(s.X), s.Y) != 1 {
			return nil, fmt.Errorf("%w: not all are of one secret", ErrShares)
		}
	}
	return p.at(0), nil
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

// polynomials are those through shares, one for each byte. Places are no secret, so what is made of them alone goes by logarithms to the
// base 3, which generates the field's products.
type polynomials struct {
	shares []Share
	log    [256]int
	power  [255]byte
	below  []int // logarithm of the product of each place's differences to the others
}

func through(shares []Share) *polynomials {
	p := &polynomials{shares: shares, below: make([]int, len(shares))}
	value := byte(1)
	for i := range p.power {
		p.power[i], p.log[value] = value, i
		value = times(value, 3)
	}
	for i, s := range shares {
		for _, o := range shares {
			if o.X != s.X {
				p.below[i] += p.log[s.X^o.X]
			}
		}
	}
	return p
}

// at returns the values at a place that is none of the shares' (Lagrange).
func (p *polynomials) at(x byte) []byte {
	above := 0
	for _, s := range p.shares {
		above += p.log[x^s.X]
	}
	value := make([]byte, len(p.shares[0].Y))
	term := make([]byte, len(value))
	defer clear(term)
	for i, s := range p.shares {
		factor := (above - p.log[x^s.X] - p.below[i]) % 255
		copy(term, s.Y)
		scale(term, p.power[(factor+255)%255])
		subtle.XORBytes(value, value, term)
	}
	return value
}

// scale multiplies each of dst by x in GF(2^8), eight at a time, in the same steps whatever they are.
func scale(dst []byte, x byte) {
	for len(dst) > 0 {
		var word [8]byte
		n := copy(word[:], dst)
		binary.LittleEndian.PutUint64(word[:], times(binary.LittleEndian.Uint64(word[:]), x))
		dst = dst[copy(dst[:n], word[:]):]
	}
}

// times multiplies each byte of a by b in GF(2^8), in the same steps whatever they are.
func times[T byte | uint64](a T, b byte) T {
	ones := ^T(0) / 255 // 1 in each byte
	var p T
	for range 8 {
		p ^= a & -T(b&1)
		a = (a&^(ones<<7))<<1 ^ (a>>7&ones)*0x1b
		b >>= 1
	}
	return p
}
