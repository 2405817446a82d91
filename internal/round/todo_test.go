package round_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// nothing is memory after a crash.
func nothing(string, int, int, entry.Member) (entry.Digest, bool) { return entry.Digest{}, false }

// everything is memory in which each member's update is the one that accepted names.
func everything(_ string, _, _ int, m entry.Member) (entry.Digest, bool) { return digest(m), true }

func ask(m entry.Member, weight int64, accepted entry.Digest) round.Ask {
	return round.Ask{
		Run: "run", Lead: "lead", Round: 1, Try: 1, Kind: entry.Training, Member: m, Weight: weight, Base: &zeros, Model: digest("zeros"),
		Accepted: accepted, Plan: created().Plan,
	}
}

func wake(after time.Duration) round.Wake { return round.Wake{At: start.Add(after)} }

// TestTodo: what is asked for, in full. Todo is right also at a moment that no Tick has seen yet, and where memory holds what
// was not accepted.
func TestTodo(t *testing.T) {
	one, plan := append(untilOpened(), accepted("a", 100)), created().Plan
	combine := round.Combine{
		Run: "run", Round: 1, Try: 1, Kind: entry.Training, Members: closed().Members, Base: &zeros, Plan: plan,
		Selected: 3,
	}
	evaluate := func(m entry.Member) round.Evaluate {
		return round.Evaluate{Run: "run", Lead: "lead", Round: 1, Member: m, Model: digest("first"), Blob: first, Plan: plan}
	}
	state := entry.Blob{Plain: digest("state")}
	again := append(untilSent(), with(closed(), func(f *entry.RoundClosed) { f.State = &state }), evaluated("a"), evaluated("b"), evaluated("c"),
		with(opened(), func(f *entry.RoundOpened) { f.Round, f.Base, f.Model = 2, &first, digest("first") }))
	for _, f := range []entry.UpdateAccepted{accepted("a", 100), accepted("b", 200), accepted("c", 300)} {
		f.Round = 2
		again = append(again, f)
	}
	for _, c := range []struct {
		name string
		log  []entry.Fact
		at   time.Duration
		held round.Held
		want []round.Action
	}{
		{"nothing", nil, 0, nothing, nil},
		{"invitations", append(untilCreated(), entry.Declined{Run: "run", Member: "b"}), 0, nothing, []round.Action{
			round.Invite{Run: "run", Lead: "lead", Member: "a", Plan: plan},
			round.Invite{Run: "run", Lead: "lead", Member: "c", Plan: plan},
			wake(2 * time.Minute),
		}},
		{"below the quorum at the deadline", one, time.Hour, everything, []round.Action{
			ask("b", 200, entry.Digest{}), ask("c", 300, entry.Digest{}), wake(time.Minute),
		}},
		{"nothing in memory", one, 0, nothing, []round.Action{
			ask("a", 100, digest("a")), ask("b", 200, entry.Digest{}), ask("c", 300, entry.Digest{}), wake(time.Minute),
		}},
		{"another update in memory", one, 0, func(string, int, int, entry.Member) (entry.Digest, bool) { return digest("other"), true }, []round.Action{
			ask("a", 100, digest("a")), ask("b", 200, entry.Digest{}), ask("c", 300, entry.Digest{}), wake(time.Minute),
		}},
		{"nothing in memory that looks like an update", untilOpened(), time.Hour, func(string, int, int, entry.Member) (entry.Digest, bool) {
			return entry.Digest{}, true
		}, []round.Action{
			ask("a", 100, entry.Digest{}), ask("b", 200, entry.Digest{}), ask("c", 300, entry.Digest{}), wake(time.Minute),
		}},
		{"no update in memory and one accepted that looks like it", append(untilOpened(), entry.UpdateAccepted{
			Run: "run", Round: 1, Try: 1, Member: "a", Weight: 100,
		}), time.Hour, nothing, []round.Action{
			ask("a", 100, entry.Digest{}), ask("b", 200, entry.Digest{}), ask("c", 300, entry.Digest{}), wake(time.Minute),
		}},
		{"a mean", untilSent(), 0, everything, []round.Action{combine}},
		{"figures", untilFinished(), 0, everything, []round.Action{
			evaluate("b"), evaluate("c"), second(evaluate("a")), second(evaluate("b")), second(evaluate("c")), wake(time.Minute),
		}},
		{"a mean with the optimiser's state", again, 0, everything, []round.Action{round.Combine{
			Run: "run", Round: 2, Try: 1, Kind: entry.Training, Base: &first, State: &state, Plan: plan, Selected: 3,
			Members: append(closed().Members, entry.Contribution{Member: "c", Weight: 300, Update: digest("c")}),
		}}},
		{"whose update is part of what", again[:len(again)-3], 0, nothing, []round.Action{
			later("a", 100, digest("a")), later("b", 200, digest("b")), later("c", 300, entry.Digest{}), wake(time.Minute),
		}},
		{"the end", untilEnded(), 0, everything, nil},
	} {
		got := folded(t, c.log).Todo(round.View{Now: start.Add(c.at), Held: c.held})
		if d := cmp.Diff(got, c.want); d != "" {
			t.Errorf("%s: Todo, - got + want:\n%s", c.name, d)
		}
	}
}

// later asks for an update of round 2, whose base is of the member's update contributed.
func later(m entry.Member, weight int64, contributed entry.Digest) round.Ask {
	a := ask(m, weight, entry.Digest{})
	a.Round, a.Base, a.Model, a.Contributed = 2, &first, digest("first"), contributed
	return a
}

// second is the same question about the model of round 2.
func second(e round.Evaluate) round.Evaluate {
	e.Round, e.Model = 2, digest("second")
	return e
}

// TestView: everything that there is to see of a run.
func TestView(t *testing.T) {
	s := folded(t, append(untilSent(), closed(), evaluated("a")))
	if err := s.Apply(start.Add(time.Second), with(opened(), func(f *entry.RoundOpened) {
		f.Round, f.Base, f.Model, f.Deadline = 2, &first, digest("first"), start.Add(time.Hour)
	})); err != nil {
		t.Fatal(err)
	}
	got, _ := s.Run("run")
	want := round.Run{
		Fact: created(), State: "training", Since: start, Created: start,
		Members: []round.Member{
			{Member: "a", State: "consented", Records: 100, Since: start},
			{Member: "b", State: "consented", Records: 200, Since: start},
			{Member: "c", State: "consented", Records: 300, Since: start, Missed: 1},
		},
		Rounds: []round.Round{
			{
				Round: 1, Try: 1, Kind: entry.Training, State: "closed", Selected: opened().Selected,
				Accepted: []entry.UpdateAccepted{accepted("a", 100), accepted("b", 200)}, Received: 16, Bound: 1e-14, Opened: start,
				Deadline: start.Add(time.Minute), Closed: start, Model: digest("first"), Members: closed().Members, Evaluated: []entry.Evaluated{evaluated("a")},
			},
			{
				Round: 2, Try: 1, Kind: entry.Training, State: "open", Selected: opened().Selected, Bound: 1e-14,
				Opened: start.Add(time.Second), Deadline: start.Add(time.Hour),
			},
		},
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Errorf("Run, - got + want:\n%s", d)
	}
	if d := cmp.Diff(s.Runs(), []round.Run{want}); d != "" {
		t.Errorf("Runs, - got + want:\n%s", d)
	}
}

// TestResolutionReached: a round whose bound is just what the plan allows is opened, and a latecomer who makes it so may join.
func TestResolutionReached(t *testing.T) {
	bound := aggregate.Bound(16, []int64{100, 200}, 2)
	late := aggregate.Bound(16, []int64{100, 200, 300}, 2)
	log := func(resolution float64) []entry.Fact {
		f := created()
		f.Plan.Resolution = resolution
		return []entry.Fact{adopted, f, consented("a", 100), consented("b", 200)}
	}
	decide := func(s *round.State, in round.Input, after time.Duration) entry.Fact {
		facts, err := s.Decide(start.Add(after), in)
		if err != nil || len(facts) != 1 {
			t.Fatalf("Decide(%+v) = %v, %v, want one fact", in, facts, err)
		}
		return facts[0]
	}
	if f, ok := decide(folded(t, log(bound)), round.Tick{Held: nothing}, time.Minute).(entry.RoundOpened); !ok || f.Bound != bound {
		t.Errorf("at its resolution the round was not opened: %+v", f)
	}
	if late <= bound {
		t.Fatalf("the bounds are %g and %g with one more: choose other weights", bound, late)
	}
	open := with(opened(), func(f *entry.RoundOpened) { f.Selected = f.Selected[:2] })
	s := folded(t, append(log(late), open))
	if f := decide(s, round.Consent{Run: "run", Member: "c", Records: 300}, 0); f != consented("c", 300) {
		t.Errorf("at the resolution a latecomer leads to %+v", f)
	}
	s = folded(t, append(log(bound), open))
	if facts, err := s.Decide(start, round.Consent{Run: "run", Member: "c", Records: 300}); round.Reason(err) != "weight" {
		t.Errorf("beyond the resolution a latecomer leads to %v, %v", facts, err)
	}
}
