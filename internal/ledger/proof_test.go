package ledger_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"consilium.dev/internal/ledger"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

func checkpoint(t testing.TB, v ledger.View) ledger.Checkpoint {
	t.Helper()
	c, err := ledger.OpenCheckpoint(v.Checkpoint(), v.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestProofs takes views of a growing log and proves every line of each in it, and each one's beginning in every later one,
// also after the log has grown past them and their partial tiles are gone.
func TestProofs(t *testing.T) {
	m := storetest.New()
	l := open(t, m, newSealer(t))
	var views []ledger.View
	for _, n := range []int{1, 1, 1, 5, 248, 1, 3, 252, 90} {
		appendTo(t, l, numbered(int(l.Size()), n))
		views = append(views, l.View())
	}
	for _, v := range views {
		c := checkpoint(t, v)
		if c.Size != v.Size() || c.Root != v.RootHash() || c.Origin != origin {
			t.Fatalf("checkpoint says %+v of a log of %d", c, v.Size())
		}
		for n := int64(0); n < v.Size(); n += 1 + v.Size()/37 {
			if n%5 == 0 { // the view's own, and for the others one that has grown since
				if _, err := v.Inclusion(t.Context(), n, v.Size()); err != nil {
					t.Errorf("Inclusion(%d) in %d: %v", n, v.Size(), err)
				}
			}
			proof, err := views[len(views)-1].Inclusion(t.Context(), n, v.Size())
			if err != nil {
				t.Fatalf("Inclusion(%d) in %d: %v", n, v.Size(), err)
			}
			line := numbered(int(n), 1)[0]
			if err := c.CheckInclusion(n, line, proof); err != nil {
				t.Errorf("CheckInclusion: %v", err)
			}
			refusesInclusion(t, c, n, line, proof)
		}
		for _, old := range views {
			if old.Size() > v.Size() {
				continue
			}
			proof, err := views[len(views)-1].Consistency(t.Context(), old.Size(), v.Size())
			if err != nil {
				t.Fatalf("Consistency(%d) of %d: %v", old.Size(), v.Size(), err)
			}
			if err := c.CheckExtends(checkpoint(t, old), proof); err != nil {
				t.Errorf("CheckExtends: %v", err)
			}
			refusesConsistency(t, c, checkpoint(t, old), proof)
		}
	}
}

func refusesInclusion(t *testing.T, c ledger.Checkpoint, n int64, line []byte, proof [][32]byte) {
	t.Helper()
	if c.CheckInclusion(n, append([]byte("x"), line...), proof) == nil {
		t.Errorf("another line passes for line %d of %d", n, c.Size)
	}
	if c.Size > 1 && c.CheckInclusion((n+1)%c.Size, line, proof) == nil {
		t.Errorf("line %d of %d passes for the next", n, c.Size)
	}
	for i := range proof {
		proof[i][0] ^= 1
		if c.CheckInclusion(n, line, proof) == nil {
			t.Errorf("an altered proof of line %d of %d passes", n, c.Size)
		}
		proof[i][0] ^= 1
	}
	for _, n := range []int64{-1, c.Size} {
		if c.CheckInclusion(n, line, proof) == nil {
			t.Errorf("line %d of %d passes", n, c.Size)
		}
	}
}

func refusesConsistency(t *testing.T, c, old ledger.Checkpoint, proof [][32]byte) {
	t.Helper()
	other := old
	other.Root[31] ^= 1
	if c.CheckExtends(other, proof) == nil {
		t.Errorf("a log of %d extends another history of %d", c.Size, old.Size)
	}
	other = old
	other.Origin = "consilium.dev/other"
	if c.CheckExtends(other, proof) == nil {
		t.Error("a log extends another log")
	}
	if old.Size < c.Size && old.CheckExtends(c, proof) == nil {
		t.Errorf("a log of %d extends one of %d", old.Size, c.Size)
	}
	if len(proof) > 0 && c.CheckExtends(old, proof[:len(proof)-1]) == nil {
		t.Errorf("half a proof of %d in %d passes", old.Size, c.Size)
	}
}

func TestViewRange(t *testing.T) {
	l := open(t, storetest.New(), newSealer(t))
	appendTo(t, l, numbered(0, 3))
	v := l.View()
	for _, n := range [][2]int64{{-1, 3}, {3, 3}, {0, 4}, {0, 0}, {2, 1}} {
		if _, err := v.Inclusion(t.Context(), n[0], n[1]); !errors.Is(err, ledger.ErrRange) {
			t.Errorf("Inclusion(%d, %d) = %v, want ErrRange", n[0], n[1], err)
		}
	}
	for _, n := range [][2]int64{{0, 3}, {3, 2}, {1, 4}, {-1, 1}} {
		if _, err := v.Consistency(t.Context(), n[0], n[1]); !errors.Is(err, ledger.ErrRange) {
			t.Errorf("Consistency(%d, %d) = %v, want ErrRange", n[0], n[1], err)
		}
	}
	for path, want := range map[string]error{
		"log.key": ledger.ErrRange, "tile/../log.key": ledger.ErrRange, "stage/x": ledger.ErrRange, "": ledger.ErrRange,
		"tile/0/000": store.ErrNotExist, "tile/0/000.p/2": store.ErrNotExist, "tile/0/000.p/3": nil, "tile/entries/000.p/3": nil,
	} {
		if text, err := v.Tile(t.Context(), path); !errors.Is(err, want) || err == nil && len(text) == 0 {
			t.Errorf("Tile(%q) = %d bytes, %v, want %v", path, len(text), err, want)
		}
	}
}

// TestViewStays reads a view while the log grows over it.
func TestViewStays(t *testing.T) {
	m := storetest.New()
	l := open(t, m, newSealer(t))
	appendTo(t, l, numbered(0, 300))
	v := l.View()
	appendTo(t, l, numbered(300, 400))
	got := 0
	for line, err := range v.Entries(t.Context(), 0) {
		if err != nil || string(line) != fmt.Sprintf(`{"n":%d}`, got) {
			t.Fatalf("line %d: %q, %v", got, line, err)
		}
		got++
	}
	if got != 300 || v.Size() != 300 {
		t.Errorf("view has %d lines of %d, want 300", got, v.Size())
	}
}

// TestTree builds the tree of a log from its lines alone.
func TestTree(t *testing.T) {
	m := storetest.New()
	l := open(t, m, newSealer(t))
	var tree ledger.Tree
	if tree.RootHash() != l.RootHash() || tree.Size() != 0 {
		t.Error("the tree of no lines differs")
	}
	for _, line := range numbered(0, 600) {
		appendTo(t, l, [][]byte{line})
		if err := tree.Add(line); err != nil {
			t.Fatal(err)
		}
		if tree.RootHash() != l.RootHash() || tree.Size() != l.Size() {
			t.Fatalf("the tree of %d lines differs", l.Size())
		}
	}
}

func TestOpenCheckpointRefuses(t *testing.T) {
	m := storetest.New()
	l := open(t, m, newSealer(t))
	appendTo(t, l, numbered(0, 3))
	signed, key := l.Checkpoint(), l.View().Verifier()
	stranger, _, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(stranger)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := note.Sign(&note.Note{Text: origin + "\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"}, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ledger.OpenCheckpoint(forged, key); err == nil {
		t.Error("a stranger's checkpoint passes")
	}
	if _, err := ledger.OpenCheckpoint(signed, "nonsense"); err == nil {
		t.Error("a verifier key that is none passes")
	}
	for i := range signed {
		signed[i] ^= 2
		if c, err := ledger.OpenCheckpoint(signed, key); err == nil && (c.Size != 3 || c.Root != l.RootHash()) {
			t.Errorf("a checkpoint altered at byte %d says %+v", i, c)
		}
		signed[i] ^= 2
	}
}
