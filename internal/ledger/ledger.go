// Package ledger keeps an append-only log of lines on storage that nobody trusts: a Merkle tree after RFC 6962 with signed
// checkpoints, laid out after C2SP tlog-tiles. It is Consilium's write-ahead log and its audit trail at once.
//
// # What holds
//
// When [Ledger.Append] returns nil, its lines are durable, all of them, in the order given, and stay what they are: whatever
// [Open] and [Ledger.Entries] read back is checked against the signed root hash first. An object that was altered, cut off,
// lost, or put in another one's place is an error that names it. After any error of which Append cannot know whether the lines
// are in the log, the Ledger refuses to go on; Open finds out. Of two ledgers on one storage one wins each commit, and the
// other gets [store.ErrConflict] and is over.
//
// What does not hold: storage that puts back everything, the head included, to an earlier state is not noticed here. That is
// what witnesses are for.
//
//	key, err := ledger.OpenKey(ctx, objects, sealer, "consilium.dev/hearts")
//	l, err := ledger.Open(ctx, ledger.Config{Objects: objects, Head: head, Sealer: sealer, Key: key})
//	for line, err := range l.Entries(ctx, 0) { ... } // replay
//	err = l.Append(ctx, line)                        // durable, or stop
//
// # Lay-out
//
//	the head                   name of the newest staged object, newline, signed checkpoint (C2SP tlog-checkpoint)
//	stage/VERSION-DIGEST       what the newest commit added
//	tile/LEVEL/INDEX[.p/W]     hash tiles of 256 hashes, as C2SP tlog-tiles has them; not sealed
//	tile/entries/INDEX[.p/W]   bundles of 256 lines, each followed by a newline, sealed
//	log.key                    the signing key, sealed
//
// A leaf's hash is that of its line without the newline. Lines should be salted: hash tiles are open, and a hash confirms a
// guess. Partial tiles and bundles (.p/W) are deleted once wider ones are there.
//
// # A commit
//
// Append puts one staged object with the new tiles and sealed bundles, then swaps in the head that names it: that is the
// commit. Then it lays the parts out at their own paths. A crash before the swap leaves an object that nothing names and a
// later commit deletes; a crash after it leaves parts that are not laid out, and Open repeats that step, with the same code,
// before anything else.
package ledger

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/store"
)

const (
	maxLine   = 1 << 20  // bytes of a line
	maxLines  = 4096     // lines of a commit
	maxCommit = 64 << 20 // bytes of a commit's lines
)

// Config is what a log is made of. All fields are required.
type Config struct {
	Objects store.Objects // tiles, bundles, staged commits; nothing else is stored under "tile/" and "stage/"
	Head    store.Head    // the checkpoint; this log's own
	Sealer  store.Sealer  // seals bundles, each up to 256 lines
	Key     *Key          // signs checkpoints; its origin is the log's name
}

// Ledger is an open log. It is used by one goroutine at a time.
type Ledger struct {
	c       Config
	version uint64 // of the head
	state
	failed error // why it does not go on
}

// state is what a commit changes. It is a value: each commit makes a new one.
type state struct {
	tree       tree
	checkpoint []byte
	full       []tlog.Hash // of each full bundle, the root of its 256 leaves
	tail       [][]byte    // lines of the last bundle, if that is not full
}

// Size returns the number of lines in the log.
func (l *Ledger) Size() int64 { return l.tree.size }

// RootHash returns the Merkle tree hash of the log, that of RFC 6962.
func (l *Ledger) RootHash() [32]byte { return l.tree.root }

// Checkpoint returns the newest checkpoint, a signed note. That of an empty log stands nowhere but here.
func (l *Ledger) Checkpoint() []byte { return bytes.Clone(l.checkpoint) }

// Append writes lines to the log in one commit: all of them or none. They are durable when it returns nil. A line has 1 byte
// to 1 MiB and no newline; a commit at most 4096 lines and 64 MiB. What breaks these limits, and storage that fails before
// the commit (with [store.ErrFull], say), leaves the log as it was. After every other error the Ledger is over and each later
// call returns that error: with [store.ErrConflict] because another coordinator has taken the log over, else because it is
// not known whether the lines are in it. Open the log again, and read.
func (l *Ledger) Append(ctx context.Context, lines ...[]byte) error {
	if l.failed != nil {
		return fmt.Errorf("the log was left at an earlier error, open it again: %w", l.failed)
	}
	if err := check(lines); err != nil || len(lines) == 0 {
		return err
	}
	next, staged, err := l.grow(lines)
	if err != nil {
		return err
	}
	text := staged.encode()
	name := stageName(l.version+1, text)
	if err := putSame(ctx, l.c.Objects, name, text); err != nil {
		return fmt.Errorf("staging a commit: %w", err) // nothing names it: the log is what it was
	}
	// The commit. Before this line nothing has happened; after it the lines are in the log, whatever becomes of us.
	if err := l.c.Head.Swap(ctx, l.version, encodeHead(name, next.checkpoint)); err != nil {
		l.failed = fmt.Errorf("swapping the log's head: %w", err)
		return l.failed
	}
	l.version, l.state = l.version+1, next
	if err := staged.layOut(ctx, l.c.Objects, name, l.version); err != nil {
		l.failed = fmt.Errorf("laying out a commit: %w", err)
		return l.failed
	}
	return nil
}

// check refuses lines that cannot stand in a log.
func check(lines [][]byte) error {
	total := 0
	for i, line := range lines {
		switch {
		case len(line) == 0 || len(line) > maxLine:
			return fmt.Errorf("line %d of the commit has %d bytes, want 1 to %d", i, len(line), maxLine)
		case bytes.IndexByte(line, '\n') >= 0:
			return fmt.Errorf("line %d of the commit has a newline in it", i)
		}
		total += len(line)
	}
	if len(lines) > maxLines || total > maxCommit {
		return fmt.Errorf("a commit of %d lines and %d bytes, at most %d and %d are allowed", len(lines), total, maxLines, maxCommit)
	}
	return nil
}

// grow returns the log's state with lines added and what has to be stored for it.
func (l *Ledger) grow(lines [][]byte) (state, stage, error) {
	next, staged := state{full: l.full}, stage{old: l.tree.size}
	var tiles []tile
	var err error
	if next.tree, tiles, err = l.tree.grow(leaves(lines)); err != nil {
		return state{}, stage{}, err
	}
	if next.checkpoint, err = l.c.Key.sign(next.tree.size, next.tree.root); err != nil {
		return state{}, stage{}, err
	}
	staged.size = next.tree.size
	for _, t := range tiles {
		staged.parts = append(staged.parts, t.data)
	}
	rest := slices.Clone(l.tail)
	for _, line := range lines {
		rest = append(rest, bytes.Clone(line))
	}
	for _, at := range bundlesOf(staged.old, staged.size) {
		sealed, err := l.c.sealBundle(at, rest[:at.W])
		if err != nil {
			return state{}, stage{}, err
		}
		staged.parts = append(staged.parts, sealed)
		if err := next.add(rest[:at.W]); err != nil {
			return state{}, stage{}, err
		}
		rest = rest[at.W:]
	}
	return next, staged, nil
}

// add takes in the lines of the bundle that follows the full ones.
func (s *state) add(lines [][]byte) error {
	if len(lines) < tileWidth {
		s.tail = lines
		return nil
	}
	t, _, err := newTree().grow(leaves(lines))
	s.full, s.tail = append(s.full, t.root), nil
	return err
}

// Entries yields the lines of the log in order, as [View.Entries] does.
func (l *Ledger) Entries(ctx context.Context, from int64) iter.Seq2[[]byte, error] {
	return l.View().Entries(ctx, from)
}
