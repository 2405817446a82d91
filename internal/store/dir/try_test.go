package dir_test

import (
	"os"
	"path/filepath"
	"testing"

	"consilium.dev/internal/store/dir"
)

// TestTry tries a store's folder that is not made yet, one that is open in another process, and one that cannot be. Nothing stays.
func TestTry(t *testing.T) {
	above := t.TempDir()
	path := filepath.Join(above, "deep", "store")
	got, err := dir.Try(path)
	if err != nil || got.Made || got.Folder != above || got.Free <= 0 {
		t.Errorf("before the folder is made: %+v, %v, want free space in %s", got, err, above)
	}
	if left, err := os.ReadDir(above); err != nil || len(left) != 0 {
		t.Errorf("%v is left of a trial, %v", left, err)
	}
	d, err := dir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if got, err = dir.Try(path); err != nil || !got.Made || got.Folder != path || got.Shared {
		t.Errorf("beside an open store: %+v, %v", got, err)
	}
	if left, err := os.ReadDir(filepath.Join(path, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("%v is left of a trial, %v", left, err)
	}
	if err := os.Chmod(path, 0o750); err != nil {
		t.Fatal(err)
	}
	if got, err = dir.Try(path); err != nil || !got.Shared {
		t.Errorf("a folder that its group may enter: %+v, %v, want it said", got, err)
	}
	file := filepath.Join(above, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []string{file, filepath.Join(file, "store")} {
		if got, err := dir.Try(wrong); err == nil {
			t.Errorf("%s: %+v, want an error", wrong, got)
		}
	}
}
