package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"

	"consilium.dev/internal/blob/kms/file"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

const origin = "consilium.dev/test"

func newSealer(t testing.TB) store.Sealer {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	if err := file.Create(path); err != nil {
		t.Fatal(err)
	}
	s, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// boot opens key and log, as a coordinator does.
func boot(ctx context.Context, o store.Objects, h store.Head, s store.Sealer) (*ledger.Ledger, error) {
	key, err := ledger.OpenKey(ctx, o, s, origin)
	if err != nil {
		return nil, err
	}
	return ledger.Open(ctx, ledger.Config{Objects: o, Head: h, Sealer: s, Key: key})
}

func open(t testing.TB, m *storetest.Memory, s store.Sealer) *ledger.Ledger {
	t.Helper()
	l, err := boot(t.Context(), m, m, s)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// numbered returns n lines whose numbers begin at from.
func numbered(from, n int) [][]byte {
	var lines [][]byte
	for i := range n {
		lines = append(lines, fmt.Appendf(nil, `{"n":%d}`, from+i))
	}
	return lines
}

func appendTo(t testing.TB, l *ledger.Ledger, lines [][]byte) {
	t.Helper()
	if err := l.Append(t.Context(), lines...); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, l *ledger.Ledger, from int64) []string {
	t.Helper()
	var lines []string
	for line, err := range l.Entries(t.Context(), from) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(line))
	}
	return lines
}

func asStrings(lines [][]byte) []string {
	var s []string
	for _, line := range lines {
		s = append(s, string(line))
	}
	return s
}

// merkle is the tree hash of RFC 6962, section 2.1, word for word.
func merkle(lines [][]byte) [32]byte {
	switch len(lines) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return sha256.Sum256(append([]byte{0}, lines[0]...))
	}
	k := 1
	for 2*k < len(lines) {
		k *= 2
	}
	left, right := merkle(lines[:k]), merkle(lines[k:])
	return sha256.Sum256(slices.Concat([]byte{1}, left[:], right[:]))
}

// check holds all that a log shows, and all that is stored for it, against the lines that it shall have.
func check(t testing.TB, l *ledger.Ledger, m *storetest.Memory, s store.Sealer, want [][]byte) {
	t.Helper()
	if diff := cmp.Diff(asStrings(want), read(t, l, 0)); diff != "" {
		t.Fatalf("entries (-want +got):\n%s", diff)
	}
	if got := l.Size(); got != int64(len(want)) {
		t.Errorf("Size() = %d, want %d", got, len(want))
	}
	if got, want := l.RootHash(), merkle(want); got != want {
		t.Errorf("RootHash() = %x, want %x", got, want)
	}
	key, err := ledger.OpenKey(t.Context(), m, s, origin)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(l.Checkpoint(), note.VerifierList(v))
	if err != nil {
		t.Fatal(err)
	}
	size, root, err := ledger.ParseCheckpoint(n.Text, origin)
	if err != nil || size != l.Size() || root != l.RootHash() {
		t.Errorf("checkpoint %q, %v", n.Text, err)
	}
}

// layout returns the names that a log of n lines has, after C2SP tlog-tiles, and nothing else but its newest commit.
func layout(n int) []string {
	names := []string{"log.key"}
	for level, w := 0, n; w > 0; level, w = level+1, w/256 {
		kinds := []string{fmt.Sprint(level)}
		if level == 0 {
			kinds = append(kinds, "entries")
		}
		for _, kind := range kinds {
			for i := range w / 256 {
				names = append(names, fmt.Sprintf("tile/%s/%03d", kind, i))
			}
			if w%256 > 0 {
				names = append(names, fmt.Sprintf("tile/%s/%03d.p/%d", kind, w/256, w%256))
			}
		}
	}
	slices.Sort(names)
	return names
}

func list(t testing.TB, o store.Objects) []string {
	t.Helper()
	var names []string
	for name, err := range o.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

// stored returns an object as the storage has it.
func stored(t testing.TB, o store.Objects, name string) []byte {
	t.Helper()
	r, err := o.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// replace does what an operator of the storage can do to an object; nil only deletes it.
func replace(t testing.TB, o store.Objects, name string, text []byte) {
	t.Helper()
	if err := o.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if text == nil {
		return
	}
	if err := o.Put(t.Context(), store.Named(name), bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

// copyOf returns a storage with the same objects and head, at version 1 or wherever the staged commit belongs.
func copyOf(t testing.TB, m *storetest.Memory) *storetest.Memory {
	t.Helper()
	c := storetest.New()
	for _, name := range list(t, m) {
		replace(t, c, name, stored(t, m, name))
	}
	version, value, err := m.Load(t.Context())
	if err != nil {
		return c
	}
	setHead(t, c, version, value)
	return c
}

// setHead makes value the head at a version that is not behind the present one's next.
func setHead(t testing.TB, m *storetest.Memory, version uint64, value []byte) {
	t.Helper()
	now, _, _ := m.Load(t.Context())
	for ; now < version; now++ {
		if err := m.Swap(t.Context(), now, value); err != nil {
			t.Fatal(err)
		}
	}
}

// withoutStage leaves out staged commits.
func withoutStage(names []string) (rest []string, staged int) {
	for _, n := range names {
		if strings.HasPrefix(n, "stage/") {
			staged++
		} else {
			rest = append(rest, n)
		}
	}
	return rest, staged
}
