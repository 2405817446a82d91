package codec

import "math"

// Largest makes of an update what a member sends of it under [TopK], and of what it has left unsent before what it has left unsent then
// (Stich et al. 2018, arXiv:1809.07599, algorithm 1, with steps of length 1; Aji and Heafield 2017, arXiv:1704.05021): unsent is added to
// values, of which the k largest magnitudes stay, the first of those that are alike; the others become 0 and are unsent. Where one that
// stays is beyond limit, limit is sent of it, and the rest is unsent. Both slices are changed in place and are of the same length.
//
// The sum of both is that of before but for one rounding of each value to float32 by the addition, and a second one of a value beyond twice
// the limit. The same values give the same bits on every processor. Values that are finite stay so, unless a sum of them is not.
func Largest(values, unsent []float32, k int, limit float64) {
	if len(values) != len(unsent) {
		panic("codec: what is unsent has not the update's length")
	}
	for i, v := range unsent {
		values[i] += v
	}
	most := within32(limit)
	least, alike := kth(values, k)
	for i, v := range values {
		switch m := magnitude(v); {
		case m < least, m == least && alike == 0:
			values[i], unsent[i] = 0, v
			continue
		case m == least:
			alike--
		}
		sent := max(-most, min(v, most))
		values[i], unsent[i] = sent, v-sent
	}
}

// magnitude returns a number that is as much larger as |v| is.
func magnitude(v float32) uint32 { return math.Float32bits(v) &^ (1 << 31) }

// within32 returns the largest float32 that is not beyond limit.
func within32(limit float64) float32 {
	v := float32(limit)
	if float64(v) > limit {
		return math.Nextafter32(v, 0)
	}
	return v
}

// kth returns the k-th largest magnitude of values, and how many of those that are alike are among the k. It counts by the upper half
// of the bits first and then, among those that the k-th has, by the lower one: its time is that of two passes whatever the values are.
func kth(values []float32, k int) (m uint32, alike int) {
	if k >= len(values) {
		return 0, len(values)
	}
	count := make([]int, 1<<16)
	for _, v := range values {
		count[magnitude(v)>>16]++
	}
	upper, k := down(count, k)
	clear(count)
	for _, v := range values {
		if m := magnitude(v); m>>16 == upper {
			count[m&0xffff]++
		}
	}
	lower, k := down(count, k)
	return upper<<16 | lower, k
}

// down goes down from the largest place until k are counted, and returns at which place that is and how many are needed of it.
func down(count []int, k int) (place uint32, needed int) {
	for at := len(count) - 1; ; at-- {
		if k <= count[at] || at == 0 {
			return uint32(at), k
		}
		k -= count[at]
	}
}
