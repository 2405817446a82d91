// Package internal_test holds what is asked of the whole house, whichever room it is about.
package internal_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew; read the difference before it is committed")

const module = "consilium.dev/"

// floors is the house, from the bottom. An import goes to a strictly lower floor. docs/design.md says what each floor is
// for, and TestDesignPage holds its table to this one.
var floors = [][]string{
	1: {
		"internal/entry", "internal/attest", "internal/store", "internal/strictyaml", "internal/keyfile", "internal/durable", "proto/consilium/v1",
		"internal/model", "internal/dataset", "internal/codec", "internal/aggregate", "internal/pages", "internal/privacy", "internal/mask",
	},
	2: {
		"internal/round", "internal/manifest", "internal/registry", "internal/attest/sevsnp", "internal/attest/nitro", "internal/attest/dcap", "internal/attest/dcap/dcaptest", "internal/attest/measure", "internal/attest/ear",
		"internal/store/dir", "internal/store/storetest", "internal/durable/powercut", "internal/blob/kms/file", "internal/blob/kms/call", "internal/skew", "internal/witness", "internal/socket",
	},
	3: {
		"internal/blob/kms/vault", "internal/blob/kms/aws", "internal/blob/kms/gcp", "internal/blob/kms/azure", "internal/blob/kms/kmstest",
		"internal/transport", "internal/keyring", "internal/ledger", "internal/blob", "internal/trainer", "internal/daemon", "internal/control", "internal/identity", "internal/dialect",
		"internal/attest/simulated", "internal/attest/tdx", "internal/attest/sgx", "internal/attest/hardware", "internal/attest/collateral", "internal/tunnel", "internal/tunnel/tunneltest", "internal/socket/sockettest",
	},
	4: {"internal/coordinator", "internal/participant", "internal/client", "internal/audit", "internal/backup", "internal/preflight", "internal/porter", "internal/attest/platform", "internal/attest/hardware/hardwaretest"},
	5: {"cmd/internal/setup", "cmd/internal/route"},
	6: {"cmd/coordinator", "cmd/participant", "cmd/consilium", "examples/hospitals/demo", "examples/hospitals/robust"},
}

// innocent are the rooms in which the same input always gives the same output.
var innocent = []string{
	"internal/model", "internal/dataset", "internal/codec", "internal/aggregate", "internal/privacy", "internal/entry", "internal/round",
	"internal/registry", "internal/manifest", "internal/witness",
	"internal/skew", "internal/mask",
}

// forTests are the rooms that only tests may import.
var forTests = []string{"internal/store/storetest", "internal/durable/powercut", "internal/tunnel/tunneltest", "internal/socket/sockettest", "internal/blob/kms/kmstest", "internal/attest/dcap/dcaptest", "internal/attest/hardware/hardwaretest"}

// wireFrom is the lowest floor that may know the wire's types.
const wireFrom = 4

// floorOf returns a room's floor, 0 for a room that is in no table.
func floorOf(room string) int {
	return max(0, slices.IndexFunc(floors, func(of []string) bool { return slices.Contains(of, room) }))
}

// source is one Go file that is not a test.
type source struct {
	room string // folder, relative to the module's root
	name string
	text []byte
}

// sources returns every Go file of the module that is not a test, of all operating systems.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	for _, name := range files(t) {
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, ".ci/") {
			continue
		}
		all = append(all, source{path.Dir(name), name, read(t, name)})
	}
	return all
}

// files returns the module's files with slashes, but those that are made and those of folders named testdata.
func files(t *testing.T) []string {
	t.Helper()
	var all []string
	err := fs.WalkDir(os.DirFS(".."), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".git", name == "bin", name == "demo", e.IsDir() && e.Name() == "testdata":
			if e.IsDir() {
				return fs.SkipDir
			}
		case e.Type().IsRegular():
			all = append(all, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// floorFaults says which imports of a file the floors forbid.
func floorFaults(s source) ([]string, error) {
	own := floorOf(s.room)
	if own == 0 {
		return []string{s.room + ": is on no floor: give it one in internal/house_test.go and docs/design.md"}, nil
	}
	f, err := parser.ParseFile(token.NewFileSet(), s.name, s.text, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var faults []string
	for _, i := range f.Imports {
		full, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		room, ours := strings.CutPrefix(full, module)
		of := floorOf(room)
		switch {
		case !ours:
		case slices.Contains(forTests, room):
			faults = append(faults, fmt.Sprintf("%s: imports %s, which is for tests", s.name, room))
		case of >= own:
			faults = append(faults, fmt.Sprintf("%s: floor %d imports %s of floor %d", s.name, own, room, of))
		case strings.HasPrefix(room, "proto/") && own < wireFrom:
			faults = append(faults, fmt.Sprintf("%s: floor %d imports the wire's types", s.name, own))
		}
	}
	return faults, nil
}

func TestFloors(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		seen[s.room] = true
		faults, err := floorFaults(s)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		for _, f := range faults {
			t.Error(f)
		}
	}
	for _, room := range slices.Concat(floors...) {
		if !seen[room] {
			t.Errorf("%s has a floor, but no code", room)
		}
	}
}

func TestInnocence(t *testing.T) {
	looked := map[string]bool{}
	for _, s := range sources(t) {
		if !slices.Contains(innocent, s.room) {
			continue
		}
		looked[s.room] = true
		faults, err := innocenceFaults(s)
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		for _, f := range faults {
			t.Error(f)
		}
	}
	if got, want := slices.Sorted(maps.Keys(looked)), slices.Sorted(slices.Values(innocent)); !slices.Equal(got, want) {
		t.Errorf("looked at %q, want %q", got, want)
	}
}

// TestLinked holds what each enclave's program is linked from to a list that reviewers read. Packages of the standard
// library that only the standard library may import are left out: they come and go with its versions.
func TestLinked(t *testing.T) {
	for _, program := range []string{"coordinator", "participant"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("go", "list", "-deps", "./cmd/"+program)
			cmd.Dir = ".."
			cmd.Env = append(cmd.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
			}
			compareLines(t, filepath.Join("testdata", program+".deps"), public(strings.Fields(string(out))))
		})
	}
}

// public sorts packages and leaves out the standard library's own.
func public(packages []string) []string {
	packages = slices.DeleteFunc(packages, func(p string) bool {
		first, _, _ := strings.Cut(p, "/")
		std := !strings.Contains(first, ".")
		return std && (first == "vendor" || slices.Contains(strings.Split(p, "/"), "internal"))
	})
	slices.Sort(packages)
	return packages
}

// compareLines compares got with the lines of a golden file.
func compareLines(t *testing.T, golden string, got []string) {
	t.Helper()
	text := strings.Join(got, "\n") + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(text, "\n")); diff != "" {
		t.Errorf("%s differs (-want +got); -update writes it anew:\n%s", golden, diff)
	}
}
