// Package durable is all that the programs do to a disk that must outlive a power failure: the few calls that change a folder, and
// the order of them that puts a whole file in place of another.
//
// POSIX promises little. What was written is on the disk once the file was synced, and a name is once its folder was. What was
// not synced is there, is not, or is there in part, and a later change may be there without an earlier one. So a file is written
// under another name and synced, gets its own name, and then the folder is synced; only then is it acknowledged.
//
// Whoever keeps files changes them through a [Folder]. Package powercut is one for tests that writes each call down and makes every
// disk that a power failure could leave.
package durable

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Folder is what changes a folder and what is below it. Names are relative to it, with slashes, and never lead out of it. It is
// safe for concurrent use.
type Folder interface {
	// Create makes a new file with that mode; fs.ErrExist if the name is taken.
	Create(name string, mode fs.FileMode) (File, error)
	// Mkdir makes a folder of mode 0700; fs.ErrExist if the name is taken.
	Mkdir(name string) error
	// Link gives a file a second name; fs.ErrExist if that is taken.
	Link(old, name string) error
	// Rename gives a file another name, in place of what had it.
	Rename(old, name string) error
	// Remove takes a file's name away.
	Remove(name string) error
	// Sync makes the names in a folder durable, also those that were taken away; "." is the folder itself.
	Sync(name string) error
}

// File is a file that is being written.
type File interface {
	io.WriteCloser
	// Sync makes what was written durable, but not the file's name.
	Sync() error
}

// At returns the folder that root has open.
func At(root *os.Root) Folder { return rooted{root} }

type rooted struct{ *os.Root }

func (r rooted) Create(name string, mode fs.FileMode) (File, error) {
	f, err := r.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return nil, err
	}
	if mode&0o077 != 0 { // the umask may have taken it from others, for whom it is meant
		if err := f.Chmod(mode); err != nil {
			return nil, cmp.Or(err, f.Close(), r.Remove(name))
		}
	}
	return f, nil
}

func (r rooted) Mkdir(name string) error { return r.Root.Mkdir(name, 0o700) }

func (r rooted) Sync(name string) error {
	f, err := r.Open(name)
	if err != nil {
		return err
	}
	return cmp.Or(f.Sync(), f.Close())
}

// Replace puts content at path, in place of a file that is there, and has made that durable when it returns nil. Before that, and
// after a crash, there is the earlier file or the new one, each whole; beside it may be left a file whose name begins with a dot
// and ends in .new.
func Replace(path string, content []byte, mode fs.FileMode) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer root.Close()
	if err := ReplaceIn(At(root), filepath.Base(path), content, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// ReplaceIn is [Replace] for a name in a folder that is open.
func ReplaceIn(in Folder, name string, content []byte, mode fs.FileMode) error {
	temp := "." + name + "." + strings.ToLower(rand.Text()[:8]) + ".new"
	f, err := in.Create(temp, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = cmp.Or(err, f.Close()); err == nil {
		err = in.Rename(temp, name)
	}
	if err != nil {
		return cmp.Or(err, in.Remove(temp))
	}
	return in.Sync(".")
}
