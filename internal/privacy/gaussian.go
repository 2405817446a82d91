package privacy

import (
	"fmt"
	"math"
)

// GaussianDelta returns the exact delta for epsilon of one release with Gaussian noise, where mu is sensitivity over standard
// deviation: Phi(mu/2 - epsilon/mu) - exp(epsilon) Phi(-mu/2 - epsilon/mu) (Balle and Wang 2018, arXiv:1805.06530, theorem 8). Releases
// compose: their mu^2 add up. mu and epsilon are 0 or more.
func GaussianDelta(mu, epsilon float64) float64 {
	if mu == 0 {
		return 0
	}
	return max(0, phi(mu/2-epsilon/mu)-math.Exp(epsilon+logPhi(-mu/2-epsilon/mu)))
}

// GaussianEpsilon returns the least epsilon for which one release costs at most delta, to a relative 2^-40 and from above.
func GaussianEpsilon(mu, delta float64) (float64, error) {
	if err := CheckDelta(delta); err != nil {
		return 0, err
	}
	if !(mu >= 0) {
		return 0, fmt.Errorf("%w: mu %v, want 0 or more", ErrParameter, mu)
	}
	if GaussianDelta(mu, 0) <= delta {
		return 0, nil
	}
	most := 1.0
	for GaussianDelta(mu, most) > delta {
		if most *= 2; math.IsInf(most, 1) {
			return most, nil
		}
	}
	return Least(0, most, func(e float64) bool { return GaussianDelta(mu, e) <= delta }), nil
}

// GaussianSigma returns the least standard deviation with which one release of a sum of that sensitivity costs at most epsilon for
// delta (algorithm 1 of the same paper), to a relative 2^-40 and from above.
func GaussianSigma(epsilon, delta, sensitivity float64) (float64, error) {
	if err := CheckDelta(delta); err != nil {
		return 0, err
	}
	if !(epsilon >= 0) || !(sensitivity >= 0) || math.IsInf(epsilon+sensitivity, 1) {
		return 0, fmt.Errorf("%w: epsilon %v and sensitivity %v, want 0 or more", ErrParameter, epsilon, sensitivity)
	}
	return sensitivity * Least(0, 0x1p60, func(sigma float64) bool { return GaussianDelta(1/sigma, epsilon) <= delta }), nil
}

// phi is the distribution function of the standard normal distribution.
func phi(x float64) float64 { return math.Erfc(-x/math.Sqrt2) / 2 }

// logPhi is its logarithm, also where it is too small for a float64.
func logPhi(x float64) float64 {
	if x > -30 {
		return math.Log(phi(x))
	}
	i := 1 / x / x // asymptotic series of Mills' ratio: the next term is below 1e-10
	return -x*x/2 - math.Log(-x) - math.Log(2*math.Pi)/2 + math.Log1p(-i*(1-3*i*(1-5*i)))
}
