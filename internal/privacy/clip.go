package privacy

import (
	"fmt"
	"math"
)

// Clip returns what an update of that norm is multiplied by to have at most the norm clip: 1 where it has, also exactly at the bound.
func Clip(norm, clip float64) float64 {
	if norm <= clip {
		return 1
	}
	return clip / norm
}

// Adaptive is a clip norm that follows a quantile of the updates' norms: Andrew, Thakkar, McMahan, Ramaswamy 2021, arXiv:1905.03871,
// algorithm 1.
type Adaptive struct {
	Quantile    float64 // share of the updates that shall not be clipped, 0 to 1
	Rate        float64 // how fast the clip norm moves, above 0 and up to 1
	CountStddev float64 // standard deviation of the noise on the number of updates that were not clipped, above 0
	Arithmetic  bool    // clip -= rate * (fraction - quantile), instead of clip *= exp(-rate * (fraction - quantile))
}

// Next returns the clip norm of the next round, after one with the clip norm given in which a noised fraction of the updates was not
// clipped. The fraction is taken as 0 where it is below, and as 1 where it is above. It has the same bits on every processor.
func (a Adaptive) Next(clip, fraction float64) float64 {
	move := float64(a.Rate * (min(max(fraction, 0), 1) - a.Quantile))
	if a.Arithmetic {
		return max(0, clip-move)
	}
	return float64(clip * expSmall(-move))
}

// expSmall returns exp(x) for |x| <= 1 by its series: math.Exp differs between processors.
func expSmall(x float64) float64 {
	sum := 1.0
	for k := 24.0; k >= 1; k-- {
		sum = 1 + float64(float64(x*sum)/k)
	}
	return sum
}

// SplitNoise returns the noise multiplier that the sum of the updates gets so that this sum and the count of unclipped updates, with
// noise of standard deviation countStddev, together cost what one release with noise multiplier z costs:
// (z^-2 - (2 countStddev)^-2)^(-1/2). One update changes the count, less half the number of updates, by 1/2. It is 0 for z = 0.
func SplitNoise(z, countStddev float64) (float64, error) {
	if !(z >= 0) || !(countStddev >= 0) {
		return 0, fmt.Errorf("%w: noise multiplier %v and count_stddev %v, want 0 or more", ErrParameter, z, countStddev)
	}
	if z == 0 {
		return 0, nil
	}
	if z >= 2*countStddev {
		return 0, fmt.Errorf("%w: with noise multiplier %v the count alone, with standard deviation %v, would cost more: take a count_stddev above %v",
			ErrNoise, z, countStddev, z/2)
	}
	return 1 / math.Sqrt(1/z/z-1/(4*countStddev*countStddev)), nil
}
