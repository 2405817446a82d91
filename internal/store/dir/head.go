package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"consilium.dev/internal/store"
)

const (
	maxHead  = 64 << 10 // bytes of a value, as store.Head says
	keptHead = 1000     // versions behind the newest that are kept
)

// Load returns the newest head, as [store.Head] says.
func (d *Dir) Load(ctx context.Context) (uint64, []byte, error) {
	if err := ctx.Err(); err != nil {
		return 0, nil, err
	}
	versions, err := d.versions()
	if err != nil {
		return 0, nil, err
	}
	version := newest(versions)
	if version == 0 {
		return 0, nil, fmt.Errorf("head in folder %s: %w", d.path, store.ErrNotExist)
	}
	f, err := d.root.Open(headName(version))
	if err != nil {
		return 0, nil, fmt.Errorf("opening the head: %w", err)
	}
	defer f.Close()
	value, err := io.ReadAll(io.LimitReader(f, maxHead+1))
	if err == nil && len(value) > maxHead {
		err = fmt.Errorf("more than %d bytes", maxHead)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("%s in folder %s: %w", headName(version), d.path, err)
	}
	return version, value, nil
}

// Swap makes value the head, as [store.Head] says. [store.ErrFull] if the disk or the quota is.
func (d *Dir) Swap(ctx context.Context, old uint64, value []byte) error {
	if len(value) > maxHead {
		return fmt.Errorf("head of %d bytes: at most %d are allowed", len(value), maxHead)
	}
	versions, err := d.versions()
	if err != nil {
		return err
	}
	if now := newest(versions); now != old {
		return fmt.Errorf("head in folder %s has version %d, not %d: %w", d.path, now, old, store.ErrConflict)
	}
	return d.link(ctx, old+1, value)
}

// link makes value the head's given version.
func (d *Dir) link(ctx context.Context, version uint64, value []byte) error {
	temp, err := d.write(ctx, bytes.NewReader(value))
	if err != nil {
		return fmt.Errorf("writing the head in folder %s: %w", d.path, err)
	}
	err = d.publish(temp, headName(version))
	if errors.Is(err, store.ErrExist) {
		return fmt.Errorf("%s in folder %s was made meanwhile: %w", headName(version), d.path, store.ErrConflict)
	}
	if err != nil {
		return fmt.Errorf("%s in folder %s: %w", headName(version), d.path, err)
	}
	// A writer that slept since it looked may have made a version that others made, left behind and pruned long ago.
	versions, err := d.versions()
	if err != nil {
		return err
	}
	if now := newest(versions); now != version {
		return fmt.Errorf("head in folder %s went on to version %d before %d was made: %w", d.path, now, version, store.ErrConflict)
	}
	for _, v := range versions {
		if v+keptHead < version {
			d.disk.Remove(headName(v)) // if it stays, the next swap tries again
		}
	}
	return nil
}

// versions returns the head's versions that are there, ascending.
func (d *Dir) versions() ([]uint64, error) {
	entries, err := d.entries("head")
	if err != nil {
		return nil, fmt.Errorf("listing the heads in folder %s: %w", d.path, err)
	}
	var all []uint64
	for _, e := range entries {
		v, err := strconv.ParseUint(e.Name(), 10, 64)
		if err == nil && "head/"+e.Name() == headName(v) && v > 0 {
			all = append(all, v)
		}
	}
	slices.Sort(all)
	return all, nil
}

// newest returns the last of the ascending versions, 0 if there is none.
func newest(versions []uint64) uint64 {
	if len(versions) == 0 {
		return 0
	}
	return versions[len(versions)-1]
}

func headName(version uint64) string { return fmt.Sprintf("head/%020d", version) }
