package round

import (
	"slices"
	"time"

	"consilium.dev/internal/entry"
)

// Run is a view of a run.
type Run struct {
	Fact    entry.RunCreated
	State   string    // "waiting for consent", "statistics", "training", "evaluating", "completed", "failed", "cancelled"
	Since   time.Time // it is in that state
	Reason  string    // of a failure
	Created time.Time
	Members []Member
	Rounds  []Round      // every try, in the order of opening
	Epsilon float64      // that its closed rounds cost by themselves, at its plan's delta; 0 without noise
	Spent   entry.Spent  // by all runs of the federation
	Budget  entry.Budget // of the federation, zero where it has none
}

// Member is a member's part in a run.
type Member struct {
	Member  entry.Member
	State   string    // "invited", "consented", "declined", "left"
	Records int64     // declared at consent: its weight
	Rule    string    // of its owner's policy, that declined; or why it left
	Since   time.Time // State holds
	Missed  int       // closed rounds in a row that it was selected for and whose model is without its update
}

// Round is a view of one try of a round.
type Round struct {
	Round, Try int
	Kind       entry.RoundKind
	State      string // "open", "closed", "failed"; "closing": see Run.Visible
	Spared     bool   // failed for a new manifest, or for a boot and its masks, which costs no try
	Selected   []entry.Share
	Masked     []entry.Member // between whom updates are masked; nil before that is agreed upon, and without masks
	Unmasking  []entry.Member // whose are in the sum; nil before no more are taken
	Accepted   []entry.UpdateAccepted
	Received   int64   // bytes of accepted updates on the wire
	Resent     int64   // bytes of accepted updates that were sent more than once
	Bound      float64 // most that a value of the mean can be off
	Opened     time.Time
	Deadline   time.Time
	Clip       float64              // norm to which updates are clipped, 0 for none
	Closed     time.Time            // zero while open
	Model      entry.Digest         // zero unless closed
	Members    []entry.Contribution // whose updates it was made of, and what the strategy did with each; nil unless closed
	Evaluated  []entry.Evaluated
	Early      entry.Early // why it was closed early, "" where it was not
}

// Progress is how far a run is that a member takes part in.
type Progress struct {
	Run    string
	Closed int // newest closed round that is released, -1 before the first
	Oldest int // oldest round whose base an update may be of that is offered from now on; 0 for that after Closed, as where rounds are synchronous
}

// Runs returns all runs, oldest first.
func (s *State) Runs() []Run {
	out := make([]Run, len(s.runs))
	for i, r := range s.runs {
		out[i] = s.view(r)
	}
	return out
}

// Run returns the run with that id.
func (s *State) Run(id string) (Run, bool) {
	r := s.byID[id]
	if r == nil {
		return Run{}, false
	}
	return s.view(r), true
}

// RunOf returns the id of the run that the lead's request has created.
func (s *State) RunOf(lead, id string) (string, bool) {
	r := s.requests[request{lead, id}]
	if r == nil {
		return "", false
	}
	return r.fact.Run, true
}

// TakesPart reports whether a run that the member has consented to, open or not, began with that model or made it.
func (s *State) TakesPart(m entry.Member, model entry.Digest) bool {
	for _, r := range s.runs {
		if p := r.member(m); p == nil || p.State != consented {
			continue
		}
		if r.fact.Model == model || slices.ContainsFunc(r.tries, func(t *try) bool { return t.model == model }) {
			return true
		}
	}
	return false
}

// Progress returns the open runs that the member has consented to. Updates of rounds up to their newest closed one that is
// released, or before the oldest where one is named, and those of runs that are not named, are needed by nobody any more.
func (s *State) Progress(m entry.Member, released Released) []Progress {
	var out []Progress
	for _, r := range s.live {
		if p := r.member(m); p != nil && p.State == consented {
			closed := r.newest(released)
			out = append(out, Progress{r.fact.Run, closed, r.oldest(closed)})
		}
	}
	return out
}

// newest returns the newest closed round that is released, -1 before the first.
func (r *run) newest(released Released) int {
	n := r.closed
	for ; n >= 0; n-- {
		if _, ok := released.of(r.fact.Run, n); ok {
			break
		}
	}
	return n
}

// Ending is how a run ended that a member took part in.
type Ending struct {
	Run             string
	Outcome, Reason string
	Closed          int // newest closed round that is released, -1 for none
}

// maxEndings is how many endings a member is told.
const maxEndings = 16

// Endings returns the newest of the runs that have ended and that the member had consented to, newest first.
func (s *State) Endings(m entry.Member, released Released) []Ending {
	var out []Ending
	for _, r := range slices.Backward(s.runs) {
		if len(out) == maxEndings {
			break
		}
		if p := r.member(m); r.ended != "" && p != nil && p.State == consented {
			out = append(out, Ending{r.fact.Run, r.ended, r.reason, r.newest(released)})
		}
	}
	return out
}

// Visible returns the run as it may be seen: a round whose closing is not released yet is "closing", and what came of it is left
// out.
func (r Run) Visible(released Released) Run {
	r.Rounds = slices.Clone(r.Rounds)
	for i := range r.Rounds {
		x := &r.Rounds[i]
		if _, ok := released.of(r.Fact.Run, x.Round); ok || x.State != closed {
			continue
		}
		x.State, x.Closed, x.Model, x.Members, x.Evaluated = closing, time.Time{}, entry.Digest{}, nil, nil
		if r.State == evaluating { // and the last round is not one of statistics
			r.State = training
		}
	}
	return r
}

// phase words where the run is.
func (r *run) phase() string {
	switch {
	case r.ended != "":
		return r.ended
	case len(r.tries) == 0:
		return "waiting for consent"
	case r.finished():
		return evaluating
	case r.tries[len(r.tries)-1].fact.Kind == entry.Statistics:
		return "statistics"
	}
	return training
}

// view copies what later facts change in place. What they only append to is shared, and cut off so that nobody else does.
func (s *State) view(r *run) Run {
	out := Run{
		Fact: r.fact, State: r.phase(), Since: r.phased, Reason: r.reason, Created: r.created, Members: slices.Clone(r.members),
		Rounds: make([]Round, len(r.tries)), Epsilon: r.epsilon(), Spent: s.spent, Budget: s.manifest.Budget,
	}
	for i, t := range r.tries {
		v := Round{
			Round: t.fact.Round, Try: t.fact.Try, Kind: t.fact.Kind, State: t.state, Selected: t.fact.Selected,
			Accepted: slices.Clip(t.accepted), Bound: t.fact.Bound, Opened: t.opened, Deadline: t.deadline, Closed: t.closedAt,
			Model: t.model, Members: t.members, Evaluated: slices.Clip(t.figures), Early: t.early, Spared: t.spared,
			Clip: t.fact.Clip, Masked: t.masked, Unmasking: t.unmasking,
		}
		for _, a := range t.accepted {
			v.Received += a.Bytes
			v.Resent += a.Resent
		}
		out.Rounds[i] = v
	}
	return out
}
