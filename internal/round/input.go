package round

import (
	"errors"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
)

// The refusals. Decide wraps them with what was refused.
var (
	ErrClosed     = errors.New("not open (any more)")
	ErrUnknownRun = errors.New("no such run")
	ErrStranger   = errors.New("not asked to take part")
	ErrWeight     = errors.New("another weight than declared, or none that can be")
	ErrSecond     = errors.New("another update of the same member was accepted in this try")
	ErrOften      = errors.New("refused too often in this try")
	ErrPlan       = errors.New("the federation's rules do not allow the plan")
	ErrRequest    = errors.New("the request was used for another plan")
	ErrOpenRuns   = errors.New("too many runs are open")
	ErrStarts     = errors.New("too many runs were started in a day")
	ErrModel      = errors.New("not the model of that round")
	ErrFigures    = errors.New("figures of a form that is not taken")
	ErrOtherLog   = errors.New("the log belongs to another manifest")
	ErrRecords    = errors.New("more records than the manifest lets a member declare")
	ErrStale      = errors.New("trained from a model that too many have followed")
	ErrFuture     = errors.New("trained from a model of a round that has not been opened")
	ErrUsed       = errors.New("trained from a model of before the member's newest update that counts")
)

// reasons spells each refusal for peers and for the log.
var reasons = map[error]string{
	ErrClosed: "closed", ErrUnknownRun: "unknown_run", ErrStranger: "stranger", ErrWeight: "weight", ErrSecond: "second",
	ErrOften: "often", ErrPlan: "plan", ErrRequest: "request", ErrOpenRuns: "open_runs", ErrStarts: "starts", ErrModel: "model", ErrFigures: "figures",
	ErrOtherLog: "other_log", ErrRecords: "records", ErrUsed: "used",
	ErrStale: string(aggregate.TooStale), ErrFuture: string(aggregate.FromTheFuture),
}

// Reason returns the refusal that err wraps as one word of a closed list, and "" for an error that is none.
func Reason(err error) string {
	for sentinel, word := range reasons {
		if errors.Is(err, sentinel) {
			return word
		}
	}
	return ""
}

// Input is something that has happened or is asked for: one of this package's structs of the names below.
type Input interface{ input() }

// Sighting is what is known of a member's whereabouts. Like what is in memory it is no fact: a crash erases it.
type Sighting struct {
	Last      time.Time // when it was last heard from, zero for never since the boot
	Connected bool      // it follows now, and its lease has not lapsed
	Paused    bool      // its administrator has paused it
}

// Seen says what is known of a member's whereabouts. A nil Seen knows nothing, and then everybody is waited for.
type Seen func(entry.Member) Sighting

// Held says which update of a member a try holds in memory, if any.
type Held func(run string, round, try int, m entry.Member) (entry.Digest, bool)

// Released says when the closing of a round was released to the members, or false for one that is not yet: where a log has
// witnesses, they have to cosign it first. Until then the round is closed, and nothing follows from it that anybody could see: no
// next round, no figures, no end. A nil Released releases each as it is written down.
type Released func(run string, round int) (at time.Time, ok bool)

func (f Released) of(run string, round int) (time.Time, bool) {
	if f == nil {
		return time.Time{}, true
	}
	return f(run, round)
}

// Source is which model an update was trained from.
type Source struct {
	Base  int          // the round whose base model it was; 0: that for which it is offered
	Model entry.Digest // that base model; zero: not said
}

// The inputs.
type (
	// Adopt begins to work under a manifest. Where the log is under it already, nothing follows. Else every open try ends, without
	// cost, and with it each run that could not be created under the manifest or that too few of its members are left for. What
	// was spent before is filled in.
	Adopt struct {
		Fact   entry.ManifestAdopted
		Limits Limits   // of the manifest
		Leads  []string // who may lead under it
	}
	// HandOver says that the witnesses of before have no word any more. It has to be of the epoch that holds; whether the witnesses may
	// hand over its caller knows.
	HandOver struct{ Fact entry.HandedOver }
	// Boot says that a process has taken over the log.
	Boot struct{ Fact entry.Booted }
	// Admit says that a peer was admitted.
	Admit struct{ Fact entry.Admitted }
	// Create asks for a run. The same request of the same lead with the same plan again is no second run.
	Create struct {
		Fact   entry.RunCreated
		Limits Limits
	}
	// Consent answers an invitation. The first answer counts; later ones are taken and change nothing.
	Consent struct {
		Run     string
		Member  entry.Member
		Records int64 // 1 to aggregate.MaxWeight
		Most    int64 // that a member may declare; 0: aggregate.MaxWeight
	}
	// Decline answers an invitation with the rule that refuses it.
	Decline struct {
		Run    string
		Member entry.Member
		Rule   string
	}
	// Leave withdraws a member from an open run. Asked for again it is taken and changes nothing.
	Leave struct {
		Run    string
		Member entry.Member
		Reason string
	}
	// Query asks whether an update may be offered. No fact follows. Under an asynchronous strategy one that says of which base it is, is
	// offered for whichever round is open, though that was another when it was asked for. The same holds for Offer and Reject.
	Query struct {
		Run        string
		Round, Try int
		Member     entry.Member
		Update     entry.Digest
		Weight     int64 // 0: not said
		Source
	}
	// Offer says that an update is whole, checked, and in memory. The same again is taken and changes nothing.
	Offer struct {
		Run        string
		Round, Try int
		Member     entry.Member
		Update     entry.Digest
		Weight     int64
		Bytes      int64 // received for it
		Resent     int64 // sent more than once for it
		Source
	}
	// Reject says that an update's content was refused. So many of them count; the log is not for the refused to fill.
	Reject struct {
		Run        string
		Round, Try int
		Member     entry.Member
		Update     entry.Digest
		Reason     string
		Source
	}
	// Combined says that a try's new model, and its optimiser's state, are durable.
	Combined struct {
		Run        string
		Round, Try int
		Members    []entry.Contribution // as Combine asked
		Early      entry.Early          // likewise
		Model      entry.Digest
		Blob       entry.Blob
		State      *entry.Blob
		Clip       float64 // of the next round, where it adapts
	}
	// Evaluation hands in a member's figures of the model that a round made.
	Evaluation struct {
		Run     string
		Round   int
		Member  entry.Member
		Model   entry.Digest
		Metrics []entry.Metric
	}
	// Cancel ends an open run. Asked for again, once it has ended so, it is taken and changes nothing.
	Cancel struct {
		Run    string
		By     string // a lead
		Reason string
	}
	// Retire drops the blobs of runs that have ended and that nothing needs any more, see [State.Blobs]. It is repeated until
	// nothing follows.
	Retire struct {
		Kept time.Duration // since a run's end; more than 0
		Run  string        // "": all runs
	}
	// Tick lets time pass. It is repeated until nothing follows.
	Tick struct {
		Held     Held
		Seen     Seen
		Released Released
		Veils    Veils
	}
)

func (Adopt) input()      {}
func (HandOver) input()   {}
func (Boot) input()       {}
func (Admit) input()      {}
func (Create) input()     {}
func (Consent) input()    {}
func (Decline) input()    {}
func (Leave) input()      {}
func (Query) input()      {}
func (Offer) input()      {}
func (Reject) input()     {}
func (Combined) input()   {}
func (Evaluation) input() {}
func (Cancel) input()     {}
func (Retire) input()     {}
func (Tick) input()       {}
