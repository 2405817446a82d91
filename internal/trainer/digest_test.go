package trainer_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"testing"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
)

// initialDigest is what every processor must reach. Another value means that models begun by different machines would differ.
// TestPortable, one folder up, builds this test for each of them.
const initialDigest = "a20ee8eb95febdaeb96392df2a19f7db31bda55de4eb13c7f64215691cb624f8"

// TestInitialDigest begins a model of 500 columns from statistics made of whole numbers, and pins its bits.
func TestInitialDigest(t *testing.T) {
	const n, rows = 500, 486
	p := entry.Plan{
		Name: "digest", Trainer: trainer.Logistic, Strategy: entry.Strategy{Name: "fedavg"}, Rounds: 1, Quorum: 1, Tries: 1,
		Deadline: minute, MaxAbs: 16, Local: entry.Local{Steps: 1, LearningRate: 0.1}, Standardize: &entry.Standardize{MaxAbs: 1 << 50},
		Schema: []byte(`{"columns": [{"name": "x", "use": "number", "count": 500}, {"name": "y", "use": "label", "above": 0}]}`),
	}
	chance := uint64(42)
	next := func(bits int) float64 {
		chance = chance*6364136223846793005 + 1442695040888963407
		return float64(chance >> (64 - bits))
	}
	mean := make([]float64, 4*n)
	for j := range n {
		mu := next(20) / 3
		mean[j], mean[n+j] = mu-1, 1+next(20)*0x1p-40
		square := float64(mu * mu)
		mean[2*n+j], mean[3*n+j] = square+next(24), next(20)*0x1p-40
		if j%2 == 0 { // a column that never changes: what is left of its variance is rounding alone
			mean[j], mean[n+j], mean[2*n+j], mean[3*n+j] = mu, 0, square, 0
		}
	}
	m, err := trainer.Initial(p, mean, rows)
	if err != nil {
		t.Fatal(err)
	}
	digest := m.Digest()
	if got := hex.EncodeToString(digest[:]); got != initialDigest {
		t.Errorf("digest of the first model = %s, want %s", got, initialDigest)
	}
}

// scaleDigest is what every processor must reach: what the server makes of a mean under rules with a part for participants.
const scaleDigest = "284461c5709e54c7943eed064278e3c7a640a47619186e7e0b034ca8631e2ba3"

// TestScaleDigest scales a mean of drawn weights under FedNova and SCAFFOLD, and pins its bits.
func TestScaleDigest(t *testing.T) {
	chance := uint64(42)
	next := func(bits int) uint64 {
		chance = chance*6364136223846793005 + 1442695040888963407
		return chance >> (64 - bits)
	}
	h := sha256.New()
	for _, s := range []entry.Strategy{
		{Name: "fednova"}, {Name: "fednova", Params: map[string]any{"momentum": 0.9, "mu": 0.3}}, {Name: "scaffold", Params: map[string]any{"learning_rate": 0.7}},
	} {
		p := plan(3, true)
		p.Strategy, p.Local = s, entry.Local{Epochs: 3, Batch: 17, LearningRate: 0.1}
		weights := make([]int64, 50)
		for i := range weights {
			weights[i] = int64(next(14)) + 1
		}
		scale, err := trainer.Scale(p, weights, 57)
		if err != nil {
			t.Fatal(err)
		}
		mean := make([]float64, 100)
		for i := range mean {
			mean[i] = float64(next(30)) / 3
		}
		scale(0, mean)
		for _, v := range mean {
			binary.Write(h, binary.LittleEndian, math.Float64bits(v))
		}
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != scaleDigest {
		t.Errorf("digest of the scaled means = %s, want %s", got, scaleDigest)
	}
}
