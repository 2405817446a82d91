package codec

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// A value that is not 0 takes its gap to the one before, which is one byte where that is below 128 and two below 16384, and its own four.
// zstd, which sees no values in the bytes, takes half as much again where one value in a hundred is not 0.

// sparseLen returns how many bytes the list of a sample's values has.
func sparseLen(sample []byte) (n int) {
	gap := uint64(0)
	for at := 0; at < len(sample); at += 4 {
		if binary.LittleEndian.Uint32(sample[at:]) == 0 {
			gap++
			continue
		}
		n += (bits.Len64(gap|1)+6)/7 + 4
		gap = 0
	}
	return n
}

// appendSparse appends chunk, whose length is a multiple of 4, as Sparse says it. It returns false where that is not less than a quarter of
// the chunk: a sample may see the zeros only.
func appendSparse(dst, chunk []byte) ([]byte, bool) {
	most := len(dst) + len(chunk)/4
	out, gap := dst, uint64(0)
	for at := 0; at < len(chunk); at += 4 {
		v := binary.LittleEndian.Uint32(chunk[at:])
		if v == 0 {
			gap++
			continue
		}
		out = binary.LittleEndian.AppendUint32(binary.AppendUvarint(out, gap), v)
		if len(out) > most {
			return dst, false
		}
		gap = 0
	}
	return out, true
}

// decodeSparse is Decode of Sparse. What is not written as appendSparse writes it is refused.
func decodeSparse(dst, data []byte, size int) ([]byte, error) {
	if size%4 != 0 {
		return dst, fmt.Errorf("sparse chunk of %d bytes, want a multiple of 4", size)
	}
	out := slices.Grow(dst, size)[:len(dst)+size]
	rest := out[len(dst):]
	clear(rest)
	for len(data) > 0 {
		gap, n := binary.Uvarint(data)
		if n <= 0 || n > 1 && data[n-1] == 0 {
			return dst, fmt.Errorf("sparse chunk: no gap stands %d bytes before its end", len(data))
		}
		if data = data[n:]; len(data) < 4 {
			return dst, fmt.Errorf("sparse chunk: its last value has %d bytes, want 4", len(data))
		}
		if gap >= uint64(len(rest)/4) {
			return dst, fmt.Errorf("sparse chunk: a gap of %d values, of which %d are left", gap, len(rest)/4)
		}
		v := binary.LittleEndian.Uint32(data)
		if v == 0 {
			return dst, fmt.Errorf("sparse chunk: a value that is 0 stands %d bytes before its end", len(data))
		}
		binary.LittleEndian.PutUint32(rest[4*gap:], v)
		data, rest = data[4:], rest[4*gap+4:]
	}
	return out, nil
}
