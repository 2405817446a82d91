package ledger

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"consilium.dev/internal/store"
)

// keyName is the object that holds the signing key: its 32-byte seed, sealed; associated data: "consilium.log.key/1\n" and
// the origin.
const keyName = "log.key"

// Key signs the checkpoints of one log. Its private half never leaves the enclave unsealed. It is safe for concurrent use.
type Key struct {
	private  ed25519.PrivateKey
	verifier note.Verifier
	text     string
	spki     []byte
}

// OpenKey returns the signing key of the log called origin: made at the first call, sealed into the object "log.key", and the
// same ever after, on any machine whose sealer opens it. A key that is missing beside an existing log is not made anew. origin
// is a name of a signed note (not empty, no spaces, no plus), by custom a URL without its scheme.
func OpenKey(ctx context.Context, objects store.Objects, sealer store.Sealer, origin string) (*Key, error) {
	sealed, err := readObject(ctx, objects, keyName)
	if errors.Is(err, store.ErrNotExist) {
		if err := refuseIfLog(ctx, objects, keyName); err != nil {
			return nil, err
		}
		if err := makeKey(ctx, objects, sealer, origin); err != nil {
			return nil, err
		}
		sealed, err = readObject(ctx, objects, keyName)
	}
	if err != nil {
		return nil, err
	}
	seed, err := sealer.Open(sealed, keyContext(origin))
	if err != nil {
		return nil, fmt.Errorf("object %s does not open: sealed under another key or for another log than %s, or altered: %w",
			keyName, origin, err)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, fmt.Errorf("object %s holds %d bytes, want %d", keyName, len(seed), ed25519.SeedSize)
	}
	return newKey(origin, seed)
}

// makeKey stores a new key, unless another coordinator was faster: then that one's is the key.
func makeKey(ctx context.Context, objects store.Objects, sealer store.Sealer, origin string) error {
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed) // never fails: it ends the program
	if _, err := newKey(origin, seed); err != nil {
		return err
	}
	sealed, err := sealer.Seal(seed, keyContext(origin))
	if err != nil {
		return fmt.Errorf("sealing the log's key: %w", err)
	}
	err = objects.Put(ctx, store.Named(keyName), bytes.NewReader(sealed))
	if err != nil && !errors.Is(err, store.ErrExist) {
		return fmt.Errorf("storing the log's key: %w", err)
	}
	return nil
}

func newKey(origin string, seed []byte) (*Key, error) {
	k := &Key{private: ed25519.NewKeyFromSeed(seed)}
	public := k.private.Public().(ed25519.PublicKey)
	var err error
	if k.text, err = note.NewEd25519VerifierKey(origin, public); err != nil {
		return nil, fmt.Errorf("origin %q: %w", origin, err)
	}
	if k.verifier, err = note.NewVerifier(k.text); err != nil {
		return nil, fmt.Errorf("origin %q: %w", origin, err)
	}
	if k.spki, err = x509.MarshalPKIXPublicKey(public); err != nil {
		return nil, fmt.Errorf("encoding the log's public key: %w", err)
	}
	return k, nil
}

func keyContext(origin string) []byte { return []byte("consilium.log.key/1\n" + origin) }

// Origin returns the log's name, the first line of each checkpoint.
func (k *Key) Origin() string { return k.verifier.Name() }

// Verifier returns the verifier key, as C2SP signed-note spells it: NAME+HASH+KEY. Everyone may know it.
func (k *Key) Verifier() string { return k.text }

// SPKI returns the public key as a DER SubjectPublicKeyInfo. The caller does not change it.
func (k *Key) SPKI() []byte { return k.spki }

// signer is a Key in the words of package note.
type signer struct{ *Key }

func (s signer) Name() string                     { return s.verifier.Name() }
func (s signer) KeyHash() uint32                  { return s.verifier.KeyHash() }
func (s signer) Sign(text []byte) ([]byte, error) { return ed25519.Sign(s.private, text), nil }
