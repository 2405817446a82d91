package coordinator_test

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"

	"consilium.dev/internal/codec"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
)

// TestEncodings: whoever asks for a piece at the same time gets what was encoded once, and what is kept is bounded.
func TestEncodings(t *testing.T) {
	var e coordinator.Encodings
	var made atomic.Int64
	encode := func() (codec.Scheme, []byte) {
		return codec.Zstd, bytes.Repeat([]byte{byte(made.Add(1))}, 1<<20)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if scheme, data := e.Get(entry.Digest{1}, 0, encode); scheme != codec.Zstd || data[0] != 1 {
				t.Errorf("scheme %d, piece %d, want the one that was encoded first", scheme, data[0])
			}
		})
	}
	all.Wait()
	for at := range int64(20) {
		e.Get(entry.Digest{2}, at, encode)
	}
	if n := made.Load(); n != 21 {
		t.Errorf("%d pieces were encoded, want 21: each once", n)
	}
	if n := e.Held(); n < 15<<20 || n > 16<<20 {
		t.Errorf("%d bytes are kept, want as many pieces as 16 MiB hold", n)
	}
	if _, data := e.Get(entry.Digest{1}, 0, encode); data[0] != 22 {
		t.Errorf("piece %d, want the oldest encoded anew", data[0])
	}
}

// TestEncodingsOfNothing: pieces that have hardly a byte, those of a layer that is not trained, are no more memory than others.
func TestEncodingsOfNothing(t *testing.T) {
	var e coordinator.Encodings
	for at := range int64(2 * 16 << 20 / 512) {
		_, data := e.Get(entry.Digest{1}, at, func() (codec.Scheme, []byte) {
			return codec.Zstd, append(make([]byte, 0, 1<<10), "nothing"...)
		})
		if string(data) != "nothing" || cap(data) > 64 {
			t.Fatalf("a piece %q holds %d bytes, want its own only", data, cap(data))
		}
	}
	if n := e.Kept(); n > 16<<20/512 {
		t.Errorf("%d pieces are kept, want at most %d", n, 16<<20/512)
	}
}
