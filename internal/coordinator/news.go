package coordinator

import (
	"math"

	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	pb "consilium.dev/proto/consilium/v1"
)

// news is what is wanted of each member at one moment. Nothing is told once: who missed it reads the newest.
type news struct {
	of      map[entry.Member]*wish
	changed chan struct{} // closed when there is newer news
}

// wish is what is wanted of one member, and the same one in all news until that changes: of a thousand members who follow, one fact
// wakes those whom it is about.
type wish struct {
	*pb.Wanted
	changed chan struct{} // closed when something else is wanted
}

// maxPlans is the most bytes of plans in what is wanted of one member: gRPC's messages stay below 4 MiB. What does not fit is
// wanted when older things are done.
const maxPlans = 3 << 20

// publish makes the actions the newest news. Called by the loop.
func (l *loop) publish(actions []round.Action) {
	wanted := map[entry.Member]*pb.Wanted{}
	of := func(m entry.Member) *pb.Wanted {
		w := wanted[m]
		if w == nil {
			w = &pb.Wanted{Version: l.version}
			wanted[m] = w
		}
		return w
	}
	size := map[entry.Member]int{}
	fits := func(m entry.Member, plan []byte) bool {
		if size[m]+len(plan) > maxPlans {
			return false
		}
		size[m] += len(plan)
		return true
	}
	for _, m := range l.members {
		w := of(m)
		for _, p := range l.state.Progress(m, l.released) {
			w.Progress = append(w.Progress, &pb.Progress{Run: p.Run, Closed: number(p.Closed), Oldest: number(p.Oldest)})
		}
		for _, e := range l.state.Endings(m, l.released) {
			w.Progress = append(w.Progress, &pb.Progress{
				Run: e.Run, Closed: number(e.Closed), Ended: true, Outcome: e.Outcome, Reason: e.Reason,
			})
		}
	}
	for _, a := range actions {
		switch a := a.(type) {
		case round.Invite:
			plan := l.studies[a.Run].text
			if w := of(a.Member); fits(a.Member, plan) {
				w.Invitations = append(w.Invitations, &pb.Invitation{Run: a.Run, Lead: a.Lead, Plan: plan})
			}
		case round.Ask:
			plan := l.studies[a.Run].text
			if w := of(a.Member); fits(a.Member, plan) {
				w.Train = append(w.Train, train(a, plan))
			}
		case round.Mask:
			plan := l.studies[a.Run].text
			if w := of(a.Member); fits(a.Member, plan) {
				w.Masks = append(w.Masks, l.maskAsked(a, plan))
			}
		case round.Evaluate:
			plan := l.studies[a.Run].text
			if w := of(a.Member); fits(a.Member, plan) {
				w.Evaluate = append(w.Evaluate, &pb.Evaluate{
					Run: a.Run, Lead: a.Lead, Round: number(a.Round), Model: a.Model[:], Size: a.Blob.Size, Plan: plan,
				})
			}
		}
	}
	l.announce(wanted)
}

// announce makes these the newest news and wakes whom they are news to.
func (l *loop) announce(wanted map[entry.Member]*pb.Wanted) {
	last, next := l.wanted.Load(), &news{of: map[entry.Member]*wish{}, changed: make(chan struct{})}
	for m, w := range wanted {
		if old := last.of[m]; old != nil && proto.Equal(old.Wanted, w) {
			next.of[m] = old
			continue
		}
		next.of[m] = &wish{w, make(chan struct{})}
	}
	l.wanted.Store(next)
	close(last.changed)
	for m, old := range last.of {
		if next.of[m] != old {
			close(old.changed)
		}
	}
}

func train(a round.Ask, plan []byte) *pb.Train {
	t := &pb.Train{
		Run: a.Run, Lead: a.Lead, Round: number(a.Round), Try: number(a.Try), Kind: string(a.Kind), Weight: a.Weight, Plan: plan,
	}
	if a.Base != nil {
		t.Model, t.BaseSize = a.Model[:], a.Base.Size
	}
	if !a.Accepted.IsZero() {
		t.Accepted = a.Accepted[:]
	}
	if !a.Contributed.IsZero() {
		t.Contributed = a.Contributed[:]
	}
	if a.Masked != nil {
		t.Masking = &pb.Masking{Weights: a.Weights}
		for _, m := range a.Masked {
			t.Masking.Members = append(t.Masking.Members, string(m))
		}
	}
	return t
}

// number returns a round or try as the wire has it. Plans bound both far below.
func number(n int) int32 {
	if n < math.MinInt32 || n > math.MaxInt32 {
		panic("coordinator: a round or try beyond what plans allow")
	}
	return int32(n)
}
