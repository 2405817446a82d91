// Robust compares the strategies that a plan may ask for where one of a federation's members is hostile. It trains the model of
// examples/hospitals/plan.yaml within one process, with the arithmetic of participants and coordinator and without enclaves, channels or a log:
// each of the four hospitals takes part as two wards, with every second of its training records each, since Krum and Bulyan need seven members
// to withstand one. One ward of Cleveland's trains as it should and then sends something else.
//
//	bin/robust [--examples examples/hospitals] [--rounds 50]
//
// It prints how many of the test patients of all four hospitals the last model is right about, for each strategy and attack. Krum, which takes one
// update whole, follows one hospital's patients, who here are unlike the others'; the other robust strategies lose little.
//
// A second table has what privacy of a patient costs in accuracy, with the plan examples/hospitals/records.yaml and nobody hostile.
//
// It exits with 1 if a robust strategy is not right about 100 patients more under each attack than the mean is under the worst, or if noise takes more
// than 10 patients from the model without; with 2 for a wrong flag.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/trainer"
)

func main() {
	examples := flag.String("examples", filepath.Join("examples", "hospitals"), "folder with the hospitals' files")
	rounds := flag.Int("rounds", 0, "rounds of each run of the first table (default: those of the plan)")
	flag.Parse()
	if flag.NArg() > 0 || *rounds < 0 {
		fmt.Fprintln(os.Stderr, "robust: it takes flags only, see --help")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := play(ctx, os.Stdout, *examples, *rounds)
	if err == nil {
		fmt.Println()
		err = patients(ctx, os.Stdout, *examples)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "robust: %v\n", err)
		os.Exit(1)
	}
}

// strategies are what is compared, the mean first. Those with a bound have one that lets updates of good members through: in this plan the first
// is about 0.5 long and the last 0.01.
var strategies = []entry.Strategy{
	{Name: "fedavg"},
	{Name: "norm-clipping", Params: map[string]any{"max_norm": 0.05}},
	{Name: "median"},
	{Name: "trimmed-mean"},
	{Name: "krum"},
	{Name: "multi-krum"},
	{Name: "bulyan"},
	{Name: "geometric-median"},
	{Name: "centered-clipping", Params: map[string]any{"radius": 0.05, "iterations": 3.0}},
	{Name: "fltrust", Params: map[string]any{"reference": "budapest 1"}},
}

// attack is what the hostile ward makes of the update that it should send: it multiplies it, and stays within max_abs.
type attack struct {
	name   string
	factor float64
}

var attacks = []attack{{"none", 1}, {"flipped", -1}, {"scaled 100", 100}, {"flipped, scaled 10", -10}, {"flipped, scaled 1000", -1000}}

const (
	hostile = "cleveland 1"
	better  = 100 // least patients by which a robust strategy beats the mean under an attack that ruins it
)

// play trains all models and prints the table. It returns an error where the strategies do not do what they are for.
func play(ctx context.Context, out io.Writer, examples string, rounds int) error {
	f, err := read(examples, "plan.yaml", 2)
	if err != nil {
		return err
	}
	if rounds > 0 {
		f.plan.Rounds = rounds
	}
	fmt.Fprintf(out, "%d wards of four hospitals, of which %s is hostile; %d rounds; right of %d test patients:\n\n", len(f.wards), hostile, f.plan.Rounds, f.patients())
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "strategy \\ attack\t")
	for _, a := range attacks {
		fmt.Fprintf(w, "%s\t", a.name)
	}
	fmt.Fprintln(w)
	var mean []int // without a robust strategy
	var faults []string
	for _, s := range strategies {
		fmt.Fprintf(w, "%s\t", s.Name)
		var right []int
		for _, a := range attacks {
			n, err := f.train(ctx, s, a)
			if err != nil {
				return fmt.Errorf("%s, attack %s: %w", s.Name, a.name, err)
			}
			right = append(right, n)
			fmt.Fprintf(w, "%d (%.3f)\t", n, float64(n)/float64(f.patients()))
			if mean != nil && n < slices.Min(mean)+better {
				faults = append(faults, fmt.Sprintf("%s is right about %d under the attack %s", s.Name, n, a.name))
			}
		}
		fmt.Fprintln(w)
		if mean == nil {
			mean = right
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if faults != nil {
		return fmt.Errorf("not as it should be, the mean is right about %d under the worst attack: %v", slices.Min(mean), faults)
	}
	return nil
}

// ward is a member of the federation, with the records that it trains on.
type ward struct {
	name  string
	train *dataset.Set
}

// federation is the example's, in wards.
type federation struct {
	plan  entry.Plan
	shape trainer.Description
	wards []ward // ascending by name
	tests []*dataset.Set
	first *model.Model
}

// read reads a plan and the records, each hospital's for training divided into so many wards.
func read(examples, plan string, wards int) (*federation, error) {
	text, err := os.ReadFile(filepath.Join(examples, plan))
	if err != nil {
		return nil, err
	}
	f := &federation{}
	if f.plan, err = trainer.ParsePlan(text); err != nil {
		return nil, err
	}
	if f.shape, err = trainer.Describe(f.plan); err != nil {
		return nil, err
	}
	schema, err := dataset.ParseSchema(f.plan.Schema)
	if err != nil {
		return nil, err
	}
	for _, hospital := range []string{"budapest", "cleveland", "longbeach", "switzerland"} {
		train, test, err := records(schema, filepath.Join(examples, "data", hospital))
		if err != nil {
			return nil, err
		}
		for i := range wards {
			f.wards = append(f.wards, ward{fmt.Sprintf("%s %d", hospital, i+1), part(train, i, wards)})
		}
		f.tests = append(f.tests, test)
	}
	f.plan.Members, f.plan.Quorum = nil, len(f.wards)
	return f, f.begin()
}

// records reads a hospital's records.
func records(schema dataset.Schema, path string) (train, test *dataset.Set, err error) {
	r, err := os.Open(path + ".data")
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	all, err := dataset.Read(r, path+".data", schema)
	if err != nil {
		return nil, nil, err
	}
	s, err := os.Open(path + ".split.csv")
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	split, err := dataset.ReadSplit(s, path+".split.csv")
	if err != nil {
		return nil, nil, err
	}
	return all.Split(split)
}

// part returns every so manieth record, from one of the first on.
func part(s *dataset.Set, from, every int) *dataset.Set {
	h := &dataset.Set{Names: s.Names}
	for i := from; i < s.Rows(); i += every {
		h.Features = append(h.Features, s.Row(i)...)
		h.Labels = append(h.Labels, s.Labels[i])
		h.Lines = append(h.Lines, s.Lines[i])
	}
	return h
}

// patients returns how many records there are for testing.
func (f *federation) patients() int {
	n := 0
	for _, t := range f.tests {
		n += t.Rows()
	}
	return n
}

// begin makes the first model, of the wards' statistics where the plan asks for them. Nobody lies there.
func (f *federation) begin() (err error) {
	if !f.plan.Measured() {
		f.first, err = trainer.Initial(f.plan, nil, 0)
		return err
	}
	all := make([]aggregate.Update, len(f.wards))
	var rows int64
	for i, w := range f.wards {
		values, err := trainer.Statistics(f.plan, w.train)
		if err != nil {
			return err
		}
		all[i] = aggregate.Update{Member: w.name, Weight: int64(w.train.Rows()), Values: values}
		rows += all[i].Weight
	}
	mean, err := meanOf(f.shape.Statistics, all, nil)
	if err != nil {
		return err
	}
	f.first, err = trainer.Initial(f.plan, mean, rows)
	return err
}

// train returns how many test patients the model is right about that a strategy makes under an attack.
func (f *federation) train(ctx context.Context, strategy entry.Strategy, a attack) (right int, err error) {
	plan := f.plan
	plan.Strategy = strategy
	if err := trainer.CheckPlan(plan); err != nil {
		return 0, err
	}
	s, err := aggregate.NewStrategy(strategy.Name, strategy.Params)
	if err != nil {
		return 0, err
	}
	m := &model.Model{Layout: f.first.Layout, Params: slices.Clone(f.first.Params)}
	state := make([]float64, s.Optimizer(1).StateLen(len(m.Params)))
	for round := 1; round <= plan.Rounds; round++ {
		all := make([]aggregate.Update, len(f.wards))
		for i, w := range f.wards {
			values, err := trainer.Train(ctx, plan, m, w.train, round, w.name, nil)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", w.name, err)
			}
			if w.name == hostile {
				a.alter(values, plan.MaxAbs)
			}
			all[i] = aggregate.Update{Member: w.name, Weight: int64(w.train.Rows()), Values: values}
		}
		mean, err := f.combine(s, all, state)
		if err != nil {
			return 0, err
		}
		s.Optimizer(round).Step(m.Params, m.Params, mean, state)
	}
	return f.right(plan, m)
}

// right returns how many test patients a model is right about.
func (f *federation) right(plan entry.Plan, m *model.Model) (right int, err error) {
	for _, t := range f.tests {
		figures, err := trainer.Evaluate(plan, m, t, t)
		if err != nil {
			return 0, err
		}
		for _, x := range figures {
			if x.Set == "test" && x.Name == "accuracy" {
				right += int(math.Round(x.Value * float64(x.Count)))
			}
		}
	}
	return right, nil
}

func (a attack) alter(values []float32, most float64) {
	for i, v := range values {
		values[i] = float32(max(-most, min(most, a.factor*float64(v))))
	}
}

// combine does what a coordinator does with the updates of a round, and returns what takes the mean's place.
func (f *federation) combine(s aggregate.Strategy, all []aggregate.Update, state []float64) ([]float64, error) {
	if !s.Gathers() {
		return meanOf(f.shape.Training, all, func(values []float32) []aggregate.Scaled {
			if !s.Clips() {
				return []aggregate.Scaled{{Len: len(values), Scale: 1}}
			}
			return s.Clip(nil, values) // no tensor by itself here
		})
	}
	g, err := s.Gather(all, state)
	if err != nil {
		return nil, err
	}
	for g.Pass() {
		for b := range g.Blocks() {
			g.Scan(b)
		}
	}
	mean := make([]float64, len(all[0].Values))
	g.Mean(0, mean)
	return mean, nil
}

// meanOf returns the exact weighted mean of updates, each multiplied in parts; nil is as they are.
func meanOf(ranges []aggregate.Range, all []aggregate.Update, scale func([]float32) []aggregate.Scaled) ([]float64, error) {
	spec := aggregate.Spec{Ranges: ranges}
	for _, u := range all {
		spec.Weights = append(spec.Weights, u.Weight)
	}
	sum, err := aggregate.NewSum(spec)
	if err != nil {
		return nil, err
	}
	for _, u := range all {
		if err := spec.Check(u.Values); err != nil {
			return nil, fmt.Errorf("%s: %w", u.Member, err)
		}
		sum.AddWeight(float64(u.Weight))
		parts := []aggregate.Scaled{{Len: len(u.Values), Scale: 1}}
		if scale != nil {
			parts = scale(u.Values)
		}
		lo := 0
		for _, p := range parts {
			sum.Add(lo, u.Values[lo:lo+p.Len], float64(u.Weight)*p.Scale)
			lo += p.Len
		}
	}
	mean := make([]float64, spec.Len())
	sum.Mean(0, mean)
	return mean, nil
}
