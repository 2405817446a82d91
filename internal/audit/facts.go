package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/trainer"
)

// grace is how long after its appraisal's end a peer's last message may still become a fact: it was read before.
const grace = 15 * time.Minute

// present finds a member of whom a fact speaks that no coordinator had admitted since it booted, or whose appraisal was over.
func (a *auditor) present(n int64, at time.Time, m entry.Member) {
	a.here(n, at, who{attest.Participant, string(m)})
}

func (a *auditor) here(n int64, at time.Time, w who) {
	until, ok := a.admitted[w]
	switch {
	case !ok:
		a.find(n, "%s was not admitted since the coordinator booted", w.name)
	case at.After(until.Add(grace)):
		a.find(n, "the appraisal of %s had ended at %s", w.name, until.Format(time.RFC3339))
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

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// passes finds a fact that the rules do not draw from the time that had passed. What they draw from it depends on which updates
// the coordinator held in memory. It held all that it had accepted since it booted; of those from before it may have held none,
// and the more it holds the less fails. It also depends on who was there: of those for whom nobody waited the log says nothing
// more than that they were absent.
func (a *auditor) passes(n int64, at time.Time, f entry.Fact) {
	if len(a.due) > 0 { // and f is it, or inTurn would have said so
		a.due = a.due[1:]
		return
	}
	if ended, ok := f.(entry.RunEnded); ok && ended.Outcome == "cancelled" {
		a.cancelled(n, at, ended)
		return
	}
	if a.broken {
		return
	}
	facts, err := a.state.Decide(later(at, a.state.Newest()), round.Tick{Held: a.held, Seen: seenBy(f), Veils: veilsBy(f)})
	is := func(g entry.Fact) bool { return same(g, f) }
	i := slices.IndexFunc(facts, is)
	if spoilt, ok := f.(entry.RoundFailed); ok && spoilt.Unmade && i < 0 && a.combines(spoilt) { // what came of it only memory knew
		facts, err = a.state.Decide(later(at, a.state.Newest()), round.Spoil{Run: spoilt.Run, Round: spoilt.Round, Try: spoilt.Try, Reason: spoilt.Reason})
		i = slices.IndexFunc(facts, is)
	}
	if err != nil || i < 0 {
		a.find(n, "the rules do not draw this from what had happened by then, or not so")
		return
	}
	if failed, ok := f.(entry.RoundFailed); ok && i+1 < len(facts) {
		if ended, ok := facts[i+1].(entry.RunEnded); ok && ended.Run == failed.Run {
			a.due, a.dueAt, a.dueWhat = []entry.Fact{ended}, at, "the run with the failure of its last try"
		}
	}
}

// nobody is what was known of the members where none of them was waited for.
func nobody(entry.Member) round.Sighting { return round.Sighting{Paused: true} }

// veilsBy returns what was known of the masks of a try where a fact says what follows from it: those between whom masks are had shared them,
// and those whose updates are in a closed round's sum had shown what they held.
func veilsBy(f entry.Fact) round.Veils {
	v := round.Veil{}
	of := func(run string, number, try int) round.Veils {
		return func(r string, n, t int) round.Veil {
			if r != run || n != number || t != try {
				return round.Veil{}
			}
			return v
		}
	}
	switch f := f.(type) {
	case entry.MasksAgreed:
		v.Among, v.Shared = f.Members, f.Members
		return of(f.Run, f.Round, f.Try)
	case entry.RoundClosed:
		for _, c := range f.Members {
			v.Among = append(v.Among, c.Member)
		}
		v.Shown = v.Among
		return of(f.Run, f.Round, f.Try)
	}
	return nil
}

// combines reports whether a model was being made of a try when it failed.
func (a *auditor) combines(f entry.RoundFailed) bool {
	r, ok := a.state.Run(f.Run)
	if !ok || len(r.Rounds) == 0 {
		return false
	}
	t := r.Rounds[len(r.Rounds)-1]
	return t.Round == f.Round && t.Try == f.Try && t.State == "open" &&
		(t.Unmasking != nil || !r.Fact.Plan.Masks && len(t.Accepted) >= r.Fact.Plan.Quorum)
}

// seenBy returns what was known of the members where a fact says whether absent ones were waited for.
func seenBy(f entry.Fact) round.Seen {
	early := entry.Early("")
	switch f := f.(type) {
	case entry.RoundOpened:
		early = f.Early
	case entry.Unmasking:
		early = f.Early
	case entry.MasksAgreed: // who has no masks was not waited for
		return nobody
	case entry.RoundClosed:
		early = f.Early
	case entry.RunEnded:
		early = f.Early
	}
	if early == "" {
		return nil // everybody was waited for
	}
	return nobody
}

// held says which update of a member was accepted since the coordinator booted.
func (a *auditor) held(run string, number, try int, m entry.Member) (entry.Digest, bool) {
	d, ok := a.fresh[part{run, number, try, m}]
	return d, ok
}

// cancelled finds a run that was cancelled by somebody who may not. The reason begins with "by NAME", and with a colon goes on as
// that person likes. That the run was open replay sees to.
func (a *auditor) cancelled(n int64, at time.Time, f entry.RunEnded) {
	name, _, _ := strings.Cut(strings.TrimPrefix(f.Reason, "by "), ":")
	if !strings.HasPrefix(f.Reason, "by ") {
		a.find(n, "the run was cancelled, and it is not said by whom")
		return
	}
	a.lead(n, at, name)
}

// lead finds something that only somebody could do who may lead, and was there.
func (a *auditor) lead(n int64, at time.Time, name string) {
	p, ok := a.manifest.Person(name)
	if !ok || !slices.Contains(p.May, "lead") {
		a.find(n, "%s may not lead a run", name)
	}
	a.here(n, at, who{attest.Person, name})
}

// accepted returns the updates of a run's newest try.
func (a *auditor) accepted(run string) []entry.UpdateAccepted {
	r, ok := a.state.Run(run)
	if !ok || len(r.Rounds) == 0 {
		return nil
	}
	return r.Rounds[len(r.Rounds)-1].Accepted
}

func (a *auditor) created(n int64, at time.Time, f entry.RunCreated) {
	a.lead(n, at, f.Lead)
	if f.Manifest != a.manifest.Digest() {
		a.find(n, "the run names another manifest")
	}
	l := limits(a.manifest)
	a.follows(n, at, round.Create{Fact: f, Limits: l}, f)
	if err := trainer.CheckPlan(f.Plan); err != nil {
		a.find(n, "no coordinator takes such a plan: %v", err)
		return
	}
	asked := slices.Sorted(slices.Values(f.Plan.Members))
	if len(asked) == 0 {
		asked = l.Members
	}
	if !slices.Equal(f.Members, asked) {
		a.find(n, "others were asked to take part than the plan says")
	}
	if err := initial(f); err != nil {
		a.find(n, "%v", err)
	}
}

// initial judges the model that a run begins with, which the plan alone determines.
func initial(f entry.RunCreated) error {
	if f.Plan.Measured() {
		if f.Initial != nil || !f.Model.IsZero() {
			return fmt.Errorf("the run begins with a model, and the plan with a round that makes one")
		}
		return nil
	}
	m, err := trainer.Initial(f.Plan, nil, 0)
	if err != nil {
		return err
	}
	if d := entry.Digest(m.Digest()); f.Initial == nil || f.Model != d || f.Initial.Plain != d {
		return fmt.Errorf("the run begins with another model than its plan")
	}
	return nil
}

// closed counts a round's commit and finds one that the rules would not have asked for. That its updates were accepted, each
// once, and with the base of the round, replay sees to.
func (a *auditor) closed(n int64, at time.Time, f entry.RoundClosed) {
	a.report.Rounds++
	a.report.Updates += len(f.Members)
	if f.Blob.Plain != f.Model {
		a.find(n, "the model lies under another digest than its own")
	}
	r, ok := a.state.Run(f.Run)
	if ok && r.Fact.Plan.Masks {
		a.report.Masked++
	}
	private := ok && r.Fact.Plan.Privacy != nil
	if f.Spent != (entry.Spent{}) && !private {
		a.find(n, "privacy was spent for which the manifest has no budget")
	}
	if !ok || a.broken {
		return // replay says so
	}
	if private {
		a.spent(n, f, r.Fact.Plan)
	}
	if least := max(r.Fact.Plan.Quorum, a.manifest.Limits().LeastParticipants); len(f.Members) < least {
		a.find(n, "%d members made the model, the plan and the manifest want %d", len(f.Members), least)
	}
	strategy, err := aggregate.NewStrategy(r.Fact.Plan.Strategy.Name, r.Fact.Plan.Strategy.Params)
	if err != nil {
		return // the run's creation was found fault with
	}
	if stateful := f.Kind == entry.Training && strategy.Optimizer(1).StateLen(1) > 0; (f.State != nil) != stateful {
		a.find(n, "the optimiser's state is missing, or there is one where the strategy has none")
	}
	if !a.complete(at, f) {
		a.find(n, "the model is not of all updates that were held, or the round was closed too early")
	}
}

// spent finds a round with noise whose cost is not what the accountant says, or passes the members' budget. Another processor's logarithms
// may differ in their last bits.
func (a *auditor) spent(n int64, f entry.RoundClosed, p entry.Plan) {
	b := entry.Budget(a.manifest.Limits().Privacy)
	want := a.state.Spend(b, round.Cost(p, 1))
	if f.Spent.Unit != want.Unit || f.Spent.Delta != want.Delta || !(math.Abs(f.Spent.Epsilon-want.Epsilon) <= 1e-9*want.Epsilon) {
		a.find(n, "the log says that epsilon %g was spent, at delta %g for a %s; it is %g, at delta %g for a %s", f.Spent.Epsilon, f.Spent.Delta,
			f.Spent.Unit, want.Epsilon, want.Delta, want.Unit)
	}
	if !(want.Epsilon <= b.Epsilon) {
		a.find(n, "the round passed the budget of privacy: epsilon %g is spent, and %g is allowed", want.Epsilon, b.Epsilon)
	}
	a.report.Epsilon, a.report.Delta, a.report.Unit = f.Spent.Epsilon, f.Spent.Delta, f.Spent.Unit
}

// complete reports whether the rules ask, at the instant at, for the mean of these updates: all that were accepted since the
// coordinator booted, and of those from before the ones that were offered again.
func (a *auditor) complete(at time.Time, f entry.RoundClosed) bool {
	held := map[entry.Member]entry.Digest{}
	for _, u := range a.accepted(f.Run) {
		if _, sure := a.held(f.Run, f.Round, f.Try, u.Member); sure ||
			slices.ContainsFunc(f.Members, func(c entry.Contribution) bool { return c.Member == u.Member }) {
			held[u.Member] = u.Update
		}
	}
	todo := a.state.Todo(round.View{
		Seen: seenBy(f), Now: later(at, a.state.Newest()), Veils: veilsBy(f),
		Held: func(run string, number, try int, m entry.Member) (entry.Digest, bool) {
			d, ok := held[m]
			return d, ok && run == f.Run && number == f.Round && try == f.Try
		},
	})
	members := slices.Clone(f.Members)
	for i := range members { // which the rules do not know beforehand
		members[i].Effect = ""
	}
	return slices.ContainsFunc(todo, func(x round.Action) bool {
		c, ok := x.(round.Combine)
		return ok && c.Run == f.Run && c.Round == f.Round && c.Try == f.Try && slices.Equal(c.Members, members)
	})
}

// same reports whether two facts would be written down alike, but for reasons: those are words for people, which another version
// of the rules chooses otherwise.
func same(a, b entry.Fact) bool {
	x, err := json.Marshal(wordless(a))
	y, err2 := json.Marshal(wordless(b))
	return err == nil && err2 == nil && reflect.TypeOf(a) == reflect.TypeOf(b) && bytes.Equal(x, y)
}

func wordless(f entry.Fact) entry.Fact {
	switch f := f.(type) {
	case entry.RoundFailed:
		f.Reason = ""
		return f
	case entry.RunEnded:
		f.Reason = ""
		return f
	}
	return f
}
