package blob_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/store/storetest"
)

// readAltered reads a blob that the storage altered. The error must name the object, and what was read must begin the blob.
func readAltered(t *testing.T, b *blob.Blobs, ref entry.Blob, what string, text []byte) {
	t.Helper()
	var got []byte
	r, err := b.Open(t.Context(), ref)
	if err == nil {
		got, err = io.ReadAll(r)
		if _, again := r.Read(make([]byte, 1)); err != nil && !errors.Is(again, err) {
			t.Errorf("%s: read again = %v, want %v", what, again, err)
		}
		r.Close()
	}
	switch {
	case err == nil:
		t.Errorf("%s: was read without an error", what)
	case !strings.Contains(err.Error(), nameOf(ref)):
		t.Errorf("%s: %q does not name the object", what, err)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		t.Errorf("%s: %v looks like an end", what, err)
	case !bytes.HasPrefix(text, got):
		t.Errorf("%s: %d bytes were handed out that are not the blob's", what, len(got))
	}
}

func TestAltered(t *testing.T) {
	m := storetest.New()
	b := blob.New(m, newKey(t))
	text := []byte("a model of a few bytes")
	ref := put(t, b, text)
	sealed := stored(t, m, nameOf(ref))
	for i := range sealed {
		altered := bytes.Clone(sealed)
		altered[i] ^= 0x40
		replace(t, m, nameOf(ref), altered)
		readAltered(t, b, ref, fmt.Sprintf("byte %d flipped", i), text)
		replace(t, m, nameOf(ref), sealed[:i])
		readAltered(t, b, ref, fmt.Sprintf("cut at byte %d", i), text)
	}
	replace(t, m, nameOf(ref), append(bytes.Clone(sealed), 0))
	readAltered(t, b, ref, "a byte added", text)
}

func TestAlteredSegments(t *testing.T) {
	m := storetest.New()
	b := blob.New(m, newKey(t))
	text := bytes.Repeat([]byte("segment"), 3<<20/7)
	ref := put(t, b, text)
	sealed := stored(t, m, nameOf(ref))
	const mib = 1 << 20
	for what, altered := range map[string][]byte{
		"cut at a segment":        sealed[:mib],
		"cut in the last segment": sealed[:len(sealed)-1],
		"segment left out":        append(bytes.Clone(sealed[:mib]), sealed[2*mib:]...),
		"segment twice":           append(bytes.Clone(sealed[:2*mib]), sealed[mib:]...),
	} {
		replace(t, m, nameOf(ref), altered)
		readAltered(t, b, ref, what, text)
	}
}

// yielded returns how many bytes a blob's reader hands out.
func yielded(t *testing.T, b *blob.Blobs, ref entry.Blob) int64 {
	t.Helper()
	r, err := b.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, r)
	if err == nil {
		t.Errorf("%s was read without an error", nameOf(ref))
	}
	return n
}

// TestPutBack puts a blob of ours that is valid in another one's place.
func TestPutBack(t *testing.T) {
	m := storetest.New()
	b := blob.New(m, newKey(t))
	old, ref := put(t, b, []byte("model 1")), put(t, b, []byte("model 2"))
	longer := put(t, b, []byte("model 3, longer"))
	sealed := stored(t, m, nameOf(ref))
	for _, other := range []entry.Blob{old, longer, put(t, b, nil), put(t, b, []byte("model 2"))} {
		replace(t, m, nameOf(ref), stored(t, m, nameOf(other)))
		if n := yielded(t, b, ref); n > ref.Size {
			t.Errorf("%d bytes were handed out of a blob of %d", n, ref.Size)
		}
		if text, err := b.ReadAll(t.Context(), ref, 100); err == nil || text != nil || !strings.Contains(err.Error(), nameOf(ref)) {
			t.Errorf("ReadAll = %q, %v, want an error with the object's name", text, err)
		}
	}
	replace(t, m, nameOf(ref), sealed)
	for what, wrong := range map[string]entry.Blob{
		"longer":        {Plain: ref.Plain, Sealed: ref.Sealed, Size: ref.Size + 1},
		"shorter":       {Plain: ref.Plain, Sealed: ref.Sealed, Size: ref.Size - 1},
		"other content": {Plain: old.Plain, Sealed: ref.Sealed, Size: ref.Size},
		"negative":      {Plain: ref.Plain, Sealed: ref.Sealed, Size: -1},
	} {
		if text, err := b.ReadAll(t.Context(), wrong, 100); err == nil || text != nil {
			t.Errorf("%s: ReadAll = %q, %v", what, text, err)
		}
	}
	if text, err := b.ReadAll(t.Context(), ref, 100); err != nil || string(text) != "model 2" {
		t.Errorf("ReadAll = %q, %v", text, err)
	}
}

func TestOtherKey(t *testing.T) {
	m := storetest.New()
	ref := put(t, blob.New(m, newKey(t)), []byte("model"))
	readAltered(t, blob.New(m, newKey(t)), ref, "another key-encryption key", nil)
}
