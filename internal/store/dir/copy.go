package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strconv"

	"consilium.dev/internal/store"
)

// View is a folder that is only read, also while another process has it open and writes to it: objects may come and go between
// two calls. It is safe for concurrent use.
type View struct{ d Dir }

// Look opens the folder at path to read from it. It takes no lock and changes nothing. What is not the folder of a store is
// [store.ErrNotExist].
func Look(path string) (*View, error) {
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("opening folder %s: %w", path, err)
	}
	for _, name := range []string{"objects", "head"} {
		if info, err := root.Stat(name); err != nil || !info.IsDir() {
			root.Close()
			return nil, fmt.Errorf("folder %s is no store: it has no folder %q: %w", path, name, store.ErrNotExist)
		}
	}
	return &View{Dir{path: path, root: root}}, nil
}

// Close ends the use of the folder.
func (v *View) Close() error { return v.d.root.Close() }

// Get opens an object, as [store.Objects] says.
func (v *View) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	return v.d.Get(ctx, name)
}

// List yields names, as [store.Objects] says.
func (v *View) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return v.d.List(ctx, prefix)
}

// Load returns the newest head, as [store.Head] says.
func (v *View) Load(ctx context.Context) (uint64, []byte, error) { return v.d.Load(ctx) }

// Adopt makes value the head of a folder that has none, with the version that it had in the folder from which it was copied.
// What the head needs must be there before. [store.ErrConflict] if the folder has a head.
func (d *Dir) Adopt(ctx context.Context, version uint64, value []byte) error {
	if version == 0 || len(value) > maxHead {
		return fmt.Errorf("head of version %d and %d bytes: want a version from 1 and at most %d bytes", version, len(value), maxHead)
	}
	versions, err := d.versions()
	if err != nil {
		return err
	}
	if now := newest(versions); now != 0 {
		return fmt.Errorf("folder %s has a head of version %d: %w", d.path, now, store.ErrConflict)
	}
	return d.link(ctx, version, value)
}

// Share stores an object of another folder by giving its file a second name, so that both folders hold it and it takes space
// once. It fails where the folders are not on one file system. An object of that name that exists already is left as it is and
// [store.ErrExist] returned.
func (d *Dir) Share(name string, from *View) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	info, err := from.d.root.Lstat("objects/" + name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("object %s in folder %s: %w", name, from.d.path, store.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("object %s in folder %s: %w", name, from.d.path, err)
	}
	// Between two folders there is no link below a root. Lstat has seen a file; what becomes of the name meanwhile, only its
	// owner decides, and whoever reads the object checks it.
	temp := "tmp/" + strconv.FormatUint(d.temp.Add(1), 10)
	if err := os.Link(filepath.Join(from.d.path, "objects", filepath.FromSlash(name)), filepath.Join(d.path, filepath.FromSlash(temp))); err != nil {
		return fmt.Errorf("sharing object %s with folder %s: %w", name, from.d.path, full(err))
	}
	if err := d.publish(temp, "objects/"+name); err != nil {
		return fmt.Errorf("object %s: %w", name, err)
	}
	return nil
}
