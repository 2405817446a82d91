package coordinator

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
)

// Members fetch a round's model at about the same time. To read it means to open the sealed blob, and its base's, and to digest both as they
// rest and as they are, so one supply reads for all downloads that are at the same place, and each piece is encoded once (see encodings). A
// download that has fallen further behind than pieces are kept reads for itself.

// content is what a download is of: a model, or its difference to a base.
type content struct {
	model, base entry.Blob // base: zero for none
}

// supply reads a content from one place on. It is used by one goroutine at a time.
type supply struct {
	blobs *blob.Blobs
	of    content
	is    io.ReadCloser // nil before it was opened
	was   io.ReadCloser // of the base; nil for none
	at    int64         // of the next byte
	buf   []byte        // of the base
}

// open begins to read at a place.
func (s *supply) open(ctx context.Context, at int64) error {
	s.close()
	for _, x := range []struct {
		ref entry.Blob
		r   *io.ReadCloser
	}{{s.of.model, &s.is}, {s.of.base, &s.was}} {
		if x.ref == (entry.Blob{}) {
			continue
		}
		r, err := s.blobs.Open(ctx, x.ref)
		if err != nil {
			s.close()
			return err
		}
		*x.r = r
	}
	s.at = 0
	return s.skip(at)
}

// skip goes on to a place.
func (s *supply) skip(at int64) error {
	for _, r := range []io.ReadCloser{s.is, s.was} {
		if r == nil {
			continue
		}
		if _, err := io.CopyN(io.Discard, r, at-s.at); err != nil {
			s.close()
			return err
		}
	}
	s.at = at
	return nil
}

// read fills dst with the bytes from a place on. What it read to the end it has found to be what was stored.
func (s *supply) read(ctx context.Context, dst []byte, at int64) error {
	if s.is == nil || at < s.at {
		if err := s.open(ctx, at); err != nil {
			return err
		}
	}
	err := s.skip(at)
	if err == nil {
		err = s.next(dst)
	}
	if err != nil {
		s.close()
	}
	return err
}

// next fills dst with the next bytes.
func (s *supply) next(dst []byte) error {
	if err := s.part(s.is, dst); err != nil {
		return err
	}
	if s.was != nil {
		s.buf = slices.Grow(s.buf[:0], len(dst))[:len(dst)]
		if err := s.part(s.was, s.buf); err != nil {
			return err
		}
		subtle.XORBytes(dst, dst, s.buf)
	}
	s.at += int64(len(dst))
	return nil
}

// part fills dst from one of the two blobs, and hears its end where it has none left: only then is the whole believed.
func (s *supply) part(r io.Reader, dst []byte) error {
	if _, err := io.ReadFull(r, dst); err != nil {
		return fmt.Errorf("reading a model: %w", err)
	}
	if s.at+int64(len(dst)) < s.of.model.Size {
		return nil
	}
	if _, err := io.ReadFull(r, make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading a model to its end: %w", err)
	}
	return nil
}

func (s *supply) close() {
	if s.is != nil {
		s.is.Close()
	}
	if s.was != nil {
		s.was.Close()
	}
	s.is, s.was = nil, nil
}

// supplies holds one supply for each content that is being downloaded. It is safe for concurrent use.
type supplies struct {
	mu sync.Mutex // guards of, and the users of what it holds
	of map[content]*shared
}

// shared is the supply of several downloads.
type shared struct {
	users int

	turn   chan struct{} // has a token while somebody reads: not a mutex, since a store may take long
	supply supply
}

// fetching is one download's reading of a content.
type fetching struct {
	all    *supplies
	shared *shared
	own    supply // where it is behind the shared one
}

// begin joins the downloads of a content at a place. Its error is that nobody can read it.
func (s *supplies) begin(ctx context.Context, b *blob.Blobs, of content, at int64) (*fetching, error) {
	s.mu.Lock()
	x := s.of[of]
	if x == nil {
		if s.of == nil {
			s.of = map[content]*shared{}
		}
		x = &shared{turn: make(chan struct{}, 1), supply: supply{blobs: b, of: of}}
		s.of[of] = x
	}
	x.users++
	s.mu.Unlock()
	r := &fetching{s, x, supply{blobs: b, of: of}}
	err := x.use(ctx, func(s *supply) error {
		if s.is != nil {
			return nil
		}
		return s.open(context.WithoutCancel(ctx), at) // others go on with it
	})
	if err != nil {
		r.end()
		return nil, err
	}
	return r, nil
}

// use calls f with the supply when it is the caller's turn.
func (x *shared) use(ctx context.Context, f func(*supply) error) error {
	select {
	case x.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-x.turn }()
	return f(&x.supply)
}

// read fills dst with the bytes from a place on.
func (r *fetching) read(ctx context.Context, dst []byte, at int64) error {
	behind := false
	err := r.shared.use(ctx, func(s *supply) error {
		if behind = s.is != nil && s.at != at; behind {
			return nil
		}
		return s.read(context.WithoutCancel(ctx), dst, at)
	})
	if err != nil || !behind {
		return err
	}
	return r.own.read(ctx, dst, at)
}

// end leaves the downloads.
func (r *fetching) end() {
	r.own.close()
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	if r.shared.users--; r.shared.users == 0 {
		delete(r.all.of, r.shared.supply.of)
		r.shared.supply.close()
	}
}
