package coordinator

import (
	"fmt"
	"hash"
	"slices"
	"sync"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/pages"
)

// prefix is what has come of an update, in memory that is reserved for all of it. It is never written to a disk: after a boot an
// upload begins anew.
type prefix struct {
	update  entry.Digest
	salt    [32]byte
	values  []float32
	digest  hash.Hash // of the salt and what has come
	at      int64     // bytes that are here
	wire    int64     // the same, as they came: encoded
	sent    int64     // bytes that were put on the line for it, as far as is known; at least at
	release func()    // gives the memory and its reservation back, once; nobody touches the values afterwards
}

// newPrefix takes the memory of an update that is offered; release gives back that it is reserved.
func newPrefix(o offer, release func()) (*prefix, error) {
	values, free, err := pages.Make[float32](int(o.size / 4))
	if err != nil {
		release()
		return nil, fmt.Errorf("an update of %s: %w", o.in.Member, err)
	}
	return &prefix{update: o.in.Update, salt: o.salt, values: values, digest: model.NewUpdateDigest(o.salt), release: sync.OnceFunc(func() { free(); release() })}, nil
}

// shelf keeps the prefixes of uploads that a link has broken off, until their sender goes on, their time ends, their try does,
// or somebody else needs their memory: the oldest goes first, and nothing is shelved while an upload waits in line. It is safe
// for concurrent use.
type shelf struct {
	lease time.Duration // longest that a prefix is kept

	mu     sync.Mutex // guards what follows
	line   int        // uploads that wait for memory
	closed bool
	kept   []*shelved // the oldest first
}

// shelved is a prefix on the shelf.
type shelved struct {
	*prefix
	key   upload
	timer *time.Timer
}

// put shelves a prefix. Where it cannot stay it reports false, and the prefix is still the caller's.
func (s *shelf) put(key upload, p *prefix) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.at == 0 || s.line > 0 || s.closed {
		return false
	}
	for i := len(s.kept) - 1; i >= 0; i-- { // an older upload of the same may have been cut only now
		if s.kept[i].key == key {
			s.remove(i).release()
		}
	}
	k := &shelved{prefix: p, key: key}
	k.timer = time.AfterFunc(s.lease, func() {
		s.drop(func(x *shelved) bool { return x == k })
	})
	s.kept = append(s.kept, k)
	return true
}

// take takes the prefix of the offered update off the shelf, nil if there is none. That of another update of the same member and
// try is thrown away, and any if the sender cannot go on in the middle: it begins anew.
func (s *shelf) take(o offer) *prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.kept, func(x *shelved) bool { return x.key == o.key() })
	if i < 0 {
		return nil
	}
	k := s.remove(i)
	if !o.resumes || k.update != o.in.Update || k.salt != o.salt || int64(len(k.values)) != o.size/4 {
		k.release()
		return nil
	}
	return k.prefix
}

// yield gives the memory of the oldest prefix back that may go, and reports whether there was one.
func (s *shelf) yield(may func(*shelved) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.kept, may)
	if i < 0 {
		return false
	}
	s.remove(i).release()
	return true
}

// queue counts the uploads that wait for memory.
func (s *shelf) queue(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.line += by
}

// drop throws the prefixes away for which f says so.
func (s *shelf) drop(f func(*shelved) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.kept) - 1; i >= 0; i-- {
		if f(s.kept[i]) {
			s.remove(i).release()
		}
	}
}

// close throws everything away and takes nothing more.
func (s *shelf) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.drop(func(*shelved) bool { return true })
}

// remove takes one off the shelf. mu is held.
func (s *shelf) remove(i int) *shelved {
	k := s.kept[i]
	k.timer.Stop()
	s.kept = slices.Delete(s.kept, i, i+1)
	return k
}
