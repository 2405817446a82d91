package aggregate

import "math"

// The adaptive server optimisers of Reddi et al. 2021, arXiv:2003.00295, algorithm 2, share everything but how the second moment
// follows the mean:
//
//	m = beta1*m + (1-beta1)*mean
//	v = what the rule says of v and mean^2
//	x += eta*m/(sqrt(v) + tau)
//
// mean is that of FedAvg; m begins with 0 and v with initial_v; the two are the state, side by side for each parameter. eta is learning_rate,
// corrected for the bias of m and v towards their beginnings as bias_correction says, in training round t, counted from 1:
//
//	none     eta = learning_rate, as in the paper
//	adam     eta = learning_rate*sqrt(1-beta2^t)/(1-beta1^t): Kingma, Ba 2015, arXiv:1412.6980
//	flower   the same with t+1 for t, as Flower's FedAdam has it
//
// Their parameters, with the defaults of the paper (each rule says which of its own differ):
//
//	learning_rate     0.1     above 0 to 1e6
//	beta1             0.9     0 up to but not 1
//	beta2             0.99    0 up to but not 1
//	tau               1e-3    1e-12 to 1e12
//	initial_v         tau^2   0 to the largest float32; Flower and FLamby have 0
//	bias_correction   none    none, adam or flower
type adaptive struct {
	rate, tau, start           float64
	beta1, rest1, beta2, rest2 float64
	first                      bool // before it, state is all zeros

	// second returns the second moment after v, where d2 is the square of the mean.
	second func(o *adaptive, v, d2 float64) float64
}

// adaptiveRule reads the parameters of a rule whose beta1 is by default what is given.
func adaptiveRule(p *params, beta1 float64, second func(o *adaptive, v, d2 float64) float64) rule {
	o := adaptive{
		rate: learningRate(p, 0.1), beta1: p.number("beta1", beta1, 0, below1), beta2: p.number("beta2", 0.99, 0, below1),
		tau: p.number("tau", 1e-3, 1e-12, 1e12), second: second,
	}
	o.start = p.number("initial_v", float64(o.tau*o.tau), 0, math.MaxFloat32)
	o.rest1, o.rest2 = 1-o.beta1, 1-o.beta2
	correction := p.choice("bias_correction", "none", "adam", "flower")
	return rule{optimizer: func(round int) Optimizer {
		o, t := o, round
		o.first = round == 1
		switch correction {
		case "flower":
			t++
			fallthrough
		case "adam":
			o.rate = float64(o.rate*math.Sqrt(1-power(o.beta2, t))) / (1 - power(o.beta1, t))
		}
		return &o
	}}
}

// power returns x^n by repeated squaring. math.Pow may differ from processor to processor.
func power(x float64, n int) float64 {
	p := 1.0
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			p = float64(p * x)
		}
		x = float64(x * x)
	}
	return p
}

func (*adaptive) StateLen(n int) int { return 2 * n }

func (o *adaptive) Step(dst, base []float32, mean, state []float64) {
	sameLen(o, dst, base, mean, state)
	for i, d := range mean {
		m, v := state[2*i], state[2*i+1]
		if o.first {
			v = o.start
		}
		m = float64(o.beta1*m) + float64(o.rest1*d)
		v = o.second(o, v, float64(d*d))
		state[2*i], state[2*i+1] = m, v
		dst[i] = float32(float64(base[i]) + float64(o.rate*m)/(math.Sqrt(v)+o.tau))
	}
}
