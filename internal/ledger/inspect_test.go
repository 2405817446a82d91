package ledger_test

import (
	"bytes"
	"slices"
	"testing"

	"consilium.dev/internal/ledger"
	"consilium.dev/internal/store/storetest"
)

// inspect looks at a log as somebody without its keys.
func inspect(t testing.TB, m *storetest.Memory) (ledger.Checkpoint, []string, error) {
	t.Helper()
	version, head, err := m.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return ledger.Inspect(t.Context(), m, version, head)
}

// TestInspect: what a log of any size holds is found whole without its keys, and each object below "tile/" and "stage/" that is
// altered or lost is found out, unless the staged commit has it too.
func TestInspect(t *testing.T) {
	for _, n := range []int{1, 255, 256, 257, 600} {
		m, s := storetest.New(), newSealer(t)
		l := open(t, m, s)
		appendTo(t, l, numbered(0, n/2+1))
		if n > 1 {
			appendTo(t, l, numbered(n/2+1, n-n/2-1))
		}
		c, needed, err := inspect(t, m)
		if err != nil || c.Size != int64(n) || c.Root != l.RootHash() || c.Origin != origin {
			t.Fatalf("Inspect = %+v, %v, want %d lines with root %x", c, err, n, l.RootHash())
		}
		var want []string
		for _, name := range list(t, m) {
			if name != "log.key" {
				want = append(want, name)
			}
		}
		slices.Sort(needed)
		if !slices.Equal(needed, want) {
			t.Errorf("%d lines: needs %q, the log has %q", n, needed, want)
		}
		bundles := 0
		for _, name := range want {
			text := stored(t, m, name)
			altered := bytes.Clone(text)
			altered[len(altered)/2] ^= 1
			replace(t, m, name, altered)
			_, _, err := inspect(t, m)
			if err == nil { // what is sealed is not looked into
				bundles++
			}
			if err := m.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			if _, _, err := inspect(t, m); err == nil && !bytes.Contains(stageOf(t, m), text) {
				t.Errorf("%d lines: %s is lost, and was not missed", n, name)
			}
			replace(t, m, name, text)
		}
		if full := n / 256; bundles > full {
			t.Errorf("%d lines: %d objects were altered and not found out, want the %d full bundles at most", n, bundles, full)
		}
	}
}

// stageOf returns the staged commit, nothing if it is lost.
func stageOf(t testing.TB, m *storetest.Memory) []byte {
	for name := range m.List(t.Context(), "stage/") {
		return stored(t, m, name)
	}
	return nil
}

// TestInspectHead: a head that is none is refused.
func TestInspectHead(t *testing.T) {
	m := storetest.New()
	l := open(t, m, newSealer(t))
	appendTo(t, l, numbered(0, 5))
	version, head, err := m.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string][]byte{
		"empty": nil, "cut off": head[:len(head)/2], "another size": bytes.Replace(head, []byte("\n5\n"), []byte("\n4\n"), 1),
		"no name": head[10:], "huge": bytes.Replace(head, []byte("\n5\n"), []byte("\n9999999999999\n"), 1),
	} {
		if c, _, err := ledger.Inspect(t.Context(), m, version, value); err == nil {
			t.Errorf("%s: Inspect = %+v, want an error", name, c)
		}
	}
	if _, _, err := ledger.Inspect(t.Context(), m, version+1, head); err == nil {
		t.Error("a head of another version passes")
	}
}
