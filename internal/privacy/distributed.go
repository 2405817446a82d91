package privacy

import (
	"fmt"
	"math"
)

// What follows is for sums in which each client adds its part of the noise itself, so that the one who sums need not be trusted with a
// sum without: Kairouz, Liu, Steinke 2021, arXiv:2102.06387 (discrete Gaussian), Agarwal, Kairouz, Liu 2021, arXiv:2110.04995 (Skellam).
// A client clips, rotates, scales by 1/gamma, rounds at random, adds noise and takes the result modulo 2^bits.

// Rotate fills dst, whose length is a power of two, with (1/sqrt(d)) H (signs * values), H the Walsh-Hadamard matrix in Sylvester's
// order and values padded by zeros. signs are 1 or -1, as many as dst has values.
func Rotate(dst, values []float64, signs []int) {
	d := len(dst)
	if d == 0 || d&(d-1) != 0 || len(values) > d || len(signs) != d {
		panic(fmt.Sprintf("privacy: rotation of %d values with %d signs into %d", len(values), len(signs), d))
	}
	clear(dst)
	for i, v := range values {
		dst[i] = v * float64(signs[i])
	}
	for h := 1; h < d; h *= 2 {
		for i := 0; i < d; i += 2 * h {
			for j := i; j < i+h; j++ {
				dst[j], dst[j+h] = dst[j]+dst[j+h], dst[j]-dst[j+h]
			}
		}
	}
	for i := range dst {
		dst[i] /= math.Sqrt(float64(d))
	}
}

// RoundingBounds returns the most that the norms of a vector of d values with Euclidean norm clip may be after scaling by 1/gamma and
// rounding at random (proposition 22): a client draws anew until its vector's norm is within l2, which it is with a probability of at least
// 1 - beta. beta = 0 bounds any rounding.
func RoundingBounds(clip, gamma, beta float64, d int) (l1, l2 float64, err error) {
	if !(clip > 0 && gamma > 0 && beta >= 0 && beta < 1) || d < 1 || math.IsInf(clip/gamma, 1) {
		return 0, 0, fmt.Errorf("%w: clip norm %v, gamma %v, beta %v, %d values", ErrParameter, clip, gamma, beta, d)
	}
	s, n := clip/gamma, float64(d)
	l2 = s + math.Sqrt(n)
	if beta > 0 {
		l2 = min(l2, math.Sqrt(s*s+n/4+math.Sqrt(2*math.Log(1/beta))*(s+math.Sqrt(n)/2)))
	}
	return l2 * min(math.Sqrt(n), l2), l2, nil
}

// RoundAtRandom fills dst with values/gamma, each rounded up where uniform, from 0 up to 1, is below its fraction, and returns the norm.
func RoundAtRandom(dst []int64, values, uniform []float64, gamma float64) (norm float64) {
	sum := 0.0
	for i, v := range values {
		low := math.Floor(v / gamma)
		if uniform[i] < v/gamma-low {
			low++
		}
		dst[i] = int64(low)
		sum += low * low
	}
	return math.Sqrt(sum)
}

// Centre returns v modulo 2^bits, from -2^(bits-1) to 2^(bits-1)-1; bits are 1 to 64.
func Centre(v int64, bits int) int64 { return v << (64 - bits) >> (64 - bits) }

// Distributed says how a sum with distributed noise is made.
type Distributed struct {
	Clip   float64 // Euclidean norm of a client's vector
	Gamma  float64 // what one step of the integers stands for
	Beta   float64 // of [RoundingBounds]
	Dim    int     // values of the rotated vector
	Rate   float64 // as in Mechanism
	Rounds int
}

// Sensitivity returns the most that a client changes the sum by, in its own units.
func (d Distributed) Sensitivity() (l1, l2 float64, err error) {
	l1, l2, err = RoundingBounds(d.Clip, d.Gamma, d.Beta, d.Dim)
	return l1 * d.Gamma, l2 * d.Gamma, err
}

// Excess returns how far the sum of n discrete Gaussians of sigma = stddev/gamma is from one discrete Gaussian (tau, theorem 1).
func (d Distributed) Excess(stddev float64, n int) float64 {
	tau := 0.0
	for k := 1.0; k < float64(n); k++ {
		tau += math.Exp(-2 * math.Pi * math.Pi * stddev * stddev / d.Gamma / d.Gamma * k / (k + 1))
	}
	return 10 * tau
}

// GaussianEpsilon returns the epsilon for delta where each of n clients adds a discrete Gaussian of standard deviation stddev, in the
// vector's units, and the order that gave it, over whole orders.
func (d Distributed) GaussianEpsilon(stddev float64, n int, delta float64, orders []int) (epsilon float64, order int, err error) {
	l1, l2, err := d.Sensitivity()
	if err == nil && (!(stddev > 0) || n < 1) {
		err = fmt.Errorf("%w: stddev %v of %d clients", ErrParameter, stddev, n)
	}
	if err != nil {
		return 0, 0, err
	}
	central := math.Sqrt(float64(n)) * stddev
	l1, l2 = l1/central, l2/central
	tau, dim := d.Excess(stddev, n), float64(d.Dim)
	return d.epsilon(delta, orders, func(a int) float64 {
		far := l2 + math.Sqrt(dim)*tau
		return float64(a) / 2 * min(l2*l2+2*tau*dim/float64(a), l2*l2+2*l1*tau+tau*tau*dim, far*far)
	})
}

// SkellamEpsilon returns the same where the clients' noise together is a Skellam distribution of standard deviation stddev, in the
// vector's units (theorem 3.5).
func (d Distributed) SkellamEpsilon(stddev, delta float64, orders []int) (epsilon float64, order int, err error) {
	l1, l2, err := d.Sensitivity()
	if err == nil && !(stddev > 0) {
		err = fmt.Errorf("%w: stddev %v", ErrParameter, stddev)
	}
	if err != nil {
		return 0, 0, err
	}
	mu, scale := stddev*stddev, 1/d.Gamma
	return d.epsilon(delta, orders, func(a int) float64 {
		n := float64(a)
		return n*l2*l2/2/mu + min(((2*n-1)*scale*l2*l2+6*l1)/4/scale/scale/scale/mu/mu, 3*l1/2/scale/mu)
	})
}

// epsilon converts the divergences of one release to the epsilon of all of them.
func (d Distributed) epsilon(delta float64, orders []int, rdp func(order int) float64) (float64, int, error) {
	if _, _, err := check([]Mechanism{{d.Rate, 1, d.Rounds}}, delta); err != nil {
		return 0, 0, err
	}
	if len(orders) == 0 {
		return 0, 0, fmt.Errorf("%w: no orders", ErrParameter)
	}
	whole := make([]float64, len(orders))
	for i, a := range orders {
		if a < 2 || a > maxOrder {
			return 0, 0, fmt.Errorf("%w: order %d, want 2 to %d", ErrParameter, a, maxOrder)
		}
		whole[i] = float64(a)
	}
	if d.Rate == 0 || d.Rounds == 0 {
		return 0, 0, nil
	}
	e, a := fromRenyi(whole, delta, func(a float64) float64 { return float64(d.Rounds) * amplify(d.Rate, int(a), rdp) })
	return e, int(a), nil
}

// amplify returns the divergence at a whole order of a mechanism whose units are drawn with probability q (Zhu and Wang 2019, ICML,
// theorem 5), and no more than without drawing.
func amplify(q float64, a int, rdp func(order int) float64) float64 {
	if q == 1 {
		return rdp(a)
	}
	n, out := float64(a), math.Log1p(-q)
	sum := (n-1)*out + math.Log1p((n-1)*q)
	sum = logAdd(sum, logBinomial(a, 2)+2*math.Log(q)+(n-2)*out+rdp(2))
	for j := 3; j <= a; j++ {
		k := float64(j)
		sum = logAdd(sum, math.Log(3)+logBinomial(a, j)+(n-k)*out+k*math.Log(q)+(k-1)*rdp(j))
	}
	return min(rdp(a), max(0, sum)/(n-1))
}

// SkellamMass returns the probability of k under the difference of two Poisson variables of mean variance/2 each:
// exp(-variance) I_|k|(variance). variance is above 0.
func SkellamMass(k int64, variance float64) float64 {
	n, half := math.Abs(float64(k)), variance/2
	term := func(i float64) float64 { // of the series of the modified Bessel function, with its logarithm's help
		a, _ := math.Lgamma(i + 1)
		b, _ := math.Lgamma(i + n + 1)
		return math.Exp((2*i+n)*math.Log(half) - a - b - variance)
	}
	peak := math.Floor(half * variance / (n + math.Sqrt(n*n+variance*variance)))
	sum := term(peak)
	for _, step := range []float64{1, -1} {
		for i := peak + step; i >= 0; i += step {
			t := term(i)
			if sum += t; t < 1e-18*sum {
				break
			}
		}
	}
	return sum
}
