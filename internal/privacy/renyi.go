package privacy

import (
	"fmt"
	"math"
	"slices"
)

// DefaultOrders returns the orders over which an epsilon is minimised: 1.1 to 10.9 by tenths, 11 to 63, 128, 256, 512 and 1024.
func DefaultOrders() []float64 {
	var orders []float64
	for i := 11; i < 110; i++ {
		orders = append(orders, float64(i)/10)
	}
	for i := 11; i < 64; i++ {
		orders = append(orders, float64(i))
	}
	return append(orders, 128, 256, 512, 1024)
}

// Whole returns those of the orders that are whole numbers. They are faster to compute, and their bound is valid and a little larger.
func Whole(orders []float64) []float64 {
	return slices.DeleteFunc(slices.Clone(orders), func(a float64) bool { return a != math.Trunc(a) })
}

// maxOrder is the largest order that is computed.
const maxOrder = 1 << 16

// leastFractional is the least noise multiplier for which orders that are not whole are computed: the integral below it has a peak
// that takes too many points, and its epsilon is useless.
const leastFractional = 0.02

// Renyi returns the Rényi divergence of the given order, above 1, of m's releases together: of the Poisson-sampled Gaussian as in
// Mironov, Talwar, Zhang 2019, arXiv:1908.10530, rounds added up. It is +Inf without noise, and for an order that is not whole with a
// noise multiplier below 0.02.
//
// With P = (1-q) N(0, z^2) + q N(1, z^2) and Q = N(0, z^2) it is log E_Q (P/Q)^a / (a-1). Since the mean of P/Q is 1, E - 1 is that of
// (P/Q)^a - 1 - a (P/Q - 1), which is nowhere negative: so nothing cancels, however small q is.
func (m Mechanism) Renyi(order float64) (float64, error) {
	if err := m.Validate(); err != nil {
		return 0, err
	}
	if !(order > 1 && order <= maxOrder) {
		return 0, fmt.Errorf("%w: order %v, want above 1 and at most %d", ErrParameter, order, maxOrder)
	}
	return m.renyi(order), nil
}

func (m Mechanism) renyi(order float64) float64 {
	switch {
	case m.silent():
		return 0
	case m.Noise == 0:
		return math.Inf(1)
	case m.Rate == 1:
		return float64(m.Rounds) * order / 2 / m.Noise / m.Noise
	case order == math.Trunc(order):
		return float64(m.Rounds) * log1pExp(wholeMoment(m.Rate, m.Noise, int(order))) / (order - 1)
	case m.Noise < leastFractional:
		return math.Inf(1)
	}
	return float64(m.Rounds) * log1pExp(anyMoment(m.Rate, m.Noise, order)) / (order - 1)
}

// wholeMoment returns log(E - 1) = log of the sum over k >= 2 of binom(a,k) (1-q)^(a-k) q^k (exp((k^2-k)/(2 z^2)) - 1).
func wholeMoment(q, z float64, a int) float64 {
	sum := math.Inf(-1)
	for k := 2; k <= a; k++ {
		n := float64(k)
		gain := n * (n - 1) / 2 / z / z
		grow := gain // log(exp(gain) - 1)
		if gain < 40 {
			grow = math.Log(math.Expm1(gain))
		}
		sum = logAdd(sum, logBinomial(a, k)+float64(a-k)*math.Log1p(-q)+n*math.Log(q)+grow)
	}
	return sum
}

// anyMoment returns log(E - 1) by the trapezoidal rule over the whole line, whose error falls exponentially with the step: the
// integrand is analytic up to a distance of pi z^2 from it (where P = 0) and falls like a Gaussian.
func anyMoment(q, z, a float64) float64 {
	h := min(z/8, z*z/2)
	low, high := -14*z, a+14*z
	sum := math.Inf(-1)
	for i := 0; ; i++ {
		x := low + float64(i)*h
		if x > high {
			break
		}
		t := (2*x - 1) / 2 / z / z
		sum = logAdd(sum, logExcess(q, t, a)-x*x/2/z/z)
	}
	return sum + math.Log(h/z) - math.Log(2*math.Pi)/2
}

// logExcess returns log((1+u)^a - 1 - a u) for u = q (e^t - 1), which is 0 or more for a >= 1.
func logExcess(q, t, a float64) float64 {
	if t > 600 { // u alone would be too large for a float64
		return a*(math.Log(q)+t) + math.Log1p(-math.Exp(math.Log(a)+(1-a)*(math.Log(q)+t)))
	}
	u := q * math.Expm1(t)
	if math.Abs(u) < 1e-3 { // the difference below would lose digits
		return math.Log(a*(a-1)/2*u*u) + math.Log1p((a-2)/3*u*(1+(a-3)/4*u*(1+(a-4)/5*u)))
	}
	power := a * math.Log1p(u)
	if power < 30 {
		return math.Log(math.Expm1(power) - a*u)
	}
	return power + math.Log1p(-(1+a*u)*math.Exp(-power))
}

// RenyiEpsilon returns the epsilon for delta of all mechanisms together, and the order that gave it: the least of
//
//	rdp(a) + log((a-1)/a) - (log delta + log a)/(a-1)
//
// over orders (nil: [DefaultOrders]), but no less than 0: Canonne, Kamath, Steinke 2020, arXiv:2004.00010, proposition 12. It is an upper
// bound. It is 0, with order 0, where nothing was released, and +Inf where something was without noise.
func RenyiEpsilon(all []Mechanism, delta float64, orders []float64) (epsilon, order float64, err error) {
	loud, bare, err := check(all, delta)
	if err != nil {
		return 0, 0, err
	}
	if orders == nil {
		orders = DefaultOrders()
	}
	for _, a := range orders {
		if !(a > 1 && a <= maxOrder) {
			return 0, 0, fmt.Errorf("%w: order %v, want above 1 and at most %d", ErrParameter, a, maxOrder)
		}
	}
	switch {
	case len(loud) == 0:
		return 0, 0, nil
	case bare:
		return math.Inf(1), 0, nil
	}
	epsilon, order = fromRenyi(orders, delta, func(a float64) float64 {
		sum := 0.0
		for _, m := range loud {
			sum += m.renyi(a)
		}
		return sum
	})
	return epsilon, order, nil
}

// DiscreteEpsilon is [RenyiEpsilon] where the noise is that of [Gaussian] on sums of whole numbers. Where every unit is in every sum the orders are
// those of [DefaultOrders]: the divergences are then at most those of continuous noise. Where units are drawn they are its whole
// ones. For these the moments of the mixture are sums of those of (Q shifted by the unit over Q)^k for whole k, each of which, since the shift is
// of whole numbers, is exp(k(k-1)/(2 z^2)) to the letter, as for continuous noise; and that the direction with the unit added costs no more follows from the
// mirror x -> s - x (Mironov, Talwar, Zhang 2019, arXiv:1908.10530, theorem 5), which takes whole numbers to whole numbers. For orders between
// them nobody has shown it.
func DiscreteEpsilon(all []Mechanism, delta float64) (float64, error) {
	c, err := NewCurve(all...)
	if err != nil {
		return 0, err
	}
	return c.Epsilon(delta)
}

// Curve is what mechanisms cost together by [DiscreteEpsilon], order by order: what does not change is reckoned once where one more mechanism is
// tried after another. Nobody changes a Curve.
type Curve struct {
	orders, sums []float64
	loud, bare   bool // something was released, and something without noise
}

// NewCurve returns the curve of mechanisms.
func NewCurve(all ...Mechanism) (Curve, error) {
	return Curve{orders: DefaultOrders(), sums: make([]float64, len(DefaultOrders()))}.With(all...)
}

// With returns the curve of c's mechanisms and more: to the bit what [NewCurve] makes of all of them.
func (c Curve) With(more ...Mechanism) (Curve, error) {
	loud, bare, err := checked(more)
	if err != nil {
		return Curve{}, err
	}
	drawn := slices.ContainsFunc(loud, func(m Mechanism) bool { return m.Rate != 1 })
	out := Curve{loud: c.loud || len(loud) > 0, bare: c.bare || bare}
	for i, a := range c.orders {
		if drawn && a != math.Trunc(a) {
			continue
		}
		sum := c.sums[i]
		for _, m := range loud {
			sum += m.renyi(a)
		}
		out.orders, out.sums = append(out.orders, a), append(out.sums, sum)
	}
	return out, nil
}

// Epsilon returns what the mechanisms cost for delta.
func (c Curve) Epsilon(delta float64) (float64, error) {
	if err := CheckDelta(delta); err != nil {
		return 0, err
	}
	switch {
	case !c.loud:
		return 0, nil
	case c.bare:
		return math.Inf(1), nil
	}
	at := 0
	epsilon, _ := fromRenyi(c.orders, delta, func(float64) float64 { at++; return c.sums[at-1] })
	return epsilon, nil
}

// fromRenyi converts a curve of divergences.
func fromRenyi(orders []float64, delta float64, rdp func(order float64) float64) (epsilon, order float64) {
	epsilon = math.Inf(1)
	for _, a := range orders {
		e := rdp(a) + math.Log1p(-1/a) - (math.Log(delta)+math.Log(a))/(a-1)
		if e < epsilon {
			epsilon, order = max(0, e), a
		}
	}
	return epsilon, order
}

// CalibrateRenyi returns the least noise multiplier with which so many releases cost at most epsilon for delta by [RenyiEpsilon] over
// orders (nil: the whole ones of [DefaultOrders]), to a relative 2^-40; +Inf where none up to 2^40 does.
func CalibrateRenyi(rate float64, rounds int, epsilon, delta float64, orders []float64) (float64, error) {
	if !(epsilon > 0) {
		return 0, fmt.Errorf("%w: epsilon %v, want above 0", ErrParameter, epsilon)
	}
	if orders == nil {
		orders = Whole(DefaultOrders())
	}
	if _, _, err := RenyiEpsilon([]Mechanism{{rate, 1, rounds}}, delta, orders); err != nil {
		return 0, err
	}
	return Least(0, 0x1p40, func(z float64) bool {
		e, _, _ := RenyiEpsilon([]Mechanism{{rate, z, rounds}}, delta, orders) // checked above
		return e <= epsilon
	}), nil
}

// logAdd returns log(exp(a) + exp(b)).
func logAdd(a, b float64) float64 {
	if a < b {
		a, b = b, a
	}
	if math.IsInf(b, -1) {
		return a
	}
	return a + math.Log1p(math.Exp(b-a))
}

// log1pExp returns log(1 + exp(x)).
func log1pExp(x float64) float64 {
	if x > 40 {
		return x
	}
	return math.Log1p(math.Exp(x))
}

func logFactorial(n int) float64 {
	v, _ := math.Lgamma(float64(n) + 1)
	return v
}

func logBinomial(n, k int) float64 { return logFactorial(n) - logFactorial(k) - logFactorial(n-k) }
