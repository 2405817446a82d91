package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/store"
)

// Open opens a log, or begins one where there is none. It checks the head's signature, lays out the newest commit if that was
// not finished, and reads the whole log once: every tile and every bundle must fit the signed root hash.
func Open(ctx context.Context, c Config) (*Ledger, error) {
	if c.Objects == nil || c.Head == nil || c.Sealer == nil || c.Key == nil {
		return nil, errors.New("ledger: a field of the configuration is missing")
	}
	version, value, err := c.Head.Load(ctx)
	if errors.Is(err, store.ErrNotExist) {
		return begin(ctx, c)
	}
	if err != nil {
		return nil, fmt.Errorf("loading the log's head: %w", err)
	}
	name, checkpoint, err := decodeHead(value)
	if err != nil {
		return nil, fmt.Errorf("log's head, version %d: %w", version, err)
	}
	size, root, err := c.Key.verify(checkpoint)
	if err != nil {
		return nil, fmt.Errorf("log's head, version %d: %w", version, err)
	}
	staged, err := readStage(ctx, c.Objects, name, version)
	if err != nil {
		return nil, err
	}
	if staged.size != size {
		return nil, fmt.Errorf("object %s makes a log of %d entries, the signed checkpoint says %d", name, staged.size, size)
	}
	// A crash since the swap may have left any number of the parts. The same step as at the end of a commit.
	if err := staged.layOut(ctx, c.Objects, name, version); err != nil {
		return nil, fmt.Errorf("laying out the newest commit: %w", err)
	}
	l := &Ledger{c: c, version: version}
	if l.state, err = c.read(ctx, size); err != nil {
		return nil, err
	}
	if l.tree.root != root {
		return nil, fmt.Errorf("the log's %d entries have root hash %s, the signed checkpoint says %s: they are of another history",
			size, l.tree.root, root)
	}
	l.checkpoint = checkpoint
	return l, nil
}

// begin returns an empty log. Nothing is stored until its first commit.
func begin(ctx context.Context, c Config) (*Ledger, error) {
	if err := refuseIfLog(ctx, c.Objects, "the log's head"); err != nil {
		return nil, err
	}
	l := &Ledger{c: c, state: state{tree: newTree()}}
	var err error
	l.checkpoint, err = c.Key.sign(0, l.tree.root)
	return l, err
}

// read builds the tree anew from the bundles of a log of the given size, and compares each tile with the stored one.
func (c Config) read(ctx context.Context, size int64) (state, error) {
	s := state{tree: newTree()}
	for _, at := range bundlesOf(0, size) {
		lines, err := c.readBundle(ctx, at)
		if err != nil {
			return state{}, err
		}
		var tiles []tile
		if s.tree, tiles, err = s.tree.grow(leaves(lines)); err != nil {
			return state{}, err
		}
		for _, t := range tiles {
			if err := c.compare(ctx, t, at, size); err != nil {
				return state{}, err
			}
		}
		if err := s.add(lines); err != nil {
			return state{}, err
		}
	}
	return s, nil
}

// compare holds a stored tile against the one that the bundles up to the given one make. Partial tiles are stored only as wide
// as the log's size makes them.
func (c Config) compare(ctx context.Context, t tile, bundle tlog.Tile, size int64) error {
	if t.W < tileWidth && t.N*tileWidth+int64(t.W) != size>>(tileHeight*t.L) {
		return nil
	}
	stored, err := readObject(ctx, c.Objects, path(t.Tile))
	if err == nil && !bytes.Equal(stored, t.data) {
		err = fmt.Errorf("object %s was altered or cut off: it does not hold the hashes of the entries up to %s",
			path(t.Tile), path(bundle))
	}
	return err
}
