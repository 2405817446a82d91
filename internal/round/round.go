// Package round says what happens in a run. It is a pure machine, in the way of etcd's raft: it reads no clock, draws no
// chance, starts no goroutine and touches nothing outside itself.
//
//	facts, err := state.Decide(now, input)   // what follows from input, or why it is refused; changes nothing
//	                                         // the caller makes the facts durable
//	err = state.Apply(at, fact)              // folds each of them into the state
//	actions := state.Todo(view)              // what should be going on now, read off the state
//
// Facts are decided, then written, then applied, in this order and by one caller. Replaying the log is applying its facts
// again. What should be going on is never stored: after a crash the replayed state asks for the same work, so no effect is
// lost. Two things that a crash erases are not facts and are passed in: the time, and which accepted updates are in memory.
//
// A run goes through these phases. While members answer its invitation it waits for consent; it needs as many as the plan's
// quorum. Then its rounds follow each other, round 0 (statistics) only where the plan standardises. A round is one or more
// tries. A try selects everybody who has consented, fixes their weights and so the grid of the sum, and closes when all of
// them have sent an update, or at its deadline with at least a quorum. A try that cannot reach its quorum fails, and after
// the plan's tries the run does. When the last round is closed the members' figures of its model are waited for, one more
// deadline long, and the run is completed.
package round

import (
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/entry"
)

// State is the fold over the facts. Its methods are not safe for concurrent use; what they return may be kept.
type State struct {
	newest   time.Time
	manifest entry.ManifestAdopted // zero before the first
	booted   time.Time
	runs     []*run // in the order of their creation
	byID     map[string]*run
	requests map[request]*run
}

// request is what makes a start safe to repeat.
type request struct{ lead, id string }

// New returns the state before the first fact.
func New() *State {
	return &State{byID: map[string]*run{}, requests: map[request]*run{}}
}

// run is one run. Members are in the fact's order, tries in the order of their opening.
type run struct {
	fact    entry.RunCreated
	created time.Time
	members []Member
	tries   []*try
	base    *entry.Blob  // newest model; nil before the first
	model   entry.Digest // of base
	state   *entry.Blob  // of the optimiser
	closed  int          // newest closed round, -1 before the first
	since   time.Time    // last closing
	ended   string       // outcome, "" while the run is open
	reason  string
}

// try is one try of one round.
type try struct {
	fact     entry.RoundOpened
	opened   time.Time
	deadline time.Time // renewed by each boot
	state    string    // "open", "closed", "failed"
	accepted []entry.UpdateAccepted
	index    map[entry.Member]int // of accepted
	refused  map[entry.Member]int
	closedAt time.Time
	blob     entry.Blob // of model
	model    entry.Digest
	figures  []entry.Evaluated
	reported map[entry.Member]bool // whose figures are there
}

// Run is a view of a run.
type Run struct {
	Fact    entry.RunCreated
	State   string // "waiting for consent", "statistics", "training", "evaluating", "completed", "failed", "cancelled"
	Reason  string // of a failure
	Created time.Time
	Members []Member
	Rounds  []Round // every try, in the order of opening
}

// Member is a member's part in a run.
type Member struct {
	Member  entry.Member
	State   string // "invited", "consented", "declined"
	Records int64  // declared at consent: its weight
	Rule    string // of its owner's policy, that declined
}

// Round is a view of one try of a round.
type Round struct {
	Round, Try int
	Kind       entry.RoundKind
	State      string // "open", "closed", "failed"
	Selected   []entry.Share
	Accepted   []entry.UpdateAccepted
	Received   int64   // bytes of accepted updates on the wire
	Bound      float64 // most that a value of the mean can be off
	Opened     time.Time
	Deadline   time.Time
	Closed     time.Time    // zero while open
	Model      entry.Digest // zero unless closed
	Evaluated  []entry.Evaluated
}

// Progress is how far a run is that a member takes part in.
type Progress struct {
	Run    string
	Closed int // newest closed round, -1 before the first
}

// Newest returns the time of the newest fact, zero before the first. Time that is passed to Decide and Apply is never before
// it.
func (s *State) Newest() time.Time { return s.newest }

// Runs returns all runs, oldest first.
func (s *State) Runs() []Run {
	out := make([]Run, len(s.runs))
	for i, r := range s.runs {
		out[i] = r.view()
	}
	return out
}

// Run returns the run with that id.
func (s *State) Run(id string) (Run, bool) {
	r := s.byID[id]
	if r == nil {
		return Run{}, false
	}
	return r.view(), true
}

// RunOf returns the id of the run that the lead's request has created.
func (s *State) RunOf(lead, id string) (string, bool) {
	r := s.requests[request{lead, id}]
	if r == nil {
		return "", false
	}
	return r.fact.Run, true
}

// Progress returns the open runs that the member has consented to. Updates of rounds up to their newest closed one, and
// those of runs that are not named, are needed by nobody any more.
func (s *State) Progress(m entry.Member) []Progress {
	var out []Progress
	for _, r := range s.runs {
		if p := r.member(m); r.ended == "" && p != nil && p.State == consented {
			out = append(out, Progress{r.fact.Run, r.closed})
		}
	}
	return out
}

// The answers of a member.
const (
	invited   = "invited"
	consented = "consented"
	declined  = "declined"
)

// The states of a try.
const (
	open   = "open"
	closed = "closed"
	failed = "failed"
)

// member returns the member's part, nil for one that was not asked.
func (r *run) member(m entry.Member) *Member {
	i, ok := slices.BinarySearchFunc(r.members, m, func(p Member, m entry.Member) int { return compare(p.Member, m) })
	if !ok {
		return nil
	}
	return &r.members[i]
}

func compare(a, b entry.Member) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// count returns how many members have given that answer.
func (r *run) count(answer string) int {
	n := 0
	for _, m := range r.members {
		if m.State == answer {
			n++
		}
	}
	return n
}

// open returns the try that takes updates, nil if there is none.
func (r *run) open() *try {
	if n := len(r.tries); r.ended == "" && n > 0 && r.tries[n-1].state == open {
		return r.tries[n-1]
	}
	return nil
}

// next returns which try would be opened now.
func (r *run) next() (number, attempt int) {
	number = r.closed + 1
	if r.closed < 0 && r.fact.Plan.Standardize == nil {
		number = 1
	}
	if n := len(r.tries); n > 0 && r.tries[n-1].state == failed {
		return r.tries[n-1].fact.Round, r.tries[n-1].fact.Try + 1
	}
	return number, 1
}

// finished reports whether the last round is closed.
func (r *run) finished() bool { return r.closed >= r.fact.Plan.Rounds }

// closing returns the try that closed a round, nil if none did.
func (r *run) closing(number int) *try {
	for _, t := range slices.Backward(r.tries) {
		if t.fact.Round == number && t.state == closed {
			return t
		}
	}
	return nil
}

// of returns the accepted update of a member.
func (t *try) of(m entry.Member) (entry.UpdateAccepted, bool) {
	i, ok := t.index[m]
	if !ok {
		return entry.UpdateAccepted{}, false
	}
	return t.accepted[i], true
}

// share returns the declared weight of a selected member.
func (t *try) share(m entry.Member) (entry.Share, bool) {
	i, ok := slices.BinarySearchFunc(t.fact.Selected, m, func(s entry.Share, m entry.Member) int { return compare(s.Member, m) })
	if !ok {
		return entry.Share{}, false
	}
	return t.fact.Selected[i], true
}

// phase words where the run is.
func (r *run) phase() string {
	switch {
	case r.ended != "":
		return r.ended
	case len(r.tries) == 0:
		return "waiting for consent"
	case r.finished():
		return "evaluating"
	case r.tries[len(r.tries)-1].fact.Kind == entry.Statistics:
		return "statistics"
	}
	return "training"
}

// view copies what later facts change in place; what they only append to is shared.
func (r *run) view() Run {
	out := Run{
		Fact: r.fact, State: r.phase(), Reason: r.reason, Created: r.created, Members: slices.Clone(r.members),
		Rounds: make([]Round, len(r.tries)),
	}
	for i, t := range r.tries {
		v := Round{
			Round: t.fact.Round, Try: t.fact.Try, Kind: t.fact.Kind, State: t.state, Selected: t.fact.Selected,
			Accepted: t.accepted, Bound: t.fact.Bound, Opened: t.opened, Deadline: t.deadline, Closed: t.closedAt, Model: t.model,
			Evaluated: t.figures,
		}
		for _, a := range t.accepted {
			v.Received += a.Bytes
		}
		out.Rounds[i] = v
	}
	return out
}

// String names a try in errors.
func (t *try) String() string {
	return fmt.Sprintf("round %d, try %d, of run %s", t.fact.Round, t.fact.Try, t.fact.Run)
}
