package aggregate

// Local is what a strategy asks of each participant between base and update, beside the plain gradient descent that its zero value asks
// for.
type Local struct {
	Mu         float64 // weight of half the squared distance from the base model, over all parameters
	Momentum   float64 // how much of the direction before goes into each step
	Normalized bool    // the update is divided by [Local.Norm]
	Controlled bool    // steps are corrected by control variates, see [Descent.Correct]
	AtBase     bool    // the own control variate becomes the gradient at the base, instead of the mean of those on the way
}

// maxMu bounds a proximal weight, and so keeps a wrong unit from being taken for one.
const maxMu = 1e6

// Descent is a participant's way from its base model in one round. It is used by one goroutine.
type Descent struct {
	local    Local
	rate     float64
	base     []float64
	velocity []float64 // nil without momentum
	drift    []float64 // everybody's control variate less the own; nil without
}

// Descent begins at base, with the learning rate of the participant's steps. It keeps base, which nobody changes meanwhile.
func (l Local) Descent(rate float64, base []float64) *Descent {
	d := &Descent{local: l, rate: rate, base: base}
	if l.Momentum != 0 {
		d.velocity = make([]float64, len(base))
	}
	return d
}

// Correct has the steps that follow corrected by c, everybody's control variate, and own, the participant's.
func (d *Descent) Correct(c, own []float64) {
	d.drift = make([]float64, len(own))
	for i := range own {
		d.drift[i] = c[i] - own[i]
	}
}

// Control returns what becomes of the own control variate after so many steps that have led to y. slope is the gradient at the base.
func (d *Descent) Control(y, slope []float64, steps int) []float64 {
	next := make([]float64, len(y))
	for i := range next {
		if d.local.AtBase {
			next[i] = slope[i]
			continue
		}
		next[i] = (d.base[i]-y[i])/float64(d.rate*float64(steps)) - d.drift[i]
	}
	return next
}

// Step takes y, which begins as the base x, one step along the negative gradient there:
//
//	v = momentum*v + grad - c_i + c      v begins with 0; the last two where [Descent.Correct] was called
//	y -= rate*(v + mu*(y - x))
func (d *Descent) Step(y, grad []float64) {
	for i, g := range grad {
		if d.drift != nil {
			g += d.drift[i]
		}
		if d.velocity != nil {
			g += float64(d.local.Momentum * d.velocity[i])
			d.velocity[i] = g
		}
		if d.local.Mu != 0 {
			g += float64(d.local.Mu * (y[i] - d.base[i]))
		}
		y[i] -= float64(d.rate * g)
	}
}

// Norm returns the weight that the gradients of so many steps have together in y - x, in units of the learning rate: FedNova's |a|, the
// 1-norm of the accumulation vector. That of plain steps is their number, with momentum rho
//
//	(steps - rho*(1-rho^steps)/(1-rho))/(1-rho)
//
// and with a proximal weight (1-(1-rate*mu)^steps)/(rate*mu). It has the same bits on every processor.
func (l Local) Norm(steps int, rate float64) float64 {
	keep := 1 - float64(rate*l.Mu)
	n, v := 0.0, 0.0
	for range steps {
		v = float64(l.Momentum*v) + 1 // of the gradients in the velocity
		n = float64(keep*n) + v
	}
	return n
}
