package consiliumv1_test

import (
	"bytes"
	"slices"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	pb "consilium.dev/proto/consilium/v1"
)

// full returns a Chunk with a value in every field, of which a version that has one more than this test knows too.
func full(data []byte) *pb.Chunk {
	m := &pb.Chunk{}
	fields := m.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f, v := fields.Get(i), protoreflect.Value{}
		switch f.Kind() {
		case protoreflect.Int64Kind:
			v = protoreflect.ValueOfInt64(1<<40 + int64(i))
		case protoreflect.Uint32Kind:
			v = protoreflect.ValueOfUint32(1<<20 + uint32(i))
		case protoreflect.BoolKind:
			v = protoreflect.ValueOfBool(true)
		case protoreflect.BytesKind:
			v = protoreflect.ValueOfBytes(data)
		default:
			panic("a Chunk has a field of another kind: " + f.Kind().String())
		}
		m.ProtoReflect().Set(f, v)
	}
	return m
}

// cut makes buffers of text, as frames of a connection do.
func cut(text []byte, n int) (all mem.BufferSlice) {
	for part := range slices.Chunk(text, n) {
		all = append(all, mem.SliceBuffer(part))
	}
	return all
}

// TestCodec: what the codec writes protobuf reads, and the reverse, for chunks of any length in buffers of any length, and for what is none.
func TestCodec(t *testing.T) {
	codec := pb.Codec()
	var chunk pb.Chunk // received into again and again
	var offer pb.OfferRequest
	rapid.Check(t, func(r *rapid.T) {
		data := bytes.Repeat([]byte{7, 1}, rapid.IntRange(0, 20_000).Draw(r, "length"))
		m := full(data)
		if rapid.Bool().Draw(r, "zero") {
			m = &pb.Chunk{Data: data}
		}
		size := rapid.IntRange(1, 30_000).Draw(r, "buffers")
		for _, c := range []struct{ sent, got, into proto.Message }{
			{m, &pb.Chunk{}, &chunk},
			{&pb.OfferRequest{Part: &pb.OfferRequest_Chunk{Chunk: m}}, &pb.OfferRequest{}, &offer},
			{&pb.OfferRequest{Part: &pb.OfferRequest_Header{Header: &pb.OfferHeader{Salt: data}}}, &pb.OfferRequest{}, &offer},
		} {
			text, err := codec.Marshal(c.sent)
			if err != nil {
				r.Fatal(err)
			}
			if err := proto.Unmarshal(text.Materialize(), c.got); err != nil || !proto.Equal(c.sent, c.got) {
				r.Fatalf("protobuf reads another message: %v", err)
			}
			plain, err := proto.Marshal(c.sent)
			if err != nil {
				r.Fatal(err)
			}
			for _, written := range [][]byte{plain, text.Materialize()} {
				if err := codec.Unmarshal(cut(written, size), c.into); err != nil || !proto.Equal(c.sent, c.into) {
					r.Fatalf("the codec reads another message: %v", err)
				}
			}
		}
	})
}

// TestCodecCopies: data are not copied on the way out, and received into what is there.
func TestCodecCopies(t *testing.T) {
	m := full(make([]byte, 100_000))
	text, err := pb.Codec().Marshal(m)
	if err != nil || &text[len(text)-1].ReadOnlyData()[0] != &m.Data[0] {
		t.Errorf("%d buffers, %v, want the last to be the data", len(text), err)
	}
	into := &pb.Chunk{Data: make([]byte, 0, 100_000)}
	there := &into.Data[:1][0]
	if err := pb.Codec().Unmarshal(text, into); err != nil || &into.Data[0] != there || !proto.Equal(m, into) {
		t.Errorf("Unmarshal: %v, want the data where there was room", err)
	}
}

// FuzzCodec: whatever bytes come, the codec reads what protobuf reads, and refuses what it refuses.
func FuzzCodec(f *testing.F) {
	text, err := proto.Marshal(full(make([]byte, 5000)))
	if err != nil {
		f.Fatal(err)
	}
	for _, tail := range [][]byte{nil, {0x08, 1}, {0x22, 0}, {0x30, 1}, {0x2a, 0xff, 0xff, 3}, {0x18, 0xff, 0xff, 0xff, 0xff, 0x7f}, {0x28, 2}, {0}} {
		f.Add(append(slices.Clone(text), tail...), false)
		f.Add(append(slices.Clone(text), tail...), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, offered bool) {
		text = append(text, make([]byte, max(0, 4096-len(text)))...)
		text = text[:len(text):len(text)]
		var got, want proto.Message = &pb.Chunk{}, &pb.Chunk{}
		if offered {
			got, want = &pb.OfferRequest{}, &pb.OfferRequest{}
		}
		err := pb.Codec().Unmarshal(cut(text, 1000), got)
		if e := proto.Unmarshal(text, want); (err == nil) != (e == nil) || err == nil && !proto.Equal(got, want) {
			t.Fatalf("the codec says %v, protobuf %v; or they read different messages", err, e)
		}
	})
}
