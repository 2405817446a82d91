package aggregate

// fedAvgRule is federated averaging: McMahan et al. 2017, arXiv:1602.05629, algorithm 1, with a step of the server.
//
//	x += learning_rate*mean
//
// mean is the mean of the updates, weighted by the declared numbers of records.
//
//	learning_rate   1   above 0 to 1e6
func fedAvgRule(p *params) rule {
	o := fedAvg{learningRate(p, 1)}
	return rule{optimizer: func(int) Optimizer { return o }}
}

// fedAvg is also how the next model is made of what rules other than the mean make of the updates.
type fedAvg struct{ rate float64 }

func (fedAvg) StateLen(int) int { return 0 }

func (o fedAvg) Step(dst, base []float32, mean, state []float64) {
	sameLen(o, dst, base, mean, state)
	for i, d := range mean {
		dst[i] = float32(float64(base[i]) + float64(o.rate*d))
	}
}
