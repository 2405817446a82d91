package backup_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/backup"
	"consilium.dev/internal/blob/kms/file"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
)

const origin = "consilium.dev/test"

var now = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

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

// opened is a store with its log.
type opened struct {
	*dir.Dir
	log *ledger.Ledger
}

func open(ctx context.Context, path string, s store.Sealer) (*opened, error) {
	d, err := dir.Open(path)
	if err != nil {
		return nil, err
	}
	key, err := ledger.OpenKey(ctx, d, s, origin)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	l, err := ledger.Open(ctx, ledger.Config{Objects: d, Head: d, Sealer: s, Key: key})
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return &opened{d, l}, nil
}

func mustOpen(t testing.TB, path string, s store.Sealer) *opened {
	t.Helper()
	o, err := open(t.Context(), path, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func line(n int64) []byte { return fmt.Appendf(nil, `{"n":%d}`, n) }

// grow appends n numbered lines in commits of at most step.
func (o *opened) grow(ctx context.Context, n, step int64) error {
	for n > 0 {
		var lines [][]byte
		for i := range min(n, step) {
			lines = append(lines, line(o.log.Size()+i))
		}
		if err := o.log.Append(ctx, lines...); err != nil {
			return err
		}
		n -= int64(len(lines))
	}
	return nil
}

// check reads the whole log, and adds to it.
func (o *opened) check(t testing.TB, size int64) {
	t.Helper()
	n := int64(0)
	for text, err := range o.log.Entries(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, line(n)) {
			t.Fatalf("line %d is %q", n, text)
		}
		n++
	}
	if n != size {
		t.Errorf("the log has %d lines, the copy said %d", n, size)
	}
	if err := o.grow(t.Context(), 3, 1); err != nil {
		t.Errorf("the log does not go on: %v", err)
	}
}

func make1(t testing.TB, o backup.Options) backup.Contents {
	t.Helper()
	o.Now = now
	made, err := backup.Make(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func put(t testing.TB, d store.Objects, name, text string) {
	t.Helper()
	if err := d.Put(t.Context(), store.Named(name), strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

// tree returns the files below a folder with their contents, but the lock and what dir keeps empty.
func tree(t testing.TB, path string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(path, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == "lock" {
			return err
		}
		text, err := os.ReadFile(p)
		all[strings.TrimPrefix(p, path+"/")] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestThereAndBack: copies of logs of several sizes say what they hold, and what is put back is the same store.
func TestThereAndBack(t *testing.T) {
	sealer := newSealer(t)
	for _, size := range []int64{1, 256, 700} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			folder := t.TempDir()
			from, to, back := filepath.Join(folder, "store"), filepath.Join(folder, "copy"), filepath.Join(folder, "back")
			s := mustOpen(t, from, sealer)
			if err := s.grow(t.Context(), size, 100); err != nil {
				t.Fatal(err)
			}
			root := s.log.RootHash()
			made := make1(t, backup.Options{Store: from, To: to})
			if made.Origin != origin || made.Size != size || [32]byte(made.Root) != root || !made.Made.Equal(now) || made.Objects < 4 || made.Bytes < 100 {
				t.Errorf("copied %+v, want a log of %d lines with root %x", made, size, root)
			}
			again, err := backup.Restore(t.Context(), to, back)
			if err != nil {
				t.Fatal(err)
			}
			made.Digest = again.Digest
			if diff := cmp.Diff(made, again); diff != "" {
				t.Errorf("restored (-copied +restored):\n%s", diff)
			}
			want, got := tree(t, to), tree(t, back)
			delete(want, "backup")
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("folder (-copy +restored):\n%s", diff)
			}
			mustOpen(t, back, sealer).check(t, size)
		})
	}
}

// TestWhileWritten copies a store again and again while its log grows by commits of every width: each copy is the log at one
// instant, opens, and goes on.
func TestWhileWritten(t *testing.T) {
	sealer, folder := newSealer(t), t.TempDir()
	from := filepath.Join(folder, "store")
	s := mustOpen(t, from, sealer)
	if err := s.grow(t.Context(), 250, 250); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	var wrote error
	writer.Go(func() {
		for ctx.Err() == nil && wrote == nil {
			wrote = s.grow(context.WithoutCancel(ctx), 7, 3)
		}
	})
	var sizes []int64
	base := ""
	for i := range 4 {
		to := filepath.Join(folder, fmt.Sprint("copy", i))
		made := make1(t, backup.Options{Store: from, To: to, Base: base})
		sizes, base = append(sizes, made.Size), to
		back := filepath.Join(folder, fmt.Sprint("back", i))
		if _, err := backup.Restore(t.Context(), to, back); err != nil {
			t.Fatal(err)
		}
		mustOpen(t, back, sealer).check(t, made.Size)
	}
	cancel()
	writer.Wait()
	if wrote != nil {
		t.Errorf("the store that was copied failed its writer: %v", wrote)
	}
	if !slices.IsSorted(sizes) || sizes[0] == sizes[len(sizes)-1] {
		t.Errorf("copied logs of %d lines, want growing ones", sizes)
	}
}

// TestDropped: a blob is dropped, by a line and then by deleting it, before each call that copying makes to the store. Whichever
// instant the copy is of, it has the blob where its log does not say that it is dropped.
func TestDropped(t *testing.T) {
	sealer := newSealer(t)
	for n, reached := 1, true; reached; n++ {
		folder := t.TempDir()
		from, to := filepath.Join(folder, "store"), filepath.Join(folder, "copy")
		s := mustOpen(t, from, sealer)
		sum := sha256.Sum256([]byte("a blob"))
		name := "blob/" + hex.EncodeToString(sum[:1]) + "/" + hex.EncodeToString(sum[:])
		put(t, s, name, "a blob")
		if err := s.grow(t.Context(), 256, 256); err != nil { // whole tiles: the next commit removes none
			t.Fatal(err)
		}
		calls := 0
		made, err := backup.MakeThrough(t.Context(), backup.Options{Store: from, To: to, Now: now}, func() {
			if calls++; calls != n {
				return
			}
			if err := errors.Join(s.grow(t.Context(), 1, 1), s.Delete(t.Context(), name)); err != nil {
				t.Fatal(err)
			}
		})
		if err != nil {
			t.Fatalf("dropped before call %d: %v", n, err)
		}
		reached = calls >= n
		if _, has := tree(t, to)["objects/"+name]; !has && made.Size == 256 {
			t.Errorf("dropped before call %d: the copy is of the log of before, and has no blob", n)
		}
		mustOpen(t, to, sealer).check(t, made.Size)
		s.Close()
	}
}

// TestLaterTiles: what a commit after the head of the copy has laid out does not get into it, or the log could not go on there.
func TestLaterTiles(t *testing.T) {
	sealer, folder := newSealer(t), t.TempDir()
	from, to := filepath.Join(folder, "store"), filepath.Join(folder, "copy")
	s := mustOpen(t, from, sealer)
	if err := s.grow(t.Context(), 10, 10); err != nil {
		t.Fatal(err)
	}
	put(t, s, "tile/entries/000.p/11", "of the next commit")
	put(t, s, "stage/00000000000000000002-"+strings.Repeat("ab", 32), "likewise")
	made := make1(t, backup.Options{Store: from, To: to})
	for name := range tree(t, to) {
		if strings.Contains(name, "p/11") || strings.Contains(name, "abab") {
			t.Errorf("the copy holds %s", name)
		}
	}
	mustOpen(t, to, sealer).check(t, made.Size) // a copy is a store too
}

// TestBase: what has not changed is shared, what has changed under the same name is not.
func TestBase(t *testing.T) {
	folder := t.TempDir()
	from := filepath.Join(folder, "store")
	d, err := dir.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	put(t, d, "kept/a/1", "update")
	put(t, d, "consent/a", "consent to 10 records")
	first := make1(t, backup.Options{Store: from, To: filepath.Join(folder, "1")})
	if first.Version != 0 || first.Size != 0 || first.Objects != 2 || first.Shared != 0 {
		t.Errorf("first copy: %+v", first)
	}
	if err := d.Delete(t.Context(), "consent/a"); err != nil {
		t.Fatal(err)
	}
	put(t, d, "consent/a", "consent to 11 records")
	put(t, d, "consent/b", "new")
	second := make1(t, backup.Options{Store: from, To: filepath.Join(folder, "2"), Base: filepath.Join(folder, "1")})
	if second.Objects != 3 || second.Shared != 1 {
		t.Errorf("second copy: %+v, want 3 objects, 1 of them shared", second)
	}
	if got := tree(t, filepath.Join(folder, "2"))["objects/consent/a"]; got != "consent to 11 records" {
		t.Errorf("second copy has %q", got)
	}
	if got := tree(t, filepath.Join(folder, "1"))["objects/consent/a"]; got != "consent to 10 records" {
		t.Errorf("first copy has now %q", got)
	}
	a, _ := os.Stat(filepath.Join(folder, "1/objects/kept/a/1"))
	b, _ := os.Stat(filepath.Join(folder, "2/objects/kept/a/1"))
	if !os.SameFile(a, b) {
		t.Error("what has not changed takes space twice")
	}
}

// TestRefuses: nothing is written over, and what is refused leaves nothing behind.
func TestRefuses(t *testing.T) {
	folder := t.TempDir()
	from, to := filepath.Join(folder, "store"), filepath.Join(folder, "copy")
	s := mustOpen(t, from, newSealer(t))
	if err := s.grow(t.Context(), 300, 300); err != nil {
		t.Fatal(err)
	}
	make1(t, backup.Options{Store: from, To: to})
	empty, other, lone := filepath.Join(folder, "empty"), filepath.Join(folder, "other"), filepath.Join(folder, "lone")
	if err := errors.Join(os.Mkdir(other, 0o700), os.MkdirAll(lone+"/objects/tile/0", 0o700), os.MkdirAll(lone+"/head", 0o700),
		os.MkdirAll(empty+"/objects", 0o700), os.MkdirAll(empty+"/head", 0o700), os.WriteFile(lone+"/objects/tile/0/000", nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(folder, "x")
	for _, c := range []struct {
		name string
		do   func() error
		is   error
		want string
	}{
		{"copy over a copy", func() error { _, err := backup.Make(t.Context(), backup.Options{Store: from, To: to}); return err }, store.ErrExist, "nothing is written over"},
		{"copy over an empty folder", func() error { _, err := backup.Make(t.Context(), backup.Options{Store: from, To: other}); return err }, store.ErrExist, other},
		{"restore over a store", func() error { _, err := backup.Restore(t.Context(), to, from); return err }, store.ErrExist, "nothing is written over"},
		{"no store", func() error {
			_, err := backup.Make(t.Context(), backup.Options{Store: folder + "/none", To: target})
			return err
		}, os.ErrNotExist, "none"},
		{"another folder", func() error { _, err := backup.Make(t.Context(), backup.Options{Store: other, To: target}); return err }, store.ErrNotExist, "is no store"},
		{"empty store", func() error { _, err := backup.Make(t.Context(), backup.Options{Store: empty, To: target}); return err }, store.ErrNotExist, "holds nothing yet"},
		{"log without a head", func() error { _, err := backup.Make(t.Context(), backup.Options{Store: lone, To: target}); return err }, store.ErrNotExist, "head of the log to which object tile/0/000"},
		{"base that is none", func() error {
			_, err := backup.Make(t.Context(), backup.Options{Store: from, To: target, Base: from})
			return err
		}, store.ErrNotExist, "not finished"},
		{"restore of a store", func() error { _, err := backup.Restore(t.Context(), from, target); return err }, store.ErrNotExist, "no copy"},
		{"interrupted", func() error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := backup.Make(ctx, backup.Options{Store: from, To: target})
			return err
		}, context.Canceled, ""},
	} {
		if err := c.do(); !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %v with %q", c.name, err, c.is, c.want)
		}
		if left, _ := filepath.Glob(target + "*"); len(left) > 0 {
			t.Errorf("%s: left %q", c.name, left)
		}
	}
}

// TestDamaged: a copy of which any file was altered, cut off, lost or added to the list is not put back, and the file is named.
func TestDamaged(t *testing.T) {
	folder := t.TempDir()
	from, to := filepath.Join(folder, "store"), filepath.Join(folder, "copy")
	s := mustOpen(t, from, newSealer(t))
	if err := s.grow(t.Context(), 300, 150); err != nil {
		t.Fatal(err)
	}
	make1(t, backup.Options{Store: from, To: to})
	for name, text := range tree(t, to) {
		path := filepath.Join(to, name)
		for what, do := range map[string]func() error{
			"altered": func() error { return os.WriteFile(path, []byte(text[:len(text)/2]+"~"+text[len(text)/2+1:]), 0o600) },
			"cut off": func() error { return os.WriteFile(path, []byte(text[:len(text)-1]), 0o600) },
			"longer":  func() error { return os.WriteFile(path, []byte(text+"x"), 0o600) },
			"lost":    func() error { return os.Remove(path) },
		} {
			if err := do(); err != nil {
				t.Fatal(err)
			}
			_, err := backup.Restore(t.Context(), to, filepath.Join(folder, "back"))
			if err == nil || !strings.Contains(err.Error(), to) {
				t.Errorf("%s %s: Restore = %v, want an error with the copy's name", name, what, err)
			}
			os.RemoveAll(filepath.Join(folder, "back"))
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := backup.Restore(t.Context(), to, filepath.Join(folder, "back")); err != nil {
		t.Errorf("the copy itself: %v", err)
	}
}

// TestDamagedStore: what is damaged in the store itself is named, and no copy is made of it.
func TestDamagedStore(t *testing.T) {
	folder := t.TempDir()
	from := filepath.Join(folder, "store")
	s := mustOpen(t, from, newSealer(t))
	if err := s.grow(t.Context(), 300, 150); err != nil {
		t.Fatal(err)
	}
	name := "blob/ab/" + strings.Repeat("ab", 32)
	put(t, s, name, "not what its name says")
	if _, err := backup.Make(t.Context(), backup.Options{Store: from, To: filepath.Join(folder, "x")}); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("Make = %v, want an error with %s", err, name)
	}
	if err := s.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "objects/tile/0/000"), make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Make(t.Context(), backup.Options{Store: from, To: filepath.Join(folder, "x")}); err == nil || !strings.Contains(err.Error(), "of another history") && !strings.Contains(err.Error(), "tile/") {
		t.Errorf("Make = %v, want an error that says that the tree does not fit", err)
	}
}

// FuzzContents: a list has one spelling.
func FuzzContents(f *testing.F) {
	folder := f.TempDir()
	from, to := filepath.Join(folder, "store"), filepath.Join(folder, "copy")
	s := mustOpen(f, from, newSealer(f))
	if err := s.grow(f.Context(), 3, 3); err != nil {
		f.Fatal(err)
	}
	make1(f, backup.Options{Store: from, To: to})
	text, err := os.ReadFile(filepath.Join(to, "backup"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(text[:len(text)-10])
	f.Add([]byte("consilium.backup/1\n{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if again, err := backup.RecodeContents(text); err == nil && !bytes.Equal(again, text) {
			t.Errorf("%q is read and written as %q", text, again)
		}
	})
}
