package audit_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium.dev/internal/audit"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/witness"
)

// coordinator is what a copy is made from; it says what its functions make of the truth.
type coordinator struct {
	c     *copied
	lines func(n int64, line []byte) ([]byte, error)
	kept  func(n int64, text []byte) ([]byte, error)
}

func (s *coordinator) Entries(_ context.Context, from, size int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for n := from; n < size; n++ {
			line := s.c.lines[n]
			if s.lines != nil {
				var err error
				if line, err = s.lines(n, line); err != nil {
					yield(nil, err)
					return
				}
			}
			if line != nil && !yield(line, nil) {
				return
			}
		}
	}
}

func (s *coordinator) Kept(_ context.Context, n int64) ([]byte, error) {
	if s.kept != nil {
		return s.kept(n, s.c.kept[int(n)])
	}
	return s.c.kept[int(n)], nil
}

func (s *coordinator) Manifest(context.Context, uint64) ([]byte, error) {
	return nil, errors.New("this coordinator knows one manifest, and serves none")
}

func export(t *testing.T, s *coordinator, dir string, seen func(int64)) error {
	t.Helper()
	m, err := manifest.Load(s.c.manifest, manifest.Anchor{Digest: options(t).Anchor})
	if err != nil {
		t.Fatal(err)
	}
	point, err := ledger.OpenCheckpoint(s.c.checkpoint, logKey)
	if err != nil {
		t.Fatal(err)
	}
	return audit.Export(t.Context(), s, m, witness.Cosigned{Checkpoint: string(s.c.checkpoint)}, point, dir, seen)
}

// TestExport makes the same copy again, file by file.
func TestExport(t *testing.T) {
	c := committed(t)
	dir := filepath.Join(t.TempDir(), "new", "copy")
	var told []int64
	if err := export(t, &coordinator{c: c}, dir, func(n int64) { told = append(told, n) }); err != nil {
		t.Fatal(err)
	}
	if found := judged(t, dir); len(found) != 0 {
		t.Errorf("found in a copy: %q", found)
	}
	if err := filepath.WalkDir(filepath.Join("testdata", "history"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, filepath.Join("testdata", "history"))
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, readFile(t, "history", name)) {
			t.Errorf("%s is another file in the copy: %v", name, err)
		}
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %v, %v, want 0600", name, info.Mode(), err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(told) != len(c.lines) || told[114] != 114 {
		t.Errorf("told of the lines %v", told)
	}
	if err := export(t, &coordinator{c: c}, dir, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second copy into the same folder: %v, want %v", err, fs.ErrExist)
	}
	if found := judged(t, dir); len(found) != 0 {
		t.Errorf("found in a copy after another was refused: %q", found)
	}
}

// TestExportUnfinished makes copies from coordinators that lie, or fail half-way. None has a checkpoint, and none is judged.
func TestExportUnfinished(t *testing.T) {
	cut := errors.New("the line was cut")
	for _, test := range []struct {
		name  string
		lines func(n int64, line []byte) ([]byte, error)
		kept  func(n int64, text []byte) ([]byte, error)
	}{
		{name: "another line", lines: func(n int64, line []byte) ([]byte, error) {
			if n == 40 {
				return bytes.Replace(line, []byte("round"), []byte("Round"), 1), nil
			}
			return line, nil
		}},
		{name: "another fact", lines: func(n int64, line []byte) ([]byte, error) {
			if n == 61 {
				return bytes.Replace(line, []byte(`"records":199`), []byte(`"records":198`), 1), nil
			}
			return line, nil
		}},
		{name: "a line less", lines: func(n int64, line []byte) ([]byte, error) {
			if n == 114 {
				return nil, nil
			}
			return line, nil
		}},
		{name: "cut off", lines: func(n int64, line []byte) ([]byte, error) {
			if n == 57 {
				return nil, cut
			}
			return line, nil
		}},
		{name: "evidence cut off", kept: func(n int64, text []byte) ([]byte, error) {
			if n == 31 {
				return nil, cut
			}
			return text, nil
		}},
		{name: "other evidence", kept: func(n int64, text []byte) ([]byte, error) {
			if n == 31 {
				return append(text, ' '), nil
			}
			return text, nil
		}},
		{name: "endless evidence", kept: func(_ int64, text []byte) ([]byte, error) { return make([]byte, 16<<20), nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			err := export(t, &coordinator{committed(t), test.lines, test.kept}, dir, nil)
			if err == nil {
				t.Fatal("the copy was made")
			}
			if cutOff := strings.HasSuffix(test.name, "cut off"); cutOff != errors.Is(err, cut) {
				t.Errorf("Export = %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, "checkpoint")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the checkpoint of an unfinished copy: %v", err)
			}
			found := judged(t, dir)
			if len(found) != 1 || !strings.HasPrefix(found[0], "-1: without its checkpoint a copy is not whole") {
				t.Errorf("judged an unfinished copy: %q", found)
			}
		})
	}
}

func TestExportIntoFolderInUse(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, []byte("mine"), dir, "notes.txt")
	if err := export(t, &coordinator{c: committed(t)}, dir, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Export = %v, want %v", err, fs.ErrExist)
	}
	all, err := os.ReadDir(dir)
	if err != nil || len(all) != 1 {
		t.Errorf("left %v, %v beside somebody's file", all, err)
	}
}
