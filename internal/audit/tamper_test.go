package audit_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"consilium.dev/internal/audit"
)

// tampered is a folder with a copy in it, one of whose files is altered and restored again and again.
type tampered struct {
	t     *testing.T
	dir   string
	files map[string][]byte
}

func newTampered(t *testing.T, c *copied) *tampered {
	t.Helper()
	w := &tampered{t: t, dir: c.write(t), files: map[string][]byte{
		"manifest.dsse.json": c.manifest, "checkpoint": c.checkpoint, "log.jsonl": c.log(),
	}}
	for n, text := range c.kept {
		w.files[filepath.Join("kept", strconv.Itoa(n)+".json")] = text
	}
	if found := judged(t, w.dir); len(found) != 0 {
		t.Fatalf("found in a good copy: %q", found)
	}
	return w
}

// refused writes a file otherwise than it was and reports what is found. It is an error if nothing is.
func (w *tampered) refused(name string, text []byte, what string) {
	w.t.Helper()
	if bytes.Equal(text, w.files[name]) {
		w.t.Fatalf("%s of %s changes nothing", what, name)
	}
	writeFile(w.t, text, w.dir, name)
	if found := judged(w.t, w.dir); len(found) == 0 {
		w.t.Errorf("judged good with %s in %s", what, name)
	}
	writeFile(w.t, w.files[name], w.dir, name)
}

// flip flips a bit of each byte at a multiple of stride, another in each.
func (w *tampered) flip(name string, stride int) int {
	n := 0
	for i := 0; i < len(w.files[name]); i += stride {
		text := bytes.Clone(w.files[name])
		text[i] ^= 1 << (i / stride % 8)
		w.refused(name, text, fmt.Sprintf("bit %d of byte %d flipped", i/stride%8, i))
		n++
	}
	return n
}

// short returns a good history of five lines: a manifest, a boot, machines of both kinds, and a person.
func short(t *testing.T) *copied {
	h := forge(t)
	h.items = slices.Concat(h.items[:2], h.items[3:4], h.items[5:7])
	return h.seal()
}

// every has TestFlippedBits flip a bit of every byte of the short history, which takes minutes.
var every = flag.Bool("every", false, "flip a bit of every byte of a short history")

// TestFlippedBits flips bits of bytes here and there, all over a short history and a long one.
func TestFlippedBits(t *testing.T) {
	stride := 131
	if *every {
		stride = 1
	}
	for name, of := range map[string]struct {
		c      *copied
		stride int
	}{"short": {short(t), stride}, "committed": {committed(t), 4001}} {
		t.Run(name, func(t *testing.T) {
			files := slices.Sorted(maps.Keys(newTampered(t, of.c).files))
			var workers sync.WaitGroup
			var mu sync.Mutex
			tried := 0
			for worker := range 2 {
				w := newTampered(t, of.c)
				workers.Go(func() {
					for i, file := range files {
						if i%2 == worker {
							n := w.flip(file, of.stride)
							mu.Lock()
							tried += n
							mu.Unlock()
						}
					}
				})
			}
			workers.Wait()
			t.Logf("%d flips, all found", tried)
		})
	}
}

func TestAlteredLines(t *testing.T) {
	c := committed(t)
	w := newTampered(t, c)
	lines := func(what string, edit func([][]byte) [][]byte) {
		d := c.clone()
		d.lines = edit(d.lines)
		w.refused("log.jsonl", d.log(), what)
	}
	for n := 0; n < len(c.lines); n += 19 {
		lines(fmt.Sprintf("line %d dropped", n), func(l [][]byte) [][]byte { return slices.Delete(l, n, n+1) })
		lines(fmt.Sprintf("line %d doubled", n), func(l [][]byte) [][]byte { return slices.Insert(l, n, l[n]) })
		lines(fmt.Sprintf("line %d cut off", n), func(l [][]byte) [][]byte { l[n] = l[n][:len(l[n])/2]; return l })
		lines(fmt.Sprintf("nothing at line %d", n), func(l [][]byte) [][]byte { l[n] = nil; return l })
		lines(fmt.Sprintf("the end at line %d", n), func(l [][]byte) [][]byte { return l[:n] })
		if n+1 < len(c.lines) {
			lines(fmt.Sprintf("lines %d and %d swapped", n, n+1), func(l [][]byte) [][]byte { l[n], l[n+1] = l[n+1], l[n]; return l })
			lines(fmt.Sprintf("another line %d", n), func(l [][]byte) [][]byte { l[n] = l[n+1]; return l })
		}
	}
	lines("another salt of the last line", func(l [][]byte) [][]byte {
		l[114] = regexp.MustCompile(`"salt":"."?`).ReplaceAll(l[114], []byte(`"salt":"0`))
		return l
	})
	log := c.log()
	for what, text := range map[string][]byte{
		"nothing": {}, "no newline at the end": log[:len(log)-1], "a line more": append(bytes.Clone(log), "{}\n"...),
		"an empty line more": append(bytes.Clone(log), '\n'), "the beginning of a line more": append(bytes.Clone(log), '{'),
		"carriage returns":     bytes.ReplaceAll(log, []byte("\n"), []byte("\r\n")),
		"a line of 2 MiB more": slices.Concat(log, bytes.Repeat([]byte("x"), 2<<20), []byte("\n")),
		"a line of 2 MiB":      slices.Concat(bytes.Repeat([]byte("x"), 2<<20), log),
	} {
		w.refused("log.jsonl", text, what)
	}
}

func TestAlteredFiles(t *testing.T) {
	c := committed(t)
	w := newTampered(t, c)
	kept := func(n int) string { return filepath.Join("kept", strconv.Itoa(n)+".json") }
	w.refused(kept(2), c.kept[3], "another's evidence")
	w.refused(kept(2), nil, "nothing")
	h := forge(t)
	h.items[2].kept.Nonce = []byte{1} // which an admission has no use for
	sealed := h.seal()
	v := newTampered(t, sealed)
	v.refused(kept(2), bytes.Replace(sealed.kept[2], []byte(`"nonce":"AQ=="`), []byte(`"nonce":"Ag=="`), 1), "what nobody reads")
	w.refused(kept(2), append(bytes.Clone(c.kept[2]), '\n'), "a newline more")
	w.refused(kept(2), bytes.Repeat([]byte(" "), 9<<20), "9 MiB")
	w.refused("manifest.dsse.json", bytes.Repeat([]byte(" "), 2<<20), "2 MiB")
	w.refused("checkpoint", bytes.Repeat([]byte("x"), 1<<20), "1 MiB")
	// Three of the four signatures are enough; a fourth that is none is not to be taken for one.
	w.refused("manifest.dsse.json", bytes.Replace(c.manifest, []byte(`"sig": "`), []byte(`"sig": "AAAA`), 1), "a signature too long")
	w.refused("manifest.dsse.json", regexp.MustCompile(`"sig": "....`).ReplaceAll(c.manifest, []byte(`"sig": "AAAA`)), "no good signature")
	at := regexp.MustCompile(`"sig": "(....)`).FindSubmatchIndex(c.manifest)
	w.refused("manifest.dsse.json", slices.Concat(c.manifest[:at[2]], []byte("AAAA"), c.manifest[at[3]:]), "a signature of nobody")
	w.refused("manifest.dsse.json", bytes.Replace(c.manifest, []byte(`"keyid": "budapest"`), []byte(`"keyid": "zurich"`), 1), "another signer")
	w.refused("checkpoint", h.seal().checkpoint, "another key's checkpoint")
	w.refused("checkpoint", append(bytes.Clone(c.checkpoint), h.seal().checkpoint[bytes.LastIndex(h.seal().checkpoint, []byte("\u2014")):]...),
		"a second signature")
	w.refused("checkpoint", bytes.Replace(c.checkpoint, []byte("\n\n"), []byte("\nmore\n\n"), 1), "an extension line")
	names := slices.Collect(maps.Keys(w.files))
	for _, name := range names {
		if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
			t.Fatal(err)
		}
		if found := judged(t, w.dir); len(found) == 0 {
			t.Errorf("judged good without %s", name)
		}
		writeFile(t, w.files[name], w.dir, name)
	}
	for _, name := range []string{"notes.txt", "kept/115.json", "kept/0.json", "kept/x", "kept/02.json"} {
		writeFile(t, c.kept[2], w.dir, name)
		found := judged(t, w.dir)
		if want := fmt.Sprintf("-1: %s is no part of the copy: no line names it", name); !slices.Equal(found, []string{want}) {
			t.Errorf("with %s: found %q, want %q", name, found, want)
		}
		if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(filepath.Join(w.dir, "kept")); err != nil {
		t.Fatal(err)
	}
	if found := judged(t, w.dir); len(found) < 20 {
		t.Errorf("without everything that was kept: found %q", found)
	}
}

// TestNoPlainFiles finds links and folders in the place of files: what they lead to is not what somebody copied.
func TestNoPlainFiles(t *testing.T) {
	c := committed(t)
	w := newTampered(t, c)
	for _, name := range []string{"manifest.dsse.json", "checkpoint", "log.jsonl", filepath.Join("kept", "2.json")} {
		path, elsewhere := filepath.Join(w.dir, name), filepath.Join(t.TempDir(), "file")
		if err := os.Rename(path, elsewhere); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(elsewhere, path); err != nil {
			t.Fatal(err)
		}
		if found := judged(t, w.dir); len(found) == 0 || !strings.Contains(found[0], "is not a plain file") {
			t.Errorf("with a link for %s: found %q", name, found)
		}
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
			t.Fatal(err)
		}
		if found := judged(t, w.dir); len(found) == 0 || !strings.Contains(found[0], "is not a plain file") {
			t.Errorf("with a folder for %s: found %q", name, found)
		}
		if err := errors.Join(os.Remove(path), os.Rename(elsewhere, path)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestForeignAnchor judges a good copy by another manifest's digest.
func TestForeignAnchor(t *testing.T) {
	o := options(t)
	o.Anchor[0] ^= 1
	if _, err := audit.Verify(t.Context(), filepath.Join("testdata", "history"), o); err == nil {
		t.Error("judged by another anchor")
	}
}

// TestManyFindings stops where it is clear that nothing is right.
func TestManyFindings(t *testing.T) {
	c := committed(t).clone()
	for n := range c.lines[2:] {
		c.lines[n+2] = []byte("{}")
	}
	found := judged(t, c.write(t))
	d := committed(t)
	d.lines = slices.Concat(d.lines, d.lines)
	if got, want := judged(t, d.write(t)), []string{"115: the checkpoint signs for no line from here on"}; !slices.Equal(got, want) {
		t.Errorf("with as many lines again: found %q, want %q", got, want)
	}
	if len(found) != 101 || found[100] != "-1: the audit ended here: what comes after was not read" {
		t.Errorf("%d findings, the last: %s", len(found), found[len(found)-1])
	}
}
