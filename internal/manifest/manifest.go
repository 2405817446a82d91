// Package manifest holds what the members of a federation agreed on, and judges by it whom to admit.
//
// People write YAML; [Build] turns it into canonical JSON (RFC 8785). Those bytes are the manifest, and their SHA-256, its
// [Digest], names it in every handshake. [Sign] adds the signatures of members' governance keys in one DSSE envelope, the
// only form that programs load.
//
// What judges the signatures stands in the signed bytes themselves, so whoever loads a manifest must already know
// something about it. [Load] takes an [Anchor]: the digest, from the program's own configuration. [Manifest.Successor]
// takes the manifest before: a new epoch needs the old epoch's threshold. [OpenUnverified] takes nothing and promises
// nothing, and is for showing only.
//
//	payload, err := manifest.Build(text)                      // on a laptop, once
//	envelope, err := manifest.Sign(nil, payload, governance)  // by k people, one after the other
//	m, err := manifest.Load(envelope, manifest.Anchor{Digest: digest, Member: "cleveland"})
//	appraisal, err := m.Appraise(peer, claims, now)           // in each handshake
//
// A [Manifest] is an [attest.Policy]. Its reference sets say field by field what evidence must show; a field that is not
// judged says so with a reason, which every appraisal repeats. What a set cannot name is refused: unknown platform bits,
// CXL memory, trusted I/O. Evidence matches one set wholly or is refused.
//
// A manifest names three kinds of keys: governance keys sign manifests and nothing else; identity keys endorse the leaves
// of participants and coordinators; a person's key speaks for that person. No key stands twice.
//
// Errors of [Build] name all faults of a text with their lines. Errors of [Load], [Manifest.Successor] and
// [OpenUnverified] are [*attest.Error] of the class MANIFEST. All of this package is pure: time is an argument.
package manifest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gowebpki/jcs"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/strictyaml"
)

// Schema is the first field of every manifest of this version of the format.
const Schema = "consilium.manifest/1"

// The most bytes that a manifest may have: as YAML, as canonical JSON, and signed. A payload at its limit fits into an
// envelope with all its members' signatures, and an envelope into one frame of the attested channel.
const (
	maxText     = 1 << 20
	maxPayload  = 1 << 19
	maxEnvelope = 1 << 20
)

// Manifest is one epoch of a federation. It is immutable and safe for concurrent use. What its methods return belongs to
// the caller.
type Manifest struct {
	envelope, payload []byte
	digest            [32]byte // of payload; each call of a peer is held against it
	signers, former   []string

	federation   string
	epoch        uint64
	prev         [32]byte
	threshold    int
	members      []Member // ascending by name
	people       []Person // ascending by name
	coordinators map[string]ed25519.PublicKey
	witnesses    []string // ascending
	quorum       int
	noWitnesses  string // the reason why there are none
	oldLog       OldLog // zero where the log goes on
	roots        map[string][][]byte
	sets         map[string]*set
	offices      map[attest.Office]office
	limits       Limits
	readers      Readers
}

// Member is one party to the federation. Governance signs manifests; Identity endorses the leaves of its participants.
type Member struct {
	Name                 string
	Governance, Identity ed25519.PublicKey
}

// Person is someone who may speak to a coordinator: a research lead ("lead" in May) or an auditor ("audit").
type Person struct {
	Name   string
	Member string // whose person it is
	Key    ed25519.PublicKey
	May    []string
}

// Limits is what a run may ask for.
type Limits struct {
	Strategies        []string
	Trainers          []string
	LeastParticipants int     // a run's quorum may not be lower
	MaxAbs            float64 // the most that a plan's max_abs may be
	RoundsMax         int
	RecordsMax        int64 // the most records that a member may declare; 0 where the manifest does not say
	Privacy           Budget
}

// Budget is the most privacy that all runs together may spend; zero where the manifest sets none, and then no run may ask for noise.
// Where it sets one, each run has to.
type Budget struct {
	Unit    string // "participant": what a whole member gave is hidden; "record": one row of one member's
	Epsilon float64
	Delta   float64
}

// defaultRecords is the most records that a member may declare where the manifest does not say.
const defaultRecords = 1_000_000

// Records returns the most records that a member may declare for a run. One member's number makes the mean of all coarser:
// what it declares is bounded so that none can make it too coarse for a plan.
func (l Limits) Records() int64 {
	if l.RecordsMax == 0 {
		return defaultRecords
	}
	return l.RecordsMax
}

// Readers names the people who may read model versions, and the metrics of runs.
type Readers struct{ Models, Metrics []string }

// Build turns the YAML that people write into a manifest, canonical JSON, ready to be signed. It refuses what [Load] would
// refuse; its error names all faults of the text with their lines.
func Build(yamlText []byte) ([]byte, error) {
	if len(yamlText) > maxText {
		return nil, fmt.Errorf("the text has %d bytes, want at most %d", len(yamlText), maxText)
	}
	tree, err := strictyaml.Parse(yamlText)
	if err != nil {
		return nil, err
	}
	all := newFaults()
	document := fromYAML(tree, 0, all)
	new(Manifest).read(cursor{&document, "", all})
	if err := all.err(); err != nil {
		return nil, err
	}
	payload, err := jcs.Transform(document.appendJSON(nil))
	if err != nil {
		return nil, fmt.Errorf("writing canonical JSON: %w", err)
	}
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("the manifest has %d bytes, want at most %d", len(payload), maxPayload)
	}
	return payload, nil
}

// Digest returns the digest that names the manifest with this payload: its SHA-256.
func Digest(payload []byte) [32]byte { return sha256.Sum256(payload) }

// parse reads a payload, which must be in its canonical form.
func parse(payload []byte) (*Manifest, error) {
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("the manifest has %d bytes, want at most %d", len(payload), maxPayload)
	}
	// Our own reader goes first: it bounds depth and width before anything else sees the bytes.
	document, err := fromJSON(payload)
	if err != nil {
		return nil, err
	}
	canonical, err := jcs.Transform(payload)
	if err != nil {
		return nil, fmt.Errorf("canonical form: %w", err)
	}
	if !bytes.Equal(canonical, payload) {
		return nil, fmt.Errorf("the manifest is not in canonical form (RFC 8785): make it with consilium manifest build")
	}
	m, all := &Manifest{payload: bytes.Clone(payload), digest: Digest(payload)}, newFaults()
	m.read(cursor{&document, "", all})
	if err := all.err(); err != nil {
		return nil, err
	}
	return m, nil
}

// Federation returns the federation's name.
func (m *Manifest) Federation() string { return m.federation }

// Epoch returns the epoch, from 1.
func (m *Manifest) Epoch() uint64 { return m.epoch }

// Digest returns the manifest's name: the SHA-256 of its payload.
func (m *Manifest) Digest() [32]byte { return m.digest }

// Previous returns the digest of the manifest that this one replaces, zero at epoch 1.
func (m *Manifest) Previous() [32]byte { return m.prev }

// Payload returns the canonical JSON.
func (m *Manifest) Payload() []byte { return bytes.Clone(m.payload) }

// Envelope returns the signed form, byte for byte as it was loaded.
func (m *Manifest) Envelope() []byte { return bytes.Clone(m.envelope) }

// Threshold returns how many members' governance keys must sign.
func (m *Manifest) Threshold() int { return m.threshold }

// Signers returns the members whose governance key signed this manifest, ascending.
func (m *Manifest) Signers() []string { return slices.Clone(m.signers) }

// FormerSigners returns the members of the manifest before this one who signed it with a governance key that this one does not give
// to a member any more, ascending. It is known of a manifest that [Manifest.Successor] opened only.
func (m *Manifest) FormerSigners() []string { return slices.Clone(m.former) }

// Members returns the members' names, ascending.
func (m *Manifest) Members() []string {
	var names []string
	for _, one := range m.members {
		names = append(names, one.Name)
	}
	return names
}

// Member returns the member of that name, and false if there is none.
func (m *Manifest) Member(name string) (Member, bool) {
	for _, one := range m.members {
		if one.Name == name {
			one.Governance, one.Identity = slices.Clone(one.Governance), slices.Clone(one.Identity)
			return one, true
		}
	}
	return Member{}, false
}

// People returns everyone who may speak to a coordinator, ascending by name.
func (m *Manifest) People() []Person {
	var all []Person
	for _, one := range m.people {
		all = append(all, one.clone())
	}
	return all
}

// Person returns the person of that name, and false if there is none.
func (m *Manifest) Person(name string) (Person, bool) {
	for _, one := range m.people {
		if one.Name == name {
			return one.clone(), true
		}
	}
	return Person{}, false
}

func (p Person) clone() Person {
	p.Key, p.May = slices.Clone(p.Key), slices.Clone(p.May)
	return p
}

// Coordinators returns the coordinators' names, ascending.
func (m *Manifest) Coordinators() []string { return slices.Sorted(maps.Keys(m.coordinators)) }

// Limits returns what a run may ask for.
func (m *Manifest) Limits() Limits {
	l := m.limits
	l.Strategies, l.Trainers = slices.Clone(l.Strategies), slices.Clone(l.Trainers)
	return l
}

// Readers returns who may read models and metrics.
func (m *Manifest) Readers() Readers {
	return Readers{Models: slices.Clone(m.readers.Models), Metrics: slices.Clone(m.readers.Metrics)}
}

// MayReadModels reports whether the person of that name may read model versions.
func (m *Manifest) MayReadModels(person string) bool {
	return slices.Contains(m.readers.Models, person)
}

// MayReadMetrics reports whether the person of that name may read the metrics of runs.
func (m *Manifest) MayReadMetrics(person string) bool {
	return slices.Contains(m.readers.Metrics, person)
}

// Witnesses says who remembers the log, as the log has it: "QUORUM of N: NAME, NAME", or "none: REASON" where nothing protects it
// against being rolled back.
func (m *Manifest) Witnesses() string {
	if m.quorum == 0 {
		return "none: " + m.noWitnesses
	}
	return fmt.Sprintf("%d of %d: %s", m.quorum, len(m.witnesses), strings.Join(m.witnesses, ", "))
}

// Quorum returns the members that are witnesses of the log, ascending, and how many of them decide: more than half. Both are
// zero where there are none.
func (m *Manifest) Quorum() (witnesses []string, quorum int) {
	return slices.Clone(m.witnesses), m.quorum
}

// IsWitness reports whether the member of that name is a witness of the log.
func (m *Manifest) IsWitness(member string) bool { return slices.Contains(m.witnesses, member) }

// OldLog is the last head that is known of a log whose key-encryption key or store is lost.
type OldLog struct {
	Lines int64
	Root  [32]byte // Merkle tree hash (RFC 6962) of so many lines
}

// OldLog returns the head of the log that ends with the epoch before, and true, where the members have agreed that a new log begins
// with this epoch. Its first line names that head, a log that has lines already does not go on under this epoch, and a witness
// that knows the old log, and no more of it than is named here, keeps the new one from then on.
func (m *Manifest) OldLog() (OldLog, bool) { return m.oldLog, m.oldLog.Lines > 0 }

// SimulatedRoots returns the private roots of simulated platforms, DER, under the names that claims carry in
// [attest.Claims].Simulated. It is empty where all members run on hardware.
func (m *Manifest) SimulatedRoots() map[string][][]byte {
	roots := map[string][][]byte{}
	for name, ders := range m.roots {
		for _, der := range ders {
			roots[name] = append(roots[name], bytes.Clone(der))
		}
	}
	return roots
}
