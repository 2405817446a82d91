// Package setup opens what the configurations of Consilium's programs name by path and URI: the signed manifest, keys, the
// enclave's platform, storage. A new kind of storage or key is one case here.
package setup

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.uber.org/zap"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/hardware"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/identity"
	"consilium.dev/internal/keyring"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
	"consilium.dev/internal/tunnel"
)

// maxEnvelope is the most bytes of a signed manifest.
const maxEnvelope = 1 << 20

// maxSkew is the largest limit that can be set: facts say when something happened, and their readers shall be able to rely on it.
const maxSkew = time.Hour

// Enclave is what both daemons' configurations begin with. Paths are relative to the configuration's folder.
type Enclave struct {
	Name     string         `yaml:"name"`         // in the manifest
	Manifest string         `yaml:"manifest"`     // the signed envelope, manifest.dsse.json
	Anchor   string         `yaml:"anchor"`       // the manifest's digest, 64 hex digits
	Identity string         `yaml:"identity"`     // identity key, "file:PATH"
	Platform string         `yaml:"platform"`     // "auto", a type of evidence, perhaps with ":DEVICE", or "simulated:PATH"
	Store    string         `yaml:"store"`        // "dir:PATH"
	KEK      string         `yaml:"kek"`          // key-encryption key, "file:PATH" or a service's URI
	Previous string         `yaml:"kek_previous"` // the key-encryption key before that one, until the change is done
	Skew     entry.Duration `yaml:"skew"`         // most that clocks of two sides may differ; default skew.Default
	Out      string         `yaml:"out"`          // an enclave's way out, "vsock:CID:PORT" or a proxy's URL: key services, and coordinators that a participant dials
	Swap     string         `yaml:"swap"`         // if memory may be swapped: "warn" (also if absent) or "refuse"

	Grace entry.Duration `yaml:"grace"` // how long the program goes on after SIGINT or SIGTERM, to finish what it does; Open puts the default in
}

// defaultGrace is less than the shortest time after which what runs programs usually kills one that was asked to end.
const defaultGrace = entry.Duration(8 * time.Second)

// maxGrace bounds it, or a wrong unit would make a program that cannot be ended.
const maxGrace = entry.Duration(24 * time.Hour)

// Parts is what an Enclave names, open.
type Parts struct {
	Manifest *manifest.Manifest
	Identity crypto.Signer
	Attester attest.Attester
	Platform string // by which the Attester attests, in words
	Objects  store.Objects
	Head     store.Head
	KEK      store.Sealer  // Ring, for whoever seals
	Ring     *keyring.Ring // rests under the key-encryption key
	Close    func() error  // of the storage
}

// Open opens everything for a program of that office. A participant takes a first manifest only with the signature of its
// own member's governance key. Name and identity key must be those that the manifest gives the office, since every peer would
// refuse others.
func (c *Enclave) Open(ctx context.Context, env daemon.Env, office attest.Office) (*Parts, error) {
	if err := c.Times(); err != nil {
		return nil, err
	}
	if _, err := c.WayOut(); err != nil {
		return nil, err
	}
	memory, err := daemon.ProtectMemory(c.Swap) // before the first key is read
	if err != nil {
		return nil, err
	}
	var p Parts
	if p.Manifest, err = c.Agreed(env, office); err != nil {
		return nil, err
	}
	if p.Identity, err = c.Known(env, office, p.Manifest); err != nil {
		return nil, err
	}
	machine, err := c.Machine(ctx, env)
	if absent, ok := errors.AsType[*hardware.AbsentError](err); ok { // its text has many lines, and a log's fault has one
		for _, l := range absent.Looks {
			look(env.Log, l)
		}
		return nil, fmt.Errorf("platform %s: %s", c.Platform, absent.What())
	}
	if err != nil {
		return nil, err
	}
	p.Attester, p.Platform = machine, machine.String()
	log := env.Simulated(machine.Simulated())
	memory.Tell(log)
	tell(log, machine)
	path, err := c.Folder(env)
	if err != nil {
		return nil, err
	}
	d, err := dir.Open(path)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	p.Objects, p.Head, p.Close = d, d, d.Close
	if p.Ring, err = c.openRing(ctx, env, d, p.Attester); err != nil {
		return nil, errors.Join(fmt.Errorf("kek: %w", err), d.Close())
	}
	p.KEK = p.Ring
	return &p, nil
}

// WayOut returns the way through which the enclave reaches what is outside, nil where none is set: then it has a network of its own.
func (c *Enclave) WayOut() (*tunnel.Tunnel, error) {
	if c.Out == "" {
		return nil, nil
	}
	return tunnel.New(tunnel.Options{URL: c.Out, Setting: "out"})
}

// Times checks the times that are set, and puts the defaults in.
func (c *Enclave) Times() error {
	switch {
	case c.Grace == 0:
		c.Grace = defaultGrace
	case c.Grace < 0 || c.Grace > maxGrace:
		return fmt.Errorf("grace: %s: want a time up to %s", time.Duration(c.Grace), time.Duration(maxGrace))
	}
	if c.Skew < 0 || time.Duration(c.Skew) > maxSkew {
		return fmt.Errorf("skew: %s: want more than 0 and at most %s", time.Duration(c.Skew), maxSkew)
	}
	return nil
}

// Agreed returns the signed manifest, whose evidence this program can judge. A participant's is signed by its own member.
func (c *Enclave) Agreed(env daemon.Env, office attest.Office) (*manifest.Manifest, error) {
	member := ""
	if office == attest.Participant {
		member = c.Name
	}
	m, err := Manifest(env.Path(c.Manifest), c.Anchor, member)
	if err != nil {
		return nil, err
	}
	_, err = Verifiers(m)
	return m, err
}

// Known returns the identity key, which is the one that the manifest gives our name in that office.
func (c *Enclave) Known(env daemon.Env, office attest.Office, m *manifest.Manifest) (crypto.Signer, error) {
	k, err := identity.Open(env.URI(c.Identity))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	switch key, known := m.Key(office, c.Name); {
	case !known:
		return nil, fmt.Errorf("name: the manifest knows no %s %q", office, c.Name)
	case !key.Equal(k.Public()):
		return nil, fmt.Errorf("identity: %s is not the identity key that the manifest gives %s", c.Identity, c.Name)
	}
	return k, nil
}

// Machine returns what attests for the machine that we run on.
func (c *Enclave) Machine(ctx context.Context, env daemon.Env) (*platform.Machine, error) {
	m, err := platform.Open(ctx, env.URI(c.Platform), platform.Host{Now: time.Now, System: hardware.Linux("/")})
	if err != nil {
		return nil, fmt.Errorf("platform: %w", err)
	}
	return m, nil
}

// tell logs which platform was found, and why others were not.
func tell(log *zap.Logger, m *platform.Machine) {
	for _, l := range m.Looks {
		switch {
		case l == m.Found:
			log.Info("platform found", place(l)...)
		case l.Err == nil:
			log.Info("platform found and not used, since another comes first", place(l)...)
		default:
			look(log, l)
		}
	}
	if m.NoLog != nil {
		log.Warn("the event log of the guest's boot is not shown", zap.Error(m.NoLog))
	}
}

// place says which platform was looked for, and where.
func place(l hardware.Look) []zap.Field {
	return []zap.Field{zap.Stringer("platform", l.Type), zap.String("device", l.Device)}
}

// look logs why no platform was found at a place.
func look(log *zap.Logger, l hardware.Look) {
	log.Info("platform not found", append(place(l), zap.Error(l.Err))...)
}

// Folder returns the path of the store's folder.
func (c *Enclave) Folder(env daemon.Env) (string, error) {
	scheme, path, _ := strings.Cut(env.URI(c.Store), ":")
	if scheme != "dir" {
		return "", fmt.Errorf("store: %q: want dir:PATH", c.Store)
	}
	return path, nil
}

// ErrAnchor says that the configuration names no manifest.
var ErrAnchor = errors.New("anchor: want the manifest's digest, 64 hex digits, as \"consilium manifest build\" prints it")

// Manifest reads the signed manifest at path, which must have the digest anchor and, where member is not empty, the
// signature of that member's governance key. An anchor that is no digest is [ErrAnchor].
func Manifest(path, anchor, member string) (*manifest.Manifest, error) {
	var a manifest.Anchor
	if n, err := hex.Decode(a.Digest[:], []byte(anchor)); len(anchor) != 64 || err != nil || n != 32 {
		return nil, ErrAnchor
	}
	a.Member = member
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEnvelope+1))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", path, err)
	}
	if len(text) > maxEnvelope {
		return nil, fmt.Errorf("manifest %s: more than %d bytes", path, maxEnvelope)
	}
	m, err := manifest.Load(text, a)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", path, err)
	}
	return m, nil
}

// Verifiers returns a verifier for each type of evidence, with the simulated roots that the manifest names.
func Verifiers(m *manifest.Manifest) ([]attest.Verifier, error) {
	return platform.Verifiers(platform.Options{SimulatedRoots: m.SimulatedRoots()})
}
