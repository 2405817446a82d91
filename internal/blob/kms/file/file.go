// Package file keeps a key-encryption key in a file of the local disk: for development, and for a machine whose disk only the
// enclave can read. Whoever reads the file reads every blob and the log; whoever loses it has lost them.
//
// The file is a Tink keyset in JSON, in the clear, of AEAD keys (Create makes one of type AES256_GCM). It has mode 0600, and
// a file that others than its owner may read is refused. A key is rotated by adding one to the keyset with Tink's own tool
// and making it primary: what earlier keys sealed stays readable as long as they are in the keyset.
package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"consilium.dev/internal/keyfile"
	"consilium.dev/internal/store"
)

// Unwraps says who can open what the key has sealed, for the log.
const Unwraps = "whoever reads the file; with a disk that the host reads, the host's owner"

// Create makes a new key and writes it to path, synced and with mode 0600. A file that is there already is left as it is and
// [store.ErrExist] returned. A crash leaves the whole key or none.
func Create(path string) error {
	h, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	var text bytes.Buffer
	if err := insecurecleartextkeyset.Write(h, keyset.NewJSONWriter(&text)); err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	if err := keyfile.Create(path, text.Bytes()); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("key file %s: %w", path, store.ErrExist)
	} else if err != nil {
		return err
	}
	return nil
}

// Open returns the key in the file at path. It refuses a file that its group or others may read or write.
func Open(path string) (*Key, error) {
	text, err := keyfile.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key file %s: %w", path, store.ErrNotExist)
	} else if err != nil {
		return nil, err
	}
	h, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(bytes.NewReader(text)))
	if err != nil {
		return nil, fmt.Errorf("key file %s is no keyset of Tink: %w", path, err)
	}
	key, err := aead.New(h)
	if err != nil {
		return nil, fmt.Errorf("key file %s holds no AEAD key: %w", path, err)
	}
	return &Key{key, h}, nil
}

// Key is a key that is in memory. It is a [store.Sealer], the key-encryption key of a keyring, and safe for concurrent use.
type Key struct {
	key    tink.AEAD
	handle *keyset.Handle
}

var (
	_ store.Sealer         = (*Key)(nil)
	_ tink.AEADWithContext = (*Key)(nil)
)

// Handle returns the keys themselves.
func (k *Key) Handle() *keyset.Handle { return k.handle }

// Seal is that of [store.Sealer].
func (k *Key) Seal(plaintext, ad []byte) ([]byte, error) { return k.key.Encrypt(plaintext, ad) }

// Open is that of [store.Sealer].
func (k *Key) Open(ciphertext, ad []byte) ([]byte, error) { return k.key.Decrypt(ciphertext, ad) }

// EncryptWithContext is that of [tink.AEADWithContext]. It does not wait for anything.
func (k *Key) EncryptWithContext(_ context.Context, plaintext, ad []byte) ([]byte, error) {
	return k.Seal(plaintext, ad)
}

// DecryptWithContext is that of [tink.AEADWithContext]. It does not wait for anything.
func (k *Key) DecryptWithContext(_ context.Context, ciphertext, ad []byte) ([]byte, error) {
	return k.Open(ciphertext, ad)
}
