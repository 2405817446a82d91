package consiliumv1

import (
	"encoding/binary"
	"io"
	"math"
	"slices"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // has what chunks goes back to registered
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Codec returns how messages become bytes: as protobuf, like gRPC's own codec, but that the data of a large Chunk are not copied on the way
// out, and once on the way in, into what the message that is received into held before. So the data of a Chunk that was sent must stay
// as they are, and whoever receives into the same message again must be done with its data. It is safe for concurrent use.
func Codec() encoding.CodecV2 { return chunks{encoding.GetCodecV2("proto")} }

// leastData is the least length of data, or of a message, that is worth it.
const leastData = 4 << 10

// The fields of Chunk, and the one of OfferRequest that is a Chunk.
const (
	fieldOffset, fieldScheme, fieldSize, fieldData, fieldOnBase = 1, 2, 3, 4, 5

	fieldChunk = 2
)

type chunks struct{ encoding.CodecV2 }

func (c chunks) Marshal(v any) (mem.BufferSlice, error) {
	m, _ := v.(*Chunk)
	q, offered := v.(*OfferRequest)
	if offered {
		m = q.GetChunk()
	}
	if len(m.GetData()) < leastData || len(m.unknownFields) > 0 {
		return c.CodecV2.Marshal(v)
	}
	return mem.BufferSlice{mem.SliceBuffer(head(m, offered)), mem.SliceBuffer(m.Data)}, nil
}

// head returns what stands before a chunk's data.
func head(m *Chunk, offered bool) []byte {
	b := make([]byte, 0, 64)
	number := func(field protowire.Number, v uint64) {
		if v != 0 {
			b = protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
		}
	}
	number(fieldOffset, uint64(m.Offset))
	number(fieldScheme, uint64(m.Scheme))
	number(fieldSize, uint64(m.Size))
	number(fieldOnBase, protowire.EncodeBool(m.OnBase))
	b = protowire.AppendVarint(protowire.AppendTag(b, fieldData, protowire.BytesType), uint64(len(m.Data)))
	if !offered {
		return b
	}
	outer := protowire.AppendTag(make([]byte, 0, 16+len(b)), fieldChunk, protowire.BytesType)
	return append(protowire.AppendVarint(outer, uint64(len(b)+len(m.Data))), b...)
}

// Unmarshal reads what Marshal and other writers of protobuf make of a Chunk. Whatever has any other form is read as ever.
func (c chunks) Unmarshal(data mem.BufferSlice, v any) error {
	if data.Len() >= leastData {
		r := data.Reader()
		defer r.Close() //nolint:errcheck // it has nothing to close
		switch m := v.(type) {
		case *Chunk:
			if read, ok := readChunk(r, m.GetData()); ok {
				m.Reset()
				m.Offset, m.Scheme, m.Size, m.Data, m.OnBase = read.Offset, read.Scheme, read.Size, read.Data, read.OnBase
				return nil
			}
		case *OfferRequest:
			field, n, ok := readField(r)
			if !ok || field != (tag{fieldChunk, protowire.BytesType}) || n != uint64(r.Remaining()) {
				break
			}
			if read, ok := readChunk(r, m.GetChunk().GetData()); ok {
				m.Reset()
				m.Part = &OfferRequest_Chunk{Chunk: read}
				return nil
			}
		}
	}
	return c.CodecV2.Unmarshal(data, v)
}

type tag struct {
	field protowire.Number
	kind  protowire.Type
}

// readField reads a field's tag, and the number that follows it: of a varint its value, of bytes their length.
func readField(r *mem.Reader) (tag, uint64, bool) {
	t, err := binary.ReadUvarint(r)
	if err != nil {
		return tag{}, 0, false
	}
	n, err := binary.ReadUvarint(r)
	field, kind := protowire.DecodeTag(t)
	return tag{field, kind}, n, err == nil
}

// readChunk reads the rest of r as a Chunk in which every field that is there is there once, with its data in buf where they fit. It
// returns false where it is none.
func readChunk(r *mem.Reader, buf []byte) (*Chunk, bool) {
	m := &Chunk{}
	var seen [fieldOnBase + 1]bool
	for r.Remaining() > 0 {
		t, n, ok := readField(r)
		want := protowire.VarintType
		if t.field == fieldData {
			want = protowire.BytesType
		}
		if !ok || t.field < fieldOffset || t.field > fieldOnBase || seen[t.field] || t.kind != want {
			return nil, false
		}
		seen[t.field] = true
		switch {
		case t.field == fieldOffset:
			m.Offset = int64(n)
		case t.field == fieldScheme && n <= math.MaxUint32:
			m.Scheme = uint32(n)
		case t.field == fieldSize && n <= math.MaxUint32:
			m.Size = uint32(n)
		case t.field == fieldOnBase && n <= 1:
			m.OnBase = n == 1
		case t.field == fieldData && n <= uint64(r.Remaining()):
			m.Data = slices.Grow(buf[:0], int(n))[:n]
			if _, err := io.ReadFull(r, m.Data); err != nil {
				return nil, false
			}
		default:
			return nil, false
		}
	}
	return m, true
}
