package ledger

import (
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/witness"
)

// Checkpoint is what a signed checkpoint says: the log of that name had Size lines with that Merkle tree hash.
type Checkpoint struct {
	Origin string
	Size   int64
	Root   [32]byte
}

// OpenCheckpoint returns what a checkpoint says that the key with the given verifier key has signed. It needs no log, nor
// anything else but the two texts.
func OpenCheckpoint(signed []byte, verifier string) (Checkpoint, error) {
	v, err := note.NewVerifier(verifier)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("the log's verifier key: %w", err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint is not signed by the log's key: %w", err)
	}
	size, root, err := parseCheckpoint(n.Text, v.Name())
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	return Checkpoint{v.Name(), size, root}, nil
}

// CheckInclusion returns an error unless proof shows that line is line number n of the log that c speaks of.
func (c Checkpoint) CheckInclusion(n int64, line []byte, proof [][32]byte) error {
	if n < 0 || n >= c.Size {
		return fmt.Errorf("there is no line %d in a log of %d", n, c.Size)
	}
	if err := tlog.CheckRecord(hashes(proof), c.Size, c.Root, n, tlog.RecordHash(line)); err != nil {
		return fmt.Errorf("line %d is not in the log of %d lines: %w", n, c.Size, err)
	}
	return nil
}

// CheckExtends returns an error unless proof shows that the log that c speaks of begins with the one that old speaks of.
func (c Checkpoint) CheckExtends(old Checkpoint, proof [][32]byte) error {
	if old.Origin != c.Origin {
		return fmt.Errorf("checkpoints of two logs, %q and %q", old.Origin, c.Origin)
	}
	return c.Head().Extends(old.Head(), proof)
}

// Head returns what c says without the log's name.
func (c Checkpoint) Head() witness.Head { return witness.Head{Size: c.Size, Root: c.Root} }

func hashes(proof [][32]byte) []tlog.Hash {
	out := make([]tlog.Hash, len(proof))
	for i, h := range proof {
		out[i] = h
	}
	return out
}

// Tree is the Merkle tree of a log that is read from its beginning, without its storage. The zero Tree is that of no lines.
type Tree struct{ tree }

// Add adds a line, without its newline, as the next leaf.
func (t *Tree) Add(line []byte) error {
	if t.edge == nil {
		t.tree = newTree()
	}
	next, _, err := t.grow(leaves([][]byte{line}))
	if err == nil {
		t.tree = next
	}
	return err
}

// Size returns the number of lines.
func (t *Tree) Size() int64 { return t.size }

// RootHash returns the Merkle tree hash, that of RFC 6962.
func (t *Tree) RootHash() [32]byte {
	if t.edge == nil {
		return newTree().root
	}
	return t.root
}
