package ledger

import (
	"fmt"
	"maps"

	"golang.org/x/mod/sumdb/tlog"
)

// A tile holds 2^tileHeight hashes, a bundle as many lines.
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// tile is a hash tile with its content: W hashes of 32 bytes.
type tile struct {
	tlog.Tile
	data []byte
}

// path returns where a tile lies, or for level -1 the bundle of entries, after C2SP tlog-tiles: tile/LEVEL/INDEX[.p/WIDTH].
// Package tlog writes the tile's height in between and has "data" for "entries".
func path(t tlog.Tile) string {
	level := "entries"
	if t.L >= 0 {
		level = fmt.Sprint(t.L)
	}
	n := fmt.Sprintf("%03d", t.N%1000)
	for i := t.N / 1000; i > 0; i /= 1000 {
		n = fmt.Sprintf("x%03d/%s", i%1000, n)
	}
	if t.W < tileWidth {
		n += fmt.Sprintf(".p/%d", t.W)
	}
	return "tile/" + level + "/" + n
}

// tree is a Merkle tree after RFC 6962: its size, and the rightmost tile of each level, from which it can grow. It is a value
// that nobody changes.
type tree struct {
	size int64
	root tlog.Hash
	edge map[int]tile
}

func newTree() tree {
	root, _ := tlog.TreeHash(0, nil) // the hash of nothing; reads nothing
	return tree{root: root}
}

// grow returns the tree with leaves added, and the tiles that are new in it or wider.
func (t tree) grow(leaves []tlog.Hash) (tree, []tile, error) {
	next := tree{size: t.size, edge: maps.Clone(t.edge)}
	if next.edge == nil {
		next.edge = map[int]tile{}
	}
	fresh := map[int64]tlog.Hash{} // by tlog's storage index
	read := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) { return t.read(fresh, indexes) })
	for _, leaf := range leaves {
		hashes, err := tlog.StoredHashesForRecordHash(next.size, leaf, read)
		if err != nil {
			return t, nil, err
		}
		first := tlog.StoredHashIndex(0, next.size)
		for i, h := range hashes {
			fresh[first+int64(i)] = h
		}
		next.size++
	}
	var tiles []tile
	for _, at := range tlog.NewTiles(tileHeight, t.size, next.size) {
		data, err := tlog.ReadTileData(at, read)
		if err != nil {
			return t, nil, err
		}
		tiles = append(tiles, tile{at, data})
		next.edge[at.L] = tile{at, data} // of each level the rightmost comes last
	}
	var err error
	next.root, err = tlog.TreeHash(next.size, read)
	return next, tiles, err
}

// read returns hashes from the fresh ones or from the right edge. A growing tree needs no others.
func (t tree) read(fresh map[int64]tlog.Hash, indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		h, ok := fresh[index]
		if !ok {
			e := t.edge[tlog.TileForIndex(tileHeight, index).L]
			var err error
			if h, err = tlog.HashFromTile(e.Tile, e.data, index); err != nil {
				return nil, fmt.Errorf("a tree of %d does not grow from its right edge: %w", t.size, err)
			}
		}
		hashes[i] = h
	}
	return hashes, nil
}

// superseded returns the partial tiles and bundle of a tree of size old that one of size grown has no use for.
func superseded(old, grown int64) []tlog.Tile {
	var gone []tlog.Tile
	for level := 0; old>>(tileHeight*level) > 0; level++ {
		from, to := old>>(tileHeight*level), grown>>(tileHeight*level)
		if w := int(from % tileWidth); w > 0 && from != to {
			gone = append(gone, tlog.Tile{H: tileHeight, L: level, N: from >> tileHeight, W: w})
			if level == 0 {
				gone = append(gone, tlog.Tile{H: tileHeight, L: -1, N: from >> tileHeight, W: w})
			}
		}
	}
	return gone
}

// bundlesOf returns the bundles that are new, or wider, in a tree that grew from size old.
func bundlesOf(old, grown int64) []tlog.Tile {
	var all []tlog.Tile
	for n := old / tileWidth; n*tileWidth < grown; n++ {
		all = append(all, tlog.Tile{H: tileHeight, L: -1, N: n, W: int(min(grown-n*tileWidth, tileWidth))})
	}
	return all
}
