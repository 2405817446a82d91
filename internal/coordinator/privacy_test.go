package coordinator_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/audit"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/privacy"
	"consilium.dev/internal/round"
	"consilium.dev/internal/store/storetest"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// withBudget edits a federation's manifest.
var withBudget = withBudgetOf(entry.Participant)

func withBudgetOf(unit string) []string {
	return []string{"rounds_max: 200", "rounds_max: 200\n  privacy: {unit: " + unit + ", epsilon: 8, delta: 1.0e-5}"}
}

func private(p *entry.Plan) {
	p.Standardize, p.Resolution, p.Rounds, p.Quorum = nil, 0, 3, 4
	p.Privacy = &entry.Privacy{
		Unit: entry.Participant, ClipNorm: 0.5, NoiseMultiplier: 1.5, Delta: 1e-5,
		Adaptive: &entry.AdaptiveClip{Quantile: 0.5, LearningRate: 0.2, CountStddev: 1.5},
	}
}

// TestPrivacy follows a run with noise: each model is the base, the mean of the clipped updates and noise of the right size; its cost is in
// the one commit; no member says how many records it has, nor any figure; and what is left of the budget is too little for another run, also
// for a coordinator that has started anew.
func TestPrivacy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, withBudget...)
		council := w.serve()
		w.joinAll()
		p := plan(t, private)
		v := w.completed(w.start(p))
		for _, m := range v.Members {
			if m.Records != 1 {
				t.Errorf("%s shows %d records, want that it counts as one", m.Member, m.Records)
			}
		}
		facts := w.facts()
		if n := len(only[entry.Evaluated](facts)); n != 0 {
			t.Errorf("%d facts with figures of the members' records, which have no noise", n)
		}
		opened, closed := only[entry.RoundOpened](facts), only[entry.RoundClosed](facts)
		if len(opened) != 3 || len(closed) != 3 {
			t.Fatalf("%d rounds were opened and %d closed, want 3", len(opened), len(closed))
		}
		var spent []privacy.Mechanism
		excess, values := 0.0, 0.0
		for i, c := range closed {
			spent = append(spent, privacy.Mechanism{Rate: 1, Noise: p.Privacy.NoiseMultiplier, Rounds: 1})
			want, _, err := privacy.RenyiEpsilon(spent, 1e-5, nil)
			if err != nil || c.Spent != (entry.Spent{Epsilon: want, Delta: 1e-5, Unit: entry.Participant}) {
				t.Errorf("round %d: the commit says that %+v was spent, want %v, %v", c.Round, c.Spent, want, err)
			}
			if i > 0 && opened[i].Clip != closed[i-1].Clip || i == 0 && opened[i].Clip != 0.5 ||
				math.Abs(math.Log(c.Clip/opened[i].Clip)) > 0.1+1e-12 {
				t.Errorf("round %d clips to %v, and the one before said %v; the next is to clip to %v", c.Round, opened[i].Clip, closed[max(i-1, 0)].Clip, c.Clip)
			}
			base, next := w.model(opened[i].Model), w.model(c.Model)
			mean := make([]float64, len(base.Params))
			for _, name := range hospitals {
				u, err := trainer.Train(t.Context(), p, base, trainingSet(t, p.Schema, name), c.Round, name, nil)
				if err != nil {
					t.Fatal(err)
				}
				factor := privacy.Clip(aggregate.Norm(u), opened[i].Clip)
				for j := range u {
					mean[j] += factor * float64(u[j]) / 4
				}
			}
			onSum, err := privacy.SplitNoise(1.5, 1.5)
			if err != nil {
				t.Fatal(err)
			}
			sigma := onSum * opened[i].Clip / 4
			for j := range mean {
				off := float64(next.Params[j]-base.Params[j]) - mean[j]
				excess, values = excess+off*off/sigma/sigma, values+1
			}
		}
		// Chi-square with as many degrees of freedom as values; six standard deviations and more either way.
		if spread := 7 * math.Sqrt(2*values); excess < values/4 || excess > values+2*spread {
			t.Errorf("%v values have noise of %v times the variance that was asked for", values, excess/values)
		}
		if v.Privacy.GetEpsilon() != closed[2].Spent.Epsilon || v.Privacy.GetUnit() != entry.Participant || v.Privacy.GetBudget() != 8 {
			t.Errorf("the run is shown with %+v, want epsilon %v of 8", v.Privacy, closed[2].Spent.Epsilon)
		}

		council.stop()
		w.serve()
		lead := w.person("ada")
		begin := func(p entry.Plan, request string) (*pb.StartReply, error) {
			text, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			return lead.Start(t.Context(), &pb.StartRequest{Request: request, Plan: text})
		}
		if _, err := begin(p, "again"); status.Code(err) != codes.FailedPrecondition && status.Code(err) != codes.InvalidArgument ||
			!strings.Contains(status.Convert(err).Message(), "the federation's budget is 8") {
			t.Errorf("a second run of the same cost: %v, want that it would pass the budget", err)
		}
		r := w.verify(w.export())
		if len(r.Findings) != 0 || r.Epsilon != closed[2].Spent.Epsilon {
			t.Errorf("an audit finds %v, and epsilon %v spent, want nothing and %v", r.Findings, r.Epsilon, closed[2].Spent.Epsilon)
		}
		p.Privacy = nil
		if _, err := begin(p, "without"); !strings.Contains(status.Convert(err).Message(), "a run without noise would pass any") {
			t.Errorf("a run without noise: %v, want a refusal", err)
		}
	})
}

// ofRecords returns the example's plan whose unit of privacy is a record, of fewer rounds.
func ofRecords(t testing.TB, change ...func(*entry.Plan)) entry.Plan {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", "hospitals", "records.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := trainer.ParsePlan(text)
	if err != nil {
		t.Fatal(err)
	}
	p.Rounds, p.Privacy.NoiseMultiplier = 3, 1.5
	for _, f := range change {
		f(&p)
	}
	return p
}

// TestPrivacyOfRecords follows a run whose unit of privacy is a record: each model is the base, one step along the sum of all records' clipped gradients over the
// number that the plan expects, and noise of the right size, with masks and without; no member says how many records it has; its cost is that of its unit, for the run's
// readers and for an audit; and a run of the other unit is refused.
func TestPrivacyOfRecords(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*entry.Plan){"plain": func(*entry.Plan) {}, "masked": masked} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			privacyOfRecords(t, ofRecords(t, change))
		})
	}
}

func privacyOfRecords(t *testing.T, p entry.Plan) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, withBudgetOf(entry.Record)...)
		w.serve()
		w.joinAll()
		v := w.completed(w.start(p))
		facts := w.facts()
		for _, c := range only[entry.Consented](facts) {
			if c.Records != 1 {
				t.Errorf("%s declares %d records, want that it counts as one", c.Member, c.Records)
			}
		}
		opened, closed := only[entry.RoundOpened](facts), only[entry.RoundClosed](facts)
		if len(opened) != 3 || len(closed) != 3 || len(only[entry.Evaluated](facts)) != 0 {
			t.Fatalf("%d rounds were opened and %d closed, and %d members had figures, want 3, 3 and none", len(opened), len(closed), len(only[entry.Evaluated](facts)))
		}
		excess, values := 0.0, 0.0
		for i, c := range closed {
			if c.Spent.Unit != entry.Record || c.Spent.Delta != 1e-5 {
				t.Errorf("round %d: the commit says that %+v was spent, want it of a record", c.Round, c.Spent)
			}
			base, next := w.model(opened[i].Model), w.model(c.Model)
			step := make([]float64, len(base.Params))
			for _, name := range hospitals {
				u, err := trainer.TrainRecords(t.Context(), p, base, trainingSet(t, p.Schema, name), nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				for j := range u {
					step[j] += 2 * float64(u[j]) / 500
				}
			}
			const sigma = 2 * 1.5 / 500.0
			noised := len(trainedOf(t, next))
			for j := range step {
				off := float64(next.Params[j]-base.Params[j]) - step[j]
				if j < noised {
					excess, values = excess+off*off/sigma/sigma, values+1
				} else if off != 0 {
					t.Errorf("value %d, by which columns are standardised, moved by %v", j, off)
				}
			}
		}
		if spread := 7 * math.Sqrt(2*values); excess < values/4 || excess > values+2*spread {
			t.Errorf("%v values have noise of %v times the variance that was asked for", values, excess/values)
		}
		if err := spentBy(p, history{facts: facts}); err != nil {
			t.Error(err)
		}
		if x := v.Privacy; x.GetEpsilon() != closed[2].Spent.Epsilon || x.GetUnit() != entry.Record {
			t.Errorf("the run is shown with %+v, want epsilon %v of a record", x, closed[2].Spent.Epsilon)
		}
		if r := w.verify(w.export()); len(r.Findings) != 0 || r.Epsilon != closed[2].Spent.Epsilon || r.Unit != entry.Record || r.Delta != 1e-5 {
			t.Errorf("an audit finds %v, and epsilon %v at %v for a %q spent, want nothing and %+v", r.Findings, r.Epsilon, r.Delta, r.Unit, closed[2].Spent)
		}
		for _, forged := range []func(*entry.Spent){
			func(x *entry.Spent) { x.Epsilon /= 2 },
			func(x *entry.Spent) { x.Unit = entry.Participant },
		} {
			if r := w.verify(w.respent(w.export(), forged)); !slices.ContainsFunc(r.Findings, func(f audit.Finding) bool { return strings.Contains(f.What, "the log says that epsilon") }) {
				t.Errorf("an audit of a log that says otherwise finds %v", r.Findings)
			}
		}
		text, err := json.Marshal(plan(t, private))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.person("ada").Start(t.Context(), &pb.StartRequest{Request: "other unit", Plan: text}); !strings.Contains(status.Convert(err).Message(),
			"privacy of unit participant; the manifest's budget is for unit record") {
			t.Errorf("a run of another unit: %v, want a refusal", err)
		}
	})
}

// TestPrivacyDeclaresOne: what the manifest lets a member declare bounds nobody under privacy, where each counts as one: to decline would tell how many
// records a member has.
func TestPrivacyDeclaresOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		edits := withBudgetOf(entry.Record)
		edits[1] = strings.Replace(edits[1], "rounds_max: 200", "rounds_max: 200\n  records_max: 20", 1)
		w := newWorld(t, edits...)
		w.serve()
		w.joinAll()
		w.completed(w.start(ofRecords(t, func(p *entry.Plan) { p.Rounds = 1 })))
		if n := len(only[entry.Declined](w.facts())); n != 0 {
			t.Errorf("%d members declined, want none", n)
		}
	})
}

// respent changes in a copy of a history what its last closing says was spent.
func (w *world) respent(folder string, change func(*entry.Spent)) string {
	w.t.Helper()
	return reworded(w, folder, func(f *entry.RoundClosed) { change(&f.Spent) })
}

// reworded changes the last fact of a kind in a copy of a history.
func reworded[F entry.Fact](w *world, folder string, change func(*F)) string {
	w.t.Helper()
	path := filepath.Join(folder, "log.jsonl")
	text, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	for n, line := range slices.Backward(lines) {
		l, err := entry.Decode([]byte(strings.TrimSuffix(line, "\n")))
		if f, ok := l.Fact.(F); err == nil && ok {
			change(&f)
			lines[n] = string(entry.Encode(l.Salt, l.At, f)) + "\n"
			break
		}
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return folder
}

// trainedOf returns the values of a model that training changes, with which it begins.
func trainedOf(t testing.TB, m *model.Model) []float32 {
	t.Helper()
	bias, _ := m.Layout.Slice(m.Params, "linear.bias")
	weight, ok := m.Layout.Slice(m.Params, "linear.weight")
	if !ok {
		t.Fatal("a model without weights")
	}
	return m.Params[:len(bias)+len(weight)]
}

// TestNoise: a mean is the same with the same chance, another with other chance, though its sum and everything else are the same, and none comes
// of a source that ends; a second try at the same sum finds it as it was.
func TestNoise(t *testing.T) {
	const n = 1<<15 + 7
	w := newWorkbench(t, storetest.New(), "fedavg", n)
	w.spec.Weights = []int64{1, 1, 1}
	base := w.put(fileOf(t, w.base))
	p := plan(t, private)
	recipe, _ := round.Recipe(p)
	w.spec = w.spec.Coarsened(recipe.Step(0.5))
	sum := w.sum(1)
	combine := func(chance io.Reader) (round.Combined, error) {
		a := round.Combine{Kind: entry.Training, Round: 1, Base: base, Plan: p, Selected: 4, Clip: 0.5}
		for i := range 3 {
			a.Members = append(a.Members, entry.Contribution{Member: entry.Member(fmt.Sprintf("m%d", i)), Weight: 1})
		}
		return coordinator.CombineBy(t.Context(), w.blobs, chance, a, w.spec, sum)
	}
	one, err := combine(rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	other, err := combine(rand.NewChaCha8([32]byte{2}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := combine(strings.NewReader("a little")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("with a source of 8 bytes: %v, want that it ended", err)
	}
	again, err := combine(rand.NewChaCha8([32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	if again.Model != one.Model || again.Clip != one.Clip || other.Model == one.Model {
		t.Errorf("models %s, other chance %s, the first again %s: want another one, and the first", one.Model.Short(), other.Model.Short(), again.Model.Short())
	}
}

// spentBy holds a history against what each closing of a plan's rounds has to cost.
func spentBy(p entry.Plan, h history) error {
	closed := only[entry.RoundClosed](h.facts)
	if len(closed) != p.Rounds {
		return fmt.Errorf("%d rounds were closed, want %d", len(closed), p.Rounds)
	}
	for i, c := range closed {
		want, err := privacy.DiscreteEpsilon([]privacy.Mechanism{{Rate: cmp.Or(p.Privacy.SamplingRate, 1), Noise: p.Privacy.NoiseMultiplier, Rounds: i + 1}}, 1e-5)
		if err != nil || c.Spent.Unit != p.Privacy.Unit || math.Abs(c.Spent.Epsilon-want) > 1e-9*want {
			return fmt.Errorf("round %d closed with %+v spent, want %v of a %s, %v", c.Round, c.Spent, want, p.Privacy.Unit, err)
		}
	}
	return nil
}
