package simulation_test

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/witness"
)

// line is one line of a log.
type line struct {
	at   time.Time
	fact entry.Fact
	text []byte // nil where the world does without
	leaf tlog.Hash
}

// line makes a line of a fact. In some worlds it is encoded, and read back at each boot; in the others its salt alone names it,
// which takes a tenth of the time.
func (w *world) line(at time.Time, f entry.Fact) line {
	var salt [16]byte
	binary.LittleEndian.PutUint64(salt[:], w.chance.Uint64())
	if !w.encodes {
		return line{at: at, fact: f, leaf: tlog.RecordHash(salt[:])}
	}
	text := entry.Encode(salt, at, f)
	return line{at, f, text, tlog.RecordHash(text)}
}

// read returns a line as whoever replays a log has it.
func (w *world) read(l line) line {
	if l.text == nil {
		return l
	}
	e, err := entry.Decode(l.text)
	if err != nil {
		w.fail("line %q: %v", l.text, err)
	}
	l.at, l.fact = e.At, e.Fact
	return l
}

// chain is a log: lines and the hashes of their Merkle tree. It is a value: what was appended to it before stays as it is.
type chain struct {
	lines  []line
	hashes []tlog.Hash // stored hashes, as package tlog has them
	roots  []tlog.Hash // of the first 1, 2, ... lines
}

func (c chain) ReadHashes(at []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(at))
	for i, n := range at {
		out[i] = c.hashes[n]
	}
	return out, nil
}

func (c chain) size() int64 { return int64(len(c.lines)) }

// root returns the root hash of the first n lines, no hash where there are not so many.
func (c chain) root(n int64) [32]byte {
	if n < 1 || n > c.size() {
		return [32]byte{}
	}
	return c.roots[n-1]
}

func (c chain) head() witness.Head { return witness.Head{Size: c.size(), Root: c.root(c.size())} }

// begins reports whether h is a head that this log once had.
func (c chain) begins(h witness.Head) bool {
	return h.Size == 0 || h.Size <= c.size() && c.root(h.Size) == h.Root
}

// with returns the log with one line more.
func (c chain) with(l line) chain {
	more, err := tlog.StoredHashesForRecordHash(c.size(), l.leaf, c)
	if err != nil {
		panic("stored hashes of a log: " + err.Error())
	}
	c.lines, c.hashes = append(c.lines, l), append(c.hashes, more...)
	root, err := tlog.TreeHash(c.size(), c)
	if err != nil {
		panic("root hash of a log: " + err.Error())
	}
	c.roots = append(c.roots, root)
	return c
}

// clip returns the log so that nobody appends in place.
func (c chain) clip() chain {
	return chain{slices.Clip(c.lines), slices.Clip(c.hashes), slices.Clip(c.roots)}
}

// proof shows that the log of a head begins with that of old lines.
func (c chain) proof(old int64, h witness.Head) [][32]byte {
	if old < 1 || old >= h.Size {
		return nil
	}
	p, err := tlog.ProveTree(h.Size, old, c)
	if err != nil {
		panic("proof in a log: " + err.Error())
	}
	out := make([][32]byte, len(p))
	for i := range p {
		out[i] = p[i]
	}
	return out
}

// What goes wrong in storage, as package ledger tells it.
var (
	errFull     = errors.New("storage is full")
	errConflict = errors.New("another writer was faster")
	errUnsure   = errors.New("no answer from the storage")
)

// disk is a coordinator's storage: what is durable. Its operator may copy it and put back what it was.
type disk struct {
	w        *world
	log      chain
	models   map[entry.Digest][]float32
	cosigned witness.Head // newest head that a quorum has cosigned, with
	by       []string     // whose cosignatures
	full     bool
}

func (d *disk) copied() *disk {
	d.log = d.log.clip()
	return &disk{w: d.w, log: d.log, models: maps.Clone(d.models), cosigned: d.cosigned, by: d.by}
}

// commit appends lines to a log that has so many, all or none: the swap of the head is the one commit.
func (d *disk) commit(size int64, lines []line) error {
	switch {
	case d.full:
		d.w.hurt(noAnswer)
		return errFull
	case d.w.bad(4): // staged, not swapped
		d.w.hurt(noAnswer)
		return errUnsure
	case size != d.log.size():
		return errConflict
	}
	for _, l := range lines {
		d.log = d.log.with(l)
	}
	if d.w.bad(4) {
		d.w.hurt(noAnswer)
		return errUnsure
	}
	return nil
}

// put stores a model.
func (d *disk) put(values []float32) error {
	if d.full || d.w.bad(4) {
		d.w.hurt(noAnswer)
		return errFull
	}
	d.models[digestOf(values)] = values
	if d.w.bad(4) {
		d.w.hurt(noAnswer)
		return errUnsure
	}
	return nil
}
