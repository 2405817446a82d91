package audit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/audit"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
)

// anchor is the digest of the manifest in testdata/history.
const anchor = "415566afe1b274401dcfad3bf25cd22f9f2ad373c8f20d21627011f28ffba224"

const origin = "consilium.dev/four-hospitals"

// options judge by that manifest, and judge each piece of evidence once: the tests judge the same ones thousands of times.
func options(t testing.TB) audit.Options {
	t.Helper()
	var d entry.Digest
	if err := d.UnmarshalText([]byte(anchor)); err != nil {
		t.Fatal(err)
	}
	return audit.Options{Anchor: d, Verifiers: func(m *manifest.Manifest) ([]attest.Verifier, error) {
		all, err := platform.Verifiers(platform.Options{SimulatedRoots: m.SimulatedRoots()})
		for i, v := range all {
			all[i] = remembering{v}
		}
		return all, err
	}}
}

// copied is a copy as it lies in a folder.
type copied struct {
	manifest, checkpoint []byte
	lines                [][]byte
	kept                 map[int][]byte
	later                []byte // the manifest of epoch 2, if there is one
}

func readFile(t testing.TB, elements ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, elements...)...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// committed returns the copy in testdata/history.
func committed(t testing.TB) *copied { return committedIn(t, "history") }

func committedIn(t testing.TB, dir string) *copied {
	t.Helper()
	c := &copied{
		manifest: readFile(t, dir, "manifest.dsse.json"), checkpoint: readFile(t, dir, "checkpoint"),
		kept: map[int][]byte{},
	}
	c.lines = bytes.Split(bytes.TrimSuffix(readFile(t, dir, "log.jsonl"), []byte("\n")), []byte("\n"))
	for n, line := range c.lines {
		if bytes.Contains(line, []byte(`"kind":"booted"`)) || bytes.Contains(line, []byte(`"kind":"admitted"`)) || bytes.Contains(line, []byte(`"enclave"`)) {
			c.kept[n] = readFile(t, dir, "kept", strconv.Itoa(n)+".json")
		}
	}
	return c
}

func (c *copied) clone() *copied {
	d := *c
	d.lines, d.kept = slices.Clone(c.lines), maps.Clone(c.kept)
	return &d
}

func (c *copied) log() []byte {
	return append(bytes.Join(c.lines, []byte("\n")), '\n')
}

func writeFile(t testing.TB, text []byte, elements ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(elements...), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// write writes the copy into a new folder.
func (c *copied) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "kept"), 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, c.manifest, dir, "manifest.dsse.json")
	writeFile(t, c.checkpoint, dir, "checkpoint")
	writeFile(t, c.log(), dir, "log.jsonl")
	if c.later != nil {
		if err := os.Mkdir(filepath.Join(dir, "epochs"), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, c.later, dir, "epochs", "2.dsse.json")
	}
	for n, text := range c.kept {
		writeFile(t, text, dir, "kept", strconv.Itoa(n)+".json")
	}
	return dir
}

// judged returns what an audit of the folder finds, as "LINE: WHAT"; "-1: ERROR" where it cannot be judged.
func judged(t testing.TB, dir string) []string {
	t.Helper()
	return judgedBy(t, dir, options(t))
}

func judgedBy(t testing.TB, dir string, o audit.Options) []string {
	t.Helper()
	r, err := audit.Verify(t.Context(), dir, o)
	if err != nil {
		return []string{"-1: " + err.Error()}
	}
	var found []string
	for _, f := range r.Findings {
		found = append(found, fmt.Sprintf("%d: %s", f.Line, f.What))
	}
	if r.Good() != (len(found) == 0) {
		t.Error("Good says otherwise than the findings")
	}
	return found
}

// remembering judges each piece of evidence once.
type remembering struct{ attest.Verifier }

type outcome struct {
	claims attest.Claims
	err    error
}

var outcomes sync.Map // of [32]byte to outcome

func (v remembering) Verify(ctx context.Context, e attest.Evidence, b attest.Binding, now time.Time, c attest.Collateral) (attest.Claims, error) {
	text, err := json.Marshal(struct {
		E attest.Evidence
		B attest.Binding
		T time.Time
	}{e, b, now})
	if err != nil {
		return attest.Claims{}, err
	}
	key := sha256.Sum256(text)
	if o, ok := outcomes.Load(key); ok {
		return o.(outcome).claims, o.(outcome).err
	}
	claims, err := v.Verifier.Verify(ctx, e, b, now, c)
	outcomes.Store(key, outcome{claims, err})
	return claims, err
}

func jsonOf(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(v)
}
