package dir_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
	"consilium.dev/internal/store/storetest"
)

func open(t testing.TB, path string) *dir.Dir {
	t.Helper()
	d, err := dir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func put(t testing.TB, d *dir.Dir, name, value string) {
	t.Helper()
	if err := d.Put(t.Context(), store.Named(name), strings.NewReader(value)); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, d *dir.Dir, name string) string {
	t.Helper()
	r, err := d.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	value, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(value)
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t testing.TB) (store.Objects, store.Head) {
		d := open(t, filepath.Join(t.TempDir(), "store"))
		return d, d
	})
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b")
	d := open(t, path)
	put(t, d, "x/y", "value")
	if err := d.Swap(t.Context(), 0, []byte("head")); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(t.Context(), store.Named("z"), strings.NewReader("")); err == nil {
		t.Error("Put after Close succeeded")
	}
	d = open(t, path)
	if got := get(t, d, "x/y"); got != "value" {
		t.Errorf("object holds %q", got)
	}
	if v, value, err := d.Load(t.Context()); v != 1 || string(value) != "head" || err != nil {
		t.Errorf("Load() = %d, %q, %v", v, value, err)
	}
}

func TestSecondOpen(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	_, err := dir.Open(path)
	if !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), path) {
		t.Errorf("second Open = %v, want ErrConflict and the folder's name", err)
	}
	put(t, d, "a", "the first one goes on")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}

func TestStaleTemporaries(t *testing.T) {
	path := t.TempDir()
	open(t, path).Close()
	for _, name := range []string{"1", "999", "of another program"} {
		if err := os.WriteFile(filepath.Join(path, "tmp", name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d := open(t, path)
	put(t, d, "a", "value")
	if left, err := os.ReadDir(filepath.Join(path, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("tmp holds %v, %v", left, err)
	}
}

func TestPermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "outer", "store")
	d := open(t, path)
	put(t, d, "a/b/c", "value")
	if err := d.Swap(t.Context(), 0, []byte("head")); err != nil {
		t.Fatal(err)
	}
	files := 0
	err := filepath.WalkDir(filepath.Dir(path), func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		} else {
			files++
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s has mode %o, want %o", p, got, want)
		}
		return nil
	})
	if err != nil || files != 3 {
		t.Errorf("walked over %d files, %v; want lock, object and head", files, err)
	}
}

// TestLinksOut checks that a symbolic link in the folder leads nowhere else.
func TestLinksOut(t *testing.T) {
	outside, path := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := open(t, path)
	if err := os.Symlink(outside, filepath.Join(path, "objects", "out")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Get(t.Context(), "out/secret"); err == nil {
		t.Error("Get followed a symbolic link out of the folder")
	}
	if err := d.Put(t.Context(), store.Named("out/new"), strings.NewReader("x")); err == nil {
		t.Error("Put followed a symbolic link out of the folder")
	}
	if err := d.Delete(t.Context(), "out/secret"); err == nil {
		t.Error("Delete followed a symbolic link out of the folder")
	}
	if got, err := os.ReadDir(outside); err != nil || len(got) != 1 {
		t.Errorf("outside: %v, %v", got, err)
	}
}

func TestFolderName(t *testing.T) {
	d := open(t, t.TempDir())
	put(t, d, "a/b", "value")
	if err := d.Put(t.Context(), store.Named("a"), strings.NewReader("x")); err == nil || errors.Is(err, store.ErrExist) {
		t.Errorf("Put under a folder's name = %v, want an error other than ErrExist", err)
	}
	if err := d.Put(t.Context(), store.Named("a/b/c"), strings.NewReader("x")); err == nil {
		t.Error("Put below an object succeeded")
	}
	if got := get(t, d, "a/b"); got != "value" {
		t.Errorf("object holds %q", got)
	}
}

// TestSleeper has a writer look at the head, sleep while others make so many versions that its own was pruned, and go on.
func TestSleeper(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	const swaps = 1010
	for i := range uint64(swaps) {
		if i < swaps-2 { // as earlier swaps would have left them
			name := fmt.Sprintf("%020d", i+1)
			if err := os.WriteFile(filepath.Join(path, "head", name), fmt.Append(nil, i+1), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if err := d.Swap(t.Context(), i, fmt.Append(nil, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(filepath.Join(path, "head"))
	if err != nil || len(left) != 1001 {
		t.Fatalf("%d heads are kept, %v; want the newest and 1000 behind it", len(left), err)
	}
	for _, version := range []uint64{2, 500, swaps} {
		if err := d.LinkHead(t.Context(), version, []byte("sleeper")); !errors.Is(err, store.ErrConflict) {
			t.Errorf("making version %d after %d = %v, want ErrConflict", version, swaps, err)
		}
	}
	if v, value, err := d.Load(t.Context()); v != swaps || string(value) != fmt.Sprint(swaps) || err != nil {
		t.Errorf("Load() = %d, %q, %v, want the head that was swapped in last", v, value, err)
	}
}

// TestForeignHeads checks that only whole version numbers count as heads, and that one too large is refused.
func TestForeignHeads(t *testing.T) {
	path := t.TempDir()
	d := open(t, path)
	if err := d.Swap(t.Context(), 0, []byte("head")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"2", "00000000000000000002~", "99999999999999999999", "-0000000000000000003", "00000000000000000000",
	} {
		if err := os.WriteFile(filepath.Join(path, "head", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if v, value, err := d.Load(t.Context()); v != 1 || string(value) != "head" || err != nil {
		t.Errorf("Load() = %d, %q, %v", v, value, err)
	}
	large := filepath.Join(path, "head", "00000000000000000002")
	if err := os.WriteFile(large, bytes.Repeat([]byte("x"), 64<<10+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "head/00000000000000000002") {
		t.Errorf("Load of a head that is too large = %v, want its name", err)
	}
}
