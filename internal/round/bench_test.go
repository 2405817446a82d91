package round_test

import (
	"errors"
	"fmt"
	"testing"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// crowded returns the state of a coordinator with that many members in one open round, after as many runs that have ended.
func crowded(b *testing.B, members, ended int) *round.State {
	b.Helper()
	s := round.New()
	apply := func(facts ...entry.Fact) {
		for _, f := range facts {
			if err := s.Apply(start, f); err != nil {
				b.Fatal(err)
			}
		}
	}
	apply(adopted, entry.Booted{})
	f := created()
	f.Members, f.Plan.Quorum = nil, members
	for i := range members {
		f.Members = append(f.Members, entry.Member(fmt.Sprintf("member-%04d", i)))
	}
	for i := range ended {
		f.Run = fmt.Sprintf("ended-%d", i)
		f.Request = f.Run
		apply(f, entry.RunEnded{Run: f.Run, Outcome: "cancelled"})
	}
	f.Run, f.Request = "run", "run"
	apply(f)
	for _, m := range f.Members {
		apply(consented(m, 100))
	}
	facts, err := s.Decide(start, round.Tick{Held: nothing})
	if err != nil {
		b.Fatal(err)
	}
	apply(facts...)
	return s
}

// BenchmarkUpdate is what the coordinator's loop does with the rules for each update of a round of 1,000 members: it decides
// the offer, applies what follows, lets time pass and asks what should be going on.
func BenchmarkUpdate(b *testing.B) {
	const members = 1000
	for _, ended := range []int{0, 1000} {
		b.Run(fmt.Sprintf("ended=%d", ended), func(b *testing.B) {
			b.ReportAllocs()
			s, next, asked := crowded(b, members, ended), 0, 0
			held := map[entry.Member]entry.Digest{}
			memory := func(_ string, _, _ int, m entry.Member) (entry.Digest, bool) { d, ok := held[m]; return d, ok }
			for b.Loop() {
				if next == members-1 { // the last one would close the round
					b.StopTimer()
					s, next = crowded(b, members, ended), 0
					clear(held)
					b.StartTimer()
				}
				m := entry.Member(fmt.Sprintf("member-%04d", next))
				next++
				in := round.Offer{Run: "run", Round: 1, Try: 1, Member: m, Update: digest(m), Weight: 100, Bytes: 1 << 20}
				facts, err := s.Decide(start, in)
				if err != nil {
					b.Fatal(err)
				}
				for _, f := range facts {
					if err := s.Apply(start, f); err != nil {
						b.Fatal(err)
					}
				}
				held[m] = in.Update
				if facts, err := s.Decide(start, round.Tick{Held: memory}); err != nil || len(facts) > 0 {
					b.Fatal(facts, err)
				}
				asked += len(s.Todo(round.View{Now: start, Held: memory}))
			}
			if asked == 0 {
				b.Fatal("nobody was asked")
			}
		})
	}
}

// BenchmarkProgress is what the loop reads for each member whenever something has changed.
func BenchmarkProgress(b *testing.B) {
	s := crowded(b, 1000, 1000)
	for b.Loop() {
		if len(s.Progress("member-0500", nil)) != 1 {
			b.Fatal("the member has no run")
		}
	}
}

// BenchmarkUnaffordable refuses a run for its cost beside 63 open ones, and finds the noise with which it would be taken: the loop does that for a
// lead, and serves nobody else meanwhile.
func BenchmarkUnaffordable(b *testing.B) {
	limits, manifest := budgeted(entry.Budget{Unit: entry.Record, Epsilon: 8, Delta: 1e-5})
	limits.OpenRuns = 64
	drawn := func(run string, noise float64) entry.RunCreated {
		return with(privately(nil), func(f *entry.RunCreated) {
			f.Run, f.Request, f.Plan.MaxAbs = run, run, 100
			f.Plan.Privacy = &entry.Privacy{Unit: entry.Record, ClipNorm: 0.5, NoiseMultiplier: noise, Delta: 1e-5, ExpectedRecords: 100, SamplingRate: 0.5}
		}).(entry.RunCreated)
	}
	log := []entry.Fact{manifest, entry.Booted{}}
	for i := range 63 {
		log = append(log, drawn(fmt.Sprint(i), 9e5+float64(i)))
	}
	s := folded(b, log)
	for b.Loop() {
		if _, err := s.Decide(start, round.Create{Fact: drawn("dear", 0.1), Limits: limits}); !errors.Is(err, round.ErrPlan) {
			b.Fatalf("Create = %v, want a refusal", err)
		}
	}
}
