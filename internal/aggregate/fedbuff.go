package aggregate

import "math"

// fedBuffRule is FedBuff: Nguyen et al. 2022, AISTATS, arXiv:2106.06639, algorithm 1. Nobody is waited for and nobody's work is thrown away because
// others were faster: a round is one filling of a buffer, and closes as soon as so many updates are in it. A participant that still trains then
// goes on, and its update counts in the round that is open when it comes, the less the more models were made meanwhile:
//
//	staleness_i   number of the open round less that of the round whose base model update_i was trained from
//	w_i           (1 + staleness_i)^-exponent
//	x             += learning_rate * sum w_i*update_i / D
//
// x is the base of the open round. D is, over the K updates that are in the buffer when it is emptied:
//
//	buffer_size      K, as in the paper: stale updates move the model less
//	sum_of_weights   sum w_i: the step is a mean, however stale all of them are
//
// K is buffer_size, but where a round closes by its deadline, or since all others are absent, with fewer, or where more were accepted at the same
// instant. Records do not weigh. The weights are whole numbers of 2^-28, rounded to the nearest and at least 1, so the sum stays exact and the
// bits do not hang on who came first.
//
// It differs from the paper in that an update of a member counts once in a round, as everywhere here: a member whose update is in the buffer waits
// for the next model, where the paper's client may come twice while a buffer fills.
//
//	buffer_size     -                1 to 2^20
//	exponent        0.5              0 to 8
//	max_staleness   2^16             0 to 2^16, a whole number; an update that is staler is refused. No run has more rounds than the default
//	normalize       buffer_size      buffer_size or sum_of_weights
//	learning_rate   1                above 0 to 1e6, of the server
func fedBuffRule(p *params) rule {
	r := fedAvgRule(p)
	r.buffer = Buffer{
		size: p.count("buffer_size", 1, maxParticipants), exponent: p.number("exponent", 0.5, 0, 8),
		stalest: p.whole("max_staleness", maxStaleness, 0, maxStaleness),
		fixed:   p.choice("normalize", "buffer_size", "sum_of_weights") == "buffer_size",
	}
	return r
}

const (
	// maxStaleness is more than a run has rounds.
	maxStaleness = 1 << 16
	// fresh is the weight in the sum of an update that is not stale.
	fresh = 1 << 28
)

// Buffer is what an asynchronous strategy does with updates beside the step that it makes of their sum. The zero value is that of synchronous
// strategies: there is none. It is a value.
type Buffer struct {
	size     int
	stalest  int
	exponent float64
	fixed    bool // what is divided by does not hang on staleness
}

// The reasons for which an update is not added to a buffer.
const (
	FromTheFuture Reason = "from_the_future" // trained from a model that there was not yet
	TooStale      Reason = "too_stale"       // trained from a model that too many have followed
)

// Buffer returns the buffer of an asynchronous strategy, the zero value where rounds are synchronous.
func (s Strategy) Buffer() Buffer { return s.rule.buffer }

// Size returns how many updates close a round though others may still come; whoever is still training then goes on. It is 0 where rounds are
// synchronous.
func (b Buffer) Size() int { return b.size }

// MaxStaleness returns how many rounds before the open one that may be at most whose base an update is of. It is 0 where rounds are synchronous.
func (b Buffer) MaxStaleness() int { return b.stalest }

// Staleness returns by how many rounds an update is late for the open one that was trained from the base model of another, or why it is not taken:
// [FromTheFuture] or [TooStale].
func (b Buffer) Staleness(open, base int) (int, Reason) {
	switch n := open - base; {
	case n < 0:
		return 0, FromTheFuture
	case n > b.stalest:
		return 0, TooStale
	default:
		return n, ""
	}
}

// Weights returns the most that the update of each member may weigh in a round's sum, for the records that it has declared: see [Spec].
func (b Buffer) Weights(records []int64) []int64 {
	if b.size == 0 {
		return records
	}
	out := make([]int64, len(records))
	for i := range out {
		out[i] = fresh
	}
	return out
}

// Weigh returns with what weight an update of a member with so many records, and so stale, is added to the sum, and as what weight it counts in
// what the sum is divided by: see [Sum.Add] and [Sum.AddWeight]. Both are whole. It has the same bits on every processor.
func (b Buffer) Weigh(records int64, staleness int) (weight, counted float64) {
	if b.size == 0 {
		return float64(records), float64(records)
	}
	weight = b.weight(staleness)
	if b.fixed {
		return weight, fresh
	}
	return weight, weight
}

// Bound is the function [Bound] for a training round in a run of so many, whose members have declared so many records.
func (b Buffer) Bound(maxAbs float64, records []int64, quorum, rounds int) float64 {
	bound := Bound(maxAbs, b.Weights(records), quorum)
	if b.size > 0 && !b.fixed {
		bound *= fresh / b.weight(max(min(b.stalest, rounds-1), 0)) // all may be as stale as can be
	}
	return bound
}

// weight returns the weight of an update in the sum.
func (b Buffer) weight(staleness int) float64 {
	if staleness < 0 || staleness > b.stalest {
		panic("aggregate: an update is weighed that is staler than its strategy takes it")
	}
	return max(math.Round(fresh/raise(float64(1+staleness), b.exponent)), 1)
}

// raise returns x^e for x from 1 on and e from 0 on, by products and roots alone, of which each is rounded by itself.
func raise(x, e float64) float64 {
	whole, part := math.Modf(e)
	y := power(x, int(whole))
	for root := x; part > 0 && root > 1; {
		part, root = 2*part, math.Sqrt(root)
		if part >= 1 {
			part, y = part-1, float64(y*root)
		}
	}
	return y
}
