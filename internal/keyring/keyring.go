// Package keyring stands between a key-encryption key and what is sealed: a store's ring of data-encryption keys, which rests in
// the store itself, sealed under the key-encryption key. The key-encryption key is asked once at each boot, for the ring, and
// again only when it is changed; it may live in a service that is slow, far away, or not there for a day.
//
// # What holds
//
// A Ring seals and opens in memory, under AES256-GCM keys that never leave the enclave but sealed. Changing the key-encryption key
// ([Ring.Rewrap]) seals the ring anew and touches nothing else: no blob, no entry bundle, no fact and no name changes, and
// whoever reads or writes meanwhile notices nothing. From then on new objects are sealed under a new key of the ring, and nothing
// that is in the store can be opened with the earlier key-encryption key. What its holder had copied before, he still opens: no
// rewrapping takes that back.
//
// The newest ring counts and no other. A crash in the midst of Rewrap leaves the ring under the one key or under the other, and
// Open, given both, ends what was begun.
//
//	ring, err := keyring.Open(ctx, keyring.Config{Objects: objects, Key: key, Previous: old})
//	blobs := blob.New(objects, ring)   // a store.Sealer
//	err = ring.Rewrap(ctx, newKey)     // while blobs are written
//
// # Format
//
// The ring is the object keyring/NUMBER, 20 digits:
//
//	consilium.keyring/1\n
//	{"number":N,"key":"URI"}\n    so that whoever cannot open it can say which key it takes
//	the rest                      Tink's KMS envelope (4 bytes length, sealed data key, AES256-GCM ciphertext) of a Tink keyset;
//	                              associated data: all bytes above
//
// # Stores of before
//
// A store whose objects were sealed under a key file directly has no ring. Open makes one that holds the file's own keys for
// reading beside a new one for writing. Then those objects remain readable with the ring alone, but also with the old file:
// keep that secret as long as they matter.
package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"consilium.dev/internal/store"
)

const (
	folder  = "keyring/"
	magic   = "consilium.keyring/1\n"
	maxRing = 1 << 20 // bytes of a sealed ring: some thousand keys
	maxURI  = 1 << 10
)

// Key is a key-encryption key.
type Key struct {
	URI  string               // as the configuration has it; it stands in the clear, so no secret is in it
	AEAD tink.AEADWithContext // an error of an outage is, or wraps, [store.ErrUnavailable]
	Old  *keyset.Handle       // keys under which stores of before were sealed directly; nil: none
	// Who can open what it has sealed, in words for people; "" where that is not known.
	Unwraps string
}

// Config is what a ring needs. Previous may be zero.
type Config struct {
	Objects  store.Objects
	Key      Key // under which the ring rests from now on
	Previous Key // under which it may have rested until now
}

// Ring is a store's ring of keys, open. It is a [store.Sealer] and safe for concurrent use.
type Ring struct {
	objects store.Objects
	primary atomic.Value // tink.AEAD, in a box

	mu      sync.Mutex // guards what follows; held while the ring is rewrapped
	handle  *keyset.Handle
	number  uint64
	uri     string
	unwraps string // who can open that key
}

// box lets an atomic.Value hold AEADs of several types.
type box struct{ tink.AEAD }

// ErrKey is what is wrapped by the error of a ring that none of the keys opens.
var ErrKey = errors.New("is sealed under another key-encryption key, or altered")

// Open opens the store's ring, or makes one in a store that is empty. A ring that rests under the previous key is rewrapped
// before Open returns. The error is [store.ErrUnavailable] while a key does not answer, and [ErrKey] if none fits.
func Open(ctx context.Context, c Config) (*Ring, error) {
	names, err := list(ctx, c.Objects)
	if err != nil {
		return nil, err
	}
	r := &Ring{objects: c.Objects}
	if len(names) == 0 {
		return r, r.begin(ctx, c)
	}
	name := names[len(names)-1]
	h, key, err := r.load(ctx, c.Objects, name, c.Key, c.Previous)
	if err != nil {
		return nil, err
	}
	r.number, r.uri, r.unwraps = h.Number, h.Key, key.Unwraps
	if err := r.use(); err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	if h.Key != c.Key.URI {
		return r, r.Rewrap(ctx, c.Key)
	}
	return r, r.drop(ctx, names[:len(names)-1]) // a crash, or a power failure that undid deletions, has left them
}

// load reads the ring of that name into r.handle, and returns what it says of itself and the key that opened it.
func (r *Ring) load(ctx context.Context, objects Reader, name string, key, previous Key) (header, Key, error) {
	text, err := read(ctx, objects, name)
	if err != nil {
		return header{}, Key{}, err
	}
	h, head, sealed, err := decode(name, text)
	if err != nil {
		return header{}, Key{}, fmt.Errorf("object %s %w", name, err)
	}
	if h.Key != key.URI && previous.AEAD != nil {
		key = previous
	}
	if r.handle, err = open(ctx, key, sealed, head); errors.Is(err, store.ErrUnavailable) {
		return header{}, Key{}, fmt.Errorf("key-encryption key %s: %w", key.URI, err)
	} else if err != nil {
		return header{}, Key{}, fmt.Errorf("object %s %w: it says that it takes %q, and %s does not open it: %w", name, ErrKey, h.Key, key.URI, err)
	}
	return h, key, nil
}

// Reader is what [Try] needs of a store: its objects, to read. A [store.Objects] is one.
type Reader interface {
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}

// Try opens the store's ring as [Open] would with these keys, to read; previous may be zero. It writes nothing, and may be called while
// somebody has the ring open. It returns nil where there is no ring yet and Open would make one. Its errors are Open's.
func Try(ctx context.Context, objects Reader, key, previous Key) (opened store.Sealer, err error) {
	for range 3 { // its owner may rewrap it, and delete the one that we have just found
		var names []string
		if names, err = list(ctx, objects); err != nil {
			return nil, err
		}
		if len(names) == 0 {
			_, err := sources(ctx, objects, key, previous)
			return nil, err
		}
		r := &Ring{}
		if _, _, err = r.load(ctx, objects, names[len(names)-1], key, previous); err == nil {
			err = r.use()
		}
		if err == nil {
			return r, nil
		}
		if !errors.Is(err, store.ErrNotExist) {
			return nil, err
		}
	}
	return nil, err
}

// begin makes a store's first ring.
func (r *Ring) begin(ctx context.Context, c Config) error {
	m, err := sources(ctx, c.Objects, c.Key, c.Previous)
	if err != nil {
		return err
	}
	if r.handle, err = withNew(m); err != nil {
		return err
	}
	if err := r.put(ctx, c.Key, r.handle, 1); err != nil {
		return err
	}
	return r.use()
}

// sources returns the keys with which the ring of a store that has none begins: those under which its objects are sealed directly.
func sources(ctx context.Context, objects Reader, key, previous Key) (*keyset.Manager, error) {
	name, err := first(ctx, objects)
	switch {
	case err != nil:
		return nil, err
	case name == "":
		return keyset.NewManager(), nil
	case key.Old != nil && fits(ctx, objects, name, key.Old):
		return keyset.NewManagerFromHandle(key.Old), nil
	case previous.Old != nil && fits(ctx, objects, name, previous.Old):
		return keyset.NewManagerFromHandle(previous.Old), nil
	}
	return nil, fmt.Errorf("the store's keyring is missing, and object %s is sealed under one: the storage lost it, restore it", name)
}

// withNew returns the keys of m and a new one, under which is sealed from now on.
func withNew(m *keyset.Manager) (*keyset.Handle, error) {
	id, err := m.Add(aead.AES256GCMKeyTemplate())
	if err == nil {
		err = m.SetPrimary(id)
	}
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return m.Handle()
}

// Rewrap seals the ring under a key, which may be the one under which it rests, and adds a new key to it. When it returns nil
// the ring is durable and was opened again with that key, the earlier ring is deleted, and the earlier key is not needed any
// more. After an error the ring goes on as it was, and Rewrap may be tried again.
func (r *Ring) Rewrap(ctx context.Context, to Key) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	names, err := list(ctx, r.objects)
	if err != nil {
		return err
	}
	next, err := withNew(keyset.NewManagerFromHandle(r.handle))
	if err != nil {
		return err
	}
	number := r.number + 1
	for _, name := range names { // an earlier try may have left one
		if n, err := parseName(name); err == nil {
			number = max(number, n+1)
		}
	}
	if err := r.put(ctx, to, next, number); err != nil {
		return err
	}
	// The newest ring is durable, and nothing is sealed yet under the key that is new in it. A crash here: the next Open takes it,
	// and deletes the others. Deleted are they before the new key is used, so that who finds an older one has never one that lacks
	// a key.
	if err := r.drop(ctx, names); err != nil {
		return err
	}
	r.handle = next
	return r.use()
}

// URI returns that of the key-encryption key under which the ring rests.
func (r *Ring) URI() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.uri
}

// Unwraps says who can open the key-encryption key under which the ring rests, as its Key says.
func (r *Ring) Unwraps() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unwraps
}

// put makes a ring durable, that is known to open.
func (r *Ring) put(ctx context.Context, key Key, h *keyset.Handle, number uint64) error {
	head, err := encodeHead(header{number, key.URI})
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := insecurecleartextkeyset.Write(h, keyset.NewBinaryWriter(&text)); err != nil {
		return fmt.Errorf("writing the keyring: %w", err)
	}
	e, err := envelope(key)
	if err != nil {
		return err
	}
	sealed, err := e.EncryptWithContext(ctx, text.Bytes(), head)
	if err != nil {
		return fmt.Errorf("key-encryption key %s: %w", key.URI, err)
	}
	// A key may seal and not open, by its policy say: this must not become the newest ring.
	if _, err := open(ctx, key, sealed, head); err != nil {
		return fmt.Errorf("key-encryption key %s does not open what it has just sealed: %w", key.URI, err)
	}
	name := nameOf(number)
	text.Reset()
	text.Write(head)
	text.Write(sealed)
	if err := r.objects.Put(ctx, store.Named(name), bytes.NewReader(text.Bytes())); err != nil {
		return fmt.Errorf("storing the keyring: %w", err)
	}
	stored, err := read(ctx, r.objects, name)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, text.Bytes()) {
		return fmt.Errorf("object %s is not what was just written to it: the storage fails", name)
	}
	r.number, r.uri, r.unwraps = number, key.URI, key.Unwraps
	return nil
}

func (r *Ring) drop(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := r.objects.Delete(ctx, name); err != nil {
			return fmt.Errorf("deleting an earlier keyring: %w", err)
		}
	}
	return nil
}

// use makes the handle's keys those with which is sealed and opened.
func (r *Ring) use() error {
	a, err := aead.New(r.handle)
	if err != nil {
		return fmt.Errorf("the keyring holds no AEAD keys: %w", err)
	}
	r.primary.Store(box{a})
	return nil
}

// Seal is that of [store.Sealer].
func (r *Ring) Seal(plaintext, ad []byte) ([]byte, error) {
	return r.primary.Load().(box).Encrypt(plaintext, ad)
}

// Open is that of [store.Sealer].
func (r *Ring) Open(ciphertext, ad []byte) ([]byte, error) {
	return r.primary.Load().(box).Decrypt(ciphertext, ad)
}

// open returns the keys of a sealed ring.
func open(ctx context.Context, key Key, sealed, head []byte) (*keyset.Handle, error) {
	e, err := envelope(key)
	if err != nil {
		return nil, err
	}
	text, err := e.DecryptWithContext(ctx, sealed, head)
	if err != nil {
		return nil, err
	}
	h, err := insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(text)))
	if err != nil {
		return nil, fmt.Errorf("is no keyset: %w", err)
	}
	return h, nil
}

func envelope(key Key) (tink.AEADWithContext, error) {
	if key.AEAD == nil {
		return nil, errors.New("keyring: no key-encryption key")
	}
	return aead.NewKMSEnvelopeAEADWithContext(aead.AES256GCMKeyTemplate(), key.AEAD)
}

// header is what is told of a ring in the clear.
type header struct {
	Number uint64 `json:"number"`
	Key    string `json:"key"`
}

func encodeHead(h header) ([]byte, error) {
	if h.Key == "" || len(h.Key) > maxURI || strings.ContainsAny(h.Key, "\n") {
		return nil, fmt.Errorf("key-encryption key: a URI has 1 to %d bytes in one line", maxURI)
	}
	line, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return append(append([]byte(magic), line...), '\n'), nil
}

// decode takes a ring's object apart. Its errors follow the object's name.
func decode(name string, text []byte) (h header, head, sealed []byte, err error) {
	body, ok := bytes.CutPrefix(text, []byte(magic))
	line, sealed, cut := bytes.Cut(body, []byte("\n"))
	if !ok || !cut || len(line) > 2*maxURI {
		return h, nil, nil, errors.New("is no keyring, or cut off")
	}
	if err := json.Unmarshal(line, &h); err != nil {
		return h, nil, nil, fmt.Errorf("is no keyring: %w", err)
	}
	head = text[: len(text)-len(sealed) : len(text)-len(sealed)]
	if again, err := encodeHead(h); err != nil || !bytes.Equal(again, head) || nameOf(h.Number) != name {
		return h, nil, nil, errors.New("is no keyring of that name")
	}
	return h, head, sealed, nil
}

// URIOf returns the URI of the key-encryption key that opens a ring's object, without opening it.
func URIOf(name string, text []byte) (string, error) {
	h, _, _, err := decode(name, text)
	if err != nil {
		return "", fmt.Errorf("object %s %w", name, err)
	}
	return h.Key, nil
}

func nameOf(number uint64) string { return fmt.Sprintf("%s%020d", folder, number) }

func parseName(name string) (n uint64, err error) {
	if _, err := fmt.Sscanf(strings.TrimPrefix(name, folder), "%d", &n); err != nil || nameOf(n) != name || n == 0 {
		return 0, fmt.Errorf("object %s is no keyring", name)
	}
	return n, nil
}

// list returns the names of the rings, the newest last.
func list(ctx context.Context, objects Reader) ([]string, error) {
	var names []string
	for name, err := range objects.List(ctx, folder) {
		if err == nil {
			_, err = parseName(name)
		}
		if err != nil {
			return nil, fmt.Errorf("looking for the keyring: %w", err)
		}
		names = append(names, name)
	}
	return names, nil
}

func read(ctx context.Context, objects Reader, name string) ([]byte, error) {
	r, err := objects.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxRing+1))
	if err == nil && len(text) > maxRing {
		err = fmt.Errorf("more than %d bytes", maxRing)
	}
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	return text, nil
}

// first returns a name of an object that is sealed, "" if the store has none.
func first(ctx context.Context, objects Reader) (string, error) {
	for _, prefix := range []string{"log.key", "consent/", "kept/", "blob/"} {
		for name, err := range objects.List(ctx, prefix) {
			return name, err
		}
	}
	return "", nil
}

// fits reports whether an object was sealed directly under one of the handle's keys: it, or the data key in its header (package
// blob's "consilium.sealed/1\n" and 2 bytes), begins with the 5 bytes with which Tink marks what a key has sealed.
func fits(ctx context.Context, objects Reader, name string, h *keyset.Handle) bool {
	r, err := objects.Get(ctx, name)
	if err != nil {
		return false
	}
	defer r.Close()
	const sealedMagic = "consilium.sealed/1\n"
	text, err := io.ReadAll(io.LimitReader(r, int64(len(sealedMagic))+7))
	if err != nil {
		return false
	}
	if rest, ok := bytes.CutPrefix(text, []byte(sealedMagic)); ok && len(rest) > 2 {
		text = rest[2:]
	}
	for i := range h.Len() {
		e, err := h.Entry(i)
		if err != nil {
			return false
		}
		id := e.KeyID()
		if bytes.HasPrefix(text, []byte{1, byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}) {
			return true
		}
	}
	return false
}
