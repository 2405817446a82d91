// Package privacy says what noise costs and draws it: accountants, calibrations, samplers and the clipping that belongs to them.
// It is an innocent room: chance comes from a reader that the caller gives, which has to be cryptographic, and the same input gives
// the same output.
//
// A [Mechanism] is a number of releases of a sum, each with Gaussian noise of noise_multiplier times the most that one unit can
// change the sum by (its sensitivity). What the unit is, a hospital or a patient, its caller knows and has to say beside every
// figure. Neighbours differ by one unit that is there or is not. What mechanisms cost together, for a given delta:
//
//	spent := []privacy.Mechanism{{Rate: 1, Noise: 4, Rounds: 10}, {Rate: 0.1, Noise: 1, Rounds: 100}}
//	bound, order, err := privacy.RenyiEpsilon(spent, 1e-5, nil)  // Rényi: fast, a little too much
//	tight, err := privacy.Epsilon(spent, 1e-5)                   // loss distribution: nearly exact, never too little
//
// Rates below 1 count only where each unit is drawn independently (Poisson), by code that everybody trusts, and where nobody
// learns who was drawn. Where all take part, or a fixed number is drawn, or the draw is seen, the rate is 1.
//
// Two things are not promised. A sampler's running time depends on what it draws, as that of any exact rejection sampler does:
// whoever can time single draws learns something of the noise. And a figure is that of the arithmetic with real numbers: float64s
// that round are kept on the safe side where it is said so.
package privacy

import (
	"errors"
	"fmt"
	"math"
)

// ErrParameter is wrapped by every error of a parameter outside its domain.
var ErrParameter = errors.New("parameter outside its domain")

// ErrNoise is wrapped where a noise multiplier cannot be had with the other parameters.
var ErrNoise = errors.New("noise multiplier too large")

// Mechanism is a number of releases, each of a sum with Gaussian noise.
type Mechanism struct {
	Rate   float64 // probability that a unit is in a release's sum, 0 to 1; see the package's comment for when it may be below 1
	Noise  float64 // noise multiplier: standard deviation over sensitivity, 0 or more
	Rounds int     // releases, 0 or more
}

// Validate reports a field outside its domain.
func (m Mechanism) Validate() error {
	switch {
	case !(m.Rate >= 0 && m.Rate <= 1):
		return fmt.Errorf("%w: sampling rate %v, want 0 to 1", ErrParameter, m.Rate)
	case !(m.Noise >= 0) || math.IsInf(m.Noise, 1):
		return fmt.Errorf("%w: noise multiplier %v, want 0 or more", ErrParameter, m.Noise)
	case m.Rounds < 0:
		return fmt.Errorf("%w: %d rounds, want 0 or more", ErrParameter, m.Rounds)
	}
	return nil
}

// silent reports whether the mechanism says nothing about anybody.
func (m Mechanism) silent() bool { return m.Rate == 0 || m.Rounds == 0 }

// CheckDelta reports a delta outside its domain, which is 0 to 1 without both.
func CheckDelta(delta float64) error {
	if !(delta > 0 && delta < 1) {
		return fmt.Errorf("%w: delta %v, want above 0 and below 1", ErrParameter, delta)
	}
	return nil
}

// check validates mechanisms and delta, and returns those that cost something; bare reports that one of these has no noise.
func check(all []Mechanism, delta float64) (loud []Mechanism, bare bool, err error) {
	if err := CheckDelta(delta); err != nil {
		return nil, false, err
	}
	return checked(all)
}

// checked is check without a delta.
func checked(all []Mechanism) (loud []Mechanism, bare bool, err error) {
	for _, m := range all {
		if err := m.Validate(); err != nil {
			return nil, false, err
		}
		if m.silent() {
			continue
		}
		loud, bare = append(loud, m), bare || m.Noise == 0
	}
	return loud, bare, nil
}

// Least returns the least x with ok(x), to a relative 2^-40 and from above, where ok is false below some point and true above
// it; +Inf where it is not true anywhere below most.
func Least(least, most float64, ok func(float64) bool) float64 {
	if !ok(most) {
		return math.Inf(1)
	}
	low, high := least, most
	for range 200 {
		if high-low <= 0x1p-40*high {
			break
		}
		middle := low + (high-low)/2
		if low > 0 && high/low > 4 {
			middle = math.Sqrt(low) * math.Sqrt(high)
		}
		if ok(middle) {
			high = middle
		} else {
			low = middle
		}
	}
	return high
}
