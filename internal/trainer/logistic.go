package trainer

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
)

// Carried is what a member carries from one round of a run to the next; its zero value is what it has before its first. It becomes what
// [TrainCarrying] has returned once the update that came with it is part of a closed round, and not before.
type Carried struct {
	Control []float64 // its own control variate, where the strategy has one; nil: 0
	Unsent  []float32 // what the encoding top-k has left out of its updates so far; nil: nothing
}

// Train takes the plan's local steps of gradient descent, as its strategy wants them, from base over a member's training rows, and returns
// its update: the trained parameters less base, over the whole layout, 0 for the tensors of standardising. With a batch, rows are taken in an
// order drawn from the plan's seed, the round and the member, a new one for each pass. Where the plan names an encoding, the
// update is what that makes of it. It fails where the update would be
// refused by the plan's own limits, and, with the context's cause, soon after ctx is done. After each step it calls step, unless
// that is nil, with the number of steps that are done. What a member carries between rounds is that of its first.
func Train(ctx context.Context, p entry.Plan, base *model.Model, train *dataset.Set, round int, member string, step func(done int)) ([]float32, error) {
	u, _, err := TrainCarrying(ctx, p, base, Carried{}, train, round, member, step)
	return u, err
}

// TrainCarrying is [Train] for a member that carries c, which stays as it is, and returns what it carries on with the update. Where the strategy
// has control variates the update begins with how c's changes, to the bit. Under the encoding top-k the update is of what training made and
// what c has unsent; a value of which there is more than max_abs is sent as max_abs, and the rest is carried on.
func TrainCarrying(ctx context.Context, p entry.Plan, base *model.Model, c Carried, train *dataset.Set, round int, member string, step func(done int)) (update []float32, next Carried, err error) {
	if p.PerRecord() {
		return nil, Carried{}, fmt.Errorf("plan %q asks for privacy of single records, which have a sum and no training: see TrainRecords", p.Name)
	}
	d, err := Describe(p)
	if err != nil {
		return nil, Carried{}, err
	}
	u, err := descend(ctx, p, base, c.Control, train, round, member, step)
	if err != nil {
		return nil, Carried{}, err
	}
	codec.Lossy(p.Encoding).Coarsen(u, p.MaxAbs, rand.New(rand.NewChaCha8(seed("encoding", p.Seed, round, member))))
	if d.Control > 0 {
		next.Control, err = nextControl(d, c.Control, u)
	}
	if d.Sent > 0 {
		next.Unsent, err = leave(u, c.Unsent, d.Sent, p.MaxAbs)
	}
	if err != nil {
		return nil, Carried{}, err
	}
	return u, next, nil
}

// leave makes of an update what is sent of it, and returns what is not.
func leave(update, unsent []float32, most int, limit float64) ([]float32, error) {
	next := make([]float32, len(update))
	if unsent != nil && len(unsent) != len(update) {
		return nil, fmt.Errorf("%d values are unsent of updates of %d", len(unsent), len(update))
	}
	copy(next, unsent)
	codec.Largest(update, next, most, limit)
	for _, v := range next {
		if math.IsInf(float64(v), 0) || v != v {
			return nil, errors.New("what is unsent has grown beyond all bounds: a larger top_k or max_abs in the plan helps")
		}
	}
	return next, nil
}

// descend is training without its encoding. own is the own control variate.
func descend(ctx context.Context, p entry.Plan, base *model.Model, own []float64, train *dataset.Set, round int, member string, step func(done int)) ([]float32, error) {
	q, x, err := begin(p, base, train)
	if err != nil {
		return nil, err
	}
	strategy, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params)
	if err != nil {
		return nil, err
	}
	steps := Steps(p, int64(train.Rows()))
	fit := newDescent(p.Local, strategy.Local(), q, train.Rows())
	if own == nil {
		own = make([]float64, len(q.control))
	}
	if err := fit.correct(q.control, own, x, train.Labels); err != nil {
		return nil, err
	}
	rows := newBatches(p, train.Rows(), round, member)
	for n := range steps {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("training round %d: %w", round, context.Cause(ctx))
		}
		fit.step(rows.next(x, train.Labels))
		if step != nil {
			step(n + 1)
		}
	}
	norm := 1.0
	if strategy.Local().Normalized {
		norm = strategy.Local().Norm(steps, p.Local.LearningRate)
	}
	return fit.update(p, base, norm, own, steps)
}

// descent is gradient descent on the parameters of a logistic model, as the plan's strategy wants it. Its slices are made once for all steps.
type descent struct {
	local  entry.Local
	way    *aggregate.Descent
	rule   aggregate.Local
	params []float64 // bias and weights, as they follow each other in the layout
	base   []float64 // what params began with
	grad   []float64 // of the loss, likewise
	slope  []float64 // grad at base over all rows, where the rule wants it
	miss   []float64 // predicted chance less label, one a row
}

func newDescent(local entry.Local, rule aggregate.Local, q params, rows int) *descent {
	d := &descent{local: local, rule: rule, params: append([]float64{q.bias}, q.weight...), miss: make([]float64, rows)}
	d.base, d.grad = slices.Clone(d.params), make([]float64, len(d.params))
	d.way = rule.Descent(local.LearningRate, d.base)
	return d
}

func vector(v []float64) blas64.Vector { return blas64.Vector{N: len(v), Data: v, Inc: 1} }

// step takes one step along the negative gradient of the mean loss over the rows of x, whose labels are y.
func (d *descent) step(x, y []float64) {
	d.differentiate(x, y)
	d.way.Step(d.params, d.grad)
}

// correct has the steps corrected by control variates, where the rule has them. x and y are all rows.
func (d *descent) correct(c, own, x, y []float64) error {
	if !d.rule.Controlled {
		return nil
	}
	if len(own) != len(d.params) || len(c) != len(d.params) {
		return fmt.Errorf("control variates of %d and %d values, want %d", len(c), len(own), len(d.params))
	}
	if d.rule.AtBase {
		d.differentiate(x, y)
		d.slope = slices.Clone(d.grad)
	}
	d.way.Correct(c, own)
	return nil
}

// differentiate sets grad to the gradient of the mean loss over the rows of x, whose labels are y.
func (d *descent) differentiate(x, y []float64) {
	n, weight, grad := len(y), vector(d.params[1:]), vector(d.grad[1:])
	rows := blas64.General{Rows: n, Cols: weight.N, Stride: weight.N, Data: x}
	miss := vector(d.miss[:n])
	blas64.Gemv(blas.NoTrans, 1, rows, weight, 0, miss)
	sum := 0.0
	for i, z := range miss.Data {
		miss.Data[i] = chance(z+d.params[0]) - y[i]
		sum += miss.Data[i]
	}
	blas64.Gemv(blas.Trans, 1/float64(n), rows, miss, 0, grad)
	if d.local.L2 != 0 {
		blas64.Axpy(d.local.L2, weight, grad)
	}
	d.grad[0] = sum / float64(n)
}

// update returns what so many steps have made: how the own control variate changes, where there is one, and the trained parameters less base,
// divided by norm.
func (d *descent) update(p entry.Plan, base *model.Model, norm float64, own []float64, steps int) ([]float32, error) {
	u := make([]float32, len(base.Params))
	bias, _ := base.Layout.Slice(u, tensorBias)
	weight, _ := base.Layout.Slice(u, tensorWeight)
	bias[0] = float32((d.params[0] - d.base[0]) / norm)
	for i := range weight {
		weight[i] = float32((d.params[1+i] - d.base[1+i]) / norm)
	}
	shape, err := Describe(p)
	if err != nil {
		return nil, err
	}
	if d.rule.Controlled {
		for i, v := range d.way.Control(d.params, d.slope, steps) {
			u[i] = float32(v - own[i])
		}
	}
	if err := (aggregate.Spec{Ranges: shape.Training}).Check(u); err != nil {
		return nil, fmt.Errorf("training diverged, or max_abs is too small for the plan's steps and learning rate: %w", err)
	}
	return u, nil
}

// nextControl returns what becomes of a member's own control variate, nil for 0, with an update of its: exactly what the update says of it.
func nextControl(d Description, own []float64, update []float32) ([]float64, error) {
	if own == nil {
		own = make([]float64, d.Control)
	}
	if len(own) != d.Control {
		return nil, fmt.Errorf("control variate of %d values, want %d", len(own), d.Control)
	}
	next := slices.Clone(own)
	for i := range next {
		next[i] += float64(update[i])
	}
	return next, nil
}

// chance returns 1/(1+exp(-z)) without overflow.
func chance(z float64) float64 {
	if z >= 0 {
		return 1 / (1 + math.Exp(-z))
	}
	e := math.Exp(z)
	return e / (1 + e)
}

// batches deals out the rows of a set, step by step.
type batches struct {
	size  int // 0: all rows each time
	order []int
	at    int
	rand  *rand.Rand
	x, y  []float64 // of the step
}

func newBatches(p entry.Plan, rows, round int, member string) *batches {
	b := &batches{}
	if p.Local.Batch == 0 || p.Local.Batch >= rows {
		return b
	}
	b.size = p.Local.Batch
	b.rand = rand.New(rand.NewChaCha8(seed("batches", p.Seed, round, member)))
	b.order = make([]int, rows)
	for i := range b.order {
		b.order[i] = i
	}
	b.at = rows // the first step draws the first order
	return b
}

// seed returns the chance of one member in one round for a purpose: SHA-256 of a label, the plan's seed, the round and the
// member's name.
func seed(purpose string, plan uint64, round int, member string) [32]byte {
	b := append([]byte("consilium trainer "+purpose+" v1\x00"), make([]byte, 16)...)
	binary.BigEndian.PutUint64(b[len(b)-16:], plan)
	binary.BigEndian.PutUint64(b[len(b)-8:], uint64(round))
	return sha256.Sum256(append(b, member...))
}

// next returns the rows and labels of the next step, valid until the one after. The last step of a pass may be shorter.
func (b *batches) next(x, y []float64) ([]float64, []float64) {
	if b.size == 0 {
		return x, y
	}
	if b.at == len(b.order) {
		b.rand.Shuffle(len(b.order), func(i, j int) { b.order[i], b.order[j] = b.order[j], b.order[i] })
		b.at = 0
	}
	cols := len(x) / len(y)
	b.x, b.y = b.x[:0], b.y[:0]
	for _, i := range b.order[b.at:min(b.at+b.size, len(b.order))] {
		b.x = append(b.x, x[i*cols:(i+1)*cols]...)
		b.y = append(b.y, y[i])
	}
	b.at += len(b.y)
	return b.x, b.y
}
