package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"text/tabwriter"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/privacy"
	"consilium.dev/internal/round"
	"consilium.dev/internal/trainer"
)

const (
	draws = 20 // of the noise of a whole run, from the seeds 1, 2, ... so that the table is the same each time
	worse = 10 // most patients that noise may take from the mean of the draws
)

// epsilons are what runs of the plan may cost; noise for each is what the federation's accountant asks for.
var epsilons = []float64{8, 3}

// patients trains with privacy whose unit is a record, by one hospital's name as one member, and prints what that costs. It returns an error where it
// costs more than it should.
func patients(ctx context.Context, out io.Writer, examples string) error {
	plain, err := read(examples, "plan.yaml", 1)
	if err != nil {
		return err
	}
	f, err := read(examples, "records.yaml", 1)
	if err != nil {
		return err
	}
	p := f.plan
	fmt.Fprintf(out, "four hospitals with privacy of a patient: %d rounds, clip norm %g, epsilon for one record at delta %g; right of %d test patients, over %d draws of noise:\n\n",
		p.Rounds, p.Privacy.ClipNorm, p.Privacy.Delta, f.patients(), draws)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "plan\tnoise multiplier\tepsilon, renyi\ttight\tmean\tleast\tmost\t")
	row := func(plan, noise, renyi, tight string, right []int) {
		sum := 0
		for _, n := range right {
			sum += n
		}
		mean := float64(sum) / float64(len(right))
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f (%.3f)\t%d\t%d\t\n", plan, noise, renyi, tight, mean, mean/float64(f.patients()), slices.Min(right), slices.Max(right))
	}
	n, err := plain.train(ctx, entry.Strategy{Name: "fedavg"}, attacks[0])
	if err != nil {
		return err
	}
	row("plan.yaml", "none", "none", "none", []int{n})
	bare, err := f.step(ctx, p, nil)
	if err != nil {
		return err
	}
	row("records.yaml, clipped alone", "none", "none", "none", []int{bare})
	var faults []string
	for _, epsilon := range epsilons {
		right, spent, err := f.spend(ctx, &p, epsilon)
		if err != nil {
			return err
		}
		tight, err := privacy.Epsilon([]privacy.Mechanism{round.Cost(p, p.Rounds)}, p.Privacy.Delta)
		if err != nil {
			return err
		}
		row("records.yaml", fmt.Sprintf("%.4f", p.Privacy.NoiseMultiplier), fmt.Sprintf("%.4f", spent), fmt.Sprintf("%.4f", tight), right)
		sum := 0
		for _, n := range right {
			sum += n
		}
		if sum < draws*(bare-worse) || spent > epsilon {
			faults = append(faults, fmt.Sprintf("epsilon %g: right about %d in %d draws, at a cost of %v", epsilon, sum, draws, spent))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if faults != nil {
		return fmt.Errorf("not as it should be, without noise the model is right about %d: %v", bare, faults)
	}
	return nil
}

// spend trains the plan with as much noise as makes all its rounds cost epsilon, once for each draw. It returns how many patients each model is right about, and what the
// federation's accountant says it cost.
func (f *federation) spend(ctx context.Context, p *entry.Plan, epsilon float64) (right []int, spent float64, err error) {
	asked := *p.Privacy
	if asked.NoiseMultiplier, err = privacy.CalibrateRenyi(1, p.Rounds, epsilon, asked.Delta, privacy.DefaultOrders()); err != nil {
		return nil, 0, err
	}
	asked.NoiseMultiplier = math.Ceil(asked.NoiseMultiplier*1e4) / 1e4 // as it is printed, and as a plan with that epsilon may say it
	p.Privacy = &asked
	for seed := range draws {
		n, err := f.step(ctx, *p, rand.NewChaCha8([32]byte{byte(seed + 1)}))
		if err != nil {
			return nil, 0, err
		}
		right = append(right, n)
	}
	spent, err = privacy.DiscreteEpsilon([]privacy.Mechanism{round.Cost(*p, p.Rounds)}, asked.Delta)
	return right, spent, err
}

// step takes the plan's rounds, each one noised sum of all records, and returns how many test patients the model is right about. A nil chance is no noise.
func (f *federation) step(ctx context.Context, p entry.Plan, chance io.Reader) (right int, err error) {
	if err := trainer.CheckPlan(p); err != nil {
		return 0, err
	}
	s, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params)
	if err != nil {
		return 0, err
	}
	recipe, _ := round.Recipe(p)
	spec := aggregate.Spec{Ranges: f.shape.Training}
	for range f.wards {
		spec.Weights = append(spec.Weights, 1)
	}
	spec = spec.Coarsened(recipe.Step(recipe.Clip))
	noise := func() (int64, error) { return 0, nil }
	if chance != nil {
		g, err := recipe.Sampler(recipe.Clip, spec.Ranges[0].Step, spec.Len(), chance)
		if err != nil {
			return 0, err
		}
		noise = g.Draw
	}
	m := &model.Model{Layout: f.first.Layout, Params: slices.Clone(f.first.Params)}
	state := make([]float64, s.Optimizer(1).StateLen(len(m.Params)))
	mean := make([]float64, spec.Len())
	for n := 1; n <= p.Rounds; n++ {
		sum, err := aggregate.NewSum(spec)
		if err != nil {
			return 0, err
		}
		for _, w := range f.wards {
			values, err := trainer.TrainRecords(ctx, p, m, w.train, nil, nil)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", w.name, err)
			}
			if err := spec.Check(values); err != nil {
				return 0, fmt.Errorf("%s: %w", w.name, err)
			}
			sum.AddWeight(1)
			sum.Add(0, values, 1)
		}
		if err := sum.Noisy(0, mean, round.Over(p, len(f.wards)), noise); err != nil {
			return 0, err
		}
		s.Optimizer(n).Step(m.Params, m.Params, mean, state)
	}
	return f.right(p, m)
}
