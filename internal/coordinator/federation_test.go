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

// checkScale compares the constants of standardising, which the federation found without showing records, with those of the
// pooled records.
func checkScale(t *testing.T, w *world, id entry.Digest) {
	t.Helper()
	m := w.model(id)
	schema, err := dataset.ParseSchema(plan(t).Schema)
	if err != nil {
		t.Fatal(err)
	}
	var pooled [][]float64
	for _, name := range hospitals {
		pooled = append(pooled, trainingRows(t, schema, name)...)
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

// trainingRows returns a hospital's rows for training.
func trainingRows(t *testing.T, schema dataset.Schema, name string) [][]float64 {
	t.Helper()
	folder := filepath.Join("..", "..", "examples", "hospitals", "data")
	open := func(file string) *bytes.Reader {
		text, err := os.ReadFile(filepath.Join(folder, file))
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
	var rows [][]float64
	for i := range train.Rows() {
		rows = append(rows, train.Row(i))
	}
	return rows
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
