package aggregate

import "math"

// centeredClippingRule is centred clipping: Karimireddy, He, Jaggi 2021, arXiv:2012.10333, algorithm 2.
//
//	v = that of the round before, 0 at first; then iterations times:
//	v += 1/n * sum (update_i - v)*min(1, radius/|update_i - v|)
//	x += learning_rate*v
//
// v is the state, one number a parameter. Weights are not used. Within a round v is a combination of the updates and the v before, of which the
// factors are kept, so a pass needs no memory beside theirs. The paper tunes radius, and so has a plan to say it.
//
//	learning_rate   1   above 0 to 1e6
//	radius          -   2^-126 to the largest float32 (tau in the paper)
//	iterations      1   whole, 1 to 10000
func centeredClippingRule(p *params) rule {
	o := centered{learningRate(p, 1)}
	radius := p.number("radius", math.NaN(), 0x1p-126, math.MaxFloat32)
	iterations := p.whole("iterations", 1, 1, maxIterations)
	return rule{
		optimizer: func(int) Optimizer { return o },
		gather: func(s *gathered) (gatherer, error) {
			return &clipping{gathered: s, radius: radius, left: iterations, a: 1, c: make([]float64, len(s.updates))}, nil
		},
	}
}

// centered keeps v, and steps along it.
type centered struct{ rate float64 }

func (centered) StateLen(n int) int { return n }

func (o centered) Step(dst, base []float32, mean, state []float64) {
	sameLen(o, dst, base, mean, state)
	copy(state, mean)
	for i, d := range mean {
		dst[i] = float32(float64(base[i]) + float64(o.rate*d))
	}
}

type clipping struct {
	*gathered
	radius float64
	left   int
	a      float64   // factor of the v before
	c      []float64 // factors of the updates
	cut    []bool    // which were shortened, the last time
}

func (k *clipping) next(sums []float64) int {
	if sums != nil {
		n, all := float64(len(k.updates)), 0.0
		part := make([]float64, len(k.updates))
		k.cut = make([]bool, len(k.updates))
		for i, d2 := range sums {
			part[i] = 1 / n
			if d := math.Sqrt(d2); d > k.radius {
				part[i], k.cut[i] = k.radius/d/n, true
			}
			all += part[i]
		}
		k.a = float64(k.a * (1 - all))
		for i := range k.c {
			k.c[i] = float64(k.c[i]*(1-all)) + part[i]
		}
	}
	if k.left == 0 {
		return 0
	}
	k.left--
	return len(k.updates)
}

func (k *clipping) scan(lo, hi int, sums []float64) { k.distances(lo, hi, sums, k.c, k.a) }

func (k *clipping) mean(lo int, dst []float64) { k.combination(lo, dst, k.c, k.a) }

func (k *clipping) effects() []Effect {
	e := k.none()
	for i, cut := range k.cut {
		if cut {
			e[i] = Clipped
		}
	}
	return e
}
