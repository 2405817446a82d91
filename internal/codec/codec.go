// Package codec makes fewer bytes of a vector's chunks on the wire, where that pays, and fewer bits of an update's values, where
// a plan asks for that. It is no archive format: what it wrote is read by the peer at once, and digests are taken over the
// decoded bytes.
//
// A chunk has at most [MaxChunk] bytes and is encoded by itself, under a [Scheme] that travels beside it together with the
// decoded size. No scheme loses a bit. Trained float32s hardly compress but for their exponents; frozen tensors, sparse
// updates, models before training and what [Lossy] has made coarser do, so an [Encoder] tries a sample first. [Decode] is
// for bytes from outside: its work and memory are bounded by the size that it is told, and it panics for no input.
//
//	e := codec.Encoder{Reads: codec.All}
//	scheme, data := e.Encode(time.Now, nil, chunk)
//	chunk, err := codec.Decode(nil, scheme, data, len(chunk))
//
// How well a chunk compresses shows in its length, also through an encrypted channel.
package codec

import (
	"errors"
	"fmt"
	"slices"
	"time"

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
	// Planes is for float32s, little endian: of the chunk's n values first all lowest bytes, then all second, third and
	// highest ones. Each of these four planes stands behind its length (4 bytes, little endian): as it is where that is n, else
	// as one Zstandard frame as above.
	Planes Scheme = 2
	// Blocks is for float32s, little endian, of which each 256 in a row are whole numbers from -127 to 127 times one power of
	// two, as Int8 makes them: for each block, the last may be shorter, the exponent of that power (2 bytes, two's complement,
	// little endian), then of all values the whole numbers (1 byte, two's complement). No value is -0.
	Blocks Scheme = 3
	// Sparse is for float32s, little endian, of which few are not 0: for each of those, in order, how many zeros stand between it and the one
	// before or the chunk's beginning (LEB128, in as few bytes as it takes), then its 4 bytes. The rest are zeros. -0 is not 0.
	Sparse Scheme = 4
)

// Schemes is a set of schemes, a bit 1<<scheme for each.
type Schemes uint32

// The sets that there are: All is what Decode of this version reads, Old what every version reads.
const (
	All Schemes = 1<<Raw | 1<<Zstd | 1<<Planes | 1<<Blocks | 1<<Sparse
	Old Schemes = 1<<Raw | 1<<Zstd
)

// OrOld returns s, or Old where the peer has said nothing, as versions that know no more do.
func (s Schemes) OrOld() Schemes {
	if s == 0 {
		return Old
	}
	return s
}

const (
	sampleLen = 4 << 10 // bytes of each of the three pieces that are tried first
	minChunk  = 512     // bytes; shorter chunks are not worth a frame, and frames below 256 bytes may declare no size
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

// Encoder encodes the chunks of one transfer. It compresses where a sample promises to save an eighth and the whole keeps that
// promise. Where compressing has cost more time than what it saved would have taken on the line, it has to be a half: so it is on a fast
// line, and where it is the processor that many share. It is used by one goroutine at a time.
type Encoder struct {
	Reads Schemes // what the peer reads; Raw and Zstd count as in it

	began   time.Time
	bytes   int64         // of all chunks
	wire    int64         // that they were encoded to
	coding  time.Duration // that encoding them took
	saved   int64         // bytes, by the chunks that were compressed
	working time.Duration // that these took
	fast    bool
	idle    int    // chunks that go as they are, untried
	plane   []byte // of the chunk that is encoded
}

const (
	fastBytes = 1 << 20 // after which the line and the processor are known
	idleMost  = 7       // so many chunks go untried behind one that did not save a half where it has to
)

// Encode appends chunk to dst, encoded so that it is never longer than it was, and returns the scheme and the longer dst. By the clock it
// judges what encoding costs and how fast the line takes what was encoded; with nil it takes any line for a slow one. It panics if chunk is longer than MaxChunk.
func (e *Encoder) Encode(clock func() time.Time, dst, chunk []byte) (Scheme, []byte) {
	if len(chunk) > MaxChunk {
		panic("codec: the chunk is longer than MaxChunk")
	}
	if clock == nil {
		return e.encode(dst, chunk)
	}
	from := clock()
	if e.bytes == 0 {
		e.began = from
	}
	e.fast = e.costs(from.Sub(e.began))
	if e.fast && e.idle > 0 {
		e.idle--
		e.bytes += int64(len(chunk))
		e.wire += int64(len(chunk))
		return Raw, append(dst, chunk...)
	}
	scheme, out := e.encode(dst, chunk)
	took := clock().Sub(from)
	e.bytes += int64(len(chunk))
	e.wire += int64(len(out) - len(dst))
	e.coding += took
	if e.idle = idleMost; scheme != Raw {
		e.idle = 0
		e.saved += int64(len(chunk) - (len(out) - len(dst)))
		e.working += took
	}
	return scheme, out
}

// costs reports whether compressing has taken longer than the line would have taken for what it saved, since the transfer began.
func (e *Encoder) costs(since time.Duration) bool {
	if e.bytes < fastBytes || e.saved == 0 {
		return false
	}
	line := max(since-e.coding, 0).Seconds() / float64(e.wire) // seconds a byte
	return e.working.Seconds() >= float64(e.saved)*line
}

// encode appends chunk to dst by the scheme that pays most.
func (e *Encoder) encode(dst, chunk []byte) (Scheme, []byte) {
	if len(chunk) < minChunk {
		return Raw, append(dst, chunk...)
	}
	scheme := e.best(chunk)
	out, ok := e.as(scheme, dst, chunk)
	if !ok && scheme == Sparse {
		scheme = Zstd
		out, ok = e.as(scheme, dst, chunk)
	}
	if ok && e.pays(len(out)-len(dst), len(chunk)) {
		return scheme, out
	}
	return Raw, append(dst, chunk...)
}

// best returns the scheme that makes least of the beginning, the middle and the end of a chunk, and Raw where none pays.
func (e *Encoder) best(chunk []byte) Scheme {
	sample := chunk
	if len(chunk) > 3*sampleLen {
		mid := (len(chunk) - sampleLen) / 2 &^ 3
		sample = slices.Concat(chunk[:sampleLen], chunk[mid:mid+sampleLen], chunk[len(chunk)&^3-sampleLen:len(chunk)&^3])
	}
	best, least := Raw, len(sample)
	if n := len(encoder.EncodeAll(sample, nil)); e.pays(n, len(sample)) {
		best, least = Zstd, n
	}
	if len(chunk)%4 != 0 {
		return best
	}
	if n := sparseLen(sample); n < least && n < len(sample)/4 && e.Reads&(1<<Sparse) != 0 {
		best, least = Sparse, n
	}
	if least < len(sample)/8 { // long runs are better seen whole
		return best
	}
	if n := listLen(len(sample) / 4); n < least && e.Reads&(1<<Blocks) != 0 && inBlocks(sample) {
		best, least = Blocks, n
	}
	if n := planesLen(sample); n < least && e.Reads&(1<<Planes) != 0 && e.pays(n, len(sample)) {
		best = Planes
	}
	return best
}

// as appends chunk as one scheme says it, or returns false where the scheme has no words for it.
func (e *Encoder) as(s Scheme, dst, chunk []byte) ([]byte, bool) {
	switch s {
	case Zstd:
		return encoder.EncodeAll(chunk, dst), true
	case Planes:
		return e.planes(dst, chunk), true
	case Blocks:
		return appendBlocks(dst, chunk)
	case Sparse:
		return appendSparse(dst, chunk)
	default:
		return dst, false
	}
}

// pays reports whether encoded bytes save enough.
func (e *Encoder) pays(encoded, decoded int) bool {
	if e.fast {
		return encoded <= decoded/2
	}
	return encoded <= decoded-decoded/8
}

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
	case Planes:
		return decodePlanes(dst, data, size)
	case Blocks:
		return decodeBlocks(dst, data, size)
	case Sparse:
		return decodeSparse(dst, data, size)
	default:
		return dst, fmt.Errorf("scheme %d is unknown, want 0 (raw), 1 (zstd), 2 (planes), 3 (blocks) or 4 (sparse)", s)
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
