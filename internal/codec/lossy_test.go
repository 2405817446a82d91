package codec_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"consilium.dev/internal/codec"
)

func TestBF16(t *testing.T) {
	inf, nan := float32(math.Inf(1)), math.Float32frombits(0x7f800001)
	for _, c := range []struct {
		in, want float32
		limit    float64
	}{
		{0, 0, 1},
		{1, 1, 1},
		{-1.5, -1.5, 2},
		{1 + 0x1p-8, 1, 2}, // a tie goes to the even one
		{1 + 3*0x1p-8, 1 + 0x1p-6, 2},
		{1 + 0x1p-8 + 0x1p-20, 1 + 0x1p-7, 2},
		{2 - 0x1p-20, 2, 2},
		{2 - 0x1p-20, 2 - 0x1p-7, 2 - 0x1p-20}, // rounded up it would be refused
		{-2 + 0x1p-20, -2 + 0x1p-7, 2 - 0x1p-20},
		{0x1p-149, 0, 1},
		{inf, inf, 1},
		{math.MaxFloat32, inf, math.Inf(1)},
		{math.MaxFloat32, 0x1.fep127, math.MaxFloat32},
	} {
		got := []float32{c.in}
		codec.BF16.Coarsen(got, c.limit, nil)
		if got[0] != c.want {
			t.Errorf("bf16 of %x within %x = %x, want %x", c.in, c.limit, got[0], c.want)
		}
	}
	got := []float32{nan}
	codec.BF16.Coarsen(got, 1, nil)
	if got[0] == got[0] {
		t.Errorf("bf16 of a NaN = %v, want a NaN", got[0])
	}
}

// TestInt8Mean: what is rounded by chance has the mean of what was rounded.
func TestInt8Mean(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	const tries = 20_000
	in := []float32{1, -0.3, 0.001, 0.0073, -1e-9}
	sum := make([]float64, len(in))
	for range tries {
		got := slices.Clone(in)
		codec.Int8.Coarsen(got, 1, chance)
		for i, v := range got {
			sum[i] += float64(v)
		}
	}
	const scale = 0x1p-6 // the least power of two above 1/127
	for i, v := range in {
		if off := math.Abs(sum[i]/tries - float64(v)); off > 5*scale/2/math.Sqrt(tries) {
			t.Errorf("the mean of %v rounded = %v, %v off", v, sum[i]/tries, off)
		}
	}
}

// TestCoarsen: no value moves by more than its way allows, none is beyond the limit, the same chance gives the same bits, and
// chunks of what comes out have as few bytes as is promised.
func TestCoarsen(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		l := rapid.SampledFrom(codec.Lossies).Draw(r, "way")
		seed := rapid.Uint64().Draw(r, "seed")
		size := math.Ldexp(1, rapid.IntRange(-149, 120).Draw(r, "exponent"))
		chance := rand.New(rand.NewPCG(seed, 0))
		values := make([]float32, rapid.IntRange(0, 600).Draw(r, "length"))
		var limit float64
		for i := range values {
			values[i] = float32((2*chance.Float64() - 1) * size)
			limit = max(limit, math.Abs(float64(values[i])))
		}
		one, two := slices.Clone(values), slices.Clone(values)
		l.Coarsen(one, limit, rand.New(rand.NewPCG(seed, 1)))
		l.Coarsen(two, limit, rand.New(rand.NewPCG(seed, 1)))
		for i, v := range values {
			got, was := float64(one[i]), float64(v)
			if math.Float32bits(one[i]) != math.Float32bits(two[i]) || math.Abs(got) > limit {
				r.Fatalf("%s of %x within %x = %x and %x", l, v, limit, one[i], two[i])
			}
			most := math.Abs(was)/128 + 0x1p-126 // of bf16: below its least exponent it has fewer bits
			if l == codec.Int8 {
				most = max(limit/63, 0x1p-149)
			}
			if math.Abs(got-was) > most {
				r.Fatalf("%s of %x = %x, which is %x off", l, v, one[i], got-was)
			}
		}
	})
	for l, most := range map[codec.Lossy]float64{codec.Exact: 28, codec.BF16: 11.5, codec.Int8: 8.1} {
		const n = 1 << 15
		scheme, data := encode(nil, lossy(l, n))
		if bits := float64(8*len(data)) / n; scheme == codec.Raw || bits > most {
			t.Errorf("%q: scheme %d, %.2f bits a value, want at most %v", l, scheme, bits, most)
		}
	}
}

// lossy returns n float32s of a trained model, made coarser.
func lossy(l codec.Lossy, n int) []byte {
	chance := rand.New(rand.NewPCG(5, 6))
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(0.02 * chance.NormFloat64())
	}
	l.Coarsen(values, 1, chance)
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func TestLossyCheck(t *testing.T) {
	for _, l := range append(codec.Lossies, codec.Exact) {
		if err := l.Check(); err != nil {
			t.Errorf("%q: %v", l, err)
		}
	}
	if err := codec.Lossy("fp4").Check(); err == nil {
		t.Error("fp4 passes")
	}
}

// TestEncoder: what a peer does not read it is not sent; and where compressing takes longer than what it saves would on the line, be that since
// the line is fast or since the processor is slow, little is compressed that saves little.
func TestEncoder(t *testing.T) {
	chunk := trained(1 << 15)
	old := codec.Encoder{Reads: codec.Schemes(0).OrOld()}
	if scheme, _ := old.Encode(nil, nil, chunk); scheme != codec.Raw {
		t.Errorf("an older peer is sent scheme %d", scheme)
	}
	for _, c := range []struct {
		name       string
		line, code float64 // bytes a second
		want       codec.Scheme
	}{
		{"slow line", 50e6, 700e6, codec.Planes},
		{"fast line", 200e6, 700e6, codec.Raw},
		{"slow line and processor", 50e6, 150e6, codec.Raw},
		{"slower line", 5e6, 150e6, codec.Planes},
	} {
		e, now := codec.Encoder{Reads: codec.All}, time.Unix(0, 0)
		pass := func(n int, rate float64) { now = now.Add(time.Duration(float64(n) / rate * 1e9)) }
		encode := func(chunk []byte) codec.Scheme {
			begun := false
			scheme, data := e.Encode(func() time.Time {
				if begun {
					pass(len(chunk), c.code)
				}
				begun = true
				return now
			}, nil, chunk)
			pass(len(data), c.line)
			return scheme
		}
		var last codec.Scheme
		for range 80 { // 10 MiB
			last = encode(chunk)
		}
		if last != c.want {
			t.Errorf("%s: scheme %d, want %d", c.name, last, c.want)
		}
		sent := codec.Raw
		for range 8 {
			sent = max(sent, encode(sparse(1<<15, 50)))
		}
		if sent == codec.Raw {
			t.Errorf("%s: sparse chunks are sent as they are", c.name)
		}
	}
}
