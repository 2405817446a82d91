// Package backup copies a store while a coordinator or a participant works on it, and puts a copy back. It needs no key: what
// rests in a store is sealed, and stays so in the copy. Whoever holds a copy and the key-encryption key reads everything; with
// the key-encryption key lost, no copy is of use.
//
// # What holds
//
// A finished copy of a coordinator's store is one that it had at one instant, with everything that the log names by then and has
// not dropped: the log's head is read before the objects are listed, blobs are durable before the log names them, and what a later
// commit removed meanwhile is found missing and copied again with the newer head. So is a blob that was there before the head was
// read and is not copied: it is deleted only after the log has said that it is dropped, and a newer head says so. At the end every object is read back from the copy
// and held against the digest that it had when it was copied, those whose names are digests against their names, and the log's
// tree is made anew from its tiles, see [ledger.Inspect].
//
// A copy is made beside its final name and renamed when it is whole, and so is what Restore makes: under the name that was
// given there is all of it or nothing. Nothing is ever written over.
//
// What a copy does not hold: that it is the newest. A store that is put back is the store of that time, and a log that went on
// since has been rolled back. That is what witnesses refuse.
//
// # Lay-out
//
// A copy is a folder like that of package dir, with one file more, "backup", which says what is in it:
//
//	consilium.backup/1
//	{"made":...,"version":...,"head":...,"origin":...,"size":...,"root":...,"key":...,"objects":...,"bytes":...,"digest":...}
//	SHA-256, size and name of each object, one a line, ascending by name
//
// digest is the SHA-256 of the lines that follow.
package backup

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/keyring"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
)

// passes is how often the store is looked at anew when its log went on under the copying. Each pass copies what is new only.
const passes = 20

const blobFolder = "blob/"

// ErrDamaged is what is wrapped by the error of a copy that is not what was copied.
var ErrDamaged = errors.New("the copy is not put back")

// Options are all that a copy needs.
type Options struct {
	Store string    // folder of the store
	To    string    // folder of the copy; it must not exist
	Base  string    // an earlier copy whose objects are shared instead of copied where they are the same, or ""
	Now   time.Time // goes into the copy
}

// Make copies a store. It may be called while the store is in use.
func Make(ctx context.Context, o Options) (Contents, error) {
	source, err := dir.Look(o.Store)
	if err != nil {
		return Contents{}, err
	}
	defer source.Close()
	return makeFrom(ctx, o, source)
}

// source is a store that is copied.
type source interface {
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
	Load(ctx context.Context) (version uint64, value []byte, err error)
}

func makeFrom(ctx context.Context, o Options, from source) (Contents, error) {
	c := &copying{source: from, done: map[string]object{}}
	if o.Base != "" {
		if err := c.openBase(o.Base); err != nil {
			return Contents{}, err
		}
		defer c.base.Close()
	}
	var made Contents
	err := whole(o.To, func(part string) (err error) {
		if c.target, err = dir.Open(part); err != nil {
			return err
		}
		defer c.target.Close()
		if made, err = c.copy(ctx); err != nil {
			return err
		}
		made.Made = o.Now.UTC().Truncate(time.Second)
		if err := verify(ctx, part, made, c.done); err != nil {
			return err
		}
		return writeContents(filepath.Join(part, contentsFile), made, c.done)
	})
	if err != nil {
		return Contents{}, err
	}
	return made, nil
}

// whole makes a folder under another name, with make, and gives it its own name when it is whole and durable. A folder that is
// there already is [store.ErrExist].
func whole(path string, make func(part string) error) error {
	path = filepath.Clean(path)
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s is there already, and nothing is written over: %w", path, store.ErrExist)
	}
	part := path + ".part"
	if err := os.Mkdir(part, 0o700); err != nil {
		return fmt.Errorf("making folder %s (if an earlier try left it, remove it): %w", part, err)
	}
	err := make(part)
	if err == nil {
		err = os.Remove(filepath.Join(part, "lock")) // of the writer that has closed it
	}
	if err == nil {
		err = syncFolder(part)
	}
	if err == nil {
		err = os.Rename(part, path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(part))
	}
	return nil
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return cmp.Or(f.Sync(), f.Close())
}

// object is what is known of a copied object.
type object struct {
	digest entry.Digest
	size   int64
}

// copying is one Make.
type copying struct {
	source source
	target *dir.Dir
	base   *dir.View         // nil: none
	before map[string]object // what base holds
	done   map[string]object // what target holds
	shared int
}

func (c *copying) openBase(path string) error {
	_, objects, err := readContents(filepath.Join(path, contentsFile))
	if err != nil {
		return fmt.Errorf("earlier copy %s: %w", path, err)
	}
	if c.base, err = dir.Look(path); err != nil {
		return fmt.Errorf("earlier copy: %w", err)
	}
	c.before = objects
	return nil
}

// copy makes passes over the store until the copy has all that its head needs.
func (c *copying) copy(ctx context.Context) (Contents, error) {
	var last error
	for range passes {
		blobs, err := c.blobs(ctx)
		if err != nil {
			return Contents{}, err
		}
		// First the head, then the list: what the log names was durable before the head that says so, so it is on the list.
		version, head, err := c.source.Load(ctx)
		if err != nil && !errors.Is(err, store.ErrNotExist) {
			return Contents{}, err
		}
		if err := c.objects(ctx); err != nil {
			return Contents{}, err
		}
		made := Contents{Version: version}
		if name := c.lacks(blobs); name != "" {
			last = fmt.Errorf("object %s, which was deleted meanwhile: %w", name, store.ErrNotExist)
			continue
		}
		if name := c.log(); version == 0 && name != "" { // its first commit was just being made, or its head is lost
			last = fmt.Errorf("head of the log to which object %s belongs: %w", name, store.ErrNotExist)
			continue
		}
		if version > 0 {
			log, needed, err := ledger.Inspect(ctx, c.target, version, head)
			if errors.Is(err, store.ErrNotExist) {
				last = err // a later commit put something wider in its place
				continue
			}
			if err == nil {
				err = c.prune(ctx, needed)
			}
			if err == nil {
				err = c.target.Adopt(ctx, version, head)
			}
			if err != nil {
				return Contents{}, err
			}
			made.Head = sha256.Sum256(head)
			made.Origin, made.Size, made.Root = log.Origin, log.Size, entry.Digest(log.Root)
		}
		if len(c.done) == 0 {
			return Contents{}, fmt.Errorf("the store holds nothing yet: %w", store.ErrNotExist)
		}
		made.Objects, made.Shared = len(c.done), c.shared
		if made.Key, err = c.key(ctx); err != nil {
			return Contents{}, err
		}
		for _, o := range c.done {
			made.Bytes += o.size
		}
		return made, nil
	}
	return Contents{}, fmt.Errorf("looked %d times, and each time the log lacked what its head needs: %w", passes, last)
}

// blobs returns the names of the blobs that the store has now.
func (c *copying) blobs(ctx context.Context) ([]string, error) {
	var names []string
	for name, err := range c.source.List(ctx, blobFolder) {
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// lacks returns one of the names that is not copied, "" if there is none.
func (c *copying) lacks(names []string) string {
	for _, name := range names {
		if _, have := c.done[name]; !have {
			return name
		}
	}
	return ""
}

// prune drops from the copy what belongs to commits before and after the head. Tiles of a later commit would stand in the way
// of the commits that follow once the copy has been put back.
func (c *copying) prune(ctx context.Context, needed []string) error {
	keep := map[string]bool{}
	for _, name := range needed {
		keep[name] = true
	}
	for name := range c.done {
		if keep[name] || !ofLog(name) {
			continue
		}
		if err := c.target.Delete(ctx, name); err != nil {
			return err
		}
		delete(c.done, name)
	}
	return nil
}

// key returns the URI of the key-encryption key under which the copy's newest keyring rests, "" if there is none.
func (c *copying) key(ctx context.Context) (string, error) {
	newest := ""
	for name := range c.done {
		if strings.HasPrefix(name, "keyring/") {
			newest = max(newest, name)
		}
	}
	if newest == "" {
		return "", nil
	}
	r, err := c.target.Get(ctx, newest)
	if err != nil {
		return "", err
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		return "", fmt.Errorf("object %s: %w", newest, err)
	}
	return keyring.URIOf(newest, text)
}

func ofLog(name string) bool {
	return strings.HasPrefix(name, "tile/") || strings.HasPrefix(name, "stage/")
}

// log returns the name of a copied object that belongs to a log, if there is one.
func (c *copying) log() string {
	for name := range c.done {
		if ofLog(name) {
			return name
		}
	}
	return ""
}

// objects copies what the store holds and the copy does not.
func (c *copying) objects(ctx context.Context) error {
	for name, err := range c.source.List(ctx, "") {
		if err != nil {
			return err
		}
		if _, have := c.done[name]; have {
			continue
		}
		o, err := c.object(ctx, name)
		if errors.Is(err, store.ErrNotExist) {
			continue // deleted since it was listed: nothing needs it, or the next pass finds out
		}
		if err != nil {
			return err
		}
		c.done[name] = o
	}
	return nil
}

// object copies one object, or shares it with the earlier copy if that has the same bytes.
func (c *copying) object(ctx context.Context, name string) (object, error) {
	r, err := c.source.Get(ctx, name)
	if err != nil {
		return object{}, err
	}
	defer r.Close()
	if old, ok := c.before[name]; ok {
		if o, err := digest(r); err != nil || o == old {
			if err == nil {
				err = c.target.Share(name, c.base)
			}
			if err == nil {
				c.shared++
				return o, nil
			}
		}
		r.Close()
		if r, err = c.source.Get(ctx, name); err != nil { // another file system, say: then it is copied
			return object{}, err
		}
		defer r.Close()
	}
	sum, size := sha256.New(), counter(0)
	if err := c.target.Put(ctx, store.Named(name), io.TeeReader(r, io.MultiWriter(sum, &size))); err != nil {
		return object{}, fmt.Errorf("copying: %w", err)
	}
	return object{entry.Digest(sum.Sum(nil)), int64(size)}, nil
}

// verify reads everything back from a copy.
func verify(ctx context.Context, path string, made Contents, objects map[string]object) error {
	v, err := dir.Look(path)
	if err != nil {
		return err
	}
	defer v.Close()
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		r, err := v.Get(ctx, name)
		if err != nil {
			return fmt.Errorf("copy %s: %w", path, err)
		}
		got, err := digest(r)
		if err = cmp.Or(err, r.Close()); err != nil {
			return fmt.Errorf("object %s of copy %s: %w", name, path, err)
		}
		if got != objects[name] {
			return fmt.Errorf("object %s of copy %s was altered or cut off: it is not what was copied", name, path)
		}
		if err := fitsName(name, got); err != nil {
			return err
		}
	}
	version, head, err := v.Load(ctx)
	if errors.Is(err, store.ErrNotExist) {
		version, err = 0, nil
	}
	if err == nil && version != made.Version {
		err = fmt.Errorf("the head has version %d, want %d", version, made.Version)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	if version == 0 {
		return nil
	}
	if made.Head != sha256.Sum256(head) {
		return fmt.Errorf("the head in copy %s was altered or cut off: it is not what was copied", path)
	}
	log, _, err := ledger.Inspect(ctx, v, version, head)
	if err == nil && (log.Origin != made.Origin || log.Size != made.Size || log.Root != made.Root) {
		err = fmt.Errorf("its log is another one: %d lines with root %x", log.Size, log.Root)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", path, err)
	}
	return nil
}

// fitsName holds an object whose name is its digest to that: what the store itself has damaged is no backup.
func fitsName(name string, o object) error {
	if strings.HasPrefix(name, blobFolder) && !strings.HasSuffix(name, "/"+o.digest.String()) {
		return fmt.Errorf("object %s was damaged in the store: it is not what its name says; put it back from an earlier copy", name)
	}
	return nil
}

// Restore puts a copy back as the folder of a store, which must not exist. The copy is verified first and stays as it is.
func Restore(ctx context.Context, from, to string) (Contents, error) {
	made, objects, err := readContents(filepath.Join(from, contentsFile))
	if err != nil {
		return Contents{}, err
	}
	if err := verify(ctx, from, made, objects); err != nil {
		return Contents{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	source, err := dir.Look(from)
	if err != nil {
		return Contents{}, err
	}
	defer source.Close()
	err = whole(to, func(part string) error {
		target, err := dir.Open(part)
		if err != nil {
			return err
		}
		defer target.Close()
		c := copying{source: source, target: target, done: map[string]object{}}
		for _, name := range slices.Sorted(maps.Keys(objects)) {
			if c.done[name], err = c.object(ctx, name); err != nil {
				return err
			}
		}
		if made.Version > 0 {
			version, head, err := source.Load(ctx)
			if err != nil {
				return err
			}
			if err := target.Adopt(ctx, version, head); err != nil {
				return err
			}
		}
		return verify(ctx, part, made, objects)
	})
	if err != nil {
		return Contents{}, err
	}
	return made, nil
}

func digest(r io.Reader) (object, error) {
	sum := sha256.New()
	n, err := io.Copy(sum, r)
	return object{entry.Digest(sum.Sum(nil)), n}, err
}

// counter counts the bytes that are written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
