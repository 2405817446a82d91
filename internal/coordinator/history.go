package coordinator

import (
	"context"
	"errors"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/store"
	pb "consilium.dev/proto/consilium/v1"
)

// maxLines is about how many bytes of lines go into one message.
const maxLines = 1 << 20

// history shows the log to members and auditors. It reads views of it, so the loop never waits for a reader.
type history struct {
	pb.UnimplementedLogServer
	loop  *loop
	blobs *blob.Blobs
	log   *zap.Logger
}

func (h *history) Checkpoint(context.Context, *pb.CheckpointRequest) (*pb.CheckpointReply, error) {
	v := h.loop.view.Load()
	if h.loop.quorum.unguarded() {
		return &pb.CheckpointReply{Checkpoint: v.Checkpoint(), Verifier: v.Verifier()}, nil
	}
	r := h.loop.quorum.released.Load()
	if r == nil {
		return nil, status.Error(codes.Unavailable, "no checkpoint of the log was cosigned by a quorum of its witnesses yet")
	}
	out := &pb.CheckpointReply{Checkpoint: []byte(r.cosigned.Checkpoint), Verifier: v.Verifier()}
	for _, c := range r.cosigned.Cosignatures {
		out.Cosignatures = append(out.Cosignatures, &pb.Cosignature{
			Member: c.Member, Endorsement: c.Endorsement, Signature: c.Signature, Line: c.Line,
		})
	}
	return out, nil
}

// visible refuses what reaches beyond what may be seen.
func (h *history) visible(size int64) error {
	if n := h.loop.quorum.visible(); size > n {
		return status.Errorf(codes.OutOfRange, "%d lines, of which %d may be seen", size, n)
	}
	return nil
}

func (h *history) Tile(q *pb.TileRequest, stream grpc.ServerStreamingServer[pb.Chunk]) error {
	text, err := h.loop.view.Load().Tile(stream.Context(), q.Path)
	if err != nil {
		return h.answer(err)
	}
	return sendText(stream, text)
}

func (h *history) Prove(ctx context.Context, q *pb.ProveRequest) (*pb.ProveReply, error) {
	if err := h.visible(q.Size); err != nil {
		return nil, err
	}
	proof, err := h.loop.view.Load().Inclusion(ctx, q.Line, q.Size)
	if err != nil {
		return nil, h.answer(err)
	}
	return &pb.ProveReply{Hashes: slicesOf(proof)}, nil
}

func (h *history) Extends(ctx context.Context, q *pb.ExtendsRequest) (*pb.ExtendsReply, error) {
	if err := h.visible(q.Size); err != nil {
		return nil, err
	}
	proof, err := h.loop.view.Load().Consistency(ctx, q.Old, q.Size)
	if err != nil {
		return nil, h.answer(err)
	}
	return &pb.ExtendsReply{Hashes: slicesOf(proof)}, nil
}

func slicesOf(proof [][32]byte) [][]byte {
	out := make([][]byte, len(proof))
	for i := range proof {
		out[i] = proof[i][:]
	}
	return out
}

func (h *history) Entries(q *pb.EntriesRequest, stream grpc.ServerStreamingServer[pb.EntriesReply]) error {
	if err := h.visible(q.Size); err != nil {
		return err
	}
	v := h.loop.view.Load()
	if q.From < 0 || q.From > q.Size || q.Size > v.Size() {
		return status.Errorf(codes.OutOfRange, "lines %d to %d of a log of %d", q.From, q.Size, v.Size())
	}
	reply, size, at := &pb.EntriesReply{}, 0, q.From
	for line, err := range v.Entries(stream.Context(), q.From) {
		if err != nil {
			return h.answer(err)
		}
		if at == q.Size {
			break
		}
		if len(reply.Lines) > 0 && size+len(line) > maxLines {
			if err := stream.Send(reply); err != nil {
				return err
			}
			reply, size = &pb.EntriesReply{}, 0
		}
		reply.Lines = append(reply.Lines, line)
		size += len(line)
		at++
	}
	if len(reply.Lines) == 0 {
		return nil
	}
	return stream.Send(reply)
}

func (h *history) Kept(q *pb.KeptRequest, stream grpc.ServerStreamingServer[pb.Chunk]) error {
	ctx := stream.Context()
	if err := h.visible(q.Line + 1); err != nil {
		return err
	}
	ref, err := h.kept(ctx, q.Line)
	if err != nil {
		return h.answer(err)
	}
	text, err := h.blobs.ReadAll(ctx, ref, entry.MaxKept) // the whole of it first: a blob is believed at its end only
	if err != nil {
		return h.answer(err)
	}
	return sendText(stream, text)
}

// kept returns where the evidence of a line's admission or boot is kept, or what the witnesses cosigned who handed over there.
func (h *history) kept(ctx context.Context, n int64) (entry.Blob, error) {
	for text, err := range h.loop.view.Load().Entries(ctx, n) {
		if err != nil {
			return entry.Blob{}, err
		}
		line, err := entry.Decode(text)
		if err != nil {
			return entry.Blob{}, err
		}
		switch f := line.Fact.(type) {
		case entry.Admitted:
			return f.Kept, nil
		case entry.Booted:
			return f.Evidence, nil
		case entry.HandedOver:
			return f.Cosigned, nil
		case entry.ManifestAdopted:
			if f.Enclave != nil {
				return f.Enclave.Evidence, nil
			}
		}
		break
	}
	return entry.Blob{}, status.Errorf(codes.NotFound, "line %d of the log keeps no evidence", n)
}

func (h *history) answer(err error) error {
	switch {
	case errors.Is(err, ledger.ErrRange):
		return status.Error(codes.OutOfRange, err.Error())
	case errors.Is(err, store.ErrNotExist):
		return status.Error(codes.NotFound, "not there (any more)")
	}
	return answer(h.log, err)
}
