package trainer_test

import (
	"maps"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/trainer"
)

const examples = "../../examples/hospitals"

// hospitals are the files of the example with the names that the table of expected figures gives them.
var hospitals = []struct {
	file, table string
	train, test int
}{
	{"cleveland", "cleveland", 199, 104},
	{"budapest", "hungarian", 172, 89},
	{"switzerland", "switzerland", 30, 16},
	{"longbeach", "va", 85, 45},
}

// member is one hospital's records.
type member struct {
	name        string
	train, test *dataset.Set
}

// TestHospitals trains on the records of the example as the programs do, all within one process, and compares with figures
// that were computed independently for the same plan: 201 of 254 test patients right within one, train loss 0.418835.
func TestHospitals(t *testing.T) {
	p, members := federation(t)
	mean := round(t, p, members, true, func(m member) ([]float32, error) { return trainer.Statistics(p, m.train) })
	base, err := trainer.Initial(p, mean, 486)
	if err != nil {
		t.Fatal(err)
	}
	checkPooled(t, mean, base)
	for n := range p.Rounds {
		base = trainRound(t, p, members, base, n+1, nil)
	}
	right, count, loss := figures(t, p, members, base)
	if count != 254 || right < 200 || right > 202 {
		t.Errorf("%d of %d test patients right, want 201 of 254 within one", right, count)
	}
	if math.Abs(loss-0.418835) > 1e-4 {
		t.Errorf("train loss = %.6f, want 0.418835 within 1e-4", loss)
	}
	t.Logf("%d of %d right, train loss %.6f, model %x", right, count, loss, base.Digest())
}

// federation reads the example's plan and the four hospitals' records.
func federation(t testing.TB) (entry.Plan, []member) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, "plan.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := trainer.ParsePlan(text)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := dataset.ParseSchema(p.Schema)
	if err != nil {
		t.Fatal(err)
	}
	var members []member
	for _, h := range hospitals {
		train, test := records(t, schema, filepath.Join(examples, "data", h.file+".data"), filepath.Join(examples, "data", h.file+".split.csv"))
		if train.Rows() != h.train || test.Rows() != h.test {
			t.Errorf("%s: %d rows for training and %d for testing, want %d and %d", h.file, train.Rows(), test.Rows(), h.train, h.test)
		}
		members = append(members, member{h.file, train, test})
	}
	return p, members
}

func records(t testing.TB, s dataset.Schema, file, splitFile string) (train, test *dataset.Set) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	set, err := dataset.Read(f, file, s)
	if err != nil {
		t.Fatal(err)
	}
	g, err := os.Open(splitFile)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	split, err := dataset.ReadSplit(g, splitFile)
	if err != nil {
		t.Fatal(err)
	}
	if train, test, err = set.Split(split); err != nil {
		t.Fatal(err)
	}
	return train, test
}

// round sums the vectors that work makes for each member, and returns their mean.
func round(t testing.TB, p entry.Plan, members []member, statistics bool, work func(member) ([]float32, error)) []float64 {
	t.Helper()
	d, err := trainer.Describe(p)
	if err != nil {
		t.Fatal(err)
	}
	spec := aggregate.Spec{Ranges: d.Training}
	if statistics {
		spec.Ranges = d.Statistics
	}
	for _, m := range members {
		spec.Weights = append(spec.Weights, int64(m.train.Rows()))
	}
	sum, err := aggregate.NewSum(spec)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range members {
		u, err := work(m)
		if err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		if err := spec.Check(u); err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		sum.AddWeight(float64(spec.Weights[i]))
		sum.Add(0, u, float64(spec.Weights[i]))
	}
	mean := make([]float64, spec.Len())
	sum.Mean(0, mean)
	return mean
}

// trainRound returns the model that a round makes of base. carried is what the members carry between rounds; nil where that is nothing.
func trainRound(t testing.TB, p entry.Plan, members []member, base *model.Model, n int, carried map[string]trainer.Carried) *model.Model {
	t.Helper()
	next := map[string]trainer.Carried{}
	var weights []int64
	mean := round(t, p, members, false, func(m member) ([]float32, error) {
		weights = append(weights, int64(m.train.Rows()))
		u, after, err := trainer.TrainCarrying(t.Context(), p, base, carried[m.name], m.train, n, m.name, nil)
		next[m.name] = after
		return u, err
	})
	if carried != nil {
		maps.Copy(carried, next)
	}
	scale, err := trainer.Scale(p, weights, len(members))
	if err != nil {
		t.Fatal(err)
	}
	scale(0, mean)
	strategy, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params)
	if err != nil {
		t.Fatal(err)
	}
	rule := strategy.Optimizer(n)
	made := &model.Model{Layout: base.Layout, Params: make([]float32, len(base.Params))}
	rule.Step(made.Params, base.Params, mean, make([]float64, rule.StateLen(len(mean))))
	return made
}

// TestDrift: many local steps on records unlike each other's lead FedAvg to another model than that of all records together. FedProx comes
// nearer to that one, and SCAFFOLD gets there. Where members with more records take more steps FedAvg hears them louder than their records
// are; FedNova does not.
func TestDrift(t *testing.T) {
	p, members := federation(t)
	mean := round(t, p, members, true, func(m member) ([]float32, error) { return trainer.Statistics(p, m.train) })
	train := func(local entry.Local, rounds int, rule string, params map[string]any) float64 {
		p.Strategy, p.Local = entry.Strategy{Name: rule, Params: params}, local
		p.Local.L2 = 0.01 // so that there is one best model
		m, err := trainer.Initial(p, mean, 486)
		if err != nil {
			t.Fatal(err)
		}
		carried := map[string]trainer.Carried{}
		for n := range rounds {
			m = trainRound(t, p, members, m, n+1, carried)
		}
		_, _, loss := figures(t, p, members, m)
		weight, _ := m.Layout.Slice(m.Params, "linear.weight")
		for _, x := range weight {
			loss += p.Local.L2 / 2 * float64(x) * float64(x)
		}
		return loss
	}
	best := train(entry.Local{Steps: 1, LearningRate: 0.5}, 300, "fedavg", nil) // a step of each is a step over all records together
	many := entry.Local{Steps: 50, LearningRate: 0.1}
	fedavg, fedprox, scaffold := train(many, 60, "fedavg", nil), train(many, 60, "fedprox", map[string]any{"mu": 1.0}), train(many, 60, "scaffold", nil)
	if !(fedavg > best+0.005 && fedprox < best+0.003 && math.Abs(scaffold-best) < 1e-5) {
		t.Errorf("loss at best %.7f, of fedavg %.7f, fedprox %.7f and scaffold %.7f", best, fedavg, fedprox, scaffold)
	}
	uneven := entry.Local{Epochs: 1, Batch: 16, LearningRate: 0.04}
	louder, fednova := train(uneven, 150, "fedavg", nil), train(uneven, 150, "fednova", nil)
	if !(louder > best+0.005 && fednova < best+0.001) {
		t.Errorf("loss at best %.7f, and where more records are more steps of fedavg %.7f and fednova %.7f", best, louder, fednova)
	}
	t.Logf("loss at best %.6f; of 50 steps fedavg %.6f, fedprox %.6f, scaffold %.6f; of one pass fedavg %.6f, fednova %.6f", best, fedavg, fedprox, scaffold, louder, fednova)
}

// figures returns the pooled figures of a model over all members.
func figures(t testing.TB, p entry.Plan, members []member, m *model.Model) (right, count int64, loss float64) {
	t.Helper()
	var rows int64
	for _, h := range members {
		ms, err := trainer.Evaluate(p, m, h.train, h.test)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range ms {
			switch f.Set + " " + f.Name {
			case "train loss":
				loss += f.Value * float64(f.Count)
				rows += f.Count
			case "test accuracy":
				right += int64(math.Round(f.Value * float64(f.Count)))
				count += f.Count
			}
		}
	}
	return right, count, loss / float64(rows)
}

// pooled are mean and standard deviation (n-1) of the 486 training rows, computed from exact fractions of the pooled records.
var pooled = []struct {
	name     string
	mean, sd float64
}{
	{"age", 52.9526748971193, 9.62577205607599},
	{"sex", 0.757201646090535, 0.429216006078028},
	{"trestbps", 133.150205761317, 19.1910650913132},
	{"chol", 219.837448559671, 93.6643729475743},
	{"fbs", 0.150205761316872, 0.357641124690424},
	{"thalach", 139.281893004115, 26.0920014073293},
	{"exang", 0.386831275720165, 0.487526304158675},
	{"oldpeak", 0.936213991769547, 1.07212346740981},
	{"cp_2", 0.199588477366255, 0.400102867431301},
	{"cp_3", 0.216049382716049, 0.411972411284314},
	{"cp_4", 0.524691358024691, 0.499904534605335},
	{"restecg_1", 0.148148148148148, 0.355612824712012},
	{"restecg_2", 0.240740740740741, 0.427973728197761},
}

// checkPooled compares the federation's means and deviations with the pooled ones: within 1e-6 as they come out of the round,
// and to float32's precision in the model.
func checkPooled(t *testing.T, mean []float64, m *model.Model) {
	t.Helper()
	means, _ := m.Layout.Slice(m.Params, "standardize.mean")
	scales, _ := m.Layout.Slice(m.Params, "standardize.scale")
	n := len(pooled)
	if len(means) != n || len(scales) != n {
		t.Fatalf("model standardises %d and %d columns, want %d", len(means), len(scales), n)
	}
	for j, want := range pooled {
		mu := mean[j] + mean[n+j]
		sd := math.Sqrt((mean[2*n+j] + mean[3*n+j] - mu*mu) * 486 / 485)
		if math.Abs(mu-want.mean) > 1e-6 || math.Abs(sd-want.sd) > 1e-6 {
			t.Errorf("%s: mean and deviation = %v, %v, want %v, %v", want.name, mu, sd, want.mean, want.sd)
		}
		if means[j] != float32(want.mean) || math.Abs(float64(scales[j])/(want.sd+1e-9)-1) > 1e-7 {
			t.Errorf("%s: tensors hold %v, %v, want %v, %v", want.name, means[j], scales[j], want.mean, want.sd+1e-9)
		}
	}
}

// TestPooledFeatures compares every cleaned record with the table of features that was made independently, and the constants
// above with that table's own.
func TestPooledFeatures(t *testing.T) {
	dir := os.Getenv("CONSILIUM_DATA")
	if dir == "" {
		t.Skip("CONSILIUM_DATA is not set: the folder with heart-disease/features.csv")
	}
	text, err := os.ReadFile(filepath.Join(dir, "heart-disease", "features.csv"))
	if err != nil {
		t.Fatal(err)
	}
	p, members := federation(t)
	schema, err := dataset.ParseSchema(p.Schema)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if got, want := strings.Join(schema.Features(), ","), strings.SplitN(strings.TrimSpace(lines[0]), ",", 4)[3]; got != want {
		t.Fatalf("features are %s, want %s", got, want)
	}
	next := map[string]int{}
	for _, line := range lines[1:] {
		f := strings.Split(strings.TrimSpace(line), ",")
		for i, h := range hospitals {
			if h.table != f[0] {
				continue
			}
			set := map[string]*dataset.Set{"train": members[i].train, "test": members[i].test}[f[1]]
			at := next[f[0]+f[1]]
			next[f[0]+f[1]]++
			checkRecord(t, set, at, f[2:])
		}
	}
}

// checkRecord compares record i of a set with a label and features as text.
func checkRecord(t *testing.T, set *dataset.Set, i int, want []string) {
	t.Helper()
	for j, w := range want {
		v, err := strconv.ParseFloat(w, 64)
		if err != nil {
			t.Fatal(err)
		}
		got := set.Labels[i]
		if j > 0 {
			got = set.Row(i)[j-1]
		}
		if got != v {
			t.Errorf("record %d, column %d = %v, want %v", i, j, got, v)
		}
	}
}
