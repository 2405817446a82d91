// Package dir keeps Consilium's objects and its head in a folder of the local disk. It is the store of a federation whose
// coordinator needs one machine, and of each participant.
//
// # Lay-out
//
//	lock            held with flock(2) while the folder is open
//	tmp/N           files that are being written; what is left of them is removed by the next Open
//	objects/NAME    one file an object, under its own name
//	head/SEQUENCE   one file a version of the head, 20 digits; the highest counts
//
// Folders are made with mode 0700 and files with 0600.
//
// # Durability
//
// Nothing is ever written over. A file is written under tmp, synced, and then given its final name by link(2), which fails
// if that name exists; then the folder is synced. A crash leaves the whole file under its final name or none. A folder's
// own name is synced before anything in it is acknowledged. A deletion is not synced: after a power failure a deleted
// object may be there again.
//
// # Writers
//
// One process holds the folder: a second Open gets [store.ErrConflict] at once, also within one process. Where flock(2)
// does not reach (a network file system), Swap remains safe by itself: of two writers who make the same version link(2)
// lets one through, and a writer that slept while others went on, so long that the version it makes is free again, finds a
// higher one after its own and gets ErrConflict too.
//
// The folder is not trusted: whoever reads from it checks what was read. Names never lead out of the folder, not even
// through a symbolic link.
package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"consilium.dev/internal/store"
)

// Dir is an open folder. It is a [store.Objects] and a [store.Head], and safe for concurrent use.
type Dir struct {
	path string
	root *os.Root
	lock *os.File
	temp atomic.Uint64 // number of the last temporary file

	mu     sync.Mutex
	synced map[string]bool // folders whose own names are durable; mu guards
}

var (
	_ store.Objects = (*Dir)(nil)
	_ store.Head    = (*Dir)(nil)
)

// Open opens the folder at path and makes it if it is not there. The error is [store.ErrConflict] if another coordinator or
// participant has it open. The caller closes it.
func Open(path string) (*Dir, error) {
	if err := makeFolder(filepath.Clean(path)); err != nil {
		return nil, fmt.Errorf("making folder %s: %w", path, full(err))
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("opening folder %s: %w", path, err)
	}
	d := &Dir{path: path, root: root, synced: map[string]bool{".": true}}
	if err := d.acquire(); err != nil {
		root.Close()
		return nil, err
	}
	if err := d.prepare(); err != nil {
		d.Close()
		return nil, fmt.Errorf("folder %s: %w", path, err)
	}
	return d, nil
}

// Close lets another process open the folder. Calls that come afterwards fail.
func (d *Dir) Close() error {
	// The lock is let go last: whoever gets it must not meet our writes.
	return cmp.Or(d.root.Close(), d.lock.Close())
}

// makeFolder makes path and its parents, and syncs the folder in which each new one stands.
func makeFolder(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := makeFolder(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.Open(parent)
	if err != nil {
		return err
	}
	return cmp.Or(f.Sync(), f.Close())
}

// acquire takes the lock, or says who cannot have it.
func (d *Dir) acquire() (err error) {
	d.lock, err = d.root.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("folder %s: %w", d.path, full(err))
	}
	err = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return nil
	}
	d.lock.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("folder %s is in use by another process; stop it or name another folder: %w", d.path, store.ErrConflict)
	}
	return fmt.Errorf("locking folder %s: %w", d.path, err)
}

// prepare makes the folders and removes what an earlier process was writing when it ended.
func (d *Dir) prepare() error {
	for _, name := range []string{"tmp", "objects", "head"} {
		if err := d.folder(name); err != nil {
			return err
		}
	}
	stale, err := d.entries("tmp")
	if err != nil {
		return err
	}
	for _, e := range stale {
		if err := d.root.RemoveAll("tmp/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// folder makes a folder and its parents, and makes their names durable. An existing one is synced once too: the process that
// made it may have ended before it got there.
func (d *Dir) folder(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.folderLocked(name)
}

func (d *Dir) folderLocked(name string) error {
	if d.synced[name] {
		return nil
	}
	parent := path.Dir(name)
	if err := d.folderLocked(parent); err != nil {
		return err
	}
	if err := d.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return full(err)
	}
	if err := d.sync(parent); err != nil {
		return err
	}
	d.synced[name] = true
	return nil
}

// sync makes the names in a folder durable.
func (d *Dir) sync(folder string) error {
	f, err := d.root.Open(folder)
	if err != nil {
		return err
	}
	return full(cmp.Or(f.Sync(), f.Close()))
}

// entries lists a folder; one that does not exist is empty.
func (d *Dir) entries(folder string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(folder)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := f.ReadDir(-1)
	return all, cmp.Or(err, f.Close())
}

// write puts what r yields into a new temporary file, synced, and returns its name.
func (d *Dir) write(ctx context.Context, r io.Reader) (string, error) {
	temp := "tmp/" + strconv.FormatUint(d.temp.Add(1), 10)
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", full(err)
	}
	_, err = io.Copy(f, &reader{ctx, r})
	if err == nil {
		err = f.Sync()
	}
	if err = cmp.Or(err, f.Close()); err != nil {
		d.root.Remove(temp)
		return "", full(err)
	}
	return temp, nil
}

// publish gives a synced temporary file its final name and makes that durable; [store.ErrExist] if the name is taken.
func (d *Dir) publish(temp, name string) error {
	defer d.root.Remove(temp) // a crash before this leaves a stale temporary file, which Open removes
	folder := path.Dir(name)
	if err := d.folder(folder); err != nil {
		return err
	}
	taken := d.root.Link(temp, name)
	if taken != nil && !errors.Is(taken, fs.ErrExist) {
		return full(taken)
	}
	// Also if the name is taken: whoever took it may have ended before this line, and our caller may take ErrExist for success.
	if err := d.sync(folder); err != nil {
		return err
	}
	if taken != nil {
		if info, err := d.root.Lstat(name); err == nil && info.IsDir() {
			return errors.New("the name is that of a folder of other objects")
		}
		return store.ErrExist
	}
	return nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// full marks an error that says that no space is left.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	}
	return err
}
