package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"consilium.dev/internal/blob/kms/file"
	"consilium.dev/internal/identity"
)

// The names of the files that init makes in a folder.
const (
	governanceFile = "governance.key"
	identityFile   = "identity.key"
	personFile     = "person.key"
	kekFile        = "kek.json"
	rootFile       = "root.json"
	machineFile    = "machine.json"
)

// initCommand returns the commands with which everybody begins. None of them needs a connection.
func initCommand(a *app) *cobra.Command {
	group := &cobra.Command{
		Use:   "init",
		Short: "Make keys and a first configuration",
		Long: `Init makes a folder with the keys of one party and a first configuration that says what has to be filled in. Private
keys are readable by nobody but you, and nothing that is there already is written over. On standard output goes what
others need of it, in the manifest's form and nothing else, so that a script can put it into manifest.yaml.

Who needs what:

  a member        init governance, on the computer of the person who signs for it, and
                  init member, on the machine of its participant
  a coordinator   init coordinator
  a person        init person: a research lead or an auditor
  a demonstration init simulated-root once, and init simulated-machine for each machine`,
		Example: `  consilium init governance ~/cleveland
  consilium init member /etc/consilium --name cleveland
  consilium init person ~/consilium --name lead`,
	}
	group.AddCommand(initGovernance(a), initMember(a), initCoordinator(a), initPerson(a), initRoot(a), initMachine(a))
	return group
}

// made is what init says of what it made.
type made struct {
	Name  string   `json:"name,omitempty"`
	Files []string `json:"files"`
	// What goes into the manifest: a public key, a root's certificates, or a machine's measurements.
	Key          string            `json:"key,omitempty"`
	Fingerprint  string            `json:"fingerprint,omitempty"` // of Key, as manifest show prints it
	Certificates [][]byte          `json:"certificates,omitempty"`
	Measurement  string            `json:"measurement,omitempty"`
	MRTD         string            `json:"mr_td,omitempty"`
	MREnclave    string            `json:"mr_enclave,omitempty"`
	PCRs         map[string]string `json:"pcrs,omitempty"`
}

// folder makes files in one folder and never writes over one.
type folder struct {
	dir   string
	files []string
}

// newFolder makes the folder if it is not there, and refuses one in which any of the files is there already, before anything
// is made.
func newFolder(dir string, files ...string) (*folder, error) {
	for _, f := range files {
		path := filepath.Join(dir, f)
		if _, err := os.Lstat(path); err == nil {
			return nil, refusedError("name another folder; a key that is lost cannot be made again", "%s is there already", path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return &folder{dir: dir}, os.MkdirAll(dir, 0o700)
}

func (f *folder) path(file string) string {
	path := filepath.Join(f.dir, file)
	f.files = append(f.files, path)
	return path
}

// key makes an Ed25519 key and returns what there is to say of it.
func (f *folder) key(file string) (made, error) {
	public, err := identity.Create(f.path(file))
	if err != nil {
		return made{}, err
	}
	return made{Key: identity.Text(public), Fingerprint: fingerprint(public)}, nil
}

// kek makes a key-encryption key.
func (f *folder) kek() error { return file.Create(f.path(kekFile)) }

// text makes a file that everybody may read.
func (f *folder) text(file, content string) error {
	w, err := os.OpenFile(f.path(file), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = w.WriteString(content)
	if err = errors.Join(err, w.Sync(), w.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", w.Name(), err)
	}
	return nil
}

// emitMade prints what was made: on standard output what goes into the manifest, and to the person which files there are now
// and what comes next.
func (a *app) emitMade(kind string, d made, forManifest string, next ...string) error {
	return a.emit("init."+kind, d, func(w *page) {
		w.printf("%s\n", forManifest)
		a.sayMade(d, next)
	})
}

func (a *app) sayMade(d made, next []string) {
	a.say("made %s", strings.Join(d.Files, ", "))
	if d.Fingerprint != "" {
		a.say("the key's fingerprint, for the others to compare when they sign: %s", d.Fingerprint)
	}
	for _, line := range next {
		a.say("%s", line)
	}
}

// checkName refuses what a manifest would refuse as a name.
func checkName(n string) error {
	ok := len(n) >= 1 && len(n) <= 63
	for _, c := range []byte(n) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-')
	}
	if !ok {
		return usageError("for example --name cleveland", "--name %q: want 1 to 63 of a-z, 0-9 and -", n)
	}
	return nil
}

func initGovernance(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "governance DIR",
		Short: "Make the key with which a member signs manifests",
		Long: "Governance makes DIR/governance.key. It belongs to a person of the member and never lies on a machine that runs a\n" +
			"coordinator or a participant: who has the governance keys of enough members can change what the federation is.",
		Args: oneArgument("folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := newFolder(args[0], governanceFile)
			if err != nil {
				return err
			}
			data, err := f.key(governanceFile)
			if err != nil {
				return err
			}
			data.Files = f.files
			return a.emitMade("governance", data, data.Key,
				"next: standard output has your entry's governance key for manifest.yaml, under members")
		},
	}
}

func initPerson(a *app) *cobra.Command {
	var person string
	cmd := &cobra.Command{
		Use:   "person DIR --name NAME",
		Short: "Make the key and the consilium.yaml of a research lead or an auditor",
		Args:  oneArgument("folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkName(person); err != nil {
				return err
			}
			f, err := newFolder(args[0], personFile, "consilium.yaml")
			if err != nil {
				return err
			}
			data, err := f.key(personFile)
			if err == nil {
				err = f.text("consilium.yaml", fill(personYAML, person))
			}
			if err != nil {
				return err
			}
			data.Name, data.Files = person, f.files
			return a.emitMade("person", data, data.Key,
				"next: standard output has your entry's key for manifest.yaml, under people",
				"then fill in "+filepath.Join(args[0], "consilium.yaml")+" and set CONSILIUM_CONFIG to its path")
		},
	}
	cmd.Flags().StringVar(&person, "name", "", "your name in the manifest")
	return cmd
}

// fill puts a name into the text of a configuration.
func fill(text, name string) string { return strings.ReplaceAll(text, "NAME", name) }

const personYAML = `# Who you are, and which coordinator you talk to. Paths are relative to this file. "consilium help config" says more.
person: NAME
key: file:person.key                # your private key; nobody but you may read it
manifest: manifest.dsse.json        # put the manifest that the members signed beside this file
anchor: ""                          # fill in: the manifest's digest, 64 hex digits, as a member tells you
coordinator:
  name: ""                          # fill in: its name in the manifest
  address: ""                       # fill in: host:port
`
