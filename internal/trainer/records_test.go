package trainer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	rules "consilium.dev/internal/round"
	"consilium.dev/internal/trainer"
)

// perRecord is a plan over so many number columns whose unit of privacy is a record.
func perRecord(columns int, standardize bool) entry.Plan {
	p := plan(columns, false)
	if standardize {
		p.Standardize = &entry.Standardize{Given: map[string]entry.Scale{"x_2": {Mean: 1, Scale: 2}}}
	}
	p.Local, p.Quorum, p.MaxAbs = entry.Local{Steps: 1, L2: 0.125}, 3, 64
	p.Privacy = &entry.Privacy{Unit: entry.Record, ClipNorm: 1, NoiseMultiplier: 2, Delta: 1e-5, ExpectedRecords: 64}
	return p
}

// without returns a set without one of its rows.
func without(set *dataset.Set, row int) *dataset.Set {
	n := set.Columns()
	return &dataset.Set{
		Names: set.Names, Features: slices.Delete(slices.Clone(set.Features), row*n, (row+1)*n),
		Labels: slices.Delete(slices.Clone(set.Labels), row, row+1), Lines: slices.Delete(slices.Clone(set.Lines), row, row+1),
	}
}

func sum(t testing.TB, p entry.Plan, m *model.Model, set *dataset.Set, chance io.Reader) []float32 {
	t.Helper()
	u, err := trainer.TrainRecords(t.Context(), p, m, set, chance, nil)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestTrainRecords: an update is the sum, row by row, of the loss's difference in each direction, downhill, shortened where it is longer than the
// clip norm; the rows here have both kinds. The tensors of standardising stay.
func TestTrainRecords(t *testing.T) {
	p, set := perRecord(3, true), drawn(50, 3, 11)
	m := start(t, p)
	params := make([]float64, 4)
	for i := range params {
		params[i] = float64(m.Params[i])
	}
	want, clipped := make([]float64, 4), 0
	for i := range set.Rows() {
		one := &dataset.Set{Names: set.Names, Features: set.Row(i), Labels: set.Labels[i : i+1], Lines: set.Lines[i : i+1]}
		down, square := make([]float64, 4), 0.0
		for j := range down {
			const h = 1e-5
			up, low := slices.Clone(params), slices.Clone(params)
			up[j] += h
			low[j] -= h
			down[j] = (loss(m, low, one, p.Local.L2) - loss(m, up, one, p.Local.L2)) / (2 * h)
			square += down[j] * down[j]
		}
		factor := 1.0
		if square > 1 {
			factor, clipped = 1/math.Sqrt(square), clipped+1
		}
		for j := range down {
			want[j] += factor * down[j]
		}
	}
	got := sum(t, p, m, set, nil)
	for j := range want {
		if math.Abs(float64(got[j])-want[j]) > 1e-4 {
			t.Errorf("value %d of the sum is %v, want %v", j, got[j], want[j])
		}
	}
	if !slices.Equal(got[4:], make([]float32, 6)) {
		t.Errorf("what is standardised by moves by %v", got[4:])
	}
	if clipped < 5 || clipped > 45 {
		t.Errorf("%d of 50 rows are clipped: this tests too little", clipped)
	}
}

// TestRecordsOfHospitals: with the plan of the example, whichever patient of whichever hospital is left out, a hospital's sum moves by no more than the noise is
// reckoned for, and for some by nearly as much.
func TestRecordsOfHospitals(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(examples, "records.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := trainer.ParsePlan(text)
	if err != nil {
		t.Fatal(err)
	}
	recipe, _ := rules.Recipe(p)
	m, err := trainer.Initial(p, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	step := recipe.Step(recipe.Clip)
	g, err := recipe.Sampler(recipe.Clip, step, len(m.Params), nil)
	if err != nil {
		t.Fatal(err)
	}
	reckoned, most := g.Sigma()*step/recipe.Noise, 0.0
	_, members := federation(t)
	for _, h := range members {
		whole := sum(t, p, m, h.train, nil)
		for i := range h.train.Rows() {
			square := 0.0
			for j, v := range sum(t, p, m, without(h.train, i), nil) {
				d := float64(whole[j]) - float64(v)
				square += d * d
			}
			most = max(most, math.Sqrt(square))
		}
	}
	if most > reckoned || most < 0.999*reckoned {
		t.Errorf("the patient who moves a sum most moves it by %v, and the noise is for %v", most, reckoned)
	}
}

// TestRecordsDrawn: with a sampling rate the sum is that of the rows that chance draws, each by a word of its own; without one no chance is asked for.
func TestRecordsDrawn(t *testing.T) {
	p, set := perRecord(2, false), drawn(40, 2, 5)
	m := start(t, p)
	none := sum(t, p, m, set, nil)
	p.Privacy.SamplingRate = 1
	if got := sum(t, p, m, set, nil); !slices.Equal(got, none) {
		t.Errorf("at a rate of 1: %v, want all rows, %v", got, none)
	}
	p.Privacy.SamplingRate = 0.25
	var words []byte
	picked := &dataset.Set{Names: set.Names}
	for i := range set.Rows() {
		word := uint64(1) << 62 // the least that is not drawn
		if i%3 == 0 {
			word--
			picked.Features, picked.Labels = append(picked.Features, set.Row(i)...), append(picked.Labels, set.Labels[i])
		}
		words = binary.LittleEndian.AppendUint64(words, word)
	}
	p.Privacy.SamplingRate = 0
	want := sum(t, p, m, picked, nil)
	p.Privacy.SamplingRate = 0.25
	if got := sum(t, p, m, set, bytes.NewReader(words)); !slices.Equal(got, want) {
		t.Errorf("of the rows that are drawn: %v, want %v", got, want)
	}
	if _, err := trainer.TrainRecords(t.Context(), p, m, set, bytes.NewReader(words[:100]), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("with 12 words for 40 rows: %v, want that they ended", err)
	}
	if got := sum(t, p, m, set, bytes.NewReader(bytes.Repeat([]byte{0xff}, 400))); !slices.Equal(got, make([]float32, 3)) {
		t.Errorf("with no row drawn: %v, want zeros", got)
	}
}

func TestTrainRecordsRefuses(t *testing.T) {
	p, set := perRecord(2, false), drawn(20, 2, 5)
	m := start(t, p)
	why := errors.New("the round is over")
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	for _, c := range []struct {
		name string
		ctx  context.Context
		plan entry.Plan
		base *model.Model
		set  *dataset.Set
		want string
	}{
		{"another unit", t.Context(), plan(2, false), m, set, "asks for no privacy of single records"},
		{"another model", t.Context(), p, start(t, perRecord(3, false)), set, "model has other tensors"},
		{"no records", t.Context(), p, m, &dataset.Set{Names: make([]string, 2)}, "no record to train on"},
		{"other columns", t.Context(), p, m, drawn(20, 4, 1), "records have 4 features, the model 2"},
		{"a context that is over", ended, p, m, set, "the round is over"},
	} {
		if u, err := trainer.TrainRecords(c.ctx, c.plan, c.base, c.set, nil, nil); err == nil || !strings.Contains(err.Error(), c.want) || u != nil {
			t.Errorf("%s: %v, %v, want an error with %q alone", c.name, u, err, c.want)
		}
	}
	if _, err := trainer.Train(t.Context(), p, m, set, 1, "north", nil); err == nil || !strings.Contains(err.Error(), "see TrainRecords") {
		t.Errorf("Train = %v, want a refusal", err)
	}
}

// TestParseRecords reads the block that docs/operating.md shows, and refuses by name what does not go with it.
func TestParseRecords(t *testing.T) {
	const block = `privacy:
  unit: record
  clip_norm: 0.5
  noise_multiplier: 3
  delta: 1.0e-5
  expected_records: 500
  sampling_rate: 0.1
`
	text := strings.NewReplacer("quorum: 2\n", "quorum: 3\n", "local: {learning_rate: 0.5}", "local: {l2: 0.01}").Replace(least) + block
	p, err := trainer.ParsePlan([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := &entry.Privacy{Unit: "record", ClipNorm: 0.5, NoiseMultiplier: 3, Delta: 1e-5, ExpectedRecords: 500, SamplingRate: 0.1}
	if diff := cmp.Diff(p.Privacy, want); diff != "" || p.MaxAbs != 250 || p.Local.Steps != 1 {
		t.Errorf("privacy (-got +want):\n%s; max_abs %v, want 250; %d steps", diff, p.MaxAbs, p.Local.Steps)
	}
	for _, c := range []struct{ old, new, want string }{
		{"quorum: 3", "quorum: 2", "quorum 2 of a run with privacy"},
		{"name: least", "name: least\nstrategy: {name: median}", "strategy median in a run with privacy of unit record"},
		{"name: least", "name: least\nstrategy: {name: fedprox}", "strategy fedprox in a run with privacy of unit record"},
		{"name: least", "name: least\nencoding: bf16", "encoding in a run"},
		{"name: least", "name: least\nmax_abs: 0.25", "max_abs 0.25 with clip norm 0.5"},
		{"name: least", "name: least\nmax_abs: 1000000", "want 1 to 2^20 clip norms"},
		{"name: least", "name: least\nstandardize: {max_abs: 16}", "standardize.given"},
		{"l2: 0.01", "steps: 2", "local.steps in a run"},
		{"l2: 0.01", "epochs: 1", "local.steps in a run"},
		{"l2: 0.01", "batch: 8", "local.batch in a run"},
		{"l2: 0.01", "learning_rate: 0.1", "local.learning_rate in a run"},
		{"unit: record", "unit: participant", "local.learning_rate is 0"},
		{"expected_records: 500", "expected_records: 0", "expected_records is 0"},
		{"sampling_rate: 0.1", "sampling_rate: 1.5", "sampling_rate is 1.5"},
		{"sampling_rate: 0.1", "adaptive: {quantile: 0.5, learning_rate: 0.2, count_stddev: 3}", "adapts"},
	} {
		if _, err := trainer.ParsePlan([]byte(strings.Replace(text, c.old, c.new, 1))); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.new, err, c.want)
		}
	}
	_, err = trainer.ParsePlan([]byte(strings.Replace(text, "expected_records: 500", "", 1)))
	if want := "plan: privacy.expected_records is 0, want 1 to 536870912: about how many records all members have, from what everybody knows"; err == nil || err.Error() != want {
		t.Errorf("without expected_records: %v, want %s", err, want)
	}
}

// TestGiven: a model of a plan that gives what to standardise by begins with just that, a feature that is not named stays as it is, and there is no round of statistics.
func TestGiven(t *testing.T) {
	p := plan(2, false)
	p.Standardize = &entry.Standardize{Given: map[string]entry.Scale{"x_2": {Mean: -3, Scale: 0.5}}}
	d, err := trainer.Describe(p)
	if err != nil || d.Statistics != nil || p.Measured() {
		t.Fatalf("Describe = %+v, %v, want no round of statistics", d, err)
	}
	m, err := trainer.Initial(p, nil, 0)
	if err != nil || !slices.Equal(m.Params, []float32{0, 0, 0, 0, -3, 1, 0.5}) {
		t.Errorf("Initial = %v, %v, want what the plan gives", m.Params, err)
	}
	if _, err := trainer.Statistics(p, drawn(5, 2, 1)); err == nil || !strings.Contains(err.Error(), "asks for no statistics") {
		t.Errorf("Statistics = %v, want a refusal", err)
	}
	for _, c := range []struct{ given, want string }{
		{"{max_abs: 16, given: {x: {mean: 0, scale: 1}}}", "want one of them"},
		{"{given: {}}", "standardize.max_abs is 0"},
		{"{given: {y: {mean: 0, scale: 1}}}", "no feature of the schema"},
		{"{given: {x: {mean: 1}}}", "the scale of x is 0"},
		{"{given: {x: {mean: .inf, scale: 1}}}", "the mean of x is +Inf"},
		{"{given: {x: {mean: 1, scale: 1, unit: mg}}}", "unknown key"},
	} {
		if _, err := trainer.ParsePlan([]byte(least + "standardize: " + c.given + "\n")); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.given, err, c.want)
		}
	}
}
