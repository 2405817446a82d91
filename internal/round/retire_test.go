package round_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

const kept = 24 * time.Hour

func dropped(rounds ...int) entry.Dropped {
	return entry.Dropped{Run: "run", Rounds: rounds, Kept: entry.Duration(kept)}
}

// untilDropped ends with the blobs dropped of the run that is over.
func untilDropped() []entry.Fact { return append(untilEnded(), dropped(0, 1)) }

// TestRetire: a run that has ended keeps the newest model only, once its time is over; what a tag names stays as long as it does.
func TestRetire(t *testing.T) {
	tag := func(model string) entry.TagMoved {
		return entry.TagMoved{Tag: "champion", Model: digest(model), By: "lead"}
	}
	for _, c := range []struct {
		name  string
		log   []entry.Fact
		after time.Duration // of the log's end
		of    string
		want  []entry.Fact
	}{
		{"an open run", untilFinished(), 100 * kept, "", nil},
		{"just before its time", untilEnded(), kept - time.Microsecond, "", nil},
		{"in time", untilEnded(), kept, "", []entry.Fact{dropped(0, 1)}},
		{"asked for by name", untilEnded(), kept, "run", []entry.Fact{dropped(0, 1)}},
		{"another run", untilEnded(), kept, "another", nil},
		{"dropped before", untilDropped(), 100 * kept, "", nil},
		{"the first has a tag", append(untilEnded(), tag("first")), kept, "", []entry.Fact{dropped(0)}},
		{"the newest has a tag", append(untilEnded(), tag("second")), kept, "", []entry.Fact{dropped(0, 1)}},
		{"a tag has moved", append(untilEnded(), tag("first"), dropped(0), tag("second")), kept, "", []entry.Fact{dropped(1)}},
		{"cancelled after a round", append(untilClosed(), entry.RunEnded{Run: "run", Outcome: "cancelled"}), kept, "", []entry.Fact{dropped(0)}},
		{"cancelled before any", append(untilOpened(), entry.RunEnded{Run: "run", Outcome: "cancelled"}), kept, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := folded(t, c.log)
			got, err := s.Decide(start.Add(c.after), round.Retire{Kept: kept, Run: c.of})
			if d := cmp.Diff(got, c.want); err != nil || d != "" {
				t.Fatalf("Decide = %v, - got + want:\n%s", err, d)
			}
			for _, f := range got {
				if err := s.Apply(start.Add(c.after), f); err != nil {
					t.Errorf("what was decided does not follow: %v", err)
				}
			}
			if again, err := s.Decide(start.Add(c.after), round.Retire{Kept: kept}); err != nil || len(again) != 0 && c.of == "" {
				t.Errorf("it is dropped again: %v, %v", again, err)
			}
		})
	}
}

// TestBlobs: what a fact drops is the models and states of its rounds, also those that the initial model is, and of nothing else.
func TestBlobs(t *testing.T) {
	state := entry.Blob{Plain: digest("state"), Sealed: digest("sealed state"), Size: 16}
	log := untilDropped()
	i := slices.IndexFunc(log, func(f entry.Fact) bool { _, ok := f.(entry.RoundClosed); return ok })
	log[i] = with(log[i].(entry.RoundClosed), func(f *entry.RoundClosed) { f.State = &state })
	s := folded(t, log)
	for _, c := range []struct {
		f    entry.Dropped
		want []entry.Blob
	}{{dropped(0, 1), []entry.Blob{zeros, first, state}}, {dropped(0), []entry.Blob{zeros}}, {entry.Dropped{Run: "another", Rounds: []int{0}}, nil}} {
		if d := cmp.Diff(s.Blobs(c.f), c.want); d != "" {
			t.Errorf("Blobs(%v), - got + want:\n%s", c.f, d)
		}
	}
}

func impossibleDrops() []impossible {
	tag := entry.TagMoved{Tag: "champion", Model: digest("first"), By: "lead"}
	return []impossible{
		{"dropped of a run that there is not", untilEnded(), entry.Dropped{Run: "another", Rounds: []int{0}, Kept: 1}},
		{"dropped of an open run", untilFinished(), dropped(0)},
		{"dropped nothing", untilEnded(), dropped()},
		{"dropped at once", untilEnded(), entry.Dropped{Run: "run", Rounds: []int{0}}},
		{"dropped the newest", untilEnded(), dropped(1, 2)},
		{"dropped a round that there was not", untilEnded(), dropped(1, 3)},
		{"dropped before the first round", untilEnded(), dropped(-1)},
		{"dropped not in order", untilEnded(), dropped(1, 0)},
		{"dropped twice at once", untilEnded(), dropped(0, 0)},
		{"dropped twice", untilDropped(), dropped(1)},
		{"dropped what a tag names", append(untilEnded(), tag), dropped(0, 1)},
	}
}

// TestRetireMany: however many runs there are, one decision stays within a commit, and repeated it gets to all of them.
func TestRetireMany(t *testing.T) {
	s := round.New()
	const runs = 150
	for i := range runs {
		for _, f := range renamed(untilEnded(), i) {
			if err := s.Apply(start, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	steps := 0
	for total := 0; total < runs; steps++ {
		facts, err := s.Decide(start.Add(kept), round.Retire{Kept: kept})
		if err != nil || len(facts) == 0 || len(facts) > 64 {
			t.Fatalf("%d facts, %v after %d of %d runs", len(facts), err, total, runs)
		}
		for _, f := range facts {
			if err := s.Apply(start.Add(kept), f); err != nil {
				t.Fatal(err)
			}
		}
		total += len(facts)
	}
	if steps != 3 {
		t.Errorf("%d decisions for %d runs, want 3", steps, runs)
	}
}

// renamed returns the facts of a run under another name; the manifest is adopted once.
func renamed(log []entry.Fact, i int) []entry.Fact {
	if i > 0 {
		log = log[2:]
	}
	name := "run " + string(rune('A'+i))
	out := make([]entry.Fact, len(log))
	for n, f := range log {
		switch f := f.(type) {
		case entry.RunCreated:
			f.Run, f.Request = name, name
			out[n] = f
		case entry.Consented:
			f.Run = name
			out[n] = f
		case entry.RoundOpened:
			f.Run = name
			out[n] = f
		case entry.UpdateAccepted:
			f.Run = name
			out[n] = f
		case entry.UpdateRefused:
			f.Run = name
			out[n] = f
		case entry.RoundClosed:
			f.Run = name
			out[n] = f
		case entry.Evaluated:
			f.Run = name
			out[n] = f
		case entry.RunEnded:
			f.Run = name
			out[n] = f
		default:
			out[n] = f
		}
	}
	return out
}
