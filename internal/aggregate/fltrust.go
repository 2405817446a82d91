package aggregate

import (
	"fmt"
	"math"
	"slices"
)

// flTrustRule is FLTrust: Cao et al. 2021, arXiv:2012.13995.
//
//	trust_i = max(0, cos(update_i, g))
//	x += learning_rate * sum trust_i*(|g|/|update_i|)*update_i / sum trust_i
//
// In the paper g is what the server's own small clean set of records makes of the same model. This server has no records: g is the update of a member
// that the plan names, and it has no other part in the result. So that member decides, in each round, which way the model may go, and nothing
// protects from it; the paper's bound holds as far as its records are clean and like the others'. A round is not closed without it.
// An update of length 0 has trust 0; where nobody has any trust the model stays as it is. Weights are not used.
//
//	learning_rate   1   above 0 to 1e6
//	reference       -   the member's name
func flTrustRule(p *params) rule {
	reference := p.text("reference")
	r := gathering(p, func(s *gathered) (gatherer, error) {
		at := slices.IndexFunc(s.updates, func(u Update) bool { return u.Member == reference })
		if at < 0 {
			return nil, fmt.Errorf("there is no update of %.64q, by which the others are measured", reference)
		}
		return &trust{gathered: s, reference: at}, nil
	})
	r.least, r.member = 2, reference
	return r
}

type trust struct {
	*gathered
	reference int
	trust     []float64
	c         []float64 // each update's part in the result
}

// next asks for each update's square and its product with the reference.
func (t *trust) next(sums []float64) int {
	n := len(t.updates)
	if sums == nil {
		return 2 * n
	}
	t.trust, t.c = make([]float64, n), make([]float64, n)
	g, total := math.Sqrt(sums[t.reference]), 0.0
	for i := range n {
		norm := math.Sqrt(sums[i])
		if i == t.reference || norm == 0 || g == 0 {
			continue
		}
		t.trust[i] = min(1, max(0, sums[n+i]/norm/g))
		t.c[i] = float64(t.trust[i] * (g / norm))
		total += t.trust[i]
	}
	if total > 0 {
		for i := range t.c {
			t.c[i] /= total
		}
	}
	return 0
}

func (t *trust) scan(lo, hi int, sums []float64) {
	g, n := t.updates[t.reference].Values, len(t.updates)
	chunks(lo, hi, func(lo, hi int) {
		for i, u := range t.updates {
			sums[i] += squares(u.Values[lo:hi])
			sums[n+i] += dot(u.Values[lo:hi], g[lo:hi])
		}
	})
}

func (t *trust) mean(lo int, dst []float64) { t.combination(lo, dst, t.c, 0) }

func (t *trust) measures() []float64 { return t.trust }

func (t *trust) effects() []Effect {
	e := t.none()
	for i := range e {
		switch {
		case i == t.reference:
			e[i] = Reference
		case t.trust[i] == 0:
			e[i] = LeftOut
		}
	}
	return e
}
