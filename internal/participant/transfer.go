package participant

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	pb "consilium.dev/proto/consilium/v1"
)

// errStill ends a download that makes no progress though the connection lives.
var errStill = errors.New("the download has stood still for " + patience.String())

// headroom is how many bytes of names and shapes a model's file may have beside its values.
const headroom = 1 << 20

// fetch returns a model version, and believes it for its digest and layout only. The one that was fetched last is here. Another is
// downloaded, as its difference to that one where the coordinator has it so. A download goes on with what came of it before; where
// the whole is then not the model, it begins anew, and whole.
func (s *session) fetch(ctx context.Context, want model.Layout, id []byte, size int64) (*model.Model, error) {
	if len(id) != len(entry.Digest{}) || size <= 0 || size > 4*int64(want.Len())+headroom {
		return nil, fmt.Errorf("%w: the announced model cannot be this run's", errNotOurs)
	}
	if last := s.p.last; last != nil && last.id == entry.Digest(id) && last.model.Layout.Equal(want) {
		return last.model, nil
	}
	parts := s.p.parts
	if err := parts.begin(ctx, entry.Digest(id), size); err != nil {
		return nil, err
	}
	log := s.p.log.With(zap.String("model", entry.Digest(id).Short()))
	before := parts.at()
	if before > 0 {
		log.Info("download goes on", zap.Int64("offset", before))
	}
	m, err := s.download(ctx, want)
	if (before > 0 || s.p.last != nil) && errors.Is(err, errParts) {
		log.Warn("download begins anew", zap.Error(err))
		s.p.last = nil
		if err := parts.begin(ctx, entry.Digest(id), size); err != nil {
			return nil, err
		}
		m, err = s.download(ctx, want)
	}
	if err == nil {
		s.p.last = &version{entry.Digest(id), m}
	}
	return m, err
}

// download reads the model that parts has begun with, and forgets the parts once they are whole, for better or worse.
func (s *session) download(ctx context.Context, want model.Layout) (*model.Model, error) {
	parts := s.p.parts
	id, size := parts.id, parts.size
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // ends the stream on every path
	still := time.AfterFunc(patience, func() { cancel(errStill) })
	defer still.Stop()
	line := &chunkReader{ctx: ctx, blobs: s.blobs, parts: parts, base: s.p.last, next: func() { still.Reset(patience); s.alive() }}
	m, err := model.Read(io.MultiReader(parts.open(ctx), line), size)
	if line.err != nil { // of the line, or of the own disk: what has come is kept
		return nil, fmt.Errorf("fetching model %s: %w", id.Short(), errors.Join(context.Cause(ctx), line.err))
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if e := parts.drop(ctx); e != nil {
		return nil, e
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("fetching model %s: %w: %w", id.Short(), errParts, err)
	case m.Digest() != id:
		return nil, fmt.Errorf("%w: %w: the model that came is not %s", errNotOurs, errParts, id.Short())
	case !m.Layout.Equal(want):
		return nil, fmt.Errorf("%w: model %s has not the layout of the run's plan", errNotOurs, id.Short())
	}
	return m, nil
}

// version is a model that has the digest id. Nobody changes it.
type version struct {
	id    entry.Digest
	model *model.Model
}

// chunkReader reads the bytes of a download, whose chunks must follow each other, and adds them to its parts. It asks for them
// when it is first read from, behind what is here already.
type chunkReader struct {
	ctx    context.Context
	blobs  pb.BlobsClient
	stream grpc.ServerStreamingClient[pb.Chunk]
	parts  *parts
	base   *version // that is here; or nil
	chunk  pb.Chunk // the one that came last
	next   func()   // called after each chunk
	buf    []byte
	was    []byte // of the base, where buf is a difference to it
	rest   bytes.Reader
	err    error // the first one but io.EOF
}

func (r *chunkReader) Read(dst []byte) (int, error) {
	for r.rest.Len() == 0 {
		at := r.parts.at()
		c, err := r.recv(at)
		switch {
		case errors.Is(err, io.EOF) && at == r.parts.size:
			return 0, io.EOF
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
		case err != nil:
		case c.Offset != at || c.Size == 0 || c.Size > codec.MaxChunk || at+int64(c.Size) > r.parts.size:
			err = fmt.Errorf("chunk does not continue the download at %d", at)
		default:
			if r.buf, err = codec.Decode(r.buf[:0], codec.Scheme(c.Scheme), c.Data, int(c.Size)); err != nil {
				err = fmt.Errorf("chunk at %d: %w", at, err)
			} else if err = r.onBase(c); err == nil {
				err = r.parts.add(r.ctx, r.buf)
			}
		}
		if err != nil {
			r.err = err
			return 0, err
		}
		r.rest.Reset(r.buf)
		r.next()
	}
	return r.rest.Read(dst)
}

// onBase makes of a chunk's decoded bytes those of the model.
func (r *chunkReader) onBase(c *pb.Chunk) error {
	if !c.OnBase {
		return nil
	}
	if r.base == nil || r.parts.size != r.base.model.Size() {
		return fmt.Errorf("chunk at %d is a difference to a model that is not here", c.Offset)
	}
	r.was = slices.Grow(r.was[:0], len(r.buf))[:len(r.buf)]
	if _, err := r.base.model.ReadAt(r.was, c.Offset); err != nil {
		return fmt.Errorf("chunk at %d: the base ends before it: %w", c.Offset, err)
	}
	subtle.XORBytes(r.buf, r.buf, r.was)
	return nil
}

func (r *chunkReader) recv(at int64) (*pb.Chunk, error) {
	if r.stream == nil {
		var err error
		q := &pb.FetchRequest{Model: r.parts.id[:], Offset: at, Schemes: uint32(codec.All)}
		if r.base != nil {
			q.Base = r.base.id[:]
		}
		if r.stream, err = r.blobs.Fetch(r.ctx, q); err != nil {
			return nil, err
		}
	}
	return &r.chunk, r.stream.RecvMsg(&r.chunk)
}

// offer asks whether the update is there already and sends it if it is not, in as many bytes as any other where the plan asks for privacy. The
// reason says why it was not taken.
func (s *session) offer(ctx context.Context, t *pb.Train, u finished, private bool) (reason string, err error) {
	d := u.digest()
	base, model := u.source()
	q, err := s.rounds.Query(ctx, &pb.QueryRequest{Run: t.Run, Round: t.Round, Try: t.Try, Update: d[:], Base: base, Model: model})
	if err != nil {
		return "", err
	}
	switch q.State {
	case pb.QueryReply_STATE_HELD:
		return "", nil
	case pb.QueryReply_STATE_CLOSED:
		return "closed", nil
	case pb.QueryReply_STATE_SEND:
		return s.upload(ctx, t, u, d, private)
	}
	return q.Reason, nil
}

// upload sends the update, chunk by chunk, once the coordinator has memory for it.
func (s *session) upload(ctx context.Context, t *pb.Train, u finished, d entry.Digest, private bool) (reason string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream on every path
	stream, err := s.rounds.Offer(ctx)
	if err != nil {
		return "", err
	}
	head := &pb.OfferHeader{
		Run: t.Run, Round: t.Round, Try: t.Try, Update: d[:], Salt: u.salt[:], Weight: u.weight, Size: 4 * int64(len(u.values)),
		Resumes: true, Sent: s.p.sent.of(d),
	}
	head.Base, head.Model = u.source()
	// An error of Send is the stream's end; Recv says why it ended.
	stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Header{Header: head}}) //nolint:errcheck
	for {
		reply, err := stream.Recv()
		if err != nil {
			return "", err
		}
		switch reply.State {
		case pb.OfferReply_STATE_WAIT:
		case pb.OfferReply_STATE_SEND:
			if reply.Offset < 0 || reply.Offset > head.Size || reply.Offset%4 != 0 {
				return "", fmt.Errorf("the coordinator wants an update of %d bytes from byte %d on", head.Size, reply.Offset)
			}
			encoder := &codec.Encoder{Reads: codec.Schemes(reply.Schemes).OrOld()}
			if private { // how well an update compresses hangs on the records, and stands in the log, where no noise covers it
				encoder = nil
			}
			s.p.sent.add(d, sendValues(stream, u.values, int(reply.Offset/4), encoder))
		case pb.OfferReply_STATE_ACCEPTED:
			return "", nil
		default:
			return reply.Reason, nil
		}
	}
}

// sendValues sends the update's chunks from a value on, encoded or, with nil, as they are, and returns how many of its bytes it has given to the line.
// Like Send, it leaves the reason of a stream's end to Recv.
func sendValues(stream grpc.BidiStreamingClient[pb.OfferRequest, pb.OfferReply], values []float32, at int, encoder *codec.Encoder) (sent int64) {
	buf := make([]byte, codec.Piece)
	for at < len(values) {
		n := min(len(values)-at, codec.Piece/4)
		model.PutFloats(buf, values[at:at+n])
		// A message that was sent may still be read by gRPC: each has its own bytes.
		scheme, data := codec.Raw, make([]byte, 0, 4*n)
		if encoder != nil {
			scheme, data = encoder.Encode(time.Now, data, buf[:4*n])
		} else {
			data = append(data, buf[:4*n]...)
		}
		c := &pb.Chunk{Offset: 4 * int64(at), Scheme: uint32(scheme), Size: uint32(4 * n), Data: data}
		if stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Chunk{Chunk: c}}) != nil {
			return sent
		}
		at += n
		sent += 4 * int64(n)
	}
	stream.CloseSend() //nolint:errcheck // likewise
	return sent
}

// sentLog remembers how much of the update that was offered last has been given to the line, so that what was sent more than once
// can be told. It is used by one goroutine at a time, and lost with the process.
type sentLog struct {
	update entry.Digest
	bytes  int64
}

func (l *sentLog) of(d entry.Digest) int64 {
	if l.update != d {
		return 0
	}
	return l.bytes
}

func (l *sentLog) add(d entry.Digest, n int64) { *l = sentLog{d, l.of(d) + n} }
