// Package store says what Consilium asks of storage, on ground that nobody trusts: immutable objects and one head that is
// swapped by compare-and-swap. A storage operator may lose, withhold or roll back what is stored here; it sees ciphertext
// and digests only, and everything that is read back is checked by whoever reads it.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
)

// The errors that callers decide on. Drivers return them wrapped.
var (
	ErrNotExist = errors.New("does not exist")
	ErrExist    = errors.New("exists already")
	ErrConflict = errors.New("another writer was faster")
	ErrFull     = errors.New("storage is full")

	// ErrUnavailable says that a service, a key-encryption key's say, does not answer now and may later.
	ErrUnavailable = errors.New("does not answer")
)

// Objects holds immutable named byte strings. Names are those that [CheckName] accepts; anything else is an error. A name
// that continues another one's after a slash ("a" and "a/b") may be refused. Implementations are safe for concurrent use.
type Objects interface {
	// Put stores what r yields, whole or not at all, and has made it durable when it returns nil. name is called once,
	// after r has returned io.EOF, so that an object can be named by the digest of what was written. An object of that
	// name that exists already is left as it is and ErrExist returned.
	Put(ctx context.Context, name func() string, r io.Reader) error
	// Get opens an object, ErrNotExist if there is none. The caller closes it.
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	// Delete removes an object; one that does not exist is no error.
	Delete(ctx context.Context, name string) error
	// List yields the names that begin with prefix, ascending.
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}

// CheckName returns an error unless name may be an object's: slash-separated segments of [a-zA-Z0-9._-], none of them empty,
// "." or "..", at most 200 bytes in all. Drivers call it.
func CheckName(name string) error {
	if len(name) > 200 {
		return fmt.Errorf("object name of %d bytes: at most 200 are allowed", len(name))
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("object name %q has the segment %q", name, segment)
		}
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._-/", rune(c)) {
			return fmt.Errorf("object name %q has a character other than a-z, A-Z, 0-9, '.', '_', '-' and '/'", name)
		}
	}
	return nil
}

// Named returns a function for Put that gives a name known beforehand.
func Named(name string) func() string { return func() string { return name } }

// Head is one small cell (at most 64 KiB) that changes only by compare-and-swap. It is the fence between writers.
type Head interface {
	// Load returns the newest value and its version; ErrNotExist (and version 0) before the first swap.
	Load(ctx context.Context) (version uint64, value []byte, err error)
	// Swap makes value the head if the newest version is old (0: if there is none) and has made it durable when it
	// returns nil; the new version is old+1. ErrConflict if another writer was faster. Any other error leaves the
	// outcome unsure: stop, and let the next boot find out.
	Swap(ctx context.Context, old uint64, value []byte) error
}

// Sealer hides bytes from whoever holds the storage. ad, the associated data, must be the same in both calls. Open refuses
// whatever Seal did not make under this key with this ad. Implementations are safe for concurrent use.
type Sealer interface {
	Seal(plaintext, ad []byte) ([]byte, error)
	Open(ciphertext, ad []byte) ([]byte, error)
}
