package keyfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"consilium.dev/internal/keyfile"
)

func create(t testing.TB, path, content string) {
	t.Helper()
	if err := keyfile.Create(path, []byte(content)); err != nil {
		t.Fatalf("Create = %v, want no error", err)
	}
}

// names returns what is in a folder.
func names(t testing.TB, dir string) string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var n []string
	for _, e := range all {
		n = append(n, e.Name())
	}
	return strings.Join(n, " ")
}

func TestCreateAndRead(t *testing.T) {
	for name, content := range map[string]string{"text": "secret\n", "empty": "", "largest": strings.Repeat("x", keyfile.MaxSize), "bytes": "\x00\xff\r\n"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "key")
			create(t, path, content)
			info, err := os.Lstat(path)
			if err != nil || info.Mode() != 0o600 {
				t.Errorf("mode = %v, %v, want a regular file of 0600", info.Mode(), err)
			}
			got, err := keyfile.Read(path)
			if err != nil || string(got) != content {
				t.Errorf("Read = %d bytes, %v, want the %d written", len(got), err, len(content))
			}
			if got := names(t, dir); got != "key" {
				t.Errorf("the folder holds %s, want nothing but key", got)
			}
		})
	}
}

// TestCreateNeverReplaces: whatever has the name already stays as it is.
func TestCreateNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	create(t, path, "first")
	for name, make := range map[string]func(string) error{
		"file":          func(p string) error { return os.WriteFile(p, []byte("first"), 0o644) },
		"folder":        func(p string) error { return os.Mkdir(p, 0o700) },
		"link":          func(p string) error { return os.Symlink(path, p) },
		"dangling link": func(p string) error { return os.Symlink(filepath.Join(dir, "nothing"), p) },
		"pipe":          func(p string) error { return syscall.Mkfifo(p, 0o600) },
	} {
		p := filepath.Join(dir, name)
		if err := make(p); err != nil {
			t.Fatal(err)
		}
		before, err := os.Lstat(p)
		if err != nil {
			t.Fatal(err)
		}
		err = keyfile.Create(p, []byte("second"))
		if !errors.Is(err, fs.ErrExist) || err.Error() != "key file "+p+": file already exists" {
			t.Errorf("%s: Create = %v, want %v with the path alone", name, err, fs.ErrExist)
		}
		after, err := os.Lstat(p)
		if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() {
			t.Errorf("%s: became %v, %v, want it left as it was", name, after, err)
		}
	}
	if got, err := keyfile.Read(path); err != nil || string(got) != "first" {
		t.Errorf("the first file holds %q, %v, want what was written first", got, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dangling link was followed: %v", err)
	}
	if got := names(t, dir); got != "dangling link file folder key link pipe" {
		t.Errorf("the folder holds %s, want nothing left over", got)
	}
}

// TestCreateAtOnce: of many that create the same file one succeeds, and the file is whole.
func TestCreateAtOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	const n = 16
	var errs [n]error
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-begin
			errs[i] = keyfile.Create(path, bytes.Repeat([]byte{byte('a' + i)}, 10_000))
		})
	}
	close(begin)
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner < 0:
			winner = i
		case err == nil:
			t.Errorf("%d and %d both created the file", winner, i)
		case !errors.Is(err, fs.ErrExist):
			t.Errorf("%d: Create = %v, want %v", i, err, fs.ErrExist)
		}
	}
	if winner < 0 {
		t.Fatal("nobody created the file")
	}
	if got, err := keyfile.Read(path); err != nil || string(got) != strings.Repeat(string(rune('a'+winner)), 10_000) {
		t.Errorf("the file holds %.10q..., %v, want what the winner wrote", got, err)
	}
	if got := names(t, dir); got != "key" {
		t.Errorf("the folder holds %s, want nothing but key", got)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := keyfile.Create(filepath.Join(dir, "key"), make([]byte, keyfile.MaxSize+1)); err == nil || !strings.Contains(err.Error(), "65537 bytes, at most 65536") {
		t.Errorf("Create of a large file = %v, want an error with its size", err)
	}
	if err := keyfile.Create(filepath.Join(dir, "none", "key"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Create in a folder that is not there = %v, want %v", err, fs.ErrNotExist)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("the folder holds %s, want nothing", got)
	}
}

// TestReadModes reads a file of every mode: its owner's bits do not matter, one bit of anybody else's refuses it.
func TestReadModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	create(t, path, "secret")
	for mode := range fs.FileMode(0o1000) {
		if mode&0o400 == 0 && os.Geteuid() != 0 {
			continue // not even its owner could open it
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		got, err := keyfile.Read(path)
		if open := mode&0o077 == 0; open != (err == nil) || open != (string(got) == "secret") {
			t.Errorf("Read with mode %04o = %q, %v, want it read: %t", mode, got, err, open)
		}
		if want := fmt.Sprintf("mode %04o lets others than its owner use it; make it private with chmod 600", mode); err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Read = %v, want an error with %q", err, want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	large, pipe, folder, dangling := filepath.Join(dir, "large"), filepath.Join(dir, "pipe"), filepath.Join(dir, "folder"), filepath.Join(dir, "dangling")
	if err := os.WriteFile(large, make([]byte, keyfile.MaxSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.Mkdir(folder, 0o700), os.Symlink("nothing", dangling)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		large: "more than 65536 bytes", pipe: "not a regular file", folder: "not a regular file", "/dev/null": "not a regular file",
		dangling: fs.ErrNotExist.Error(), filepath.Join(dir, "none"): fs.ErrNotExist.Error(), filepath.Join(large, "x"): "not a directory",
	} {
		got, err := keyfile.Read(path)
		if err == nil || !strings.HasPrefix(err.Error(), "key file "+path+": ") || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("Read(%s) = %d bytes, %v, want an error with the path and %q", path, len(got), err, want)
		}
		if errors.Is(err, fs.ErrNotExist) != (want == fs.ErrNotExist.Error()) {
			t.Errorf("Read(%s) = %v, want %v: %t", path, err, fs.ErrNotExist, want == fs.ErrNotExist.Error())
		}
	}
}

// TestReadLinks follows links, as a key store that mounts keys makes them, and judges the file that they lead to.
func TestReadLinks(t *testing.T) {
	dir := t.TempDir()
	path, link, hard := filepath.Join(dir, "key"), filepath.Join(dir, "link"), filepath.Join(dir, "hard")
	create(t, path, "secret")
	if err := errors.Join(os.Symlink("key", link), os.Link(path, hard)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{link, hard} {
		if got, err := keyfile.Read(p); err != nil || string(got) != "secret" {
			t.Errorf("Read(%s) = %q, %v, want what is in key", p, got, err)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{link, hard} {
		if _, err := keyfile.Read(p); err == nil || !strings.Contains(err.Error(), "mode 0640") {
			t.Errorf("Read(%s) = %v, want an error with the mode of key", p, err)
		}
	}
}
