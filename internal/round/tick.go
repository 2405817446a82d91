package round

import (
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/entry"
)

// tick returns what follows from the time alone, for each run the next step.
func (s *State) tick(now time.Time, in Tick) []entry.Fact {
	var out []entry.Fact
	seen, released := in.Seen, in.Released
	for _, r := range s.live {
		switch t := r.open(); {
		case r.withheld(released):
			// Not even by its longest time: members forget what they kept for a run that has ended, and nobody may act on a history that
			// no quorum has seen. What has passed meanwhile counts once they have.
		case r.finished():
			out = append(out, s.finish(now, r, seen, released)...)
		case r.overlong(now):
			out = append(out, r.end(failed, fmt.Sprintf("it took longer than its max_time of %v; it was at: %s", time.Duration(r.fact.Plan.MaxTime), r.phase())))
		case t != nil:
			next := s.masks(now, r, t, in.Held, seen, in.Veils.of(t))
			if next == nil {
				next = s.overdue(now, r, t, in.Held)
			}
			out = append(out, next...)
		case len(r.tries) == 0:
			out = append(out, s.begin(now, r, seen)...)
		default:
			out = append(out, s.reopen(now, r, "")...)
		}
	}
	return out
}

// progress is how far an open try is. Each of those selected is in one of its lists, all ascending by member.
type progress struct {
	held    []entry.Contribution // in memory
	waiting []entry.Member       // may still send what is not held
	out     []entry.Member       // refused too often
	left    []entry.Member       // have withdrawn and are not held
	bare    []entry.Member       // have no masks
}

// has reports whether the member's update is in memory; "" is nobody's.
func (p progress) has(m entry.Member) bool {
	return m == "" || slices.ContainsFunc(p.held, func(c entry.Contribution) bool { return c.Member == m })
}

func (r *run) progress(t *try, held Held) progress {
	var p progress
	for _, share := range t.fact.Selected {
		a, accepted := t.of(share.Member)
		switch {
		case t.holds(held, share.Member):
			p.held = append(p.held, entry.Contribution{Member: share.Member, Weight: share.Weight, Update: a.Update, Staleness: a.Staleness})
		case r.member(share.Member).State == left:
			p.left = append(p.left, share.Member)
		case t.masked != nil && !slices.Contains(t.masked, share.Member):
			p.bare = append(p.bare, share.Member)
		case accepted || t.refused[share.Member] < maxRefusals:
			p.waiting = append(p.waiting, share.Member)
		default:
			p.out = append(p.out, share.Member)
		}
	}
	return p
}

// overdue fails a try that cannot reach its quorum any more.
func (s *State) overdue(now time.Time, r *run, t *try, held Held) []entry.Fact {
	p, quorum := r.progress(t, held), r.fact.Plan.Quorum
	late := !now.Before(t.deadline)
	possible := len(p.held) + len(p.waiting)
	needed := r.needed(t)
	there := p.has(needed)
	coming := there || slices.Contains(p.waiting, needed)
	if len(p.held) >= quorum && there || !late && possible >= quorum && coming {
		return nil
	}
	reason := fmt.Sprintf("%d of the %d updates needed were there at the deadline; missing: %s", len(p.held), quorum, listed(p.waiting))
	if !late {
		reason = fmt.Sprintf("%d of the %d updates needed could still be there", possible, quorum)
		for _, lost := range []struct {
			why string
			who []entry.Member
		}{{"refused too often", p.out}, {"left", p.left}, {"without masks", p.bare}} {
			if len(lost.who) > 0 {
				reason += "; " + lost.why + ": " + listed(lost.who)
			}
		}
	}
	if late && len(p.held) >= quorum || !late && possible >= quorum {
		reason = fmt.Sprintf("the update of %s, by which the others are measured, is missing", needed)
	}
	return r.fails(t, reason)
}

// fails ends a try, and the run with its last one, or where too few members are left.
func (r *run) fails(t *try, reason string) []entry.Fact {
	out := facts(entry.RoundFailed{Run: r.fact.Run, Round: t.fact.Round, Try: t.fact.Try, Reason: reason})
	switch attempt, why := t.fact.Try-r.spared(t.fact.Round), r.deserted(); {
	case why != "":
		out = append(out, r.end(failed, why))
	case attempt >= r.fact.Plan.Tries:
		out = append(out, r.end(failed, fmt.Sprintf("round %d failed in try %d of %d: %s", t.fact.Round, attempt, r.fact.Plan.Tries, reason)))
	}
	return out
}

func (r *run) end(outcome, reason string) entry.Fact {
	return entry.RunEnded{Run: r.fact.Run, Outcome: outcome, Reason: reason}
}

// patience returns until when answers to the invitation are waited for where a quorum has consented, and where none has.
func (s *State) patience(r *run) (some, none time.Time) {
	since, deadline := later(r.created, s.booted), time.Duration(r.fact.Plan.Deadline)
	return since.Add(deadline), since.Add(deadline * time.Duration(r.fact.Plan.Tries))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// begin opens the first round when the members have answered, or when enough have and the others were given their time or are
// absent.
func (s *State) begin(now time.Time, r *run, seen Seen) []entry.Fact {
	yes, silent, quorum := r.count(consented), r.count(invited), r.fact.Plan.Quorum
	some, none := s.patience(r)
	enough := r.enough()
	switch {
	case r.needs != "" && r.member(r.needs).State != consented && r.member(r.needs).State != invited:
		return facts(r.end(failed, fmt.Sprintf("%s, by whose updates the others are measured, does not take part", r.needs)))
	case yes+silent < quorum:
		reason := fmt.Sprintf("%d of %d members take part, %d are needed; declined: %s", yes, len(r.members), quorum, listed(r.who(declined)))
		if gone := r.who(left); len(gone) > 0 {
			reason += "; left: " + listed(gone)
		}
		return facts(r.end(failed, reason))
	case enough && (silent == 0 || !now.Before(some)):
		return s.reopen(now, r, "")
	case enough && s.allAway(now, r, r.who(invited), seen):
		return s.reopen(now, r, entry.Absent)
	case !enough && yes >= quorum && !now.Before(none):
		return facts(r.end(failed, fmt.Sprintf("%s, by whose updates the others are measured, has not consented in time", r.needs)))
	case !enough && !now.Before(none):
		return facts(r.end(failed, fmt.Sprintf("%d of the %d members needed have consented in time; no answer: %s",
			yes, quorum, listed(r.who(invited)))))
	}
	return nil
}

func (r *run) who(answer string) []entry.Member {
	var names []entry.Member
	for _, m := range r.members {
		if m.State == answer {
			names = append(names, m.Member)
		}
	}
	return names
}

// finish completes a run when everybody has evaluated its last model, was given the time to, or is absent.
func (s *State) finish(now time.Time, r *run, seen Seen, released Released) []entry.Fact {
	missing := r.evaluators(r.closing(r.closed))
	switch {
	case len(missing) == 0 || !now.Before(s.lastCall(r, released)):
		return facts(r.end(completed, ""))
	case s.allAway(now, r, missing, seen):
		return facts(entry.RunEnded{Run: r.fact.Run, Outcome: completed, Early: entry.Absent})
	}
	return nil
}

// lastCall returns until when figures of the last model are waited for.
func (s *State) lastCall(r *run, released Released) time.Time {
	at, _ := released.of(r.fact.Run, r.closed)
	return later(later(r.since, s.booted), at).Add(time.Duration(r.fact.Plan.Deadline))
}

// withheld reports whether the newest closing of the run is not released yet.
func (r *run) withheld(released Released) bool {
	if r.closed < 0 {
		return false
	}
	_, ok := released.of(r.fact.Run, r.closed)
	return !ok
}

// evaluators returns whose figures of a round's model are missing: nobody's where the plan asks for noise, since figures of the own
// records have none.
func (r *run) evaluators(t *try) []entry.Member {
	var out []entry.Member
	if r.fact.Plan.Privacy != nil {
		return nil
	}
	for _, m := range r.members {
		if m.State == consented && !t.reported[m.Member] {
			out = append(out, m.Member)
		}
	}
	return out
}
