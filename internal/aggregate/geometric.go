package aggregate

import "math"

// geometricMedianRule is the geometric median, RFA: Pillutla, Kakade, Harchaoui 2022, arXiv:1912.13445, by the smoothed Weiszfeld iteration.
//
//	z = sum w_i*update_i, then iterations times:
//	b_i = w_i/max(smoothing, |z - update_i|), z = sum b_i*update_i/sum b_i
//	x += learning_rate*z
//
// w_i are the records declared, in parts of their sum, or all alike with weighting "uniform". The defaults are those of the authors' code. z is
// never stored: it is a combination of the updates, of which the factors are kept, so a pass needs no memory beside theirs.
//
//	learning_rate   1          above 0 to 1e6
//	iterations      4          whole, 0 to 10000
//	smoothing       1e-6       2^-126 to the largest float32 (nu in the paper)
//	weighting       examples   examples or uniform
func geometricMedianRule(p *params) rule {
	iterations := p.whole("iterations", 4, 0, maxIterations)
	nu := p.number("smoothing", 1e-6, 0x1p-126, math.MaxFloat32)
	uniform := p.choice("weighting", "examples", "uniform") == "uniform"
	return gathering(p, func(s *gathered) (gatherer, error) {
		return &geometric{gathered: s, w: s.weights(uniform), nu: nu, left: iterations}, nil
	})
}

const maxIterations = 10_000

type geometric struct {
	*gathered
	nu   float64
	left int       // iterations to come
	w, c []float64 // the weights, and the updates' factors in z
}

func (g *geometric) next(sums []float64) int {
	if sums == nil {
		g.c = g.w
	} else {
		total := 0.0
		g.c = make([]float64, len(g.w))
		for i, w := range g.w {
			g.c[i] = w / max(g.nu, math.Sqrt(sums[i]))
			total += g.c[i]
		}
		for i := range g.c {
			g.c[i] /= total
		}
	}
	if g.left == 0 {
		return 0
	}
	g.left--
	return len(g.updates)
}

func (g *geometric) scan(lo, hi int, sums []float64) { g.distances(lo, hi, sums, g.c, 0) }

// distances adds the squared distances of the updates to a combination of them and the state.
func (s *gathered) distances(lo, hi int, sums, c []float64, a float64) {
	buf := make([]float64, min(chunk, hi-lo))
	chunks(lo, hi, func(lo, hi int) {
		z := buf[:hi-lo]
		s.combination(lo, z, c, a)
		for i, u := range s.updates {
			sums[i] += distanceTo(z, u.Values[lo:hi])
		}
	})
}

func (g *geometric) mean(lo int, dst []float64) { g.combination(lo, dst, g.c, 0) }

func (g *geometric) effects() []Effect { return g.none() }
