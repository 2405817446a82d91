// Package trainer does what a participant does with its own records between a base model and an update, and says what both
// sides of a run need to know of a plan: the model's layout, and the limits of its updates.
//
// Built in is "builtin/logistic", logistic regression by gradient descent: p(label = 1) = 1/(1+exp(-(w·z + b))), the mean of
// the log loss over a step's rows, and half l2 times the squared norm of w. Where the plan standardises, z = (x-mean)/scale
// with the federation's own means and deviations, which round 0 finds (see [Statistics]), or with numbers that the plan gives; both are
// tensors of the model; else z = x. The model's tensors, by ascending name as package model orders them, for D features:
//
//	control.bias      [1]     only where the strategy has control variates (SCAFFOLD): everybody's
//	control.weight    [1, D]  likewise
//	linear.bias       [1]
//	linear.weight     [1, D]
//	standardize.mean  [D]     only where the plan standardises; never changed by training
//	standardize.scale [D]     likewise
//
// A run goes through these functions in this order; the two in the middle of a round run on every participant:
//
//	p, err := trainer.ParsePlan(yaml)               // the lead
//	d, err := trainer.Describe(p)                   // both sides
//	u, err := trainer.Statistics(p, train)          // round 0: each participant
//	m, err := trainer.Initial(p, mean, rows)        // the coordinator, of the mean of those
//	u, err := trainer.Train(ctx, p, m, train, round, member, step)
//	figures, err := trainer.Evaluate(p, m, train, test)
//
// What the coordinator computes, [Initial], has the same bits on every processor. Training promises no bits: its sums of
// products are the library's.
package trainer

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
)

// Logistic is the name of the built-in trainer.
const Logistic = "builtin/logistic"

// The tensors of a model.
const (
	tensorControlBias   = "control.bias"
	tensorControlWeight = "control.weight"
	tensorBias          = "linear.bias"
	tensorWeight        = "linear.weight"
	tensorMean          = "standardize.mean"
	tensorScale         = "standardize.scale"
)

// Description is what follows from a plan for models and updates.
type Description struct {
	Layout     model.Layout
	Statistics []aggregate.Range // of round 0's vectors; nil where the plan has no such round
	Training   []aggregate.Range // of the updates of training rounds, one value for each of the layout
	Control    int               // how many values at the beginning of models and updates are control variates; 0: the strategy has none
	Sent       int               // most values of a training round's update that are not 0; 0: the plan does not say
}

// Carries reports whether a member carries something from one round to the next.
func (d Description) Carries() bool { return d.Control > 0 || d.Sent > 0 }

// Describe returns what follows from a plan, or why the plan is refused, as [CheckPlan] does.
func Describe(p entry.Plan) (Description, error) {
	s, err := check(p)
	if err != nil {
		return Description{}, err
	}
	n := len(s.Features())
	d := Description{
		Layout:   model.Layout{{Name: tensorBias, Shape: []int{1}}, {Name: tensorWeight, Shape: []int{1, n}}},
		Training: []aggregate.Range{{Len: n + 1, MaxAbs: p.MaxAbs}},
	}
	strategy, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params)
	if err != nil {
		return Description{}, err
	}
	if strategy.Local().Controlled {
		d.Control = n + 1
		d.Layout = slices.Concat(model.Layout{{Name: tensorControlBias, Shape: []int{1}}, {Name: tensorControlWeight, Shape: []int{1, n}}}, d.Layout)
		d.Training = append(d.Training, d.Training[0])
	}
	if codec.Lossy(p.Encoding) == codec.TopK {
		d.Sent = min(int(math.Ceil(p.TopK*float64(n+1))), n+1) // what stays as it is needs no place
	}
	if p.Standardize != nil {
		d.Layout = append(d.Layout, model.Tensor{Name: tensorMean, Shape: []int{n}}, model.Tensor{Name: tensorScale, Shape: []int{n}})
		d.Training = append(d.Training, aggregate.Range{Len: 2 * n})
		if p.Measured() {
			d.Statistics = statisticsRanges(n, p.Standardize.MaxAbs)
		}
	}
	return d, nil
}

// params is a model as the arithmetic wants it.
type params struct {
	weight      []float64
	bias        float64
	control     []float64 // everybody's control variate, of bias and weights; nil where the strategy has none
	mean, scale []float64 // nil where the plan does not standardise
}

// begin opens a model to train it on rows, of which there has to be one, and returns the rows' inputs as they go into it.
func begin(p entry.Plan, base *model.Model, train *dataset.Set) (q params, x []float64, err error) {
	if q, err = open(p, base); err != nil {
		return q, nil, err
	}
	if x, err = q.inputs(train); err != nil {
		return q, nil, err
	}
	if train.Rows() == 0 {
		return q, nil, errors.New("no record to train on")
	}
	return q, x, nil
}

// open checks that m is a model of the plan and that its tensors can be computed with.
func open(p entry.Plan, m *model.Model) (params, error) {
	d, err := Describe(p)
	if err != nil {
		return params{}, err
	}
	if err := m.Validate(); err != nil {
		return params{}, err
	}
	if !d.Layout.Equal(m.Layout) {
		return params{}, fmt.Errorf("model has other tensors than the plan %q asks for", p.Name)
	}
	bias, weight := widen(m, tensorBias), widen(m, tensorWeight)
	q := params{weight: weight, bias: bias[0]}
	if d.Control > 0 {
		q.control = append(widen(m, tensorControlBias), widen(m, tensorControlWeight)...)
	}
	if p.Standardize == nil {
		return q, nil
	}
	q.mean, q.scale = widen(m, tensorMean), widen(m, tensorScale)
	for i, s := range q.scale {
		if !(s > 0 && !math.IsInf(s, 0)) {
			return params{}, fmt.Errorf("value %d of tensor %s is no scale: want above 0", i, tensorScale)
		}
	}
	return q, nil
}

// widen returns the values of a tensor of a checked model as float64s.
func widen(m *model.Model, name string) []float64 {
	t, ok := m.Layout.Slice(m.Params, name)
	if !ok {
		panic("trainer: checked model without tensor " + name)
	}
	v := make([]float64, len(t))
	for i, x := range t {
		v[i] = float64(x)
	}
	return v
}

// inputs returns the rows of a set as the model sees them: standardised into a matrix of its own, or the set's own numbers.
func (q params) inputs(set *dataset.Set) ([]float64, error) {
	if set.Columns() != len(q.weight) || len(set.Features) != set.Rows()*set.Columns() {
		return nil, fmt.Errorf("records have %d features, the model %d", set.Columns(), len(q.weight))
	}
	if q.mean == nil {
		return set.Features, nil
	}
	x := make([]float64, len(set.Features))
	for i := range set.Rows() {
		row := x[i*len(q.mean):][:len(q.mean)]
		for j, v := range set.Row(i) {
			row[j] = (v - q.mean[j]) / q.scale[j]
		}
	}
	return x, nil
}
