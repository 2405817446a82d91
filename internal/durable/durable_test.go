package durable_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"consilium.dev/internal/durable"
	"consilium.dev/internal/durable/powercut"
)

func TestReplace(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	folder := t.TempDir()
	for _, test := range []struct {
		name, content string
		mode          fs.FileMode
	}{{"private", "first", 0o600}, {"private", "second", 0o600}, {"public", "", 0o644}} {
		path := filepath.Join(folder, test.name)
		if err := durable.Replace(path, []byte(test.content), test.mode); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		info, e := os.Stat(path)
		if err != nil || e != nil || string(text) != test.content || info.Mode() != test.mode {
			t.Errorf("%s holds %q with mode %v, %v, %v, want %q and %v", test.name, text, info.Mode(), err, e, test.content, test.mode)
		}
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 2 {
		t.Errorf("the folder holds %v, %v, want the two files", left, err)
	}
	if err := os.Mkdir(filepath.Join(folder, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"taken", "nowhere/file"} {
		if err := durable.Replace(filepath.Join(folder, name), nil, 0o600); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Replace of %s = %v, want an error that names it", name, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(folder, ".*")); err != nil || len(left) != 0 {
		t.Errorf("%v is left over, %v", left, err)
	}
}

// TestReplacePowerCut replaces a file again and again, by processes that are killed, and cuts the power at each call.
func TestReplacePowerCut(t *testing.T) {
	contents := []string{"the first content", "the second content, which is longer", "the third"}
	points, survived := powercut.Trial{
		Twice: true,
		Work: func(d *powercut.Disk, base string) error {
			root, err := os.OpenRoot(base)
			if err != nil {
				return err
			}
			defer root.Close()
			text, _ := os.ReadFile(filepath.Join(base, "file")) // what an earlier process was at is done again
			for i := max(slices.Index(contents, string(text)), 0); i < len(contents); i++ {
				if err := durable.ReplaceIn(d.At(root), "file", []byte(contents[i]), 0o600); err != nil {
					return err
				}
				d.Acknowledge(fmt.Sprint(i))
			}
			return nil
		},
		Judge: func(base string, acknowledged []string) error {
			text, err := os.ReadFile(filepath.Join(base, "file"))
			if err != nil && len(acknowledged) == 0 {
				return nil
			}
			if err != nil {
				return err
			}
			found := slices.Index(contents, string(text))
			if found < 0 {
				return fmt.Errorf("the file holds %q", text)
			}
			// The last that was acknowledged, or the one that was being put in its place.
			last := -1
			if n := len(acknowledged); n > 0 {
				_, err = fmt.Sscan(acknowledged[n-1], &last)
			}
			if last >= 0 && found != last && found != last+1 {
				return fmt.Errorf("the file holds %q, and %q was acknowledged", text, contents[last])
			}
			return err
		},
	}.Run(t)
	t.Logf("crash points %d survived %d", points, survived)
}
