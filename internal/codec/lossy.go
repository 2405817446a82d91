package codec

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Lossy is a way of making an update's values coarser before it is offered, so that its chunks take fewer bytes. It is no
// scheme of the wire: the coarser values are the update, whose digest is logged and whose bits are summed, and [Planes] writes
// them in as few bytes as they hold bits.
type Lossy string

// The ways that there are.
const (
	// Exact changes nothing.
	Exact Lossy = ""
	// BF16 keeps 8 significant bits of each value, rounded to the nearest, ties to even: bfloat16's precision and range.
	// About 11 bits a value remain on the wire.
	BF16 Lossy = "bf16"
	// Int8 makes of each 256 values a scale and a whole number from -127 to 127 each, rounded up or down by chance so that
	// the mean stays what it was (stochastic rounding; Alistarh et al. 2017, arXiv:1610.02132, equation 4, with the largest
	// magnitude in place of the norm). The scale is a power of two, so that every value is a float32 of 8 bits; it costs up to
	// one bit of precision against a scale that is the largest magnitude's 127th. About 8 bits a value remain on the wire.
	Int8 Lossy = "int8"
	// TopK leaves all but the largest values of an update out, and what it leaves out for later: see [Largest], which takes what Coarsen does
	// not know. About 42 bits a value that is sent remain on the wire where one in a hundred is.
	TopK Lossy = "top-k"
)

// Lossies lists the ways that a plan may name by which Coarsen rounds.
var Lossies = []Lossy{BF16, Int8}

// Check reports that l is none of the ways.
func (l Lossy) Check() error {
	switch l {
	case Exact, BF16, Int8, TopK:
		return nil
	}
	return fmt.Errorf("encoding %.64q is unknown, want %s, %s or %s (or none)", string(l), BF16, Int8, TopK)
}

// block is how many values share one of Int8's scales.
const block = 256

// Coarsen makes values coarser, in place. No magnitude becomes larger than limit, which none was before, and NaNs and infinities
// stay. The same values, limit and chance give the same bits on every processor. TopK rounds nothing. It panics for a way that Check refuses.
func (l Lossy) Coarsen(values []float32, limit float64, chance *rand.Rand) {
	switch l {
	case Exact, TopK:
	case BF16:
		for i, v := range values {
			values[i] = within(v, bf16(v), limit)
		}
	case Int8:
		for at := 0; at < len(values); at += block {
			int8s(values[at:min(at+block, len(values))], limit, chance)
		}
	default:
		panic("codec: unknown lossy encoding")
	}
}

// within returns rounded, or what of v remains without its low bits where rounded is beyond the limit.
func within(v, rounded float32, limit float64) float32 {
	if math.Abs(float64(rounded)) > limit {
		return math.Float32frombits(math.Float32bits(v) &^ 0xffff)
	}
	return rounded
}

func bf16(v float32) float32 {
	bits := math.Float32bits(v)
	if bits&0x7f800000 == 0x7f800000 {
		return v // a NaN would become an infinity where its payload is low
	}
	return math.Float32frombits((bits + 0x7fff + bits>>16&1) &^ 0xffff)
}

// int8s rounds one block. A block that is not finite stays as it is: it will be refused, and with its reason.
func int8s(values []float32, limit float64, chance *rand.Rand) {
	var most float64
	for _, v := range values {
		m := math.Abs(float64(v))
		if !(m <= math.MaxFloat32) {
			return
		}
		most = max(most, m)
	}
	if most == 0 {
		return
	}
	_, exponent := math.Frexp(most / 127) // scale/2 <= most/127 < scale
	scale := math.Ldexp(1, max(exponent, -149))
	for i, v := range values {
		x := float64(v) / scale // exact: the scale is a power of two
		whole := math.Floor(x)
		if chance.Float64() < x-whole {
			whole++
		}
		if math.Abs(whole*scale) > limit {
			whole = math.Trunc(x)
		}
		values[i] = float32(whole * scale)
	}
}
