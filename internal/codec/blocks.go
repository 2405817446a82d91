package codec

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// leastExponent is that of the smallest float32 above 0, mostExponent that of the largest power of two.
const leastExponent, mostExponent = -149, 127

// listLen returns how many bytes the list of n values in blocks has.
func listLen(n int) int { return 2*((n+block-1)/block) + n }

// appendBlocks appends chunk, whose length is a multiple of 4, as Blocks says it. It returns false where a value is in no block.
func appendBlocks(dst, chunk []byte) ([]byte, bool) {
	n, start := len(chunk)/4, len(dst)
	out := slices.Grow(dst, listLen(n))[:start+listLen(n)]
	exponents, numbers := out[start:len(out)-n], out[len(out)-n:]
	for b := 0; b*block < n; b++ {
		values := chunk[4*b*block : 4*min((b+1)*block, n)]
		exponent, ok := exponentOf(values)
		if !ok {
			return dst, false
		}
		binary.LittleEndian.PutUint16(exponents[2*b:], uint16(int16(exponent)))
		scale := math.Ldexp(1, -exponent)
		for i := range len(values) / 4 {
			v := math.Float32frombits(binary.LittleEndian.Uint32(values[4*i:]))
			numbers[b*block+i] = byte(int8(float64(v) * scale))
		}
	}
	return out, true
}

// inBlocks reports whether values can be blocks.
func inBlocks(values []byte) bool {
	for len(values) > 0 {
		n := min(len(values), 4*block)
		if _, ok := exponentOf(values[:n]); !ok {
			return false
		}
		values = values[n:]
	}
	return true
}

// exponentOf returns the largest exponent of a power of two that every value of a block is a small whole number of, and false
// where there is none.
func exponentOf(values []byte) (exponent int, ok bool) {
	exponent = mostExponent
	var most float64
	for i := range len(values) / 4 {
		v := binary.LittleEndian.Uint32(values[4*i:])
		if v == 0 {
			continue
		}
		at, fraction := int(v>>23&0xff), v&(1<<23-1)
		switch {
		case at == 0xff, v == 1<<31: // not finite, or -0, which a whole number is not
			return 0, false
		case at == 0:
			at = 1 // no bit is hidden
		default:
			fraction |= 1 << 23
		}
		exponent = min(exponent, at-150+bits.TrailingZeros32(fraction))
		most = max(most, math.Abs(float64(math.Float32frombits(v))))
	}
	return exponent, most <= math.Ldexp(127, exponent)
}

// decodeBlocks is Decode of Blocks.
func decodeBlocks(dst, data []byte, size int) ([]byte, error) {
	if size%4 != 0 {
		return dst, fmt.Errorf("blocks chunk of %d bytes, want a multiple of 4", size)
	}
	n := size / 4
	if len(data) != listLen(n) {
		return dst, fmt.Errorf("blocks chunk has %d bytes, want %d", len(data), listLen(n))
	}
	numbers := data[len(data)-n:]
	out := slices.Grow(dst, size)
	for b := 0; b*block < n; b++ {
		exponent := int(int16(binary.LittleEndian.Uint16(data[2*b:])))
		if exponent < leastExponent || exponent > mostExponent {
			return dst, fmt.Errorf("blocks chunk: block %d has the exponent %d, want %d to %d", b, exponent, leastExponent, mostExponent)
		}
		scale := math.Ldexp(1, exponent)
		for _, whole := range numbers[b*block : min((b+1)*block, n)] {
			v := float64(int8(whole)) * scale
			if int8(whole) == math.MinInt8 || math.Abs(v) > math.MaxFloat32 {
				return dst, fmt.Errorf("blocks chunk: block %d has a value that is none of a block's", b)
			}
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(v)))
		}
	}
	return out, nil
}
