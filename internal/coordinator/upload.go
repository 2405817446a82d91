package coordinator

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
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
	case err != nil || held:
		return r.refuse(ctx, o, err)
	case o.in.Weight < 1: // which the rules take for one that was not said
		return r.reject(ctx, o, round.Reason(round.ErrWeight))
	case o.size != 4*int64(spec.Len()):
		return r.reject(ctx, o, reasonSize)
	case o.size > r.loop.hold.limit:
		return r.reject(ctx, o, reasonMemory)
	}
	end, err := r.begin(o)
	if err != nil {
		return "", err
	}
	defer end()
	release, err := r.reserve(stream, o.size)
	if err != nil {
		return "", err
	}
	u := &update{digest: o.in.Update, weight: o.in.Weight, release: release}
	if u.values, o.in.Bytes, err = r.receive(stream, o); err == nil {
		err = check(spec, o, u.values)
	}
	if err != nil {
		release()
		return r.refuse(ctx, o, err)
	}
	return r.refuse(ctx, o, r.loop.offer(ctx, o.in, u))
}

// fault is what is wrong with the content of an update.
type fault struct {
	reason string
	err    error // for our log: where, never a value
}

func (f *fault) Error() string { return f.err.Error() }

// check judges an update that is whole.
func check(spec aggregate.Spec, o offer, values []float32) error {
	got := model.UpdateDigest(o.salt, values)
	if subtle.ConstantTimeCompare(got[:], o.in.Update[:]) != 1 {
		return &fault{reasonDigest, errors.New("the update is not the one that was announced")}
	}
	if err := spec.Check(values); err != nil {
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
	case errors.Is(err, round.ErrWeight), errors.Is(err, round.ErrSecond):
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

// uploads knows which uploads are under way: a member has one for each try, or it could take all memory that uploads may take.
type uploads struct {
	mu      sync.Mutex // guards what follows
	of      map[upload]*transport.Peer
	changed chan struct{} // closed when one has ended; nil while nobody waits
}

type upload struct {
	attempt
	member entry.Member
}

// begin makes this the one upload of its member for its try. An older one over another connection is cut: its link is dead,
// though that has not been noticed yet. One over the same connection is no honest participant's.
func (r *rounds) begin(o offer) (end func(), err error) {
	key, me := upload{attempt{o.in.Run, o.in.Round, o.in.Try}, o.in.Member}, &o.peer
	r.uploads.mu.Lock()
	before := r.uploads.of[key]
	if before != nil && before.Binding == me.Binding {
		r.uploads.mu.Unlock()
		return nil, status.Error(codes.ResourceExhausted, "another upload of this update is under way over this connection")
	}
	if r.uploads.of == nil {
		r.uploads.of = map[upload]*transport.Peer{}
	}
	r.uploads.of[key] = me
	r.uploads.mu.Unlock()
	if before != nil {
		r.cut(*before)
	}
	return func() {
		r.uploads.mu.Lock()
		defer r.uploads.mu.Unlock()
		if r.uploads.of[key] == me {
			delete(r.uploads.of, key)
		}
		if r.uploads.changed != nil {
			close(r.uploads.changed)
			r.uploads.changed = nil
		}
	}, nil
}

// rest returns when no upload of the member is under way, or ctx ends.
func (u *uploads) rest(ctx context.Context, m entry.Member) {
	for {
		u.mu.Lock()
		busy := false
		for key := range u.of {
			busy = busy || key.member == m
		}
		if u.changed == nil {
			u.changed = make(chan struct{})
		}
		changed := u.changed
		u.mu.Unlock()
		if !busy {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
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
// the connection is cut, since nothing else ends a blocked read. Who sends in crumbs stands still too: what must come in time
// is the next whole chunk's worth of bytes.
func (r *rounds) receive(stream grpc.BidiStreamingServer[pb.OfferRequest, pb.OfferReply], o offer) ([]float32, int64, error) {
	log := r.log.With(zap.String("run", o.in.Run), zap.Int("round", o.in.Round), member(o.in.Member))
	still := time.AfterFunc(r.progress, func() {
		log.Warn("upload stands still, connection cut")
		r.cut(o.peer)
	})
	defer still.Stop()
	values := make([]float32, o.size/4)
	buf := make([]byte, 0, codec.MaxChunk)
	var at, wire, mark int64
	for at < o.size {
		q, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, 0, &fault{reasonShort, fmt.Errorf("upload ended at %d of %d bytes", at, o.size)}
		}
		if err != nil {
			log.Info("upload cut off", zap.Error(fmt.Errorf("at %d of %d bytes: %w", at, o.size, err)))
			return nil, 0, err
		}
		c := q.GetChunk()
		if c == nil || c.Offset != at || c.Size == 0 || c.Size%4 != 0 || c.Size > codec.MaxChunk || at+int64(c.Size) > o.size {
			return nil, 0, &fault{reasonChunk, fmt.Errorf("chunk does not continue the upload at %d", at)}
		}
		if buf, err = codec.Decode(buf[:0], codec.Scheme(c.Scheme), c.Data, int(c.Size)); err != nil {
			return nil, 0, &fault{reasonChunk, fmt.Errorf("chunk at %d: %w", at, err)}
		}
		model.Floats(values[at/4:][:c.Size/4], buf)
		at += int64(c.Size)
		wire += int64(len(c.Data))
		if at-mark >= codec.MaxChunk {
			mark = at
			still.Reset(r.progress)
		}
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
