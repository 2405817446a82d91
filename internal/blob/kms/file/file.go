// Package file keeps a key-encryption key in a file of the local disk: for development, and for a machine whose disk only the
// enclave can read. Whoever reads the file reads every blob and the log; whoever loses it has lost them.
//
// The file is a Tink keyset in JSON, in the clear, of AEAD keys (Create makes one of type AES256_GCM). It has mode 0600, and
// a file that others than its owner may read is refused. A key is rotated by adding one to the keyset with Tink's own tool
// and making it primary: what earlier keys sealed stays readable as long as they are in the keyset.
package file

import (
	"bytes"
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
func Open(path string) (store.Sealer, error) {
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
	return &sealer{key}, nil
}

// sealer is a key of Tink in the words of package store.
type sealer struct{ key tink.AEAD }

func (s *sealer) Seal(plaintext, ad []byte) ([]byte, error)  { return s.key.Encrypt(plaintext, ad) }
func (s *sealer) Open(ciphertext, ad []byte) ([]byte, error) { return s.key.Decrypt(ciphertext, ad) }
