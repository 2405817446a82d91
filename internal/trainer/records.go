package trainer

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/round"
)

// TrainRecords returns a member's update of a round under a plan whose unit of privacy is a record: the sum, over its training rows, of each
// row's downhill gradient of the loss and penalty at base, clipped to the plan's clip norm and rounded to its grid ([privacy.Records]), and 0 for the tensors
// of standardising. One row more or less changes it by one such vector. There is no local step: the strategy takes the one that the round has.
//
// With a sampling rate each row is drawn by itself, by chance, which has to be a cryptographic source and whose draws nobody may learn:
// they are neither kept nor told, and rows that are not drawn are computed too. Without one chance is not read.
// It fails, with the context's cause, soon after ctx is done. At the end it calls step, unless that is nil, with 1.
func TrainRecords(ctx context.Context, p entry.Plan, base *model.Model, train *dataset.Set, chance io.Reader, step func(done int)) ([]float32, error) {
	recipe, _ := round.Recipe(p)
	if !recipe.PerRecord() {
		return nil, fmt.Errorf("plan %q asks for no privacy of single records", p.Name)
	}
	q, x, err := begin(p, base, train)
	if err != nil {
		return nil, err
	}
	n := 1 + len(q.weight)
	sum, down, drawn := recipe.Records(n), make([]float64, n), drawing(p, chance)
	for i, label := range train.Labels {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, fmt.Errorf("summing records: %w", context.Cause(ctx))
		}
		q.downhill(down, x[i*len(q.weight):][:len(q.weight)], label, p.Local.L2)
		in, err := drawn()
		if err != nil {
			return nil, err
		}
		for j := range down {
			down[j] *= in
		}
		sum.Add(down)
	}
	u, total := make([]float32, len(base.Params)), make([]float32, n)
	sum.Sum(total)
	bias, _ := base.Layout.Slice(u, tensorBias)
	weight, _ := base.Layout.Slice(u, tensorWeight)
	bias[0] = total[0]
	copy(weight, total[1:])
	if step != nil {
		step(1)
	}
	return u, nil
}

// downhill fills dst with the negative gradient of one row's loss and half l2 times the squared norm of the weights: of the bias, then of
// the weights. It hangs on the model and on this row alone.
func (q params) downhill(dst, x []float64, label, l2 float64) {
	z := q.bias
	for j, v := range x {
		z += v * q.weight[j]
	}
	miss := label - chance(z)
	dst[0] = miss
	for j, v := range x {
		dst[1+j] = miss*v - l2*q.weight[j]
	}
}

// drawing returns what says of row after row whether it is in a round, 1 or 0.
func drawing(p entry.Plan, chance io.Reader) func() (float64, error) {
	rate := round.Cost(p, 1).Rate
	if rate == 1 {
		return func() (float64, error) { return 1, nil }
	}
	words := bufio.NewReader(chance)
	below := uint64(math.Ldexp(rate, 64)) // of 2^64: rounded down, which costs less and not more
	return func() (float64, error) {
		var word [8]byte
		if _, err := io.ReadFull(words, word[:]); err != nil {
			return 0, fmt.Errorf("drawing records: %w", err)
		}
		if binary.LittleEndian.Uint64(word[:]) < below {
			return 1, nil
		}
		return 0, nil
	}
}

// perRecord are the strategies that may follow the noised sum of records.
var perRecord = []string{"fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"}

// checkRecords judges what goes with privacy of single records beside what [round.CheckPrivacy] says: what a participant does between base and
// update is not the plan's to say.
func checkRecords(p entry.Plan) error {
	for _, f := range []struct {
		name string
		said bool
	}{
		{"local.steps", p.Local.Steps != 1},
		{"local.epochs", p.Local.Epochs != 0},
		{"local.batch", p.Local.Batch != 0},
		{"local.learning_rate", p.Local.LearningRate != 0},
		{"encoding", p.Encoding != ""},
	} {
		if f.said {
			return fmt.Errorf("%s in a run with privacy of unit %s, whose rounds are one step of the strategy each, along the exact sum of all records", f.name, entry.Record)
		}
	}
	return nil
}
