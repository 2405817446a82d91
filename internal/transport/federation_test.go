package transport_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/transport"
)

// The tests in this file's world judge by a signed manifest, and machines show evidence in the real formats.

var update = flag.Bool("update", false, "write the golden files anew")

// begin is when a synctest bubble begins, and when the simulated roots in testdata do.
var begin = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// clock returns a clock that goes on from begin at the pace of time.Now, in a bubble and outside.
func clock() func() time.Time {
	since := time.Now()
	return func() time.Time { return begin.Add(time.Since(since)) }
}

// rootIn returns the simulated root in a file of testdata. Its RSA keys take seconds to make, so they are kept.
func rootIn(file string) (*simulated.Root, error) {
	file = filepath.Join("testdata", file)
	if *update {
		root, err := simulated.NewRoot("demo", "Genoa", begin)
		if err != nil {
			return nil, err
		}
		text, err := root.Marshal()
		if err != nil {
			return nil, err
		}
		return root, os.WriteFile(file, text, 0o600)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return simulated.ParseRoot(text)
}

// realm is what machines are made of: the root that manifests name, another one of the same name, and machines under each.
type realm struct {
	root, lookalike *simulated.Root
	snp, nitro      *simulated.Machine // as the manifest wants them
	debug           *simulated.Machine // guests that may be debugged
	nitroDebug      *simulated.Machine
	changed         *simulated.Machine // of another measurement
	nitroChanged    *simulated.Machine
	foreign         *simulated.Machine // under the look-alike root
	nitroForeign    *simulated.Machine
	old             *simulated.Machine // with firmware below the floor
}

var theRealm = sync.OnceValues(func() (*realm, error) {
	r := &realm{}
	var err error
	if r.root, err = rootIn("root.json"); err != nil {
		return nil, err
	}
	if r.lookalike, err = rootIn("lookalike.json"); err != nil {
		return nil, err
	}
	zero, one := make([]byte, 48), bytes.Repeat([]byte{1}, 48)
	for _, m := range []struct {
		machine **simulated.Machine
		root    *simulated.Root
		snp     *simulated.SNPSpec
		nitro   *simulated.NitroSpec
	}{
		{&r.snp, r.root, &simulated.SNPSpec{}, nil},
		{&r.nitro, r.root, nil, &simulated.NitroSpec{}},
		{&r.debug, r.root, &simulated.SNPSpec{Debug: true}, nil},
		{&r.nitroDebug, r.root, nil, &simulated.NitroSpec{PCRs: map[int][]byte{0: zero, 1: zero, 2: zero}}},
		{&r.changed, r.root, &simulated.SNPSpec{Measurement: [48]byte{1}}, nil},
		{&r.nitroChanged, r.root, nil, &simulated.NitroSpec{PCRs: map[int][]byte{0: one}}},
		{&r.foreign, r.lookalike, &simulated.SNPSpec{}, nil},
		{&r.nitroForeign, r.lookalike, nil, &simulated.NitroSpec{}},
		{&r.old, r.root, &simulated.SNPSpec{Reported: &attest.TCB{Bootloader: 9, SNP: 22, Microcode: 72}}, nil},
	} {
		if m.snp != nil {
			*m.machine, err = m.root.SNP(*m.snp)
		} else {
			*m.machine, err = m.root.Nitro(*m.nitro)
		}
		if err != nil {
			return nil, err
		}
	}
	return r, nil
})

func aRealm(t testing.TB) *realm {
	t.Helper()
	r, err := theRealm()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// verifiers returns the product's own, trusting the realm's root.
func (r *realm) verifiers(t testing.TB) []attest.Verifier {
	t.Helper()
	all, err := platform.Verifiers(platform.Options{SimulatedRoots: map[string][][]byte{"demo": r.root.Certificates()}})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// manifestText is a manifest as people write it. What stands in angle brackets is filled in.
const manifestText = `schema: consilium.manifest/1
federation: heart
epoch: <epoch>
prev: "<prev>"
threshold: 2
members:
  - {name: north, governance: "<governance/north>", identity: "<participant/north>"}
  - {name: south, governance: "<governance/south>", identity: "<participant/south>"}
  - {name: west, governance: "<governance/west>", identity: "<participant/west>"}
people:
  - {name: ada, member: north, key: "<person/ada>", may: [lead, audit]}
coordinators:
  - {name: council, identity: "<coordinator/council>"}
witnesses: {none: true, reason: "a test"}
roots:
  demo: [<root>]
reference_sets:
  snp:
    type: sev-snp
    simulated: demo
    product_lines: [Genoa]
    measurements: ["<measurement>"]
    policy: {debug: false, migrate_ma: false, smt: false, abi_min: "1.55", single_socket: false}
    vmpl: 0
    tcb_min: {bootloader: 9, tee: 0, snp: 23, microcode: 72}
    platform_info:
      smt: false
      tsme: true
      ecc: true
      rapl_dis: true
      ciphertext_hiding: {any: true, reason: "not on this firmware"}
      alias_check_complete: true
    host_data: "0000000000000000000000000000000000000000000000000000000000000000"
    guest_svn_min: 1
    id_keys: {any: true, reason: "images are not signed"}
    chip_ids: {any: true, reason: "simulated chips"}
    revocation: {any: true, reason: "no list in a test"}
  nitro:
    type: nitro
    simulated: demo
    pcrs: {0: "<pcr0>", 1: "<pcr1>", 2: "<pcr2>"}
    max_age: 5m
    modules: {any: true, reason: "simulated modules"}
offices:
  coordinator: {types: [[sev-snp]], sets: [snp], appraisal_ttl: 30m, pq: require}
  participant: {types: [[sev-snp], [nitro]], sets: [snp, nitro], appraisal_ttl: 1h, pq: require}
runs:
  strategies: [fedavg]
  trainers: [builtin/logistic]
  least_participants: 2
  max_abs: 16
  rounds_max: <rounds>
readers: {models: [ada], metrics: [ada]}
`

func spki(t testing.TB, key ed25519.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

// envelopeOf returns the manifest of an epoch after the one given (nil before the first), with edits (old, new) of its
// text, signed by the members named.
func (r *realm) envelopeOf(t testing.TB, before *manifest.Manifest, signers []string, edits ...string) []byte {
	t.Helper()
	epoch, prev := uint64(1), ""
	if before != nil {
		d := before.Digest()
		epoch, prev = before.Epoch()+1, hex.EncodeToString(d[:])
	}
	var roots []string
	for _, der := range r.root.Certificates() {
		roots = append(roots, `"`+base64.StdEncoding.EncodeToString(der)+`"`)
	}
	measurement, pcrs := simulated.DefaultMeasurement(), simulated.DefaultPCRs()
	edits = append(edits, "<epoch>", fmt.Sprint(epoch), "<prev>", prev, "<root>", strings.Join(roots, ", "),
		"<measurement>", hex.EncodeToString(measurement[:]), "<rounds>", "200")
	for i := range 3 {
		edits = append(edits, fmt.Sprintf("<pcr%d>", i), hex.EncodeToString(pcrs[i]))
	}
	for _, who := range []string{
		"governance/north", "governance/south", "governance/west", "participant/north", "participant/south", "participant/west",
		"person/ada", "coordinator/council",
	} {
		edits = append(edits, "<"+who+">", spki(t, seeded(who)))
	}
	payload, err := manifest.Build([]byte(strings.NewReplacer(edits...).Replace(manifestText)))
	if err != nil {
		t.Fatal(err)
	}
	var envelope []byte
	for _, name := range signers {
		if envelope, err = manifest.Sign(envelope, payload, seeded("governance/"+name)); err != nil {
			t.Fatal(err)
		}
	}
	return envelope
}

// manifestOf returns the manifest of the first epoch, with edits of its text.
func (r *realm) manifestOf(t testing.TB, edits ...string) *manifest.Manifest {
	t.Helper()
	envelope := r.envelopeOf(t, nil, []string{"north", "south"}, edits...)
	open, err := manifest.OpenUnverified(envelope)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Load(envelope, manifest.Anchor{Digest: open.Digest()})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// realEnds returns the two sides of a connection to council, judged by one manifest. A participant called south runs on
// Nitro, any other on SEV-SNP.
func (r *realm) realEnds(t testing.TB, m *manifest.Manifest, dialler attest.Office, name string) *ends {
	t.Helper()
	e, now := newEnds(dialler, name), clock()
	for _, c := range []*transport.Config{&e.server, &e.client} {
		c.Federation, c.Epoch, c.Manifest, c.Policy, c.Now = m.Federation(), m.Epoch(), m.Digest(), m, now
		c.Verifiers = r.verifiers(t)
	}
	e.server.Attester = r.snp.Attester(now)
	if dialler == attest.Participant {
		e.client.Attester = r.snp.Attester(now)
		if name == "south" {
			e.client.Attester = r.nitro.Attester(now)
		}
	}
	return e
}
