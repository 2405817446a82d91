package internal_test

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fields are the constructors of log fields that may be used: those that print what a type prints of itself, such as
// zap.Any, would let a vector or a key into the log unseen.
var fields = []string{"String", "Strings", "Stringer", "Int", "Int32", "Int64", "Uint64", "Float64", "Bool", "Duration", "Time", "Error"}

// levels are the logger's methods that write a line.
var levels = []string{"Debug", "Info", "Warn", "Error", "DPanic", "Panic", "Fatal"}

// logFaults says which log fields of a file are of another kind or have another key than keys allows, and which messages
// are put together when they are written. It adds the keys that it saw to seen.
func logFaults(s source, keys, seen map[string]bool) ([]string, error) {
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, s.name, s.text, 0)
	if err != nil {
		return nil, err
	}
	var faults []string
	fault := func(n ast.Node, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("%s:%d: %s", s.name, set.Position(n.Pos()).Line, fmt.Sprintf(format, args...)))
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		s, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if fieldOf(call) != "" {
			judgeField(call, keys, seen, fault)
		} else if slices.Contains(levels, s.Sel.Name) && (logs(s.X) || slices.ContainsFunc(call.Args, isField)) && formatted(call.Args[0]) {
			fault(call, "the message is put together: say it in a constant and the facts in fields")
		}
		return true
	})
	return faults, nil
}

// fieldOf returns NAME of a call zap.NAME(...) that makes a field, "" of any other.
func fieldOf(call *ast.CallExpr) string {
	s, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return ""
	}
	if x, ok := s.X.(*ast.Ident); !ok || x.Name != "zap" || x.Obj != nil || strings.HasPrefix(s.Sel.Name, "New") {
		return ""
	}
	return s.Sel.Name
}

func isField(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	return ok && fieldOf(call) != ""
}

// logs reports whether an expression is a logger by its name.
func logs(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "log"
	case *ast.SelectorExpr:
		return e.Sel.Name == "log" || e.Sel.Name == "Log"
	}
	return false
}

// formatted reports whether a message calls something.
func formatted(e ast.Expr) bool {
	found := false
	ast.Inspect(e, func(n ast.Node) bool {
		_, call := n.(*ast.CallExpr)
		found = found || call
		return true
	})
	return found
}

func judgeField(call *ast.CallExpr, keys, seen map[string]bool, fault func(ast.Node, string, ...any)) {
	name := fieldOf(call)
	if !slices.Contains(fields, name) {
		fault(call, "zap.%s is not among the fields that logs are made of", name)
		return
	}
	if name == "Error" {
		return
	}
	literal, ok := call.Args[0].(*ast.BasicLit)
	if !ok {
		fault(call, "the key is not a constant")
		return
	}
	key, err := strconv.Unquote(literal.Value)
	if err != nil || !keys[key] {
		fault(call, "the key %s is not in testdata/log.keys", literal.Value)
	}
	seen[key] = true
}

// logKeys reads the one list of what logs may hold.
func logKeys(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("testdata/log.keys")
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if key, what, _ := strings.Cut(lines.Text(), " "); key == "" || strings.TrimSpace(what) == "" {
			t.Errorf("testdata/log.keys: %q is not a key and what it carries", lines.Text())
		} else {
			keys[key] = true
		}
	}
	return keys
}

// TestLogs holds log lines to one list of keys, so that a reviewer sees what a new one carries. A secret, a patient's value
// or a weight has no key.
func TestLogs(t *testing.T) {
	keys, seen := logKeys(t), map[string]bool{}
	for _, s := range sources(t) {
		faults, err := logFaults(s, keys, seen)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		for _, f := range faults {
			t.Error(f)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !seen[key] {
			t.Errorf("testdata/log.keys: nothing logs %q", key)
		}
	}
}

func TestLogRules(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"good", `log.Info("round opened", zap.String("run", run), zap.Int("round", 3), zap.Error(err))`, ""},
		{"good with a name", `log.Info(name + " ended")`, ""},
		{"unknown key", `log.Info("a", zap.String("salt", s))`, `x.go:2: the key "salt" is not in testdata/log.keys`},
		{"any", `log.Info("a", zap.Any("run", v))`, "x.go:2: zap.Any is not among the fields that logs are made of"},
		{"values", `log.Info("a", zap.Float32s("run", v))`, "x.go:2: zap.Float32s is not among the fields that logs are made of"},
		{"key that varies", `log.Info("a", zap.String(k, v))`, "x.go:2: the key is not a constant"},
		{"field of a derived logger", `log.With(zap.Binary("run", v))`, "x.go:2: zap.Binary is not among the fields that logs are made of"},
		{"formatted", `s.log.Warn(fmt.Sprintf("%v", secret))`, "x.go:2: the message is put together: say it in a constant and the facts in fields"},
		{"formatted by another logger", `l.Error(err.Error(), zap.String("run", r))`, "x.go:2: the message is put together: say it in a constant and the facts in fields"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := []byte("package x\nfunc f() { " + c.text + " }")
			got, err := logFaults(source{"x", "x.go", text}, map[string]bool{"run": true, "round": true}, map[string]bool{})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(got, "\n"); got != c.want {
				t.Errorf("faults: %q, want %q", got, c.want)
			}
		})
	}
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ +(.+)$`)
	fence   = regexp.MustCompile("(?ms)^```.*?^```$")
	mention = regexp.MustCompile(`\bdocs/[A-Za-z0-9_/.-]*[A-Za-z0-9_]\.md\b`)
	notSlug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors returns the names by which a page's headings are linked to.
func anchors(page []byte) map[string]bool {
	names := map[string]bool{}
	for _, h := range heading.FindAllSubmatch(fence.ReplaceAll(page, nil), -1) {
		names[strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(string(h[1])), ""), " ", "-")] = true
	}
	return names
}

// linkFaults says which of a page's links within the project lead nowhere. open returns a file's text, nil if there is none.
func linkFaults(name string, page []byte, open func(string) []byte) []string {
	var faults []string
	for _, m := range link.FindAllSubmatch(fence.ReplaceAll(page, nil), -1) {
		to := string(m[1])
		if strings.Contains(to, "://") {
			continue
		}
		file, anchor, _ := strings.Cut(to, "#")
		target, text := name, page
		if file != "" {
			target = path.Join(path.Dir(name), file)
			text = open(target)
		}
		switch {
		case text == nil:
			faults = append(faults, fmt.Sprintf("%s: link to %s, which does not exist", name, target))
		case anchor != "" && !anchors(text)[anchor]:
			faults = append(faults, fmt.Sprintf("%s: link to %s, which has no heading %s", name, target, anchor))
		}
	}
	return faults
}

func TestLinks(t *testing.T) {
	all := files(t)
	open := func(name string) []byte {
		if slices.Contains(all, name) {
			return read(t, name)
		}
		if slices.ContainsFunc(all, func(f string) bool { return strings.HasPrefix(f, strings.TrimSuffix(name, "/")+"/") }) {
			return []byte{} // a folder
		}
		return nil
	}
	pages := 0
	for _, name := range all {
		text := read(t, name)
		if strings.HasSuffix(name, ".md") {
			pages++
			for _, f := range linkFaults(name, text, open) {
				t.Error(f)
			}
		}
		for _, m := range mention.FindAll(text, -1) {
			if open(string(m)) == nil && name != "internal/text_test.go" {
				t.Errorf("%s: names %s, which does not exist", name, m)
			}
		}
	}
	if pages < 10 {
		t.Errorf("looked at %d pages only", pages)
	}
}

func TestLinkRules(t *testing.T) {
	there := map[string][]byte{"docs/a.md": []byte("# A page\n\n## `x`: what, and why?\n"), "README.md": []byte("# R\n")}
	for _, c := range []struct{ name, text, want string }{
		{"file", "[a](a.md)", ""},
		{"file above", "[r](../README.md)", ""},
		{"heading", "[a](a.md#x-what-and-why)", ""},
		{"own heading", "# Here\n[h](#here)", ""},
		{"elsewhere", "[w](https://example.org/none)", ""},
		{"in a listing", "```\n[n](none.md)\n```\n", ""},
		{"no file", "[n](none.md)", "docs/b.md: link to docs/none.md, which does not exist"},
		{"no heading", "[a](a.md#y)", "docs/b.md: link to docs/a.md, which has no heading y"},
		{"no own heading", "[a](#y)", "docs/b.md: link to docs/b.md, which has no heading y"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := linkFaults("docs/b.md", []byte(c.text), func(name string) []byte { return there[name] })
			if got := strings.Join(got, "\n"); got != c.want {
				t.Errorf("faults: %q, want %q", got, c.want)
			}
		})
	}
}

// strangers are words that tell of the machine that a text was written on, or of work that was left. They are put together
// here so that this file does not hold them.
var strangers = []string{"/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/", "TO" + "DO", "FIX" + "ME", "X" + "XX:"}

func strange(text []byte) []string {
	var found []string
	for _, s := range strangers {
		if bytes.Contains(text, []byte(s)) {
			found = append(found, s)
		}
	}
	return found
}

func TestOwnWords(t *testing.T) {
	for _, name := range files(t) {
		for _, s := range strange(read(t, name)) {
			t.Errorf("%s holds %q", name, s)
		}
	}
	if diff := cmp.Diff(strangers[:1], strange([]byte("see /wo"+"rk/main"))); diff != "" {
		t.Errorf("strange (-want +got):\n%s", diff)
	}
}

// TestDesignPage holds the table of floors in docs/design.md to the one in this test.
func TestDesignPage(t *testing.T) {
	_, table, found := strings.Cut(string(read(t, "docs/design.md")), "<!-- floors -->\n")
	table, _, ended := strings.Cut(table, "<!-- end of floors -->")
	if !found || !ended {
		t.Fatal("docs/design.md has no table of floors")
	}
	row := regexp.MustCompile(`(?m)^\| ([1-6]) [^|]*\|[^|]*\|([^|]*)\|$`)
	got := make([][]string, len(floors))
	for _, m := range row.FindAllStringSubmatch(table, -1) {
		n, _ := strconv.Atoi(m[1])
		for _, room := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(m[2], -1) {
			got[n] = append(got[n], room[1])
		}
		slices.Sort(got[n])
	}
	for n := range floors {
		if diff := cmp.Diff(slices.Sorted(slices.Values(floors[n])), got[n]); diff != "" {
			t.Errorf("floor %d (-test +docs/design.md):\n%s", n, diff)
		}
	}
}
