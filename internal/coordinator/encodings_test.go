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
	if n := e.Held(); n != 16<<20 {
		t.Errorf("%d bytes are kept, want 16 MiB", n)
	}
	if _, data := e.Get(entry.Digest{1}, 0, encode); data[0] != 22 {
		t.Errorf("piece %d, want the oldest encoded anew", data[0])
	}
}
