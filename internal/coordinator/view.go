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
	now       func() time.Time
	simulated string // private root of our own enclave
	rollback  string
}

// run is everything that there is to show of a run; figures only to those who may read them.
func (v *viewer) run(r round.Run, figures bool) *pb.ShowReply {
	plan, err := json.Marshal(r.Fact.Plan)
	if err != nil {
		panic("coordinator: a plan that came from JSON does not go back: " + err.Error())
	}
	out := &pb.ShowReply{
		Summary: summary(r), Plan: plan, Reason: r.Reason, Waiting: v.waiting(r), Simulated: v.simulated,
		Rollback: v.rollback, NowUs: v.now().UnixMicro(),
	}
	for _, m := range r.Members {
		at, connected := v.presence.last(m.Member)
		view := &pb.MemberView{Member: string(m.Member), State: m.State, Records: m.Records, Rule: m.Rule, Connected: connected}
		if !at.IsZero() {
			view.SeenUs = at.UnixMicro()
		}
		out.Members = append(out.Members, view)
	}
	for _, x := range r.Rounds {
		if !figures {
			x.Evaluated = nil
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

func summary(r round.Run) *pb.RunSummary {
	s := &pb.RunSummary{
		Run: r.Fact.Run, Name: r.Fact.Plan.Name, Lead: r.Fact.Lead, State: r.State, Rounds: number(r.Fact.Plan.Rounds),
		CreatedUs: r.Created.UnixMicro(),
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
	}
	for _, s := range r.Selected {
		out.Selected = append(out.Selected, string(s.Member))
	}
	for _, a := range r.Accepted {
		out.Accepted = append(out.Accepted, string(a.Member))
	}
	if !r.Model.IsZero() {
		out.Model = r.Model[:]
	}
	if !r.Closed.IsZero() {
		out.ClosedUs = r.Closed.UnixMicro()
	}
	out.Metrics = metrics(r.Evaluated)
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
func (v *viewer) waiting(r round.Run) string {
	if ended(r.State) {
		return ""
	}
	var missing []entry.Member
	what, of := "answer to the invitation", len(r.Members)
	if n := len(r.Rounds); n > 0 && r.Rounds[n-1].State == "open" {
		last := r.Rounds[n-1]
		what, of = fmt.Sprintf("update of round %d", last.Round), len(last.Selected)
		for _, s := range last.Selected {
			if !slices.ContainsFunc(last.Accepted, func(a entry.UpdateAccepted) bool { return a.Member == s.Member }) {
				missing = append(missing, s.Member)
			}
		}
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
	return fmt.Sprintf("waiting for %s of %d of %d: %s", what, len(missing), of, strings.Join(who, ", "))
}

// evaluating returns whose figures of the newest model are still missing.
func (v *viewer) evaluating(r round.Run) (what string, of int, missing []entry.Member) {
	last := r.Rounds[len(r.Rounds)-1]
	for _, m := range r.Members {
		if m.State != "consented" {
			continue
		}
		of++
		if !slices.ContainsFunc(last.Evaluated, func(e entry.Evaluated) bool { return e.Member == m.Member }) {
			missing = append(missing, m.Member)
		}
	}
	return fmt.Sprintf("evaluation of round %d", last.Round), of, missing
}

// sighting words when a member was last heard from.
func (v *viewer) sighting(m entry.Member) string {
	at, connected := v.presence.last(m)
	switch {
	case connected:
		return string(m) + " (connected)"
	case at.IsZero():
		return string(m) + " (not seen since the coordinator started)"
	}
	return fmt.Sprintf("%s (last seen %s ago)", m, v.now().Sub(at).Round(time.Second))
}

// model words a model version and its provenance; figures only to those who may read them.
func (v *viewer) model(x registry.Version, figures bool) *pb.ModelView {
	if !figures {
		x.Evaluated = nil
	}
	out := &pb.ModelView{
		Model: x.Model[:], Run: x.Run, RunName: x.RunName, Round: number(x.Round), Size: x.Blob.Size,
		CreatedUs: x.Created.UnixMicro(), Strategy: x.Strategy, Epsilon: x.Spent.Epsilon, Delta: x.Spent.Delta,
		Position: x.Position, Manifest: x.Manifest[:], Simulated: x.Simulated, Rollback: x.Rollback, Tags: x.Tags,
		Measurements: x.Sets, Metrics: metrics(x.Evaluated),
	}
	if !x.Base.IsZero() {
		out.Base = x.Base[:]
	}
	for _, m := range x.Members {
		out.Members = append(out.Members, string(m.Member))
	}
	return out
}
