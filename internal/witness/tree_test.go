package witness_test

import (
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/witness"
)

// history is a log in memory: its lines, and the hashes of its Merkle tree.
type history struct {
	lines  []string
	hashes []tlog.Hash
}

func (h history) ReadHashes(at []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range at {
		out = append(out, h.hashes[i])
	}
	return out, nil
}

// with returns the log with more lines. What h holds stays as it is.
func (h history) with(t testing.TB, lines ...string) history {
	t.Helper()
	next := history{append([]string(nil), h.lines...), append([]tlog.Hash(nil), h.hashes...)}
	for _, line := range lines {
		more, err := tlog.StoredHashes(int64(len(next.lines)), []byte(line), next)
		if err != nil {
			t.Fatal(err)
		}
		next.lines, next.hashes = append(next.lines, line), append(next.hashes, more...)
	}
	return next
}

func (h history) size() int64 { return int64(len(h.lines)) }

// at returns the head of the first lines of the log.
func (h history) at(t testing.TB, size int64) witness.Head {
	t.Helper()
	root, err := tlog.TreeHash(size, h)
	if err != nil {
		t.Fatal(err)
	}
	return witness.Head{Size: size, Root: root}
}

func (h history) head(t testing.TB) witness.Head { return h.at(t, h.size()) }

// root returns the Merkle tree hash of the first lines, and nothing of use where there are not so many.
func (h history) root(t testing.TB, size int64) [32]byte {
	t.Helper()
	if size > h.size() {
		return [32]byte{1}
	}
	return h.at(t, size).Root
}

// offer asks to cosign the log as it is, from an older size on.
func (h history) offer(t testing.TB, old int64) witness.Offer {
	t.Helper()
	o := witness.Offer{Old: old, Next: h.head(t)}
	if old > 0 && old < h.size() {
		proof, err := tlog.ProveTree(h.size(), old, h)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range proof {
			o.Proof = append(o.Proof, p)
		}
	}
	return o
}
