package aggregate

// fedAvgMRule is federated averaging with momentum on the server: Hsu, Qi, Brown 2019, arXiv:1909.06335.
//
//	v = momentum*v + mean
//	x += learning_rate*v                         or, with nesterov,
//	x += learning_rate*(mean + momentum*v)
//
// mean is that of FedAvg, v begins with 0 and is the state, one number a parameter. It is torch.optim.SGD, without dampening, on the gradient
// -mean.
//
//	learning_rate   1      above 0 to 1e6
//	momentum        0.9    0 up to but not 1
//	nesterov        false
func fedAvgMRule(p *params) rule {
	o := fedAvgM{rate: learningRate(p, 1), momentum: p.number("momentum", 0.9, 0, below1), nesterov: p.truth("nesterov")}
	return rule{optimizer: func(int) Optimizer { return o }}
}

type fedAvgM struct {
	rate, momentum float64
	nesterov       bool
}

func (fedAvgM) StateLen(n int) int { return n }

func (o fedAvgM) Step(dst, base []float32, mean, state []float64) {
	sameLen(o, dst, base, mean, state)
	for i, d := range mean {
		v := float64(o.momentum*state[i]) + d
		state[i] = v
		if o.nesterov {
			v = d + float64(o.momentum*v)
		}
		dst[i] = float32(float64(base[i]) + float64(o.rate*v))
	}
}
