package coordinator

import (
	"context"
	"crypto/subtle"
	"errors"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// Reasons why an update is refused before the rules see it, beside those of round.Reason.
const (
	reasonSize   = "size"   // not the run's number of values
	reasonDigest = "digest" // not what was announced
	reasonValue  = "value"  // NaN, Inf, or beyond max_abs
	reasonMemory = "memory" // larger than everything that uploads may take
	reasonChunk  = "chunk"  // a chunk that is none, or not the next
	reasonShort  = "short"  // ended by its sender before it was whole
)

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
	in      round.Offer
	salt    [32]byte
	size    int64
	resumes bool  // its sender can go on in the middle
	sent    int64 // what its sender says it has put on the line for this update before
	late    bool  // it goes on though its round is closed, for the one that is open when it is whole
	peer    transport.Peer
	running *running
}

// maxSent is the most that a sender may say of what it has sent before. It is told to people and decides nothing.
const maxSent = 1 << 50

// key names the upload among those that are under way or shelved. One that outlives rounds is of none.
func (o offer) key() upload {
	if o.late {
		return upload{attempt{run: o.in.Run}, o.in.Member}
	}
	return upload{attempt{o.in.Run, o.in.Round, o.in.Try}, o.in.Member}
}

func newOffer(h *pb.OfferHeader, peer transport.Peer) (offer, error) {
	if h == nil || len(h.Salt) != 32 || h.Size <= 0 || h.Size%4 != 0 || h.Sent < 0 || h.Sent > maxSent {
		return offer{}, status.Error(codes.InvalidArgument, "an offer begins with a header: salt of 32 bytes, size a multiple of 4")
	}
	d, err := digest(h.Update)
	if err != nil {
		return offer{}, err
	}
	from, err := source(h.Base, h.Model)
	if err != nil {
		return offer{}, err
	}
	return offer{
		in: round.Offer{
			Run: h.Run, Round: int(h.Round), Try: int(h.Try), Member: entry.Member(peer.Name), Update: d, Weight: h.Weight, Source: from,
		},
		salt: [32]byte(h.Salt), size: h.Size, resumes: h.Resumes, sent: h.Sent, peer: peer,
	}, nil
}

// take receives an update, checks it and has it accepted. A reason is for the participant, an error is ours or the link's.
func (r *rounds) take(stream grpc.BidiStreamingServer[pb.OfferRequest, pb.OfferReply], o offer) (reason string, err error) {
	ctx := stream.Context()
	if o.in.Base > 0 {
		if err := r.loop.read(ctx, func() { o.late = r.loop.studies[o.in.Run].strategy.Buffer().MaxStaleness() > 0 }); err != nil {
			return "", err
		}
	}
	if o.running, err = r.begin(ctx, o); err != nil {
		return "", err
	}
	defer r.loop.hold.uploads.end(o.key(), o.running)
	f, held, err := r.asked(ctx, o)
	switch {
	case err != nil || held:
		return r.refuse(ctx, o, err)
	case o.in.Weight < 1: // which the rules take for one that was not said
		return r.reject(ctx, o, round.Reason(round.ErrWeight))
	case o.size != f.bytes():
		return r.reject(ctx, o, reasonSize)
	case o.size > r.loop.hold.limit:
		return r.reject(ctx, o, reasonMemory)
	}
	p, err := r.prefix(stream, o)
	if err != nil {
		return "", err
	}
	if err = r.receive(stream, o, p); err == nil {
		err = f.check(o, p)
	}
	if err != nil {
		r.part(o, p, err)
		return r.refuse(ctx, o, err)
	}
	o.in.Bytes, o.in.Resent = p.wire, p.sent-o.size
	err = r.loop.offer(ctx, o.in, &update{member: o.in.Member, digest: o.in.Update, weight: o.in.Weight, values: p.values, release: p.release})
	switch {
	case err == nil:
	case o.late && errors.Is(err, round.ErrClosed): // the next round takes it: it is here then
		r.part(o, p, err)
	default:
		p.release()
	}
	return r.refuse(ctx, o, err)
}

// fault is what is wrong with the content of an update.
type fault struct {
	reason string
	err    error // for our log: where, never a value
}

func (f *fault) Error() string { return f.err.Error() }

// form is how the updates of a try come.
type form struct {
	spec   aggregate.Spec
	masked bool // each value in a word of 64 bits, of which nothing can be seen
}

// bytes returns how long an update is, decoded.
func (f form) bytes() int64 {
	if f.masked {
		return 8 * int64(f.spec.Len())
	}
	return 4 * int64(f.spec.Len())
}

// check judges an update that is whole.
func (f form) check(o offer, p *prefix) error {
	if subtle.ConstantTimeCompare(p.digest.Sum(nil), o.in.Update[:]) != 1 {
		return &fault{reasonDigest, errors.New("the update is not the one that was announced")}
	}
	if f.masked {
		return nil
	}
	if err := f.spec.Check(p.values); err != nil {
		return &fault{reasonValue, err}
	}
	return nil
}

// refuse turns what is wrong with an offer into a reason. A lie about this try is written down in the log, so that it counts;
// what only came too late, or was not asked for, is told to the operator. Any other error stays one.
func (r *rounds) refuse(ctx context.Context, o offer, err error) (reason string, _ error) {
	var f *fault
	switch {
	case err == nil:
		return "", nil
	case errors.As(err, &f):
		r.log.Warn("update is not sound", zap.String("run", o.in.Run), zap.Int("round", o.in.Round), zap.Int("try", o.in.Try),
			member(o.in.Member), zap.Error(f.err))
		return r.reject(ctx, o, f.reason)
	case errors.Is(err, round.ErrWeight), errors.Is(err, round.ErrSecond), errors.Is(err, round.ErrFuture):
		return r.reject(ctx, o, round.Reason(err))
	}
	if reason = round.Reason(err); reason != "" {
		r.log.Info("update not taken", zap.String("run", clip(o.in.Run, 16)), zap.Int("round", o.in.Round), zap.Int("try", o.in.Try),
			member(o.in.Member), zap.String("reason", reason))
		return reason, nil
	}
	return "", err
}

// asked returns how the offered update would be summed and whether it is here already, or why it is not wanted.
func (r *rounds) asked(ctx context.Context, o offer) (f form, held bool, err error) {
	q := round.Query{
		Run: o.in.Run, Round: o.in.Round, Try: o.in.Try, Member: o.in.Member, Update: o.in.Update, Weight: o.in.Weight, Source: o.in.Source,
	}
	err = r.loop.send(ctx, message{in: q, after: func() error {
		if s := r.loop.meant(attempt{o.in.Run, o.in.Round, o.in.Try}, o.in.Source); s != nil {
			f, held = form{s.spec, s.veil != nil}, s.held[o.in.Member] == o.in.Update
		}
		return nil
	}})
	return f, held, err
}

// reject writes down that an update was not taken.
func (r *rounds) reject(ctx context.Context, o offer, reason string) (string, error) {
	in := round.Reject{
		Run: o.in.Run, Round: o.in.Round, Try: o.in.Try, Member: o.in.Member, Update: o.in.Update, Reason: reason, Source: o.in.Source,
	}
	if err := r.loop.decide(ctx, in); err != nil && round.Reason(err) == "" {
		return "", err
	}
	return reason, nil
}
