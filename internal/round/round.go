// Package round says what happens in a run. It is a pure machine, in the way of etcd's raft: it reads no clock, draws no
// chance, starts no goroutine and touches nothing outside itself.
//
//	facts, err := state.Decide(now, input)   // what follows from input, or why it is refused; changes nothing
//	err = state.Apply(at, fact)              // folds each of them into the state
//	                                         // the caller makes the facts durable, before or after
//	actions := state.Todo(view)              // what should be going on now, read off the state
//
// Facts are decided and applied in their order and by one caller. It may apply some before they are durable, so that what comes
// next is decided by them; but until they are, nothing that follows from them leaves it, and if they cannot be made durable it
// forgets the state. Replaying the log is applying its facts
// again. What should be going on is never stored: after a crash the replayed state asks for the same work, so no effect is
// lost. Two things that a crash erases are not facts and are passed in: the time, and which accepted updates are in memory.
//
// Whoever is absent or paused is not waited for once a quorum is there (see [Sighting]), and a plan may close its rounds with
// fewer updates than it asks members for (over-selection, see [entry.Plan]): presence.go has these rules.
//
// A run goes through these phases. While members answer its invitation it waits for consent; it needs as many as the plan's
// quorum. Then its rounds follow each other, round 0 (statistics) only where the plan standardises. A round is one or more
// tries. A try selects everybody who has consented, fixes their weights and so the grid of the sum, and closes when all of
// them have sent an update, or at its deadline with at least a quorum. A try that cannot reach its quorum fails, and after
// the plan's tries the run does. Under an asynchronous strategy a training round closes as soon as its buffer is full, and takes updates of
// the bases of earlier rounds too: buffer.go has these rules. When the last round is closed the members' figures of its model are waited for, one more
// deadline long, and the run is completed.
package round

import (
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/privacy"
)

// State is the fold over the facts. Its methods are not safe for concurrent use; what they return may be kept.
type State struct {
	newest   time.Time
	manifest entry.ManifestAdopted // zero before the first
	adopted  time.Time
	spent    entry.Spent         // privacy, by all closed rounds
	carried  entry.Spent         // before the log began
	ledger   []privacy.Mechanism // all closed rounds with noise
	booted   time.Time
	runs     []*run // in the order of their creation
	live     []*run // those of them that have not ended
	byID     map[string]*run
	requests map[request]*run
	tags     map[string]entry.Digest // models that somebody has given a name
}

// request is what makes a start safe to repeat.
type request struct{ lead, id string }

// New returns the state before the first fact.
func New() *State {
	return &State{byID: map[string]*run{}, requests: map[request]*run{}, tags: map[string]entry.Digest{}}
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
	clip    float64      // norm to which the next round's updates are clipped, 0 where the plan asks for no noise
	closed  int          // newest closed round, -1 before the first
	since   time.Time    // last closing
	was     string       // phase, after the newest fact
	phased  time.Time    // since when it is in it
	ended   string       // outcome, "" while the run is open
	reason  string
	dropped map[int]bool // rounds whose blobs are kept no more
	// contributed is each member's newest update that is part of a closed training round.
	contributed map[entry.Member]contribution

	buffer aggregate.Buffer // of its strategy; zero where rounds are synchronous

	needs  entry.Member // without whose update its strategy makes no model; "" where it needs nobody's
	judges bool         // its strategy does more than add updates up, so facts may say what became of each
}

// contribution is an update that is part of a closed round.
type contribution struct {
	update entry.Digest
	round  int
}

// try is one try of one round.
type try struct {
	fact     entry.RoundOpened
	opened   time.Time
	deadline time.Time // renewed by each boot
	state    string    // "open", "closed", "failed"
	spared   bool      // a new manifest ended it, or a boot that its masks have not outlived: it costs no try
	lost     bool      // its masks were in the memory of a process that is gone
	accepted []entry.UpdateAccepted
	index    map[entry.Member]int // of accepted
	refused  map[entry.Member]int
	closedAt time.Time
	blob     entry.Blob  // of model
	memory   *entry.Blob // the optimiser's state
	early    entry.Early
	model    entry.Digest
	members  []entry.Contribution // of model

	masked    []entry.Member // between whom updates are masked; nil until that is agreed upon
	unmasking []entry.Member // whose are in the sum; nil before no more are taken

	figures  []entry.Evaluated
	reported map[entry.Member]bool // whose figures are there
}

// Newest returns the time of the newest fact, zero before the first. Time that is passed to Decide and Apply is never before
// it.
func (s *State) Newest() time.Time { return s.newest }

// The answers of a member.
const (
	invited   = "invited"
	consented = "consented"
	declined  = "declined"
	left      = "left"
)

// The states of a try.
const (
	open    = "open"
	closed  = "closed"
	closing = "closing" // closed, and not yet released
	failed  = "failed"  // a run too
)

// The phases of a run in and after its training.
const (
	training   = "training"
	evaluating = "evaluating"
)

// The other outcomes of a run.
const (
	completed = "completed"
	cancelled = "cancelled"
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
	if n := len(r.tries); n > 0 && r.tries[n-1].state == open {
		return r.tries[n-1]
	}
	return nil
}

// next returns which try would be opened now.
func (r *run) next() (number, attempt int) {
	number = r.closed + 1
	if !r.fact.Plan.Measured() {
		number = max(number, 1)
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

// holds reports whether the accepted update of a member is in memory.
func (t *try) holds(held Held, m entry.Member) bool {
	a, accepted := t.of(m)
	d, ok := held(t.fact.Run, t.fact.Round, t.fact.Try, m)
	return accepted && ok && d == a.Update
}

// sums reports whether members are some of the accepted updates, ascending, and as many as a quorum.
func (t *try) sums(members []entry.Contribution, quorum int) bool {
	for i, c := range members {
		a, ok := t.of(c.Member)
		if !ok || a.Update != c.Update || a.Weight != c.Weight || a.Staleness != c.Staleness || i > 0 && members[i-1].Member >= c.Member {
			return false
		}
	}
	return len(members) >= quorum
}

// sums reports whether a try can be closed with these members' updates.
func (r *run) sums(t *try, members []entry.Contribution) bool {
	needed := r.needed(t)
	for _, c := range members {
		switch aggregate.Effect(c.Effect) {
		case "":
		case aggregate.LeftOut, aggregate.Clipped, aggregate.Reference:
			if !r.judges || t.fact.Kind != entry.Training {
				return false
			}
		default:
			return false
		}
		if c.Member == needed {
			needed = ""
		}
	}
	return needed == "" && t.sums(members, r.fact.Plan.Quorum)
}

// needed returns without whose update a try cannot be closed, "" where it needs nobody's.
func (r *run) needed(t *try) entry.Member {
	if t.fact.Kind == entry.Training {
		return r.needs
	}
	return ""
}

// enough reports whether so many have consented, and whom the strategy needs, that a round can be opened.
func (r *run) enough() bool {
	return r.count(consented) >= r.fact.Plan.Quorum && (r.needs == "" || r.member(r.needs).State == consented)
}

// share returns the declared weight of a selected member.
func (t *try) share(m entry.Member) (entry.Share, bool) {
	i, ok := slices.BinarySearchFunc(t.fact.Selected, m, func(s entry.Share, m entry.Member) int { return compare(s.Member, m) })
	if !ok {
		return entry.Share{}, false
	}
	return t.fact.Selected[i], true
}

// String names a try in errors.
func (t *try) String() string {
	return fmt.Sprintf("round %d, try %d, of run %s", t.fact.Round, t.fact.Try, t.fact.Run)
}
