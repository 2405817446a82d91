package model_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"consilium.dev/internal/model"
)

// file is a file with this header, padded as the format asks, and data.
func file(header string, data ...float32) string {
	header += strings.Repeat(" ", -len(header)&7)
	return rawFile(uint64(len(header)), header, data...)
}

func rawFile(length uint64, header string, data ...float32) string {
	b := binary.LittleEndian.AppendUint64(nil, length)
	b = append(b, header...)
	for _, x := range data {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return string(b)
}

// entry is a tensor's entry in a header.
func entry(name, shape string, from, to int) string {
	return fmt.Sprintf(`"%s":{"dtype":"F32","shape":%s,"data_offsets":[%d,%d]}`, name, shape, from, to)
}

// TestReadRefuses has one file for each thing that a canonical file is not. All but the last of each kind of fault are what
// another writer could make in good faith.
func TestReadRefuses(t *testing.T) {
	a, nan, inf := entry("a", "[1]", 0, 4), float32(math.NaN()), float32(math.Inf(-1))
	many := strings.Builder{}
	for i := range 1<<14 + 1 {
		fmt.Fprintf(&many, ",%s", entry(fmt.Sprintf("%05d", i), "[1]", 4*i, 4*i+4))
	}
	for _, c := range []struct{ name, file, want string }{
		{"empty", "", "header's length: unexpected EOF"},
		{"half a length", "\x08\x00\x00", "header's length: unexpected EOF"},
		{"no header", rawFile(8, ""), "reading the header: unexpected EOF"},
		{"half a header", rawFile(64, "{"+a), "reading the header: unexpected EOF"},
		{"header beyond the limit", rawFile(1<<21, "{}"), "header of 2097152 bytes, at most 2097144"},
		{"header beyond what is possible", rawFile(1<<63, "{}"), "header of 9223372036854775808 bytes"},
		{"header of no bytes", rawFile(0, ""), "header:"},
		{"no JSON", file("linear regression"), "header:"},
		{"JSON of another kind", file("[1,2]"), "header:"},
		{"null", file("null"), "0 tensors"},
		{"JSON without an end", file("{"+a, 1), "header:"},
		{"deep JSON", file(strings.Repeat("[", 20000)), "header:"},
		{"no tensors", file("{}"), "0 tensors"},
		{"too many tensors", file("{"+many.String()[1:]+"}", make([]float32, 1<<14+1)...), "16385 tensors"},

		{"metadata", file(`{"__metadata__":{"format":"pt"},`+a+"}", 1), "holds metadata"},
		{"metadata that looks like a tensor", file("{"+entry("__metadata__", "[1]", 0, 4)+"}", 1), "holds metadata"},
		{"another type", file(`{"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 1), `type "F16", want F32`},
		{"another type of the same size", file(`{"a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}`, 1), `type "I32"`},
		{"type in lower case", file(`{"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}}`, 1), `type "f32"`},
		{"no type", file(`{"a":{"shape":[1],"data_offsets":[0,4]}}`, 1), `type ""`},
		{"a name twice", file("{"+a+","+a+"}", 1), "not canonical"},
		{"a name twice, one behind the other", file("{"+a+","+entry("a", "[1]", 4, 8)+"}", 1, 2), "not canonical"},
		{"a key twice", file(`{"a":{"dtype":"F32","shape":[9],"shape":[1],"data_offsets":[0,4]}}`, 1), "not canonical"},
		{"a key in capitals", file(`{"a":{"Dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 1), "not canonical"},
		{"a key more", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":0}}`, 1), "not canonical"},
		{"keys in another order", file(`{"a":{"shape":[1],"dtype":"F32","data_offsets":[0,4]}}`, 1), "not canonical"},

		{"tensors that overlap", file("{"+entry("a", "[2]", 0, 8)+","+entry("b", "[1]", 4, 8)+"}", 1, 2), "not canonical"},
		{"tensors that share", file("{"+a+","+entry("b", "[1]", 0, 4)+"}", 1), "not canonical"},
		{"a hole", file("{"+a+","+entry("b", "[1]", 8, 12)+"}", 1, 2, 3), "not canonical"},
		{"a hole at the start", file("{"+entry("a", "[1]", 4, 8)+"}", 1, 2), "not canonical"},
		{"offsets turned round", file("{"+entry("a", "[1]", 4, 0)+"}", 1), "not canonical"},
		{"offsets below 0", file("{"+entry("a", "[1]", -4, 0)+"}", 1), "not canonical"},
		{"offsets wider than the shape", file("{"+entry("a", "[1]", 0, 8)+"}", 1, 2), "not canonical"},
		{"offsets beyond integers", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,99999999999999999999]}}`, 1), "header:"},
		{"one offset", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4]}}`, 1), "not canonical"},
		{"three offsets", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}`, 1), "not canonical"},
		{"names in another order", file("{"+entry("b", "[1]", 0, 4)+","+entry("a", "[1]", 4, 8)+"}", 1, 2), "not canonical"},
		{"data in another order", file("{"+entry("a", "[1]", 4, 8)+","+entry("b", "[1]", 0, 4)+"}", 1, 2), "not canonical"},

		{"empty dimension", file("{" + entry("a", "[0]", 0, 0) + "}"), "impossible shape"},
		{"negative dimension", file("{"+entry("a", "[-1]", 0, 4)+"}", 1), "impossible shape"},
		{"dimensions that overflow", file("{"+entry("a", "[4294967296,4294967297]", 0, 4)+"}", 1), "impossible shape"},
		{"dimension beyond integers", file("{"+entry("a", "[99999999999999999999]", 0, 4)+"}", 1), "header:"},
		{"half a dimension", file("{"+entry("a", "[0.5]", 0, 4)+"}", 1), "header:"},
		{"dimension with an exponent", file("{"+entry("a", "[1e0]", 0, 4)+"}", 1), "header:"},
		{"nine dimensions", file("{"+entry("a", "[1,1,1,1,1,1,1,1,1]", 0, 4)+"}", 1), "impossible shape"},
		{"no shape", file("{"+entry("a", "null", 0, 4)+"}", 1), "not canonical"},
		{"no name", file("{"+entry("", "[1]", 0, 4)+"}", 1), "tensor name"},
		{"long name", file("{"+entry(strings.Repeat("x", 257), "[1]", 0, 4)+"}", 1), "tensor name"},
		{"name with an escape that is not needed", file(`{"\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 1), "not canonical"},
		{"name with an escape", file(`{"a\n":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 1), "not allowed"},
		{"name that is no text", file("{"+entry("a\xff", "[1]", 0, 4)+"}", 1), "not allowed"},

		{"white space in JSON", file(strings.ReplaceAll("{"+a+"}", ":", ": "), 1), "not canonical"},
		{"white space before JSON", file(" {"+a+"}", 1), "not canonical"},
		{"newline behind JSON", file("{"+a+"}\n", 1), "not canonical"},
		{"no padding", rawFile(uint64(len("{"+a+"}")), "{"+a+"}", 1), "not canonical"},
		{"more padding than needed", file("{"+a+"}"+strings.Repeat(" ", 8), 1), "not canonical"},
		{"padding that is no space", rawFile(56, "{"+a+"}"+strings.Repeat("\x00", 56-len(a)-2), 1), "header:"},

		{"a byte too few", file("{"+a+"}", 1)[:59+8], "values from 0 of 1 on: unexpected EOF"},
		{"a byte too many", file("{"+a+"}", 1) + "\x00", "goes on behind its last tensor"},
		{"no values", file("{" + a + "}"), "values from 0 of 1 on: unexpected EOF"},
		{"NaN", file("{"+a+"}", nan), `value 0 of tensor "a" is not finite`},
		{"infinity", file("{"+entry("a", "[2]", 0, 8)+"}", 0, inf), `value 1 of tensor "a" is not finite`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := model.Read(strings.NewReader(c.file), 1<<21)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Read = %v, want an error with %q", err, c.want)
			}
			if m != nil {
				t.Errorf("Read = %v, want no model beside an error", m)
			}
		})
	}
	// What all of these are altered from is accepted.
	if _, err := model.Read(strings.NewReader(file("{"+a+"}", 1)), 1<<20); err != nil {
		t.Errorf("Read of the good file = %v, want no error", err)
	}
}

// TestReadCut cuts a file at every byte: each is refused as one that ends too early.
func TestReadCut(t *testing.T) {
	for n := range len(smallFile) {
		if _, err := model.Read(strings.NewReader(smallFile[:n]), 1<<20); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Read of the first %d bytes = %v, want %v", n, err, io.ErrUnexpectedEOF)
		}
	}
}

// TestReadFlipped flips every bit of a file: it is refused, or another model.
func TestReadFlipped(t *testing.T) {
	want := small().Digest()
	for i := range 8 * len(smallFile) {
		b := []byte(smallFile)
		b[i/8] ^= 1 << (i % 8)
		m, err := model.Read(bytes.NewReader(b), 1<<20)
		if err == nil && m.Digest() == want {
			t.Errorf("bit %d of byte %d flipped: the same model", i%8, i/8)
		}
		if err == nil && i/8 < 8+len(smallHeader) && m.Layout.Equal(small().Layout) {
			t.Errorf("bit %d of byte %d of the header flipped: the same layout", i%8, i/8)
		}
	}
}

// TestReadLimit: a file of exactly the limit is read, one byte more is refused before any value is.
func TestReadLimit(t *testing.T) {
	n := int64(len(smallFile))
	if _, err := model.Read(strings.NewReader(smallFile), n); err != nil {
		t.Errorf("Read with just enough room = %v, want no error", err)
	}
	for _, limit := range []int64{math.MinInt64, -1, 0, 7, 8, n - 13, n - 12, n - 1} {
		r := strings.NewReader(smallFile)
		if _, err := model.Read(r, limit); err == nil {
			t.Errorf("Read with a limit of %d bytes = nil, want an error", limit)
		}
		if read := n - int64(r.Len()); read > max(limit, 0) {
			t.Errorf("Read with a limit of %d bytes has read %d", limit, read)
		}
	}
}

// TestReadLongestHeader: no limit makes room for a header that no layout needs.
func TestReadLongestHeader(t *testing.T) {
	want := "header of 16777224 bytes, at most 16777216 are allowed"
	if _, err := model.Read(strings.NewReader(rawFile(1<<24+8, "{}")), math.MaxInt64); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Read = %v, want an error with %q", err, want)
	}
}

// TestReadIsNotDeceived: a promise of a long header or of many values costs no memory beyond the limit, and a header that
// does not come costs nothing.
func TestReadIsNotDeceived(t *testing.T) {
	for name, c := range map[string]struct {
		file  string
		limit int64
		most  uint64
	}{
		"long header":      {rawFile(1<<24, "{}"), 1 << 40, 1 << 16},
		"many values":      {file("{" + entry("a", "[1048576]", 0, 4<<20) + "}"), 1 << 20, 1 << 16},
		"values up to it":  {file("{" + entry("a", "[1048576]", 0, 4<<20) + "}"), 5 << 20, 4<<20 + 1<<18},
		"impossible layer": {file("{" + entry("a", "[1099511627776]", 0, 4<<40) + "}"), 1 << 30, 1 << 16},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := model.Read(strings.NewReader(c.file), c.limit); err == nil {
			t.Errorf("%s: Read = nil, want an error", name)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > c.most {
			t.Errorf("%s: Read took %d bytes of memory, want at most %d", name, got, c.most)
		}
	}
}

// TestReadSlowly reads from a source that gives single bytes, and passes on the error of one that breaks.
func TestReadSlowly(t *testing.T) {
	m, err := model.Read(iotest.OneByteReader(strings.NewReader(smallFile)), 1<<20)
	if err != nil || m.Digest() != small().Digest() {
		t.Errorf("Read byte by byte = %v, %v, want the model", m, err)
	}
	broken := errors.New("connection reset")
	for _, n := range []int{0, 3, 8, 60, len(smallFile) - 5, len(smallFile)} {
		r := io.MultiReader(strings.NewReader(smallFile[:n]), iotest.ErrReader(broken))
		if _, err := model.Read(r, 1<<20); !errors.Is(err, broken) {
			t.Errorf("Read from a source that breaks after %d bytes = %v, want its error", n, err)
		}
	}
}
