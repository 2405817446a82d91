package round_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// until returns a Released that has not released the closings of rounds from the given one on, and the others at the instant at.
func until(number int, at time.Time) round.Released {
	return func(_ string, round int) (time.Time, bool) { return at, round < number }
}

// TestWithheld: while a closing is not released, its round is closed and nothing follows from it, however long that takes; what
// others have asked for before is still asked for. Once it is released everything takes its course from that moment on.
func TestWithheld(t *testing.T) {
	hour := start.Add(time.Hour)
	silent := append(untilCreated(), consented("a", 100), consented("b", 200)) // c has not answered
	open := with(opened(), func(f *entry.RoundOpened) { f.Selected = f.Selected[:2] })
	early := append(append(silent, open, accepted("a", 100), accepted("b", 200)), closed())
	for _, c := range []struct {
		name     string
		log      []entry.Fact
		released round.Released
		facts    []string
		actions  []string
		closed   int
	}{
		{"a round is closed", untilClosed(), until(1, start), nil, nil, 0},
		{"and one member has not answered", early, until(1, start), nil, []string{"invite c"}, 0},
		{"the last round is closed", untilFinished(), until(2, start), nil, []string{"evaluate b 1", "evaluate c 1"}, 1},
		{"both rounds are withheld", untilFinished(), until(1, start), nil, nil, 0},
		{"a round is released", untilClosed(), until(2, hour), []string{"open 2"}, []string{"evaluate b 1", "evaluate c 1"}, 1},
		{"the last round is released an hour late", untilFinished(), until(3, hour), nil, []string{
			"evaluate b 1", "evaluate c 1", "evaluate a 2", "evaluate b 2", "evaluate c 2", "wake 1h1m0s",
		}, 2},
		{"the longest time of the run is over", longest(untilClosed()), until(1, start), nil, nil, 0},
		{"and then the round is released", longest(untilClosed()), until(2, hour), []string{"failed"}, []string{"evaluate b 1", "evaluate c 1", "wake 30m0s"}, 1},
		{"the last round is closed, and the longest time over", longest(untilFinished()), until(2, start), nil, []string{"evaluate b 1", "evaluate c 1"}, 1},
		{"and then it is released", longest(untilFinished()), until(3, start), []string{"completed"}, []string{
			"evaluate b 1", "evaluate c 1", "evaluate a 2", "evaluate b 2", "evaluate c 2", "wake 1m0s",
		}, 2},
		{"nobody releases anything", untilFinished(), nil, []string{"completed"}, []string{
			"evaluate b 1", "evaluate c 1", "evaluate a 2", "evaluate b 2", "evaluate c 2", "wake 1m0s",
		}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := folded(t, c.log)
			facts, err := s.Decide(hour, round.Tick{Held: nothing, Released: c.released})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range facts {
				got = append(got, word(f))
			}
			if diff := cmp.Diff(c.facts, got); diff != "" {
				t.Errorf("an hour later follows (-want +got):\n%s", diff)
			}
			got = nil
			for _, a := range s.Todo(round.View{Now: hour, Held: nothing, Released: c.released}) {
				got = append(got, word(a))
			}
			if diff := cmp.Diff(c.actions, got); diff != "" {
				t.Errorf("an hour later is asked for (-want +got):\n%s", diff)
			}
			if p := s.Progress("a", c.released); len(p) != 1 || p[0].Closed != c.closed {
				t.Errorf("progress is %v, want round %d", p, c.closed)
			}
		})
	}
}

// longest gives the run of a log half an hour.
func longest(log []entry.Fact) []entry.Fact {
	for i, f := range log {
		if c, ok := f.(entry.RunCreated); ok {
			c.Plan.MaxTime = entry.Duration(30 * time.Minute)
			log[i] = c
		}
	}
	return log
}

// word names a fact or an action.
func word(x any) string {
	switch x := x.(type) {
	case entry.RoundOpened:
		return "open " + string(rune('0'+x.Round))
	case entry.RunEnded:
		return x.Outcome
	case round.Invite:
		return "invite " + string(x.Member)
	case round.Evaluate:
		return "evaluate " + string(x.Member) + " " + string(rune('0'+x.Round))
	case round.Wake:
		return "wake " + x.At.Sub(start).String()
	}
	return "something else"
}

// TestVisible: a run as it may be seen hides what a withheld closing has made, and nothing else; the run itself stays as it is.
func TestVisible(t *testing.T) {
	cancelled := append(untilFinished(), entry.RunEnded{Run: "run", Outcome: "cancelled"})
	for _, c := range []struct {
		name     string
		log      []entry.Fact
		released round.Released
		phase    string
		states   []string
	}{
		{"nothing is withheld", untilFinished(), nil, "evaluating", []string{"closed", "closed"}},
		{"the last round", untilFinished(), until(2, start), "training", []string{"closed", "closing"}},
		{"all", untilFinished(), until(1, start), "training", []string{"closing", "closing"}},
		{"the first round", untilClosed(), until(1, start), "training", []string{"closing"}},
		{"an open round", untilOpened(), until(1, start), "training", []string{"open"}},
		{"of a cancelled run", cancelled, until(2, start), "cancelled", []string{"closed", "closing"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			run, _ := folded(t, c.log).Run("run")
			before := written(t, run)
			seen := run.Visible(c.released)
			if written(t, run) != before {
				t.Error("Visible changed the run")
			}
			if seen.State != c.phase {
				t.Errorf("the run is %q, want %q", seen.State, c.phase)
			}
			for i, x := range seen.Rounds {
				if x.State != c.states[i] {
					t.Errorf("round %d is %q, want %q", x.Round, x.State, c.states[i])
				}
				hidden := x.State != "closed"
				if hidden != (x.Model == entry.Digest{}) || hidden != x.Closed.IsZero() || hidden && x.Evaluated != nil ||
					hidden != (x.Members == nil) {
					t.Errorf("round %d, %s, shows model %s of %s, %d figures", x.Round, x.State, x.Model.Short(), x.Closed, len(x.Evaluated))
				}
				if len(x.Accepted) != len(run.Rounds[i].Accepted) {
					t.Errorf("round %d shows %d updates, want %d", x.Round, len(x.Accepted), len(run.Rounds[i].Accepted))
				}
			}
		})
	}
}
