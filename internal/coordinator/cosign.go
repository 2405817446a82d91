package coordinator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/transport"
	"consilium.dev/internal/witness"
	pb "consilium.dev/proto/consilium/v1"
)

// maxStale is how many offers in a row a witness may answer with another size than was believed.
const maxStale = 8

// errNoWitness is what a member gets that is no witness, and one that was, once its word does not count any more.
var errNoWitness = status.Error(codes.PermissionDenied, "this member is no witness: the manifest does not say so")

// witnesses asks the members that are witnesses for their cosignatures.
type witnesses struct {
	pb.UnimplementedWitnessesServer
	loop     *loop
	manifest func() *manifest.Manifest
	presence *presence
	cut      func(transport.Peer) // closes the peer's connection
	progress time.Duration        // longest that an answer is waited for
	now      func() time.Time
	log      *zap.Logger

	mu sync.Mutex // guards of
	of map[string]*transport.Peer
}

// Cosign serves one witness until its connection breaks. The newest connection of a witness is the one that counts.
func (w *witnesses) Cosign(stream grpc.BidiStreamingServer[pb.CosignSaid, pb.CosignAsked]) error {
	peer := caller(stream.Context())
	if !w.loop.quorum.decides(peer.Name) {
		return errNoWitness
	}
	defer w.begin(&peer)()
	w.presence.enter(entry.Member(peer.Name))
	defer w.presence.leave(entry.Member(peer.Name))
	c := &cosigning{witnesses: w, stream: stream, peer: peer, log: w.log.With(zap.String("member", peer.Name))}
	if err := c.run(stream.Context()); err != nil {
		return answer(w.log, err)
	}
	return nil
}

// begin makes this the connection over which the witness is asked, and cuts an older one: its link is dead, though that has not
// been noticed yet. One of the same session is not cut: its sender renews it, ends the call over it by itself, and may have other
// calls under way there.
func (w *witnesses) begin(me *transport.Peer) (end func()) {
	w.mu.Lock()
	before := w.of[me.Name]
	if w.of == nil {
		w.of = map[string]*transport.Peer{}
	}
	w.of[me.Name] = me
	w.mu.Unlock()
	if before != nil && before.Instance != me.Instance {
		w.cut(*before)
	}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.of[me.Name] == me {
			delete(w.of, me.Name)
		}
	}
}

// cosigning is the conversation with one witness.
type cosigning struct {
	*witnesses
	stream      grpc.BidiStreamingServer[pb.CosignSaid, pb.CosignAsked]
	peer        transport.Peer
	log         *zap.Logger
	by          witness.Cosignature // without a line: whose cosignatures come over this connection
	seen        int64               // lines of the newest log that the witness keeps
	contradicts bool                // what it keeps is of another history: it is not asked any more
	cosigned    int64               // lines of the newest head that it has cosigned over this connection
}

func (c *cosigning) run(ctx context.Context) error {
	said, err := c.recv()
	if err != nil {
		return err
	}
	kept := said.GetKept()
	if kept == nil {
		return status.Error(codes.InvalidArgument, "a witness begins with what it keeps")
	}
	if err := c.endorsed(kept); err != nil {
		return err
	}
	if err := c.show(ctx, kept.Checkpoint); err != nil {
		return err
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		b := c.loop.quorum.ballot.Load()
		if !c.loop.quorum.decides(c.peer.Name) {
			return errNoWitness
		}
		if b.head.Size > c.cosigned && !c.contradicts {
			if err := c.ask(ctx, b); err != nil {
				return err
			}
			continue
		}
		select {
		case <-b.changed:
		case <-beat.C:
			if err := c.stream.Send(&pb.CosignAsked{}); err != nil {
				return err
			}
		case <-c.loop.ending:
			return status.Error(codes.Unavailable, errStopping.Error())
		case <-c.loop.done:
			return status.Error(codes.Unavailable, errStopping.Error())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// recv reads what the witness says next. One that does not answer is cut off: nothing else ends a blocked read.
func (c *cosigning) recv() (*pb.CosignSaid, error) {
	still := time.AfterFunc(c.progress, func() {
		c.log.Warn("witness does not answer, connection cut")
		c.cut(c.peer)
	})
	defer still.Stop()
	return c.stream.Recv()
}

// endorsed judges whose key the witness cosigns with.
func (c *cosigning) endorsed(kept *pb.CosignKept) error {
	c.by = witness.Cosignature{Member: c.peer.Name, Endorsement: kept.Endorsement, Signature: kept.Signature}
	m, _ := c.manifest().Member(c.peer.Name)
	e, err := c.by.Endorsed(c.manifest().Federation(), m.Identity)
	if err == nil {
		err = e.ValidAt(c.now())
	}
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return nil
}

// show takes down what the witness keeps, nothing or a signed checkpoint.
func (c *cosigning) show(ctx context.Context, checkpoint []byte) error {
	var seen witness.Head
	v := c.loop.view.Load()
	if len(checkpoint) > 0 {
		said, err := ledger.OpenCheckpoint(checkpoint, v.Verifier())
		if err != nil {
			why := fmt.Errorf("witness %s keeps a checkpoint of another log than this one: %w; restore the store of that log, or "+
				"have its members agree on a new one, in an epoch whose old_log names the head of that one", c.peer.Name, err)
			return c.conflict(c.loop.read(ctx, func() { err = c.loop.quorum.tally.Contradict(c.peer.Name, why) }), why)
		}
		seen = said.Head()
	}
	var root [32]byte
	if seen.Size <= v.Size() {
		var err error
		if root, err = v.RootAt(ctx, seen.Size); err != nil {
			return err
		}
	}
	c.seen = seen.Size
	var judged error
	err := c.loop.read(ctx, func() {
		judged = c.loop.quorum.tally.Show(c.peer.Name, seen, v.Size(), root)
	})
	switch {
	case errors.Is(judged, witness.ErrNoWitness): // the others have handed over meanwhile
		return errNoWitness
	case judged == nil && err == nil:
		c.log.Debug("witness has shown what it keeps", zap.Int64("entries", seen.Size))
		return nil
	}
	return c.conflict(err, judged)
}

// conflict notes that the witness has seen another history, for the operator.
func (c *cosigning) conflict(err, why error) error {
	if err == nil {
		c.contradicts = true
		c.log.Error("a witness refuses this log", zap.Error(why))
	}
	return err
}

// ask asks for a cosignature of b and takes the answer. Where the witness keeps another head than was believed, what it keeps is
// shown anew, and it is asked again from there.
func (c *cosigning) ask(ctx context.Context, b *ballot) error {
	text := b.view.Checkpoint()
	for range maxStale {
		q := &pb.CosignAsked{Old: min(c.seen, b.head.Size), Checkpoint: text, Verifier: b.view.Verifier()}
		if q.Old > 0 && q.Old < b.head.Size {
			proof, err := b.view.Consistency(ctx, q.Old, b.head.Size)
			if err != nil {
				return err
			}
			q.Proof = slicesOf(proof)
		}
		if err := c.stream.Send(q); err != nil {
			return err
		}
		said, err := c.recv()
		if err != nil {
			return err
		}
		a := said.GetAnswer()
		switch a.GetState() {
		case pb.CosignAnswer_STATE_COSIGNED:
			return c.take(ctx, b, text, a.Line)
		case pb.CosignAnswer_STATE_STALE, pb.CosignAnswer_STATE_REFUSED:
			before := c.seen
			if err := c.show(ctx, a.Kept); err != nil || c.contradicts {
				return err
			}
			if c.seen > b.head.Size { // it has cosigned a newer head of this log over another connection
				c.cosigned = b.head.Size
				return nil
			}
			if a.State == pb.CosignAnswer_STATE_REFUSED && c.seen == before {
				return status.Errorf(codes.FailedPrecondition, "the witness refuses %d lines after %d: %s", b.head.Size, c.seen, clip(a.Reason, 200))
			}
		default:
			return status.Error(codes.InvalidArgument, "no answer to what was asked")
		}
	}
	return status.Error(codes.Aborted, "what the witness keeps changes too often")
}

// take checks a cosignature and hands it to the loop.
func (c *cosigning) take(ctx context.Context, b *ballot, text []byte, line string) error {
	by := c.by
	by.Line = line
	m, _ := c.manifest().Member(c.peer.Name)
	if _, err := by.Check(c.manifest().Federation(), m.Identity, witness.Text(text)); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	c.seen, c.cosigned = b.head.Size, b.head.Size
	return c.loop.send(ctx, message{after: func() error { return c.loop.cosigned(ctx, b, by) }})
}

// waiting says for whom a log that is not open waits.
func (l *loop) waiting(ctx context.Context) error {
	var w waiting
	if err := l.read(ctx, func() { w = l.quorum.waiting() }); err != nil {
		return err
	}
	return status.Errorf(codes.Unavailable, "%v: %s", errWaiting, w.words("shown what they keep", nil))
}

// words says of which set how many are there, and who is missing. done is what they are to have done.
func (w waiting) words(done string, seen func(entry.Member) string) string {
	var all []string
	for _, l := range w.lacks {
		of := ""
		if w.sets > 1 {
			of = fmt.Sprintf("of the witnesses of epoch %d, ", l.Set.Epoch)
		}
		all = append(all, fmt.Sprintf("%s%d of the %d that are needed have %s; missing: %s", of, l.There, l.Set.Quorum, done, standings(l.Missing, seen)))
	}
	return strings.Join(all, "; ")
}

// standings words whose word is missing, and why where that is known. seen words when somebody was last heard from.
func standings(missing []witness.Standing, seen func(entry.Member) string) string {
	var all []string
	for _, s := range missing {
		who := s.Name
		if seen != nil {
			who = seen(entry.Member(s.Name))
		}
		var conflict *witness.ConflictError
		switch {
		case errors.As(s.Conflict, &conflict) && conflict.Seen > conflict.Size:
			who += fmt.Sprintf(" (has seen %d lines where this log had %d: storage was rolled back)", conflict.Seen, conflict.Size)
		case s.Conflict != nil:
			who += " (has seen another history)"
		case s.Shown && s.Seen == 0:
			who += " (keeps nothing)"
		}
		all = append(all, who)
	}
	return strings.Join(all, ", ")
}
