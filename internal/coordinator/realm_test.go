package coordinator_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

// hospitals are the members, as examples/hospitals has them.
var hospitals = []string{"budapest", "cleveland", "longbeach", "switzerland"}

// realm is what machines are made of, once for the whole test: making a root's keys takes seconds.
type realm struct {
	root    *simulated.Root
	council *simulated.Machine
	snp     *simulated.Machine
	nitro   *simulated.Machine
	judges  []attest.Verifier

	made sync.Map // *manifest.Manifest by its text: nearly all tests have the same, and a signed one never changes
}

// launched is the measurement of the coordinator's machine, another one than the participants'.
var launched = [48]byte{'c', 'o', 'u', 'n', 'c', 'i', 'l'}

var theRealm = sync.OnceValues(func() (*realm, error) {
	// The root begins when bubbles begin, in the year 2000.
	text, err := os.ReadFile(filepath.Join("..", "transport", "testdata", "root.json"))
	if err != nil {
		return nil, err
	}
	r := &realm{}
	if r.root, err = simulated.ParseRoot(text); err != nil {
		return nil, err
	}
	if r.council, err = r.root.SNP(simulated.SNPSpec{Measurement: launched}); err != nil {
		return nil, err
	}
	if r.snp, err = r.root.SNP(simulated.SNPSpec{}); err != nil {
		return nil, err
	}
	if r.nitro, err = r.root.Nitro(simulated.NitroSpec{}); err != nil {
		return nil, err
	}
	r.judges, err = platform.Verifiers(platform.Options{SimulatedRoots: map[string][][]byte{"demo": r.root.Certificates()}})
	return r, err
})

func aRealm(t testing.TB) *realm {
	t.Helper()
	r, err := theRealm()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// verifiers returns who judges evidence under a manifest, whichever it is.
func (r *realm) verifiers(*manifest.Manifest) ([]attest.Verifier, error) { return r.judges, nil }

// machine returns what a member's participant runs on.
func (r *realm) machine(member string) *simulated.Machine {
	if member == "budapest" || member == "cleveland" {
		return r.snp
	}
	return r.nitro
}

// keyOf returns the key of whom the tests call so, "participant/cleveland" and so on.
func keyOf(who string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("coordinator tests: " + who))
	return ed25519.NewKeyFromSeed(seed[:])
}

// manifestText is a manifest as people write it. What stands in angle brackets is filled in.
const manifestText = `schema: consilium.manifest/1
federation: four-hospitals
epoch: 1
prev: ""
threshold: 3
members:
  - {name: budapest, governance: "<governance/budapest>", identity: "<participant/budapest>"}
  - {name: cleveland, governance: "<governance/cleveland>", identity: "<participant/cleveland>"}
  - {name: longbeach, governance: "<governance/longbeach>", identity: "<participant/longbeach>"}
  - {name: switzerland, governance: "<governance/switzerland>", identity: "<participant/switzerland>"}
people:
  - {name: ada, member: cleveland, key: "<person/ada>", may: [lead, audit]}
  - {name: ben, member: budapest, key: "<person/ben>", may: [lead]}
  - {name: cara, member: longbeach, key: "<person/cara>", may: [audit]}
coordinators:
  - {name: council, identity: "<coordinator/council>"}
witnesses: {none: true, reason: "a test"}
roots:
  demo: [<root>]
reference_sets:
  council:
    type: sev-snp
    simulated: demo
    product_lines: [Genoa]
    measurements: ["<launched>"]
    policy: {debug: false, migrate_ma: false, smt: false, abi_min: "1.55", single_socket: false}
    vmpl: 0
    tcb_min: {bootloader: 9, tee: 0, snp: 23, microcode: 72}
    platform_info: {smt: false, tsme: true, ecc: true, rapl_dis: true, ciphertext_hiding: {any: true, reason: "none"}, alias_check_complete: true}
    host_data: "0000000000000000000000000000000000000000000000000000000000000000"
    guest_svn_min: 1
    id_keys: {any: true, reason: "images are not signed"}
    chip_ids: {any: true, reason: "simulated chips"}
    revocation: {any: true, reason: "no list in a test"}
  snp:
    type: sev-snp
    simulated: demo
    product_lines: [Genoa]
    measurements: ["<measurement>"]
    policy: {debug: false, migrate_ma: false, smt: false, abi_min: "1.55", single_socket: false}
    vmpl: 0
    tcb_min: {bootloader: 9, tee: 0, snp: 23, microcode: 72}
    platform_info: {smt: false, tsme: true, ecc: true, rapl_dis: true, ciphertext_hiding: {any: true, reason: "none"}, alias_check_complete: true}
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
  coordinator: {types: [[sev-snp]], sets: [council], appraisal_ttl: 1h, pq: require}
  participant: {types: [[sev-snp], [nitro]], sets: [snp, nitro], appraisal_ttl: 1h, pq: require}
runs:
  strategies: [<strategies>]
  trainers: [builtin/logistic]
  least_participants: 2
  max_abs: 1048576
  rounds_max: 200
readers: {models: [ada], metrics: [ada]}
`

// manifestOf returns the federation's manifest, with edits (old, new) of its text, signed by all members.
func (r *realm) manifestOf(t testing.TB, edits ...string) *manifest.Manifest {
	t.Helper()
	var roots []string
	for _, der := range r.root.Certificates() {
		roots = append(roots, `"`+base64.StdEncoding.EncodeToString(der)+`"`)
	}
	measurement := simulated.DefaultMeasurement()
	edits = append(edits, "<strategies>", strings.Join(aggregate.Strategies(), ", "), "<root>", strings.Join(roots, ", "), "<launched>", hex.EncodeToString(launched[:]),
		"<measurement>", hex.EncodeToString(measurement[:]))
	for i, pcr := range []string{"<pcr0>", "<pcr1>", "<pcr2>"} {
		edits = append(edits, pcr, hex.EncodeToString(simulated.DefaultPCRs()[i]))
	}
	who := []string{"person/ada", "person/ben", "person/cara", "coordinator/council"}
	for _, m := range hospitals {
		who = append(who, "governance/"+m, "participant/"+m)
	}
	for _, w := range who {
		der, err := x509.MarshalPKIXPublicKey(keyOf(w).Public())
		if err != nil {
			t.Fatal(err)
		}
		edits = append(edits, "<"+w+">", base64.StdEncoding.EncodeToString(der))
	}
	text := strings.NewReplacer(edits...).Replace(manifestText)
	if m, ok := r.made.Load(text); ok {
		return m.(*manifest.Manifest)
	}
	payload, err := manifest.Build([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var envelope []byte
	unsigned, err := manifest.OpenUnverified(payload)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range unsigned.Members() {
		if envelope, err = manifest.Sign(envelope, payload, keyOf("governance/"+m)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := manifest.Load(envelope, manifest.Anchor{Digest: manifest.Digest(payload), Member: "cleveland"})
	if err != nil {
		t.Fatal(err)
	}
	r.made.Store(text, m)
	return m
}

// sealer is a key-encryption key in memory.
type sealer struct{ key cipher.AEAD }

func newSealer(t testing.TB) *sealer {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key) // never fails: it ends the program
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return &sealer{gcm}
}

func (s *sealer) Seal(plaintext, ad []byte) ([]byte, error) {
	return s.key.Seal(nil, nil, plaintext, ad), nil
}

func (s *sealer) Open(ciphertext, ad []byte) ([]byte, error) {
	return s.key.Open(nil, nil, ciphertext, ad)
}

// disk is one party's storage, with the key that seals what is on it.
type disk struct {
	*storetest.Memory
	kek store.Sealer
}

func newDisk(t testing.TB) *disk {
	t.Helper()
	return &disk{storetest.New(), newSealer(t)}
}
