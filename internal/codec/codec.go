// Package codec makes fewer bytes of a vector's chunks on the wire, where that pays. It is no archive format: what it wrote is
// read by the peer at once, and digests are taken over the decoded bytes.
//
// A chunk has at most [MaxChunk] bytes and is encoded by itself, under a [Scheme] that travels beside it together with the
// decoded size. Trained float32s hardly compress; frozen tensors, sparse updates and models before training do, so [Encode]
// tries a sample first. [Decode] is for bytes from outside: its work and memory are bounded by the size that it is told, and
// it panics for no input.
//
//	scheme, data := codec.Encode(nil, chunk)
//	chunk, err := codec.Decode(nil, scheme, data, len(chunk))
//
// How well a chunk compresses shows in its length, also through an encrypted channel.
package codec

import (
	"errors"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// MaxChunk is the most bytes of a chunk, decoded; an encoded one is never longer than what it decodes to.
const MaxChunk = 1 << 20

// Piece is how many bytes a sender puts into one chunk, decoded. A chunk that a link breaks off is sent again whole, and on a
// slow link it is the unit in which progress is seen.
const Piece = 128 << 10

// Scheme says how a chunk is encoded.
type Scheme uint32

// The schemes.
const (
	Raw  Scheme = 0 // the bytes themselves
	Zstd Scheme = 1 // one Zstandard frame (RFC 8878), with its content size and without a dictionary
)

const (
	sampleLen = 4 << 10 // bytes of each of the three pieces that are tried first
	minZstd   = 512     // shorter chunks are not worth a frame
)

// Both are safe for concurrent use and never change. They start no goroutine for whole chunks.
var (
	encoder = must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(MaxChunk), zstd.WithLowerEncoderMem(true)))
	decoder = must(zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxChunk), zstd.WithDecoderMaxWindow(MaxChunk),
		zstd.WithDecodeAllCapLimit(true)))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("codec: zstd refuses our options: %v", err))
	}
	return v
}

// Encode appends chunk to dst, encoded so that it is never longer than it was, and returns the scheme and the longer dst. It
// compresses where a sample promises to save an eighth and the whole keeps that promise. It panics if chunk is longer than
// MaxChunk.
func Encode(dst, chunk []byte) (Scheme, []byte) {
	if len(chunk) > MaxChunk {
		panic("codec: the chunk is longer than MaxChunk")
	}
	if len(chunk) >= minZstd && promising(chunk) {
		if out := encoder.EncodeAll(chunk, dst); pays(len(out)-len(dst), len(chunk)) {
			return Zstd, out
		}
	}
	return Raw, append(dst, chunk...)
}

// promising reports whether the beginning, the middle and the end of a chunk compress.
func promising(chunk []byte) bool {
	if len(chunk) <= 3*sampleLen {
		return true
	}
	mid := (len(chunk) - sampleLen) / 2
	sample := make([]byte, 0, 3*sampleLen)
	sample = append(sample, chunk[:sampleLen]...)
	sample = append(sample, chunk[mid:mid+sampleLen]...)
	sample = append(sample, chunk[len(chunk)-sampleLen:]...)
	return pays(len(encoder.EncodeAll(sample, nil)), len(sample))
}

// pays reports whether encoded bytes save at least an eighth.
func pays(encoded, decoded int) bool { return encoded <= decoded-decoded/8 }

// Decode appends the chunk that data encodes to dst. size is what the peer says that the chunk decodes to; anything else, as
// anything longer than MaxChunk, is an error, and dst is returned as it was.
func Decode(dst []byte, s Scheme, data []byte, size int) ([]byte, error) {
	if size > MaxChunk || len(data) > size {
		return dst, fmt.Errorf("chunk of %d bytes for %d decoded, want at most %d and not longer than decoded", len(data), size, MaxChunk)
	}
	switch s {
	case Raw:
		if len(data) != size {
			return dst, fmt.Errorf("raw chunk has %d bytes, want %d", len(data), size)
		}
		return append(dst, data...), nil
	case Zstd:
		return decodeZstd(dst, data, size)
	default:
		return dst, fmt.Errorf("scheme %d is unknown, want 0 (raw) or 1 (zstd)", s)
	}
}

// decodeZstd decodes one frame that declares the right size. Its outline is judged before a byte is decoded, the output's
// capacity is the limit of the decoder.
func decodeZstd(dst, data []byte, size int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(data); err != nil {
		return dst, fmt.Errorf("zstd chunk: %w", err)
	}
	if h.FrameContentSize != uint64(size) || h.DictionaryID != 0 { // a frame that declares nothing has 0 here, and size is more
		return dst, fmt.Errorf("zstd chunk: want one frame without a dictionary that declares %d bytes", size)
	}
	if frameLen(h, data) != len(data) {
		return dst, errors.New("zstd chunk: is cut off, or goes on behind its one frame")
	}
	start := len(dst)
	out, err := decoder.DecodeAll(data, slices.Grow(dst, size)[:start:start+size])
	if err != nil {
		return dst, fmt.Errorf("zstd chunk: %w", err)
	}
	if len(out)-start != size { // the library looks at this too; our promise does not rest on it
		return dst, errors.New("zstd chunk: has another size than it declares")
	}
	return out, nil
}

// frameLen returns how many bytes the frame at the start of data has, by its own word: header, blocks and checksum (RFC 8878,
// 3.1.1). It is more than len(data) for a frame that is cut off.
func frameLen(h zstd.Header, data []byte) int {
	const rle = 1
	at := h.HeaderSize
	for at+3 <= len(data) {
		block := uint32(data[at]) | uint32(data[at+1])<<8 | uint32(data[at+2])<<16
		last, kind, size := block&1, block>>1&3, int(block>>3)
		if kind == rle {
			size = 1
		}
		at += 3 + size
		if last == 0 {
			continue
		}
		if h.HasCheckSum {
			at += 4
		}
		return at
	}
	return len(data) + 1
}
