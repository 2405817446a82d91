package keyring_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"consilium.dev/internal/blob/kms/file"
	"consilium.dev/internal/keyring"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

// newKey makes a key-encryption key in a file, that is called so.
func newKey(t testing.TB, uri string) keyring.Key {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kek")
	if err := file.Create(path); err != nil {
		t.Fatal(err)
	}
	k, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return keyring.Key{URI: uri, AEAD: k, Old: k.Handle()}
}

func mustOpen(t testing.TB, c keyring.Config) *keyring.Ring {
	t.Helper()
	r, err := keyring.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func seal(t testing.TB, s store.Sealer, text string) []byte {
	t.Helper()
	sealed, err := s.Seal([]byte(text), []byte("ad"))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func opens(t testing.TB, s store.Sealer, sealed []byte, want string) {
	t.Helper()
	if got, err := s.Open(sealed, []byte("ad")); err != nil || string(got) != want {
		t.Errorf("Open = %q, %v, want %q", got, err, want)
	}
}

func names(t testing.TB, m *storetest.Memory) []string {
	t.Helper()
	var all []string
	for name, err := range m.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name)
	}
	return all
}

func stored(t testing.TB, m *storetest.Memory, name string) []byte {
	t.Helper()
	r, err := m.Get(t.Context(), name)
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

func put(t testing.TB, m *storetest.Memory, name string, text []byte) {
	t.Helper()
	if err := m.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := m.Put(t.Context(), store.Named(name), bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

const (
	first  = "keyring/00000000000000000001"
	second = "keyring/00000000000000000002"
)

// TestRewrap: what was sealed before opens afterwards, with the new key-encryption key alone, and with the old one nothing does.
func TestRewrap(t *testing.T) {
	m := storetest.New()
	a, b := newKey(t, "file:a"), newKey(t, "file:b")
	a.Unwraps, b.Unwraps = "who reads a", "who reads b"
	ring := mustOpen(t, keyring.Config{Objects: m, Key: a})
	if again := mustOpen(t, keyring.Config{Objects: m, Key: a}); ring.Unwraps() != a.Unwraps || again.Unwraps() != a.Unwraps {
		t.Errorf("the ring is opened by %q, and again by %q", ring.Unwraps(), again.Unwraps())
	}
	one := seal(t, ring, "one")
	opens(t, mustOpen(t, keyring.Config{Objects: m, Key: a}), one, "one")
	old := stored(t, m, first)
	if err := ring.Rewrap(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	opens(t, ring, one, "one")
	two := seal(t, ring, "two")
	if got := names(t, m); !slices.Equal(got, []string{second}) || ring.URI() != "file:b" || ring.Unwraps() != b.Unwraps {
		t.Errorf("the store holds %q, the ring rests under %s", got, ring.URI())
	}
	again := mustOpen(t, keyring.Config{Objects: m, Key: b})
	opens(t, again, one, "one")
	opens(t, again, two, "two")
	_, err := keyring.Open(t.Context(), keyring.Config{Objects: m, Key: a})
	if !errors.Is(err, keyring.ErrKey) || !strings.Contains(err.Error(), `it takes "file:b"`) {
		t.Errorf("Open with the old key = %v, want ErrKey and the key that it takes", err)
	}
	// Whoever kept the old ring and has the old key opens what was sealed before, and nothing that was sealed since.
	kept := storetest.New()
	put(t, kept, first, old)
	stale := mustOpen(t, keyring.Config{Objects: kept, Key: a})
	opens(t, stale, one, "one")
	if text, err := stale.Open(two, []byte("ad")); err == nil {
		t.Errorf("an old ring opens %q, which was sealed after the change", text)
	}
	// Under the same key once more, as where a service has turned its key over.
	if err := again.Rewrap(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	opens(t, mustOpen(t, keyring.Config{Objects: m, Key: b}), two, "two")
}

// TestPrevious: a ring under the previous key is rewrapped at a boot; once it is, the previous key is not asked any more.
func TestPrevious(t *testing.T) {
	m := storetest.New()
	a, b := newKey(t, "file:a"), newKey(t, "file:b")
	one := seal(t, mustOpen(t, keyring.Config{Objects: m, Key: a}), "one")
	for range 2 {
		opens(t, mustOpen(t, keyring.Config{Objects: m, Key: b, Previous: a}), one, "one")
		if got := names(t, m); !slices.Equal(got, []string{second}) {
			t.Errorf("the store holds %q, want one ring, rewrapped once", got)
		}
	}
	opens(t, mustOpen(t, keyring.Config{Objects: m, Key: b}), one, "one")
	c := newKey(t, "file:c")
	if _, err := keyring.Open(t.Context(), keyring.Config{Objects: m, Key: c, Previous: a}); !errors.Is(err, keyring.ErrKey) {
		t.Errorf("Open with two wrong keys = %v, want ErrKey", err)
	}
}

// TestFaults fails every call of making and of rewrapping a ring, before and after its effect, and then boots: with the keys that
// the configuration names then, all is readable, and one ring is left, under the new key.
func TestFaults(t *testing.T) {
	a, b := newKey(t, "file:a"), newKey(t, "file:b")
	points := 0
	for _, effect := range []storetest.Effect{storetest.Before, storetest.After} {
		for n := 1; ; n++ {
			m := storetest.New()
			m.FailFrom(n, effect)
			ring, err := keyring.Open(t.Context(), keyring.Config{Objects: m, Key: a})
			made := m.Calls()
			var one, two []byte
			if err == nil {
				one = seal(t, ring, "one")
				if err = ring.Rewrap(t.Context(), b); err == nil || made < n {
					two = seal(t, ring, "two") // it goes on, with the old or the new keys
				}
			}
			calls := m.Calls()
			m.Heal()
			after, openErr := keyring.Open(t.Context(), keyring.Config{Objects: m, Key: b, Previous: a})
			if openErr != nil {
				t.Fatalf("%s call %d (%v): the boot = %v", effect, n, err, openErr)
			}
			if one != nil {
				opens(t, after, one, "one")
			}
			if two != nil {
				opens(t, after, two, "two")
			}
			if got := names(t, m); len(got) != 1 || after.URI() != "file:b" {
				t.Errorf("%s call %d: the store holds %q under %s", effect, n, got, after.URI())
			}
			opens(t, mustOpen(t, keyring.Config{Objects: m, Key: b}), seal(t, after, "three"), "three")
			if calls < n {
				break
			}
			points++
		}
	}
	if points < 12 {
		t.Errorf("tried %d points, want those of making and of rewrapping", points)
	}
}

// TestReappeared: a power failure can bring deleted rings back. Only the newest counts.
func TestReappeared(t *testing.T) {
	m := storetest.New()
	a, b := newKey(t, "file:a"), newKey(t, "file:b")
	ring := mustOpen(t, keyring.Config{Objects: m, Key: a})
	old := stored(t, m, first)
	if err := ring.Rewrap(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	two := seal(t, ring, "two")
	put(t, m, first, old)
	if _, err := keyring.Open(t.Context(), keyring.Config{Objects: m, Key: a}); !errors.Is(err, keyring.ErrKey) {
		t.Errorf("Open with the old key = %v, want ErrKey: the older ring lacks a key", err)
	}
	opens(t, mustOpen(t, keyring.Config{Objects: m, Key: b}), two, "two")
	if got := names(t, m); !slices.Equal(got, []string{second}) {
		t.Errorf("the store holds %q", got)
	}
}

// TestOldStore: a store whose objects were sealed under a key file directly stays readable, also after the file's key was changed.
func TestOldStore(t *testing.T) {
	a, b := newKey(t, "file:a"), newKey(t, "file:b")
	for name, prefix := range map[string]string{"log.key": "", "consent/x": "consilium.sealed/1\n\x00\x40", "kept/x/1": "consilium.sealed/1\n\x00\x40"} {
		m := storetest.New()
		one := seal(t, a.AEAD.(store.Sealer), "one")
		put(t, m, name, append([]byte(prefix), one...))
		if _, err := keyring.Open(t.Context(), keyring.Config{Objects: m, Key: b}); err == nil || !strings.Contains(err.Error(), "keyring is missing") {
			t.Errorf("%s: Open with another key = %v, want that the ring is missing", name, err)
		}
		opens(t, mustOpen(t, keyring.Config{Objects: m, Key: a}), one, "one")
		opens(t, mustOpen(t, keyring.Config{Objects: m, Key: b, Previous: a}), one, "one")
		opens(t, mustOpen(t, keyring.Config{Objects: m, Key: b}), one, "one")
		other := storetest.New() // at once under another key
		put(t, other, name, append([]byte(prefix), one...))
		opens(t, mustOpen(t, keyring.Config{Objects: other, Key: b, Previous: a}), one, "one")
	}
	// A ring that was lost is not made anew.
	m := storetest.New()
	ring := mustOpen(t, keyring.Config{Objects: m, Key: a})
	put(t, m, "log.key", seal(t, ring, "the log's key"))
	if err := m.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Open(t.Context(), keyring.Config{Objects: m, Key: a}); err == nil || !strings.Contains(err.Error(), "object log.key is sealed under one") {
		t.Errorf("Open without the ring = %v, want that it is missing", err)
	}
}

// rewrapped is a store whose ring its owner rewraps just before it is read for the first time.
type rewrapped struct {
	keyring.Reader
	rewrap func()
}

func (r *rewrapped) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	if r.rewrap != nil {
		r.rewrap()
		r.rewrap = nil
	}
	return r.Reader.Get(ctx, name)
}

// TestTry: it says what Open would say, and leaves the store as it is, also where Open would make a ring or rewrap one.
func TestTry(t *testing.T) {
	a, b, none := newKey(t, "file:a"), newKey(t, "file:b"), keyring.Key{}
	empty, made, old, lost := storetest.New(), storetest.New(), storetest.New(), storetest.New()
	ring := mustOpen(t, keyring.Config{Objects: made, Key: a})
	put(t, old, "log.key", seal(t, a.AEAD.(store.Sealer), "sealed directly"))
	put(t, lost, "log.key", seal(t, ring, "sealed under a ring that is gone"))
	for _, c := range []struct {
		name          string
		in            *storetest.Memory
		key, previous keyring.Key
		opened        bool
		want          string // of the error; "ErrKey": that
	}{
		{"empty", empty, a, none, false, ""},
		{"its key", made, a, none, true, ""},
		{"another key", made, b, none, false, "ErrKey"},
		{"the previous key", made, b, a, true, ""},
		{"of before", old, a, none, false, ""},
		{"of before, the previous key", old, b, a, false, ""},
		{"of before, another key", old, b, none, false, "keyring is missing"},
		{"lost", lost, a, none, false, "keyring is missing"},
	} {
		before := names(t, c.in)
		opened, err := keyring.Try(t.Context(), c.in, c.key, c.previous)
		good := err == nil
		switch c.want {
		case "":
		case "ErrKey":
			good = errors.Is(err, keyring.ErrKey)
		default:
			good = err != nil && strings.Contains(err.Error(), c.want)
		}
		if (opened != nil) != c.opened || !good {
			t.Errorf("%s: Try = %v, %v, want a ring: %t, and %q", c.name, opened, err, c.opened, c.want)
		}
		if opened != nil {
			opens(t, opened, seal(t, ring, "sealed under the ring"), "sealed under the ring")
		}
		if after := names(t, c.in); !slices.Equal(before, after) {
			t.Errorf("%s: the store held %q and holds %q", c.name, before, after)
		}
	}
	busy := &rewrapped{made, func() {
		if err := ring.Rewrap(t.Context(), a); err != nil {
			t.Error(err)
		}
	}}
	if opened, err := keyring.Try(t.Context(), busy, a, none); opened == nil || err != nil {
		t.Errorf("while it is rewrapped: Try = %v, %v", opened, err)
	}
}

// TestAltered: each byte of a ring flipped, and each length of it, is refused with its name.
func TestAltered(t *testing.T) {
	m := storetest.New()
	a := newKey(t, "file:a")
	mustOpen(t, keyring.Config{Objects: m, Key: a})
	text := stored(t, m, first)
	for i := range text {
		altered := bytes.Clone(text)
		altered[i] ^= 0x20
		for _, bad := range [][]byte{altered, text[:i]} {
			put(t, m, first, bad)
			if _, err := keyring.Open(t.Context(), keyring.Config{Objects: m, Key: a}); err == nil || !strings.Contains(err.Error(), first) {
				t.Fatalf("byte %d: Open = %v, want an error with the object's name", i, err)
			}
		}
	}
	put(t, m, first, text)
	put(t, m, "keyring/2", text)
	if _, err := keyring.Open(t.Context(), keyring.Config{Objects: m, Key: a}); err == nil || !strings.Contains(err.Error(), "keyring/2") {
		t.Errorf("Open beside a foreign object = %v", err)
	}
}

// absent is a key-encryption key whose service is away, or that seals and does not open.
type absent struct {
	keyring.Key
	seal, open error
}

func (a *absent) EncryptWithContext(ctx context.Context, p, ad []byte) ([]byte, error) {
	if a.seal != nil {
		return nil, a.seal
	}
	return a.AEAD.EncryptWithContext(ctx, p, ad)
}

func (a *absent) DecryptWithContext(ctx context.Context, c, ad []byte) ([]byte, error) {
	if a.open != nil {
		return nil, a.open
	}
	return a.AEAD.DecryptWithContext(ctx, c, ad)
}

// TestOutage: with its service away a ring that is open goes on, and a boot or a change says what is away and changes nothing.
func TestOutage(t *testing.T) {
	m := storetest.New()
	a := newKey(t, "file:a")
	ring := mustOpen(t, keyring.Config{Objects: m, Key: a})
	one := seal(t, ring, "one")
	away := fmt.Errorf("kms: %w", store.ErrUnavailable)
	denied := errors.New("denied")
	for _, c := range []struct {
		key  absent
		want error
	}{{absent{seal: away}, store.ErrUnavailable}, {absent{open: away}, store.ErrUnavailable}, {absent{seal: denied}, denied}, {absent{open: denied}, denied}} {
		c.key.Key = newKey(t, "kms:b")
		b := keyring.Key{URI: "kms:b", AEAD: &c.key}
		if err := ring.Rewrap(t.Context(), b); !errors.Is(err, c.want) || !strings.Contains(err.Error(), "kms:b") {
			t.Errorf("Rewrap = %v, want %v with the key's URI", err, c.want)
		}
		if got := names(t, m); !slices.Equal(got, []string{first}) || ring.URI() != "file:a" {
			t.Errorf("after %v the store holds %q under %s", c.want, got, ring.URI())
		}
		opens(t, ring, one, "one")
	}
	gone := absent{Key: a, open: away}
	_, err := keyring.Open(t.Context(), keyring.Config{Objects: m, Key: keyring.Key{URI: "file:a", AEAD: &gone}})
	if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, keyring.ErrKey) {
		t.Errorf("Open = %v, want ErrUnavailable", err)
	}
}

// TestWhileUsed rewraps a ring again and again under the hands of those who seal and open.
func TestWhileUsed(t *testing.T) {
	m := storetest.New()
	keys := []keyring.Key{newKey(t, "file:a"), newKey(t, "file:b")}
	ring := mustOpen(t, keyring.Config{Objects: m, Key: keys[0]})
	one := seal(t, ring, "one")
	ctx, cancel := context.WithCancel(t.Context())
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for ctx.Err() == nil {
				opens(t, ring, one, "one")
				opens(t, ring, seal(t, ring, "two"), "two")
			}
		})
	}
	for i := range 20 {
		if err := ring.Rewrap(t.Context(), keys[(i+1)%2]); err != nil {
			t.Error(err)
		}
	}
	cancel()
	users.Wait()
}

func FuzzRing(f *testing.F) {
	m := storetest.New()
	a := newKey(f, "file:a")
	if _, err := keyring.Open(f.Context(), keyring.Config{Objects: m, Key: a}); err != nil {
		f.Fatal(err)
	}
	f.Add(stored(f, m, first))
	f.Add([]byte("consilium.keyring/1\n{\"number\":1,\"key\":\"file:a\"}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if uri, err := keyring.URIOf(first, text); err == nil && (uri == "" || !bytes.Contains(text, []byte(`"key":"`))) {
			t.Errorf("URI %q of %q", uri, text)
		}
	})
}
