package aggregate_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"gonum.org/v1/gonum/floats"

	"consilium.dev/internal/aggregate"
)

// reference adds by gonum's vector calls, each of which is elementwise and rounds by itself: what every kernel must equal bit by bit.
func reference(dst []float64, src []float32, weight, magic float64) {
	if len(src) == 0 {
		return
	}
	buf := make([]float64, len(src))
	for i, x := range src {
		buf[i] = float64(x)
	}
	floats.Scale(weight, buf)
	floats.AddConst(magic, buf)
	floats.AddConst(-magic, buf)
	floats.Add(dst, buf)
}

// canary stands around what a kernel may write to.
const canary = 0x1.23456789abcdep+77

// agree holds every kernel to the reference, at an offset from where memory is aligned.
func agree(t *testing.T, sum []float64, src []float32, offset int, weight, magic float64) {
	t.Helper()
	want := append([]float64(nil), sum...)
	reference(want, src, weight, magic)
	for _, k := range aggregate.Kernels() {
		dst := make([]float64, offset+len(sum)+9)
		for i := range dst {
			dst[i] = canary
		}
		copy(dst[offset:], sum)
		from := make([]float32, offset+len(src))
		copy(from[offset:], src)
		k.Add(dst[offset:offset+len(sum)], from[offset:], weight, magic)
		for i, v := range dst {
			expected := canary
			if i >= offset && i < offset+len(sum) {
				expected = want[i-offset]
			}
			if math.Float64bits(v) != math.Float64bits(expected) {
				t.Fatalf("%s, %d values at offset %d, weight %v, magic %v: value %d is %x, want %x", k.Name, len(src), offset, weight, magic, i-offset, v, expected)
			}
		}
	}
}

// TestKernels holds the kernels to gonum's calls over all lengths around their vectors, all places in memory, and all kinds of
// numbers: both zeros, subnormal ones, ties of the rounding, the largest, sums that cancel.
func TestKernels(t *testing.T) {
	special := []float32{
		0, float32(math.Copysign(0, -1)), 1, -1, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, math.SmallestNonzeroFloat32, -math.SmallestNonzeroFloat32,
		0x1p-126, -0x1p-126, 0x1.fffffcp-127, math.MaxFloat32, -math.MaxFloat32, 0x1p-52, 0x1.000002p-52, 3, 1e-30, 16, -16, 0x1.fffffep3,
	}
	chance := rand.New(rand.NewPCG(7, 8))
	for n := range 140 {
		for _, magic := range []float64{0x1.8p52, 0x1.8p1, 0x1.8p-125, 0x1.8p180, 0x1.8p-1} {
			src, sum := make([]float32, n), make([]float64, n)
			for i := range src {
				if src[i] = special[chance.IntN(len(special))]; chance.IntN(3) == 0 {
					src[i] = float32(chance.NormFloat64())
				}
				sum[i] = float64(int64(chance.Uint64()>>20)-1<<43) * (magic * 0x1p-52 / 1.5)
				if chance.IntN(4) == 0 {
					sum[i] = 0
				}
			}
			for _, weight := range []float64{1, 3, 199, aggregate.MaxWeight, 0.1} {
				agree(t, sum, src, n%17, weight, magic)
			}
		}
	}
}

// FuzzKernels: no numbers, lengths, weights and grids make the kernels differ.
func FuzzKernels(f *testing.F) {
	f.Add([]byte("\x00\x00\x80\x3f\x00\x00\x00\x80\x01\x00\x00\x00"), uint32(1), int16(52), uint8(0))
	f.Add(make([]byte, 4*67), uint32(1<<29), int16(-100), uint8(3))
	f.Fuzz(func(t *testing.T, text []byte, weight uint32, exponent int16, offset uint8) {
		src := make([]float32, min(len(text)/4, 1<<12))
		sum := make([]float64, len(src))
		magic := math.Ldexp(1.5, min(max(int(exponent), -900), 900))
		for i := range src {
			bits := binary.LittleEndian.Uint32(text[4*i:])
			if bits>>23&0xff == 0xff { // an update with one that is not finite is refused before
				bits &^= 1 << 30
			}
			src[i] = math.Float32frombits(bits)
			sum[i] = float64(int32(bits*2654435761)) * (magic * 0x1p-52 / 1.5)
		}
		agree(t, sum, src, int(offset%32), float64(weight%aggregate.MaxWeight+1), magic)
	})
}

// TestAddAll: several updates in one pass give the bits of one after the other, over more than a block and over ranges.
func TestAddAll(t *testing.T) {
	const n = 5000
	chance := rand.New(rand.NewPCG(9, 10))
	all := parties(chance, 7, n, 1000, 16)
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: 17, MaxAbs: 16}, {Len: n - 20, MaxAbs: 64}, {Len: 3, MaxAbs: 32}}, Weights: weights(all)}
	one, err := aggregate.NewSum(spec)
	if err != nil {
		t.Fatal(err)
	}
	many, _ := aggregate.NewSum(spec)
	var parts [][]float32
	var each []float64
	for _, p := range all {
		one.AddWeight(float64(p.weight))
		many.AddWeight(float64(p.weight))
		one.Add(0, p.update, float64(p.weight))
		parts, each = append(parts, p.update), append(each, float64(p.weight))
	}
	head, tail := make([][]float32, len(parts)), make([][]float32, len(parts))
	for i, p := range parts {
		head[i], tail[i] = p[:513], p[513:]
	}
	many.AddAll(513, tail, each)
	many.AddAll(0, head, each)
	want, got := make([]float64, n), make([]float64, n)
	one.Mean(0, want)
	many.Mean(0, got)
	sameBits(t, got, want, "at once")
}

// BenchmarkAdd measures one core, plain Go and the assembly that this processor runs, by turns with copying as many bytes as are taken
// in: GB/s of updates, where one waits and where four do, and what part that is of the copy. What is gone through is longer than the
// caches, and each turn so short that the median of all is of one that nothing has interrupted. Updates begin where memory is aligned, as
// those of uploads do.
func BenchmarkAdd(b *testing.B) {
	const (
		all   = 16 << 20  // values of all updates: 64 MiB, beside up to 128 MiB of sums
		turn  = 512 << 10 // of them in a turn
		block = 512       // of the sum at a time
	)
	src, other, dst := make([]float32, all), make([]float32, all), make([]float64, all)
	for i := range src {
		src[i] = float32(i%1000) * 0x1p-6
	}
	copy(other, src) // touched before it is measured
	clear(dst)
	kernels := aggregate.Kernels()
	if k := len(kernels) - 1; k > 0 {
		kernels = []aggregate.Kernel{kernels[0], {Name: "assembly", Add: kernels[k].Add}}
	}
	for _, updates := range []int{1, aggregate.AtOnce} {
		for _, k := range kernels {
			b.Run(fmt.Sprintf("kernel=%s/updates=%d", k.Name, updates), func(b *testing.B) {
				var copied, added []time.Duration
				n, part := all/updates, turn/updates
				for b.Loop() {
					for t := range all / turn {
						from := (t*turn + all/2) % all // what is added next has left the caches
						began := time.Now()
						copy(other[from:from+turn], src[from:])
						between := time.Now()
						for lo := t * part; lo < (t+1)*part; lo += block {
							for u := range updates {
								k.Add(dst[lo:lo+block], src[u*n+lo:][:block], 199, 0x1p12)
							}
						}
						copied, added = append(copied, between.Sub(began)), append(added, time.Since(between))
					}
				}
				slices.Sort(copied)
				slices.Sort(added)
				c, a := copied[len(copied)/2], added[len(added)/2]
				b.ReportMetric(4*turn/float64(a), "GB/s")
				b.ReportMetric(4*turn/float64(c), "GB/s-copy")
				b.ReportMetric(float64(c)/float64(a), "of-copy")
			})
		}
	}
}
