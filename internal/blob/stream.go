package blob

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/store"
)

const (
	magic      = "consilium.sealed/1\n"
	keySize    = 32      // bytes of a data key
	maxSealed  = 8 << 10 // bytes of a sealed data key
	segment    = 1 << 20 // bytes of a ciphertext segment
	plainChunk = 64 << 10
	slack      = 128 // bytes that a segment has beside its plaintext, and some: Tink's header of 40, a tag of 16
)

// newStream returns Tink's AES256_GCM_HKDF_1MB under a data key, for at most size bytes of plaintext. Tink makes a buffer as long as a
// segment. How long that is goes into no key and no byte of what fits into one segment, so a short plaintext gets a short one, and a
// thousand pieces of evidence that are sealed at once do not take a gigabyte.
func newStream(key []byte, size int64) (*subtle.AESGCMHKDF, error) {
	n := segment
	if size < segment-slack {
		n = int(size) + slack
	}
	return subtle.NewAESGCMHKDF(key, "SHA256", keySize, n, 0)
}

// sizeOf returns how many bytes r has, math.MaxInt64 where only its end will tell.
func sizeOf(r io.Reader) int64 {
	if b, ok := r.(*bytes.Reader); ok {
		return int64(b.Len())
	}
	return math.MaxInt64
}

// sealing yields the sealed form of what r yields. It encrypts as it is read, without a goroutine.
type sealing struct {
	r     io.Reader
	w     io.WriteCloser // encrypts into ready
	ready bytes.Buffer   // ciphertext that was not yet read
	chunk []byte
	err   error // what follows after ready
}

// newSealing draws a data key and seals it under kek; ad says what the object is. r yields at most size bytes.
func newSealing(kek store.Sealer, r io.Reader, size int64, ad []byte) (*sealing, error) {
	key := make([]byte, keySize)
	rand.Read(key) // never fails: it ends the program
	sealed, err := kek.Seal(key, ad)
	if err != nil {
		return nil, fmt.Errorf("sealing the data key: %w", err)
	}
	if len(sealed) > maxSealed {
		return nil, fmt.Errorf("the sealed data key has %d bytes, at most %d are allowed", len(sealed), maxSealed)
	}
	header := binary.BigEndian.AppendUint16([]byte(magic), uint16(len(sealed)))
	header = append(header, sealed...)
	stream, err := newStream(key, size)
	if err != nil {
		return nil, err
	}
	s := &sealing{r: r, chunk: make([]byte, min(plainChunk, max(size, 1)))} // a read of nothing hears of no end
	s.ready.Write(header)
	s.w, err = stream.NewEncryptingWriter(&s.ready, header)
	return s, err
}

func (s *sealing) Read(p []byte) (int, error) {
	for s.ready.Len() == 0 && s.err == nil {
		s.fill()
	}
	if s.ready.Len() == 0 {
		return 0, s.err
	}
	return s.ready.Read(p)
}

// fill encrypts what the next read of r yields.
func (s *sealing) fill() {
	n, err := s.r.Read(s.chunk)
	if _, e := s.w.Write(s.chunk[:n]); e != nil {
		s.err = fmt.Errorf("encrypting: %w", e)
		return
	}
	s.err = err
	if err == io.EOF { // not a wrapped one: that is no end
		if e := s.w.Close(); e != nil { // writes the last segment, which marks the end
			s.err = fmt.Errorf("encrypting: %w", e)
		}
	}
}

// newOpening reads the header of a sealed object and returns a reader of its plaintext. It yields nothing that was not
// authenticated under the data key. Of an object with more than size bytes of plaintext it may find that it was altered.
func newOpening(kek store.Sealer, r io.Reader, size int64, ad []byte) (io.Reader, error) {
	header, sealed, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	key, err := kek.Open(sealed, ad)
	if err != nil {
		return nil, fmt.Errorf("the data key does not open: sealed under another key or altered: %w", err)
	}
	if len(key) != keySize {
		return nil, fmt.Errorf("the data key has %d bytes, want %d", len(key), keySize)
	}
	stream, err := newStream(key, size)
	if err != nil {
		return nil, err
	}
	plain, err := stream.NewDecryptingReader(r, header)
	if err != nil {
		return nil, fmt.Errorf("cut off or altered: %w", noEOF(err))
	}
	return opening{plain}, nil
}

// readHeader returns a sealed object's header and the sealed data key in it.
func readHeader(r io.Reader) (header, sealed []byte, err error) {
	const fixed = len(magic) + 2
	header = make([]byte, fixed, fixed+maxSealed)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, nil, fmt.Errorf("reading the header: %w", noEOF(err))
	}
	if string(header[:len(magic)]) != magic {
		return nil, nil, errors.New("not a sealed object")
	}
	n := int(binary.BigEndian.Uint16(header[len(magic):]))
	if n > maxSealed {
		return nil, nil, fmt.Errorf("header says %d bytes of sealed data key, at most %d are allowed", n, maxSealed)
	}
	header = header[:fixed+n]
	if _, err := io.ReadFull(r, header[fixed:]); err != nil {
		return nil, nil, fmt.Errorf("reading the header: %w", noEOF(err))
	}
	return header, header[fixed:], nil
}

// noEOF keeps an object that ends too early from looking to any caller like one that ends well.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends too early")
	}
	return err
}

// opening is Tink's reader with errors that say what they mean here. It is not to be read from again after an error: Tink says
// io.EOF after it has refused the last segment.
type opening struct{ r io.Reader }

func (o opening) Read(p []byte) (int, error) {
	n, err := o.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("cut off or altered: %w", noEOF(err))
	}
	return n, err
}

// checked is a blob that is being read. It holds the plaintext to ref's size and both digests.
type checked struct {
	r             io.Reader // plaintext; reads the ciphertext through sealed
	object        io.Closer
	ref           entry.Blob
	size          int64 // of the plaintext so far
	plain, sealed hash.Hash
	err           error // the first one, repeated
}

func (c *checked) Read(p []byte) (int, error) {
	if c.err != nil || len(p) == 0 {
		return 0, c.err
	}
	n, err := c.r.Read(p)
	c.size += int64(n)
	if c.size > c.ref.Size {
		n, err = 0, fmt.Errorf("holds more than the %d bytes that were stored", c.ref.Size)
	}
	c.plain.Write(p[:n])
	if err == io.EOF {
		err = c.end()
	}
	if err != nil && err != io.EOF {
		err = fmt.Errorf("object %s: %w", nameOf(c.ref), err)
	}
	c.err = err
	return n, err
}

// end returns io.EOF if everything that was read is the blob.
func (c *checked) end() error {
	switch {
	case c.size != c.ref.Size:
		return fmt.Errorf("holds %d bytes, %d were stored", c.size, c.ref.Size)
	case entry.Digest(c.sealed.Sum(nil)) != c.ref.Sealed:
		return errors.New("another object was put in its place: the digest of its ciphertext differs from its name")
	case entry.Digest(c.plain.Sum(nil)) != c.ref.Plain:
		return fmt.Errorf("its content is not the one with digest %s", c.ref.Plain)
	}
	return io.EOF
}

func (c *checked) Close() error { return c.object.Close() }
