package mask_test

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"consilium.dev/internal/mask"
)

// slow returns a mask's word by encrypting its counter.
func slow(t testing.TB, seed mask.Seed, word uint64) uint64 {
	t.Helper()
	block, err := aes.NewCipher(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[8:], word/2)
	block.Encrypt(b[:], b[:])
	return binary.LittleEndian.Uint64(b[word%2*8:])
}

// TestApply: parts of any length at any offset get the words of their places, terms add up, and negated ones take them away.
func TestApply(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		terms := make([]mask.Term, rapid.IntRange(0, 40).Draw(r, "terms"))
		for i := range terms {
			terms[i] = mask.Term{Seed: mask.Seed{byte(i), rapid.Byte().Draw(r, "seed")}, Minus: rapid.Bool().Draw(r, "minus")}
		}
		offset := rapid.OneOf(rapid.IntRange(0, 2000), rapid.IntRange(1<<40-3, 1<<40+3)).Draw(r, "offset")
		dst := make([]uint64, rapid.IntRange(0, 1100).Draw(r, "length"))
		for i := range dst {
			dst[i] = uint64(i) << 50
		}
		before := slices.Clone(dst)
		mask.Apply(dst, offset, terms...)
		for _, i := range []int{0, 1, 511, 512, len(dst) - 1} {
			if i < 0 || i >= len(dst) {
				continue
			}
			want := before[i]
			for _, term := range terms {
				if w := slow(t, term.Seed, uint64(offset+i)); term.Minus {
					want -= w
				} else {
					want += w
				}
			}
			if dst[i] != want {
				r.Fatalf("word %d = %x, want %x", i, dst[i], want)
			}
		}
		parts := slices.Clone(before)
		cut := rapid.IntRange(0, len(dst)).Draw(r, "cut")
		mask.Apply(parts[cut:], offset+cut, terms...)
		mask.Apply(parts[:cut], offset, terms...)
		if !slices.Equal(parts, dst) {
			r.Fatalf("cut at %d the words are others", cut)
		}
		for i := range terms {
			terms[i] = terms[i].Negated()
		}
		mask.Apply(dst, offset, terms...)
		if !slices.Equal(dst, before) {
			r.Fatal("what was added is not taken away again")
		}
	})
}

// TestApplyAllocates: memory is taken for the ciphers, and none for the vector.
func TestApplyAllocates(t *testing.T) {
	terms := make([]mask.Term, 3)
	short, long := make([]uint64, 1), make([]uint64, 1<<16)
	one := testing.AllocsPerRun(5, func() { mask.Apply(short, 0, terms...) })
	if all := testing.AllocsPerRun(5, func() { mask.Apply(long, 0, terms...) }); all > one {
		t.Errorf("%v allocations for a vector, %v for a word", all, one)
	}
}

// BenchmarkApply measures one core by turns with bare AES-256-CTR: GB/s of masks, by how many terms are applied, and what part that is of
// the key stream alone. The medians are of turns so short that nothing has interrupted them.
func BenchmarkApply(b *testing.B) {
	const n = 1 << 15 // words
	dst, stream := make([]uint64, n), make([]byte, 8*n)
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	for _, k := range []int{1, 4, 16, 30} {
		b.Run(fmt.Sprintf("terms=%d", k), func(b *testing.B) {
			terms := make([]mask.Term, k)
			for i := range terms {
				terms[i] = mask.Term{Seed: mask.Seed{byte(i)}, Minus: i%2 == 1}
			}
			b.ReportAllocs()
			var bare, applied []time.Duration
			for b.Loop() {
				began := time.Now()
				for range k {
					s := cipher.NewCTR(block, make([]byte, aes.BlockSize))
					for at := 0; at < len(stream); at += 4096 {
						s.XORKeyStream(stream[at:at+4096], stream[at:at+4096])
					}
				}
				between := time.Now()
				mask.Apply(dst, 0, terms...)
				bare, applied = append(bare, between.Sub(began)), append(applied, time.Since(between))
			}
			slices.Sort(bare)
			slices.Sort(applied)
			c, a := bare[len(bare)/2], applied[len(applied)/2]
			b.ReportMetric(8*n*float64(k)/float64(a), "GB/s")
			b.ReportMetric(8*n*float64(k)/float64(c), "GB/s-ctr")
			b.ReportMetric(float64(c)/float64(a), "of-ctr")
		})
	}
}
