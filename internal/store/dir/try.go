package dir

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Trial is what a store's folder would meet.
type Trial struct {
	Folder string // where it was tried: the store's, or the nearest above it where that is not made yet
	Made   bool   // the store's folder is there
	Shared bool   // others than its owner may enter it
	Free   int64  // bytes that are left for us
}

// Try writes a file where the store at path would write, syncs it and removes it. It takes no lock, and can be called beside a process
// that has the store open: what it leaves when it is killed is removed by the next [Open].
func Try(path string) (Trial, error) {
	t := Trial{Folder: filepath.Clean(path)}
	info, err := os.Stat(t.Folder)
	t.Made = err == nil
	if t.Made && !info.IsDir() {
		return t, fmt.Errorf("%s is no folder", t.Folder)
	}
	if t.Made {
		t.Shared = info.Mode().Perm()&0o077 != 0
	}
	for errors.Is(err, fs.ErrNotExist) && filepath.Dir(t.Folder) != t.Folder {
		t.Folder = filepath.Dir(t.Folder)
		_, err = os.Stat(t.Folder)
	}
	if err != nil {
		return t, err
	}
	in := t.Folder
	if s, err := os.Stat(filepath.Join(in, "tmp")); t.Made && err == nil && s.IsDir() {
		in = filepath.Join(in, "tmp")
	}
	f, err := os.CreateTemp(in, ".trial-")
	if err != nil {
		return t, fmt.Errorf("writing in folder %s: %w", t.Folder, full(err))
	}
	defer os.Remove(f.Name()) //nolint:errcheck // its folder was removed beneath us: so was it
	_, err = f.Write([]byte("a trial\n"))
	if err = cmp.Or(err, f.Sync(), f.Close()); err != nil {
		return t, fmt.Errorf("writing in folder %s: %w", t.Folder, full(err))
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(t.Folder, &s); err != nil {
		return t, fmt.Errorf("asking how much is free in folder %s: %w", t.Folder, err)
	}
	t.Free = int64(min(uint64(s.Bavail), 1<<40)) * int64(s.Bsize) //nolint:unconvert // other systems have other types
	return t, nil
}
