package trainer

import (
	"errors"
	"math"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"

	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
)

// Evaluate returns a model's figures on a member's own rows: the mean log loss over the training rows and over the test rows,
// and the share of test rows whose label the model gives more than even odds. The loss holds no penalty. A set that is nil or
// empty has no figures. These numbers are all that leaves a participant beside its updates; they are finite, or an error.
func Evaluate(p entry.Plan, m *model.Model, train, test *dataset.Set) ([]entry.Metric, error) {
	q, err := open(p, m)
	if err != nil {
		return nil, err
	}
	var figures []entry.Metric
	if train != nil && train.Rows() > 0 {
		loss, _, err := q.score(train)
		if err != nil {
			return nil, err
		}
		figures = append(figures, entry.Metric{Set: "train", Name: "loss", Value: loss, Count: int64(train.Rows()), Better: "min"})
	}
	if test != nil && test.Rows() > 0 {
		loss, right, err := q.score(test)
		if err != nil {
			return nil, err
		}
		n := int64(test.Rows())
		figures = append(figures,
			entry.Metric{Set: "test", Name: "loss", Value: loss, Count: n, Better: "min"},
			entry.Metric{Set: "test", Name: "accuracy", Value: float64(right) / float64(n), Count: n, Better: "max"})
	}
	return figures, nil
}

// score returns the mean log loss over the rows of a set and how many labels are right.
func (q params) score(set *dataset.Set) (loss float64, right int, err error) {
	x, err := q.inputs(set)
	if err != nil {
		return 0, 0, err
	}
	rows := blas64.General{Rows: set.Rows(), Cols: len(q.weight), Stride: len(q.weight), Data: x}
	z := vector(make([]float64, set.Rows()))
	blas64.Gemv(blas.NoTrans, 1, rows, vector(q.weight), 0, z)
	for i, label := range set.Labels {
		v := z.Data[i] + q.bias
		loss += max(v, 0) - v*label + math.Log1p(math.Exp(-math.Abs(v))) // -log of the chance given to the label, for any v
		if (v > 0) == (label == 1) {
			right++
		}
	}
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return 0, 0, errors.New("the model's loss on these records is no finite number: one of both holds values far too large")
	}
	return loss / float64(set.Rows()), right, nil
}
