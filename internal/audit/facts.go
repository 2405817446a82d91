package audit

import (
	"bytes"
	"maps"
	"math"
	"slices"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// grace is how long after its appraisal's end a peer's last message may still become a fact: it was read before.
const grace = 15 * time.Minute

// present finds a member of whom a fact speaks that no coordinator had admitted since it booted, or whose appraisal was over.
func (a *auditor) present(n int64, at time.Time, m entry.Member) {
	until, ok := a.admitted[m]
	switch {
	case !ok:
		a.find(n, "%s was not admitted since the coordinator booted", m)
	case at.After(until.Add(grace)):
		a.find(n, "the appraisal of %s had ended at %s", m, until.Format(time.RFC3339))
	}
}

// follows finds a fact that the rules do not draw from what it says has happened.
func (a *auditor) follows(n int64, at time.Time, in round.Input, f entry.Fact) {
	if a.broken {
		return
	}
	facts, err := a.state.Decide(later(at, a.state.Newest()), in)
	switch {
	case err != nil:
		a.find(n, "the rules refuse it: %v", err)
	case len(facts) != 1 || !same(facts[0], f):
		a.find(n, "the rules draw another fact from what it says has happened")
	}
}

// ticks finds a round that the rules would not have opened at that instant, or otherwise.
func (a *auditor) ticks(n int64, at time.Time, f entry.RoundOpened) {
	if a.broken {
		return
	}
	none := func(string, int, int, entry.Member) (entry.Digest, bool) { return entry.Digest{}, false }
	facts, err := a.state.Decide(later(at, a.state.Newest()), round.Tick{Held: none})
	if err != nil || !slices.ContainsFunc(facts, func(g entry.Fact) bool { return same(g, f) }) {
		a.find(n, "the rules would not have opened this round, or not so")
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (a *auditor) created(n int64, at time.Time, f entry.RunCreated) {
	lead, ok := a.manifest.Person(f.Lead)
	if !ok || !slices.Contains(lead.May, "lead") {
		a.find(n, "%s may not lead a run", f.Lead)
	}
	if f.Manifest != a.manifest.Digest() {
		a.find(n, "the run names another manifest")
	}
	m := a.manifest.Limits()
	l := round.Limits{
		Strategies: m.Strategies, Trainers: m.Trainers, LeastParticipants: m.LeastParticipants, MaxAbs: m.MaxAbs,
		RoundsMax: m.RoundsMax, OpenRuns: math.MaxInt, // the coordinator's own limit, which no member agreed on
	}
	for _, name := range a.manifest.Members() {
		l.Members = append(l.Members, entry.Member(name))
	}
	a.follows(n, at, round.Create{Fact: f, Limits: l}, f)
}

// closed counts a round's commit and finds one that has too few members. That they were accepted, each once, replay sees to.
func (a *auditor) closed(n int64, f entry.RoundClosed) {
	a.report.Rounds++
	a.report.Updates += len(f.Members)
	a.report.Epsilon += f.Spent.Epsilon
	if f.Spent.Epsilon < 0 || f.Spent.Delta < 0 || f.Spent.Epsilon > 0 {
		a.find(n, "privacy was spent for which the manifest has no budget")
	}
	r, ok := a.state.Run(f.Run)
	if !ok {
		return // replay says so
	}
	if least := max(r.Fact.Plan.Quorum, a.manifest.Limits().LeastParticipants); len(f.Members) < least {
		a.find(n, "%d members made the model, the plan and the manifest want %d", len(f.Members), least)
	}
	if last := r.Rounds[len(r.Rounds)-1]; f.Kind != last.Kind || f.Base != base(r, f.Kind) {
		a.find(n, "the model was made from another base than the round was opened with")
	}
}

// base returns the newest model of a run, zero for a round that starts from none.
func base(r round.Run, kind entry.RoundKind) entry.Digest {
	if kind == entry.Statistics {
		return entry.Digest{}
	}
	for _, t := range slices.Backward(r.Rounds) {
		if t.State == "closed" {
			return t.Model
		}
	}
	return r.Fact.Model
}

// same reports whether two facts would be written down alike.
func same(a, b entry.Fact) bool {
	return bytes.Equal(entry.Encode([16]byte{}, time.Time{}, a), entry.Encode([16]byte{}, time.Time{}, b))
}

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }
