// Package keyfile reads and makes files that hold secrets: keys, machines of a simulated platform. Such a file is closed to
// everybody but its owner, small, synced, and never written over.
package keyfile

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MaxSize is the most bytes that such a file may have.
const MaxSize = 64 << 10

// Create makes a file of mode 0600 at path. Whatever has that name already is left as it is, and the error is fs.ErrExist; of
// several that create it at once one succeeds. A crash leaves the whole file or none, and perhaps a .key-* of mode 0600 beside it.
func Create(path string, content []byte) error {
	if len(content) > MaxSize {
		return fmt.Errorf("key file %s: %d bytes, at most %d are allowed", path, len(content), MaxSize)
	}
	if err := create(path, content); err != nil {
		return fmt.Errorf("key file %s: %w", path, err)
	}
	return nil
}

// create links a synced temporary file to its name, since a rename would replace what is there.
func create(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = cmp.Or(err, f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return fs.ErrExist
	} else if err != nil {
		return err
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return cmp.Or(folder.Sync(), folder.Close())
}

// Read returns the content of the file at path, or that a link there leads to. It refuses one that its group or others may read
// or write, one that is not regular, and one that is larger than [MaxSize]. A missing file is fs.ErrNotExist.
func Read(path string) ([]byte, error) {
	text, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return text, nil
}

// read asks the open file, not the path, which could change between a look and a read. O_NONBLOCK keeps it from waiting for
// the other end of a pipe.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fs.ErrNotExist
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
		return nil, fmt.Errorf("mode %04o lets others than its owner use it; make it private with chmod 600", mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > MaxSize {
		return nil, fmt.Errorf("more than %d bytes", MaxSize)
	}
	return text, nil
}
