package round

import (
	"fmt"
	"time"

	"consilium.dev/internal/entry"
)

// defaultGrace is how long an absent member is waited for where the plan does not say.
const defaultGrace = 2 * time.Minute

// fairTurn is the turn of a straggler. Over-selection would leave out for ever whoever is always slower than the others, and the
// model would never learn of its records; so of so many rounds in a row that closed without a member, the next one is not closed
// early while that member is there and has not sent.
const fairTurn = 4

// ready reports whether a try's mean is to be taken now, and why it is if not everybody selected has sent and there is time.
func (s *State) ready(now time.Time, r *run, t *try, p progress, seen Seen) (early entry.Early, ready bool) {
	plan := r.fact.Plan
	switch {
	case len(p.held) < plan.Quorum || !p.has(r.needed(t)):
		return "", false
	case len(p.waiting) == 0 || !now.Before(t.deadline):
		return "", true
	case r.goal(t) > 0 && len(p.held) >= r.goal(t) && s.allAway(now, r, r.owed(t, p.waiting), seen):
		return entry.ReportGoal, true
	case s.allAway(now, r, p.waiting, seen):
		return entry.Absent, true
	}
	return "", false
}

// owed returns those of the members whose turn it is: nobody's where what a straggler does counts in a later round.
func (r *run) owed(t *try, members []entry.Member) []entry.Member {
	var out []entry.Member
	if t.fact.Kind == entry.Training && r.buffer.MaxStaleness() > 0 {
		return nil
	}
	for _, m := range members {
		if r.member(m).Missed%fairTurn == fairTurn-1 {
			out = append(out, m)
		}
	}
	return out
}

// tally counts for whom one more round was closed without an update of theirs.
func (r *run) tally(t *try, members []entry.Contribution) {
	in := map[entry.Member]bool{}
	for _, c := range members {
		in[c.Member] = true
	}
	for _, share := range t.fact.Selected {
		m := r.member(share.Member)
		m.Missed++
		if in[share.Member] {
			m.Missed = 0
		}
	}
}

// early reports whether a try may be closed early with these members for that reason. Who was absent only memory knew.
func (r *run) early(t *try, why entry.Early, members []entry.Contribution) bool {
	switch why {
	case "", entry.Absent:
		return true
	case entry.ReportGoal:
		return r.goal(t) > 0 && len(members) >= r.goal(t)
	}
	return false
}

// gone returns from when a member is not waited for any more once a quorum is there; false while it is connected.
func (s *State) gone(r *run, m entry.Member, seen Seen) (time.Time, bool) {
	if seen == nil {
		return time.Time{}, false
	}
	at := seen(m)
	switch {
	case at.Paused:
		return time.Time{}, true
	case at.Connected:
		return time.Time{}, false
	}
	grace := time.Duration(r.fact.Plan.Grace)
	if grace == 0 {
		grace = defaultGrace
	}
	return later(at.Last, s.booted).Add(grace), true
}

// allAway reports whether none of the members is waited for.
func (s *State) allAway(now time.Time, r *run, members []entry.Member, seen Seen) bool {
	for _, m := range members {
		if from, away := s.gone(r, m, seen); !away || now.Before(from) {
			return false
		}
	}
	return true
}

// lapse returns when the next of the members stops being waited for, zero if only they themselves can change that.
func (s *State) lapse(now time.Time, r *run, members []entry.Member, seen Seen) time.Time {
	var next time.Time
	for _, m := range members {
		if from, away := s.gone(r, m, seen); away && now.Before(from) && (next.IsZero() || from.Before(next)) {
			next = from
		}
	}
	return next
}

// latest returns when the plan's longest time for the run has passed, zero if it sets none.
func (r *run) latest() time.Time {
	if r.fact.Plan.MaxTime == 0 {
		return time.Time{}
	}
	return r.created.Add(time.Duration(r.fact.Plan.MaxTime))
}

// overlong reports whether the run has lasted longer than its plan lets it.
func (r *run) overlong(now time.Time) bool {
	end := r.latest()
	return !end.IsZero() && !now.Before(end)
}

// deserted says why no further round can be opened: fewer than a quorum take part, or one without whom there is no model does not. It is "" where one can.
func (r *run) deserted() string {
	n := r.count(consented)
	switch {
	case r.enough():
		return ""
	case n >= r.fact.Plan.Quorum:
		return fmt.Sprintf("%s, by whose updates the others are measured, does not take part", r.needs)
	}
	return fmt.Sprintf("%d of the %d members needed still take part; left: %s", n, r.fact.Plan.Quorum, listed(r.who(left)))
}
