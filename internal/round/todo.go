package round

import (
	"time"

	"consilium.dev/internal/entry"
)

// evaluateBack is how many closed rounds back a member that was away is asked to evaluate.
const evaluateBack = 3

// View is what Todo has to know beside the facts.
type View struct {
	Now      time.Time
	Held     Held
	Seen     Seen
	Released Released
	Veils    Veils
}

// Action is something that should be going on: one of this package's structs of the names below. An action that is going on
// already is asked for again, and is not begun twice.
type Action interface{ action() }

// The actions.
type (
	// Invite asks a member whether it takes part.
	Invite struct {
		Run    string
		Lead   string
		Member entry.Member
		Plan   entry.Plan
	}
	// Ask asks a member for its update.
	Ask struct {
		Run        string
		Lead       string
		Round, Try int
		Kind       entry.RoundKind
		Member     entry.Member
		Weight     int64
		Base       *entry.Blob // nil in a statistics round
		Model      entry.Digest
		Accepted   entry.Digest   // the update that was accepted and is not in memory any more, zero for none
		Masked     []entry.Member // between whom updates are masked, the member among them; nil for no masks
		Weights    []int64        // of all who were asked, where there are masks: they fix the grid to which a member rounds before it masks
		// The member's newest update that is part of a closed training round, zero for none: what it keeps for the next one hangs on it.
		Contributed entry.Digest
		Plan        entry.Plan
	}
	// Combine asks for the new model: the mean of these members' updates, which are in memory, and what the plan's strategy
	// makes of it. Combined answers it. Which members they are does not change once it was asked for, unless a boot or an
	// accepted update comes between: the caller takes no update into the sum after it has begun. Where whoever was absent comes
	// back meanwhile it is not asked for again; one that has begun goes on.
	Combine struct {
		Run        string
		Round, Try int
		Kind       entry.RoundKind
		Members    []entry.Contribution // ascending by member
		Base       *entry.Blob
		State      *entry.Blob // of the optimiser; nil before its first step
		Early      entry.Early // why it is not waited for everybody selected
		Plan       entry.Plan
		Selected   int            // members that were asked, whoever answered: over so many a sum with noise is taken
		Masked     []entry.Member // between whom the updates are masked; nil for no masks
		Clip       float64        // norm to which their updates were clipped, 0 for none
	}
	// Evaluate asks a member for its figures of the model that a round made.
	Evaluate struct {
		Run    string
		Lead   string
		Round  int
		Member entry.Member
		Model  entry.Digest
		Blob   entry.Blob
		Plan   entry.Plan
	}
	// Wake asks for a Tick at that instant: something follows from time alone.
	Wake struct{ At time.Time }
)

func (Invite) action()   {}
func (Ask) action()      {}
func (Combine) action()  {}
func (Evaluate) action() {}
func (Wake) action()     {}

// Todo returns what should be going on at v.Now, in a fixed order: for each run what is wanted of its members, then what the
// coordinator itself is to do; at last, if anything follows from time alone, one Wake.
func (s *State) Todo(v View) []Action {
	var out []Action
	var wake time.Time
	at := func(t time.Time) {
		if t.IsZero() {
			return
		}
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	for _, r := range s.live {
		t := r.open()
		if !r.finished() {
			out = append(out, r.invitations()...)
		}
		out = append(out, r.evaluations(v.Released)...)
		switch {
		case r.withheld(v.Released):
		case t != nil:
			veil, p := v.Veils.of(t), r.progress(t, v.Held)
			if r.stage(t, veil) != 0 {
				if s.unveiled(r, t, veil) {
					out = append(out, r.combine(t, p, t.early))
					break
				}
				asks, wakes := s.veil(v.Now, r, t, veil, v.Seen)
				out = append(out, asks...)
				for _, w := range wakes {
					at(w)
				}
				break
			}
			if early, ready := s.ready(v.Now, r, t, p, v.Seen); ready && !r.fact.Plan.Masks {
				out = append(out, r.combine(t, p, early))
				break
			}
			out = append(out, r.asks(t, p)...)
			at(t.deadline)
			at(s.lapse(v.Now, r, p.waiting, v.Seen))
		case len(r.tries) == 0:
			some, none := s.patience(r)
			if r.enough() {
				at(some)
				at(s.lapse(v.Now, r, r.who(invited), v.Seen))
			} else {
				at(none)
			}
		case r.finished():
			at(s.lastCall(r, v.Released))
			at(s.lapse(v.Now, r, r.evaluators(r.closing(r.closed)), v.Seen))
		}
		if !r.finished() && !r.withheld(v.Released) { // which would have it woken up at once, again and again
			at(r.latest())
		}
	}
	if !wake.IsZero() {
		out = append(out, Wake{wake})
	}
	return out
}

func (r *run) invitations() []Action {
	var out []Action
	for _, m := range r.members {
		if m.State == invited {
			out = append(out, Invite{Run: r.fact.Run, Lead: r.fact.Lead, Member: m.Member, Plan: r.fact.Plan})
		}
	}
	return out
}

// asks returns what is wanted of each member that an open try waits for.
func (r *run) asks(t *try, p progress) []Action {
	var out []Action
	f := t.fact
	for _, m := range p.waiting {
		share, _ := t.share(m)
		a, _ := t.of(m) // zero for none
		ask := Ask{
			Run: f.Run, Lead: r.fact.Lead, Round: f.Round, Try: f.Try, Kind: f.Kind, Member: m, Weight: share.Weight,
			Base: f.Base, Model: f.Model, Accepted: a.Update, Contributed: r.contributed[m].update, Plan: r.fact.Plan, Masked: t.masked,
		}
		for _, s := range f.Selected {
			if t.masked != nil {
				ask.Weights = append(ask.Weights, s.Weight)
			}
		}
		out = append(out, ask)
	}
	return out
}

func (r *run) combine(t *try, p progress, early entry.Early) Combine {
	return Combine{
		Run: t.fact.Run, Round: t.fact.Round, Try: t.fact.Try, Kind: t.fact.Kind, Members: p.held, Base: t.fact.Base,
		State: r.state, Early: early, Plan: r.fact.Plan, Selected: len(t.fact.Selected), Clip: t.fact.Clip,
		Masked: t.masked,
	}
}

// evaluations returns whose figures of the newest models are missing, the oldest model first.
func (r *run) evaluations(released Released) []Action {
	var out []Action
	for number := max(r.closed-evaluateBack+1, 0); number <= r.closed; number++ {
		t := r.closing(number)
		if t == nil { // round 0 of a plan that does not standardise
			continue
		}
		if _, ok := released.of(r.fact.Run, number); !ok {
			continue
		}
		for _, m := range r.evaluators(t) {
			out = append(out, Evaluate{
				Run: r.fact.Run, Lead: r.fact.Lead, Round: number, Member: m, Model: t.model, Blob: t.blob, Plan: r.fact.Plan,
			})
		}
	}
	return out
}
