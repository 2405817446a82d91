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
// What a process finds it also keeps: the one before it may have been killed between giving a name and syncing the folder, so
// a folder is synced before the first look into it. Otherwise somebody who finds a new object, and deletes the old one for it,
// could lose both to a power failure.
//
// TestPowerCut tries all of this, at each call to the operating system.
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

	"consilium.dev/internal/durable"
	"consilium.dev/internal/store"
)

// Dir is an open folder. It is a [store.Objects] and a [store.Head], and safe for concurrent use.
type Dir struct {
	path string
	root *os.Root       // for reading
	disk durable.Folder // the same folder, for all that changes it; nil where it is only read
	lock *os.File
	temp atomic.Uint64 // number of the last temporary file

	mu      sync.Mutex      // guards what follows
	synced  map[string]bool // folders whose own names are durable
	settled map[string]bool // folders in which all names were durable that this process did not make
}

var (
	_ store.Objects = (*Dir)(nil)
	_ store.Head    = (*Dir)(nil)
)

// Open opens the folder at path and makes it if it is not there. The error is [store.ErrConflict] if another coordinator or
// participant has it open. The caller closes it.
func Open(path string) (*Dir, error) { return OpenOn(path, durable.At) }

// OpenOn is [Open] for who wants to see each change of the disk: all of them go through what at returns for the folder, and for
// the one in which it is made. Only the lock, which nothing depends on after a power failure, does not.
func OpenOn(path string, at func(*os.Root) durable.Folder) (*Dir, error) {
	if err := makeFolder(filepath.Clean(path), at); err != nil {
		return nil, fmt.Errorf("making folder %s: %w", path, full(err))
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("opening folder %s: %w", path, err)
	}
	d := &Dir{path: path, root: root, disk: at(root), synced: map[string]bool{".": true}, settled: map[string]bool{}}
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

// makeFolder makes path and its parents, and syncs the folder in which each new one stands. That of one which is there already is
// synced too: the process that made it may have ended before it got there.
func makeFolder(path string, at func(*os.Root) durable.Folder) error {
	parent, there := filepath.Dir(path), false
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		there = true
	} else if parent != path {
		if err := makeFolder(parent, at); err != nil {
			return err
		}
	}
	root, err := os.OpenRoot(parent)
	if there && errors.Is(err, fs.ErrPermission) {
		return nil // who may not look into the parent has made nothing in it
	}
	if err != nil {
		return err
	}
	defer root.Close()
	disk := at(root)
	if there {
		// A parent that is not ours may be on a file system that only reads, or that syncs no folders.
		err := disk.Sync(".")
		for _, refused := range []error{fs.ErrPermission, syscall.EROFS, syscall.EINVAL} {
			if errors.Is(err, refused) {
				return nil
			}
		}
		return err
	}
	if err := disk.Mkdir(filepath.Base(path)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return disk.Sync(".")
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
		remove := d.disk.Remove
		if e.IsDir() { // none of ours
			remove = d.root.RemoveAll
		}
		if err := remove("tmp/" + e.Name()); err != nil {
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
	made := d.disk.Mkdir(name)
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return full(made)
	}
	if err := d.disk.Sync(parent); err != nil {
		return full(err)
	}
	d.synced[name] = true
	if made == nil {
		d.settled[name] = true
	}
	return nil
}

// settle makes durable what the process before this one left in a folder, once, before anybody acts on it. A folder that does
// not exist holds nothing.
func (d *Dir) settle(folder string) error {
	if d.disk == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.settled[folder] {
		return nil
	}
	// Its own name needs nothing: that was synced before the first name was put into it.
	err := d.disk.Sync(folder)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err != nil {
		return full(err)
	}
	d.settled[folder] = true
	return nil
}

// entries lists a folder; one that does not exist is empty.
func (d *Dir) entries(folder string) ([]fs.DirEntry, error) {
	if err := d.settle(path.Clean(folder)); err != nil {
		return nil, err
	}
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
	f, err := d.disk.Create(temp, 0o600)
	if err != nil {
		return "", full(err)
	}
	_, err = io.Copy(f, &reader{ctx, r})
	if err == nil {
		err = f.Sync()
	}
	if err = cmp.Or(err, f.Close()); err != nil {
		d.disk.Remove(temp)
		return "", full(err)
	}
	return temp, nil
}

// publish gives a synced temporary file its final name and makes that durable; [store.ErrExist] if the name is taken.
func (d *Dir) publish(temp, name string) error {
	defer d.disk.Remove(temp) // a crash before this leaves a stale temporary file, which Open removes
	folder := path.Dir(name)
	if err := d.folder(folder); err != nil {
		return err
	}
	taken := d.disk.Link(temp, name)
	if taken != nil && !errors.Is(taken, fs.ErrExist) {
		return full(taken)
	}
	// Also if the name is taken: whoever took it may have ended before this line, and our caller may take ErrExist for success.
	if err := d.disk.Sync(folder); err != nil {
		return full(err)
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
