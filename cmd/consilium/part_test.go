package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPart opens the file in which a download grows: one that is new, one that was left, and none that others had a hand in.
func TestPart(t *testing.T) {
	path := filepath.Join(t.TempDir(), ".model.part")
	f, err := openPart(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("half"); err != nil {
		t.Fatal(err)
	}
	if _, err := openPart(path); err == nil || !strings.Contains(err.Error(), "another program downloads into it") {
		t.Errorf("opened twice: %v, want that another program has it", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f, err = openPart(path)
	if err != nil {
		t.Fatal(err)
	}
	if i, err := f.Stat(); err != nil || i.Size() != 4 || i.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v, want the 4 bytes that were left, mode 0600", i, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		spoil func() error
	}{
		{"readable by others", func() error { return os.Chmod(path, 0o640) }},
		{"a link", func() error {
			return errors.Join(os.Chmod(path, 0o600), os.Rename(path, path+".other"), os.Symlink(path+".other", path))
		}},
		{"a folder", func() error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }},
	} {
		if err := test.spoil(); err != nil {
			t.Fatal(err)
		}
		if f, err := openPart(path); err == nil {
			t.Errorf("%s: it was opened", test.name)
			_ = f.Close()
		}
		_ = os.Chmod(path, 0o600)
	}
}
