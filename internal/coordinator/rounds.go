package coordinator

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/skew"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// heartbeat is how often a follower hears of us though nothing is new.
const heartbeat = 15 * time.Second

// rounds answers participants.
type rounds struct {
	pb.UnimplementedRoundsServer
	loop     *loop
	presence *presence
	records  func() int64 // most that a member may declare
	identity func(member string) (ed25519.PublicKey, bool)
	cut      func(transport.Peer) // closes the peer's connection
	progress time.Duration        // most that an upload may stand still
	log      *zap.Logger
}

func (r *rounds) Follow(q *pb.FollowRequest, stream grpc.ServerStreamingServer[pb.Wanted]) error {
	m := entry.Member(caller(stream.Context()).Name)
	if q.Clock != 0 { // 0: a program of before 0.2
		ahead, ok := r.loop.clocks.meet(m, time.UnixMicro(q.Clock).Add(waited(stream.Context())))
		if !ok {
			r.log.Warn("a member's clock is too far from ours", zap.String("member", string(m)), zap.String("clock", skew.Text(ahead)+" ours"))
			return status.Errorf(codes.FailedPrecondition, "clock: yours is %s the coordinator's, at most %s is allowed: set the one that is wrong",
				skew.Text(ahead), r.loop.clocks.limit)
		}
	}
	r.presence.enter(m)
	defer r.presence.leave(m)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var last *wish
	for {
		w, err := r.wish(stream.Context(), m)
		if err != nil {
			return err
		}
		if w != last {
			if err := stream.Send(stamped(w.Wanted, r.loop.clocks.now())); err != nil {
				return err
			}
			last = w
		}
		select {
		case <-w.changed:
		case <-beat.C:
			last = nil
		case <-r.loop.ending:
			// An upload ends with its sender's session, which this call is.
			r.loop.hold.uploads.rest(stream.Context(), m)
			return status.Error(codes.Unavailable, errStopping.Error())
		case <-r.loop.done:
			return status.Error(codes.Unavailable, errStopping.Error())
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// wish returns what is wanted of a member now. Between the log's opening and the loop's first news nobody knows, and a member is not to
// hear that it is none: the news are waited for.
func (r *rounds) wish(ctx context.Context, m entry.Member) (*wish, error) {
	n := r.loop.wanted.Load()
	if n.of == nil {
		late := time.NewTimer(heartbeat)
		defer late.Stop()
		select {
		case <-n.changed:
			n = r.loop.wanted.Load()
		case <-late.C:
			return nil, status.Error(codes.Unavailable, "the coordinator is still starting")
		case <-r.loop.ending:
			return nil, status.Error(codes.Unavailable, errStopping.Error())
		case <-r.loop.done:
			return nil, status.Error(codes.Unavailable, errStopping.Error())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	w := n.of[m]
	if w == nil {
		return nil, status.Error(codes.PermissionDenied, "not a member of this federation")
	}
	return w, nil
}

// stamped returns w with our clock's time. What w holds is shared: others send it too.
func stamped(w *pb.Wanted, now time.Time) *pb.Wanted {
	out := &pb.Wanted{}
	m := out.ProtoReflect()
	w.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool { m.Set(f, v); return true })
	out.Clock = now.UnixMicro()
	return out
}

func (r *rounds) Consent(ctx context.Context, q *pb.ConsentRequest) (*pb.ConsentReply, error) {
	m := entry.Member(caller(ctx).Name)
	r.presence.seen(m)
	var in round.Input = round.Consent{Run: q.Run, Member: m, Records: q.Records, Most: r.records()}
	if q.Declined != "" {
		in = round.Decline{Run: q.Run, Member: m, Rule: clip(q.Declined, 200)}
	}
	if err := r.loop.decide(ctx, in); err != nil {
		return nil, answer(r.log, err)
	}
	return &pb.ConsentReply{}, nil
}

func (r *rounds) Query(ctx context.Context, q *pb.QueryRequest) (*pb.QueryReply, error) {
	m := entry.Member(caller(ctx).Name)
	r.presence.seen(m)
	update, err := digest(q.Update)
	if err != nil {
		return nil, err
	}
	from, err := source(q.Base, q.Model)
	if err != nil {
		return nil, err
	}
	in := round.Query{Run: q.Run, Round: int(q.Round), Try: int(q.Try), Member: m, Update: update, Source: from}
	var held bool
	err = r.loop.send(ctx, message{in: in, after: func() error {
		s := r.loop.meant(attempt{in.Run, in.Round, in.Try}, in.Source)
		held = s != nil && s.held[m] == update
		return nil
	}})
	switch {
	case errors.Is(err, round.ErrClosed):
		return &pb.QueryReply{State: pb.QueryReply_STATE_CLOSED}, nil
	case round.Reason(err) != "":
		return &pb.QueryReply{State: pb.QueryReply_STATE_REFUSED, Reason: round.Reason(err)}, nil
	case err != nil:
		return nil, answer(r.log, err)
	case held:
		return &pb.QueryReply{State: pb.QueryReply_STATE_HELD}, nil
	}
	return &pb.QueryReply{State: pb.QueryReply_STATE_SEND}, nil
}

// doings are what a participant may say that it does.
var doings = []string{"idle", "answering", "training", "offering", "evaluating", "leaving", "paused"}

// Tell takes what a participant says of itself. It is shown and decides nothing but, where it says that it is paused, whom a
// round waits for.
func (r *rounds) Tell(ctx context.Context, q *pb.TellRequest) (*pb.TellReply, error) {
	peer := caller(ctx)
	m, most := entry.Member(peer.Name), (365 * 24 * time.Hour).Microseconds()
	if !slices.Contains(doings, q.Doing) || len(q.Run) > 16 || clip(q.Run, 16) != q.Run || q.Round < 0 || q.Steps < 0 || q.Of < 0 ||
		q.ForUs < 0 || q.ForUs > most || q.StillUs < 0 || q.StillUs > most {
		return nil, status.Error(codes.InvalidArgument, "a participant says what it does in words and numbers that make no sense")
	}
	now := r.presence.now()
	a := activity{
		doing: q.Doing, run: q.Run, round: int(q.Round), since: now.Add(-time.Duration(q.ForUs) * time.Microsecond), steps: q.Steps, of: q.Of,
	}
	if q.Doing == "training" {
		a.progress = now.Add(-time.Duration(q.StillUs) * time.Microsecond)
	}
	if r.presence.tell(m, peer.Instance, a) {
		r.log.Warn("two programs speak under one name: one of them is to be ended", member(m), zap.String("instance", peer.Instance))
	}
	return &pb.TellReply{}, nil
}

// Leave withdraws the calling member from a run.
func (r *rounds) Leave(ctx context.Context, q *pb.LeaveRequest) (*pb.LeaveReply, error) {
	m := entry.Member(caller(ctx).Name)
	r.presence.seen(m)
	if clip(q.Reason, maxReason) != q.Reason {
		return nil, status.Errorf(codes.InvalidArgument, "reason: want at most %d bytes of printable text", maxReason)
	}
	if err := r.loop.decide(ctx, round.Leave{Run: q.Run, Member: m, Reason: q.Reason}); err != nil {
		return nil, answer(r.log, err)
	}
	return &pb.LeaveReply{}, nil
}

func (r *rounds) Report(ctx context.Context, q *pb.ReportRequest) (*pb.ReportReply, error) {
	m := entry.Member(caller(ctx).Name)
	r.presence.seen(m)
	d, err := digest(q.Model)
	if err != nil {
		return nil, err
	}
	in := round.Evaluation{Run: q.Run, Round: int(q.Round), Member: m, Model: d}
	for _, x := range q.Metrics {
		in.Metrics = append(in.Metrics, entry.Metric{Set: x.Set, Name: x.Name, Value: x.Value, Count: x.Count, Better: x.Better})
	}
	if err := r.loop.decide(ctx, in); err != nil {
		return nil, answer(r.log, err)
	}
	return &pb.ReportReply{}, nil
}

// source reads which model an update was trained from, where its sender says so.
func source(base int32, model []byte) (s round.Source, err error) {
	s.Base = int(base)
	if base != 0 {
		s.Model, err = digest(model)
	}
	return s, err
}

// digest reads 32 bytes that a peer sent.
func digest(b []byte) (entry.Digest, error) {
	if len(b) != len(entry.Digest{}) {
		return entry.Digest{}, status.Errorf(codes.InvalidArgument, "a digest has 32 bytes, not %d", len(b))
	}
	return entry.Digest(b), nil
}
