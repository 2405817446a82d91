package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"consilium.dev/cmd/internal/route"
	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/client"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/dialect"
	"consilium.dev/internal/identity"
	"consilium.dev/internal/strictyaml"
)

// maxConfig is the most bytes that a consilium.yaml may have.
const maxConfig = 64 << 10

// patience is how long one answer of the coordinator may take.
const patience = 30 * time.Second

// personConfig is consilium.yaml. Paths are relative to the file's folder.
type personConfig struct {
	Person      string            `yaml:"person"`   // in the manifest
	Key         string            `yaml:"key"`      // "file:PATH"
	Manifest    string            `yaml:"manifest"` // the signed envelope, manifest.dsse.json
	Anchor      string            `yaml:"anchor"`   // the manifest's digest, 64 hex digits
	Coordinator route.Coordinator `yaml:"coordinator"`
}

func configTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "config",
		Short: "The file consilium.yaml: who you are, and which coordinator you talk to",
		Long: `The commands run and model talk to a coordinator. Who you are and whom you talk to stands in consilium.yaml, which
consilium init person makes:

  person: lead                       # your name in the manifest
  key: file:person.key               # your private key, readable by nobody but you
  manifest: manifest.dsse.json       # the manifest that the members signed; newer ones are kept beside it
  anchor: 5f1c...                    # its digest, 64 hex digits, as a member of the federation told you
  coordinator:
    name: council                    # its name in the manifest
    address: council.example.org:7443      # or vsock:CID:PORT, from the host of its Nitro enclave
    proxy:                           # only where an HTTP proxy leads there, by CONNECT; without it the environment's
      url: http://proxy.example.org:3128   # HTTPS_PROXY and NO_PROXY count, and "proxy: none" turns them off
      user: me
      password_file: proxy.password  # one line, readable by nobody but you

Paths are relative to the file. The first of these that there is counts:

  1. the file that --config names
  2. the file that the environment's CONSILIUM_CONFIG names
  3. consilium.yaml in the current folder
  4. consilium/consilium.yaml in your configuration folder ($XDG_CONFIG_HOME, else ~/.config)`,
	}
}

// findConfig returns the path of the consilium.yaml that counts.
func findConfig(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if path := os.Getenv("CONSILIUM_CONFIG"); path != "" {
		return path, nil
	}
	looked := []string{"consilium.yaml"}
	if folder, err := os.UserConfigDir(); err == nil {
		looked = append(looked, filepath.Join(folder, "consilium", "consilium.yaml"))
	}
	for _, path := range looked {
		switch _, err := os.Stat(path); {
		case err == nil:
			return path, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", usageError("name it with --config", "looking for your configuration: %w", err)
		}
	}
	return "", usageError("name it with --config, or make one: consilium init person DIR --name NAME",
		"there is no %s", strings.Join(looked, " and no "))
}

// readConfig reads a consilium.yaml and makes its paths usable from the current folder.
func readConfig(path string) (personConfig, error) {
	var c personConfig
	f, err := os.Open(path)
	if err != nil {
		return c, usageError("see consilium help config", "opening your configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return c, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(text) > maxConfig {
		return c, usageError("is it a consilium.yaml?", "%s has more than %d bytes", path, maxConfig)
	}
	if err := strictyaml.Load(text, &c); err != nil {
		return c, usageError("see consilium help config", "%s: %w", path, err)
	}
	for _, field := range []struct{ name, value string }{
		{"person", c.Person},
		{"key", c.Key},
		{"manifest", c.Manifest},
		{"anchor", c.Anchor},
		{"coordinator.name", c.Coordinator.Name},
		{"coordinator.address", c.Coordinator.Address},
	} {
		if field.value == "" {
			return c, usageError("see consilium help config", "%s: %s is not filled in", path, field.name)
		}
	}
	c.Manifest = beside(path, c.Manifest)
	if scheme, file, ok := strings.Cut(c.Key, ":"); ok {
		c.Key = scheme + ":" + beside(path, file)
	}
	return c, nil
}

// beside returns p as a file at path means it.
func beside(path, p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(filepath.Dir(path), p)
}

// way returns the function that dials the coordinator, nil for straight there.
func (c *personConfig) way(path string) (func(context.Context, string) (net.Conn, error), error) {
	through, err := c.Coordinator.Tunnel(func(p string) string { return beside(path, p) }, nil)
	if err != nil {
		return nil, usageError("see consilium help config", "%s: %w", path, err)
	}
	if through == nil {
		return nil, nil
	}
	return through.Dial, nil
}

// connection is a client with what hints need to know of it.
type connection struct {
	*client.Client
	config       client.Config
	configFile   string
	manifestFile string
	epochs       *epochs
	argued       bool // the address stands on the command line, and not in configFile
}

// connect opens what the person's configuration names. It does not dial: an absent coordinator is the first call's error.
func (a *app) connect() (*connection, error) {
	c, err := a.configured()
	if err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return c, c.dial()
}

// configured is connect without a client, and without asking whether the manifest knows who is configured.
func (a *app) configured() (*connection, error) {
	path, err := findConfig(a.config)
	if err != nil {
		return nil, err
	}
	c, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	m, err := setup.Manifest(c.Manifest, c.Anchor, "")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFoundError("get the signed manifest from a member, or correct manifest: in "+path, "%w", err)
	}
	if err != nil {
		return nil, refusedError("manifest and anchor in "+path+" must be those that the members agreed on", "%w", err)
	}
	known, err := openEpochs(c.Manifest, m)
	if err != nil {
		return nil, err
	}
	m = known.now()
	verifiers, err := setup.Verifiers(m)
	if err != nil {
		return nil, refusedError("the manifest's roots are not usable", "%s: %w", c.Manifest, err)
	}
	key, err := identity.Open(c.Key)
	if err != nil {
		return nil, refusedError("your key is the file that consilium init person made; key: in "+path+" names it", "%w", err)
	}
	dial, err := c.way(path)
	if err != nil {
		return nil, err
	}
	return &connection{
		configFile: path, manifestFile: c.Manifest, epochs: known,
		config: client.Config{
			Person: c.Person, Key: key, Manifest: m, Coordinator: c.Coordinator.Name, Address: c.Coordinator.Address, Dial: dial,
			Verifiers: verifiers, Speech: dialect.Own(daemon.Version), Newer: known.adopt, Chain: known.after, Past: known.past,
		},
	}, nil
}

// check finds out before dialling what the coordinator would refuse without saying why.
func (c *connection) check() error {
	m, hint := c.config.Manifest, "correct it in "+c.configFile
	person, known := m.Person(c.config.Person)
	if !known {
		return refusedError(hint, "the manifest knows no person %q", c.config.Person)
	}
	if !person.Key.Equal(c.config.Key.Public()) {
		return refusedError(hint, "this is not the key that the manifest gives %s", c.config.Person)
	}
	if !slices.Contains(m.Coordinators(), c.config.Coordinator) {
		return refusedError(hint, "the manifest knows no coordinator %q", c.config.Coordinator)
	}
	return nil
}

// dial makes a new client; an old one is closed.
func (c *connection) dial() error {
	if c.Client != nil {
		c.Close()
	}
	var err error
	if c.Client, err = client.Dial(c.config); err != nil {
		return usageError("correct it in "+c.configFile, "%w", err)
	}
	return nil
}

// proxyHint is for an error that says itself what the proxy has against it.
func (c *connection) proxyHint() string {
	return fmt.Sprintf("proxy: under coordinator: in %s comes before the environment's HTTPS_PROXY; see consilium help config", c.configFile)
}

func (c *connection) reachHint() string {
	if c.argued {
		return fmt.Sprintf("is the coordinator running, and is %s its address?", c.config.Address)
	}
	return fmt.Sprintf("is the coordinator running, and is %s its address? (coordinator: in %s)", c.config.Address, c.configFile)
}

func (c *connection) trustHint() string {
	return "do not go around this: ask whether " + c.config.Coordinator + " runs what the manifest names, under this manifest " +
		"(anchor: in " + c.configFile + ")"
}

// ask connects and makes one short call.
func (a *app) ask(ctx context.Context, call func(context.Context, *connection) error) error {
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := within(ctx, patience, errNoAnswer)
	defer cancel()
	return explain(ctx, c, c.following(ctx, a, call))
}
