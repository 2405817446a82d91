package aggregate

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
)

// Update is one participant's update of a round, held whole for a rule that needs all of them at once.
type Update struct {
	Member string
	Weight int64     // as declared
	Values []float32 // judged by [Spec.Check]
}

// Effect says what a rule other than the mean did with an update, as far as an auditor can make something of it.
type Effect string

// The effects. "" is the usual one: the update has part in the model as it is.
const (
	LeftOut   Effect = "left_out"  // it has no part in the model
	Clipped   Effect = "clipped"   // it was longer than the rule lets it be, and was shortened
	Reference Effect = "reference" // the others were measured by it, and it has no other part in the model
)

// ErrTooFew says that fewer updates came than the rule needs.
var ErrTooFew = errors.New("too few updates")

// chunk is how many values of each update are gone through at a time: of some dozens of updates they stay in the second-level cache.
const chunk = 1024

// A Gathering makes of all updates of one round at once what takes the mean's place. It goes over the values in passes, each over
// all of its blocks, and then gives the result for any part of the vector:
//
//	g, err := strategy.Gather(updates, state)
//	for g.Pass() {
//		for b := range g.Blocks() {
//			g.Scan(b) // by several workers, if wanted
//		}
//	}
//	g.Mean(lo, dst) // likewise
//
// Scan and Mean may be called by several goroutines at once, for different blocks and for disjoint parts; no other call may be under way
// beside Pass. The same updates give the same bits whatever the order in which they are given, since they are gone through in the order of
// their members' names, and whoever scans, since each block is summed by itself and blocks are added up in their order.
type Gathering struct {
	set      gathered
	rule     gatherer
	blockLen int
	blocks   int
	width    int       // sums of a block
	partial  []float64 // sums of all blocks, block by block
	began    bool
}

// gathered is what a rule sees of a round.
type gathered struct {
	updates []Update  // ascending by member
	state   []float64 // of the optimiser, before this round
	len     int       // of each update
}

// gatherer is one round of a rule that needs all updates at once.
type gatherer interface {
	// next takes the sums of the pass before, nil at first, and returns how many sums another pass has to take, 0 if none.
	next(sums []float64) int
	// scan adds the part of the values [lo, hi) to the sums.
	scan(lo, hi int, sums []float64)
	// mean fills dst with the result for the values from lo on.
	mean(lo int, dst []float64)
	// measures returns what the rule went by, nil where that is no number for each update. Likewise.
	measures() []float64
	// effects says what became of each update. It is called when no pass is wanted any more.
	effects() []Effect
}

// Gathers reports whether the strategy needs all updates of a round at once, by [Strategy.Gather], in the place of a [Sum].
func (s Strategy) Gathers() bool { return s.rule.gather != nil }

// Least returns the fewest updates that the strategy can make a model of.
func (s Strategy) Least() int { return max(s.rule.least, 1) }

// Member returns the name of the member without whose update the strategy makes no model, "" where it needs nobody's.
func (s Strategy) Member() string { return s.rule.member }

// Gather begins one round. state is the optimiser's before the round; it is read until the last Mean, and each part of it may be stepped once
// its Mean was taken. All updates must be equally long, by members that differ. With fewer than [Strategy.Least] it returns [ErrTooFew].
func (s Strategy) Gather(updates []Update, state []float64) (*Gathering, error) {
	if !s.Gathers() {
		panic("aggregate: strategy " + s.name + " does not gather updates")
	}
	if len(updates) < s.Least() {
		return nil, fmt.Errorf("%w: strategy %s makes a model of %d or more, there are %d", ErrTooFew, s.name, s.Least(), len(updates))
	}
	set := gathered{updates: slices.Clone(updates), state: state, len: len(updates[0].Values)}
	slices.SortFunc(set.updates, func(a, b Update) int { return cmp.Compare(a.Member, b.Member) })
	for i, u := range set.updates {
		if len(u.Values) != set.len || u.Weight < 1 || i > 0 && u.Member == set.updates[i-1].Member {
			panic("aggregate: updates that do not belong together")
		}
	}
	g := &Gathering{set: set, blockLen: gatherBlock(set.len)}
	g.blocks = (set.len + g.blockLen - 1) / g.blockLen
	var err error
	g.rule, err = s.rule.gather(&g.set)
	return g, err
}

// maxBlocks is about the most blocks of a vector, so that what is summed for each of them stays small beside the updates.
const maxBlocks = 256

// gatherBlock returns how many values make a block. It follows from the length alone, since it decides bits.
func gatherBlock(n int) int {
	return max((n+maxBlocks-1)/maxBlocks, 4*chunk)
}

// Pass ends the pass before, if there was one, and reports whether another one is wanted.
func (g *Gathering) Pass() bool {
	var sums []float64
	if g.began {
		sums = make([]float64, g.width)
		for b := range g.blocks {
			for i, v := range g.partial[b*g.width:][:g.width] {
				sums[i] += v
			}
		}
	}
	g.began = true
	if g.width = g.rule.next(sums); g.width == 0 {
		g.partial = nil
		return false
	}
	if n := g.width * g.blocks; cap(g.partial) < n {
		g.partial = make([]float64, n)
	} else {
		g.partial = g.partial[:n]
		clear(g.partial)
	}
	return true
}

// Blocks returns how many blocks a pass scans.
func (g *Gathering) Blocks() int { return g.blocks }

// Scan goes over block b. It has to be called once for each block of a pass.
func (g *Gathering) Scan(b int) {
	lo := b * g.blockLen
	g.rule.scan(lo, min(lo+g.blockLen, g.set.len), g.partial[b*g.width:][:g.width])
}

// Mean fills dst with the result for the values from lo on. No pass may be wanted any more.
func (g *Gathering) Mean(lo int, dst []float64) {
	if g.width != 0 || !g.began {
		panic("aggregate: result of updates that were not gone through")
	}
	if lo < 0 || lo > g.set.len || len(dst) > g.set.len-lo {
		panic(fmt.Sprintf("aggregate: part of %d values at %d, the vector has %d", len(dst), lo, g.set.len))
	}
	g.rule.mean(lo, dst)
}

// Effects returns what became of each update, in the order of members' names. No pass may be wanted any more.
func (g *Gathering) Effects() []Effect { return g.rule.effects() }

// Measures returns what the rule went by for each update, in the order of members' names: Krum's scores, the places in which Bulyan selected
// (from 0; -1: not at all), FLTrust's trust; nil for other rules. They tell more of the updates than effects do: they are for tests and belong into no
// log. No pass may be wanted any more.
func (g *Gathering) Measures() []float64 { return g.rule.measures() }

// GatherMemory returns how many bytes a round of a strategy that gathers needs at once, beside its models and its optimiser's state: all
// updates, 4 bytes a parameter each, and the sums of its passes.
func GatherMemory(params, participants int) int64 {
	if params < 0 || participants < 0 {
		return 0
	}
	n := int64(participants)
	if participants > maxParticipants || int64(params) > math.MaxInt64/8/max(n, 1) {
		return math.MaxInt64
	}
	return 4*int64(params)*n + 8*(maxBlocks+1)*(n*(n-1)/2+2*n)
}

// chunks calls f for the parts of [lo, hi), in order.
func chunks(lo, hi int, f func(lo, hi int)) {
	for ; lo < hi; lo += chunk {
		f(lo, min(lo+chunk, hi))
	}
}

// combination fills dst with the sum of c_i times the values of update i from lo on, added up in the order of the updates, and a times the
// state where a is not 0.
func (s *gathered) combination(lo int, dst []float64, c []float64, a float64) {
	clear(dst)
	if a != 0 {
		for j, v := range s.state[lo:][:len(dst)] {
			dst[j] = float64(a * v)
		}
	}
	for i, u := range s.updates {
		if c[i] == 0 {
			continue
		}
		for j, x := range u.Values[lo:][:len(dst)] {
			dst[j] += float64(c[i] * float64(x))
		}
	}
}

// weights returns the updates' weights in parts of their sum: declared ones or, if uniform, all alike.
func (s *gathered) weights(uniform bool) []float64 {
	w, total := make([]float64, len(s.updates)), int64(0)
	for i, u := range s.updates {
		n := u.Weight
		if uniform {
			n = 1
		}
		w[i] = float64(n)
		total += n
	}
	for i := range w {
		w[i] /= float64(total)
	}
	return w
}

func (*gathered) measures() []float64 { return nil }

// none are the effects of a rule that does nothing with an update that could be told in a word.
func (s *gathered) none() []Effect { return make([]Effect, len(s.updates)) }

// The sums below have four running parts, so that one addition need not wait for the one before. Their order is fixed, hence their bits.

// squares returns the sum of the squares of the values. Squares of float32s neither overflow in float64 nor vanish there.
func squares(x []float32) float64 {
	var s [4]float64
	for ; len(x) >= 4; x = x[4:] {
		for k := range 4 {
			v := float64(x[k])
			s[k] += float64(v * v)
		}
	}
	for k, v := range x {
		s[k] += float64(float64(v) * float64(v))
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

// dot returns the sum of the products of the values. Products of float32s are exact in float64.
func dot(x, y []float32) float64 {
	var s [4]float64
	for ; len(x) >= 4; x, y = x[4:], y[4:] {
		for k := range 4 {
			s[k] += float64(float64(x[k]) * float64(y[k]))
		}
	}
	for k, v := range x {
		s[k] += float64(float64(v) * float64(y[k]))
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

// distance returns the square of the distance between x and y.
func distance(x, y []float32) float64 {
	var s [4]float64
	for ; len(x) >= 4; x, y = x[4:], y[4:] {
		for k := range 4 {
			d := float64(x[k]) - float64(y[k])
			s[k] += float64(d * d)
		}
	}
	for k, v := range x {
		d := float64(v) - float64(y[k])
		s[k] += float64(d * d)
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

// distanceTo is distance to a point that is no update.
func distanceTo(z []float64, y []float32) float64 {
	var s [4]float64
	for ; len(z) >= 4; z, y = z[4:], y[4:] {
		for k := range 4 {
			d := z[k] - float64(y[k])
			s[k] += float64(d * d)
		}
	}
	for k, v := range z {
		d := v - float64(y[k])
		s[k] += float64(d * d)
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}
