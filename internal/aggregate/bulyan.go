package aggregate

import (
	"math"
	"slices"
)

// bulyanRule is Bulyan: El Mhamdi, Guerraoui, Rouault 2018, arXiv:1802.07927.
//
//	n-2*attackers of the n updates are selected:
//	  krum_repeated   so many times the one that Krum takes among those that are left, with the r-attackers-2 smallest of
//	                  its distances to the r-1 others, but one at least
//	  krum_once       those with the lowest scores of one Krum
//	x += learning_rate*(for each parameter, the mean of the n-4*attackers selected values that are nearest to their median)
//
// Of equal scores that of the member whose name comes first counts, of equal distances to the median that of the update that was selected first. It needs
// 4*attackers+3 updates; weights are not used.
//
//	learning_rate   1               above 0 to 1e6
//	attackers       1               whole, 0 to 65535: most updates that may be hostile
//	selection       krum_repeated   krum_repeated or krum_once
func bulyanRule(p *params) rule {
	f := attackers(p)
	once := p.choice("selection", "krum_repeated", "krum_once") == "krum_once"
	r := gathering(p, func(s *gathered) (gatherer, error) { return &bulyan{pairs: newPairs(s), attackers: f, once: once}, nil })
	r.least = 4*f + 3
	return r
}

type bulyan struct {
	pairs
	attackers int
	once      bool
	selected  []int // in the order of their selection
}

func (b *bulyan) next(sums []float64) int {
	if n := b.ask(sums); n > 0 {
		return n
	}
	theta := len(b.updates) - 2*b.attackers
	if b.once {
		b.selected = lowest(b.scores(b.attackers), theta)
		return 0
	}
	left := b.all()
	for range theta {
		least := max(1, len(left)-b.attackers-2)
		winner, best := 0, math.Inf(1)
		for k, i := range left {
			if s := b.score(i, least, left); s < best {
				winner, best = k, s
			}
		}
		b.selected = append(b.selected, left[winner])
		left = slices.Delete(left, winner, winner+1)
	}
	return 0
}

func (b *bulyan) mean(lo int, dst []float64) {
	values, scratch := make([]float64, len(b.selected)), make([]float32, len(b.selected))
	for j := range dst {
		for k, i := range b.selected {
			scratch[k] = b.updates[i].Values[lo+j]
			values[k] = float64(scratch[k])
		}
		sortFew(scratch)
		n := len(scratch)
		median := (float64(scratch[(n-1)/2]) + float64(scratch[n/2])) / 2
		dst[j] = nearest(values, median, n-2*b.attackers)
	}
}

// nearest returns the mean of the n values that are nearest to a point, of equally near ones the first. It alters the order of
// values.
func nearest(values []float64, point float64, n int) float64 {
	sum := 0.0
	for k := range n {
		least := k
		for i := k + 1; i < len(values); i++ {
			if math.Abs(values[i]-point) < math.Abs(values[least]-point) {
				least = i
			}
		}
		v := values[least]
		copy(values[k+1:least+1], values[k:least]) // keeps the order of the others
		values[k] = v
		sum += v
	}
	return sum / float64(n)
}

func (b *bulyan) measures() []float64 {
	place := make([]float64, len(b.updates))
	for i := range place {
		place[i] = float64(slices.Index(b.selected, i))
	}
	return place
}

func (b *bulyan) effects() []Effect { return b.leftOut(b.selected) }
