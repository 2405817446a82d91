package coordinator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/registry"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// models answers people who inspect model versions, and streams versions to those who may read them.
type models struct {
	pb.UnimplementedModelsServer
	pb.UnimplementedBlobsServer
	loop      *loop
	manifest  func() *manifest.Manifest
	blobs     *blob.Blobs
	view      *viewer
	downloads *downloads
	encodings encodings
	supplies  supplies
	log       *zap.Logger
}

func (m *models) ListModels(ctx context.Context, _ *pb.ListModelsRequest) (*pb.ListModelsReply, error) {
	var all []registry.Version
	if err := m.loop.read(ctx, func() { all = m.loop.index.Versions() }); err != nil {
		return nil, answer(m.log, err)
	}
	out, figures := &pb.ListModelsReply{}, m.manifest().MayReadMetrics(caller(ctx).Name)
	for i, size := len(all)-1, 0; i >= 0 && size < maxView; i-- { // the newest come first; older ones are shown by their ids
		if m.hidden(all[i]) {
			continue
		}
		v := m.view.model(all[i], figures)
		out.Models = append(out.Models, v)
		size += proto.Size(v) + 8 // for the field's tag and length
	}
	return out, nil
}

func (m *models) ShowModel(ctx context.Context, q *pb.ShowModelRequest) (*pb.ShowModelReply, error) {
	v, err := m.resolve(ctx, q.Model)
	if err != nil {
		return nil, answer(m.log, err)
	}
	return &pb.ShowModelReply{Model: m.view.model(v, m.manifest().MayReadMetrics(caller(ctx).Name))}, nil
}

func (m *models) resolve(ctx context.Context, text string) (v registry.Version, err error) {
	if e := m.loop.read(ctx, func() { v, err = m.seen(text) }); e != nil {
		return v, e
	}
	return v, err
}

// seen returns the newest version that text names and that may be seen: one that is kept, if there is. Called by the loop.
func (m *models) seen(text string) (registry.Version, error) {
	v, err := m.loop.index.Resolve(text)
	if err != nil || !m.hidden(v) && v.Dropped.IsZero() {
		return v, err
	}
	var gone registry.Version
	for _, older := range slices.Backward(m.loop.index.Versions()) { // the same model may have been made before
		if older.Model != v.Model || m.hidden(older) {
			continue
		}
		if older.Dropped.IsZero() {
			return older, nil
		}
		if gone.Run == "" {
			gone = older
		}
	}
	if gone.Run == "" {
		return registry.Version{}, fmt.Errorf("%w as %.64q", registry.ErrUnknown, text)
	}
	return gone, nil
}

// hidden reports whether the version was made by a round whose closing is not released yet.
func (m *models) hidden(v registry.Version) bool {
	return len(v.Members) > 0 && v.Position >= m.loop.quorum.visible()
}

// Fetch streams a model's safetensors from an offset, so that a broken download goes on where it broke.
func (m *models) Fetch(q *pb.FetchRequest, stream grpc.ServerStreamingServer[pb.Chunk]) error {
	ctx := stream.Context()
	d, err := digest(q.Model)
	if err != nil {
		return err
	}
	v, err := m.resolve(ctx, d.String())
	if err != nil {
		return answer(m.log, err)
	}
	if err := m.mayRead(ctx, caller(ctx), d); err != nil {
		return answer(m.log, err)
	}
	if !v.Dropped.IsZero() {
		return status.Errorf(codes.NotFound, "the model is kept no more: its run has ended, and the coordinator's retention deleted it at %s; what it was made of is still in the log",
			v.Dropped.Format(time.RFC3339))
	}
	if q.Offset < 0 || q.Offset > v.Blob.Size {
		return status.Errorf(codes.OutOfRange, "offset %d in a model of %d bytes", q.Offset, v.Blob.Size)
	}
	r, p, err := m.read(ctx, q, v)
	if err != nil {
		return answer(m.log, err)
	}
	defer r.end()
	going := m.begin(caller(ctx), d, q.Offset, v.Blob.Size)
	encoder, buf := codec.Encoder{Reads: p.reads}, make([]byte, min(codec.Piece, v.Blob.Size))
	for p.at = q.Offset; p.at < v.Blob.Size; {
		n := min(codec.Piece-p.at%codec.Piece, v.Blob.Size-p.at) // a chunk ends at a multiple of codec.Piece, or with the whole
		scheme, data, err := m.encodings.get(p, func() (codec.Scheme, []byte, error) {
			if err := r.read(ctx, buf[:n], p.at); err != nil {
				return 0, nil, err
			}
			scheme, data := encoder.Encode(time.Now, make([]byte, 0, n), buf[:n])
			return scheme, data, nil
		})
		if err != nil {
			return answer(m.log, err)
		}
		c := &pb.Chunk{Offset: p.at, Scheme: uint32(scheme), Size: uint32(n), Data: data, OnBase: !p.base.IsZero()}
		if err := stream.Send(c); err != nil {
			return err
		}
		p.at += n
		m.downloads.gave(going, int(n))
	}
	return nil
}

// read begins to read a model for a download, as its difference to the one that the caller has where it can be, and names its pieces.
func (m *models) read(ctx context.Context, q *pb.FetchRequest, v registry.Version) (*fetching, piece, error) {
	p := piece{model: v.Model, reads: codec.Schemes(q.Schemes).OrOld() & codec.All}
	if base, ok := m.basis(ctx, q, v); ok {
		r, err := m.supplies.begin(ctx, m.blobs, content{v.Blob, base.Blob}, q.Offset)
		if err == nil {
			p.base = base.Model
			return r, p, nil
		}
		m.log.Warn("a model is sent whole, since it or its base cannot be read", zap.String("model", v.Model.Short()), zap.String("base", base.Model.Short()), zap.Error(err))
	}
	r, err := m.supplies.begin(ctx, m.blobs, content{model: v.Blob}, q.Offset)
	return r, p, err
}

// basis returns the model that the caller has already, where that is one that it may fetch, is kept, and is as long as v.
func (m *models) basis(ctx context.Context, q *pb.FetchRequest, v registry.Version) (base registry.Version, ok bool) {
	d, err := digest(q.Base)
	if err != nil || d == v.Model || m.mayRead(ctx, caller(ctx), d) != nil {
		return base, false
	}
	base, err = m.resolve(ctx, d.String())
	return base, err == nil && base.Dropped.IsZero() && base.Blob.Size == v.Blob.Size
}

// sendText streams bytes to whoever has not said what it reads, in chunks of codec.Piece. Each has its own bytes, since a message that was
// sent may still be read by gRPC.
func sendText(stream grpc.ServerStreamingServer[pb.Chunk], text []byte) error {
	e, at := codec.Encoder{Reads: codec.Old}, int64(0)
	for chunk := range slices.Chunk(text, codec.Piece) {
		scheme, data := e.Encode(nil, nil, chunk)
		if err := stream.Send(&pb.Chunk{Offset: at, Size: uint32(len(chunk)), Scheme: uint32(scheme), Data: data}); err != nil {
			return err
		}
		at += int64(len(chunk))
	}
	return nil
}

// mayRead lets a participant fetch the models of runs that it takes part in, and a person what the manifest says.
func (m *models) mayRead(ctx context.Context, p transport.Peer, d entry.Digest) error {
	allowed := false
	if p.Office == attest.Person {
		allowed = m.manifest().MayReadModels(p.Name)
	} else if err := m.loop.read(ctx, func() { allowed = m.loop.state.TakesPart(entry.Member(p.Name), d) }); err != nil {
		return err
	}
	if !allowed {
		return status.Error(codes.PermissionDenied, "the manifest lets you read no models, or this model's run is not yours")
	}
	return nil
}
