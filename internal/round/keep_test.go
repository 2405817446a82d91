package round_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// written is everything that somebody who has kept views and actions would read in them.
func written(t testing.TB, kept any) string {
	t.Helper()
	text, err := json.Marshal(kept)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

// TestKept: what Runs, Run, Progress and Todo return stays as it is while later facts are applied, and may be read meanwhile.
func TestKept(t *testing.T) {
	log := append(untilEnded(), entry.Booted{})
	for i := range log {
		s := folded(t, log[:i])
		view := round.View{Now: start, Held: func(_ string, _, _ int, m entry.Member) (entry.Digest, bool) { return digest(m), true }}
		run, _ := s.Run("run")
		kept := []any{s.Runs(), run, s.Progress("a", nil), s.Todo(view)}
		before := written(t, kept)
		var reader sync.WaitGroup
		reader.Go(func() {
			if got := written(t, kept); got != before {
				t.Errorf("while facts from the %d. on are applied:\n%s\nwant\n%s", i, got, before)
			}
		})
		for _, f := range log[i:] {
			if err := s.Apply(start.Add(time.Second), f); err != nil {
				t.Fatal(err)
			}
		}
		reader.Wait()
		if got := written(t, kept); got != before {
			t.Errorf("after the facts from the %d. on:\n%s\nwant\n%s", i, got, before)
		}
	}
}

// TestKeptApart: what somebody appends to a view reaches neither the state nor another view.
func TestKeptApart(t *testing.T) {
	// Three of everything: a fourth would fit behind it without a new allocation.
	log := append(untilOpened(), accepted("a", 100), accepted("b", 200), accepted("c", 300))
	s := folded(t, log)
	run, _ := s.Run("run")
	_ = append(run.Rounds[0].Accepted, accepted("a", 1))
	run.Members[0].State = "gone"
	mustEqual(t, "appending to a view", s, folded(t, log))
	for _, f := range []entry.Fact{closed(), evaluated("a"), evaluated("b"), evaluated("c")} {
		log = append(log, f)
		if err := s.Apply(start, f); err != nil {
			t.Fatal(err)
		}
	}
	other, _ := s.Run("run")
	one, two := append(other.Rounds[0].Evaluated, evaluated("x")), append(other.Rounds[0].Evaluated, evaluated("y"))
	if one[3].Member != "x" || two[3].Member != "y" {
		t.Error("two who append to the same view write over each other")
	}
	a, b := append(other.Rounds[0].Accepted, accepted("x", 1)), append(other.Rounds[0].Accepted, accepted("y", 1))
	if a[3].Member != "x" || b[3].Member != "y" {
		t.Error("two who append to the same view write over each other")
	}
	if got := s.Runs()[0].Members[0].State; got != "consented" {
		t.Errorf("a changed view changed the state: %s", got)
	}
}

// TestLookups: how runs are found.
func TestLookups(t *testing.T) {
	s := folded(t, untilSent())
	if id, ok := s.RunOf("lead", "request"); id != "run" || !ok {
		t.Errorf("RunOf(lead, request) = %q, %t", id, ok)
	}
	for _, who := range [][2]string{{"lead", "other"}, {"other", "request"}, {"", ""}} {
		if id, ok := s.RunOf(who[0], who[1]); id != "" || ok {
			t.Errorf("RunOf(%q) = %q, %t, want none", who, id, ok)
		}
	}
	if r, ok := s.Run("nowhere"); ok || r.State != "" {
		t.Errorf("Run(nowhere) = %+v, %t", r, ok)
	}
	for m, want := range map[entry.Member]string{"a": `[{"Run":"run","Closed":-1,"Oldest":0}]`, "d": "null"} {
		if got := written(t, s.Progress(m, nil)); got != want {
			t.Errorf("Progress(%s) = %s, want %s", m, got, want)
		}
	}
	if got := written(t, folded(t, untilClosed()).Progress("c", nil)); got != `[{"Run":"run","Closed":1,"Oldest":0}]` {
		t.Errorf("after round 1 Progress(c) = %s", got)
	}
	if got := folded(t, untilCreated()).Progress("a", nil); got != nil {
		t.Errorf("before the answer Progress(a) = %v, want none", got)
	}
	if got := folded(t, untilEnded()).Progress("a", nil); got != nil {
		t.Errorf("after the end Progress(a) = %v, want none", got)
	}
	for m, want := range map[entry.Member]string{"a": "1", "d": "0"} {
		if got := fmt.Sprint(len(folded(t, untilEnded()).Endings(m, nil))); got != want {
			t.Errorf("Endings(%s) has %s, want %s", m, got, want)
		}
	}
	if got := folded(t, untilClosed()).Endings("a", nil); got != nil {
		t.Errorf("before the end Endings(a) = %v, want none", got)
	}
}
