package mask

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
)

// Term is a mask that is added to a vector, or taken away.
type Term struct {
	Seed  Seed
	Minus bool
}

// Negated returns the term that takes t away again.
func (t Term) Negated() Term { return Term{t.Seed, !t.Minus} }

const (
	words  = 512 // of the vector at a time: with the key stream they stay in the first-level cache
	atOnce = 16  // terms for which one pass over the vector is made: their ciphers stay in that cache too
)

// zeros is what a key stream is made from.
var zeros [8 * words]byte

// Apply adds to dst, modulo 2^64, the terms' masks, or takes them away. dst is the part of a vector that begins with its word number
// offset, so workers may divide a vector among themselves. A mask is the key stream of AES-256-CTR (NIST SP 800-38A, section 6.5) with the
// seed as key and a counter that begins with 0, in words of 64 bits, least significant byte first. Apply goes over dst once for 16 terms
// and takes memory for their ciphers only.
func Apply(dst []uint64, offset int, terms ...Term) {
	if offset < 0 {
		panic("mask: a part of a vector begins before it")
	}
	stream := make([]byte, 8*words)
	defer clear(stream)
	for len(terms) > 0 {
		n := min(len(terms), atOnce)
		var ciphers [atOnce]cipher.Stream
		for i, t := range terms[:n] {
			ciphers[i] = keyStream(t.Seed, uint64(offset))
		}
		for at := 0; at < len(dst); at += words {
			part := dst[at:min(at+words, len(dst))]
			for i, t := range terms[:n] {
				b := stream[:8*len(part)]
				ciphers[i].XORKeyStream(b, zeros[:len(b)])
				if t.Minus {
					subtract(part, b)
				} else {
					add(part, b)
				}
			}
		}
		terms = terms[n:]
	}
}

// keyStream returns a seed's key stream from a word on.
func keyStream(seed Seed, word uint64) cipher.Stream {
	block, err := aes.NewCipher(seed[:])
	if err != nil {
		panic("mask: 32 bytes are no AES key: " + err.Error())
	}
	var counter [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[8:], word/2)
	s := cipher.NewCTR(block, counter[:])
	if word%2 == 1 {
		var skipped [8]byte
		s.XORKeyStream(skipped[:], skipped[:])
	}
	return s
}

// add and subtract take in eight words at a time, without a check for each: the rest comes one by one.
func add(dst []uint64, stream []byte) {
	for len(dst) >= 8 && len(stream) >= 64 {
		d, b := (*[8]uint64)(dst), (*[64]byte)(stream)
		d[0] += binary.LittleEndian.Uint64(b[0:8])
		d[1] += binary.LittleEndian.Uint64(b[8:16])
		d[2] += binary.LittleEndian.Uint64(b[16:24])
		d[3] += binary.LittleEndian.Uint64(b[24:32])
		d[4] += binary.LittleEndian.Uint64(b[32:40])
		d[5] += binary.LittleEndian.Uint64(b[40:48])
		d[6] += binary.LittleEndian.Uint64(b[48:56])
		d[7] += binary.LittleEndian.Uint64(b[56:64])
		dst, stream = dst[8:], stream[64:]
	}
	for i := range dst {
		dst[i] += binary.LittleEndian.Uint64(stream[8*i : 8*i+8])
	}
}

func subtract(dst []uint64, stream []byte) {
	for len(dst) >= 8 && len(stream) >= 64 {
		d, b := (*[8]uint64)(dst), (*[64]byte)(stream)
		d[0] -= binary.LittleEndian.Uint64(b[0:8])
		d[1] -= binary.LittleEndian.Uint64(b[8:16])
		d[2] -= binary.LittleEndian.Uint64(b[16:24])
		d[3] -= binary.LittleEndian.Uint64(b[24:32])
		d[4] -= binary.LittleEndian.Uint64(b[32:40])
		d[5] -= binary.LittleEndian.Uint64(b[40:48])
		d[6] -= binary.LittleEndian.Uint64(b[48:56])
		d[7] -= binary.LittleEndian.Uint64(b[56:64])
		dst, stream = dst[8:], stream[64:]
	}
	for i := range dst {
		dst[i] -= binary.LittleEndian.Uint64(stream[8*i : 8*i+8])
	}
}
