package client

import (
	"encoding/json"
	"fmt"
	"time"

	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// Summary is a run in a list. Its JSON names, like those of all types here, are stable.
type Summary struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Lead    string    `json:"lead"`
	State   string    `json:"state"` // "waiting for consent", "statistics", "training", "evaluating", "completed", "failed", "cancelled"
	Round   int       `json:"round"` // newest
	Rounds  int       `json:"rounds"`
	Created time.Time `json:"created"`
	Since   time.Time `json:"since,omitzero"` // it is in that state
}

// List is all runs, as they are at one instant.
type List struct {
	Runs []Summary `json:"runs"`
	Now  time.Time `json:"now,omitzero"` // the coordinator's time
}

// Ended reports whether nothing more will happen.
func (s Summary) Ended() bool {
	return s.State == "completed" || s.State == "failed" || s.State == "cancelled"
}

// Run is everything that there is to show of a run.
type Run struct {
	Summary
	Plan      entry.Plan `json:"plan"`
	Members   []Member   `json:"members"`
	History   []Round    `json:"history"`
	Omitted   int        `json:"omitted,omitempty"` // oldest rounds that are not in History
	Reason    string     `json:"reason,omitempty"`  // of a failure
	Waiting   string     `json:"waiting,omitempty"` // for whom or what, in words
	Simulated string     `json:"simulated,omitempty"`
	Rollback  string     `json:"rollback,omitempty"`
	Unwraps   string     `json:"unwraps,omitempty"` // who can open the key-encryption key of the coordinator's store, in words
	Now       time.Time  `json:"now"`               // the coordinator's time
	Privacy   *Privacy   `json:"privacy,omitempty"` // where the plan asks for noise
}

// Privacy is what a run with noise costs. Its figures are upper bounds.
type Privacy struct {
	Unit       string  `json:"unit"`      // whom epsilon protects: entry.Participant or entry.Record
	Epsilon    float64 `json:"epsilon"`   // of the run's closed rounds by themselves
	Delta      float64 `json:"delta"`     // for it, as the plan says
	Spent      float64 `json:"spent"`     // epsilon of all that the federation has released in all runs
	Budget     float64 `json:"budget"`    // most that it may come to, as the manifest says
	ForDelta   float64 `json:"for_delta"` // for both
	Accountant string  `json:"accountant"`
}

// Member is a member's part in a run.
type Member struct {
	Name      string    `json:"name"`
	State     string    `json:"state"` // "invited", "consented", "declined", "left"
	Records   int64     `json:"records,omitempty"`
	Rule      string    `json:"rule,omitempty"` // that declined, or why it left
	Seen      time.Time `json:"seen,omitzero"`  // last heard from; zero: not since the coordinator started
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since,omitzero"`     // it is in that state
	Activity  *Activity `json:"activity,omitempty"` // nil: it has not said what it does, or not lately
	Twice     bool      `json:"twice,omitempty"`    // two programs speak under its name
	Resent    int64     `json:"resent,omitempty"`   // bytes of models, of any run, that it was sent more than once, since links broke and since the coordinator started
}

// Activity is what a member's participant last said that it does. It was said less than a minute before [Run.Now].
type Activity struct {
	Doing    string    `json:"doing"` // "idle", "answering", "training", "offering", "evaluating", "leaving", "paused"
	Run      string    `json:"run,omitempty"`
	Round    int       `json:"round,omitempty"`
	Since    time.Time `json:"since"`
	Steps    int64     `json:"steps,omitempty"` // of a training that are done
	Of       int64     `json:"of,omitempty"`
	Progress time.Time `json:"progress,omitzero"` // when the trainer made its last step, or began
}

// Round is one try of a round, and the figures of the model that it made.
type Round struct {
	Round    int          `json:"round"`
	Try      int          `json:"try"`
	Kind     string       `json:"kind"`
	State    string       `json:"state"` // "open", "closed", "failed"
	Selected []string     `json:"selected"`
	Accepted []string     `json:"accepted"`
	Model    entry.Digest `json:"model,omitzero"`
	Opened   time.Time    `json:"opened"`
	Closed   time.Time    `json:"closed,omitzero"`
	Deadline time.Time    `json:"deadline"`
	Received int64        `json:"received"` // bytes of updates
	Resent   int64        `json:"resent"`   // bytes of updates that were sent more than once, since links broke
	Bound    float64      `json:"bound"`    // most that a value of the mean can be off
	Figures  []Figures    `json:"figures,omitempty"`
	Clip     float64      `json:"clip,omitempty"`  // norm to which updates are clipped, where the plan asks for noise
	Early    string       `json:"early,omitempty"` // "report_goal" or "absent": closed before all selected had sent and before its deadline
	Effects  []Effect     `json:"effects,omitempty"`
	Late     []Late       `json:"late,omitempty"` // those of the accepted updates that came late
}

// Late says by how many rounds a member's update came late: it was trained from the base model of an earlier one.
type Late struct {
	Member string `json:"member"`
	Rounds int    `json:"rounds"`
}

// Effect says that a strategy did something else with a member's update than to add it.
type Effect struct {
	Member string       `json:"member"`
	Effect entry.Effect `json:"effect"` // "left_out": it has no part in the model; "clipped": it was shortened; "reference": the others were measured by it
}

// Figures are one member's figures of a model version.
type Figures struct {
	Member  string         `json:"member"`
	Metrics []entry.Metric `json:"metrics"`
}

// Metric returns the figure of that name on that set of rows.
func (f Figures) Metric(set, name string) (entry.Metric, bool) {
	for _, m := range f.Metrics {
		if m.Set == set && m.Name == name {
			return m, true
		}
	}
	return entry.Metric{}, false
}

// Over returns the figure over all rows of those members that reported it, weighted by rows, and how many rows these are.
func Over(all []Figures, set, name string) (value float64, rows int64) {
	for _, f := range all {
		if m, ok := f.Metric(set, name); ok {
			value += m.Value * float64(m.Count)
			rows += m.Count
		}
	}
	if rows == 0 {
		return 0, 0
	}
	return value / float64(rows), rows
}

// Model is a model version with its provenance.
type Model struct {
	ID           entry.Digest   `json:"id"`
	Run          string         `json:"run"`
	RunName      string         `json:"run_name"`
	Round        int            `json:"round"`
	Base         entry.Digest   `json:"base,omitzero"`
	Size         int64          `json:"size"`
	Created      time.Time      `json:"created"`
	Members      []string       `json:"members"`
	Strategy     string         `json:"strategy"`
	Params       map[string]any `json:"params,omitempty"` // of the strategy, as the plan gives them
	Masked       bool           `json:"masked,omitempty"` // members masked their updates
	Late         []Late         `json:"late,omitempty"`   // of those among Members, whose updates were of an earlier base
	Epsilon      float64        `json:"epsilon"`
	Delta        float64        `json:"delta"`
	Unit         string         `json:"unit,omitempty"` // whom epsilon protects; epsilon is of all that the federation had released by then
	Position     int64          `json:"position"`       // of its commit in the log
	Manifest     entry.Digest   `json:"manifest"`
	Simulated    string         `json:"simulated,omitempty"`
	Rollback     string         `json:"rollback,omitempty"`
	Tags         []string       `json:"tags,omitempty"`
	Measurements []string       `json:"measurements"`
	Figures      []Figures      `json:"figures,omitempty"`
	Effects      []Effect       `json:"effects,omitempty"` // of those among Members
	Deleted      time.Time      `json:"deleted,omitzero"`  // from the coordinator's store, since its retention had run out
}

func summary(s *pb.RunSummary) Summary {
	return Summary{
		ID: s.GetRun(), Name: s.GetName(), Lead: s.GetLead(), State: s.GetState(), Round: int(s.GetRound()), Rounds: int(s.GetRounds()),
		Created: instant(s.GetCreatedUs()), Since: instant(s.GetSinceUs()),
	}
}

func run(r *pb.ShowReply) (Run, error) {
	out := Run{
		Summary: summary(r.Summary), Omitted: int(r.Omitted), Reason: r.Reason, Waiting: r.Waiting, Simulated: r.Simulated,
		Rollback: r.Rollback, Unwraps: r.Unwraps, Now: instant(r.NowUs), History: []Round{}, Members: []Member{},
	}
	if err := json.Unmarshal(r.Plan, &out.Plan); err != nil {
		return out, fmt.Errorf("reading the run's plan: %w", err)
	}
	if p := r.Privacy; p != nil {
		out.Privacy = &Privacy{
			Unit: p.Unit, Epsilon: p.Epsilon, Delta: p.Delta, Spent: p.Spent, Budget: p.Budget, ForDelta: p.ForDelta, Accountant: p.Accountant,
		}
	}
	for _, m := range r.Members {
		out.Members = append(out.Members, Member{
			Name: m.Member, State: m.State, Records: m.Records, Rule: m.Rule, Seen: instant(m.SeenUs), Connected: m.Connected,
			Since: instant(m.SinceUs), Activity: activity(m.Activity), Twice: m.Twice, Resent: m.Resent,
		})
	}
	for _, x := range r.Rounds {
		out.History = append(out.History, Round{
			Round: int(x.Round), Try: int(x.Try), Kind: x.Kind, State: x.State, Selected: x.Selected, Accepted: x.Accepted,
			Model: digest(x.Model), Opened: instant(x.OpenedUs), Closed: instant(x.ClosedUs), Deadline: instant(x.DeadlineUs),
			Received: x.Received, Resent: x.Resent, Bound: x.Bound, Figures: figures(x.Metrics), Early: x.Early, Clip: x.Clip,
			Effects: effects(x.Effects), Late: late(x.Accepted, x.Staleness),
		})
	}
	return out, nil
}

func activity(a *pb.Activity) *Activity {
	if a == nil {
		return nil
	}
	return &Activity{
		Doing: a.Doing, Run: a.Run, Round: int(a.Round), Since: instant(a.SinceUs), Steps: a.Steps, Of: a.Of, Progress: instant(a.ProgressUs),
	}
}

func version(m *pb.ModelView) Model {
	return Model{
		ID: digest(m.GetModel()), Run: m.GetRun(), RunName: m.GetRunName(), Round: int(m.GetRound()), Base: digest(m.GetBase()),
		Size: m.GetSize(), Created: instant(m.GetCreatedUs()), Deleted: instant(m.GetDroppedUs()), Members: m.GetMembers(), Strategy: m.GetStrategy(),
		Epsilon: m.GetEpsilon(), Delta: m.GetDelta(), Unit: m.GetUnit(), Position: m.GetPosition(), Manifest: digest(m.GetManifest()),
		Simulated: m.GetSimulated(), Rollback: m.GetRollback(), Tags: m.GetTags(), Measurements: m.GetMeasurements(),
		Figures: figures(m.GetMetrics()), Effects: effects(m.GetEffects()),
		Params: params(m.GetParams()), Masked: m.GetMasked(), Late: late(m.GetMembers(), m.GetStaleness()),
	}
}

// params reads a strategy's parameters, as far as a coordinator says them.
func params(text []byte) map[string]any {
	var out map[string]any
	if json.Unmarshal(text, &out) != nil {
		return nil
	}
	return out
}

// late pairs members with how late their updates were. A list that does not fit says nothing.
func late(members []string, rounds []int32) []Late {
	var out []Late
	for i, n := range rounds {
		if n > 0 && len(rounds) == len(members) {
			out = append(out, Late{members[i], int(n)})
		}
	}
	return out
}

func effects(all []*pb.MemberEffect) []Effect {
	var out []Effect
	for _, e := range all {
		out = append(out, Effect{e.Member, entry.Effect(e.Effect)})
	}
	return out
}

func figures(all []*pb.MemberMetrics) []Figures {
	var out []Figures
	for _, m := range all {
		f := Figures{Member: m.Member}
		for _, x := range m.Metrics {
			f.Metrics = append(f.Metrics, entry.Metric{Set: x.Set, Name: x.Name, Value: x.Value, Count: x.Count, Better: x.Better})
		}
		out = append(out, f)
	}
	return out
}

// digest reads what the coordinator sent as a digest; anything else is none.
func digest(b []byte) (d entry.Digest) {
	if len(b) == len(d) {
		copy(d[:], b)
	}
	return d
}

func instant(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// Status is how a coordinator is, as it says. Its JSON names are stable.
type Status struct {
	Coordinator   string         `json:"coordinator"`
	Version       string         `json:"version"`
	Epoch         uint64         `json:"epoch"`
	Manifest      entry.Digest   `json:"manifest"`
	Simulated     string         `json:"simulated,omitempty"` // private root of its enclave
	Now           time.Time      `json:"now"`
	QuotesWaiting int            `json:"quotes_waiting"`       // handshakes that wait for its attester
	QuotesOldest  entry.Duration `json:"quotes_oldest"`        // how long the oldest of them has waited
	Collateral    string         `json:"collateral,omitempty"` // what it keeps of revocation lists, TCB info and the like, in words
}
