package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// crumb is the least that must come of an upload while Limits.Progress passes. It is what an honest sender puts into one chunk.
const crumb = codec.Piece

// parting is how long an upload may go on whose try has ended: its sender hears of that and gives it up by itself.
const parting = 5 * time.Second

// uploads knows which uploads are under way; a member has one for each try. It is safe for concurrent use.
type uploads struct {
	mu      sync.Mutex // guards what follows
	of      map[upload]*running
	changed chan struct{} // closed when one has ended; nil while nobody waits
}

// upload names what one member sends for one try.
type upload struct {
	attempt
	member entry.Member
}

// running is an upload that is under way.
type running struct {
	peer transport.Peer
	cut  func()        // closes its connection
	done chan struct{} // closed when it has ended and its prefix is shelved or given back

	over    bool        // its try has ended
	parting *time.Timer // cuts it then; nil before
}

// begin makes this the one upload of its member for its try. An older one over another connection is cut: its link is dead,
// though that has not been noticed yet; what came over it is shelved before begin returns. One over the same connection is no
// honest participant's.
func (r *rounds) begin(ctx context.Context, o offer) (me *running, err error) {
	u := &r.loop.hold.uploads
	key := o.key()
	me = &running{peer: o.peer, cut: func() { r.cut(o.peer) }, done: make(chan struct{})}
	u.mu.Lock()
	before := u.of[key]
	if before != nil && before.peer.Binding == me.peer.Binding {
		u.mu.Unlock()
		return nil, status.Error(codes.ResourceExhausted, "another upload of this update is under way over this connection")
	}
	if u.of == nil {
		u.of = map[upload]*running{}
	}
	u.of[key] = me
	u.mu.Unlock()
	if before == nil {
		return me, nil
	}
	before.cut()
	select {
	case <-before.done:
		return me, nil
	case <-ctx.Done():
		u.end(key, me)
		return nil, ctx.Err()
	}
}

// end says that an upload has ended.
func (u *uploads) end(key upload, me *running) {
	close(me.done)
	u.mu.Lock()
	defer u.mu.Unlock()
	if me.parting != nil {
		me.parting.Stop()
	}
	if u.of[key] == me {
		delete(u.of, key)
	}
	if u.changed != nil {
		close(u.changed)
		u.changed = nil
	}
}

// over says that a try has ended. Uploads for it that go on nevertheless are cut: they hold memory, and nobody wants what they bring.
func (u *uploads) over(a attempt) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for key, r := range u.of {
		if key.attempt == a && !r.over {
			r.over, r.parting = true, time.AfterFunc(parting, r.cut)
		}
	}
}

// isOver reports whether an upload's try has ended since it began.
func (u *uploads) isOver(r *running) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return r.over
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

// prefix returns what is here of the offered update, with the memory for all of it, and has told its sender where to go on.
func (r *rounds) prefix(stream grpc.BidiStreamingServer[pb.OfferRequest, pb.OfferReply], o offer) (*prefix, error) {
	p := r.loop.hold.shelf.take(o)
	if p == nil {
		release, err := r.reserve(stream, o.in.Member, o.size)
		if err != nil {
			return nil, err
		}
		if p, err = newPrefix(o, release); err != nil {
			return nil, err
		}
	}
	p.sent = max(p.sent, o.sent)
	if p.sent > 0 {
		r.log.Info("upload goes on", zap.String("run", o.in.Run), zap.Int("round", o.in.Round), member(o.in.Member),
			zap.Int64("offset", p.at), zap.Int64("resent", p.sent-p.at))
	}
	if err := stream.Send(&pb.OfferReply{State: pb.OfferReply_STATE_SEND, Offset: p.at, Schemes: uint32(codec.All)}); err != nil {
		r.part(o, p, err)
		return nil, err
	}
	return p, nil
}

// reserve takes memory for an upload, and says so when it has to wait in line for it.
func (r *rounds) reserve(stream grpc.BidiStreamingServer[pb.OfferRequest, pb.OfferReply], m entry.Member, n int64) (release func(), err error) {
	release, ok := r.loop.hold.tryReserve(m, n)
	if ok {
		return release, nil
	}
	if err := stream.Send(&pb.OfferReply{State: pb.OfferReply_STATE_WAIT}); err != nil {
		return nil, err
	}
	return r.loop.hold.reserve(stream.Context(), m, n)
}

// receive reads the chunks of an update, in order, until the prefix is all of it. No time limits the whole, only standing still
// does: then the connection is cut, since nothing else ends a blocked read. Who sends in crumbs stands still too: what must
// come in time is the next whole chunk's worth of bytes.
func (r *rounds) receive(stream grpc.BidiStreamingServer[pb.OfferRequest, pb.OfferReply], o offer, p *prefix) error {
	log := r.log.With(zap.String("run", o.in.Run), zap.Int("round", o.in.Round), member(o.in.Member))
	still := time.AfterFunc(r.progress, func() {
		log.Warn("upload stands still, connection cut")
		r.cut(o.peer)
	})
	defer still.Stop()
	buf := make([]byte, 0, min(codec.MaxChunk, o.size-p.at)) // beside the budget, and so not more than what is within it
	mark := p.at
	q := &pb.OfferRequest{} // of all chunks, one after the other
	for p.at < o.size {
		err := stream.RecvMsg(q)
		if errors.Is(err, io.EOF) {
			return &fault{reasonShort, fmt.Errorf("upload ended at %d of %d bytes", p.at, o.size)}
		}
		if err != nil {
			log.Info("upload cut off", zap.Error(fmt.Errorf("at %d of %d bytes: %w", p.at, o.size, err)))
			return err
		}
		c := q.GetChunk()
		if c == nil || c.Offset != p.at || c.Size == 0 || c.Size%4 != 0 || c.Size > codec.MaxChunk || p.at+int64(c.Size) > o.size {
			return &fault{reasonChunk, fmt.Errorf("chunk does not continue the upload at %d", p.at)}
		}
		if buf, err = codec.Decode(buf[:0], codec.Scheme(c.Scheme), c.Data, int(c.Size)); err != nil {
			return &fault{reasonChunk, fmt.Errorf("chunk at %d: %w", p.at, err)}
		}
		p.add(buf, int64(len(c.Data)))
		if p.at-mark >= crumb {
			mark = p.at
			still.Reset(r.progress)
		}
	}
	return nil
}

// part lets go of an update that did not become whole, or that is not sound. What a link has broken off is shelved, so that its
// sender can go on; what its sender is at fault for is thrown away.
func (r *rounds) part(o offer, p *prefix, err error) {
	if _, ok := errors.AsType[*fault](err); ok || !o.resumes || !r.loop.hold.keep(o.key(), o.running, p) {
		p.release()
	}
}

// add takes the next chunk, which is wire bytes long before it is decoded.
func (p *prefix) add(chunk []byte, wire int64) {
	p.digest.Write(chunk)
	model.Floats(p.values[p.at/4:][:len(chunk)/4], chunk)
	p.at += int64(len(chunk))
	p.sent += int64(len(chunk))
	p.wire += wire
}
