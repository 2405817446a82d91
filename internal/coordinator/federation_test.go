package coordinator_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/codec"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// download fetches a model's safetensors.
func (p *peer) download(ctx context.Context, id entry.Digest) ([]byte, error) {
	stream, err := p.Fetch(ctx, &pb.FetchRequest{Model: id[:]})
	if err != nil {
		return nil, err
	}
	var text []byte
	for {
		c, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return text, nil
		}
		if err != nil {
			return nil, err
		}
		if text, err = codec.Decode(text, codec.Scheme(c.Scheme), c.Data, int(c.Size)); err != nil {
			return nil, err
		}
	}
}

// TestHospitals runs the example's whole plan: four hospitals, real records, attested channels. The figures are those that
// the shipped records' README gives for a correct implementation.
func TestHospitals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		w.joinAll()
		v := w.completed(w.start(plan(t)))
		if n := len(v.Rounds); n != 51 {
			t.Fatalf("%d rounds, want round 0 and 50 more", n)
		}
		var loss, right, rows, tested float64
		for _, m := range v.Rounds[50].Metrics {
			for _, x := range m.Metrics {
				switch n := float64(x.Count); x.Set + " " + x.Name {
				case "train loss":
					loss, rows = loss+n*x.Value, rows+n
				case "test accuracy":
					right, tested = right+math.Round(n*x.Value), tested+n
				}
			}
		}
		if loss /= rows; math.Abs(loss-0.418835) > 1e-4 {
			t.Errorf("train loss is %f, want 0.418835 within 1e-4", loss)
		}
		if math.Abs(right-201) > 1 || tested != 254 {
			t.Errorf("%v of %v test patients are right, want 201 of 254 within one", right, tested)
		}
		checkScale(t, w, final(v))
		commits := map[int]int{}
		for _, c := range only[entry.RoundClosed](w.facts()) {
			commits[c.Round]++
			if len(c.Members) != 4 {
				t.Errorf("round %d was closed with %d members, want 4", c.Round, len(c.Members))
			}
		}
		for round := range 51 {
			if commits[round] != 1 {
				t.Errorf("round %d has %d commits, want one", round, commits[round])
			}
		}
	})
}

// TestFedAdam follows a run's models by the formulas of FedAdam, in this test's own words, over the updates that the members
// must have sent: each round builds on the state that the one before it left.
func TestFedAdam(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		w.joinAll()
		p := plan(t, adam)
		v := w.completed(w.start(p))
		const rate, beta1, beta2, tau = 0.1, 0.9, 0.99, 1e-3
		x := w.model(entry.Digest(v.Rounds[0].Model))
		first, second := make([]float64, len(x.Params)), make([]float64, len(x.Params))
		for i := range second {
			second[i] = tau * tau
		}
		for round := 1; round <= 3; round++ {
			mean, rows := make([]float64, len(x.Params)), 0.0
			for _, name := range hospitals {
				train := trainingSet(t, p.Schema, name)
				u, err := trainer.Train(t.Context(), p, x, train, round, name, nil)
				if err != nil {
					t.Fatal(err)
				}
				for i := range u {
					mean[i] += float64(u[i]) * float64(train.Rows())
				}
				rows += float64(train.Rows())
			}
			got := w.model(entry.Digest(v.Rounds[round].Model))
			for i := range mean {
				mean[i] /= rows
				first[i] = beta1*first[i] + (1-beta1)*mean[i]
				second[i] = beta2*second[i] + (1-beta2)*mean[i]*mean[i]
				want := float64(x.Params[i]) + rate*first[i]/(math.Sqrt(second[i])+tau)
				if math.Abs(float64(got.Params[i])-want) > 1e-6*math.Max(1, math.Abs(want)) {
					t.Errorf("round %d, value %d is off by %g", round, i, float64(got.Params[i])-want)
				}
			}
			x = got
		}
	})
}

// checkScale compares the constants of standardising, which the federation found without showing records, with those of the
// pooled records.
func checkScale(t *testing.T, w *world, id entry.Digest) {
	t.Helper()
	m := w.model(id)
	var pooled [][]float64
	for _, name := range hospitals {
		train := trainingSet(t, plan(t).Schema, name)
		for i := range train.Rows() {
			pooled = append(pooled, train.Row(i))
		}
	}
	mean, _ := m.Layout.Slice(m.Params, "standardize.mean")
	scale, _ := m.Layout.Slice(m.Params, "standardize.scale")
	if len(mean) != 13 || len(scale) != 13 {
		t.Fatalf("%d means and %d scales, want 13 each", len(mean), len(scale))
	}
	for j := range mean {
		var sum, squares float64
		for _, row := range pooled {
			sum += row[j]
		}
		mu := sum / float64(len(pooled))
		for _, row := range pooled {
			squares += (row[j] - mu) * (row[j] - mu)
		}
		sd := math.Sqrt(squares/float64(len(pooled)-1)) + 1e-9
		if off := math.Abs(float64(mean[j])-mu) / math.Max(1, math.Abs(mu)); off > 1e-6 {
			t.Errorf("mean of column %d is off by %g of it", j, off)
		}
		if off := math.Abs(float64(scale[j])-sd) / sd; off > 1e-6 {
			t.Errorf("deviation of column %d is off by %g of it", j, off)
		}
	}
}

// trainingSet returns a hospital's records for training.
func trainingSet(t *testing.T, text []byte, name string) *dataset.Set {
	t.Helper()
	schema, err := dataset.ParseSchema(text)
	if err != nil {
		t.Fatal(err)
	}
	open := func(file string) *bytes.Reader {
		text, err := os.ReadFile(filepath.Join("..", "..", "examples", "hospitals", "data", file))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.NewReader(text)
	}
	all, err := dataset.Read(open(name+".data"), name+".data", schema)
	if err != nil {
		t.Fatal(err)
	}
	split, err := dataset.ReadSplit(open(name+".split.csv"), name+".split.csv")
	if err != nil {
		t.Fatal(err)
	}
	train, _, err := all.Split(split)
	if err != nil {
		t.Fatal(err)
	}
	return train
}

// asJSON returns the plan as it travels.
func asJSON(t testing.TB, p entry.Plan) []byte {
	t.Helper()
	text, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
