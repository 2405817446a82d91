package file_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"consilium.dev/internal/blob/kms/file"
	"consilium.dev/internal/store"
)

func TestKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek.json")
	if err := file.Create(path); err != nil {
		t.Fatal(err)
	}
	key, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := key.Seal([]byte("text"), []byte("ad"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := file.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := again.Open(sealed, []byte("ad")); err != nil || string(text) != "text" {
		t.Errorf("Open = %q, %v", text, err)
	}
	if _, err := again.Open(sealed, []byte("other")); err == nil {
		t.Error("Open with other associated data succeeded")
	}
	for i := range sealed {
		altered := bytes.Clone(sealed)
		altered[i] ^= 1
		if _, err := again.Open(altered, []byte("ad")); err == nil {
			t.Errorf("Open with byte %d flipped succeeded", i)
		}
	}
}

func TestCreateOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kek.json")
	if err := file.Create(path); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Create(path); !errors.Is(err, store.ErrExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("second Create = %v, want ErrExist and the file's name", err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("second Create changed the key: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("the folder holds %v, %v; want the key file only", left, err)
	}
}

func TestPermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "kek.json")
	if err := file.Create(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	for mode, fine := range map[os.FileMode]bool{
		0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o620: false, 0o602: false, 0o610: false,
	} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := file.Open(path)
		if fine != (err == nil) {
			t.Errorf("Open of a file of mode %o = %v", mode, err)
		}
		if err != nil && !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("%q does not say what to do", err)
		}
	}
}

func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := file.Open(filepath.Join(dir, "none")); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("Open of no file = %v, want ErrNotExist", err)
	}
	if _, err := file.Open(dir); err == nil {
		t.Error("Open of a folder succeeded")
	}
	good := filepath.Join(dir, "good")
	if err := file.Create(good); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{
		"empty": {}, "word": []byte("secret"), "half": text[:len(text)/2], "no keys": []byte("{}"),
		"large":      append(bytes.Clone(text), bytes.Repeat([]byte(" "), 64<<10)...),
		"other kind": []byte(strings.Replace(string(text), "AesGcmKey", "AesCmacKey", 1)),
	}
	for name, text := range bad {
		path := filepath.Join(dir, "bad")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := file.Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: Open = %v, want an error with the file's name", name, err)
		}
	}
}
