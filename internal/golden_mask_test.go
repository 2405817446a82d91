package internal_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"testing"

	"consilium.dev/internal/mask"
	"consilium.dev/internal/privacy"
)

// hexed is bytes in hex.
type hexed []byte

func (h *hexed) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	b, err := hex.DecodeString(s)
	*h = b
	return err
}

// masker is one client of a file on masks.
type masker struct {
	ID         int     `json:"id"`
	Value      []int64 `json:"value"`
	SelfSeed   hexed   `json:"self_seed"`
	Neighbours []int   `json:"neighbours"`
}

type maskInput struct {
	Clients []masker `json:"clients"`
	Pairs   []struct {
		A    int   `json:"a"`
		B    int   `json:"b"`
		Seed hexed `json:"seed"`
	} `json:"pair_seeds"`
	Dropped []int `json:"dropped_after_sharing_keys"`
	Seed    hexed `json:"seed"`
}

// between returns the term of the masks that a client adds for another.
func (in maskInput) between(t *testing.T, own, other int) mask.Term {
	t.Helper()
	for _, p := range in.Pairs {
		if p.A == min(own, other) && p.B == max(own, other) {
			return mask.Term{Seed: mask.Seed(p.Seed), Minus: own > other}
		}
	}
	t.Fatalf("no seed of %d and %d", own, other)
	return mask.Term{}
}

type maskParams struct {
	Bits int `json:"modulus_bits"`
}

type maskExpected struct {
	Masked []masker `json:"masked"`
	Sent   []int64  `json:"sum_of_masked"`
	Sum    []int64  `json:"sum"`
	Mask   []int64  `json:"mask"`
}

// narrow adds the terms' masks to words of 32 bits or fewer: those masks are the same key streams, cut into words of 32 bits.
func (p maskParams) narrow(dst []int64, terms ...mask.Term) {
	for _, term := range terms {
		wide := make([]uint64, (len(dst)+1)/2)
		mask.Apply(wide, 0, mask.Term{Seed: term.Seed})
		for i := range dst {
			word := int64(uint32(wide[i/2] >> (32 * (i % 2))))
			if term.Minus {
				word = -word
			}
			dst[i] = (dst[i] + word) & (1<<p.Bits - 1)
		}
	}
}

func maskCase(t *testing.T, c sample[maskInput, maskParams, maskExpected]) {
	in, want := c.Input, c.Expected
	if want.Mask != nil {
		got := make([]int64, len(want.Mask))
		c.Params.narrow(got, mask.Term{Seed: mask.Seed(in.Seed)})
		if !slices.Equal(got, want.Mask) {
			t.Errorf("mask = %v, want %v", got, want.Mask)
		}
		return
	}
	sum, wide, plain := make([]int64, len(want.Sum)), make([]uint64, len(want.Sum)), make([]uint64, len(want.Sum))
	var left []mask.Term // what is in the sum beside the values
	for i, client := range in.Clients {
		terms := []mask.Term{{Seed: mask.Seed(client.SelfSeed)}}
		for _, other := range client.Neighbours {
			terms = append(terms, in.between(t, client.ID, other))
		}
		masked := slices.Clone(client.Value)
		c.Params.narrow(masked, terms...)
		if w := want.Masked[i]; w.ID != client.ID || !slices.Equal(masked, w.Value) {
			t.Errorf("masked of %d = %v, want %v", client.ID, masked, w.Value)
		}
		if slices.Contains(in.Dropped, client.ID) {
			continue
		}
		left = append(left, terms[0])
		for k, other := range client.Neighbours {
			if slices.Contains(in.Dropped, other) {
				left = append(left, terms[1+k])
			}
		}
		vector := make([]uint64, len(sum)) // what the product sends: words of 64 bits
		for k, v := range masked {
			sum[k] = (sum[k] + v) & (1<<c.Params.Bits - 1)
			vector[k] = uint64(client.Value[k])
			plain[k] += vector[k]
		}
		mask.Apply(vector, 0, terms...)
		for k, v := range vector {
			wide[k] += v
		}
	}
	if !slices.Equal(sum, want.Sent) {
		t.Errorf("sum of what was sent = %v, want %v", sum, want.Sent)
	}
	for i := range left {
		left[i] = left[i].Negated()
	}
	c.Params.narrow(sum, left...)
	if !slices.Equal(sum, want.Sum) {
		t.Errorf("sum = %v, want %v", sum, want.Sum)
	}
	mask.Apply(wide, 0, left...)
	if !slices.Equal(wide, plain) {
		t.Errorf("sum modulo 2^64 = %v, want %v", wide, plain)
	}
}

type shamirShare struct {
	X byte  `json:"x"`
	Y hexed `json:"y"`
}

type shamirInput struct {
	Secret       hexed         `json:"secret"`
	Coefficients []hexed       `json:"coefficients"`
	X            []int         `json:"x"`
	Shares       []shamirShare `json:"shares"`
}

type shamirParams struct {
	Threshold int `json:"threshold"`
	Shares    int `json:"shares"`
}

type shamirExpected struct {
	Shares     []shamirShare `json:"shares"`
	Combine    []int         `json:"combine_these"`
	Combined   hexed         `json:"combined"`
	Not        hexed         `json:"combined_is_not"`
	Interpolat hexed         `json:"interpolates_to"`
}

func shamirCase(t *testing.T, c sample[shamirInput, shamirParams, shamirExpected]) {
	in, want, threshold := c.Input, c.Expected, c.Params.Threshold
	if want.Not != nil {
		var shares []mask.Share
		for _, s := range in.Shares {
			shares = append(shares, mask.Share{X: s.X, Y: s.Y})
		}
		if got, err := mask.Combine(threshold, shares); !errors.Is(err, mask.ErrShares) || got != nil {
			t.Errorf("Combine of too few = %x, %v, want %v", got, err, mask.ErrShares)
		}
		got, err := mask.Combine(len(shares), shares)
		if err != nil || !bytes.Equal(got, want.Interpolat) || bytes.Equal(got, want.Not) {
			t.Errorf("as if they were enough = %x, %v, want %x", got, err, want.Interpolat)
		}
		return
	}
	xs := make([]byte, len(in.X))
	for i, x := range in.X {
		xs[i] = byte(x)
	}
	coefficients := make([][]byte, len(in.Coefficients))
	for i, k := range in.Coefficients {
		coefficients[i] = k
	}
	shares, err := mask.Split(in.Secret, threshold, xs, bytes.NewReader(slices.Concat(coefficients...)))
	if err != nil || len(shares) != c.Params.Shares || len(shares) != len(want.Shares) {
		t.Fatalf("Split = %d shares, %v, want %d", len(shares), err, len(want.Shares))
	}
	for i, s := range shares {
		if w := want.Shares[i]; s.X != w.X || !bytes.Equal(s.Y, w.Y) {
			t.Errorf("share at %d = %x, want %x", s.X, s.Y, w.Y)
		}
	}
	some := slices.DeleteFunc(shares, func(s mask.Share) bool { return !slices.Contains(want.Combine, int(s.X)) })
	if got, err := mask.Combine(threshold, some); err != nil || !bytes.Equal(got, want.Combined) {
		t.Errorf("combined = %x, %v, want %x", got, err, want.Combined)
	}
}

type quantizationInput struct {
	Values  []float64 `json:"values"`
	Uniform []float64 `json:"uniform"`
}

type quantizationParams struct {
	Clip  float64 `json:"clipping_range"`
	Range float64 `json:"quantization_range"`
}

type quantizationExpected struct {
	Quantized []int64  `json:"quantized"`
	One       []number `json:"dequantized"`
	Three     []number `json:"dequantized_as_sum_of_3_equal_clients"`
}

// quantizationCase holds the rounding at random of noise that participants add themselves to Flower's numbers. There values are moved by
// the clipping range, so that none is negative, and are rounded down where the number drawn is below the distance to the number above, which
// is the same as up where 1 less that number is below the fraction, but for ties. Clipping and the way back are done here: in this house a
// value beyond the limit is refused, and what comes back is a sum of steps of a grid.
func quantizationCase(t *testing.T, c sample[quantizationInput, quantizationParams, quantizationExpected]) {
	clip, step := c.Params.Clip, 2*c.Params.Clip/c.Params.Range
	values, uniform, got := slices.Clone(c.Input.Values), slices.Clone(c.Input.Uniform), make([]int64, len(c.Input.Values))
	for i, v := range values {
		values[i] = min(max(v, -clip), clip) + clip
		uniform[i] = math.Nextafter(1-uniform[i], 0)
	}
	privacy.RoundAtRandom(got, values, uniform, step)
	if !slices.Equal(got, c.Expected.Quantized) {
		t.Errorf("quantized = %v, want %v", got, c.Expected.Quantized)
	}
	back := func(clients float64) []float64 {
		all := make([]float64, len(got))
		for i, v := range got {
			all[i] = clients*float64(v)*step - clients*clip
		}
		return all
	}
	c.Tolerance.check(t, "dequantized", back(1), c.Expected.One)
	c.Tolerance.check(t, "dequantized_as_sum_of_3_equal_clients", back(3), c.Expected.Three)
}
