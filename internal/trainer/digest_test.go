package trainer_test

import (
	"encoding/hex"
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
