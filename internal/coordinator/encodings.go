package coordinator

import (
	"slices"
	"sync"

	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
)

// encodingsLen is how many bytes of encoded pieces are kept, whatever the number of downloads.
const encodingsLen = 16 << 20

// pieceLen is about what it takes to keep a piece beside its bytes. One that is all zeros, as the difference of a layer that is not
// trained, has so few that it would else count for nothing.
const pieceLen = 512

// encodings keeps the newest pieces of models as they went on the line: a round's members fetch its base at about the same time, and
// each piece is encoded once for all of them. Models that are larger than what is kept are encoded anew for who comes much later.
// It is safe for concurrent use.
type encodings struct {
	mu    sync.Mutex // guards what follows
	of    map[piece]*encoded
	order []piece // of the finished ones, oldest first
	held  int
}

// piece names what is encoded: bytes of a model from a place on, or their difference to a base's, for peers that read these schemes.
type piece struct {
	model entry.Digest
	base  entry.Digest // zero: none
	at    int64
	reads codec.Schemes
}

type encoded struct {
	done   chan struct{} // closed when the rest is set
	scheme codec.Scheme
	data   []byte
	err    error // why there is none
}

// get returns a piece as make reads and encodes it, which is called where the piece is not here. The bytes are everybody's: nobody changes
// them. An error is of the caller's own make: where another's failed, the caller makes it.
func (e *encodings) get(p piece, make func() (codec.Scheme, []byte, error)) (codec.Scheme, []byte, error) {
	x, ours := e.claim(p)
	for ; !ours; x, ours = e.claim(p) {
		if <-x.done; x.err == nil {
			return x.scheme, x.data, nil
		}
	}
	if x.scheme, x.data, x.err = make(); x.err != nil {
		e.mu.Lock()
		delete(e.of, p)
		e.mu.Unlock()
		close(x.done)
		return 0, nil, x.err
	}
	if len(x.data) < cap(x.data) {
		x.data = slices.Clone(x.data) // what it was made in is as long as what it encodes
	}
	close(x.done)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.order = append(e.order, p)
	for e.held += len(x.data) + pieceLen; e.held > encodingsLen; e.order = e.order[1:] {
		e.held -= len(e.of[e.order[0]].data) + pieceLen
		delete(e.of, e.order[0])
	}
	return x.scheme, x.data, nil
}

// claim returns a piece, and whether it is the caller's to encode.
func (e *encodings) claim(p piece) (x *encoded, ours bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x = e.of[p]; x != nil {
		return x, false
	}
	if e.of == nil {
		e.of = map[piece]*encoded{}
	}
	x = &encoded{done: make(chan struct{})}
	e.of[p] = x
	return x, true
}
