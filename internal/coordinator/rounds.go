package coordinator

import (
	"context"
	"crypto/subtle"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/round"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// heartbeat is how often a follower hears of us though nothing is new.
const heartbeat = 15 * time.Second

// Reasons why an update is refused before the rules see it, beside those of round.Reason.
const (
	reasonSize   = "size"   // not the run's number of values
	reasonDigest = "digest" // not what was announced
	reasonValue  = "value"  // NaN, Inf, or beyond max_abs
	reasonMemory = "memory" // larger than everything that uploads may take
)

// rounds answers participants.
type rounds struct {
	pb.UnimplementedRoundsServer
	loop     *loop
	presence *presence
	cut      func(transport.Peer) // closes the peer's connection
	progress time.Duration        // most that an upload may stand still
	log      *zap.Logger
}

func (r *rounds) Follow(_ *pb.FollowRequest, stream grpc.ServerStreamingServer[pb.Wanted]) error {
	m := entry.Member(caller(stream.Context()).Name)
	r.presence.enter(m)
	defer r.presence.leave(m)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var last *pb.Wanted
	for {
		n := r.loop.wanted.Load()
		w := n.of[m]
		if w == nil {
			return status.Error(codes.PermissionDenied, "not a member of this federation")
		}
		if last == nil || !proto.Equal(w, last) {
			if err := stream.Send(w); err != nil {
				return err
			}
			last = w
		}
		select {
		case <-n.changed:
		case <-beat.C:
			last = nil
		case <-r.loop.done:
			return status.Error(codes.Unavailable, errStopping.Error())
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (r *rounds) Consent(ctx context.Context, q *pb.ConsentRequest) (*pb.ConsentReply, error) {
	m := entry.Member(caller(ctx).Name)
	r.presence.seen(m)
	var in round.Input = round.Consent{Run: q.Run, Member: m, Records: q.Records}
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
	in := round.Query{Run: q.Run, Round: int(q.Round), Try: int(q.Try), Member: m, Update: update}
	var held bool
	err = r.loop.send(ctx, message{in: in, after: func() error {
		d, ok := r.loop.hold.digest(in.Run, in.Round, in.Try, m)
		held = ok && d == update
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

func (r *rounds) Offer(stream grpc.BidiStreamingServer[pb.OfferRequest, pb.OfferReply]) error {
	peer := caller(stream.Context())
	r.presence.seen(entry.Member(peer.Name))
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	o, err := newOffer(first.GetHeader(), peer)
	if err != nil {
		return err
	}
	reason, err := r.take(stream, o)
	switch {
	case err != nil:
		return answer(r.log, err)
	case reason != "":
		return stream.Send(&pb.OfferReply{State: pb.OfferReply_STATE_REFUSED, Reason: reason})
	}
	return stream.Send(&pb.OfferReply{State: pb.OfferReply_STATE_ACCEPTED})
}

// offer is one upload: what its header says, judged by whose connection it came over.
type offer struct {
	in   round.Offer
	salt [32]byte
	size int64
	peer transport.Peer
}

func newOffer(h *pb.OfferHeader, peer transport.Peer) (offer, error) {
	if h == nil || len(h.Salt) != 32 || h.Size <= 0 || h.Size%4 != 0 {
		return offer{}, status.Error(codes.InvalidArgument, "an offer begins with a header: salt of 32 bytes, size a multiple of 4")
	}
	d, err := digest(h.Update)
	if err != nil {
		return offer{}, err
	}
	return offer{
		in: round.Offer{
			Run: h.Run, Round: int(h.Round), Try: int(h.Try), Member: entry.Member(peer.Name), Update: d, Weight: h.Weight,
		},
		salt: [32]byte(h.Salt), size: h.Size, peer: peer,
	}, nil
}

// take receives an update, checks it and has it accepted. A reason is for the participant, an error is ours or the link's.
func (r *rounds) take(stream grpc.BidiStreamingServer[pb.OfferRequest, pb.OfferReply], o offer) (reason string, err error) {
	ctx := stream.Context()
	spec, held, err := r.asked(ctx, o)
	switch {
	case errors.Is(err, round.ErrWeight), errors.Is(err, round.ErrSecond): // a lie about this try is written down
		return r.reject(ctx, o, round.Reason(err))
	case err != nil || held:
		return reasonOf(err)
	}
	if o.size != 4*int64(spec.Len()) {
		return r.reject(ctx, o, reasonSize)
	}
	if o.size > r.loop.hold.limit {
		return r.reject(ctx, o, reasonMemory)
	}
	release, err := r.reserve(stream, o.size)
	if err != nil {
		return "", err
	}
	u := &update{digest: o.in.Update, weight: o.in.Weight, release: release}
	if u.values, o.in.Bytes, err = r.receive(stream, o); err != nil {
		release()
		return "", err
	}
	got := model.UpdateDigest(o.salt, u.values)
	if subtle.ConstantTimeCompare(got[:], o.in.Update[:]) != 1 {
		release()
		return r.reject(ctx, o, reasonDigest)
	}
	if err := spec.Check(u.values); err != nil {
		release()
		r.log.Warn("update holds a value that is not allowed", zap.String("run", o.in.Run), zap.Int("round", o.in.Round),
			member(o.in.Member), zap.Error(err))
		return r.reject(ctx, o, reasonValue)
	}
	return reasonOf(r.loop.offer(ctx, o.in, u))
}

// asked returns how the offered update would be summed and whether it is here already, or why it is not wanted.
func (r *rounds) asked(ctx context.Context, o offer) (spec aggregate.Spec, held bool, err error) {
	q := round.Query{Run: o.in.Run, Round: o.in.Round, Try: o.in.Try, Member: o.in.Member, Update: o.in.Update, Weight: o.in.Weight}
	err = r.loop.send(ctx, message{in: q, after: func() error {
		if s := r.loop.hold.sums[attempt{o.in.Run, o.in.Round, o.in.Try}]; s != nil {
			spec, held = s.spec, s.held[o.in.Member] == o.in.Update
		}
		return nil
	}})
	return spec, held, err
}

// reserve takes memory for an upload, and says so when it has to wait in line for it.
func (r *rounds) reserve(stream grpc.BidiStreamingServer[pb.OfferRequest, pb.OfferReply], n int64) (release func(), err error) {
	release, ok := r.loop.hold.tryReserve(n)
	if !ok {
		if err := stream.Send(&pb.OfferReply{State: pb.OfferReply_STATE_WAIT}); err != nil {
			return nil, err
		}
		if release, err = r.loop.hold.reserve(stream.Context(), n); err != nil {
			return nil, err
		}
	}
	if err := stream.Send(&pb.OfferReply{State: pb.OfferReply_STATE_SEND}); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// receive reads the chunks of an update, in order and complete. No time limits the whole, only standing still does: then
// the connection is cut, since nothing else ends a blocked read.
func (r *rounds) receive(stream grpc.BidiStreamingServer[pb.OfferRequest, pb.OfferReply], o offer) ([]float32, int64, error) {
	still := time.AfterFunc(r.progress, func() {
		r.log.Warn("upload stands still, connection cut", zap.String("run", o.in.Run), zap.Int("round", o.in.Round), member(o.in.Member))
		r.cut(o.peer)
	})
	defer still.Stop()
	values := make([]float32, o.size/4)
	buf := make([]byte, 0, codec.MaxChunk)
	var at, wire int64
	for at < o.size {
		q, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, 0, status.Errorf(codes.DataLoss, "upload ended at %d of %d bytes", at, o.size)
		}
		if err != nil {
			return nil, 0, err
		}
		c := q.GetChunk()
		if c == nil || c.Offset != at || c.Size == 0 || c.Size%4 != 0 || c.Size > codec.MaxChunk || at+int64(c.Size) > o.size {
			return nil, 0, status.Errorf(codes.InvalidArgument, "chunk does not continue the upload at %d", at)
		}
		if buf, err = codec.Decode(buf[:0], codec.Scheme(c.Scheme), c.Data, int(c.Size)); err != nil {
			return nil, 0, status.Errorf(codes.InvalidArgument, "chunk at %d: %v", at, err)
		}
		model.Floats(values[at/4:][:c.Size/4], buf)
		at += int64(c.Size)
		wire += int64(len(c.Data))
		still.Reset(r.progress)
	}
	return values, wire, nil
}

// reject writes down that an update was not taken.
func (r *rounds) reject(ctx context.Context, o offer, reason string) (string, error) {
	in := round.Reject{Run: o.in.Run, Round: o.in.Round, Try: o.in.Try, Member: o.in.Member, Update: o.in.Update, Reason: reason}
	if err := r.loop.decide(ctx, in); err != nil && round.Reason(err) == "" {
		return "", err
	}
	return reason, nil
}

// reasonOf turns a refusal by the rules into its reason; any other error stays one.
func reasonOf(err error) (string, error) {
	if reason := round.Reason(err); reason != "" {
		return reason, nil
	}
	return "", err
}

// digest reads 32 bytes that a peer sent.
func digest(b []byte) (entry.Digest, error) {
	if len(b) != len(entry.Digest{}) {
		return entry.Digest{}, status.Errorf(codes.InvalidArgument, "a digest has 32 bytes, not %d", len(b))
	}
	return entry.Digest(b), nil
}
