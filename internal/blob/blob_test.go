package blob_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/blob/kms/file"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

func newKey(t testing.TB) store.Sealer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	if err := file.Create(path); err != nil {
		t.Fatal(err)
	}
	key, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func nameOf(ref entry.Blob) string {
	return "blob/" + ref.Sealed.String()[:2] + "/" + ref.Sealed.String()
}

func put(t testing.TB, b *blob.Blobs, text []byte) entry.Blob {
	t.Helper()
	ref, err := b.Put(t.Context(), bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// stored returns an object as the storage has it.
func stored(t testing.TB, o store.Objects, name string) []byte {
	t.Helper()
	r, err := o.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// replace does what an operator of the storage can do to an object.
func replace(t testing.TB, o store.Objects, name string, text []byte) {
	t.Helper()
	if err := o.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := o.Put(t.Context(), store.Named(name), bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	key := newKey(t)
	rapid.Check(t, func(r *rapid.T) {
		near := rapid.SampledFrom([]int{0, 64 << 10, 1<<20 - 100, 1 << 20, 2 << 20}).Draw(r, "near")
		text := bytes.Repeat([]byte("patient"), near/7+20)[:max(0, near+rapid.IntRange(-70, 70).Draw(r, "off"))]
		m := storetest.New()
		b := blob.New(m, key)
		var source io.Reader = bytes.NewReader(text) // whose length is seen
		if rapid.Bool().Draw(r, "slow") {
			source = iotest.HalfReader(source)
		}
		ref, err := b.Put(t.Context(), source)
		if err != nil {
			r.Fatal(err)
		}
		sealed := stored(t, m, nameOf(ref))
		want := entry.Blob{Plain: sha256.Sum256(text), Sealed: sha256.Sum256(sealed), Size: int64(len(text))}
		if diff := cmp.Diff(want, ref); diff != "" {
			r.Fatalf("ref (-want +got):\n%s", diff)
		}
		if bytes.Contains(sealed, []byte("patient")) {
			r.Fatal("the storage reads the plaintext")
		}
		got, err := b.ReadAll(t.Context(), ref, ref.Size)
		if err != nil || !bytes.Equal(got, text) {
			r.Fatalf("ReadAll = %d bytes, %v, want the %d that were put", len(got), err, len(text))
		}
	})
}

func TestReader(t *testing.T) {
	b := blob.New(storetest.New(), newKey(t))
	text := bytes.Repeat([]byte("0123456789"), 200_000)
	ref := put(t, b, text)
	r, err := b.Open(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(r, text); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

// TestShort seals short texts in both ways, and reads each with and without knowing how short it is: how long the buffers were
// stands nowhere in what is stored. Neither takes a segment's worth of memory where the length is known.
func TestShort(t *testing.T) {
	m, text := storetest.New(), []byte("evidence of one machine")
	b := blob.New(m, newKey(t))
	for _, source := range []io.Reader{bytes.NewReader(text), iotest.OneByteReader(bytes.NewReader(text))} {
		ref, err := b.Put(t.Context(), source)
		if err != nil {
			t.Fatal(err)
		}
		{
			long := ref
			long.Size = 3 << 20
			r, err := b.Open(t.Context(), long)
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := io.ReadAll(r); !bytes.Equal(got, text) { // that it is shorter is an error
				t.Errorf("read as if it were long: %q", got)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		if got, err := b.ReadAll(t.Context(), ref, ref.Size); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%q, %v", got, err)
		}
	}
	const times = 64
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range times {
		ref := put(t, b, text)
		if _, err := b.ReadAll(t.Context(), ref, ref.Size); err != nil {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / times; each > 128<<10 {
		t.Errorf("to store and read %d bytes takes %d bytes of memory", len(text), each)
	}
}

func TestSameContentTwice(t *testing.T) {
	m := storetest.New()
	b := blob.New(m, newKey(t))
	first, second := put(t, b, []byte("model")), put(t, b, []byte("model"))
	if first.Sealed == second.Sealed || first.Plain != second.Plain {
		t.Errorf("refs %v and %v, want the same content under two names", first, second)
	}
	if err := b.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(t.Context(), first); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("Open of a deleted blob = %v, want ErrNotExist", err)
	}
	if _, err := b.ReadAll(t.Context(), second, 5); err != nil {
		t.Error(err)
	}
	if _, err := b.ReadAll(t.Context(), second, 4); err == nil {
		t.Error("ReadAll of a blob over its limit succeeded")
	}
}

func TestNamed(t *testing.T) {
	m, ctx := storetest.New(), t.Context()
	b := blob.New(m, newKey(t))
	for name, text := range map[string]string{"kept/a/1": "first", "kept/a/2": "", "kept/b/1": strings.Repeat("large", 500_000)} {
		if err := b.PutNamed(ctx, name, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if err := b.PutNamed(ctx, name, []byte("other")); !errors.Is(err, store.ErrExist) {
			t.Errorf("second PutNamed = %v, want ErrExist", err)
		}
		if got, err := b.OpenNamed(ctx, name); err != nil || string(got) != text {
			t.Errorf("OpenNamed(%q) = %d bytes, %v", name, len(got), err)
		}
	}
	sealed := stored(t, m, "kept/a/1")
	for i := range sealed {
		altered := bytes.Clone(sealed)
		altered[i] ^= 1
		replace(t, m, "kept/a/1", altered)
		if got, err := b.OpenNamed(ctx, "kept/a/1"); err == nil || !strings.Contains(err.Error(), "kept/a/1") {
			t.Errorf("byte %d flipped: OpenNamed = %q, %v", i, got, err)
		}
	}
	replace(t, m, "kept/a/2", sealed)
	if got, err := b.OpenNamed(ctx, "kept/a/2"); err == nil {
		t.Errorf("OpenNamed took another name's object for its own: %q", got)
	}
	if err := b.DeleteNamed(ctx, "kept/a/2"); err != nil {
		t.Error(err)
	}
	if _, err := b.OpenNamed(ctx, "kept/a/2"); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("OpenNamed of a deleted object = %v, want ErrNotExist", err)
	}
}

// TestNamedIsNoBlob puts a named object where a blob belongs.
func TestNamedIsNoBlob(t *testing.T) {
	m := storetest.New()
	b := blob.New(m, newKey(t))
	ref := put(t, b, []byte("model"))
	if err := b.PutNamed(t.Context(), "x", []byte("model")); err != nil {
		t.Fatal(err)
	}
	sealed := stored(t, m, "x")
	ref.Sealed = sha256.Sum256(sealed)
	replace(t, m, nameOf(ref), sealed)
	readAltered(t, b, ref, "named object in a blob's place", nil)
}

// TestFaults fails every call, before and after its effect: a blob that was acknowledged is there, whole.
func TestFaults(t *testing.T) {
	key := newKey(t)
	for _, effect := range []storetest.Effect{storetest.Before, storetest.After} {
		for n := 1; n <= 3; n++ {
			m := storetest.New()
			b := blob.New(m, key)
			m.FailAt(n, effect)
			ref, err := b.Put(t.Context(), strings.NewReader("model"))
			if (n == 1) != errors.Is(err, storetest.ErrFault) {
				t.Errorf("%s call %d: Put = %v", effect, n, err)
			}
			if err != nil {
				continue
			}
			text, err := b.ReadAll(t.Context(), ref, 5)
			if n == 2 && (!errors.Is(err, storetest.ErrFault) && !strings.Contains(fmt.Sprint(err), nameOf(ref)) || text != nil) {
				t.Errorf("%s call %d: ReadAll = %q, %v", effect, n, text, err)
			}
			m.Heal()
			if text, err := b.ReadAll(t.Context(), ref, 5); err != nil || string(text) != "model" {
				t.Errorf("%s call %d: ReadAll = %q, %v", effect, n, text, err)
			}
		}
	}
}

func TestBrokenSource(t *testing.T) {
	m := storetest.New()
	broken := errors.New("broken")
	for _, err := range []error{broken, io.ErrUnexpectedEOF, fmt.Errorf("wrapped: %w", io.EOF)} {
		r := io.MultiReader(strings.NewReader("half a model"), iotest.ErrReader(err))
		if _, got := blob.New(m, newKey(t)).Put(t.Context(), r); !errors.Is(got, err) {
			t.Errorf("Put = %v, want %v", got, err)
		}
	}
	for name := range m.List(t.Context(), "") {
		t.Errorf("a broken Put left %s", name)
	}
}

func FuzzHeader(f *testing.F) {
	m := storetest.New()
	b := blob.New(m, newKey(f))
	sealed := stored(f, m, nameOf(put(f, b, []byte("model"))))
	f.Add(sealed)
	f.Add(sealed[:40])
	f.Add([]byte("consilium.sealed/1\n\xff\xff"))
	f.Add([]byte("consilium.sealed/1\n\x00\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		header, key, err := blob.ReadHeader(bytes.NewReader(text))
		if err != nil {
			return
		}
		if !bytes.HasPrefix(text, header) || !bytes.HasSuffix(header, key) || len(header) != 21+len(key) {
			t.Errorf("header %q with key %q of %q", header, key, text)
		}
	})
}
