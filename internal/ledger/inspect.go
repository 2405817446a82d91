package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/store"
)

// Getter is the part of store.Objects that reads one object.
type Getter interface {
	Get(ctx context.Context, name string) (io.ReadCloser, error)
}

// Inspect checks without any key that objects hold what a head of the given version needs: the staged commit, every hash tile,
// with the root hash that they make together, and every bundle of entries. It returns what the checkpoint in the head says, and the names of those objects; any other below "tile/"
// and "stage/" is of a commit before or after, and does not belong into a copy: a log that goes on from this head writes its own.
//
// It is for whoever copies a log and cannot read it. The checkpoint's signature is not checked, nor what is sealed in the
// bundles: [Open] does that, with the keys.
func Inspect(ctx context.Context, objects Getter, version uint64, head []byte) (Checkpoint, []string, error) {
	name, signed, err := decodeHead(head)
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("log's head, version %d: %w", version, err)
	}
	c, err := claimed(signed)
	if err != nil {
		return Checkpoint{}, nil, fmt.Errorf("log's head, version %d: %w", version, err)
	}
	staged, err := readStage(ctx, objects, name, version)
	if err != nil {
		return Checkpoint{}, nil, err
	}
	if staged.size != c.Size {
		return Checkpoint{}, nil, fmt.Errorf("object %s makes a log of %d entries, the checkpoint says %d", name, staged.size, c.Size)
	}
	i := inspection{ctx: ctx, objects: objects, parts: map[string][]byte{}, needed: []string{name}}
	for n, at := range places(staged.old, staged.size) { // a crash may have left them where they were staged
		i.parts[path(at)] = staged.parts[n]
	}
	if err := i.log(c); err != nil {
		return Checkpoint{}, nil, err
	}
	return c, i.needed, nil
}

// claimed returns what a checkpoint says, whoever signed it.
func claimed(signed []byte) (Checkpoint, error) {
	text, _, ok := strings.Cut(string(signed), "\n\n")
	origin, _, _ := strings.Cut(text, "\n")
	if !ok || origin == "" {
		return Checkpoint{}, errors.New("checkpoint is cut off")
	}
	size, root, err := parseCheckpoint(text+"\n", origin)
	if err == nil && size > maxSize {
		err = fmt.Errorf("%d entries, at most %d are allowed", size, int64(maxSize))
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	return Checkpoint{origin, size, root}, nil
}

// inspection looks at one log.
type inspection struct {
	ctx     context.Context
	objects Getter
	parts   map[string][]byte // of the staged commit, by path
	needed  []string          // names
}

// log checks tiles and bundles. The tree is built from the leaves' hashes, and each stored tile has to be the one that it makes.
func (i *inspection) log(c Checkpoint) error {
	t := newTree()
	for n := int64(0); n*tileWidth < c.Size; n++ {
		at := tlog.Tile{H: tileHeight, L: 0, N: n, W: int(min(c.Size-n*tileWidth, tileWidth))}
		data, err := i.read(at)
		if err != nil {
			return err
		}
		if len(data) != at.W*tlog.HashSize {
			return fmt.Errorf("object %s has %d bytes, want %d", path(at), len(data), at.W*tlog.HashSize)
		}
		hashes := make([]tlog.Hash, at.W)
		for k := range hashes {
			hashes[k] = tlog.Hash(data[k*tlog.HashSize:])
		}
		var made []tile
		if t, made, err = t.grow(hashes); err != nil {
			return err
		}
		if err := i.compare(made, c.Size); err != nil {
			return err
		}
		at.L = -1
		if _, err := i.read(at); err != nil {
			return err
		}
	}
	if t.root != c.Root {
		return fmt.Errorf("the log's %d hashes have root %s, the checkpoint says %s: they are of another history",
			c.Size, t.root, tlog.Hash(c.Root))
	}
	return nil
}

// compare holds stored tiles above the lowest level against those that the leaves make.
func (i *inspection) compare(made []tile, size int64) error {
	for _, t := range made {
		if t.L == 0 || t.W < tileWidth && t.N*tileWidth+int64(t.W) != size>>(tileHeight*t.L) {
			continue // read already, or not yet as wide as it is stored
		}
		stored, err := i.read(t.Tile)
		if err == nil && !bytes.Equal(stored, t.data) {
			err = fmt.Errorf("object %s was altered or cut off: it does not hold the hashes of the tiles below it", path(t.Tile))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read returns a tile or a sealed bundle, from where it was staged if it is not laid out yet.
func (i *inspection) read(at tlog.Tile) ([]byte, error) {
	i.needed = append(i.needed, path(at))
	text, err := readObject(i.ctx, i.objects, path(at))
	part, staged := i.parts[path(at)]
	switch {
	case staged && errors.Is(err, store.ErrNotExist):
		return part, nil
	case staged && err == nil && !bytes.Equal(text, part):
		return nil, fmt.Errorf("object %s was altered or cut off: it is not what was committed", path(at))
	}
	return text, err
}
