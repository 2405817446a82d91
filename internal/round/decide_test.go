package round_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// refusals are all that Decide refuses with, and the word of each.
var refusals = map[error]string{
	round.ErrClosed: "closed", round.ErrUnknownRun: "unknown_run", round.ErrStranger: "stranger", round.ErrWeight: "weight",
	round.ErrSecond: "second", round.ErrOften: "often", round.ErrPlan: "plan", round.ErrRequest: "request",
	round.ErrOpenRuns: "open_runs", round.ErrStarts: "starts", round.ErrModel: "model", round.ErrFigures: "figures", round.ErrOtherLog: "other_log",
}

func TestReason(t *testing.T) {
	seen := map[string]error{}
	for err, want := range refusals {
		for _, e := range []error{err, fmt.Errorf("of a run: %w", err), errors.Join(errors.New("x"), err)} {
			if got := round.Reason(e); got != want {
				t.Errorf("Reason(%q) = %q, want %q", e, got, want)
			}
		}
		if other := seen[round.Reason(err)]; other != nil {
			t.Errorf("%q and %q have the same word, %q", err, other, round.Reason(err))
		}
		seen[round.Reason(err)] = err
	}
	for _, err := range []error{nil, errors.New("closed"), fmt.Errorf("of a run: %v", round.ErrClosed)} {
		if got := round.Reason(err); got != "" {
			t.Errorf("Reason(%v) = %q, want none", err, got)
		}
	}
}

func limits() round.Limits {
	return round.Limits{
		Members: []entry.Member{"a", "b", "c"}, Strategies: []string{"fedavg"}, Trainers: []string{"builtin/logistic"},
		LeastParticipants: 2, MaxAbs: 16, RoundsMax: 2, OpenRuns: 2,
	}
}

// another asks for another run than the one that created is of.
func another(change func(*round.Create)) round.Create {
	c := round.Create{Fact: created(), Limits: limits()}
	c.Fact.Run, c.Fact.Request = "another", "another"
	change(&c)
	return c
}

func metric(change func(*entry.Metric)) round.Evaluation {
	m := entry.Metric{Set: "test", Name: "loss", Value: 0.5, Count: 10, Better: "min"}
	change(&m)
	return round.Evaluation{Run: "run", Round: 1, Member: "b", Model: digest("first"), Metrics: []entry.Metric{m}}
}

func offer(m entry.Member, update string, weight int64) round.Offer {
	return round.Offer{Run: "run", Round: 1, Try: 1, Member: m, Update: digest(update), Weight: weight, Bytes: 8}
}

func query(m entry.Member, update string, weight int64) round.Query {
	return round.Query{Run: "run", Round: 1, Try: 1, Member: m, Update: digest(update), Weight: weight}
}

func reject(m entry.Member) round.Reject {
	return round.Reject{Run: "run", Round: 1, Try: 1, Member: m, Update: digest("bad"), Reason: "value"}
}

// refusal is an input that is refused after a log.
type refusal struct {
	name string
	log  []entry.Fact
	in   round.Input
	want error
}

func TestDecideRefuses(t *testing.T) {
	var all []refusal
	all = append(all, refusedPlans()...)
	all = append(all, refusedAnswers()...)
	all = append(all, refusedUpdates()...)
	all = append(all, refusedFigures()...)
	used := map[error]bool{}
	for _, c := range all {
		used[c.want] = true
		t.Run(c.name, func(t *testing.T) {
			s := folded(t, c.log)
			got, err := s.Decide(start, c.in)
			if !errors.Is(err, c.want) || got != nil {
				t.Fatalf("Decide(%+v) = %v, %v, want %q", c.in, got, err, c.want)
			}
			if got, want := round.Reason(err), refusals[c.want]; got != want {
				t.Errorf("Reason(%q) = %q, want %q", err, got, want)
			}
			for other := range refusals {
				if other != c.want && errors.Is(err, other) {
					t.Errorf("%q is also %q", err, other)
				}
			}
			mustEqual(t, "Decide", s, folded(t, c.log))
		})
	}
	for err := range refusals {
		if !used[err] {
			t.Errorf("no input is refused with %q", err)
		}
	}
}

func refusedPlans() []refusal {
	log := untilCreated()
	next := entry.ManifestAdopted{Federation: "f", Epoch: 4, Manifest: entry.Digest{4}, Previous: entry.Digest{3}}
	adopt := func(change func(*entry.ManifestAdopted)) round.Input {
		f := next
		change(&f)
		return round.Adopt{Fact: f}
	}
	return []refusal{
		{"another federation", log, adopt(func(f *entry.ManifestAdopted) { f.Federation = "g" }), round.ErrOtherLog},
		{"an epoch left out", log, adopt(func(f *entry.ManifestAdopted) { f.Epoch = 5 }), round.ErrOtherLog},
		{"a new log", log, adopt(func(f *entry.ManifestAdopted) { f.OldLog.Lines = 1 }), round.ErrOtherLog},
		{"another manifest before", log, adopt(func(f *entry.ManifestAdopted) { f.Previous = entry.Digest{2} }), round.ErrOtherLog},
		{"the same digest at another epoch", log, adopt(func(f *entry.ManifestAdopted) { f.Epoch, f.Manifest = 2, entry.Digest{3} }), round.ErrOtherLog},
		{"the same manifest of another federation", log, adopt(func(f *entry.ManifestAdopted) { *f = adopted; f.Federation = "g" }), round.ErrOtherLog},
		{"no epoch", nil, adopt(func(f *entry.ManifestAdopted) { f.Epoch = 0 }), round.ErrOtherLog},
		{"nothing", nil, round.Adopt{}, round.ErrOtherLog},
		{"handing over to another epoch", log, round.HandOver{Fact: entry.HandedOver{Epoch: 4, Size: 1}}, round.ErrOtherLog},
		{"handing over before anything was adopted", nil, round.HandOver{}, round.ErrOtherLog},
		{"request with another plan", log, another(func(c *round.Create) { c.Fact.Request, c.Fact.Plan.Rounds = "request", 1 }), round.ErrRequest},
		{"request with a plan that cannot be written", append([]entry.Fact{adopted}, with(created(), func(f *entry.RunCreated) {
			f.Plan.Schema = []byte("{")
		})), another(func(c *round.Create) { c.Fact.Request, c.Fact.Plan.Schema = "request", []byte("{") }), round.ErrRequest},
		{"id of another run", log, another(func(c *round.Create) { c.Fact.Run = "run" }), round.ErrRequest},
		{"too many open", log, another(func(c *round.Create) { c.Limits.OpenRuns = 1 }), round.ErrOpenRuns},
		{"too many started", log, another(func(c *round.Create) { c.Limits.Starts = 1 }), round.ErrStarts},
		{"no limits", log, another(func(c *round.Create) { c.Limits = round.Limits{} }), round.ErrPlan},
		{"strategy", log, another(func(c *round.Create) { c.Fact.Plan.Strategy.Name = "fedadam" }), round.ErrPlan},
		{"trainer", log, another(func(c *round.Create) { c.Fact.Plan.Trainer = "other" }), round.ErrPlan},
		{"rounds", log, another(func(c *round.Create) { c.Fact.Plan.Rounds = 3 }), round.ErrPlan},
		{"no rounds", log, another(func(c *round.Create) { c.Fact.Plan.Rounds = 0 }), round.ErrPlan},
		{"max_abs", log, another(func(c *round.Create) { c.Fact.Plan.MaxAbs = 17 }), round.ErrPlan},
		{"max_abs that is no number", log, another(func(c *round.Create) { c.Fact.Plan.MaxAbs = math.NaN() }), round.ErrPlan},
		{"max_abs of the statistics", log, another(func(c *round.Create) { c.Fact.Plan.Standardize = &entry.Standardize{MaxAbs: 17} }), round.ErrPlan},
		{"few participants", log, another(func(c *round.Create) { c.Fact.Plan.Quorum = 1 }), round.ErrPlan},
		{"no quorum", log, another(func(c *round.Create) { c.Fact.Plan.Quorum, c.Limits.LeastParticipants = 0, 0 }), round.ErrPlan},
		{"quorum of more than there are", log, another(func(c *round.Create) { c.Fact.Plan.Quorum = 4 }), round.ErrPlan},
		{"no tries", log, another(func(c *round.Create) { c.Fact.Plan.Tries = 0 }), round.ErrPlan},
		{"no time", log, another(func(c *round.Create) { c.Fact.Plan.Deadline = 0 }), round.ErrPlan},
		{"no model", log, another(func(c *round.Create) { c.Fact.Initial, c.Fact.Model = nil, entry.Digest{} }), round.ErrPlan},
		{"half a model", log, another(func(c *round.Create) { c.Fact.Model = entry.Digest{} }), round.ErrPlan},
		{"no member of ours", log, another(func(c *round.Create) { c.Limits.Members = c.Limits.Members[:2] }), round.ErrPlan},
		{"members out of order", log, another(func(c *round.Create) { c.Fact.Members = []entry.Member{"a", "c", "b"} }), round.ErrPlan},
		{"a member twice", log, another(func(c *round.Create) { c.Fact.Members = []entry.Member{"a", "a", "b"} }), round.ErrPlan},
	}
}

func refusedAnswers() []refusal {
	log := untilCreated()
	late := []entry.Fact{
		adopted, created(), consented("a", 1000), consented("b", 1000),
		with(opened(), func(f *entry.RoundOpened) {
			f.Selected = []entry.Share{{Member: "a", Weight: 1000}, {Member: "b", Weight: 1000}}
		}),
	}
	return []refusal{
		{"consent to no run", log, round.Consent{Run: "nowhere", Member: "a", Records: 1}, round.ErrUnknownRun},
		{"consent of a stranger", log, round.Consent{Run: "run", Member: "d", Records: 1}, round.ErrStranger},
		{"consent with nothing", log, round.Consent{Run: "run", Member: "a"}, round.ErrWeight},
		{"consent with less than nothing", log, round.Consent{Run: "run", Member: "a", Records: -1}, round.ErrWeight},
		{"consent with too much", log, round.Consent{Run: "run", Member: "a", Records: 1<<29 + 1}, round.ErrWeight},
		{"late consent beside which the others are small", late, round.Consent{Run: "run", Member: "c", Records: 1 << 29}, round.ErrWeight},
		{"consent after the end", untilEnded(), round.Consent{Run: "run", Member: "a", Records: 1}, round.ErrClosed},
		{"no run declined", log, round.Decline{Run: "nowhere", Member: "a"}, round.ErrUnknownRun},
		{"declined by a stranger", log, round.Decline{Run: "run", Member: "d"}, round.ErrStranger},
		{"declined after the end", untilEnded(), round.Decline{Run: "run", Member: "a"}, round.ErrClosed},
	}
}

func refusedUpdates() []refusal {
	log := untilSent()
	o := func(change func(*round.Offer)) round.Offer { x := offer("a", "a", 100); change(&x); return x }
	q := func(change func(*round.Query)) round.Query { x := query("a", "a", 100); change(&x); return x }
	r := func(change func(*round.Reject)) round.Reject { x := reject("a"); change(&x); return x }
	outcome := func(change func(*round.Combined)) round.Combined {
		x := round.Combined{Run: "run", Round: 1, Try: 1, Members: closed().Members, Model: digest("first"), Blob: first}
		change(&x)
		return x
	}
	return []refusal{
		{"offer for no run", log, o(func(o *round.Offer) { o.Run = "nowhere" }), round.ErrUnknownRun},
		{"offer before the opening", untilConsented(), offer("a", "a", 100), round.ErrClosed},
		{"offer for another round", log, o(func(o *round.Offer) { o.Round = 2 }), round.ErrClosed},
		{"offer for another try", log, o(func(o *round.Offer) { o.Try = 2 }), round.ErrClosed},
		{"offer after the closing", untilClosed(), offer("a", "a", 100), round.ErrClosed},
		{"offer after the end", untilEnded(), offer("a", "a", 100), round.ErrClosed},
		{"offer of a stranger", log, offer("d", "d", 100), round.ErrStranger},
		{"offer with another weight", untilOpened(), offer("a", "a", 101), round.ErrWeight},
		{"offer without a weight", untilOpened(), offer("a", "a", 0), round.ErrWeight},
		{"offer again with another weight", log, offer("a", "a", 101), round.ErrWeight},
		{"a second offer", log, offer("a", "other", 100), round.ErrSecond},
		{"offer after eight refusals", log, offer("c", "c", 300), round.ErrOften},
		{"query for no run", log, q(func(q *round.Query) { q.Run = "nowhere" }), round.ErrUnknownRun},
		{"query for another round", log, q(func(q *round.Query) { q.Round = 2 }), round.ErrClosed},
		{"query for another try", log, q(func(q *round.Query) { q.Try = 2 }), round.ErrClosed},
		{"query of a stranger", log, query("d", "d", 0), round.ErrStranger},
		{"query with another weight", log, query("a", "a", 99), round.ErrWeight},
		{"query for a second one", log, query("a", "other", 0), round.ErrSecond},
		{"query after eight refusals", log, query("c", "c", 0), round.ErrOften},
		{"content refused for no run", log, r(func(r *round.Reject) { r.Run = "nowhere" }), round.ErrUnknownRun},
		{"content refused for another try", log, r(func(r *round.Reject) { r.Try = 2 }), round.ErrClosed},
		{"content refused of a stranger", log, reject("d"), round.ErrStranger},
		{"combined for no run", log, outcome(func(c *round.Combined) { c.Run = "nowhere" }), round.ErrUnknownRun},
		{"combined for another try", log, outcome(func(c *round.Combined) { c.Try = 2 }), round.ErrClosed},
		{"combined twice", untilClosed(), outcome(func(*round.Combined) {}), round.ErrClosed},
		{"combined after the end", append(log, entry.RunEnded{Run: "run", Outcome: "cancelled"}), outcome(func(*round.Combined) {}), round.ErrClosed},
	}
}

func refusedFigures() []refusal {
	log := untilClosed()
	e := func(change func(*round.Evaluation)) round.Evaluation {
		x := metric(func(*entry.Metric) {})
		change(&x)
		return x
	}
	return []refusal{
		{"figures for no run", log, e(func(e *round.Evaluation) { e.Run = "nowhere" }), round.ErrUnknownRun},
		{"figures of a stranger", log, e(func(e *round.Evaluation) { e.Member = "d" }), round.ErrStranger},
		{"figures of who was not heard", untilCreated(), e(func(*round.Evaluation) {}), round.ErrStranger},
		{"figures of an open round", untilSent(), e(func(*round.Evaluation) {}), round.ErrModel},
		{"figures of another round", log, e(func(e *round.Evaluation) { e.Round = 2 }), round.ErrModel},
		{"figures of another model", log, e(func(e *round.Evaluation) { e.Model = digest("zeros") }), round.ErrModel},
		{"figures after the end", untilEnded(), e(func(*round.Evaluation) {}), round.ErrClosed},
		{"no set", log, metric(func(m *entry.Metric) { m.Set = "" }), round.ErrFigures},
		{"no name", log, metric(func(m *entry.Metric) { m.Name = "" }), round.ErrFigures},
		{"a name with what is behind z", log, metric(func(m *entry.Metric) { m.Name = "lo{ss" }), round.ErrFigures},
		{"a name that breaks a line", log, metric(func(m *entry.Metric) { m.Name = "loss\n" }), round.ErrFigures},
		{"a long name", log, metric(func(m *entry.Metric) { m.Name = strings.Repeat("x", 33) }), round.ErrFigures},
		{"no number", log, metric(func(m *entry.Metric) { m.Value = math.NaN() }), round.ErrFigures},
		{"no finite number", log, metric(func(m *entry.Metric) { m.Value = math.Inf(-1) }), round.ErrFigures},
		{"fewer than no rows", log, metric(func(m *entry.Metric) { m.Count = -1 }), round.ErrFigures},
		{"no direction", log, metric(func(m *entry.Metric) { m.Better = "" }), round.ErrFigures},
		{"a figure twice", log, e(func(e *round.Evaluation) { e.Metrics = append(e.Metrics, e.Metrics[0]) }), round.ErrFigures},
		{"17 figures", log, e(func(e *round.Evaluation) { e.Metrics = make([]entry.Metric, 17) }), round.ErrFigures},
	}
}

// TestDecideTakes: what is repeated is taken and leads to nothing; what is new leads to the facts that it names.
func TestDecideTakes(t *testing.T) {
	figures := metric(func(*entry.Metric) {})
	for _, c := range []struct {
		name string
		log  []entry.Fact
		in   round.Input
		want []entry.Fact
	}{
		{"the first manifest, of any epoch", nil, round.Adopt{Fact: adopted}, []entry.Fact{adopted}},
		{"the same manifest", untilCreated(), round.Adopt{Fact: adopted}, nil},
		{"a boot", untilCreated(), round.Boot{Fact: entry.Booted{Instance: "i"}}, []entry.Fact{entry.Booted{Instance: "i"}}},
		{"an admission", untilCreated(), round.Admit{Fact: entry.Admitted{Name: "a"}}, []entry.Fact{entry.Admitted{Name: "a"}}},
		{"a run", nil, round.Create{Fact: created(), Limits: limits()}, []entry.Fact{created()}},
		{"a request again, though no run may be open", untilCreated(), round.Create{Fact: created()}, nil},
		{"an answer", untilCreated(), round.Consent{Run: "run", Member: "a", Records: 1 << 29}, []entry.Fact{consented("a", 1<<29)}},
		{"an answer again", untilConsented(), round.Consent{Run: "run", Member: "a", Records: 7}, nil},
		{"an answer to the contrary", untilConsented(), round.Decline{Run: "run", Member: "a"}, nil},
		{"an update", untilOpened(), offer("a", "a", 100), []entry.Fact{accepted("a", 100)}},
		{"an update of the least weight", []entry.Fact{
			adopted, created(), consented("a", 1), consented("b", 1),
			with(opened(), func(f *entry.RoundOpened) {
				f.Selected = []entry.Share{{Member: "a", Weight: 1}, {Member: "b", Weight: 1}}
			}),
		}, offer("a", "a", 1), []entry.Fact{accepted("a", 1)}},
		{"an update again", untilSent(), offer("a", "a", 100), nil},
		{"a question", untilOpened(), query("a", "a", 0), nil},
		{"a question after a lost answer", untilSent(), query("a", "a", 100), nil},
		{"content refused", untilSent(), reject("a"), []entry.Fact{refused("a")}},
		{"content refused a ninth time", untilSent(), reject("c"), nil},
		{"figures", untilClosed(), figures, []entry.Fact{
			with(evaluated("b"), func(f *entry.Evaluated) { f.Metrics = figures.Metrics }),
		}},
		{"figures again", untilClosed(), round.Evaluation{Run: "run", Round: 1, Member: "a", Model: digest("first")}, nil},
		{
			"a model", untilSent(),
			round.Combined{Run: "run", Round: 1, Try: 1, Members: closed().Members, Model: digest("first"), Blob: first, State: &zeros},
			[]entry.Fact{with(closed(), func(f *entry.RoundClosed) { f.State = &zeros })},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := folded(t, c.log)
			got, err := s.Decide(start, c.in)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(got, c.want); d != "" {
				t.Errorf("Decide(%+v), - got + want:\n%s", c.in, d)
			}
			mustEqual(t, "Decide", s, folded(t, c.log))
		})
	}
}

// TestDecidePanics: what only a fault of our own can bring about.
func TestDecidePanics(t *testing.T) {
	outcome := func(change func(*round.Combined)) round.Combined {
		c := round.Combined{Run: "run", Round: 1, Try: 1, Members: closed().Members, Model: digest("first"), Blob: first}
		change(&c)
		return c
	}
	if got := panics(func() { folded(t, untilSent()).Decide(start, outcome(func(*round.Combined) {})) }); got != "" {
		t.Errorf("a right outcome panicked: %s", got)
	}
	for name, in := range map[string]round.Input{
		"no input":          nil,
		"no model":          outcome(func(c *round.Combined) { c.Model = entry.Digest{} }),
		"nobody":            outcome(func(c *round.Combined) { c.Members = nil }),
		"below the quorum":  outcome(func(c *round.Combined) { c.Members = c.Members[:1] }),
		"another update":    outcome(func(c *round.Combined) { c.Members[0].Update = digest("b") }),
		"another weight":    outcome(func(c *round.Combined) { c.Members[0].Weight++ }),
		"not accepted":      outcome(func(c *round.Combined) { c.Members[1].Member = "c" }),
		"out of order":      outcome(func(c *round.Combined) { c.Members[0], c.Members[1] = c.Members[1], c.Members[0] }),
		"one of them twice": outcome(func(c *round.Combined) { c.Members[1] = c.Members[0] }),
	} {
		s := folded(t, untilSent())
		if got := panics(func() { s.Decide(start, in) }); !strings.HasPrefix(got, "round: ") {
			t.Errorf("%s: Decide panicked with %q, want a message of this package", name, got)
		}
		mustEqual(t, "Decide", s, folded(t, untilSent()))
	}
}
