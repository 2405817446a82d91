package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// A bundle's plaintext is its lines, each followed by a newline. Its associated data are "consilium.bundle/1\n", the origin, a
// newline and the path, so that no bundle passes for another.
func bundleContext(origin string, at tlog.Tile) []byte {
	return []byte("consilium.bundle/1\n" + origin + "\n" + path(at))
}

func (c Config) sealBundle(at tlog.Tile, lines [][]byte) ([]byte, error) {
	var text []byte
	for _, line := range lines {
		text = append(append(text, line...), '\n')
	}
	sealed, err := c.Sealer.Seal(text, bundleContext(c.Key.Origin(), at))
	if err != nil {
		return nil, fmt.Errorf("sealing %s: %w", path(at), err)
	}
	return sealed, nil
}

// readBundle returns the lines of a bundle. They are ours; that they are in the tree is left to check.
func (c Config) readBundle(ctx context.Context, at tlog.Tile) ([][]byte, error) {
	sealed, err := readObject(ctx, c.Objects, path(at))
	if err != nil {
		return nil, err
	}
	text, err := c.Sealer.Open(sealed, bundleContext(c.Key.Origin(), at))
	if err != nil {
		return nil, fmt.Errorf("object %s does not open: sealed under another key, altered or cut off: %w", path(at), err)
	}
	lines, err := splitBundle(text, at.W)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", path(at), err)
	}
	return lines, nil
}

// splitBundle returns the lines of a bundle's plaintext, which shall be n.
func splitBundle(text []byte, n int) ([][]byte, error) {
	body, ok := bytes.CutSuffix(text, []byte("\n"))
	if !ok {
		return nil, errors.New("its last line has no end")
	}
	lines := bytes.Split(body, []byte("\n"))
	if len(lines) != n {
		return nil, fmt.Errorf("holds %d lines, want %d", len(lines), n)
	}
	for i, line := range lines {
		if len(line) == 0 || len(line) > maxLine {
			return nil, fmt.Errorf("line %d of it has %d bytes", i, len(line))
		}
	}
	return lines, nil
}

// leaves returns the RFC 6962 leaf hashes of lines.
func leaves(lines [][]byte) []tlog.Hash {
	hashes := make([]tlog.Hash, len(lines))
	for i, line := range lines {
		hashes[i] = tlog.RecordHash(line)
	}
	return hashes
}
