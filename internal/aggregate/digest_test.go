package aggregate_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"testing"

	"consilium.dev/internal/aggregate"
)

// goldenDigest is what every processor must reach: amd64 with and without fused multiply-add, arm64. Another value means that
// models made by different machines would differ. TestPortable, one folder up, builds this test for each of them.
const goldenDigest = "20a8b3b353bf22b493f8a43049c4e30bcfcceca1c2b831857af7fcd41101e726"

// lcg is a whole-number generator, so that no library and no fused operation decides an input.
type lcg uint64

func (g *lcg) next() uint32 {
	*g = *g*6364136223846793005 + 1442695040888963407
	return uint32(*g >> 33)
}

// TestGoldenDigest goes through six rounds of 50 participants, three of FedAvg and three of FedAdam, and pins every bit that
// comes out: means, models and the optimiser's state.
func TestGoldenDigest(t *testing.T) {
	const n, k = 5000, 50
	var chance lcg = 42
	model := make([]float32, n)
	for i := range model {
		model[i] = float32(int32(chance.next()%(1<<20))-1<<19) * 0x1p-17
	}
	h := sha256.New()
	for _, name := range []string{"fedavg", "fedadam"} {
		s := strategy(t, name, map[string]any{"learning_rate": 0.3})
		state := make([]float64, s.Optimizer(1).StateLen(n))
		for i := range 3 {
			mean := goldenMean(t, &chance, n, k)
			s.Optimizer(i+1).Step(model, model, mean, state)
			for _, v := range mean {
				binary.Write(h, binary.LittleEndian, math.Float64bits(v))
			}
		}
		for _, v := range state {
			binary.Write(h, binary.LittleEndian, math.Float64bits(v))
		}
		for _, v := range model {
			binary.Write(h, binary.LittleEndian, math.Float32bits(v))
		}
	}
	// A float32 seldom shows how its float64 was rounded. This one does: rate*mean is 2^-24 + 2^-53 and 2^-84 more, which a
	// product that is rounded by itself drops; so the sum with 1 is a tie twice over, and becomes 1.
	x := []float32{1}
	optimizer(t, "fedavg", map[string]any{"learning_rate": 1 + 0x1p-30}).Step(x, x, []float64{0x1p-24 * (1 + 0x1p-30)}, nil)
	binary.Write(h, binary.LittleEndian, math.Float32bits(x[0]))
	if got := hex.EncodeToString(h.Sum(nil)); got != goldenDigest {
		t.Errorf("digest of the whole aggregation = %s, want %s", got, goldenDigest)
	}
}

// goldenMean is the mean of k updates of n values, whose magnitudes differ by up to 2^24, in two ranges.
func goldenMean(t *testing.T, chance *lcg, n, k int) []float64 {
	t.Helper()
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: n / 3, MaxAbs: 1024}, {Len: n - n/3, MaxAbs: 7}}}
	for range k {
		spec.Weights = append(spec.Weights, int64(chance.next()%(1<<20))+1)
	}
	sum, err := aggregate.NewSum(spec)
	if err != nil {
		t.Fatal(err)
	}
	update := make([]float32, n)
	for _, w := range spec.Weights {
		for i := range update {
			whole := int32(chance.next()%(1<<24)) - 1<<23 // exact in a float32
			update[i] = float32(math.Ldexp(float64(whole), -21-int(chance.next()%24)))
		}
		if err := spec.Check(update); err != nil {
			t.Fatal(err)
		}
		sum.AddWeight(float64(w))
		sum.Add(0, update[:n/2], float64(w))
		sum.Add(n/2, update[n/2:], float64(w))
	}
	mean := make([]float64, n)
	sum.Mean(0, mean)
	return mean
}

// serverDigest is what every processor must reach, as goldenDigest.
const serverDigest = "05e48bd9680fbbbfe8063d058c824461c9eb29097bdcdb5918a63b857ecc3819"

// TestGoldenDigestServer pins every bit of three rounds of the server optimisers that TestGoldenDigest has not.
func TestGoldenDigestServer(t *testing.T) {
	const n, k = 3000, 5
	var chance lcg = 44
	h := sha256.New()
	for _, c := range []struct {
		name   string
		params map[string]any
	}{
		{"fedavgm", nil},
		{"fedavgm", map[string]any{"nesterov": true, "momentum": 0.7}},
		{"fedyogi", map[string]any{"bias_correction": "adam"}},
		{"fedadagrad", map[string]any{"beta1": 0.3}},
		{"fedadam", map[string]any{"bias_correction": "flower", "initial_v": 0.0}},
	} {
		s := strategy(t, c.name, c.params)
		x, state := make([]float32, n), make([]float64, s.Optimizer(1).StateLen(n))
		for round := range 3 {
			s.Optimizer(round+1).Step(x, x, goldenMean(t, &chance, n, k), state)
		}
		for _, v := range state {
			binary.Write(h, binary.LittleEndian, math.Float64bits(v))
		}
		for _, v := range x {
			binary.Write(h, binary.LittleEndian, math.Float32bits(v))
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != serverDigest {
		t.Errorf("digest of the server optimisers = %s, want %s", got, serverDigest)
	}
}
