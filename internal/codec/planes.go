package codec

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// A trained float32's highest byte, its sign and most of its exponent, takes few values; the bytes below it are noise, or, of a
// value with few bits, zeros. Side by side in one frame they hide each other's regularity; apart they do not.

// planes appends chunk, whose length is a multiple of 4, as Planes says it.
func (e *Encoder) planes(dst, chunk []byte) []byte {
	n := len(chunk) / 4
	e.plane = slices.Grow(e.plane[:0], n)
	plane := e.plane[:n]
	for at := range 4 {
		gather(plane, chunk, at)
		dst = slices.Grow(dst, 4+n)
		start := len(dst) + 4
		dst = append(dst, 0, 0, 0, 0)
		if n >= minChunk && entropy(plane[:min(n, sampleLen)], 0, 1) < noisy {
			dst = encoder.EncodeAll(plane, dst)
		}
		if got := len(dst) - start; got == 0 || got >= n {
			dst = append(dst[:start], plane...)
		}
		binary.LittleEndian.PutUint32(dst[start-4:], uint32(len(dst)-start))
	}
	return dst
}

// noisy is the entropy, in bits a byte, from which on a plane is not worth a frame.
const noisy = 7.5

// planesLen returns about how many bytes planes makes of a sample.
func planesLen(sample []byte) (n int) {
	for at := range 4 {
		bits := entropy(sample, at, 4)
		if bits >= noisy {
			bits = 8
		}
		n += int(bits * float64(len(sample)/4) / 8)
	}
	return n
}

// entropy returns the bits a byte that the frequencies of every step-th byte allow, from a place on.
func entropy(b []byte, at, step int) (bits float64) {
	var count [256]int
	for i := at; i < len(b); i += step {
		count[b[i]]++
	}
	all := float64((len(b) - at + step - 1) / step)
	for _, n := range count {
		if n > 0 {
			bits -= float64(n) / all * math.Log2(float64(n)/all)
		}
	}
	return bits
}

// decodePlanes is Decode of Planes.
func decodePlanes(dst, data []byte, size int) ([]byte, error) {
	if size%4 != 0 {
		return dst, fmt.Errorf("planes chunk of %d bytes, want a multiple of 4", size)
	}
	n, start := size/4, len(dst)
	out := slices.Grow(dst, size)[:start+size]
	plane := make([]byte, 0, n)
	for at := range 4 {
		if len(data) < 4 {
			return dst, fmt.Errorf("planes chunk: plane %d is cut off", at)
		}
		held := uint64(binary.LittleEndian.Uint32(data))
		if data = data[4:]; held > uint64(min(n, len(data))) {
			return dst, fmt.Errorf("planes chunk: plane %d has %d bytes, of %d that follow and %d that it may have", at, held, len(data), n)
		}
		part := data[:held]
		if data = data[held:]; int(held) < n {
			got, err := decodeZstd(plane[:0], part, n)
			if err != nil {
				return dst, fmt.Errorf("planes chunk: plane %d: %w", at, err)
			}
			part = got
		}
		scatter(out[start:], part, at)
	}
	if len(data) > 0 {
		return dst, fmt.Errorf("planes chunk: %d bytes follow the four planes", len(data))
	}
	return out, nil
}

// gather takes each value's byte at a place, 0 for the lowest.
func gather(plane, chunk []byte, at int) {
	for i := range plane {
		plane[i] = chunk[4*i+at]
	}
}

// scatter is the inverse of gather.
func scatter(chunk, plane []byte, at int) {
	for i, b := range plane {
		chunk[4*i+at] = b
	}
}
