package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/blob/kms/file"
	"consilium.dev/internal/client"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/identity"
	"consilium.dev/internal/keyfile"
	"consilium.dev/internal/keyring"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/store/dir"
	"consilium.dev/internal/trainer"
)

// hospitals are the members, as examples/hospitals has them.
var hospitals = []string{"budapest", "cleveland", "longbeach", "switzerland"}

const examples = "../../examples/hospitals"

// theRoot is the private root of all simulated machines: making its keys takes seconds.
var theRoot = sync.OnceValues(func() (*simulated.Root, error) { return simulated.NewRoot("demo", "Genoa", time.Now()) })

// federation is one made of files, as its people would make it, and the processes that use them.
type federation struct {
	t        *testing.T
	dir      string
	manifest *manifest.Manifest
	words    map[string]string // of the example's files, and what they mean
	relays   map[string]*relay
	binary   string // of the participant

	mu      sync.Mutex // guards address
	address string     // of the coordinator
}

// newFederation makes keys, machines, the signed manifest and the configurations of the example, in a folder.
func newFederation(t *testing.T) *federation {
	t.Helper()
	f := &federation{t: t, dir: t.TempDir(), relays: map[string]*relay{}, words: map[string]string{}}
	f.must(os.MkdirAll(f.path("council"), 0o700))
	f.words["key of lead"] = identity.Text(f.key("lead.key"))
	f.words["identity key of council"] = identity.Text(f.key("council", "identity.key"))
	f.must(file.Create(f.path("council", "kek.json")))
	for _, m := range hospitals {
		f.must(os.MkdirAll(f.path(m), 0o700))
		f.words["governance key of "+m] = identity.Text(f.key(m, "governance.key"))
		f.words["identity key of "+m] = identity.Text(f.key(m, "identity.key"))
		f.must(file.Create(f.path(m, "kek.json")))
		f.copy("data/"+m+".data", m, "records.csv")
		f.copy("data/"+m+".split.csv", m, "split.csv")
		f.relays[m] = newRelay(t, f.where)
	}
	f.machines()
	f.sign()
	f.copy("council.yaml", "council", "coordinator.yaml")
	for _, m := range hospitals {
		f.words["127.0.0.1:7443"] = f.relays[m].lis.Addr().String()
		f.copy(m+".yaml", m, "participant.yaml")
	}
	f.listen("127.0.0.1:0")
	return f
}

func (f *federation) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *federation) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *federation) key(parts ...string) ed25519.PublicKey {
	f.t.Helper()
	key, err := identity.Create(f.path(parts...))
	f.must(err)
	return key
}

// copy copies one of the example's files with its words filled in.
func (f *federation) copy(from string, to ...string) {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, from))
	f.must(err)
	var words []string
	for word, meaning := range f.words {
		words = append(words, word, meaning)
	}
	f.must(os.WriteFile(f.path(to...), []byte(strings.NewReplacer(words...).Replace(string(text))), 0o600))
}

// listen writes the address at which the next coordinator listens.
func (f *federation) listen(address string) {
	f.t.Helper()
	name := f.path("council", "coordinator.yaml")
	text, err := os.ReadFile(name)
	f.must(err)
	head, _, _ := bytes.Cut(text, []byte("listen:"))
	f.must(os.WriteFile(name, fmt.Appendf(head, "listen: %q\n", address), 0o600))
}

// machines makes the simulated machines, and their words in the manifest.
func (f *federation) machines() {
	f.t.Helper()
	root, err := theRoot()
	f.must(err)
	save := func(m *simulated.Machine, err error, to string) {
		f.t.Helper()
		f.must(err)
		text, err := m.Marshal()
		f.must(err)
		f.must(keyfile.Create(f.path(to, "machine.json"), text))
	}
	launched := [48]byte{'c', 'o', 'u', 'n', 'c', 'i', 'l'}
	m, err := root.SNP(simulated.SNPSpec{Measurement: launched})
	save(m, err, "council")
	for _, name := range hospitals {
		if name == "cleveland" || name == "budapest" {
			m, err = root.SNP(simulated.SNPSpec{})
		} else {
			m, err = root.Nitro(simulated.NitroSpec{})
		}
		save(m, err, name)
	}
	var certs, pcrs []string
	for _, der := range root.Certificates() {
		certs = append(certs, `"`+base64.StdEncoding.EncodeToString(der)+`"`)
	}
	for i := range 3 {
		pcrs = append(pcrs, fmt.Sprintf("%d: %q", i, hex.EncodeToString(simulated.DefaultPCRs()[i])))
	}
	usual := simulated.DefaultMeasurement()
	f.words["certificates-of-demo"] = "[" + strings.Join(certs, ", ") + "]"
	f.words["measurements-of-coordinator"] = `["` + hex.EncodeToString(launched[:]) + `"]`
	f.words["measurements-of-participant"] = `["` + hex.EncodeToString(usual[:]) + `"]`
	f.words["pcrs-of-participant"] = "{" + strings.Join(pcrs, ", ") + "}"
}

// sign makes the manifest, signed by all members.
func (f *federation) sign() {
	f.t.Helper()
	f.copy("manifest.yaml", "manifest.yaml")
	text, err := os.ReadFile(f.path("manifest.yaml"))
	f.must(err)
	// Without witnesses the coordinator goes on alone; with them it is tried in package coordinator and by the demonstration.
	text = bytes.Replace(text, []byte("{quorum: 3, members: [cleveland, budapest, switzerland, longbeach]}"), []byte(`{none: true, reason: "a test"}`), 1)
	payload, err := manifest.Build(text)
	f.must(err)
	var envelope []byte
	for _, m := range hospitals {
		key, err := identity.Open("file:" + f.path(m, "governance.key"))
		f.must(err)
		envelope, err = manifest.Sign(envelope, payload, key)
		f.must(err)
	}
	f.must(os.WriteFile(f.path("manifest.dsse.json"), envelope, 0o600))
	digest := manifest.Digest(payload)
	f.words["anchor of the manifest"] = hex.EncodeToString(digest[:])
	f.manifest, err = setup.Manifest(f.path("manifest.dsse.json"), f.words["anchor of the manifest"], "")
	f.must(err)
}

// genes gives every member records of n numbers, another few each, and owners whom so few do not trouble.
func (f *federation) genes(n int) {
	f.t.Helper()
	for i, m := range hospitals {
		digits := rand.New(rand.NewPCG(1, uint64(i)))
		var text, split strings.Builder
		split.WriteString("line,set\n")
		for line := range 5 + i%2 {
			for range n {
				text.WriteByte(byte('0' + digits.IntN(10)))
				text.WriteByte(',')
			}
			fmt.Fprintf(&text, "%d\n", line%2)
			fmt.Fprintf(&split, "%d,%s\n", line+1, map[bool]string{true: "test", false: "train"}[line == 0])
		}
		f.must(os.WriteFile(f.path(m, "records.csv"), []byte(text.String()), 0o600))
		f.must(os.WriteFile(f.path(m, "split.csv"), []byte(split.String()), 0o600))
		config, err := os.ReadFile(f.path(m, "participant.yaml")) // it ends with the owner's policy
		f.must(err)
		f.must(os.WriteFile(f.path(m, "participant.yaml"), append(config, "  least_records: 1\n"...), 0o600))
	}
}

// coordinator starts a coordinator and waits until it serves: the real one, or one that stops. See asVariable.
func (f *federation) coordinator(as string) *process {
	f.t.Helper()
	p := launch(f.t, "coordinator ("+as+")", self(f.t, as, f.path("council", "coordinator.yaml")))
	p.log.line(f.t, "serving")
	f.reach(p)
	return p
}

// reach makes a coordinator that serves the newest.
func (f *federation) reach(p *process) {
	for line := range strings.Lines(p.says()) {
		if _, rest, found := strings.Cut(line, `"address":"`); found {
			f.mu.Lock()
			f.address, _, _ = strings.Cut(rest, `"`)
			f.mu.Unlock()
		}
	}
}

// where returns where the newest coordinator listens.
func (f *federation) where() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.address
}

// participant starts a member's participant, the real program.
func (f *federation) participant(name string) *process {
	f.t.Helper()
	if f.binary == "" {
		var err error
		f.binary, err = building()
		f.must(err)
	}
	return launch(f.t, name, command(f.binary, f.path(name, "participant.yaml")))
}

// lead returns a client of the coordinator as it is now.
func (f *federation) lead() *client.Client {
	f.t.Helper()
	key, err := identity.Open("file:" + f.path("lead.key"))
	f.must(err)
	verifiers, err := setup.Verifiers(f.manifest)
	f.must(err)
	c, err := client.Dial(client.Config{
		Person: "lead", Key: key, Manifest: f.manifest, Coordinator: "council", Address: f.where(), Verifiers: verifiers,
	})
	f.must(err)
	return c
}

// start starts a run.
func (f *federation) start(p entry.Plan) string {
	f.t.Helper()
	c := f.lead()
	defer c.Close()
	started, err := c.Start(f.t.Context(), "request of "+p.Name, p)
	f.must(err)
	return started.Run
}

// completed waits for a run's end, downloads its last model and returns the model's digest, as its file has it.
func (f *federation) completed(council *process, run string) entry.Digest {
	f.t.Helper()
	council.log.line(f.t, "run ended", "run", run)
	c := f.lead()
	defer c.Close()
	r, err := c.Run(f.t.Context(), run)
	f.must(err)
	if r.State != "completed" {
		f.t.Fatalf("run is %s: %s", r.State, r.Reason)
	}
	m, err := c.Model(f.t.Context(), r.History[len(r.History)-1].Model.String())
	f.must(err)
	text, err := os.Create(filepath.Join(f.t.TempDir(), "model"))
	f.must(err)
	defer text.Close()
	f.must(c.Export(f.t.Context(), m, text)) // it checks the digest
	return m.ID
}

// plan returns the example's plan with changes.
func plan(t *testing.T, change ...func(*entry.Plan)) entry.Plan {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(examples, "plan.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := trainer.ParsePlan(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(&p)
	}
	return p
}

// log is a coordinator's log, read back and verified, and what else its storage holds.
type log struct {
	facts []entry.Fact
	loose []int64 // sizes of the sealed blobs that no fact names
}

// replay opens the log as a coordinator's next boot would, in a copy of its folder: the original stays as it was left.
func (f *federation) replay() log {
	f.t.Helper()
	copied := filepath.Join(f.t.TempDir(), "store")
	f.must(os.CopyFS(copied, os.DirFS(f.path("council", "store"))))
	d, err := dir.Open(copied)
	f.must(err)
	defer d.Close()
	kek, err := file.Open(f.path("council", "kek.json"))
	f.must(err)
	ctx := context.Background()
	ring, err := keyring.Open(ctx, keyring.Config{Objects: d, Key: keyring.Key{URI: "file:kek.json", AEAD: kek}})
	f.must(err)
	key, err := ledger.OpenKey(ctx, d, ring, "consilium.dev/four-hospitals")
	f.must(err)
	l, err := ledger.Open(ctx, ledger.Config{Objects: d, Head: d, Sealer: ring, Key: key})
	f.must(err)
	var out log
	named := map[string]bool{}
	for text, err := range l.Entries(ctx, 0) {
		f.must(err)
		line, err := entry.Decode(text)
		f.must(err)
		out.facts = append(out.facts, line.Fact)
		for _, b := range blobsOf(line.Fact) {
			named[b.Sealed.String()] = true
		}
	}
	for name, err := range d.List(ctx, "blob/") {
		f.must(err)
		if named[name[strings.LastIndexByte(name, '/')+1:]] {
			continue
		}
		info, err := os.Stat(filepath.Join(copied, "objects", filepath.FromSlash(name)))
		f.must(err)
		out.loose = append(out.loose, info.Size())
	}
	return out
}

// blobsOf returns the blobs that a fact names.
func blobsOf(f entry.Fact) []entry.Blob {
	switch f := f.(type) {
	case entry.Booted:
		return []entry.Blob{f.Evidence}
	case entry.Admitted:
		return []entry.Blob{f.Kept}
	case entry.RunCreated:
		if f.Initial != nil {
			return []entry.Blob{*f.Initial}
		}
	case entry.RoundClosed:
		if f.State != nil {
			return []entry.Blob{f.Blob, *f.State}
		}
		return []entry.Blob{f.Blob}
	}
	return nil
}
