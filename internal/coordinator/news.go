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
	of      map[entry.Member]*wish // nil: the loop has told nothing yet
	changed chan struct{}          // closed when there is newer news
}

// wish is what is wanted of one member, and the same one in all news until that changes: of a thousand members who follow, one fact
// wakes those whom it is about.
type wish struct {
	*pb.Wanted
	changed chan struct{} // closed when something else is wanted
}

// maxTasks is the most bytes of tasks in what is wanted of one member, of which plans, and what some hundred others say of their masks, are most:
// gRPC's messages stay below 4 MiB. What does not fit is wanted when older things are done.
const maxTasks = 3 << 20

// room counts them.
type room map[entry.Member]int

// fits reports whether a task has room, and then takes it.
func (r room) fits(m entry.Member, task proto.Message) bool {
	n := proto.Size(task) + 8 // for its field
	if r[m]+n > maxTasks {
		return false
	}
	r[m] += n
	return true
}

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
	left := room{}
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
			if i := (&pb.Invitation{Run: a.Run, Lead: a.Lead, Plan: l.studies[a.Run].text}); left.fits(a.Member, i) {
				w := of(a.Member)
				w.Invitations = append(w.Invitations, i)
			}
		case round.Ask:
			if t := train(a, l.studies[a.Run].text); left.fits(a.Member, t) {
				w := of(a.Member)
				w.Train = append(w.Train, t)
			}
		case round.Mask:
			if q := l.maskAsked(a, l.studies[a.Run].text); left.fits(a.Member, q) {
				w := of(a.Member)
				w.Masks = append(w.Masks, q)
			}
		case round.Evaluate:
			e := &pb.Evaluate{
				Run: a.Run, Lead: a.Lead, Round: number(a.Round), Model: a.Model[:], Size: a.Blob.Size, Plan: l.studies[a.Run].text,
			}
			if left.fits(a.Member, e) {
				w := of(a.Member)
				w.Evaluate = append(w.Evaluate, e)
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
