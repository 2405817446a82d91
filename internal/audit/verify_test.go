package audit_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/audit"
	"consilium.dev/internal/entry"
)

// TestHistory judges a history that real programs wrote. It stays good, with the same figures, whatever changes here: formats
// outlive programs.
func TestHistory(t *testing.T) {
	r, err := audit.Verify(t.Context(), filepath.Join("testdata", "history"), options(t))
	if err != nil {
		t.Fatal(err)
	}
	want := &audit.Report{}
	if err := jsonOf(readFile(t, "report.json"), want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, want); diff != "" {
		t.Errorf("the report differs (-got +want):\n%s", diff)
	}
	// The figures once more, from the lines themselves.
	counts := map[string]int{}
	for _, line := range committed(t).lines {
		l, err := entry.Decode(line)
		if err != nil {
			t.Fatal(err)
		}
		switch f := l.Fact.(type) {
		case entry.Booted:
			counts["boots"]++
		case entry.Admitted:
			counts["admissions"]++
		case entry.RunCreated:
			counts["runs"]++
		case entry.RoundClosed:
			counts["rounds"]++
			counts["updates"] += len(f.Members)
		}
	}
	admissions := 0
	for _, n := range r.Admissions {
		admissions += n
	}
	got := map[string]int{"boots": r.Boots, "admissions": admissions, "runs": r.Runs, "rounds": r.Rounds, "updates": r.Updates}
	if diff := cmp.Diff(got, counts); diff != "" {
		t.Errorf("figures differ (-got +want):\n%s", diff)
	}
	if !r.Good() || r.Evidence != r.Boots+admissions {
		t.Errorf("Good = %v, with %d pieces of evidence", r.Good(), r.Evidence)
	}
}

// TestTreeRoot has a script of Python's standard library compute the root hash of the copy's lines, and compare it with the
// checkpoint: what a copy means does not rest on this program.
func TestTreeRoot(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CONSILIUM_REQUIRE_ALL") == "1" {
			t.Fatal("python3 is not installed, and CONSILIUM_REQUIRE_ALL asks for every check")
		}
		t.Skip("python3 is not installed: the root hash was not computed by the independent script")
	}
	run := func(dir string) (string, error) {
		out, err := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "root.py"), dir).CombinedOutput()
		return string(out), err
	}
	c := committed(t)
	if out, err := run(filepath.Join("testdata", "history")); err != nil || !strings.HasPrefix(out, "115 lines, root d951e87da74a") {
		t.Errorf("root.py: %v, %s", err, out)
	}
	for _, n := range []int{1, 65} { // of other shapes of the tree, whose checkpoint is another
		short := c.clone()
		short.lines = short.lines[:n]
		if out, err := run(short.write(t)); err == nil || !strings.Contains(out, "NOT") {
			t.Errorf("root.py takes the first %d lines: %s", n, out)
		}
		h := forge(t)
		h.items = h.items[:n]
		if out, err := run(h.seal().write(t)); err != nil {
			t.Errorf("root.py with %d lines: %v, %s", n, err, out)
		}
	}
}

// TestPage holds the page for auditors to what is true of the history that it shows.
func TestPage(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "auditing.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, script, _ := strings.Cut(string(readFile(t, "root.py")), "\n") // without its first line, which says what it is
	c := committed(t)
	for _, want := range []string{
		script, anchor, logKey, string(c.lines[8]), "root hash    d951e87da74a219e86c8948d0047505d9170cd1a0c595cfce3c8f6bfa1f57390",
		"2 boots, 17 admissions", "4 runs, 7 rounds closed with 26 updates, 8 model versions",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("docs/auditing.md does not hold:\n%s", want)
		}
	}
}

// TestForgerIsGood shows that a history signed anew by somebody who holds the log's key and the coordinator's enclave, and
// otherwise left as it is, is good: what the other tests find is what they have altered.
func TestForgerIsGood(t *testing.T) {
	h := forge(t)
	for _, n := range []int{26, 31, 32} { // a person, a SEV-SNP machine, a Nitro enclave
		h.session(n, map[int][]byte{fieldExporter: make([]byte, 32)})
	}
	h.leaf(31, "cleveland", 12*time.Hour)
	h.admission(31, func(f *entry.Admitted, _ *entry.Kept) {
		f.Issued = f.Expires.Add(-time.Hour).Truncate(time.Microsecond)
	})
	// What the rules allow and the history has not: a refused update.
	u := h.items[13].Fact.(entry.UpdateAccepted)
	h.insert(13, item{Line: entry.Line{Fact: entry.UpdateRefused{
		Run: u.Run, Round: u.Round, Try: u.Try, Member: u.Member, Update: entry.Digest{1}, Reason: "value",
	}}})
	if diff := cmp.Diff(judged(t, h.seal().write(t)), []string(nil)); diff != "" {
		t.Errorf("found in a good history:\n%s", diff)
	}
}

func TestVerifyEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := audit.Verify(ctx, filepath.Join("testdata", "history"), options(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify = %v, want %v", err, context.Canceled)
	}
}

func TestLongestLine(t *testing.T) {
	long := bytes.Repeat([]byte("x"), entry.MaxLine)
	n := 0
	for line, err := range audit.Split(bytes.NewReader(append(append([]byte("a\n"), long...), "\nb\n"...))) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 2 && !bytes.Equal(line, long) {
			t.Errorf("line of %d bytes, want %d", len(line), len(long))
		}
	}
	if n != 3 {
		t.Errorf("%d lines, want 3", n)
	}
	for line, err := range audit.Split(bytes.NewReader(append(long, "x\n"...))) {
		if err == nil {
			t.Errorf("took a line of %d bytes", len(line))
		}
	}
}
