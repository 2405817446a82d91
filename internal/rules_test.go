package internal_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// worldly are the packages that no innocent room imports, with everything below them: they reach what is outside, wait,
// share, or draw chance.
var worldly = []string{
	"context", "os", "net", "sync", "syscall", "unsafe", "runtime", "log", "plugin", "testing", "path/filepath", "io/ioutil",
	"crypto/rand", "hash/maphash", "embed", "go.uber.org/zap", "google.golang.org/grpc", "google.golang.org/protobuf",
	"golang.org/x/sys", "golang.org/x/net", "golang.org/x/sync",
}

// harmless are packages below those that an innocent room may import all the same: what a processor can do decides how fast an outcome
// is there, and tests hold each way to the same one.
var harmless = []string{"golang.org/x/sys/cpu"}

// clocks are the functions of package time that read a clock or wait for one.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// seeded are the names of math/rand and math/rand/v2 whose outcome their arguments decide. All others draw chance.
var seeded = []string{"New", "NewPCG", "NewChaCha8", "NewSource", "NewZipf", "Rand", "PCG", "ChaCha8", "Source", "Source64", "Zipf"}

// drawing are the functions and methods that draw chance of their own where their first argument, its source, is nil.
var drawing = []string{"GenerateKey", "GenerateMultiPrimeKey", "Sign", "SignMessage", "SignASN1", "SignPKCS1v15", "SignPSS", "Int", "Prime"}

// inspector looks at one file of an innocent room.
type inspector struct {
	name    string
	set     *token.FileSet
	imports map[string]string // local name to path
	faults  []string
}

// innocenceFaults says what in a file makes its outcome depend on more than its input.
func innocenceFaults(s source) ([]string, error) {
	i := &inspector{name: s.name, set: token.NewFileSet(), imports: map[string]string{}}
	f, err := parser.ParseFile(i.set, s.name, s.text, 0)
	if err != nil {
		return nil, err
	}
	for _, spec := range f.Imports {
		if err := i.imported(spec); err != nil {
			return nil, err
		}
	}
	ast.Inspect(f, i.look)
	return i.faults, nil
}

func (i *inspector) fault(at ast.Node, format string, args ...any) {
	i.faults = append(i.faults, fmt.Sprintf("%s:%d: %s", i.name, i.set.Position(at.Pos()).Line, fmt.Sprintf(format, args...)))
}

// imported notes an import's local name. Imports without one would hide what is called.
func (i *inspector) imported(spec *ast.ImportSpec) error {
	full, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return err
	}
	for _, banned := range worldly {
		if (full == banned || strings.HasPrefix(full, banned+"/")) && !slices.Contains(harmless, full) {
			i.fault(spec, "imports %s", full)
		}
	}
	local := path.Base(full)
	if local == "v2" {
		local = path.Base(path.Dir(full))
	}
	if spec.Name != nil {
		local = spec.Name.Name
	}
	if local == "." || local == "_" {
		i.fault(spec, "imports %s without a name", full)
	}
	i.imports[local] = full
	return nil
}

func (i *inspector) look(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GoStmt:
		i.fault(n, "starts a goroutine")
	case *ast.SelectorExpr:
		i.selected(n)
	case *ast.CallExpr:
		i.called(n)
	}
	return true
}

// selected judges PACKAGE.NAME.
func (i *inspector) selected(n *ast.SelectorExpr) {
	x, ok := n.X.(*ast.Ident)
	if !ok || x.Obj != nil { // a variable of that name hides the package
		return
	}
	switch full := i.imports[x.Name]; {
	case full == "time" && slices.Contains(clocks, n.Sel.Name):
		i.fault(n, "reads a clock: time.%s", n.Sel.Name)
	case (full == "math/rand" || full == "math/rand/v2") && !slices.Contains(seeded, n.Sel.Name):
		i.fault(n, "draws chance: %s.%s", x.Name, n.Sel.Name)
	}
}

// called judges a call that is given no source of chance.
func (i *inspector) called(n *ast.CallExpr) {
	s, ok := n.Fun.(*ast.SelectorExpr)
	if !ok || len(n.Args) == 0 || !slices.Contains(drawing, s.Sel.Name) {
		return
	}
	if source, ok := n.Args[0].(*ast.Ident); ok && source.Name == "nil" {
		i.fault(n, "draws chance: %s with no source", s.Sel.Name)
	}
}

// TestInnocenceRules breaks each rule once.
func TestInnocenceRules(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"harmless", `import ("time"; "math/rand/v2"); func f(seed uint64) time.Duration { return time.Duration(rand.New(rand.NewPCG(seed, 0)).Uint64()) }`, nil},
		{"import", `import "os"`, []string{"x.go:2: imports os"}},
		{"import below", `import "net/http"`, []string{"x.go:2: imports net/http"}},
		{"import of a neighbour's name", `import "network"`, nil},
		{"import of a module", `import "google.golang.org/grpc/codes"`, []string{"x.go:2: imports google.golang.org/grpc/codes"}},
		{"import of what a processor can do", `import "golang.org/x/sys/cpu"`, nil},
		{"import of its neighbour", `import "golang.org/x/sys/unix"`, []string{"x.go:2: imports golang.org/x/sys/unix"}},
		{"import of all names", `import . "time"`, []string{"x.go:2: imports time without a name"}},
		{"import of no name", `import _ "time/tzdata"`, []string{"x.go:2: imports time/tzdata without a name"}},
		{"clock", "import \"time\"\nvar f = time.Now", []string{"x.go:3: reads a clock: time.Now"}},
		{"clock by another name", "import clock \"time\"\nfunc f() { clock.Sleep(1) }", []string{"x.go:3: reads a clock: time.Sleep"}},
		{"variable with a package's name", "import \"time\"\nvar _ time.Time\nfunc f(time struct{ Now int }) int { return time.Now }", nil},
		{"goroutine", "func f() { go f() }", []string{"x.go:2: starts a goroutine"}},
		{"chance", "import \"math/rand/v2\"\nvar x = rand.IntN(6)", []string{"x.go:3: draws chance: rand.IntN"}},
		{"chance of the old kind", "import \"math/rand\"\nfunc f() { rand.Shuffle(1, nil) }", []string{"x.go:3: draws chance: rand.Shuffle"}},
		{"chance of the system", `import "crypto/rand"`, []string{"x.go:2: imports crypto/rand"}},
		{"no source", "import \"crypto/ed25519\"\nfunc f() { ed25519.GenerateKey(nil) }", []string{"x.go:3: draws chance: GenerateKey with no source"}},
		{"no source for a method", "func f(k interface{ Sign(any) }) { k.Sign(nil) }", []string{"x.go:2: draws chance: Sign with no source"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := innocenceFaults(source{"x", "x.go", []byte("package x\n" + c.text)})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

// TestFloorRules breaks each rule once.
func TestFloorRules(t *testing.T) {
	for _, c := range []struct {
		name, room, imports string
		want                []string
	}{
		{"down", "internal/ledger", "internal/store", nil},
		{"up", "internal/store", "internal/ledger", []string{"x.go: floor 1 imports internal/ledger of floor 3"}},
		{"sideways", "internal/ledger", "internal/blob", []string{"x.go: floor 3 imports internal/blob of floor 3"}},
		{"a room below another's folder", "internal/store", "internal/store/dir", []string{"x.go: floor 1 imports internal/store/dir of floor 2"}},
		{"wire", "internal/transport", "proto/consilium/v1", []string{"x.go: floor 3 imports the wire's types"}},
		{"wire at an actor's door", "internal/client", "proto/consilium/v1", nil},
		{"tests' room", "cmd/coordinator", "internal/store/storetest", []string{"x.go: imports internal/store/storetest, which is for tests"}},
		{"unknown room", "internal/util", "internal/store", []string{
			"internal/util: is on no floor: give it one in internal/house_test.go and docs/design.md",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := floorFaults(source{c.room, "x.go", []byte("package x\nimport \"fmt\"\nimport \"" + module + c.imports + `"`)})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPublic(t *testing.T) {
	got := public([]string{"vendor/golang.org/x/net/idna", "os", "internal/poll", "crypto/internal/fips140", "consilium.dev/internal/blob", "gonum.org/v1/gonum/internal/asm/f64", "fmt"})
	want := []string{"consilium.dev/internal/blob", "fmt", "gonum.org/v1/gonum/internal/asm/f64", "os"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("public (-want +got):\n%s", diff)
	}
}
