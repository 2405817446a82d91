package powercut_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/durable"
	"consilium.dev/internal/durable/powercut"
)

// on returns a disk in a new folder, and what changes it.
func on(t *testing.T) (*powercut.Disk, durable.Folder) {
	t.Helper()
	base := t.TempDir()
	root, err := os.OpenRoot(base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	d := powercut.New(base)
	return d, d.At(root)
}

// write makes a file, synced or not.
func write(t *testing.T, f durable.Folder, name, content string, sync bool) {
	t.Helper()
	w, err := f.Create(name, 0o600)
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	if err == nil && sync {
		err = w.Sync()
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// built returns what a state is on a real disk: names with contents, folders with a slash.
func built(t *testing.T, s powercut.State) string {
	t.Helper()
	base := t.TempDir()
	must(t, s.Build(base))
	var all []string
	err := filepath.WalkDir(base, func(path string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(base, path)
		switch {
		case err != nil || name == ".":
			return err
		case e.IsDir():
			all = append(all, name+"/")
			return nil
		}
		text, err := os.ReadFile(path)
		all = append(all, name+"="+strings.ReplaceAll(string(text), "\x00", "0"))
		return err
	})
	must(t, err)
	return strings.Join(all, " ")
}

// TestStates lists every disk that may be found after the last call.
func TestStates(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*testing.T, durable.Folder)
		want []string
	}{
		{"nothing", func(*testing.T, durable.Folder) {}, []string{""}},
		{"written", func(t *testing.T, f durable.Folder) { write(t, f, "a", "xy", false) }, []string{"", "a=", "a=00", "a=x", "a=x0", "a=xy"}},
		{"file synced", func(t *testing.T, f durable.Folder) { write(t, f, "a", "xy", true) }, []string{"", "a=xy"}},
		{"folder synced", func(t *testing.T, f durable.Folder) {
			write(t, f, "a", "xy", false)
			must(t, f.Sync("."))
		}, []string{"a=", "a=00", "a=x", "a=x0", "a=xy"}},
		{"both", func(t *testing.T, f durable.Folder) {
			write(t, f, "a", "xy", true)
			must(t, f.Sync("."))
		}, []string{"a=xy"}},
		{"linked, and removed in any order", func(t *testing.T, f durable.Folder) {
			write(t, f, "a", "x", true)
			must(t, f.Sync("."), f.Link("a", "b"), f.Remove("a"))
		}, []string{"", "a=x", "a=x b=x", "b=x"}},
		{"renamed over another", func(t *testing.T, f durable.Folder) {
			write(t, f, "a", "x", true)
			write(t, f, "b", "y", true)
			must(t, f.Sync("."), f.Rename("b", "a"))
		}, []string{"a=x", "a=x b=y", "a=y", "a=y b=y"}},
		{"in a folder whose name is not synced", func(t *testing.T, f durable.Folder) {
			must(t, f.Mkdir("d"))
			write(t, f, "d/a", "x", true)
			must(t, f.Sync("d"))
		}, []string{"", "d/ d/a=x"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, f := on(t)
			c.do(t, f)
			var got []string
			for s := range d.States(d.Calls()) {
				got = append(got, built(t, s))
			}
			slices.Sort(got)
			if diff := cmp.Diff(got, c.want); diff != "" {
				t.Errorf("- got + want:\n%s", diff)
			}
		})
	}
}

// TestFinds plants faults into the way in which a file takes another one's place: each is found, and the right way has none.
func TestFinds(t *testing.T) {
	for _, c := range []struct {
		name  string
		do    func(*testing.T, durable.Folder)
		fault bool
	}{
		{"right", func(t *testing.T, f durable.Folder) { must(t, durable.ReplaceIn(f, "a", []byte("new"), 0o600)) }, false},
		{"written over", func(t *testing.T, f durable.Folder) {
			must(t, f.Remove("a"))
			write(t, f, "a", "new", true)
			must(t, f.Sync("."))
		}, true},
		{"file not synced", func(t *testing.T, f durable.Folder) {
			write(t, f, "b", "new", false)
			must(t, f.Rename("b", "a"), f.Sync("."))
		}, true},
		{"folder not synced", func(t *testing.T, f durable.Folder) {
			write(t, f, "b", "new", true)
			must(t, f.Rename("b", "a"))
		}, true},
		{"folder synced too early", func(t *testing.T, f durable.Folder) {
			write(t, f, "b", "new", true)
			must(t, f.Sync("."), f.Rename("b", "a"))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, f := on(t)
			write(t, f, "a", "old", true)
			must(t, f.Sync("."))
			from := d.Calls()
			c.do(t, f)
			d.Acknowledge("new")
			found := ""
			for s := range d.States(from) {
				is := built(t, s)
				was := strings.Contains(is, "a=old")
				if !strings.Contains(is, "a=new") && (!was || slices.Contains(s.Acknowledged, "new")) {
					found = s.String() + ": " + is
				}
			}
			if (found != "") != c.fault {
				t.Errorf("a fault: %v, found %q", c.fault, found)
			}
		})
	}
}

// TestKill: from the call on at which a process is killed it changes nothing, and the next one does.
func TestKill(t *testing.T) {
	d, f := on(t)
	d.Kill(1)
	must(t, f.Mkdir("a"))
	d.Acknowledge("a")
	for _, err := range []error{f.Mkdir("b"), f.Remove("a"), f.Sync(".")} {
		if !errors.Is(err, powercut.ErrKilled) {
			t.Errorf("a call of a dead process: %v, want %v", err, powercut.ErrKilled)
		}
	}
	d.Acknowledge("nobody hears it")
	if !d.Revive() || d.Revive() {
		t.Error("it was killed once, and is said to have been killed never or twice")
	}
	must(t, f.Mkdir("b"))
	var got []string
	for s := range d.States(d.Calls()) {
		got = append(got, built(t, s)+" after "+s.After+" "+strings.Join(s.Acknowledged, ","))
	}
	slices.Sort(got)
	want := []string{" after mkdir b a", "a/ after mkdir b a", "a/ b/ after mkdir b a", "b/ after mkdir b a"}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("- got + want:\n%s", diff)
	}
}
