package attest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// folders are where the tests of testdata/cases.txt stand, by package.
var folders = map[string]string{
	"sevsnp": "sevsnp", "dcap": "dcap", "tdx": "tdx", "sgx": "sgx", "nitro": "nitro", "manifest": "../manifest", "transport": "../transport",
}

// A refusalCase is one line of testdata/cases.txt.
type refusalCase struct {
	classes  []string
	packages []string
	what     string
}

var caseNumber = regexp.MustCompile(`^([A-I][0-9]+) `)

func cases(t *testing.T) map[string]refusalCase {
	t.Helper()
	text, err := os.ReadFile("testdata/cases.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]refusalCase{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		if words[0] == "later" {
			if len(words) < 3 || all[words[1]].packages == nil {
				t.Fatalf("not a part of a case: %s", line)
			}
			t.Logf("a part of %s without a test: %s", words[1], strings.Join(words[2:], " "))
			continue
		}
		if len(words) < 5 || !caseNumber.MatchString(line) || all[words[0]].packages != nil {
			t.Fatalf("not a case, or twice: %s", line)
		}
		c := refusalCase{packages: []string{}, what: strings.Join(words[3:], " ")}
		if words[1] != "-" {
			c.classes = strings.Split(words[1], ",")
		}
		if words[2] != "-" {
			c.packages = strings.Split(words[2], ",")
		}
		all[words[0]] = c
	}
	return all
}

// TestCases holds the list of cases against the names of tests: each case is tested where the list says, with a class that it
// names, its own class among them; and no test has a number that the list does not know.
func TestCases(t *testing.T) {
	all := cases(t)
	for _, span := range []struct {
		letter      string
		first, last int
	}{{"A", 1, 48}, {"B", 49, 76}, {"C", 77, 91}, {"D", 92, 109}, {"I", 165, 168}} {
		for n := span.first; n <= span.last; n++ {
			if number := span.letter + strconv.Itoa(n); all[number].packages == nil {
				t.Errorf("the list has no case %s", number)
			}
		}
	}
	classes := map[string][]string{}
	tested := map[string][]string{}
	for name, folder := range folders {
		for _, found := range named(t, folder) {
			c := all[found.number]
			if !slices.Contains(c.packages, name) {
				t.Errorf("%s: a test of the case %s, for which the list does not name this package", found.at, found.number)
			}
			if found.class != "" && !slices.Contains(c.classes, found.class) {
				t.Errorf("%s: the case %s is refused with the class %s, the list says %v", found.at, found.number, found.class, c.classes)
			}
			classes[found.number] = append(classes[found.number], found.class)
			tested[found.number] = append(tested[found.number], name)
		}
	}
	tests := 0
	for _, by := range tested {
		tests += len(by)
	}
	t.Logf("%d cases, %d of them with %d tests", len(all), len(tested), tests)
	for number, c := range all {
		if len(c.packages) == 0 {
			t.Logf("without a test: %s, %s", number, c.what)
		}
		for _, name := range c.packages {
			if !slices.Contains(tested[number], name) {
				t.Errorf("no test of %s has the case %s", name, number)
			}
		}
		if len(c.classes) > 0 && !slices.Contains(classes[number], c.classes[0]) {
			t.Errorf("no test of the case %s wants the class %s", number, c.classes[0])
		}
	}
}

// A naming is a text in a test file that begins with a case's number, and the class that stands beside it.
type naming struct {
	number, class string
	at            token.Position
}

func named(t *testing.T, folder string) []naming {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no tests in %s: %v", folder, err)
	}
	var all []naming
	files := token.NewFileSet()
	for _, path := range paths {
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		beside := map[ast.Expr]string{}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				for i := range n.Elts {
					beside[value(n.Elts[i])] = classIn(n.Elts)
				}
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING && caseNumber.MatchString(text) {
					number, _, _ := strings.Cut(text, " ")
					all = append(all, naming{number, beside[n], files.Position(n.Pos())})
				}
			}
			return true
		})
	}
	return all
}

// value returns what stands behind an element's name, if it has one.
func value(e ast.Expr) ast.Expr {
	if named, ok := e.(*ast.KeyValueExpr); ok {
		return named.Value
	}
	return e
}

// classIn returns the one attest.ClassX among expressions, in capitals; "" if there is none.
func classIn(all []ast.Expr) string {
	for _, e := range all {
		if s, ok := value(e).(*ast.SelectorExpr); ok {
			if name, ok := strings.CutPrefix(s.Sel.Name, "Class"); ok {
				return strings.ToUpper(name)
			}
		}
	}
	return ""
}
