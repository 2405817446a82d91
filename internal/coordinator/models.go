package coordinator

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
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
	r, err := m.open(ctx, v, q.Offset)
	if err != nil {
		return answer(m.log, err)
	}
	defer r.Close()
	p := piece{model: d, reads: codec.Schemes(q.Schemes).OrOld() & codec.All}
	var bytes io.Reader = r
	if base := m.basis(ctx, q, v); base != nil {
		defer base.Close()
		bytes, p.base = &difference{is: r, was: base}, entry.Digest(q.Base)
	}
	going := m.begin(caller(ctx), d, q.Offset, v.Blob.Size)
	encoder := codec.Encoder{Reads: p.reads}
	encode := func(at int64, chunk []byte) *pb.Chunk {
		p.at = at
		scheme, data := m.encodings.get(p, func() (codec.Scheme, []byte) {
			return encoder.Encode(time.Now, make([]byte, 0, len(chunk)), chunk)
		})
		return &pb.Chunk{Scheme: uint32(scheme), Data: data, OnBase: !p.base.IsZero()}
	}
	if err := sendChunks(stream, bytes, q.Offset, v.Blob.Size, encode, func(n int) { m.downloads.gave(going, n) }); err != nil {
		return answer(m.log, err)
	}
	return nil
}

// open opens a model's file at an offset.
func (m *models) open(ctx context.Context, v registry.Version, offset int64) (io.ReadCloser, error) {
	r, err := m.blobs.Open(ctx, v.Blob)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, offset); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// basis opens the model that the caller has already, where that is one that it may fetch, is here, and is as long as v. Where it is
// not the caller gets the whole.
func (m *models) basis(ctx context.Context, q *pb.FetchRequest, v registry.Version) io.ReadCloser {
	d, err := digest(q.Base)
	if err != nil || d == v.Model || m.mayRead(ctx, caller(ctx), d) != nil {
		return nil
	}
	base, err := m.resolve(ctx, d.String())
	if err != nil || !base.Dropped.IsZero() || base.Blob.Size != v.Blob.Size {
		return nil
	}
	r, err := m.open(ctx, base, q.Offset)
	if err != nil {
		m.log.Warn("a model is sent whole, since its base cannot be read", zap.String("model", v.Model.Short()), zap.String("base", d.Short()), zap.Error(err))
		return nil
	}
	return r
}

// difference reads what is xor what was.
type difference struct {
	is, was io.Reader
	buf     []byte // of what was
}

func (d *difference) Read(p []byte) (int, error) {
	n, err := d.is.Read(p)
	d.buf = slices.Grow(d.buf[:0], n)[:n]
	if _, e := io.ReadFull(d.was, d.buf); e != nil {
		return 0, e
	}
	subtle.XORBytes(p[:n], p[:n], d.buf)
	return n, err
}

// encodeOld encodes a chunk for whoever has not said what it reads. The chunk has its own bytes afterwards, since a message that was
// sent may still be read by gRPC.
func encodeOld(_ int64, chunk []byte) *pb.Chunk {
	e := codec.Encoder{Reads: codec.Old}
	scheme, data := e.Encode(nil, nil, chunk)
	return &pb.Chunk{Scheme: uint32(scheme), Data: data}
}

// sendChunks streams r, whose first byte is at an offset of a whole of that size, in chunks that encode encodes, into bytes that
// stay as they are, and tells gave how many bytes of it were in each. A chunk ends at a multiple of codec.Piece, or with the whole.
func sendChunks(stream grpc.ServerStreamingServer[pb.Chunk], r io.Reader, at, size int64,
	encode func(int64, []byte) *pb.Chunk, gave func(int),
) error {
	buf := make([]byte, min(codec.Piece, size-at+1)) // one more, to hear of the end: only then is the whole believed
	for {
		n, err := io.ReadFull(r, buf[:min(int64(len(buf)), codec.Piece-at%codec.Piece)])
		if n > 0 {
			c := encode(at, buf[:n])
			c.Offset, c.Size = at, uint32(n)
			if err := stream.Send(c); err != nil {
				return err
			}
			at += int64(n)
			gave(n)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
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
