package round_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// buffered makes a plan asynchronous.
func buffered(size int, params ...any) func(*entry.RunCreated) {
	all := map[string]any{"buffer_size": float64(size)}
	for i := 0; i < len(params); i += 2 {
		all[params[i].(string)] = params[i+1]
	}
	return func(f *entry.RunCreated) { f.Plan.Strategy = entry.Strategy{Name: "fedbuff", Params: all} }
}

// untilLate ends with round 2 of three members open, whose round 1 had a and b.
func untilLate(params ...any) []entry.Fact {
	log := []entry.Fact{adopted, with(created(), buffered(2, params...)), consented("a", 100), consented("b", 200), consented("c", 300)}
	log = append(log, opened(), accepted("a", 100), accepted("b", 200), with(closed(), func(f *entry.RoundClosed) { f.Early = entry.ReportGoal }))
	return append(log, with(opened(), func(f *entry.RoundOpened) { f.Round, f.Base, f.Model = 2, &first, digest("first") }))
}

// late is an update for round 2 that is so stale.
func late(m entry.Member, weight int64, staleness int) entry.Fact {
	f := accepted(m, weight)
	f.Round, f.Staleness = 2, staleness
	return f
}

func impossibleLate() []impossible {
	sync := untilLate()
	sync[1] = created()
	sync[8] = closed()
	large := []entry.Fact{adopted, with(created(), buffered(3))}
	large = append(append(large, sync[2:]...), late("c", 300, 1), late("a", 100, 0))
	withC := append(untilLate(), late("c", 300, 1), late("a", 100, 0))
	both := func(staleness int) entry.Fact {
		return with(closed(), func(f *entry.RoundClosed) {
			f.Round, f.Base, f.Model = 2, digest("first"), digest("second")
			f.Members = []entry.Contribution{{Member: "a", Weight: 100, Update: digest("a")}, {Member: "c", Weight: 300, Update: digest("c"), Staleness: staleness}}
		})
	}
	return []impossible{
		{"a late update in a synchronous run", sync, late("c", 300, 1)},
		{"an update that is too late", untilLate("max_staleness", 0.0), late("c", 300, 1)},
		{"an update that is late by as many rounds as there are", untilLate(), late("c", 300, 2)},
		{"an update of before the first round", untilLate(), late("c", 300, 3)},
		{"an update of the future", untilLate(), late("c", 300, -1)},
		{"an update of before what counts", untilLate(), late("a", 100, 1)},
		{"closed with an update less late than it was", withC, both(0)},
		{"closed with an update later than it was", withC, both(2)},
		{"closed for a buffer that is not full", large, with(both(1).(entry.RoundClosed), func(f *entry.RoundClosed) { f.Early = entry.ReportGoal })},
	}
}

// TestLatePossible: what the impossible differs from goes through.
func TestLatePossible(t *testing.T) {
	log := append(untilLate(), late("c", 300, 1), late("a", 100, 0), with(closed(), func(f *entry.RoundClosed) {
		f.Round, f.Base, f.Model, f.Early = 2, digest("first"), digest("second"), entry.ReportGoal
		f.Members = []entry.Contribution{{Member: "a", Weight: 100, Update: digest("a")}, {Member: "c", Weight: 300, Update: digest("c"), Staleness: 1}}
	}))
	r, _ := folded(t, log).Run("run")
	if r.State != "evaluating" || r.Rounds[1].Accepted[0].Staleness != 1 {
		t.Errorf("the run is %s, round 2 has %+v", r.State, r.Rounds[1].Accepted)
	}
}

// TestRejectLate: an update that is refused counts in the round that is open, though it was asked for in another; one of which nobody says of what base it
// is does not.
func TestRejectLate(t *testing.T) {
	s := folded(t, untilLate())
	in := reject("c")
	if _, err := s.Decide(start, in); round.Reason(err) != "closed" {
		t.Errorf("a refusal in round 1: %v, want closed", err)
	}
	in.Base = 1
	got, err := s.Decide(start, in)
	if want := []entry.Fact{with(refused("c"), func(f *entry.UpdateRefused) { f.Round = 2 })}; err != nil || !slices.Equal(got, want) {
		t.Errorf("a refusal of what is of round 1: %v, %v, want %v", got, err, want)
	}
}

// TestBufferRefused: a plan whose buffer does not fit with the rest of it begins no run.
func TestBufferRefused(t *testing.T) {
	for _, c := range []struct {
		what   string
		change func(*entry.RunCreated)
		want   string // "": it is taken
	}{
		{"as many as members", buffered(3), ""},
		{"the goal said twice", func(f *entry.RunCreated) { buffered(3)(f); f.Plan.ReportGoal = 3 }, ""},
		{"more than members", buffered(4), "buffer_size 4 of strategy fedbuff, of 3 members"},
		{"more than members, and as large a quorum", func(f *entry.RunCreated) { buffered(4)(f); f.Plan.Quorum = 4 }, "buffer_size 4 of strategy fedbuff, of 3 members"},
		{"fewer than a quorum", buffered(1), "quorum 2; the buffer of strategy fedbuff is full with 1 updates"},
		{"another goal", func(f *entry.RunCreated) { buffered(2)(f); f.Plan.ReportGoal = 3 }, "report_goal 3; strategy fedbuff closes a round with 2 updates"},
		{"masks", func(f *entry.RunCreated) { buffered(3)(f); f.Plan.Masks = true }, "masks with strategy fedbuff"},
		{"noise", func(f *entry.RunCreated) {
			buffered(3)(f)
			f.Plan.Quorum = 3
			f.Plan.Privacy = &entry.Privacy{Unit: entry.Participant, ClipNorm: 1, NoiseMultiplier: 1, Delta: 1e-5}
		}, "privacy: what noise costs is reckoned for rounds whose updates are all of their base model"},
	} {
		t.Run(c.what, func(t *testing.T) {
			f := created()
			c.change(&f)
			limits := round.Limits{
				Members: f.Members, Strategies: []string{"fedbuff"}, Trainers: []string{"builtin/logistic"}, MaxAbs: 16, RoundsMax: 5, OpenRuns: 1,
			}
			if f.Plan.Privacy != nil {
				limits.Budget = entry.Budget{Unit: entry.Participant, Epsilon: 1000, Delta: 1e-5}
			}
			_, err := folded(t, []entry.Fact{adopted}).Decide(start, round.Create{Fact: f, Limits: limits})
			if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && !strings.Contains(got, c.want) {
				t.Errorf("Create: %v, want %q", err, c.want)
			}
		})
	}
}

// TestOldest: members keep what may still count, and no more.
func TestOldest(t *testing.T) {
	for _, c := range []struct {
		what string
		log  []entry.Fact
		want string
	}{
		{"before the first round", untilLate()[:5], `[{"Run":"run","Closed":-1,"Oldest":1}]`},
		{"after it", untilLate(), `[{"Run":"run","Closed":1,"Oldest":1}]`},
		{"where nothing may be late", untilLate("max_staleness", 0.0), `[{"Run":"run","Closed":1,"Oldest":0}]`},
		{"after the last", append(untilLate(), late("a", 100, 0), late("b", 200, 0), with(closed(), func(f *entry.RoundClosed) {
			f.Round, f.Base, f.Model, f.Early = 2, digest("first"), digest("second"), entry.ReportGoal
		})), `[{"Run":"run","Closed":2,"Oldest":0}]`},
	} {
		if got := written(t, folded(t, c.log).Progress("c", nil)); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
	}
	// While the last closing is not released its updates may have to be sent again.
	log := append(untilLate(), late("a", 100, 0), late("b", 200, 0), with(closed(), func(f *entry.RoundClosed) {
		f.Round, f.Base, f.Model, f.Early = 2, digest("first"), digest("second"), entry.ReportGoal
	}))
	first := folded(t, log).Progress("c", func(_ string, number int) (_ time.Time, ok bool) { return start, number < 2 })
	if got := written(t, first); got != `[{"Run":"run","Closed":1,"Oldest":1}]` {
		t.Errorf("while the last closing is withheld: %s", got)
	}
}
