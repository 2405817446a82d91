package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"consilium.dev/internal/store"
)

// Put stores an object, as [store.Objects] says. [store.ErrFull] if the disk or the quota is.
func (d *Dir) Put(ctx context.Context, name func() string, r io.Reader) error {
	temp, err := d.write(ctx, r)
	if err != nil {
		return fmt.Errorf("writing an object in folder %s: %w", d.path, err)
	}
	n := name()
	if err := store.CheckName(n); err != nil {
		d.disk.Remove(temp)
		return err
	}
	if err := d.publish(temp, "objects/"+n); err != nil {
		return fmt.Errorf("object %s: %w", n, err)
	}
	return nil
}

// Get opens an object, as [store.Objects] says.
func (d *Dir) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := cmp.Or(ctx.Err(), store.CheckName(name)); err != nil {
		return nil, err
	}
	if err := d.settle(path.Dir("objects/" + name)); err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	f, err := d.root.Open("objects/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("object %s: %w", name, store.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("object %s: %w", name, cmp.Or(err, store.ErrNotExist))
	}
	return &file{reader{ctx, f}, f}, nil
}

// file is an open object that ends with its context.
type file struct {
	reader
	io.Closer
}

// Delete removes an object, as [store.Objects] says.
func (d *Dir) Delete(ctx context.Context, name string) error {
	if err := cmp.Or(ctx.Err(), store.CheckName(name)); err != nil {
		return err
	}
	info, err := d.root.Lstat("objects/" + name)
	if err == nil && info.IsDir() {
		return nil // a folder of objects, not an object
	}
	if err == nil {
		err = d.disk.Remove("objects/" + name)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting object %s: %w", name, err)
	}
	return nil
}

// List yields names, as [store.Objects] says. Objects that are put or deleted meanwhile may be among them or not.
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		folder := prefix[:strings.LastIndexByte(prefix, '/')+1]
		if folder != "" {
			if err := store.CheckName(strings.TrimSuffix(folder, "/")); err != nil {
				yield("", err)
				return
			}
		}
		d.walk(ctx, folder, prefix, yield)
	}
}

// walk yields the names below folder, which is empty or ends in a slash, until yield says to stop.
func (d *Dir) walk(ctx context.Context, folder, prefix string, yield func(string, error) bool) bool {
	entries, err := d.entries("objects/" + folder)
	if err = cmp.Or(ctx.Err(), err); err != nil {
		yield("", fmt.Errorf("listing objects %s: %w", folder, err))
		return false
	}
	var names []string
	for _, e := range entries {
		switch name := folder + e.Name(); {
		case e.IsDir():
			names = append(names, name+"/") // so that "a/b" comes after "a.b", as it does for whole names
		case e.Type().IsRegular() && store.CheckName(name) == nil:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		switch {
		case !strings.HasPrefix(name, prefix):
		case strings.HasSuffix(name, "/"):
			if !d.walk(ctx, name, prefix, yield) {
				return false
			}
		case !yield(name, nil):
			return false
		}
	}
	return true
}
