package coordinator_test

import (
	"bytes"
	"context"
	"crypto/subtle"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/store/storetest"
)

// readStore counts the bytes that are read of its objects.
type readStore struct {
	*storetest.Memory
	bytes atomic.Int64
}

func (s *readStore) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	r, err := s.Memory.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	return &readCounter{r, &s.bytes}, nil
}

type readCounter struct {
	io.ReadCloser
	n *atomic.Int64
}

func (r *readCounter) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n.Add(int64(n))
	return n, err
}

// TestSupplies: downloads of a model that go on together read it and its base once; one that begins in the middle, goes back, or is left behind
// gets the right bytes all the same; and when the last has ended nothing is open.
func TestSupplies(t *testing.T) {
	objects := &readStore{Memory: storetest.New()}
	blobs := blob.New(objects, unsealed{})
	chance := rand.NewChaCha8([32]byte{7})
	const size, piece = 1<<20 + 77, 128 << 10
	var texts [2][]byte
	var refs [2]entry.Blob
	for i := range texts {
		texts[i] = make([]byte, size)
		chance.Read(texts[i]) //nolint:errcheck // never fails
		var err error
		if refs[i], err = blobs.Put(t.Context(), bytes.NewReader(texts[i])); err != nil {
			t.Fatal(err)
		}
	}
	want := make([]byte, size)
	subtle.XORBytes(want, texts[0], texts[1])
	var s coordinator.Supplies
	check := func(read func([]byte, int64) error, at int64) {
		got := make([]byte, min(piece, size-at))
		if err := read(got, at); err != nil {
			t.Errorf("reading at %d: %v", at, err)
		} else if !bytes.Equal(got, want[at:at+int64(len(got))]) {
			t.Errorf("other bytes at %d", at)
		}
	}
	const together = 8
	var reads [together]func([]byte, int64) error
	var ends [together]func()
	objects.bytes.Store(0)
	for i := range reads {
		var err error
		if reads[i], ends[i], err = s.Begin(t.Context(), blobs, refs[0], refs[1], 0); err != nil {
			t.Fatal(err)
		}
	}
	for at := int64(0); at < size; at += piece { // whoever is first reads a piece, as pieces are encoded by whoever is first
		check(reads[at/piece%together], at)
	}
	if n := objects.bytes.Load(); n > 2*size+2*size/10 {
		t.Errorf("%d bytes were read of a model and its base, which have %d", n, 2*size)
	}
	var all sync.WaitGroup
	for i := range reads {
		all.Go(func() {
			for at := int64(i) * 1000; at < size; at += piece {
				check(reads[i], at)
			}
			check(reads[i], 5)
		})
	}
	all.Wait()
	for _, end := range ends {
		end()
	}
	if n := s.Open(); n != 0 {
		t.Errorf("%d contents are open, and nobody downloads", n)
	}
	missing := refs[1]
	missing.Sealed[0] ^= 1
	if _, _, err := s.Begin(t.Context(), blobs, refs[0], missing, 0); err == nil || s.Open() != 0 {
		t.Errorf("a base that is not there: %v, want an error, and nothing left open", err)
	}
}
