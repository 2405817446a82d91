// Package file keeps a key-encryption key in a file of the local disk: for development, and for a machine whose disk only the
// enclave can read. Whoever reads the file reads every blob and the log; whoever loses it has lost them.
//
// The file is a Tink keyset in JSON, in the clear, of AEAD keys (Create makes one of type AES256_GCM). It has mode 0600, and
// a file that others than its owner may read is refused. A key is rotated by adding one to the keyset with Tink's own tool
// and making it primary: what earlier keys sealed stays readable as long as they are in the keyset.
package file

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"consilium.dev/internal/store"
)

// maxFile is the most bytes of a key file.
const maxFile = 64 << 10

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
	if err := write(path, text.Bytes()); err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	return nil
}

// write makes the file by link(2) from a synced temporary one, so that nothing is written over.
func write(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = cmp.Or(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return store.ErrExist
	} else if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return cmp.Or(folder.Sync(), folder.Close())
}

// Open returns the key in the file at path. It refuses a file that its group or others may read or write.
func Open(path string) (store.Sealer, error) {
	text, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
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

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, store.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("mode %04o lets others than its owner use the key; make it private with chmod 600", mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	return text, err
}

// sealer is a key of Tink in the words of package store.
type sealer struct{ key tink.AEAD }

func (s *sealer) Seal(plaintext, ad []byte) ([]byte, error)  { return s.key.Encrypt(plaintext, ad) }
func (s *sealer) Open(ciphertext, ad []byte) ([]byte, error) { return s.key.Decrypt(ciphertext, ad) }
