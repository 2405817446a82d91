package round

import (
	"fmt"
	"strings"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
)

// tick returns what follows from the time alone, for each run the next step.
func (s *State) tick(now time.Time, held Held) []entry.Fact {
	var out []entry.Fact
	for _, r := range s.runs {
		switch t := r.open(); {
		case r.ended != "":
		case t != nil:
			out = append(out, s.overdue(now, r, t, held)...)
		case len(r.tries) == 0:
			out = append(out, s.begin(now, r)...)
		case r.finished():
			out = append(out, s.finish(now, r)...)
		default:
			out = append(out, r.reopen(now)...)
		}
	}
	return out
}

// progress is how far an open try is: who is held in memory, and whether somebody is still waited for.
type progress struct {
	held    []entry.Contribution // ascending by member
	waiting int                  // selected, not held, and not out of the try
}

func (t *try) progress(held Held) progress {
	var p progress
	for _, share := range t.fact.Selected {
		a, accepted := t.of(share.Member)
		if d, ok := held(t.fact.Run, t.fact.Round, t.fact.Try, share.Member); accepted && ok && d == a.Update {
			p.held = append(p.held, entry.Contribution{Member: share.Member, Weight: share.Weight, Update: a.Update})
		} else if accepted || t.refused[share.Member] < maxRefusals {
			p.waiting++
		}
	}
	return p
}

// ready reports whether the try's mean is to be taken now.
func (p progress) ready(now time.Time, t *try, quorum int) bool {
	return len(p.held) >= quorum && (p.waiting == 0 || !now.Before(t.deadline))
}

// overdue fails a try that cannot reach its quorum any more, and the run with its last try.
func (s *State) overdue(now time.Time, r *run, t *try, held Held) []entry.Fact {
	p, quorum := t.progress(held), r.fact.Plan.Quorum
	late := !now.Before(t.deadline)
	if len(p.held) >= quorum || !late && len(p.held)+p.waiting >= quorum {
		return nil
	}
	reason := fmt.Sprintf("%d of the %d updates needed were there at the deadline", len(p.held), quorum)
	if !late {
		reason = fmt.Sprintf("too many updates were refused: %d of the %d needed could still be there", len(p.held)+p.waiting, quorum)
	}
	out := facts(entry.RoundFailed{Run: r.fact.Run, Round: t.fact.Round, Try: t.fact.Try, Reason: reason})
	if t.fact.Try >= r.fact.Plan.Tries {
		out = append(out, r.end("failed", fmt.Sprintf("round %d failed %d times, the last time because %s", t.fact.Round, t.fact.Try, reason)))
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

// begin opens the first round when the members have answered, or when enough have and the others were given their time.
func (s *State) begin(now time.Time, r *run) []entry.Fact {
	yes, silent, quorum := r.count(consented), r.count(invited), r.fact.Plan.Quorum
	some, none := s.patience(r)
	switch {
	case yes+silent < quorum:
		return facts(r.end("failed", fmt.Sprintf("%d of %d members take part, %d are needed; declined: %s",
			yes, len(r.members), quorum, strings.Join(r.who(declined), ", "))))
	case yes >= quorum && (silent == 0 || !now.Before(some)):
		return r.reopen(now)
	case yes < quorum && !now.Before(none):
		return facts(r.end("failed", fmt.Sprintf("%d of the %d members needed have consented in time; no answer: %s",
			yes, quorum, strings.Join(r.who(invited), ", "))))
	}
	return nil
}

func (r *run) who(answer string) []string {
	var names []string
	for _, m := range r.members {
		if m.State == answer {
			names = append(names, string(m.Member))
		}
	}
	return names
}

// reopen opens the next try with everybody who has consented by now, or ends a run whose mean would be too coarse.
func (r *run) reopen(now time.Time) []entry.Fact {
	p := r.fact.Plan
	number, attempt := r.next()
	f := entry.RoundOpened{
		Run: r.fact.Run, Round: number, Try: attempt, Kind: entry.Training, Base: r.base, Model: r.model,
		Deadline: now.Add(time.Duration(p.Deadline)),
	}
	maxAbs, resolution := p.MaxAbs, p.Resolution
	if number == 0 {
		// Twice the limit of the mean squares: the limits of their float32s have a little room for rounding.
		f.Kind, f.Base, f.Model = entry.Statistics, nil, entry.Digest{}
		maxAbs, resolution = 2*p.Standardize.MaxAbs, 0
	}
	if resolution == 0 {
		resolution = defaultResolution * maxAbs
	}
	var weights []int64
	for _, m := range r.members {
		if m.State == consented {
			f.Selected = append(f.Selected, entry.Share{Member: m.Member, Weight: m.Records})
			weights = append(weights, m.Records)
		}
	}
	f.Bound = aggregate.Bound(maxAbs, weights, p.Quorum)
	if !(f.Bound <= resolution) {
		return facts(r.end("failed", fmt.Sprintf("round %d was not opened: with the smallest records of %d members its mean could be "+
			"off by %.3g, the plan's resolution is %.3g; a larger quorum, a smaller max_abs or a coarser resolution would do",
			number, p.Quorum, f.Bound, resolution)))
	}
	return facts(f)
}

// finish completes a run when everybody has evaluated its last model, or was given the time to.
func (s *State) finish(now time.Time, r *run) []entry.Fact {
	if len(r.evaluators(r.closing(r.closed))) > 0 && now.Before(s.lastCall(r)) {
		return nil
	}
	return facts(r.end("completed", ""))
}

// lastCall returns until when figures of the last model are waited for.
func (s *State) lastCall(r *run) time.Time {
	return later(r.since, s.booted).Add(time.Duration(r.fact.Plan.Deadline))
}

// evaluators returns whose figures of a round's model are missing.
func (r *run) evaluators(t *try) []entry.Member {
	var out []entry.Member
	for _, m := range r.members {
		if m.State == consented && !t.reported[m.Member] {
			out = append(out, m.Member)
		}
	}
	return out
}
