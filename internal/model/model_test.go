package model_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"consilium.dev/internal/model"
)

// small is a model of two tensors, smallFile its file and smallDigest its version id, all written by hand from the format.
func small() *model.Model {
	return &model.Model{
		Layout: model.Layout{{Name: "linear.bias", Shape: []int{1}}, {Name: "linear.weight", Shape: []int{1, 2}}},
		Params: []float32{1, -2, 0.5},
	}
}

const (
	smallHeader = `{"linear.bias":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},` +
		`"linear.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]}}    `
	smallFile   = "\x88\x00\x00\x00\x00\x00\x00\x00" + smallHeader + "\x00\x00\x80\x3f\x00\x00\x00\xc0\x00\x00\x00\x3f"
	smallDigest = "04a7319b624924b57aecaaf8245d6af9c55ec694beb12d358abb358798e8295c" // by another program
)

func write(t testing.TB, m *model.Model) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		t.Fatalf("Write = %v, want no error", err)
	}
	return b.Bytes()
}

func TestFile(t *testing.T) {
	m := small()
	got := write(t, m)
	if diff := cmp.Diff(string(got), smallFile); diff != "" {
		t.Errorf("file differs from the one written by hand (-got +want):\n%s", diff)
	}
	if m.Size() != int64(len(got)) {
		t.Errorf("Size = %d, the file has %d bytes", m.Size(), len(got))
	}
	digest := m.Digest()
	if digest != sha256.Sum256(got) {
		t.Errorf("Digest = %x, want the file's SHA-256 %x", digest, sha256.Sum256(got))
	}
	if got := hex.EncodeToString(digest[:]); got != smallDigest {
		t.Errorf("Digest = %s, want %s", got, smallDigest)
	}
	again, err := model.Read(bytes.NewReader(got), int64(len(got)))
	if err != nil {
		t.Fatalf("Read = %v, want no error", err)
	}
	if diff := cmp.Diff(again, m); diff != "" {
		t.Errorf("what was read differs (-got +want):\n%s", diff)
	}
}

// models draws models of a few tensors, with names that JSON writers spell alike and values of every finite bit pattern.
func models() *rapid.Generator[*model.Model] {
	return rapid.Custom(func(r *rapid.T) *model.Model {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z._/ é語0-9]{1,12}`), 1, 6, rapid.ID).Draw(r, "names")
		slices.Sort(names)
		m := &model.Model{}
		for _, name := range names {
			shape := rapid.SliceOfN(rapid.IntRange(1, 5), 0, 3).Draw(r, "shape of "+name)
			m.Layout = append(m.Layout, model.Tensor{Name: name, Shape: shape})
		}
		for range m.Layout.Len() {
			bits := rapid.Uint32().Filter(func(b uint32) bool { return b>>23&0xff != 0xff }).Draw(r, "bits")
			m.Params = append(m.Params, math.Float32frombits(bits))
		}
		return m
	})
}

// TestRoundTrip: what is written is read again bit by bit, and the same model always has the same file.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := models().Draw(r, "model")
		var file bytes.Buffer
		if err := m.Write(&file); err != nil {
			r.Fatalf("Write = %v, want no error", err)
		}
		if file.Len()%4 != 0 || int64(file.Len()) != m.Size() || m.Digest() != sha256.Sum256(file.Bytes()) {
			r.Fatalf("file of %d bytes, Size %d, Digest %x, its SHA-256 %x", file.Len(), m.Size(), m.Digest(), sha256.Sum256(file.Bytes()))
		}
		again, err := model.Read(bytes.NewReader(file.Bytes()), m.Size())
		if err != nil {
			r.Fatalf("Read = %v, want no error", err)
		}
		if !again.Layout.Equal(m.Layout) || !slices.EqualFunc(again.Params, m.Params, sameBits) {
			r.Fatalf("Read = %v, want %v", again, m)
		}
		if again.Digest() != m.Digest() {
			r.Fatalf("Digest of what was read = %x, want %x", again.Digest(), m.Digest())
		}
	})
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

// TestWriteBlocks writes more values than are converted at a time.
func TestWriteBlocks(t *testing.T) {
	for _, n := range []int{1<<14 - 1, 1 << 14, 1<<14 + 1, 3<<14 + 7} {
		m := &model.Model{Layout: model.Layout{{Name: "w", Shape: []int{n}}}, Params: make([]float32, n)}
		for i := range m.Params {
			m.Params[i] = float32(i)
		}
		again, err := model.Read(bytes.NewReader(write(t, m)), m.Size())
		if err != nil || !slices.Equal(again.Params, m.Params) {
			t.Errorf("%d values: read again with error %v, want the same values", n, err)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	one := model.Layout{{Name: "a", Shape: []int{2}}, {Name: "b"}}
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		name   string
		layout model.Layout
		params []float32
		want   string
	}{
		{"no tensors", nil, nil, "0 tensors"},
		{"too few values", one, []float32{1, 2}, "model has 2 values, its layout 3"},
		{"too many values", one, make([]float32, 4), "model has 4 values, its layout 3"},
		{"NaN", one, []float32{0, nan, 0}, `value 1 of tensor "a" is not finite`},
		{"infinity", one, []float32{0, 0, inf}, `value 0 of tensor "b" is not finite`},
		{"minus infinity", one, []float32{-inf, 0, 0}, `value 0 of tensor "a" is not finite`},
		{"names that descend", model.Layout{{Name: "b"}, {Name: "a"}}, make([]float32, 2), "names must ascend"},
		{"a name twice", model.Layout{{Name: "a"}, {Name: "a"}}, make([]float32, 2), "names must ascend"},
		{"no name", model.Layout{{}}, make([]float32, 1), "1 to 256 bytes"},
		{"long name", model.Layout{{Name: long}}, make([]float32, 1), "1 to 256 bytes"},
		{"metadata's key as name", model.Layout{{Name: "__metadata__"}}, make([]float32, 1), "tensor name"},
		{"name that is no text", model.Layout{{Name: "a\xff"}}, make([]float32, 1), "tensor name"},
		{"quote in a name", model.Layout{{Name: `a"b`}}, make([]float32, 1), "not allowed"},
		{"backslash in a name", model.Layout{{Name: `a\b`}}, make([]float32, 1), "not allowed"},
		{"newline in a name", model.Layout{{Name: "a\nb"}}, make([]float32, 1), "not allowed"},
		{"angle bracket in a name", model.Layout{{Name: "a<b"}}, make([]float32, 1), "not allowed"},
		{"line separator in a name", model.Layout{{Name: "a\u2028b"}}, make([]float32, 1), "not allowed"},
		{"empty dimension", model.Layout{{Name: "a", Shape: []int{2, 0}}}, nil, "impossible shape"},
		{"negative dimension", model.Layout{{Name: "a", Shape: []int{-1}}}, nil, "impossible shape"},
		{"nine dimensions", model.Layout{{Name: "a", Shape: []int{1, 1, 1, 1, 1, 1, 1, 1, 1}}}, make([]float32, 1), "impossible shape"},
		{"dimensions that overflow", model.Layout{{Name: "a", Shape: []int{1 << 32, 1 << 32}}}, nil, "impossible shape"},
		{"too many values over all", model.Layout{{Name: "a", Shape: []int{model.MaxLen}}, {Name: "b"}}, nil, "impossible shape"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &model.Model{Layout: c.layout, Params: c.params}
			var b bytes.Buffer
			if err := m.Write(&b); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Write = %v, want an error with %q", err, c.want)
			}
			if b.Len() > 0 {
				t.Errorf("%d bytes were written, want none", b.Len())
			}
		})
	}
}

// TestDigestPanics: a model that is none has no version id.
func TestDigestPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	(&model.Model{Layout: model.Layout{{Name: "a"}}}).Digest()
}

// TestWriteStops returns the writer's own error, whichever of its calls fails.
func TestWriteStops(t *testing.T) {
	full := errors.New("disk full")
	m := &model.Model{Layout: model.Layout{{Name: "w", Shape: []int{1 << 15}}}, Params: make([]float32, 1<<15)}
	for calls := range 3 {
		if err := m.Write(&failing{calls, full}); !errors.Is(err, full) {
			t.Errorf("Write over a writer that fails after %d calls = %v, want its error", calls, err)
		}
	}
}

type failing struct {
	calls int
	err   error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.calls == 0 {
		return 0, f.err
	}
	f.calls--
	return len(p), nil
}

// TestLargestHeader: every layout that is valid has a header that Read accepts.
func TestLargestHeader(t *testing.T) {
	const tensors = 1 << 14
	var l model.Layout
	for i := range tensors {
		name := hex.EncodeToString([]byte{byte(i >> 8), byte(i)}) + strings.Repeat("x", 252)
		l = append(l, model.Tensor{Name: name, Shape: []int{10, 10, 10, 10, 10, 10, 10, 6}})
	}
	if err := l.Validate(); err != nil {
		t.Fatal(err)
	}
	if n := (&model.Model{Layout: l}).Size() - 8; n > 1<<24 {
		t.Errorf("header of the largest layout has %d bytes, Read accepts at most %d", n, 1<<24)
	}
	l = append(l, model.Tensor{Name: "z"})
	if err := l.Validate(); err == nil {
		t.Errorf("%d tensors are valid, want at most %d", len(l), tensors)
	}
}

func TestSlice(t *testing.T) {
	m := small()
	w, ok := m.Layout.Slice(m.Params, "linear.weight")
	if !ok || !slices.Equal(w, []float32{-2, 0.5}) || cap(w) != 2 {
		t.Errorf("Slice = %v (room for %d), %t, want the two weights and no room", w, cap(w), ok)
	}
	if bias, ok := m.Layout.Slice(m.Params, "linear.bias"); !ok || cap(bias) != 1 {
		t.Errorf("Slice = %v (room for %d), %t, want the bias and no room to grow into the weights", bias, cap(bias), ok)
	}
	w[0] = 7
	if m.Params[1] != 7 {
		t.Error("a change of the part does not show in the whole, want shared memory")
	}
	for name, params := range map[string][]float32{"linear.weight": m.Params[:2], "linear.bias": nil, "other": m.Params} {
		if part, ok := m.Layout.Slice(params, name); ok {
			t.Errorf("Slice(%d values, %s) = %v, want none", len(params), name, part)
		}
	}
}

func TestEqual(t *testing.T) {
	a := model.Layout{{Name: "a", Shape: []int{2, 3}}}
	for name, b := range map[string]model.Layout{
		"another name": {{Name: "b", Shape: []int{2, 3}}}, "another shape": {{Name: "a", Shape: []int{3, 2}}},
		"flat": {{Name: "a", Shape: []int{6}}}, "one more": {a[0], {Name: "b"}}, "none": nil,
	} {
		if a.Equal(b) {
			t.Errorf("%s: layouts are equal, want them to differ", name)
		}
	}
	if !a.Equal(model.Layout{{Name: "a", Shape: []int{2, 3}}}) || !(model.Layout{{Name: "a"}}).Equal(model.Layout{{Name: "a", Shape: []int{}}}) {
		t.Error("equal layouts differ")
	}
}

// TestUpdateDigest compares with a digest over bytes laid out by hand, across a block's end.
func TestUpdateDigest(t *testing.T) {
	salt := [32]byte{1, 2, 3}
	values := make([]float32, 1<<14+3)
	bytes := slices.Clone(salt[:])
	for i := range values {
		values[i] = float32(i) - 0.5
		b := math.Float32bits(values[i])
		bytes = append(bytes, byte(b), byte(b>>8), byte(b>>16), byte(b>>24))
	}
	if got, want := model.UpdateDigest(salt, values), sha256.Sum256(bytes); got != want {
		t.Errorf("UpdateDigest = %x, want %x", got, want)
	}
	if got, want := model.UpdateDigest(salt, nil), sha256.Sum256(salt[:]); got != want {
		t.Errorf("UpdateDigest of no values = %x, want %x", got, want)
	}
}

// TestReadAt: a model's file can be read from any place on, as Write writes it.
func TestReadAt(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := models().Draw(r, "model")
		var file bytes.Buffer
		if err := m.Write(&file); err != nil {
			r.Fatal(err)
		}
		if err := iotest.TestReader(io.NewSectionReader(m, 0, m.Size()), file.Bytes()); err != nil {
			r.Fatal(err)
		}
		at := rapid.IntRange(0, file.Len()+3).Draw(r, "offset")
		got := make([]byte, rapid.IntRange(0, file.Len()).Draw(r, "length"))
		n, err := m.ReadAt(got, int64(at))
		want := file.Bytes()[min(at, file.Len()):min(at+len(got), file.Len())]
		if !bytes.Equal(got[:n], want) || (err == nil) != (n == len(got)) {
			r.Fatalf("ReadAt(%d bytes, %d) = %d, %v, want %d bytes of the file", len(got), at, n, err, len(want))
		}
	})
}

// TestFloats: every bit pattern survives, NaNs with their payloads too.
func TestFloats(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		want := rapid.SliceOf(rapid.Uint32()).Draw(r, "bits")
		src := make([]float32, len(want))
		for i, b := range want {
			src[i] = math.Float32frombits(b)
		}
		text := bytes.Repeat([]byte{0xaa}, 4*len(src)+1)
		model.PutFloats(text, src)
		if text[4*len(src)] != 0xaa {
			r.Fatal("PutFloats wrote behind its values")
		}
		got := make([]float32, len(src))
		model.Floats(got, text)
		for i, x := range got {
			if math.Float32bits(x) != want[i] {
				r.Fatalf("value %d = %08x, want %08x", i, math.Float32bits(x), want[i])
			}
		}
	})
}
