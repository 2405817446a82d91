package privacy

import (
	"math"
	"math/bits"
	"math/cmplx"

	"gonum.org/v1/gonum/dsp/fourier"
)

// Epsilon returns the epsilon for delta of all mechanisms together, nearly exact and never too small: the larger of the two
// directions (a unit added, a unit removed), from the distribution of the privacy loss, composed by Fourier transform (Koskela et al.
// 2020, arXiv:1906.03049). Where every rate is 1 it is the analytic Gaussian's. It is 0 where nothing was released and +Inf
// where something was without noise.
//
// The loss log P/Q is put on a grid as in Doroshenko et al. 2022, arXiv:2207.04380 ("connect the dots"): what lies between two points goes
// to both, so that its mass under P and under Q stay as they are. The curve of deltas is then the chord between those at the
// points, and since it is convex in exp(epsilon), nowhere too small. What lies above the grid counts as an infinite loss, what lies
// below it as the grid's least. What a periodic transform folds over, by Chernoff's bound, and what it rounds are added to delta. Where
// all that leaves a larger figure than [RenyiEpsilon]'s, the latter is returned.
func Epsilon(all []Mechanism, delta float64) (float64, error) {
	loud, bare, err := check(all, delta)
	switch {
	case err != nil:
		return 0, err
	case len(loud) == 0:
		return 0, nil
	case bare:
		return math.Inf(1), nil
	}
	mu2, full := 0.0, true
	for _, m := range loud {
		mu2 += float64(m.Rounds) / m.Noise / m.Noise
		full = full && m.Rate == 1
	}
	if full {
		return GaussianEpsilon(math.Sqrt(mu2), delta)
	}
	bound, _, err := RenyiEpsilon(loud, delta, nil)
	if err != nil {
		return 0, err
	}
	w, ok := frame(loud, delta)
	if !ok {
		return bound, nil
	}
	return min(bound, max(w.epsilon(loud, delta, true), w.epsilon(loud, delta, false))), nil
}

// window is a grid of losses: the points (low + i) h for 0 <= i < n.
type window struct {
	h     float64
	low   int
	n     int
	tilt  float64 // exponent of Chernoff's bound above the window
	count int     // releases
}

const (
	leastPoints, mostPoints = 1 << 14, 1 << 20
	// spill is how much of delta what lies outside the window may be.
	spill = 1e-4
	// widest is the largest loss that is looked at: exp of it is a float64.
	widest = 600
)

// frame returns the window within which the sum of the losses lies but for a small part of delta, by Chernoff's bound on the Rényi
// divergences; false where losses are so large that the grid would be of no use.
func frame(all []Mechanism, delta float64) (window, bool) {
	var w window
	high, low, rest := math.Inf(1), math.Inf(1), -math.Log(delta*spill)
	for _, a := range DefaultOrders() {
		sum := 0.0
		for _, m := range all {
			sum += m.renyi(a)
		}
		if h := sum + rest/(a-1); h < high {
			high, w.tilt = h, a-1
		}
		low = min(low, ((a-1)*sum+rest)/a)
	}
	if !(high+low < widest) {
		return w, false
	}
	// A step is to be a good deal smaller than the standard deviation of one release's loss, about q sqrt(exp(1/z^2) - 1).
	finest := math.Inf(1)
	for _, m := range all {
		finest = min(finest, m.Rate*math.Sqrt(math.Expm1(min(1/m.Noise/m.Noise, 10)))/16)
		w.count += m.Rounds
	}
	points := (high + low) * 1.02 / finest
	w.n = leastPoints
	for float64(w.n) < points && w.n < mostPoints {
		w.n *= 2
	}
	w.h = (high + low) * 1.01 / float64(w.n)
	w.low = -int(math.Ceil(low / w.h))
	return w, true
}

// epsilon composes the mechanisms in one direction and returns the epsilon for delta.
func (w window) epsilon(all []Mechanism, delta float64, removed bool) float64 {
	fft := fourier.NewFFT(w.n)
	mass := make([]float64, w.n)
	var spectrum []complex128
	var total []complex128
	finite, chernoff := 0.0, -w.tilt*float64(w.low+w.n)*w.h // logarithms
	for _, m := range all {
		infinite := w.losses(mass, m, removed)
		rounds := float64(m.Rounds)
		finite += rounds * math.Log1p(-infinite)
		moment := math.Inf(-1)
		for i, p := range mass {
			if p > 0 {
				moment = logAdd(moment, math.Log(p)+w.tilt*w.loss(i))
			}
		}
		chernoff += rounds * moment
		spectrum = fft.Coefficients(spectrum, mass)
		if total == nil {
			total = make([]complex128, len(spectrum))
			for i := range total {
				total[i] = 1
			}
		}
		for i, c := range spectrum {
			total[i] *= power(c, m.Rounds)
		}
	}
	energy := 0.0
	for _, c := range total {
		energy += 2 * (real(c)*real(c) + imag(c)*imag(c))
	}
	sum := fft.Sequence(mass, total)
	// Each transform is off by a few units of its logarithm in the last place, relative to its norm, each power by as many times more.
	rounding := 0x1p-50 * float64(bits.Len(uint(w.n))) * float64(w.count+1) * (1 + math.Sqrt(energy))
	left := delta - rounding + math.Expm1(finite) - math.Exp(chernoff)
	if !(left > 0) {
		return math.Inf(1)
	}
	return w.quantile(sum, left)
}

// loss returns the loss at index i of a periodic array.
func (w window) loss(i int) float64 { return float64(w.unfold(i)) * w.h }

// unfold returns which multiple of h the index i of a periodic array stands for: the one in the window.
func (w window) unfold(i int) int {
	k := (i - w.low) % w.n
	if k < 0 {
		k += w.n
	}
	return w.low + k
}

// fold is the index in a periodic array of a multiple of h.
func (w window) fold(k int) int {
	if k %= w.n; k < 0 {
		k += w.n
	}
	return k
}

// quantile returns the least epsilon of 0 or more with sum over losses above epsilon of p (1 - exp(epsilon - loss)) <= delta. sum is
// what the transform left: n times the masses.
func (w window) quantile(sum []float64, delta float64) float64 {
	above, damped := 0.0, 0.0 // masses above, and those times exp(-loss)
	for k := w.low + w.n - 1; k >= 0; k-- {
		loss := float64(k) * w.h
		if above-math.Exp(loss)*damped > delta { // between this point and the one before
			return math.Log((above - delta) / damped)
		}
		if k >= w.low {
			p := max(0, sum[w.fold(k)]/float64(w.n))
			above += p
			damped += p * math.Exp(-loss)
		}
	}
	return 0
}

// losses fills mass, a periodic array, with the distribution under P of one release's loss, and returns the mass of infinite loss.
// P is the mixture (1-q) N(0, z^2) + q N(1, z^2) and Q is N(0, z^2) where a unit is removed, and the reverse where one is added.
func (w window) losses(mass []float64, m Mechanism, removed bool) (infinite float64) {
	clear(mass)
	q, z := m.Rate, m.Noise
	// at returns where on the line the loss is k h.
	at := func(k int) float64 {
		l := float64(k) * w.h
		if !removed {
			l = -l
		}
		if e := math.Expm1(l) + q; e > 0 {
			return z*z*math.Log(e/q) + 0.5
		}
		return math.Inf(-1)
	}
	first, last := w.low, w.low+w.n-1
	// One release's own losses may be far fewer than the window's points: the line beyond 38 z holds nothing that a float64 counts.
	x := at(first)
	p, _ := between(q, z, removed, x)
	mass[w.fold(first)] += p // what is below counts as the least
	damp := -math.Expm1(-w.h)
	for k := first; k < last; k++ {
		y := at(k + 1)
		p, r := interval(q, z, removed, x, y)
		x = y
		if p <= 0 {
			continue
		}
		// The part that goes to the upper point, rounded up by more than the subtraction can be off.
		up := (p - r*math.Exp(float64(k)*w.h) + 0x1p-51*p) / damp
		up = min(p, max(0, up))
		mass[w.fold(k+1)] += up
		mass[w.fold(k)] += p - up
	}
	_, p = between(q, z, removed, x)
	return p
}

// between returns the masses under P of what has smaller and what has larger losses than the place x.
func between(q, z float64, removed bool, x float64) (smaller, larger float64) {
	if removed {
		return (1-q)*phi(x/z) + q*phi((x-1)/z), (1-q)*phi(-x/z) + q*phi((1-x)/z)
	}
	return phi(-x / z), phi(x / z)
}

// interval returns the masses under P and under Q of the places between two.
func interval(q, z float64, removed bool, x, y float64) (p, r float64) {
	if x > y {
		x, y = y, x
	}
	still := normal(x/z, y/z)
	mixed := (1-q)*still + q*normal((x-1)/z, (y-1)/z)
	if removed {
		return mixed, still
	}
	return still, mixed
}

// normal returns the standard normal distribution's mass between x and y, x <= y, from the side on which it is the smaller.
func normal(x, y float64) float64 {
	if x > 0 {
		return phi(-x) - phi(-y)
	}
	return phi(y) - phi(x)
}

// power returns c^n.
func power(c complex128, n int) complex128 {
	if c == 0 {
		return 0
	}
	r, a := cmplx.Polar(c)
	if r > 1 { // by rounding only: the masses' sum is at most 1
		r = 1
	}
	r = math.Exp(float64(n) * math.Log(r))
	sin, cos := math.Sincos(math.Mod(float64(n)*a, 2*math.Pi))
	return complex(r*cos, r*sin)
}
