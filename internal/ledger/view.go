package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/store"
)

// ErrRange is what is wrapped by an error of a view that was asked for what it does not have.
var ErrRange = errors.New("beyond the log")

// View is a log as it was at one commit. It reads storage only, stays what it is while the log grows, and is safe for
// concurrent use.
type View struct {
	c Config
	state
}

// View returns the log as it is now.
func (l *Ledger) View() View { return View{l.c, l.state} }

// Size returns the number of lines.
func (v View) Size() int64 { return v.tree.size }

// RootHash returns the Merkle tree hash, that of RFC 6962.
func (v View) RootHash() [32]byte { return v.tree.root }

// RootAt returns the Merkle tree hash of the first lines, at most as many as the view has.
func (v View) RootAt(ctx context.Context, size int64) ([32]byte, error) {
	if size < 0 || size > v.tree.size {
		return [32]byte{}, fmt.Errorf("%w: the first %d lines of a log of %d", ErrRange, size, v.tree.size)
	}
	root, err := tlog.TreeHash(size, v.reader(ctx))
	if err != nil {
		return [32]byte{}, fmt.Errorf("root hash of the first %d lines: %w", size, err)
	}
	return root, nil
}

// Checkpoint returns the signed checkpoint.
func (v View) Checkpoint() []byte { return bytes.Clone(v.checkpoint) }

// Verifier returns the verifier key of the log's checkpoints, as C2SP signed-note spells it.
func (v View) Verifier() string { return v.c.Key.Verifier() }

// Entries yields the lines in order, the first of them line number from, counted from 0. Each is yielded only after it was
// found to be in the tree. The caller does not change them. An error ends it.
func (v View) Entries(ctx context.Context, from int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if from < 0 || from > v.tree.size {
			yield(nil, fmt.Errorf("%w: line %d of a log of %d", ErrRange, from, v.tree.size))
			return
		}
		for at := from; at < v.tree.size; {
			lines, err := v.bundle(ctx, at/tileWidth)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, line := range lines[at%tileWidth:] {
				if !yield(line, nil) {
					return
				}
				at++
			}
		}
	}
}

// bundle returns the lines of the bundle with the given number, checked against the tree.
func (v View) bundle(ctx context.Context, n int64) ([][]byte, error) {
	if n == int64(len(v.full)) {
		return v.tail, nil
	}
	at := tlog.Tile{H: tileHeight, L: -1, N: n, W: tileWidth}
	lines, err := v.c.readBundle(ctx, at)
	if err != nil {
		return nil, err
	}
	t, _, err := newTree().grow(leaves(lines))
	if err == nil && t.root != v.full[n] {
		err = errors.New("its lines are not those in the tree")
	}
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", path(at), err)
	}
	return lines, nil
}

// tiles reads hash tiles for proofs: those of the right edge from memory, since a growing log deletes them, others from
// storage.
type tiles struct {
	ctx context.Context
	v   View
}

func (tiles) Height() int { return tileHeight }

func (t tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	data := make([][]byte, len(wanted))
	for i, at := range wanted {
		if e, ok := t.v.tree.edge[at.L]; ok && e.N == at.N && e.W >= at.W {
			data[i] = e.data[:at.W*tlog.HashSize]
			continue
		}
		text, err := readObject(t.ctx, t.v.c.Objects, path(tlog.Tile{H: at.H, L: at.L, N: at.N, W: tileWidth}))
		if err != nil {
			return nil, err
		}
		if len(text) != tileWidth*tlog.HashSize {
			return nil, fmt.Errorf("object %s has %d bytes", path(at), len(text))
		}
		data[i] = text[:at.W*tlog.HashSize]
	}
	return data, nil
}

func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// reader returns the tree's stored hashes, each checked against the root hash.
func (v View) reader(ctx context.Context) tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: v.tree.size, Hash: v.tree.root}, tiles{ctx, v})
}

// Inclusion returns the proof that line number n is in the log of that size, at most this view's, after RFC 6962, section
// 2.1.1.
func (v View) Inclusion(ctx context.Context, n, size int64) ([][32]byte, error) {
	if n < 0 || n >= size || size > v.tree.size {
		return nil, fmt.Errorf("%w: line %d in a log of %d, of which %d lines are there", ErrRange, n, size, v.tree.size)
	}
	p, err := tlog.ProveRecord(size, n, v.reader(ctx))
	if err != nil {
		return nil, fmt.Errorf("proving line %d: %w", n, err)
	}
	return arrays(p), nil
}

// Consistency returns the proof that the log of that size, at most this view's, begins with what the log of the given smaller
// size was, after RFC 6962, section 2.1.2.
func (v View) Consistency(ctx context.Context, old, size int64) ([][32]byte, error) {
	if old < 1 || old > size || size > v.tree.size {
		return nil, fmt.Errorf("%w: from %d to %d lines, of which %d are there", ErrRange, old, size, v.tree.size)
	}
	p, err := tlog.ProveTree(size, old, v.reader(ctx))
	if err != nil {
		return nil, fmt.Errorf("proving the log of %d lines consistent with that of %d: %w", size, old, err)
	}
	return arrays(p), nil
}

// Tile returns the object at a path of C2SP tlog-tiles: hashes, or a sealed bundle. ErrRange if path is none, and
// [store.ErrNotExist] for one that is not there, or not any more, because a wider one is.
func (v View) Tile(ctx context.Context, path string) ([]byte, error) {
	if !strings.HasPrefix(path, "tile/") || store.CheckName(path) != nil {
		return nil, fmt.Errorf("%w: %.64q is no path of a tile", ErrRange, path)
	}
	return readObject(ctx, v.c.Objects, path)
}

func arrays(hashes []tlog.Hash) [][32]byte {
	out := make([][32]byte, len(hashes))
	for i, h := range hashes {
		out[i] = h
	}
	return out
}
