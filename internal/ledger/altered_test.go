package ledger_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

// positions returns where an object is altered: everywhere in a small one, at 40 places in a large one.
func positions(n int) []int {
	var all []int
	for i := 0; i < n; i += max(1, n/40) {
		all = append(all, i)
	}
	return append(all, n-1)
}

// TestAlteredObjects flips bits in each stored object, cuts it, and takes it away. Open names the object.
func TestAlteredObjects(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	l := open(t, m, s)
	appendTo(t, l, numbered(0, 600))
	appendTo(t, l, numbered(600, 3))
	newest := []string{"tile/0/002.p/91", "tile/entries/002.p/91"} // of the newest commit: laid out anew when lost
	for _, name := range list(t, m) {
		good := stored(t, m, name)
		refused := func(what string, text []byte) {
			t.Helper()
			replace(t, m, name, text)
			if _, err := boot(t.Context(), m, m, s); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%s, %s: Open = %v, want an error with its name", name, what, err)
			}
		}
		for _, i := range positions(len(good)) {
			altered := bytes.Clone(good)
			altered[i] ^= 1 << (i % 8)
			refused(fmt.Sprintf("byte %d flipped", i), altered)
			refused(fmt.Sprintf("cut at %d", i), good[:i])
		}
		refused("a byte added", append(bytes.Clone(good), '\n'))
		if name == newest[0] || name == newest[1] {
			replace(t, m, name, nil)
			check(t, open(t, m, s), m, s, numbered(0, 603))
		} else {
			refused("lost", nil)
		}
		replace(t, m, name, good)
	}
	check(t, open(t, m, s), m, s, numbered(0, 603))
}

func TestAlteredHead(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	appendTo(t, open(t, m, s), numbered(0, 3))
	version, good, err := m.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	objects := copyOf(t, m)
	refused := func(what string, value []byte) {
		t.Helper()
		head := storetest.New()
		setHead(t, head, version, value)
		if _, err := boot(t.Context(), objects, head, s); err == nil {
			t.Errorf("%s: was taken", what)
		}
	}
	for i := range good {
		for bit := range 8 {
			altered := bytes.Clone(good)
			altered[i] ^= 1 << bit
			refused(fmt.Sprintf("bit %d of byte %d flipped", bit, i), altered)
		}
		refused(fmt.Sprintf("cut at %d", i), good[:i])
	}
	staged, _, _ := bytes.Cut(good, []byte("\n"))
	other := open(t, storetest.New(), s).Checkpoint() // of another key
	refused("a checkpoint by another key", append(append(bytes.Clone(staged), '\n'), other...))
	refused("a byte added", append(bytes.Clone(good), '\n'))
	refused("an unknown signature added", append(bytes.Clone(good), "— other AAAAAAAA\n"...))
	head := storetest.New()
	setHead(t, head, version+1, good)
	if _, err := boot(t.Context(), objects, head, s); err == nil {
		t.Error("a head of another version was taken")
	}
}

// fork returns two storages of one log whose histories differ in one line.
func fork(t *testing.T, s store.Sealer) (a, b *storetest.Memory) {
	t.Helper()
	a = storetest.New()
	appendTo(t, open(t, a, s), numbered(0, 10))
	b = copyOf(t, a)
	for m, line := range map[*storetest.Memory]string{a: "a", b: "b"} {
		l := open(t, m, s)
		appendTo(t, l, append([][]byte{[]byte(line)}, numbered(11, 300)...))
		appendTo(t, l, numbered(311, 1))
	}
	return a, b
}

// TestMixedHistories puts objects of another history of the same log in place, each of them genuine.
func TestMixedHistories(t *testing.T) {
	s := newSealer(t)
	for _, names := range [][]string{
		{"tile/entries/000"}, {"tile/0/000"}, {"tile/entries/000", "tile/0/000"}, {"tile/entries/000", "tile/0/000", "tile/1/000.p/1"},
	} {
		a, b := fork(t, s)
		for _, name := range names {
			replace(t, a, name, stored(t, b, name))
		}
		if _, err := boot(t.Context(), a, a, s); err == nil {
			t.Errorf("%q of another history was taken", names)
		}
	}
}

// TestSwappedBundles puts a bundle in another one's place: it does not open there.
func TestSwappedBundles(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	l := open(t, m, s)
	appendTo(t, l, numbered(0, 513))
	appendTo(t, l, numbered(513, 1))
	first, second := stored(t, m, "tile/entries/000"), stored(t, m, "tile/entries/001")
	replace(t, m, "tile/entries/000", second)
	replace(t, m, "tile/entries/001", first)
	if _, err := boot(t.Context(), m, m, s); err == nil || !strings.Contains(err.Error(), "tile/entries/000 does not open") {
		t.Errorf("Open = %v, want that tile/entries/000 does not open", err)
	}
}

// TestAlteredWhileOpen changes a bundle after the log was opened.
func TestAlteredWhileOpen(t *testing.T) {
	s := newSealer(t)
	a, b := fork(t, s)
	l := open(t, a, s)
	const name = "tile/entries/000"
	flipped := stored(t, a, name)
	flipped[100] ^= 1
	for what, text := range map[string][]byte{"flipped": flipped, "of another history": stored(t, b, name), "lost": nil} {
		replace(t, a, name, text)
		for line, err := range l.Entries(t.Context(), 0) {
			if err == nil {
				t.Fatalf("%s: line %q was yielded", what, line)
			}
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v does not name %s", what, err, name)
			}
		}
		if got := read(t, l, 256); len(got) != 312-256 {
			t.Errorf("%s: %d lines of the bundle after it, want %d", what, len(got), 312-256)
		}
	}
}
