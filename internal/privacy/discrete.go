package privacy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
)

// maxVariance bounds a sampler's parameter so that all its arithmetic fits 128 bits.
const maxVariance = 1 << 56

// Gaussian draws from the discrete Gaussian over the integers, P(k) ~ exp(-k^2/(2 sigma^2)), exactly: by Canonne, Kamath, Steinke 2020,
// arXiv:2004.00010, algorithms 1 to 3, in integers of 128 bits only. An integer query of sensitivity s with this noise has the Rényi
// divergences of continuous noise, a s^2/(2 sigma^2) (theorem 4 there), in any number of dimensions.
//
// How long a draw takes depends on what is drawn: it is not constant-time. A Gaussian is for one goroutine.
type Gaussian struct {
	num, den uint64 // sigma^2
	scale    uint64 // floor(sigma) + 1, of the discrete Laplace that is drawn first
	half     uint128
	chance   source
}

// NewGaussian returns a sampler with sigma^2 = num/den. Chance is a cryptographic source; what it cannot give is an error of
// [Gaussian.Draw]. num and den are 1 to 2^56, and 2 num den (sigma+1)^2 is below 2^125, which holds for any whole sigma up to 2^28.
func NewGaussian(num, den uint64, chance io.Reader) (*Gaussian, error) {
	if num < 1 || num > maxVariance || den < 1 || den > maxVariance {
		return nil, fmt.Errorf("%w: variance %d/%d, want 1 to 2^56 for both", ErrParameter, num, den)
	}
	t := root(num/den) + 1
	high, low := bits.Mul64(num, den)
	if high != 0 || float64(low)*float64(t)*float64(t) > 0x1p124 {
		return nil, fmt.Errorf("%w: variance %d/%d needs more than 128 bits: take a fraction with smaller terms", ErrParameter, num, den)
	}
	square := product(t, t)
	half := square.times(low).times(2) // gamma = (|y| t den - num)^2 / half
	return &Gaussian{num: num, den: den, scale: t, half: half, chance: source{from: chance}}, nil
}

// Sigma returns the distribution's parameter, which its standard deviation is a little below.
func (g *Gaussian) Sigma() float64 { return math.Sqrt(float64(g.num) / float64(g.den)) }

// root returns the whole part of the square root.
func root(v uint64) uint64 {
	r := uint64(math.Sqrt(float64(v)))
	for r*r > v {
		r--
	}
	for (r+1)*(r+1) <= v {
		r++
	}
	return r
}

// errChance ends a draw to which no honest source of chance leads, rather than a loop that does not end or a result that does not fit.
var errChance = errors.New("the source of chance is none: what it gave has a probability below 2^-64")

// patience is how often in a row an event of probability 1/2 or more may fail to come.
const patience = 200

// Draw returns one sample.
func (g *Gaussian) Draw() (int64, error) {
	for range 2 * patience { // about 3 of 4 are kept
		y, err := g.laplace()
		if err != nil {
			return 0, err
		}
		far := y
		if far < 0 {
			far = -far
		}
		// gamma = (|y| - sigma^2/t)^2 / (2 sigma^2), in whole numbers
		high, place := bits.Mul64(uint64(far), g.scale)
		more, place := bits.Mul64(place, g.den)
		if high != 0 || more != 0 || place > 1<<63 {
			return 0, errChance
		}
		off := place - g.num
		if place < g.num {
			off = g.num - place
		}
		keep, err := g.chance.decay(product(off, off), g.half)
		if err != nil {
			return 0, err
		}
		if keep {
			return y, nil
		}
	}
	return 0, errChance
}

// laplace draws from the discrete Laplace of scale t, P(k) ~ exp(-|k|/t).
func (g *Gaussian) laplace() (int64, error) {
	for range 2 * patience {
		u, err := g.chance.below(g.scale)
		if err != nil {
			return 0, err
		}
		if keep, err := g.chance.decay(uint128{lo: u}, uint128{lo: g.scale}); err != nil || !keep {
			if err != nil {
				return 0, err
			}
			continue
		}
		var v uint64
		for {
			more, err := g.chance.decay(uint128{lo: 1}, uint128{lo: 1})
			if err != nil {
				return 0, err
			}
			if !more {
				break
			}
			if v++; v > patience {
				return 0, errChance
			}
		}
		sign, err := g.chance.below(2)
		if err != nil {
			return 0, err
		}
		x := int64(u + g.scale*v)
		switch {
		case sign == 0:
			return x, nil
		case x != 0: // or else 0 would be drawn twice as often
			return -x, nil
		}
	}
	return 0, errChance
}

// source hands out uniform numbers of a reader of chance.
type source struct {
	from io.Reader
	buf  [4096]byte
	left []byte
}

func (s *source) word() (uint64, error) {
	if len(s.left) < 8 {
		if _, err := io.ReadFull(s.from, s.buf[:]); err != nil {
			return 0, fmt.Errorf("reading chance: %w", err)
		}
		s.left = s.buf[:]
	}
	w := binary.LittleEndian.Uint64(s.left)
	clear(s.left[:8])
	s.left = s.left[8:]
	return w, nil
}

// below returns a number from 0 to n-1, n > 0.
func (s *source) below(n uint64) (uint64, error) {
	drop := 64 - bits.Len64(n-1)
	for range patience {
		w, err := s.word()
		if err != nil {
			return 0, err
		}
		if w >>= drop; w < n { // a shift by 64 gives 0
			return w, nil
		}
	}
	return 0, errChance
}

// share returns true with probability a/b, 0 <= a <= b.
func (s *source) share(a, b uint128) (bool, error) {
	if b.hi == 0 {
		w, err := s.below(b.lo)
		return w < a.lo || a.hi > 0, err
	}
	drop := bits.LeadingZeros64(b.hi)
	for range patience {
		hi, err := s.word()
		if err != nil {
			return false, err
		}
		lo, err := s.word()
		if err != nil {
			return false, err
		}
		if u := (uint128{hi >> drop, lo}); u.less(b) {
			return u.less(a), nil
		}
	}
	return false, errChance
}

// decay returns true with probability exp(-a/b), b > 0 (algorithm 1): for a/b up to 1 it counts how many draws of probability
// (a/b)/k, k = 1, 2, ..., come true in a row, and answers whether that is even; what is above 1 goes in steps of 1.
func (s *source) decay(a, b uint128) (bool, error) {
	one := uint128{lo: 1}
	for b.less(a) {
		if keep, err := s.decay(one, one); err != nil || !keep {
			return false, err
		}
		a = a.minus(b)
	}
	for k := uint64(1); k <= patience; k++ {
		// (a/b)/k is a/b and 1/k together.
		hit, err := s.share(a, b)
		if err != nil {
			return false, err
		}
		if hit && k > 1 {
			w, err := s.below(k)
			if err != nil {
				return false, err
			}
			hit = w == 0
		}
		if !hit {
			return k%2 == 1, nil
		}
	}
	return false, errChance
}

// uint128 is a whole number below 2^128.
type uint128 struct{ hi, lo uint64 }

func product(a, b uint64) uint128 {
	hi, lo := bits.Mul64(a, b)
	return uint128{hi, lo}
}

func (a uint128) less(b uint128) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

func (a uint128) minus(b uint128) uint128 {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, _ := bits.Sub64(a.hi, b.hi, borrow)
	return uint128{hi, lo}
}

// times returns a product that the caller knows to fit.
func (a uint128) times(n uint64) uint128 {
	hi, lo := bits.Mul64(a.lo, n)
	return uint128{hi + a.hi*n, lo}
}

// GaussianMass returns the probability of k under the discrete Gaussian, and its variance, which is a little below sigma^2. sigma is above
// 0.
func GaussianMass(k int64, sigma float64) (mass, variance float64) {
	total, moment := 1.0, 0.0
	for i := 1.0; ; i++ {
		w := math.Exp(-i * i / 2 / sigma / sigma)
		if w == 0 || w < 1e-20*total/(1+sigma) {
			break
		}
		total += 2 * w
		moment += 2 * w * i * i
	}
	x := float64(k) / sigma
	return math.Exp(-x*x/2) / total, moment / total
}
