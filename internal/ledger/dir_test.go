package ledger_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
)

// TestDir runs a log over a folder, with a second coordinator in between.
func TestDir(t *testing.T) {
	path, s := t.TempDir(), newSealer(t)
	var want []string
	for i := range 4 {
		d, err := dir.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := boot(t.Context(), d, d, s)
		if err != nil {
			t.Fatal(err)
		}
		lines := numbered(len(want), 90)
		want = append(want, asStrings(lines)...)
		appendTo(t, l, lines)
		if _, err := dir.Open(path); !errors.Is(err, store.ErrConflict) {
			t.Errorf("second coordinator = %v, want ErrConflict", err)
		}
		if diff := cmp.Diff(want, read(t, l, 0)); diff != "" {
			t.Errorf("boot %d: entries (-want +got):\n%s", i, diff)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	torn := filepath.Join(path, "objects", "tile", "entries", "000")
	if err := os.Truncate(torn, 1000); err != nil {
		t.Fatal(err)
	}
	d, err := dir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := boot(t.Context(), d, d, s); err == nil || !strings.Contains(err.Error(), "tile/entries/000") {
		t.Errorf("a torn bundle = %v, want its name", err)
	}
}
