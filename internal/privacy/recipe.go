package privacy

import (
	"errors"
	"fmt"
	"io"
	"math"
)

// Recipe says how the sum of a round is made private, with discrete noise on the grid of the exact sum. Its unit is one update, a participant's:
// DP-FedAvg of McMahan et al. 2018, arXiv:1710.06963, with a fixed clip norm or an adaptive one; or, where Most is set, one record: DP-SGD of Abadi
// et al. 2016, arXiv:1607.00133, algorithm 1, over the records of all participants, each of whom sums its own by [Records].
type Recipe struct {
	Clip     float64   // Euclidean norm to which updates, or records' gradients, are clipped; of the first round where it adapts
	Noise    float64   // noise multiplier of a round, all that it releases taken together
	Adaptive *Adaptive // nil: the clip norm stays
	Most     float64   // most that a value of a participant's sum of records may be, and so what a float32 has to hold; 0: the unit is an update
}

// PerRecord reports whether the unit is a record.
func (r Recipe) PerRecord() bool { return r.Most != 0 }

const (
	// LeastClip and MostClip bound a clip norm, also one that adapts.
	LeastClip, MostClip = 0x1p-40, 0x1p40
	// leastNoise and mostNoise bound a noise multiplier: below, an epsilon is beyond 10^4, above, nothing of the sum is left.
	leastNoise, mostNoise = 0.01, 1e6
	// fine is the least number of the grid's steps in a standard deviation of the noise.
	fine = 1 << 26
	// mostSteps is the most of them that the sampler takes.
	mostSteps = 1 << 28
	// parts is into how many parts the noise on a count divides the unit.
	parts = 1 << 10
	// exact is up to where a float32 holds every whole number.
	exact = 1 << 24
	// mostSum is the most clip norms that a value of a participant's sum may be: beyond, a record would be a few steps of the grid.
	mostSum = 1 << 20
)

// Validate reports a field outside its domain.
func (r Recipe) Validate() error {
	switch {
	case !(r.Clip >= LeastClip && r.Clip <= MostClip):
		return fmt.Errorf("%w: clip norm %v, want 2^-40 to 2^40", ErrParameter, r.Clip)
	case !(r.Noise >= leastNoise && r.Noise <= mostNoise):
		return fmt.Errorf("%w: noise multiplier %v, want %v to %v", ErrParameter, r.Noise, leastNoise, mostNoise)
	case r.PerRecord() && r.Adaptive != nil:
		return fmt.Errorf("%w: a clip norm that adapts, with records as the unit", ErrParameter)
	case r.PerRecord() && !(r.Most >= r.Clip && r.Most <= mostSum*r.Clip):
		return fmt.Errorf("%w: sums of records up to max_abs %v with clip norm %v, want 1 to 2^20 clip norms", ErrParameter, r.Most, r.Clip)
	case r.Adaptive == nil:
		return nil
	case !(r.Adaptive.Quantile >= 0 && r.Adaptive.Quantile <= 1):
		return fmt.Errorf("%w: quantile %v, want 0 to 1", ErrParameter, r.Adaptive.Quantile)
	case !(r.Adaptive.Rate > 0 && r.Adaptive.Rate <= 1):
		return fmt.Errorf("%w: rate of an adaptive clip norm %v, want above 0 and at most 1", ErrParameter, r.Adaptive.Rate)
	case !(r.Adaptive.CountStddev > 0 && r.Adaptive.CountStddev <= 1<<16):
		return fmt.Errorf("%w: count_stddev %v, want above 0 and at most 65536", ErrParameter, r.Adaptive.CountStddev)
	}
	_, err := r.onSum()
	return err
}

// onSum returns the noise multiplier of the sum alone.
func (r Recipe) onSum() (float64, error) {
	if r.Adaptive == nil {
		return r.Noise, nil
	}
	return SplitNoise(r.Noise, r.Adaptive.CountStddev)
}

// Step returns the grid on which a round with that clip norm is summed: a power of two of which the noise's standard deviation is 2^26 to
// 2^27 times. It is so fine that the rounding of an update adds next to nothing to the norm, and so coarse that sum and noise are exact. Where
// the unit is a record it may have to be coarser: a participant's sum, of up to Most, is a float32 for each value, and is to be exact in it.
func (r Recipe) Step(clip float64) float64 {
	z, err := r.onSum()
	if err != nil {
		panic("privacy: a recipe that was not validated: " + err.Error())
	}
	_, exp := math.Frexp(z * clip / fine) // in [1/2, 1) * 2^exp
	step := math.Ldexp(1, exp-1)
	if r.PerRecord() {
		frac, exp := math.Frexp(r.Most / exact)
		if frac == 0.5 {
			exp--
		}
		step = max(step, math.Ldexp(1, exp))
	}
	return step
}

// Sampler returns what draws the noise of one value, in steps of a grid, of a sum of n values with that clip norm. One update, or one record's
// gradient, clipped and rounded to the grid, has a norm of at most clip + sqrt(n) step/2, and a little for the rounding of its norm; the standard deviation is
// the noise multiplier times that.
func (r Recipe) Sampler(clip, step float64, n int, chance io.Reader) (*Gaussian, error) {
	z, err := r.onSum()
	if err != nil {
		return nil, err
	}
	sensitivity := clip*(1+0x1p-20) + math.Sqrt(float64(n))*step/2
	sigma := math.Ceil(z * sensitivity / step)
	if !(sigma >= 1 && sigma <= mostSteps) {
		return nil, fmt.Errorf("%w: noise of %v steps for %d values, want 1 to 2^28: a clip norm nearer to max_abs would do", ErrParameter, sigma, n)
	}
	return NewGaussian(uint64(sigma)*uint64(sigma), 1, chance)
}

// Next returns the clip norm of the next round, after one in which so many updates of those that were asked for were added, and of these
// so many were not clipped. What each update says, that it was clipped or was not, is worth -1 or 1, and 0 where there is none: to the sum
// of these is added discrete noise of twice the count's standard deviation.
func (r Recipe) Next(clip float64, asked, added, unclipped int, chance io.Reader) (float64, error) {
	if r.Adaptive == nil {
		return clip, nil
	}
	if asked < 1 || added < 0 || added > asked || unclipped < 0 || unclipped > added {
		return 0, errors.New("privacy: more updates were counted than were there")
	}
	sigma := uint64(math.Ceil(2 * parts * r.Adaptive.CountStddev))
	g, err := NewGaussian(sigma*sigma, parts*parts, chance)
	if err != nil {
		return 0, err
	}
	k, err := g.Draw()
	if err != nil {
		return 0, err
	}
	votes := float64(2*unclipped-added) + float64(k)
	next := r.Adaptive.Next(clip, (votes/float64(asked)+1)/2)
	return min(max(next, LeastClip), MostClip), nil
}
