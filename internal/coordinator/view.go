package coordinator

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/registry"
	"consilium.dev/internal/round"
	pb "consilium.dev/proto/consilium/v1"
)

// maxView is the most bytes of a view: gRPC's messages stay below 4 MiB.
const maxView = 3 << 20

// viewer words the state for people. It decides nothing.
type viewer struct {
	presence  *presence
	downloads *downloads
	now       func() time.Time
	simulated string // private root of our own enclave
	rollback  func() string
	unwraps   func() string // who can open the key-encryption key of our store; nil: not said
}

// run is everything that there is to show of a run; figures only to those who may read them.
func (v *viewer) run(seen sighted, figures bool) *pb.ShowReply {
	r := seen.Run
	plan, err := json.Marshal(r.Fact.Plan)
	if err != nil {
		panic("coordinator: a plan that came from JSON does not go back: " + err.Error())
	}
	out := &pb.ShowReply{
		Summary: summary(r), Plan: plan, Reason: r.Reason, Waiting: v.waiting(seen), Simulated: v.simulated,
		Rollback: v.rollback(), NowUs: v.now().UnixMicro(),
	}
	if p := r.Fact.Plan.Privacy; p != nil {
		budget := r.Budget
		if budget.Unit != p.Unit { // an epoch has set one of another unit, or none
			budget = entry.Budget{Delta: r.Spent.Delta}
		}
		out.Privacy = &pb.Privacy{
			Unit: p.Unit, Epsilon: r.Epsilon, Delta: p.Delta, Spent: r.Spent.Epsilon, Budget: budget.Epsilon, ForDelta: budget.Delta,
			Accountant: "renyi",
		}
	}
	if v.unwraps != nil {
		out.Unwraps = v.unwraps()
	}
	for _, m := range r.Members {
		at, connected := v.presence.last(m.Member)
		view := &pb.MemberView{
			Member: string(m.Member), State: m.State, Records: m.Records, Rule: m.Rule, Connected: connected, SinceUs: m.Since.UnixMicro(),
			Resent: v.downloads.resent(m.Member),
		}
		if a, twice, ok := v.presence.doing(m.Member); ok {
			view.Activity, view.Twice = activityView(a), twice
		}
		if !at.IsZero() {
			view.SeenUs = at.UnixMicro()
		}
		out.Members = append(out.Members, view)
	}
	for _, x := range r.Rounds {
		if !figures {
			x.Evaluated, x.Members = nil, nil
		}
		out.Rounds = append(out.Rounds, roundView(x))
	}
	for len(out.Rounds) > 1 && proto.Size(out) > maxView {
		half := len(out.Rounds) / 2
		out.Rounds = out.Rounds[half:]
		out.Omitted += number(half)
	}
	return out
}

func activityView(a activity) *pb.Activity {
	out := &pb.Activity{Doing: a.doing, Run: a.run, Round: number(a.round), SinceUs: a.since.UnixMicro(), Steps: a.steps, Of: a.of}
	if !a.progress.IsZero() {
		out.ProgressUs = a.progress.UnixMicro()
	}
	return out
}

func summary(r round.Run) *pb.RunSummary {
	s := &pb.RunSummary{
		Run: r.Fact.Run, Name: r.Fact.Plan.Name, Lead: r.Fact.Lead, State: r.State, Rounds: number(r.Fact.Plan.Rounds),
		CreatedUs: r.Created.UnixMicro(), SinceUs: r.Since.UnixMicro(),
	}
	if n := len(r.Rounds); n > 0 {
		s.Round = number(r.Rounds[n-1].Round)
	}
	return s
}

func roundView(r round.Round) *pb.RoundView {
	out := &pb.RoundView{
		Round: number(r.Round), Try: number(r.Try), Kind: string(r.Kind), State: r.State, OpenedUs: r.Opened.UnixMicro(),
		DeadlineUs: r.Deadline.UnixMicro(), Received: r.Received, Resent: r.Resent, Bound: r.Bound, Early: string(r.Early),
		Clip: r.Clip,
	}
	for _, s := range r.Selected {
		out.Selected = append(out.Selected, string(s.Member))
	}
	var stale []int
	for _, a := range r.Accepted {
		out.Accepted = append(out.Accepted, string(a.Member))
		stale = append(stale, a.Staleness)
	}
	out.Staleness = staleness(stale)
	if !r.Model.IsZero() {
		out.Model = r.Model[:]
	}
	if !r.Closed.IsZero() {
		out.ClosedUs = r.Closed.UnixMicro()
	}
	out.Metrics, out.Effects = metrics(r.Evaluated), effects(r.Members)
	return out
}

// effects words what became of those updates with which a strategy did something else than to add them.
func effects(all []entry.Contribution) []*pb.MemberEffect {
	var out []*pb.MemberEffect
	for _, c := range all {
		if c.Effect != "" {
			out = append(out, &pb.MemberEffect{Member: string(c.Member), Effect: string(c.Effect)})
		}
	}
	return out
}

func metrics(all []entry.Evaluated) []*pb.MemberMetrics {
	var out []*pb.MemberMetrics
	for _, e := range all {
		m := &pb.MemberMetrics{Member: string(e.Member)}
		for _, x := range e.Metrics {
			m.Metrics = append(m.Metrics, &pb.Metric{Set: x.Set, Name: x.Name, Value: x.Value, Count: x.Count, Better: x.Better})
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *pb.MemberMetrics) int { return strings.Compare(a.Member, b.Member) })
	return out
}

// waiting says for whom a run waits, and since when they have not been heard from.
func (v *viewer) waiting(seen sighted) string {
	r, lacking := seen.Run, seen.lack
	if lacking != nil && len(lacking.lacks) == 0 { // in the moment between two heads that are put before the witnesses
		return fmt.Sprintf("round %d is closed, and its release is under way", lacking.round)
	}
	if lacking != nil {
		return fmt.Sprintf("round %d is closed and waits for its witnesses: %s", lacking.round, lacking.words("cosigned", v.sighting))
	}
	if ended(r.State) {
		return ""
	}
	var missing []entry.Member
	what, of := "answer to the invitation", len(r.Members)
	if n := len(r.Rounds); n > 0 && r.Rounds[n-1].State == "open" {
		last := r.Rounds[n-1]
		what, of, missing = updating(last, r.Fact.Plan.Masks, seen.veil)
	} else if n == 0 {
		for _, m := range r.Members {
			if m.State == "invited" {
				missing = append(missing, m.Member)
			}
		}
	} else {
		what, of, missing = v.evaluating(r)
	}
	if len(missing) == 0 {
		return ""
	}
	var who []string
	for _, m := range missing {
		who = append(who, v.sighting(m))
	}
	return fmt.Sprintf("waiting for %d of %d (%s): %s", len(missing), of, what, strings.Join(who, ", "))
}

// updating returns of whom something is still missing in an open try: an update, or what its masks need.
func updating(t round.Round, masks bool, v round.Veil) (what string, of int, missing []entry.Member) {
	var asked, there []entry.Member
	for _, s := range t.Selected {
		asked = append(asked, s.Member)
	}
	switch {
	case t.Unmasking != nil:
		what, asked, there = "shares that take the masks off round %d", t.Unmasking, v.Shown
	case masks && t.Masked == nil && v.Among != nil:
		what, asked, there = "shares of masks for round %d", v.Among, v.Shared
	case masks && t.Masked == nil:
		what, there = "keys of masks for round %d", v.Announced
	default:
		what = "update of round %d"
		if masks {
			asked = t.Masked
		}
		for _, a := range t.Accepted {
			there = append(there, a.Member)
		}
	}
	for _, m := range asked {
		if !slices.Contains(there, m) {
			missing = append(missing, m)
		}
	}
	return fmt.Sprintf(what, t.Round), len(asked), missing
}

// evaluating returns whose figures of the newest model are still missing.
func (v *viewer) evaluating(r round.Run) (what string, of int, missing []entry.Member) {
	last := r.Rounds[len(r.Rounds)-1]
	reported := map[entry.Member]bool{}
	for _, e := range last.Evaluated {
		reported[e.Member] = true
	}
	for _, m := range r.Members {
		if m.State != "consented" {
			continue
		}
		of++
		if !reported[m.Member] {
			missing = append(missing, m.Member)
		}
	}
	return fmt.Sprintf("evaluation of round %d", last.Round), of, missing
}

// stalled is how long a trainer may make no step before it is said.
const stalled = 2 * time.Minute

// sighting words what is known of a member now, and since when.
func (v *viewer) sighting(m entry.Member) string {
	at, now := v.presence.sighting(m), v.now()
	a, _, told := v.presence.doing(m)
	switch {
	case told && at.Paused:
		return fmt.Sprintf("%s paused for %s", m, ago(now.Sub(a.since)))
	case at.Connected && !told:
		return string(m) + " connected"
	case at.Connected && !a.progress.IsZero() && now.Sub(a.progress) >= stalled:
		return fmt.Sprintf("%s %s for %s, no progress for %s", m, a.doing, ago(now.Sub(a.since)), ago(now.Sub(a.progress)))
	case at.Connected:
		return fmt.Sprintf("%s %s for %s", m, a.doing, ago(now.Sub(a.since)))
	case at.Last.IsZero():
		return string(m) + " not seen since the coordinator started, " + ago(now.Sub(v.presence.began)) + " ago"
	}
	return fmt.Sprintf("%s last seen %s ago", m, ago(now.Sub(at.Last)))
}

// ago words how long something has lasted, as people say it.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(int(d.Seconds()), 0))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

// staleness words by how many rounds updates came late, nothing where none did.
func staleness(rounds []int) []int32 {
	if len(rounds) == 0 || slices.Max(rounds) == 0 {
		return nil
	}
	var out []int32
	for _, n := range rounds {
		out = append(out, number(n))
	}
	return out
}

// model words a model version and its provenance; figures only to those who may read them.
func (v *viewer) model(x registry.Version, figures bool) *pb.ModelView {
	if !figures {
		x.Evaluated = nil
	}
	out := &pb.ModelView{
		Model: x.Model[:], Run: x.Run, RunName: x.RunName, Round: number(x.Round), Size: x.Blob.Size,
		CreatedUs: x.Created.UnixMicro(), Strategy: x.Strategy, Epsilon: x.Spent.Epsilon, Delta: x.Spent.Delta, Unit: x.Spent.Unit,
		Position: x.Position, Manifest: x.Manifest[:], Simulated: x.Simulated, Rollback: x.Rollback, Tags: x.Tags,
		Measurements: x.Sets, Metrics: metrics(x.Evaluated),
	}
	if !x.Base.IsZero() {
		out.Base = x.Base[:]
	}
	if !x.Dropped.IsZero() {
		out.DroppedUs = x.Dropped.UnixMicro()
	}
	var stale []int
	for _, m := range x.Members {
		out.Members = append(out.Members, string(m.Member))
		stale = append(stale, m.Staleness)
	}
	if len(x.Params) > 0 {
		out.Params, _ = json.Marshal(x.Params) // they have come as JSON
	}
	out.Masked, out.Staleness = x.Masked, staleness(stale)
	if figures {
		out.Effects = effects(x.Members)
	}
	return out
}
