package ledger_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"consilium.dev/internal/ledger"
	"consilium.dev/internal/store/storetest"
)

func TestEmpty(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	l := open(t, m, s)
	check(t, l, m, s, nil)
	if err := l.Append(t.Context()); err != nil {
		t.Errorf("Append of nothing = %v", err)
	}
	check(t, open(t, m, s), m, s, nil)
	if got := list(t, m); len(got) != 1 {
		t.Errorf("an empty log has the objects %q, want the key only", got)
	}
}

// TestGrowth grows logs by commits of any size, opens them again at any time, and looks at everything after each step.
func TestGrowth(t *testing.T) {
	s := newSealer(t)
	rapid.Check(t, func(r *rapid.T) {
		m := storetest.New()
		l := open(t, m, s)
		var want [][]byte
		total := rapid.IntRange(1, 600).Draw(r, "total")
		for len(want) < total {
			n := min(total-len(want), rapid.SampledFrom([]int{1, 2, 7, 100, 255, 256, 257, 513}).Draw(r, "commit"))
			lines := numbered(len(want), n)
			want = append(want, lines...)
			appendTo(t, l, lines)
			lines[0][0] = 'x' // the caller's slices are the caller's
			want[len(want)-n] = numbered(len(want)-n, 1)[0]
			if rapid.Bool().Draw(r, "reopen") {
				l = open(t, m, s)
			}
		}
		check(t, l, m, s, want)
		from := rapid.IntRange(0, total).Draw(r, "from")
		if diff := cmp.Diff(asStrings(want[from:]), read(t, l, int64(from))); diff != "" {
			r.Fatalf("entries from %d (-want +got):\n%s", from, diff)
		}
		names, staged := withoutStage(list(t, m))
		if diff := cmp.Diff(layout(total), names); diff != "" || staged != 1 {
			r.Fatalf("%d staged commits, want 1; objects (-want +got):\n%s", staged, diff)
		}
	})
}

// TestEachSize grows a log line by line past its second full bundle.
func TestEachSize(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	l := open(t, m, s)
	want := numbered(0, 600)
	for i := range want {
		appendTo(t, l, want[i:i+1])
		if got := l.RootHash(); got != merkle(want[:i+1]) {
			t.Fatalf("root hash of %d lines is %x", i+1, got)
		}
	}
	check(t, open(t, m, s), m, s, want)
}

// TestSealed checks that the storage reads no line, and that hash tiles are what C2SP tlog-tiles says.
func TestSealed(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	l := open(t, m, s)
	lines := make([][]byte, 300)
	for i := range lines {
		lines[i] = fmt.Appendf(nil, "patient %d", i)
	}
	appendTo(t, l, lines)
	for _, name := range list(t, m) {
		if bytes.Contains(stored(t, m, name), []byte("patient")) {
			t.Errorf("object %s shows a line", name)
		}
	}
	var hashes []byte
	for _, line := range lines {
		h := tlog.RecordHash(line)
		hashes = append(hashes, h[:]...)
	}
	top := merkle(lines[:256])
	for name, want := range map[string][]byte{
		"tile/0/000": hashes[:256*32], "tile/0/001.p/44": hashes[256*32:], "tile/1/000.p/1": top[:],
	} {
		if got := stored(t, m, name); !bytes.Equal(got, want) {
			t.Errorf("%s holds other hashes than those of its entries", name)
		}
	}
}

func TestPath(t *testing.T) {
	for want, got := range map[string]string{
		"tile/0/000": ledger.Path(0, 0, 256), "tile/0/x001/067": ledger.Path(0, 1067, 256),
		"tile/63/x999/x999/999.p/255": ledger.Path(63, 999999999, 255), "tile/entries/x001/x234/067.p/1": ledger.Path(-1, 1234067, 1),
		"tile/entries/x001/000": ledger.Path(-1, 1000, 256),
	} {
		if got != want {
			t.Errorf("path %q, want %q", got, want)
		}
	}
}

func TestLimits(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	l := open(t, m, s)
	large := bytes.Repeat([]byte("x"), 1<<20)
	many := make([][]byte, 65)
	for i := range many {
		many[i] = large
	}
	for what, lines := range map[string][][]byte{
		"empty line": {[]byte("a"), {}}, "newline": {[]byte("a\nb")}, "large": {append(large[:1<<20:1<<20], 'x')},
		"many lines": numbered(0, 4097), "many bytes": many,
	} {
		if err := l.Append(t.Context(), lines...); err == nil {
			t.Errorf("%s: was taken", what)
		}
	}
	want := append(numbered(0, 4095), large)
	appendTo(t, l, want)
	check(t, open(t, m, s), m, s, want)
}

func TestEntries(t *testing.T) {
	m, s := storetest.New(), newSealer(t)
	l := open(t, m, s)
	appendTo(t, l, numbered(0, 700))
	for _, from := range []int64{-1, 701, 1 << 62} {
		for line, err := range l.Entries(t.Context(), from) {
			if err == nil {
				t.Errorf("Entries(%d) yields %q", from, line)
			}
		}
	}
	n := 0
	for _, err := range l.Entries(t.Context(), 250) {
		if n++; err != nil || n == 300 {
			break
		}
	}
	if n != 300 {
		t.Errorf("yielded %d lines after the caller had stopped at 300", n)
	}
}

func TestKey(t *testing.T) {
	m, s, ctx := storetest.New(), newSealer(t), t.Context()
	keys := make([]*ledger.Key, 8)
	var wg sync.WaitGroup
	for i := range keys { // coordinators that boot for the first time together
		wg.Go(func() {
			var err error
			if keys[i], err = ledger.OpenKey(ctx, m, s, origin); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	for _, k := range keys {
		if k.Verifier() != keys[0].Verifier() || !bytes.Equal(k.SPKI(), keys[0].SPKI()) || k.Origin() != origin {
			t.Errorf("two keys: %s and %s", k.Verifier(), keys[0].Verifier())
		}
	}
	public, err := x509.ParsePKIXPublicKey(keys[0].SPKI())
	if k, ok := public.(ed25519.PublicKey); !ok || len(k) != ed25519.PublicKeySize {
		t.Errorf("SPKI holds %T, %v", public, err)
	}
	if _, err := ledger.OpenKey(ctx, m, s, "consilium.dev/other"); err == nil || !strings.Contains(err.Error(), "log.key") {
		t.Errorf("another log's key = %v", err)
	}
	if _, err := ledger.OpenKey(ctx, m, newSealer(t), origin); err == nil || !strings.Contains(err.Error(), "log.key") {
		t.Errorf("another sealer's key = %v", err)
	}
	for _, bad := range []string{"", "a b", "a+b", "a\nb"} {
		if _, err := ledger.OpenKey(ctx, storetest.New(), s, bad); err == nil {
			t.Errorf("origin %q was taken", bad)
		}
	}
}

// TestMissing takes away what a log cannot be made anew without.
func TestMissing(t *testing.T) {
	m, s, ctx := storetest.New(), newSealer(t), t.Context()
	appendTo(t, open(t, m, s), numbered(0, 3))
	if _, err := boot(ctx, m, storetest.New(), s); err == nil || !strings.Contains(err.Error(), "tile/0/000.p/3") {
		t.Errorf("a log without its head = %v", err)
	}
	replace(t, m, "log.key", nil)
	if _, err := boot(ctx, m, m, s); err == nil || !strings.Contains(err.Error(), "log.key") {
		t.Errorf("a log without its key = %v", err)
	}
	if got := list(t, m); got[0] == "log.key" {
		t.Error("a second key was made beside the log")
	}
	if _, err := ledger.Open(ctx, ledger.Config{}); err == nil {
		t.Error("an empty configuration was taken")
	}
}
