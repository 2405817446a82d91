package aggregate

import (
	"cmp"
	"slices"
)

// krumRule is Krum: Blanchard et al. 2017, arXiv:1703.02757.
//
//	score(i) = the sum of the n-attackers-2 smallest squared distances from update i to the others
//	x += learning_rate*(the update with the lowest score)
//
// Of equal scores that of the member whose name comes first counts. It needs 2*attackers+3 updates; weights are not used.
//
//	learning_rate   1   above 0 to 1e6
//	attackers       1   whole, 0 to 65535: most updates that may be hostile
func krumRule(p *params) rule {
	f := attackers(p)
	r := gathering(p, func(s *gathered) (gatherer, error) {
		return &krum{pairs: newPairs(s), attackers: f, keep: 1, uniform: true}, nil
	})
	r.least = 2*f + 3
	return r
}

// multiKrumRule is Multi-Krum: Blanchard et al. 2017, arXiv:1703.02757. As [krumRule], with the mean of the keep updates with the lowest
// scores. It needs 2*attackers+3 updates, and keep of them. With average "examples" the mean is weighted by the records declared, as in Flower.
//
//	learning_rate   1         above 0 to 1e6
//	attackers       1         whole, 0 to 65535: most updates that may be hostile
//	keep            0         whole, 1 to 65536, or 0: n-attackers, all but so many
//	average         uniform   uniform or examples
func multiKrumRule(p *params) rule {
	f, keep := attackers(p), p.whole("keep", 0, 0, maxAttackers+1)
	uniform := p.choice("average", "uniform", "examples") == "uniform"
	r := gathering(p, func(s *gathered) (gatherer, error) {
		m := keep
		if m == 0 {
			m = len(s.updates) - f
		}
		return &krum{pairs: newPairs(s), attackers: f, keep: m, uniform: uniform}, nil
	})
	r.least = max(2*f+3, keep)
	return r
}

const maxAttackers = 1<<16 - 1

// attackers reads how many hostile updates a rule withstands.
func attackers(p *params) int { return p.whole("attackers", 1, 0, maxAttackers) }

// pairs takes the squared distances between all updates, in one pass.
type pairs struct {
	*gathered
	squares []float64 // of update i and j at i*n+j, once they are known
}

func newPairs(s *gathered) pairs { return pairs{gathered: s} }

// scan sums the distances of the pairs (0,1), (0,2), (1,2), (0,3), ...
func (p *pairs) scan(lo, hi int, sums []float64) {
	chunks(lo, hi, func(lo, hi int) {
		k := 0
		for j, y := range p.updates {
			for _, x := range p.updates[:j] {
				sums[k] += distance(x.Values[lo:hi], y.Values[lo:hi])
				k++
			}
		}
	})
}

// ask returns how many sums the pass takes, and afterwards 0 and keeps them.
func (p *pairs) ask(sums []float64) int {
	n := len(p.updates)
	if sums == nil && n > 1 {
		return n * (n - 1) / 2
	}
	p.squares = make([]float64, n*n)
	k := 0
	for j := range n {
		for i := range j {
			p.squares[i*n+j], p.squares[j*n+i] = sums[k], sums[k]
			k++
		}
	}
	return 0
}

// score returns the sum of the least squared distances, so many of them, from update i to those others that are left, from the smallest on.
// left may hold i.
func (p *pairs) score(i, least int, left []int) float64 {
	var d []float64
	for _, j := range left {
		if j != i {
			d = append(d, p.squares[i*len(p.updates)+j])
		}
	}
	slices.Sort(d)
	sum := 0.0
	for _, v := range d[:min(least, len(d))] {
		sum += v
	}
	return sum
}

// all returns the places of all updates.
func (s *gathered) all() []int {
	all := make([]int, len(s.updates))
	for i := range all {
		all[i] = i
	}
	return all
}

// scores returns each update's, over all others, as Krum takes them.
func (p *pairs) scores(attackers int) []float64 {
	all := p.all()
	scores := make([]float64, len(all))
	for i := range all {
		scores[i] = p.score(i, len(all)-attackers-2, all)
	}
	return scores
}

// lowest returns the places of the m updates with the lowest scores, from the lowest on.
func lowest(scores []float64, m int) []int {
	places := make([]int, len(scores))
	for i := range places {
		places[i] = i
	}
	slices.SortStableFunc(places, func(i, j int) int { return cmp.Compare(scores[i], scores[j]) })
	return places[:m]
}

type krum struct {
	pairs
	attackers, keep int
	uniform         bool

	scored   []float64
	selected []int
	c        []float64 // factors of the updates in the result
	total    float64   // and what their sum is divided by: identical updates have their own bits for a mean
}

func (k *krum) next(sums []float64) int {
	if n := k.ask(sums); n > 0 {
		return n
	}
	k.scored = k.scores(k.attackers)
	k.selected = lowest(k.scored, k.keep)
	k.c = make([]float64, len(k.updates))
	for _, i := range k.selected {
		w := k.updates[i].Weight
		if k.uniform {
			w = 1
		}
		k.c[i] = float64(w)
		k.total += float64(w)
	}
	return 0
}

func (k *krum) mean(lo int, dst []float64) {
	k.combination(lo, dst, k.c, 0)
	for i := range dst {
		dst[i] /= k.total
	}
}

func (k *krum) measures() []float64 { return k.scored }

func (k *krum) effects() []Effect { return k.leftOut(k.selected) }

// leftOut are the effects of a rule that takes the selected updates only.
func (s *gathered) leftOut(selected []int) []Effect {
	e := s.none()
	for i := range e {
		if !slices.Contains(selected, i) {
			e[i] = LeftOut
		}
	}
	return e
}
