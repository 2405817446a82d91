package participant

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

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

// fetch downloads a model version and believes it for its digest and layout only.
func (s *session) fetch(ctx context.Context, want model.Layout, id []byte, size int64) (*model.Model, error) {
	if len(id) != len(entry.Digest{}) || size <= 0 || size > 4*int64(want.Len())+headroom {
		return nil, fmt.Errorf("%w: the announced model cannot be this run's", errNotOurs)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // ends the stream on every path
	still := time.AfterFunc(patience, func() { cancel(errStill) })
	defer still.Stop()
	stream, err := s.blobs.Fetch(ctx, &pb.FetchRequest{Model: id})
	if err != nil {
		return nil, fmt.Errorf("fetching model %x: %w", id[:6], err)
	}
	m, err := model.Read(&chunkReader{stream: stream, size: size, next: func() { still.Reset(patience) }}, size)
	if err != nil {
		return nil, fmt.Errorf("fetching model %x: %w", id[:6], errors.Join(context.Cause(ctx), err))
	}
	if m.Digest() != [32]byte(id) {
		return nil, fmt.Errorf("%w: the model that came is not %x", errNotOurs, id[:6])
	}
	if !m.Layout.Equal(want) {
		return nil, fmt.Errorf("%w: model %x has not the layout of the run's plan", errNotOurs, id[:6])
	}
	return m, nil
}

// chunkReader reads the bytes of a download, whose chunks must follow each other.
type chunkReader struct {
	stream grpc.ServerStreamingClient[pb.Chunk]
	size   int64
	next   func() // called after each chunk
	at     int64
	buf    []byte
	rest   bytes.Reader
}

func (r *chunkReader) Read(dst []byte) (int, error) {
	for r.rest.Len() == 0 {
		c, err := r.stream.Recv()
		if errors.Is(err, io.EOF) && r.at == r.size {
			return 0, io.EOF
		}
		if errors.Is(err, io.EOF) {
			return 0, io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
		if c.Offset != r.at || c.Size == 0 || c.Size > codec.MaxChunk || r.at+int64(c.Size) > r.size {
			return 0, fmt.Errorf("chunk does not continue the download at %d", r.at)
		}
		if r.buf, err = codec.Decode(r.buf[:0], codec.Scheme(c.Scheme), c.Data, int(c.Size)); err != nil {
			return 0, fmt.Errorf("chunk at %d: %w", r.at, err)
		}
		r.rest.Reset(r.buf)
		r.at += int64(c.Size)
		r.next()
	}
	return r.rest.Read(dst)
}

// offer asks whether the update is there already and sends it if it is not. The reason says why it was not taken.
func (s *session) offer(ctx context.Context, t *pb.Train, u finished) (reason string, err error) {
	d := u.digest()
	q, err := s.rounds.Query(ctx, &pb.QueryRequest{Run: t.Run, Round: t.Round, Try: t.Try, Update: d[:]})
	if err != nil {
		return "", err
	}
	switch q.State {
	case pb.QueryReply_STATE_HELD:
		return "", nil
	case pb.QueryReply_STATE_CLOSED:
		return "closed", nil
	case pb.QueryReply_STATE_SEND:
		return s.upload(ctx, t, u, d)
	}
	return q.Reason, nil
}

// upload sends the update, chunk by chunk, once the coordinator has memory for it.
func (s *session) upload(ctx context.Context, t *pb.Train, u finished, d entry.Digest) (reason string, err error) {
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
			s.p.sent.add(d, sendValues(stream, u.values, int(reply.Offset/4)))
		case pb.OfferReply_STATE_ACCEPTED:
			return "", nil
		default:
			return reply.Reason, nil
		}
	}
}

// sendValues sends the update's chunks from a value on, and returns how many of its bytes it has given to the line. Like Send, it
// leaves the reason of a stream's end to Recv.
func sendValues(stream grpc.BidiStreamingClient[pb.OfferRequest, pb.OfferReply], values []float32, at int) (sent int64) {
	buf := make([]byte, codec.Piece)
	for at < len(values) {
		n := min(len(values)-at, codec.Piece/4)
		model.PutFloats(buf, values[at:at+n])
		// A message that was sent may still be read by gRPC: each has its own bytes.
		scheme, data := codec.Encode(make([]byte, 0, 4*n), buf[:4*n])
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
