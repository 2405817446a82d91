// Package blob keeps large byte strings (models, optimisers' states, evidence, unsent updates) on storage that nobody trusts:
// sealed before they leave the enclave, checked when they come back.
//
// # What holds
//
// Each blob is encrypted under a fresh data key of its own, and the data key under the key-encryption key, which never touches
// a blob itself. So the key-encryption key may live in a service that takes a few kilobytes at a time, and whoever loses it
// has lost the blobs. The storage sees ciphertext, its length and when it is used.
//
// A blob is named by the SHA-256 of its ciphertext: the name tells nothing of the content, and the same content put twice has
// two names. An [entry.Blob] holds both digests and the size. A blob that was altered, cut off, or put back in another one's
// place is an error, not data:
//
//	ref, err := blobs.Put(ctx, r)        // ref goes into a fact of the log
//	...
//	b, err := blobs.Open(ctx, ref)
//	defer b.Close()
//	if _, err := io.Copy(w, b); err != nil { ... } // only what was read up to io.EOF is the blob
//
// [Blobs.PutNamed] keeps a byte string under a name that its writer chooses. Nothing but the name ties it to its place, so
// storage may put an earlier object of that name back; what is kept there must be harmless when it is stale.
//
// # Format
//
//	19 bytes   "consilium.sealed/1\n"
//	2 bytes    n, big-endian
//	n bytes    the data key (32 bytes), sealed under the key-encryption key; its associated data say what the object is
//	the rest   Tink's streaming AEAD AES256_GCM_HKDF_1MB under the data key; associated data: all bytes above
//
// The data key's associated data are "consilium.blob/1\n" for a blob, "consilium.named/1\n" and the name for a named one.
package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"iter"
	"math"
	"path"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/store"
)

// MaxNamed is the most bytes that a named object holds. A stored object is authenticated segment by segment while it is
// read, so that storage cannot make a reader hold more than was written.
const MaxNamed = 1 << 34

const blobContext = "consilium.blob/1\n"

// Blobs seals and opens blobs. It is safe for concurrent use.
type Blobs struct {
	objects store.Objects
	kek     store.Sealer
}

// New returns blobs on objects, their data keys sealed under kek, the key-encryption key.
func New(objects store.Objects, kek store.Sealer) *Blobs { return &Blobs{objects, kek} }

// Put seals what r yields up to io.EOF. When it returns nil the blob is durable; if it fails, nothing names what may have been
// stored. It holds a few MiB of memory, whatever the blob's size.
func (b *Blobs) Put(ctx context.Context, r io.Reader) (entry.Blob, error) {
	plain, sealed := sha256.New(), sha256.New()
	var size counter
	s, err := newSealing(b.kek, io.TeeReader(r, io.MultiWriter(plain, &size)), sizeOf(r), []byte(blobContext))
	if err != nil {
		return entry.Blob{}, fmt.Errorf("sealing a blob: %w", err)
	}
	var ref entry.Blob
	name := func() string {
		ref = entry.Blob{Plain: entry.Digest(plain.Sum(nil)), Sealed: entry.Digest(sealed.Sum(nil)), Size: int64(size)}
		return nameOf(ref)
	}
	if err := b.objects.Put(ctx, name, io.TeeReader(s, sealed)); err != nil {
		return entry.Blob{}, fmt.Errorf("storing a blob: %w", err)
	}
	return ref, nil
}

// Open returns a reader of the blob that ref names; [store.ErrNotExist] if the storage does not have it. Every byte it yields
// was sealed under our key, never more than ref.Size of them. Where both digests and the size do not fit ref, the last Read
// returns an error that names the object instead of io.EOF: what was read before is then not the blob. The caller closes it.
func (b *Blobs) Open(ctx context.Context, ref entry.Blob) (io.ReadCloser, error) {
	name := nameOf(ref)
	o, err := b.objects.Get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("opening a blob: %w", err)
	}
	sealed := sha256.New()
	r, err := newOpening(b.kek, io.TeeReader(o, sealed), ref.Size, []byte(blobContext))
	if err != nil {
		o.Close()
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	return &checked{r: r, object: o, ref: ref, plain: sha256.New(), sealed: sealed}, nil
}

// ReadAll returns the blob that ref names whole, once it was checked; one of more than limit bytes is refused unread.
func (b *Blobs) ReadAll(ctx context.Context, ref entry.Blob, limit int64) ([]byte, error) {
	if ref.Size > limit {
		return nil, fmt.Errorf("object %s: blob of %d bytes, at most %d are allowed here", nameOf(ref), ref.Size, limit)
	}
	r, err := b.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return text, nil
}

// Stored yields the digests by whose ciphertexts the stored blobs are named, ascending. An object among them whose name no blob has
// is left out: it is none of ours.
func (b *Blobs) Stored(ctx context.Context) iter.Seq2[entry.Digest, error] {
	return func(yield func(entry.Digest, error) bool) {
		for name, err := range b.objects.List(ctx, blobFolder) {
			if err != nil {
				yield(entry.Digest{}, fmt.Errorf("listing blobs: %w", err))
				return
			}
			var d entry.Digest
			if d.UnmarshalText([]byte(path.Base(name))) != nil || nameOf(entry.Blob{Sealed: d}) != name {
				continue
			}
			if !yield(d, nil) {
				return
			}
		}
	}
}

// Delete removes a blob; one that does not exist is no error.
func (b *Blobs) Delete(ctx context.Context, ref entry.Blob) error {
	return b.objects.Delete(ctx, nameOf(ref))
}

// PutNamed seals plaintext, at most [MaxNamed] bytes, and stores it under name. It is durable when it returns nil. Objects do
// not change: [store.ErrExist] if there is one of that name.
func (b *Blobs) PutNamed(ctx context.Context, name string, plaintext []byte) error {
	if int64(len(plaintext)) > MaxNamed {
		return fmt.Errorf("object %s: %d bytes, at most %d are allowed", name, len(plaintext), int64(MaxNamed))
	}
	s, err := newSealing(b.kek, bytes.NewReader(plaintext), int64(len(plaintext)), namedContext(name))
	if err != nil {
		return fmt.Errorf("sealing object %s: %w", name, err)
	}
	return b.objects.Put(ctx, store.Named(name), s)
}

// OpenNamed returns what PutNamed stored under name; [store.ErrNotExist] if there is nothing.
func (b *Blobs) OpenNamed(ctx context.Context, name string) ([]byte, error) {
	return ReadNamed(ctx, b.objects, b.kek, name)
}

// Getter is what reading takes of a store. A [store.Objects] is one.
type Getter interface {
	Get(ctx context.Context, name string) (io.ReadCloser, error)
}

// ReadNamed is [Blobs.OpenNamed] of objects that are only read.
func ReadNamed(ctx context.Context, objects Getter, kek store.Sealer, name string) ([]byte, error) {
	o, err := objects.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	r, err := newOpening(kek, o, math.MaxInt64, namedContext(name))
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	text, err := io.ReadAll(io.LimitReader(r, MaxNamed+1))
	if err == nil && int64(len(text)) > MaxNamed {
		err = fmt.Errorf("more than %d bytes", int64(MaxNamed))
	}
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	return text, nil
}

// DeleteNamed removes a named object; one that does not exist is no error.
func (b *Blobs) DeleteNamed(ctx context.Context, name string) error {
	return b.objects.Delete(ctx, name)
}

func namedContext(name string) []byte { return []byte("consilium.named/1\n" + name) }

const blobFolder = "blob/"

// nameOf returns the name of a blob's object. Its first two digits spread the objects over 256 folders.
func nameOf(ref entry.Blob) string {
	d := ref.Sealed.String()
	return blobFolder + d[:2] + "/" + d
}

// counter counts the bytes that are written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
