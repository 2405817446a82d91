package audit_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/audit"
	"consilium.dev/internal/entry"
)

// logKey is the verifier key of the log in testdata/history.
const logKey = "consilium.dev/four-hospitals+5e8abfe3+AQq1dIEe1MfXMCKgNR/bkvuuGOJBVzams/f8iZDAsyPG"

// proof returns the proof of line n of lines.
func proof(t testing.TB, lines [][]byte, n int) (hashes [][32]byte) {
	t.Helper()
	var stored []tlog.Hash
	read := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, _ error) {
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for i, line := range lines {
		more, err := tlog.StoredHashes(int64(i), line, read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
	}
	p, err := tlog.ProveRecord(int64(len(lines)), int64(n), read)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range p {
		hashes = append(hashes, h)
	}
	return hashes
}

func proven(t testing.TB, c *copied, n int) []byte {
	t.Helper()
	return audit.NewLine(c.checkpoint, int64(n), c.lines[n], proof(t, c.lines, n)).Encode()
}

func TestLine(t *testing.T) {
	c := committed(t)
	for n := range c.lines {
		l, point, err := audit.OpenLine(proven(t, c, n), logKey)
		if err != nil {
			t.Fatalf("line %d: %v", n, err)
		}
		if l.Number != int64(n) || l.Line != string(c.lines[n]) || point.Size != int64(len(c.lines)) || point.Origin != origin {
			t.Errorf("line %d: read %+v of %+v", n, l, point)
		}
	}
}

// TestAlteredLine flips a bit of every byte of a line's file, and alters it as somebody would who knows what it is.
func TestAlteredLine(t *testing.T) {
	c := committed(t)
	good := proven(t, c, 17)
	refused := func(name string, text []byte, key string) {
		t.Helper()
		if l, point, err := audit.OpenLine(text, key); err == nil {
			t.Errorf("%s: took line %d of %+v", name, l.Number, point)
		} else if l.Line != "" || point.Origin != "" {
			t.Errorf("%s: refused, and yet gave %+v", name, l)
		}
	}
	for i := range good {
		text := bytes.Clone(good)
		text[i] ^= 1 << (i % 8)
		refused("flipped", text, logKey)
	}
	with := func(edit func(*audit.Line)) []byte {
		var l audit.Line
		if err := json.Unmarshal(good, &l); err != nil {
			t.Fatal(err)
		}
		edit(&l)
		return l.Encode()
	}
	h := forge(t)
	sealed := h.seal()
	_, other, err := note.GenerateKey(rand.Reader, "consilium.dev/other")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"another line":         with(func(l *audit.Line) { l.Line = string(c.lines[18]) }),
		"another number":       with(func(l *audit.Line) { l.Number = 18 }),
		"a negative number":    with(func(l *audit.Line) { l.Number = -1 }),
		"a number beyond":      with(func(l *audit.Line) { l.Number = int64(len(c.lines)) }),
		"a hash less":          with(func(l *audit.Line) { l.Proof = l.Proof[1:] }),
		"a hash more":          with(func(l *audit.Line) { l.Proof = append(l.Proof, l.Proof[0]) }),
		"no proof":             with(func(l *audit.Line) { l.Proof = nil }),
		"a short hash":         with(func(l *audit.Line) { l.Proof[0] = l.Proof[0][:31] }),
		"a thousand hashes":    with(func(l *audit.Line) { l.Proof = make([][]byte, 1000) }),
		"hashes swapped":       with(func(l *audit.Line) { l.Proof[0], l.Proof[1] = l.Proof[1], l.Proof[0] }),
		"another checkpoint":   with(func(l *audit.Line) { l.Checkpoint = string(sealed.checkpoint) }),
		"another schema":       with(func(l *audit.Line) { l.Schema = "consilium.line/2" }),
		"nothing":              nil,
		"null":                 []byte("null"),
		"an unknown field":     []byte(strings.Replace(string(good), `"schema"`, `"more": 1, "schema"`, 1)),
		"a doubled field":      []byte(strings.Replace(string(good), `"number": 17`, `"number": 18, "number": 17`, 1)),
		"something after it":   append(bytes.Clone(good), "{}\n"...),
		"other white space":    []byte(strings.Replace(string(good), "  ", "\t", 1)),
		"a line that is none":  with(func(l *audit.Line) { l.Line = "{}" }),
		"another line's proof": audit.NewLine(c.checkpoint, 17, c.lines[17], proof(t, c.lines, 18)).Encode(),
	} {
		refused(name, text, logKey)
	}
	for name, key := range map[string]string{
		"another key of the same log": h.verifier, "another log's key": other, "no key": "", "half a key": logKey[:40],
		"a key altered": strings.Replace(logKey, "AQq1", "AQq2", 1),
	} {
		refused(name, good, key)
	}
	// What is in the log and is no fact is not shown either.
	bad := &copied{lines: [][]byte{[]byte("{}")}}
	root := tlog.RecordHash(bad.lines[0])
	signed, err := note.Sign(&note.Note{Text: origin + "\n1\n" + root.String() + "\n"}, h.signer)
	if err != nil {
		t.Fatal(err)
	}
	refused("no fact", audit.NewLine(signed, 0, bad.lines[0], nil).Encode(), h.verifier)
}

func FuzzLine(f *testing.F) {
	c := committed(f)
	f.Add(proven(f, c, 0))
	f.Add(proven(f, c, 114))
	f.Add([]byte(`{"schema":"consilium.line/1"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, point, err := audit.OpenLine(text, logKey)
		if err != nil {
			return
		}
		// Only what the log's key has signed can be shown.
		if point.Size != int64(len(c.lines)) || l.Line != string(c.lines[l.Number]) || !bytes.Equal(l.Encode(), text) {
			t.Errorf("took %s", text)
		}
	})
}

// FuzzSplit reads lines, which together are what was read.
func FuzzSplit(f *testing.F) {
	for _, text := range []string{"", "\n", "a", "a\n", "a\r\n\nb\n", "a\nb"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var got []byte
		var failed error
		for line, err := range audit.Split(bytes.NewReader(text)) {
			if failed != nil {
				t.Fatal("something after an error")
			}
			if failed = err; err != nil {
				continue
			}
			if bytes.ContainsRune(line, '\n') || len(line) > entry.MaxLine {
				t.Errorf("a line of %d bytes: %q", len(line), line)
			}
			got = append(append(got, line...), '\n')
		}
		if failed == nil && !bytes.Equal(got, text) || !bytes.HasPrefix(text, got) {
			t.Errorf("read %q from %q, %v", got, text, failed)
		}
		if whole := len(text) == 0 || text[len(text)-1] == '\n'; failed == nil && !whole {
			t.Errorf("took a line without its end: %q", text)
		}
	})
}

// FuzzLog judges a copy whose log goes on otherwise after its first lines, which is never good.
func FuzzLog(f *testing.F) {
	c := committed(f)
	c.lines = c.lines[:2]
	dir, begin := c.write(f), c.log()
	for _, line := range committed(f).lines[2:30:30] {
		f.Add(append(bytes.Clone(line), '\n'))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		writeFile(t, slices.Concat(begin, text), dir, "log.jsonl")
		if len(judged(t, dir)) == 0 {
			t.Error("judged good")
		}
	})
}
