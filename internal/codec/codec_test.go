package codec_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"consilium.dev/internal/codec"
)

// encode encodes one chunk as the first of a transfer to a peer that reads everything.
func encode(dst, chunk []byte) (codec.Scheme, []byte) {
	e := codec.Encoder{Reads: codec.All}
	return e.Encode(nil, dst, chunk)
}

// noise returns n bytes that no scheme makes shorter.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	chance := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(chance.Uint32())
	}
	return b
}

// trained returns n float32s like those of a trained model: normal, around 0.
func trained(n int) []byte {
	chance := rand.New(rand.NewPCG(3, 0))
	var b []byte
	for range n {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(chance.NormFloat64()*0.02)))
	}
	return b
}

// sparse returns n float32s of which one in k is not 0.
func sparse(n, k int) []byte {
	b := trained(n)
	for i := range n {
		if i%k > 0 {
			clear(b[4*i : 4*i+4])
		}
	}
	return b
}

// scattered returns n float32s of which about a share is not 0, anywhere.
func scattered(n int, share float64) []byte {
	b, chance := trained(n), rand.New(rand.NewPCG(4, 0))
	for i := range n {
		if chance.Float64() >= share {
			clear(b[4*i : 4*i+4])
		}
	}
	return b
}

func TestEncode(t *testing.T) {
	zeros := make([]byte, 100_000)
	half := append(make([]byte, 1<<19), noise(1, 1<<19)...)
	for _, c := range []struct {
		name   string
		chunk  []byte
		scheme codec.Scheme
		most   int // bytes
	}{
		{"empty", nil, codec.Raw, 0},
		{"one byte", []byte{7}, codec.Raw, 1},
		{"short zeros", make([]byte, 511), codec.Raw, 511},
		{"zeros", make([]byte, 512), codec.Sparse, 0},
		{"zeros that are no float32s", make([]byte, 513), codec.Zstd, 64},
		{"many zeros", make([]byte, codec.MaxChunk), codec.Sparse, 0},
		{"one value in ten", scattered(1<<18, 0.1), codec.Sparse, 5.1 * 26_500},
		{"one value in a hundred", scattered(1<<18, 0.01), codec.Sparse, 5.4 * 2_700},
		{"one in four", scattered(1<<18, 0.25), codec.Planes, 430_000},
		{"minus zeros", bytes.Repeat([]byte{0, 0, 0, 0x80}, 1000), codec.Zstd, 64},
		{"samples are sparse, the whole is not", slices.Concat(zeros[:5000], trained(10_000), zeros), codec.Zstd, 42_000},
		{"frozen but for one layer", append(make([]byte, 900_000), trained(30_000)...), codec.Zstd, 200_000},
		{"noise", noise(2, codec.MaxChunk), codec.Raw, codec.MaxChunk},
		{"trained", trained(1 << 18), codec.Planes, 900_000},
		{"samples promise, the whole does not keep", promise(), codec.Raw, codec.MaxChunk},
		{"one sample in three", append(append(noise(4, 1<<19), make([]byte, 1000)...), noise(5, 1<<18)...), codec.Raw, codec.MaxChunk},
		{"samples do not promise", slices.Concat(noise(4, 5000), zeros, noise(5, 5000), zeros, noise(6, 5000)), codec.Raw, codec.MaxChunk},
		{"zeros between noise", slices.Concat(noise(4, 5000), zeros, noise(5, 5000)), codec.Zstd, 11_000},
		{"half", half, codec.Zstd, 1<<19 + 1000},
	} {
		t.Run(c.name, func(t *testing.T) {
			head := []byte("head")
			scheme, data := encode(head, c.chunk)
			if scheme != c.scheme || len(data)-4 > c.most {
				t.Errorf("Encode of %d bytes = scheme %d, %d bytes, want scheme %d and at most %d", len(c.chunk), scheme, len(data)-4, c.scheme, c.most)
			}
			if string(data[:4]) != "head" {
				t.Errorf("Encode wrote over what was there: %q", data[:4])
			}
			again, err := codec.Decode([]byte("tail"), scheme, data[4:], len(c.chunk))
			if err != nil || string(again) != "tail"+string(c.chunk) {
				t.Errorf("Decode = %d bytes, %v, want the chunk behind what was there", len(again), err)
			}
		})
	}
}

// promise returns a chunk whose beginning, middle and end are zeros and all else noise.
func promise() []byte {
	b := noise(6, codec.MaxChunk)
	const n = 4 << 10
	clear(b[:n])
	clear(b[(len(b)-n)/2:][:n])
	clear(b[len(b)-n:])
	return b
}

func TestEncodePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic for a chunk above MaxChunk")
		}
	}()
	encode(nil, make([]byte, codec.MaxChunk+1))
}

// TestRoundTrip draws chunks made of runs and noise, of any length.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var chunk []byte
		for i := range rapid.IntRange(0, 5).Draw(r, "parts") {
			n := rapid.IntRange(0, 40_000).Draw(r, "length")
			if rapid.Bool().Draw(r, "noise") {
				chunk = append(chunk, noise(uint64(i), n)...)
			} else {
				chunk = append(chunk, bytes.Repeat([]byte{rapid.Byte().Draw(r, "byte")}, n)...)
			}
		}
		scheme, data := encode(nil, chunk)
		if len(data) > len(chunk) {
			r.Fatalf("Encode made %d bytes of %d", len(data), len(chunk))
		}
		if scheme == codec.Zstd && len(data) > len(chunk)-len(chunk)/8 {
			r.Fatalf("Encode made %d bytes of %d, which does not pay", len(data), len(chunk))
		}
		again, err := codec.Decode(nil, scheme, data, len(chunk))
		if err != nil || !bytes.Equal(again, chunk) {
			r.Fatalf("Decode = %d bytes, %v, want the %d bytes encoded", len(again), err, len(chunk))
		}
	})
}

// TestConcurrent: encoder and decoder are shared by all goroutines.
func TestConcurrent(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			chunk := append(noise(uint64(i), 3000), make([]byte, 30_001)...)
			for range 20 {
				scheme, data := encode(nil, chunk)
				again, err := codec.Decode(nil, scheme, data, len(chunk))
				if scheme != codec.Zstd || err != nil || !bytes.Equal(again, chunk) {
					t.Errorf("goroutine %d: scheme %d, %v, want zstd and the same bytes", i, scheme, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// frame is a frame made by hand: a header that declares size bytes in one segment, and blocks.
func frame(size uint32, blocks ...string) string {
	b := binary.LittleEndian.AppendUint32([]byte("\x28\xb5\x2f\xfd\xa0"), size)
	return string(b) + strings.Join(blocks, "")
}

// block is a block of a frame: kind 0 as it is, 1 a byte repeated n times, 2 compressed.
func block(last bool, kind, n uint32, content string) string {
	v := n<<3 | kind<<1
	if last {
		v |= 1
	}
	return string([]byte{byte(v), byte(v >> 8), byte(v >> 16)}) + content
}

// library is what another writer makes, with the options given.
func library(t *testing.T, chunk []byte, options ...zstd.EOption) string {
	t.Helper()
	w, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return string(w.EncodeAll(chunk, nil))
}

// streamed is what another writer makes that does not know the size beforehand.
func streamed(t *testing.T, chunk []byte) string {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(chunk); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// planes is a chunk of n float32s that are all 0.
func planes(t *testing.T, n int) string {
	t.Helper()
	plane := library(t, make([]byte, n), zstd.WithSingleSegment(true))
	return strings.Repeat(string(binary.LittleEndian.AppendUint32(nil, uint32(len(plane))))+plane, 4)
}

func TestDecodeRefuses(t *testing.T) {
	good := frame(1000, block(true, 1, 1000, "x"))
	skippable := "\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
	dictionary := "\x28\xb5\x2f\xfd\xa1" + "\x07" + good[5:]
	var bomb strings.Builder
	for range 200_000 {
		bomb.WriteString(block(false, 1, 1<<17, "x"))
	}
	for _, c := range []struct {
		name   string
		scheme codec.Scheme
		data   string
		size   int
		want   string
	}{
		{"size below 0", codec.Raw, "", -1, "for -1 decoded"},
		{"size above the limit", codec.Zstd, frame(1<<20+1, block(true, 1, 1<<20+1, "x")), 1<<20 + 1, "at most 1048576"},
		{"longer than decoded", codec.Zstd, good, 10, "not longer than decoded"},
		{"raw too short", codec.Raw, "abc", 4, "raw chunk has 3 bytes, want 4"},
		{"unknown scheme", 5, "abcd", 4, "scheme 5 is unknown"},
		{"scheme far away", math.MaxUint32, "abcd", 4, "scheme 4294967295 is unknown"},
		{"no frame", codec.Zstd, "", 1000, "zstd chunk"},
		{"no magic number", codec.Zstd, "x" + good[1:], 1000, "zstd chunk"},
		{"skippable frame", codec.Zstd, skippable, 1000, "want one frame"},
		{"skippable frame first", codec.Zstd, skippable + good, 1000, "want one frame"},
		{"skippable frame behind", codec.Zstd, good + skippable, 1000, "goes on behind"},
		{"empty frame behind", codec.Zstd, good + frame(0, block(true, 0, 0, "")), 1000, "goes on behind"},
		{"a byte behind", codec.Zstd, good + "\x00", 1000, "goes on behind"},
		{"two frames", codec.Zstd, frame(500, block(true, 1, 500, "x")) + frame(500, block(true, 1, 500, "x")), 1000, "declares 1000 bytes"},
		{"dictionary", codec.Zstd, dictionary, 1000, "without a dictionary"},
		{"declares less", codec.Zstd, good, 1001, "declares 1001 bytes"},
		{"declares more", codec.Zstd, good, 999, "declares 999 bytes"},
		{"declares nothing", codec.Zstd, streamed(t, make([]byte, 1000)), 1000, "declares 1000 bytes"},
		{"holds less than declared", codec.Zstd, frame(1000, block(true, 1, 999, "x")), 1000, "zstd chunk"},
		{"holds more than declared", codec.Zstd, frame(1000, block(true, 1, 1001, "x")), 1000, "zstd chunk"},
		{"bomb", codec.Zstd, frame(1<<20, bomb.String(), block(true, 0, 0, "")), 1 << 20, "zstd chunk"},
		{"reserved block", codec.Zstd, frame(1000, block(true, 3, 1, "x")), 1000, "zstd chunk"},
		{"no last block", codec.Zstd, frame(1000, block(false, 1, 1000, "x")), 1000, "is cut off"},
		{"planes of an odd size", codec.Planes, "\x00\x00\x00\x00", 1001, "multiple of 4"},
		{"no planes", codec.Planes, "", 4, "plane 0 is cut off"},
		{"planes cut off", codec.Planes, "\x02\x00\x00\x00ab\x02\x00\x00\x00a", 8 << 10, "plane 0: zstd"},
		{"plane longer than the rest", codec.Planes, "\x08\x00\x00\x00ab", 400, "plane 0 has 8 bytes, of 2 that follow"},
		{"plane longer than it may be", codec.Planes, "\xff\xff\xff\xff" + string(noise(1, 100)), 400, "plane 0 has 4294967295 bytes"},
		{"planes go on", codec.Planes, planes(t, 100) + "x", 400, "1 bytes follow"},
		{"a plane of another size", codec.Planes, planes(t, 99), 400, "declares 100 bytes"},
		{"blocks of an odd size", codec.Blocks, "\x00\x00a", 5, "multiple of 4"},
		{"blocks too short", codec.Blocks, "\x00\x00", 4, "blocks chunk has 2 bytes, want 3"},
		{"blocks too long", codec.Blocks, "\x00\x00ab", 4, "blocks chunk has 4 bytes, want 3"},
		{"exponent too small", codec.Blocks, "\x6a\xff\x01", 4, "exponent -150"},
		{"exponent too large", codec.Blocks, "\x80\x00\x00", 4, "exponent 128"},
		{"value too large", codec.Blocks, "\x7f\x00\x02", 4, "that is none of a block's"},
		{"whole number too large", codec.Blocks, "\x00\x00\x80", 4, "that is none of a block's"},
		{"sparse of an odd size", codec.Sparse, "", 5, "multiple of 4"},
		{"gap beyond the chunk", codec.Sparse, "\x03abcd", 12, "a gap of 3 values, of which 3 are left"},
		{"a value too many", codec.Sparse, "\x02abcd\x00abcd", 12, "a gap of 0 values, of which 0 are left"},
		{"gap far away", codec.Sparse, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01abcd", 1 << 20, "a gap of 18446744073709551615 values"},
		{"gap too long", codec.Sparse, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02abcd", 1 << 20, "no gap stands 14 bytes before its end"},
		{"gap cut off", codec.Sparse, "\x00abcd\x80", 400, "no gap stands 1 bytes before its end"},
		{"gap in more bytes than it takes", codec.Sparse, "\x80\x00abcd", 400, "no gap stands 6 bytes before its end"},
		{"value cut off", codec.Sparse, "\x00abc", 400, "its last value has 3 bytes"},
		{"value that is 0", codec.Sparse, "\x00\x00\x00\x00\x00", 400, "a value that is 0"},
		{"compressed block of noise", codec.Zstd, frame(1000, block(true, 2, 100, string(noise(1, 100)))), 1000, "zstd chunk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst := append(make([]byte, 0, 1<<20), "head"...)
			got, err := codec.Decode(dst, c.scheme, []byte(c.data), c.size)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Decode = %v, want an error with %q", err, c.want)
			}
			if string(got) != "head" {
				t.Errorf("Decode = %d bytes, want only what was there", len(got))
			}
		})
	}
	if got, err := codec.Decode(nil, codec.Planes, []byte(planes(t, 100)), 400); err != nil || !bytes.Equal(got, make([]byte, 400)) {
		t.Errorf("Decode of the good planes = %d bytes, %v, want 400 zeros", len(got), err)
	}
	if got, err := codec.Decode(nil, codec.Zstd, []byte(good), 1000); err != nil || string(got) != strings.Repeat("x", 1000) {
		t.Errorf("Decode of the good frame = %d bytes, %v, want 1000", len(got), err)
	}
}

// TestDecodeOthers reads frames of another writer's options, and refuses each cut of one.
func TestDecodeOthers(t *testing.T) {
	chunk := append(noise(1, 2000), sparse(5000, 9)...)
	for name, options := range map[string][]zstd.EOption{
		"with a checksum": {zstd.WithEncoderCRC(true)},
		"best":            {zstd.WithEncoderLevel(zstd.SpeedBestCompression)},
		"one segment":     {zstd.WithSingleSegment(true)},
		"small window":    {zstd.WithWindowSize(1 << 10)},
	} {
		data := library(t, chunk, options...)
		if got, err := codec.Decode(nil, codec.Zstd, []byte(data), len(chunk)); err != nil || !bytes.Equal(got, chunk) {
			t.Errorf("%s: Decode = %d bytes, %v, want the chunk", name, len(got), err)
		}
		for n := range len(data) {
			if _, err := codec.Decode(nil, codec.Zstd, []byte(data[:n]), len(chunk)); err == nil {
				t.Fatalf("%s: the first %d bytes of %d are decoded, want an error", name, n, len(data))
			}
		}
	}
	checked := []byte(library(t, chunk, zstd.WithEncoderCRC(true)))
	checked[len(checked)-1] ^= 1
	if _, err := codec.Decode(nil, codec.Zstd, checked, len(chunk)); err == nil {
		t.Error("a frame with another checksum is decoded, want an error")
	}
}

// TestDecodeMemory: a bomb costs no more memory than its chunk's declared size.
func TestDecodeMemory(t *testing.T) {
	var bomb strings.Builder
	for range 200_000 {
		bomb.WriteString(block(false, 1, 1<<17, "x")) // 128 KiB from 4 bytes, 26 GB in all
	}
	data := []byte(frame(1<<20, bomb.String(), block(true, 0, 0, "")))
	for range 2 * runtime.GOMAXPROCS(0) {
		codec.Decode(nil, codec.Zstd, data, 1<<20) // makes the buffers of each of the library's decoders
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 4 {
		if _, err := codec.Decode(nil, codec.Zstd, data, 1<<20); err == nil {
			t.Fatal("the bomb is decoded, want an error")
		}
	}
	runtime.ReadMemStats(&after)
	got := (after.TotalAlloc - before.TotalAlloc) / 4
	t.Logf("decoding a bomb took %d bytes", got)
	if got > 4<<20 {
		t.Errorf("decoding a bomb took %d bytes, want at most a few times the 1 MiB it may decode to", got)
	}
}

// FuzzDecode: no bytes make Decode panic or give another number of bytes than the caller was told.
func FuzzDecode(f *testing.F) {
	f.Add(uint32(0), []byte("abcd"), 4)
	f.Add(uint32(1), []byte(frame(1000, block(true, 1, 1000, "x"))), 1000)
	scheme, data := encode(nil, append(noise(1, 100), make([]byte, 1000)...))
	f.Add(uint32(scheme), data, 1100)
	scheme, data = encode(nil, trained(2000))
	f.Add(uint32(scheme), data, 8000)
	f.Add(uint32(codec.Blocks), []byte("\x00\x00\x01\x81"), 8)
	f.Add(uint32(codec.Sparse), []byte("\x80\x01abcd\x00abcd"), 1024)
	f.Fuzz(func(t *testing.T, scheme uint32, data []byte, size int) {
		out, err := codec.Decode([]byte("head"), codec.Scheme(scheme), data, size)
		if err != nil {
			if string(out) != "head" {
				t.Fatalf("Decode = %q beside an error, want only what was there", out)
			}
			return
		}
		if len(out) != 4+size || size > codec.MaxChunk || string(out[:4]) != "head" {
			t.Fatalf("Decode = %d bytes, want %d behind the 4 that were there", len(out), size)
		}
		again, coded := encode(nil, out[4:])
		back, err := codec.Decode(nil, again, coded, size)
		if err != nil || !bytes.Equal(back, out[4:]) {
			t.Fatalf("Decode of what Encode made of it = %d bytes, %v, want the same", len(back), err)
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	for _, c := range []struct {
		name  string
		chunk []byte
	}{
		{"noise", noise(1, codec.Piece)},
		{"trained", trained(codec.Piece / 4)},
		{"sparse", scattered(codec.Piece/4, 0.01)},
		{"bf16", lossy(codec.BF16, codec.Piece/4)},
		{"int8", lossy(codec.Int8, codec.Piece/4)},
	} {
		e := codec.Encoder{Reads: codec.All}
		scheme, data := e.Encode(nil, nil, c.chunk)
		b.Run("encode/"+c.name, func(b *testing.B) {
			dst := make([]byte, 0, len(c.chunk))
			b.SetBytes(int64(len(c.chunk)))
			for b.Loop() {
				e.Encode(nil, dst[:0], c.chunk)
			}
			b.ReportMetric(float64(len(data))/float64(len(c.chunk)), "share")
		})
		b.Run("decode/"+c.name, func(b *testing.B) {
			dst := make([]byte, 0, len(c.chunk))
			b.SetBytes(int64(len(c.chunk)))
			for b.Loop() {
				if _, err := codec.Decode(dst, scheme, data, len(c.chunk)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
