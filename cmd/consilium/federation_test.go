package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// makeFederation makes the example's federation with the program consilium, and an auditor in it, and returns its folder:
//
//	manifest.yaml manifest.json manifest.dsse.json plan.yaml    ANCHOR holds the digest
//	council/ lead/ auditor/ cleveland/ budapest/ switzerland/ longbeach/ governance/
//
// Its run has two rounds.
func makeFederation(t *testing.T, bin string) string {
	t.Helper()
	f := &federation{t: t, bin: bin, dir: t.TempDir(), words: map[string]string{}}
	f.word("identity key of council", "init", "coordinator", "council", "--name", "council")
	f.word("key of lead", "init", "person", "lead", "--name", "lead")
	auditor := f.consilium("init", "person", "auditor", "--name", "auditor")
	f.word("certificates-of-demo", "init", "simulated-root", "root", "--name", "demo")
	machine := []string{"init", "simulated-machine", "council", "--root", "root/root.json", "--type"}
	f.word("measurements-of-coordinator", append(machine, "sev-snp", "--measure", filepath.Join(bin, "coordinator"))...)
	for _, m := range hospitals {
		f.word("governance key of "+m, "init", "governance", "governance/"+m)
		f.word("identity key of "+m, "init", "member", m, "--name", m)
		machine[2] = m
		if m == "cleveland" || m == "budapest" {
			f.word("measurements-of-participant", append(machine, "sev-snp")...)
		} else {
			f.word("pcrs-of-participant", append(machine, "nitro")...)
		}
		f.copy("data/"+m+".data", m+"/records.csv")
		f.copy("data/"+m+".split.csv", m+"/split.csv")
	}
	f.words["\ncoordinators:"] = "\n  - {name: auditor, member: budapest, key: \"" + auditor + "\", may: [audit]}\ncoordinators:"
	// Without witnesses the coordinator goes on alone, as the scripts want it.
	f.copy("manifest.yaml", "manifest.yaml", "{quorum: 3, members: [cleveland, budapest, switzerland, longbeach]}", `{none: true, reason: "a test"}`)
	f.word("anchor of the manifest", "manifest", "build", "manifest.yaml")
	given := "manifest.json"
	for _, m := range hospitals {
		f.consilium("manifest", "sign", given, "--key", "governance/"+m+"/governance.key")
		given = "manifest.dsse.json"
	}
	f.copy("council.yaml", "council/coordinator.yaml")
	f.copy("lead.yaml", "lead/consilium.yaml")
	f.copy("lead.yaml", "auditor/consilium.yaml", "person: lead", "person: auditor")
	for _, m := range hospitals {
		f.copy(m+".yaml", m+"/participant.yaml")
	}
	f.copy("plan.yaml", "plan.yaml", "rounds: 50", "rounds: 2")
	f.write("ANCHOR", f.words["anchor of the manifest"]+"\n")
	return f.dir
}

var hospitals = []string{"cleveland", "budapest", "switzerland", "longbeach"}

// federation is one in the making.
type federation struct {
	t        *testing.T
	bin, dir string
	words    map[string]string // of the example's files, and what they mean
}

func (f *federation) consilium(args ...string) string {
	f.t.Helper()
	cmd := exec.Command(filepath.Join(f.bin, "consilium"), args...)
	cmd.Dir = f.dir
	var talk strings.Builder
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("consilium %s: %v\n%s", strings.Join(args, " "), err, talk.String())
	}
	return strings.TrimSpace(string(out))
}

// word makes what a command prints the meaning of a word.
func (f *federation) word(word string, args ...string) {
	f.t.Helper()
	f.words[word] = f.consilium(args...)
}

// copy copies a file of the example, with its words and the pairs of texts replaced.
func (f *federation) copy(from, to string, pairs ...string) {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "examples", "hospitals", from))
	if err != nil {
		f.t.Fatal(err)
	}
	text := strings.NewReplacer(pairs...).Replace(string(b))
	for word, meaning := range f.words {
		text = strings.ReplaceAll(text, word, meaning)
	}
	f.write(to, text)
}

func (f *federation) write(to, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, to), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}
