package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/witness"
	pb "consilium.dev/proto/consilium/v1"
)

// Checkpoint is a signed checkpoint of the federation's log, already judged by the verifier key that came with it. That the key
// is the log's is not judged here: a boot's evidence binds it, which package audit looks at; neither are the witnesses' cosignatures.
type Checkpoint struct {
	ledger.Checkpoint
	Signed       []byte // the signed note
	Verifier     string // verifier key
	Cosignatures []witness.Cosignature
}

// Cosigned returns the signed note with its witnesses' cosignatures, as a copy of the log holds them.
func (c Checkpoint) Cosigned() witness.Cosigned {
	return witness.Cosigned{Checkpoint: string(c.Signed), Cosignatures: c.Cosignatures}
}

// Checkpoint returns the newest checkpoint.
func (c *Client) Checkpoint(ctx context.Context) (Checkpoint, error) {
	r, err := pb.NewLogClient(c.conn).Checkpoint(ctx, &pb.CheckpointRequest{})
	if err != nil {
		return Checkpoint{}, c.fault("asking for the log's checkpoint", err)
	}
	said, err := ledger.OpenCheckpoint(r.Checkpoint, r.Verifier)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("the log's checkpoint: %w", err)
	}
	out := Checkpoint{said, r.Checkpoint, r.Verifier, nil}
	for _, c := range r.Cosignatures {
		out.Cosignatures = append(out.Cosignatures, witness.Cosignature{
			Member: c.Member, Endorsement: c.Endorsement, Signature: c.Signature, Line: c.Line,
		})
	}
	return out, nil
}

// Entries yields the log's lines from number from, counted from 0, up to and without number size. An error is the last thing
// that it yields. Lines are as the coordinator says them: a tree over all of them has to be compared with a checkpoint.
func (c *Client) Entries(ctx context.Context, from, size int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := pb.NewLogClient(c.conn).Entries(ctx, &pb.EntriesRequest{From: from, Size: size})
		at := from
		for err == nil {
			var r *pb.EntriesReply
			if r, err = stream.Recv(); err != nil {
				break
			}
			if len(r.Lines) == 0 { // a reader must not be kept waiting by messages that hold nothing
				yield(nil, fmt.Errorf("reading the log: an empty message where line %d was due", at))
				return
			}
			for _, line := range r.Lines {
				if at++; at > size || len(line) > entry.MaxLine {
					yield(nil, fmt.Errorf("reading the log: line %d was not asked for, or is longer than a line can be", at-1))
					return
				}
				if !yield(line, nil) {
					return
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF) && at == size:
		case errors.Is(err, io.EOF):
			yield(nil, fmt.Errorf("reading the log: it ended at line %d of %d", at, size))
		default:
			yield(nil, c.fault("reading the log", err))
		}
	}
}

// Kept returns what was kept of the admission or boot at that line of the log, as it was kept.
func (c *Client) Kept(ctx context.Context, line int64) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewLogClient(c.conn).Kept(ctx, &pb.KeptRequest{Line: line})
	doing := fmt.Sprintf("fetching the evidence of line %d", line)
	if err != nil {
		return nil, c.fault(doing, err)
	}
	var out []byte
	for part, err := range c.download(stream, doing, 0, entry.MaxKept) {
		if err != nil {
			return nil, err
		}
		out = append(out, part...)
	}
	return out, nil
}

// Inclusion returns the proof that a line is in the log of that size.
func (c *Client) Inclusion(ctx context.Context, line, size int64) ([][32]byte, error) {
	r, err := pb.NewLogClient(c.conn).Prove(ctx, &pb.ProveRequest{Line: line, Size: size})
	if err != nil {
		return nil, c.fault(fmt.Sprintf("asking for the proof of line %d", line), err)
	}
	return hashes(r.Hashes)
}

// Consistency returns the proof that the log of that size begins with the log of a smaller one.
func (c *Client) Consistency(ctx context.Context, old, size int64) ([][32]byte, error) {
	r, err := pb.NewLogClient(c.conn).Extends(ctx, &pb.ExtendsRequest{Old: old, Size: size})
	if err != nil {
		return nil, c.fault(fmt.Sprintf("asking for the proof that the log extends that of %d lines", old), err)
	}
	return hashes(r.Hashes)
}

// hashes reads a proof that came over the wire. No log has one of more than 64 hashes a way.
func hashes(all [][]byte) ([][32]byte, error) {
	if len(all) > 128 {
		return nil, fmt.Errorf("a proof of %d hashes", len(all))
	}
	out := make([][32]byte, len(all))
	for i, h := range all {
		if len(h) != 32 {
			return nil, fmt.Errorf("hash %d of the proof has %d bytes, want 32", i, len(h))
		}
		out[i] = [32]byte(h)
	}
	return out, nil
}
