package model

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

const (
	// metadataKey is the header's one key that is no tensor.
	metadataKey = "__metadata__"
	// maxHeader is the most bytes of a header; the largest layout that is valid stays below it.
	maxHeader = 1 << 24
	// blockLen is how many values are converted at a time.
	blockLen = 1 << 14
)

// tensorHeader is a tensor's entry in a safetensors header. Offsets count bytes from the end of the header; the second is the
// first byte behind the tensor.
type tensorHeader struct {
	DType   string `json:"dtype"`
	Shape   []int  `json:"shape"`
	Offsets [2]int `json:"data_offsets"`
}

// Size returns how many bytes [Model.Write] writes for a valid model.
func (m *Model) Size() int64 {
	return int64(len(m.Layout.header())) + 4*int64(len(m.Params))
}

// Write writes m's canonical file. It writes nothing if m is not valid or holds a value that is not finite.
func (m *Model) Write(w io.Writer) error {
	if err := m.finite(); err != nil {
		return err
	}
	return m.write(w)
}

func (m *Model) write(w io.Writer) error {
	if err := m.Validate(); err != nil {
		return err
	}
	if _, err := w.Write(m.Layout.header()); err != nil {
		return err
	}
	return writeFloats(w, m.Params)
}

// ReadAt reads the bytes of m's canonical file from an offset on, as io.ReaderAt has it. m must be valid.
func (m *Model) ReadAt(p []byte, offset int64) (n int, err error) {
	header := m.Layout.header()
	if offset < int64(len(header)) {
		n = copy(p, header[offset:])
	}
	for at := offset + int64(n) - int64(len(header)); n < len(p) && at < 4*int64(len(m.Params)); at = offset + int64(n) - int64(len(header)) {
		var bytes [4 * 64]byte
		values := m.Params[at/4:]
		values = values[:min(64, len(values))]
		PutFloats(bytes[:], values)
		n += copy(p[n:], bytes[at%4:4*len(values)])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// header returns the first part of the file: the length, the JSON and its padding.
func (l Layout) header() []byte {
	b := append(make([]byte, 8), '{')
	at := 0
	for i, t := range l {
		if i > 0 {
			b = append(b, ',')
		}
		h := tensorHeader{DType: "F32", Shape: t.Shape, Offsets: [2]int{at, at + 4*t.Len()}}
		if h.Shape == nil {
			h.Shape = []int{}
		}
		at = h.Offsets[1]
		text, err := json.Marshal(h)
		if err != nil {
			panic(fmt.Sprintf("model: numbers and a word are no JSON: %v", err))
		}
		b = append(append(append(b, '"'), t.Name...), '"', ':') // checkName keeps out what needs an escape
		b = append(b, text...)
	}
	b = append(b, '}')
	for len(b)%8 != 0 {
		b = append(b, ' ')
	}
	binary.LittleEndian.PutUint64(b, uint64(len(b)-8))
	return b
}

// writeFloats writes values as float32s, little endian.
func writeFloats(w io.Writer, values []float32) error {
	buf := make([]byte, 4*min(blockLen, len(values)))
	for part := range slices.Chunk(values, blockLen) {
		PutFloats(buf, part)
		if _, err := w.Write(buf[:4*len(part)]); err != nil {
			return err
		}
	}
	return nil
}

// Read reads the one model in r, of at most limit bytes, and holds no more than about that in memory. It refuses every file
// but the canonical one: types other than F32, metadata, holes, bytes that are missing or too many, values that are not
// finite. So what was read is written again to the same bytes.
func Read(r io.Reader, limit int64) (*Model, error) {
	d, err := NewDecoder(r, limit)
	if err != nil {
		return nil, err
	}
	m := &Model{Layout: d.Layout(), Params: make([]float32, d.n)}
	if err := d.Next(m.Params); err != nil {
		return nil, err
	}
	if err := d.Close(); err != nil {
		return nil, err
	}
	return m, nil
}

// Decoder reads a model's file block by block, for who does not want all of it in memory. It refuses what [Read] refuses; what
// it has given before it refuses the rest is no model. One goroutine at a time uses it.
type Decoder struct {
	r      io.Reader
	layout Layout
	n, at  int // values: in all, read so far
	buf    []byte
}

// NewDecoder reads the header of the one model in r, of at most limit bytes.
func NewDecoder(r io.Reader, limit int64) (*Decoder, error) {
	layout, size, err := readHeader(r, limit)
	if err != nil {
		return nil, fmt.Errorf("model file: %w", err)
	}
	n := layout.Len()
	if int64(n) > (limit-size)/4 {
		return nil, fmt.Errorf("model file: %d values and a header of %d bytes are more than the %d bytes allowed", n, size, limit)
	}
	return &Decoder{r: r, layout: layout, n: n, buf: make([]byte, 4*min(blockLen, n))}, nil
}

// Layout returns what the header says. It is not to be changed.
func (d *Decoder) Layout() Layout { return d.layout }

// Next fills dst with the next values. It panics if the model has not that many left.
func (d *Decoder) Next(dst []float32) error {
	if len(dst) > d.n-d.at {
		panic(fmt.Sprintf("model: %d values asked for behind %d of %d", len(dst), d.at, d.n))
	}
	for part := range slices.Chunk(dst, blockLen) {
		if _, err := io.ReadFull(d.r, d.buf[:4*len(part)]); err != nil {
			return fmt.Errorf("model file: reading values from %d of %d on: %w", d.at, d.n, noEOF(err))
		}
		Floats(part, d.buf)
		if err := d.layout.finite(d.at, part); err != nil {
			return fmt.Errorf("model file: %w", err)
		}
		d.at += len(part)
	}
	return nil
}

// Close says whether the file ends where the model does. Only then was everything before it the model.
func (d *Decoder) Close() error {
	if d.at < d.n {
		return fmt.Errorf("model file: closed behind %d of %d values", d.at, d.n)
	}
	if k, err := io.ReadFull(d.r, d.buf[:1]); k > 0 {
		return errors.New("model file: goes on behind its last tensor")
	} else if err != io.EOF {
		return fmt.Errorf("model file: reading its end: %w", err)
	}
	return nil
}

// Encoder writes a model's canonical file block by block: the same bytes as [Model.Write]. One goroutine at a time uses it.
type Encoder struct {
	w      io.Writer
	layout Layout
	n, at  int // values: in all, written so far
	buf    []byte
}

// NewEncoder writes the header of a model with this layout.
func NewEncoder(w io.Writer, l Layout) (*Encoder, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	if _, err := w.Write(l.header()); err != nil {
		return nil, err
	}
	n := l.Len()
	return &Encoder{w: w, layout: l, n: n, buf: make([]byte, 4*min(blockLen, n))}, nil
}

// Next writes the next values, or an error if one of them is not finite. It panics if they are more than the layout has left.
func (e *Encoder) Next(src []float32) error {
	if len(src) > e.n-e.at {
		panic(fmt.Sprintf("model: %d values brought behind %d of %d", len(src), e.at, e.n))
	}
	if err := e.layout.finite(e.at, src); err != nil {
		return err
	}
	for part := range slices.Chunk(src, blockLen) {
		PutFloats(e.buf, part)
		if _, err := e.w.Write(e.buf[:4*len(part)]); err != nil {
			return err
		}
	}
	e.at += len(src)
	return nil
}

// Close says whether the model was written whole. It does not close the writer.
func (e *Encoder) Close() error {
	if e.at < e.n {
		return fmt.Errorf("model file: ended behind %d of %d values", e.at, e.n)
	}
	return nil
}

// readHeader reads and checks everything before the values, and returns its size.
func readHeader(r io.Reader, limit int64) (Layout, int64, error) {
	var length [8]byte
	if limit < 8 {
		return nil, 0, fmt.Errorf("no room for a header in %d bytes", limit)
	}
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, 0, fmt.Errorf("reading the header's length: %w", noEOF(err))
	}
	n := binary.LittleEndian.Uint64(length[:])
	if most := uint64(min(limit-8, maxHeader)); n > most {
		return nil, 0, fmt.Errorf("header of %d bytes, at most %d are allowed", n, most)
	}
	text, err := io.ReadAll(io.LimitReader(r, int64(n))) // grows with what comes, not with what the length promises
	if err != nil {
		return nil, 0, fmt.Errorf("reading the header: %w", err)
	}
	if uint64(len(text)) < n {
		return nil, 0, fmt.Errorf("reading the header: %w", io.ErrUnexpectedEOF)
	}
	layout, err := parseHeader(text)
	if err != nil {
		return nil, 0, err
	}
	if again := layout.header(); !bytes.Equal(again[8:], text) {
		return nil, 0, errors.New("header is not canonical: want tensors by ascending name, without holes, " +
			"without metadata, JSON without white space, padded to eight bytes")
	}
	return layout, 8 + int64(n), nil
}

// parseHeader returns the layout that a header's JSON describes, whatever its offsets and its spelling: the caller compares.
func parseHeader(text []byte) (Layout, error) {
	var tensors map[string]tensorHeader
	if err := json.Unmarshal(text, &tensors); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	var layout Layout
	for _, name := range slices.Sorted(maps.Keys(tensors)) {
		t := tensors[name]
		if name == metadataKey {
			return nil, errors.New("header: holds metadata, which a canonical file has not")
		}
		if t.DType != "F32" {
			return nil, fmt.Errorf("header: tensor %.64q has type %.16q, want F32", name, t.DType)
		}
		layout = append(layout, Tensor{Name: name, Shape: t.Shape})
	}
	if err := layout.Validate(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	return layout, nil
}

// noEOF makes the end of the file where more was promised the error that it is.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
