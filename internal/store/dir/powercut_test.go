package dir_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"consilium.dev/internal/durable/powercut"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
)

var cutAll = flag.Bool("powercut", false, "TestPowerCut kills a process at each of its calls before another one meets the power failure, in all chores")

// chore is what a process does with a folder: one thing after another, each acknowledged. It can be done again, by a process that
// finds that an earlier one was at it.
type chore struct {
	name  string
	twice bool // also in the smaller test two processes do it
	do    func(c *worker)
}

// worker does a chore, and acknowledges what it was promised and what it has found.
type worker struct {
	ctx  context.Context
	disk *powercut.Disk
	*dir.Dir
	err error // the first that was met, after which nothing more is done
}

// values are those that a chore stores, by name, in the order in which it does.
var values = map[string][]string{
	"a/b": {"value of a/b"}, "a/c": {"the first value of a/c", "the second of a/c"}, "d": {"value of d"}, "a/e/f": {"value of a/e/f"},
	"keep/1": {"the older one"}, "keep/2": {"the newer one"},
}

var chores = []chore{
	{"first", true, func(c *worker) { c.put("a/b", 0); c.swap(0) }},
	{"heads", false, func(c *worker) { c.swap(0); c.put("d", 0); c.swap(1) }},
	{"another value", false, func(c *worker) { c.put("a/c", 0); c.delete("a/c"); c.put("a/c", 1) }},
	{"one for the other", true, func(c *worker) { c.put("keep/1", 0); c.put("keep/2", 0); c.deleteIf("keep/1", "keep/2") }},
	{"adopted", false, func(c *worker) { c.put("a/e/f", 0); c.put("d", 0); c.adopt() }},
}

// TestPowerCut cuts the power at each call by which the driver changes the disk, and opens each folder that POSIX then allows: with
// what was synced, and any part of what was not. What was acknowledged is there, whole; what was not is there whole or not at
// all. Then a process is killed first, at each of its calls, another one goes on, and the power is cut there; without -powercut
// in two of the chores only.
func TestPowerCut(t *testing.T) {
	points, survived := 0, 0
	for _, c := range chores {
		t.Run(c.name, func(t *testing.T) {
			p, s := powercut.Trial{
				Work:  func(d *powercut.Disk, base string) error { return c.once(t.Context(), d, base) },
				Judge: func(base string, acknowledged []string) error { return judge(t.Context(), storeOf(base), acknowledged) },
				Twice: c.twice || *cutAll,
			}.Run(t)
			points, survived = points+p, survived+s
		})
	}
	t.Logf("crash points %d survived %d", points, survived)
}

// storeOf returns where a chore has its store: in a folder that is made with it.
func storeOf(base string) string { return filepath.Join(base, "outer", "store") }

// once lets one process do a chore.
func (c chore) once(ctx context.Context, disk *powercut.Disk, base string) error {
	d, err := dir.OpenOn(storeOf(base), disk.At)
	if err != nil {
		return err
	}
	w := &worker{ctx: ctx, disk: disk, Dir: d}
	c.do(w)
	return errors.Join(w.err, d.Close())
}

// done notes that something was promised, or why nothing more will be.
func (c *worker) done(what string, err error) {
	if c.err = err; err == nil {
		c.disk.Acknowledge(what)
	}
}

func (c *worker) put(name string, value int) {
	if c.err != nil {
		return
	}
	err := c.Put(c.ctx, store.Named(name), strings.NewReader(values[name][value]))
	if errors.Is(err, store.ErrExist) && len(values[name]) == 1 {
		err = nil // of an earlier process: that is durable now, also before anybody reads it
	} else if errors.Is(err, store.ErrExist) {
		text, err := c.read(name)
		c.done(fmt.Sprintf("have %s %d", name, slices.Index(values[name], text)), err)
		return
	}
	c.done(fmt.Sprintf("have %s %d", name, value), err)
}

func (c *worker) read(name string) (string, error) {
	r, err := c.Get(c.ctx, name)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	return string(text), errors.Join(err, r.Close())
}

func (c *worker) delete(name string) {
	if c.err == nil {
		c.disk.Acknowledge("free " + name)
		c.err = c.Delete(c.ctx, name)
	}
}

// deleteIf deletes an object for which a newer one is found, as a witness does: one of them is there at any time.
func (c *worker) deleteIf(old, newer string) {
	if c.err != nil {
		return
	}
	if _, err := c.read(newer); err != nil {
		c.err = err
		return
	}
	c.disk.Acknowledge("have " + newer + " 0")
	c.delete(old)
}

func (c *worker) swap(old uint64) {
	if c.err != nil {
		return
	}
	version, _, err := c.Load(c.ctx)
	if err == nil && version > old { // an earlier process made it: what is found is promised
		c.done(fmt.Sprintf("head %d", version), nil)
		return
	}
	c.done(fmt.Sprintf("head %d", old+1), c.Swap(c.ctx, old, fmt.Appendf(nil, "head %d", old+1)))
}

func (c *worker) adopt() {
	if c.err != nil {
		return
	}
	err := c.Adopt(c.ctx, 7, []byte("head 7"))
	if errors.Is(err, store.ErrConflict) {
		err = nil
	}
	c.done("head 7", err)
}

// judge holds a folder against what was acknowledged.
func judge(ctx context.Context, path string, acknowledged []string) error {
	d, err := dir.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	want, head := map[string]int{}, uint64(0) // the least value that an acknowledged object may have now
	for _, a := range acknowledged {
		var name string
		var n int
		if _, err := fmt.Sscanf(a, "have %s %d", &name, &n); err == nil {
			want[name] = n
		} else if _, err := fmt.Sscanf(a, "head %d", &head); err != nil {
			delete(want, strings.TrimPrefix(a, "free "))
		}
	}
	for name, all := range values {
		r, err := d.Get(ctx, name)
		n, promised := want[name]
		if errors.Is(err, store.ErrNotExist) && !promised {
			continue
		}
		if err != nil {
			return err
		}
		text, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		if i := slices.Index(all, string(text)); i < 0 || promised && i != n {
			return fmt.Errorf("object %s holds %q", name, text)
		}
	}
	version, value, err := d.Load(ctx)
	switch {
	case errors.Is(err, store.ErrNotExist) && head == 0:
	case err != nil:
		return err
	case version < head || string(value) != fmt.Sprintf("head %d", version):
		return fmt.Errorf("the head is %d, %q, and version %d was acknowledged", version, value, head)
	}
	if left, err := os.ReadDir(filepath.Join(path, "tmp")); err != nil || len(left) > 0 {
		return fmt.Errorf("temporary files are left: %v, %w", left, err)
	}
	if err := d.Put(ctx, store.Named("after/all"), strings.NewReader("it goes on")); err != nil {
		return err
	}
	return d.Swap(ctx, version, []byte("the next"))
}
