package manifest

import (
	"crypto/ed25519"
	"crypto/x509"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/attest"
)

// Limits on the values of a document.
const (
	maxRounds      = 1 << 20
	maxRecords     = 1 << 29 // the largest weight that the sum of a round takes
	maxEpsilon     = 1000    // of a privacy budget: beyond it nothing is hidden
	maxDelta       = 0.1
	maxTTL         = 24 * time.Hour // also the most that a leaf lives
	maxCertificate = 8 << 10
	maxRootChain   = 8
)

// office is what the manifest says of one kind of enclave.
type office struct {
	types [][]attest.Type
	sets  []*set
	ttl   time.Duration
	pq    bool
}

// read fills m from a document. All faults go to the cursor.
func (m *Manifest) read(c cursor) {
	f := c.fields("schema", "federation", "epoch", "prev", "threshold", "members", "people", "coordinators", "witnesses",
		"old_log?", "roots?", "reference_sets", "offices", "runs", "readers")
	f["schema"].choice(Schema)
	m.federation = f["federation"].name()
	m.epoch = f["epoch"].whole(1, maxWhole)
	m.prev = readPrev(f["prev"], m.epoch)
	m.readMembers(f["members"])
	m.readThreshold(f["threshold"])
	m.readPeople(f["people"])
	m.readCoordinators(f["coordinators"])
	m.readWitnesses(f["witnesses"])
	m.readOldLog(f["old_log"])
	m.readRoots(f["roots"])
	m.readSets(f["reference_sets"])
	m.readOffices(f["offices"], f["reference_sets"])
	m.readRuns(f["runs"])
	r := f["readers"].fields("models", "metrics")
	m.readers = Readers{Models: each(r["models"], m.personName), Metrics: each(r["metrics"], m.personName)}
}

// mustBe notes a fault unless the value is want, for fields whose other value cannot be had.
func (c cursor) mustBe(want bool, otherwise string) {
	if c.is(truth) && c.truth() != want {
		c.fault("is %t: %s", !want, otherwise)
	}
}

// readPrev reads the digest of the manifest before: empty at epoch 1, and only there.
func readPrev(c cursor, epoch uint64) [32]byte {
	var prev [32]byte
	if !c.is(text) || epoch == 0 {
		return prev
	}
	if first := epoch == 1; first || c.v.text == "" {
		if first != (c.v.text == "") {
			c.fault("must be empty at epoch 1, and only there")
		}
		return prev
	}
	copy(prev[:], c.hex(len(prev)))
	return prev
}

func (m *Manifest) readMembers(c cursor) {
	for _, item := range c.items() {
		f := item.fields("name", "governance", "identity")
		one := Member{Name: f["name"].name(), Governance: f["governance"].key(), Identity: f["identity"].key()}
		if _, twice := m.Member(one.Name); twice {
			f["name"].fault("two members are named %q", one.Name)
		}
		m.members = append(m.members, one)
	}
	slices.SortStableFunc(m.members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
}

func (m *Manifest) readThreshold(c cursor) {
	k, n := c.whole(1, maxItems), len(m.members)
	if k == 0 || n == 0 {
		return
	}
	// With n/2 or less, two halves of the federation could sign two successors of one epoch.
	if m.threshold = int(k); 2*m.threshold <= n || m.threshold > n {
		c.fault("is %d of %d members, want more than half: %d to %d", k, n, n/2+1, n)
	}
}

func (m *Manifest) readPeople(c cursor) {
	for _, item := range c.items() {
		f := item.fields("name", "member", "key", "may")
		one := Person{Name: f["name"].name(), Member: f["member"].name(), Key: f["key"].key()}
		one.May = each(f["may"], func(c cursor) string { return c.choice("lead", "audit") })
		if _, twice := m.Person(one.Name); twice {
			f["name"].fault("two people are named %q", one.Name)
		}
		if _, known := m.Member(one.Member); !known {
			f["member"].fault("there is no member %q", one.Member)
		}
		m.people = append(m.people, one)
	}
	slices.SortStableFunc(m.people, func(a, b Person) int { return strings.Compare(a.Name, b.Name) })
}

func (m *Manifest) readCoordinators(c cursor) {
	m.coordinators = map[string]ed25519.PublicKey{}
	for _, item := range c.items() {
		f := item.fields("name", "identity")
		name, key := f["name"].name(), f["identity"].key()
		if _, twice := m.coordinators[name]; twice {
			f["name"].fault("two coordinators are named %q", name)
		}
		m.coordinators[name] = key
	}
}

// readWitnesses reads who remembers the log and how many of them decide, or that nobody does.
func (m *Manifest) readWitnesses(c cursor) {
	if c.v != nil && c.v.kind == object && c.v.field("none") != nil {
		w := c.fields("none", "reason")
		w["none"].mustBe(true, "name witnesses and their quorum, or write true and the reason")
		m.noWitnesses = w["reason"].words(maxReason)
		return
	}
	w := c.fields("quorum", "members")
	m.witnesses = each(w["members"], func(c cursor) string {
		name := c.name()
		if _, known := m.Member(name); name != "" && !known {
			c.fault("there is no member %q", name)
		}
		return name
	})
	slices.Sort(m.witnesses)
	m.quorum = int(w["quorum"].whole(1, maxItems))
	if k, n := m.quorum, len(m.witnesses); k > 0 && n > 0 && (2*k <= n || k > n) {
		// Two halves of the witnesses could cosign two histories of one log.
		w["quorum"].fault("is %d of %d witnesses, want more than half: %d to %d", k, n, n/2+1, n)
	}
}

// readOldLog reads the head of the log that the one which begins with this epoch takes the place of.
func (m *Manifest) readOldLog(c cursor) {
	if c.v == nil {
		return // the log goes on
	}
	f := c.fields("lines", "root")
	m.oldLog.Lines = int64(f["lines"].whole(1, maxWhole))
	copy(m.oldLog.Root[:], f["root"].hex(len(m.oldLog.Root)))
	if m.epoch == 1 {
		c.fault("there is no log before epoch 1")
	}
}

// personName reads the name of one of the people.
func (m *Manifest) personName(c cursor) string {
	name := c.name()
	if _, known := m.Person(name); name != "" && !known {
		c.fault("there is no person %q", name)
	}
	return name
}

func (m *Manifest) readRoots(c cursor) {
	m.roots = map[string][][]byte{}
	if c.v == nil {
		return // hardware only
	}
	names, values := c.entries()
	for i, v := range values {
		v.checkName(names[i])
		ders := each(v, cursor.certificate)
		if len(ders) > maxRootChain {
			v.fault("has %d certificates, want at most %d", len(ders), maxRootChain)
		}
		m.roots[names[i]] = ders
	}
}

// checkName notes a fault if a name that the author chose is not one.
func (c cursor) checkName(name string) {
	if c.v != nil {
		cursor{&value{kind: text, text: name, line: c.v.line}, c.path, c.all}.name()
	}
}

// certificate reads one X.509 certificate, DER in base64.
func (c cursor) certificate() []byte {
	der := c.base64(maxCertificate)
	if der == nil {
		return nil
	}
	if _, err := x509.ParseCertificate(der); err != nil {
		c.fault("is not a certificate: %v", err)
		return nil
	}
	return der
}

func (m *Manifest) readOffices(c, sets cursor) {
	f := c.fields("coordinator", "participant")
	m.offices = map[attest.Office]office{
		attest.Coordinator: m.readOffice(f["coordinator"]),
		attest.Participant: m.readOffice(f["participant"]),
	}
	used := map[string]bool{}
	for _, o := range m.offices {
		for _, s := range o.sets {
			used[s.name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.sets)) {
		if c.v != nil && !used[name] {
			sets.at(sets.v.field(name), name).fault("no office uses this set")
		}
	}
}

func (m *Manifest) readOffice(c cursor) office {
	f := c.fields("types", "sets", "appraisal_ttl", "pq")
	o := office{ttl: f["appraisal_ttl"].duration(maxTTL), pq: f["pq"].choice("require", "prefer") != "prefer"}
	taken := map[attest.Type]bool{} // false until a set judges it
	for _, list := range f["types"].items() {
		types := each(list, evidenceType)
		if len(types) > 1 {
			list.fault("names %d types: a peer shows the evidence of one platform", len(types))
		}
		for _, t := range types {
			if _, twice := taken[t]; twice {
				list.fault("stands twice")
			}
			taken[t] = false
		}
		o.types = append(o.types, types)
	}
	for _, item := range f["sets"].items() {
		s, known := m.sets[item.name()]
		if !known {
			item.fault("there is no such reference set")
			continue
		}
		if _, accepted := taken[s.typ]; !accepted {
			item.fault("judges %s, which is not among the office's types", s.typ)
		}
		if slices.Contains(o.sets, s) {
			item.fault("stands twice")
		}
		taken[s.typ] = true
		o.sets = append(o.sets, s)
	}
	for _, t := range slices.Sorted(maps.Keys(taken)) {
		if !taken[t] && t != 0 {
			f["types"].fault("no set of the office judges %s", t)
		}
	}
	return o
}

// evidenceType reads one of the types that a reference set can be about.
func evidenceType(c cursor) attest.Type {
	t, _ := attest.ParseType(c.choice(attest.SEVSNP.String(), attest.TDX.String(), attest.SGX.String(), attest.Nitro.String()))
	return t
}

func (m *Manifest) readRuns(c cursor) {
	f := c.fields("strategies", "trainers", "least_participants", "max_abs", "rounds_max", "records_max?", "privacy?")
	m.limits = Limits{
		Strategies:        each(f["strategies"], cursor.name),
		Trainers:          each(f["trainers"], func(c cursor) string { return c.token("-./:_", 2*maxName) }),
		LeastParticipants: int(f["least_participants"].whole(1, maxItems)),
		MaxAbs:            f["max_abs"].positive(math.MaxFloat32),
		RoundsMax:         int(f["rounds_max"].whole(1, maxRounds)),
	}
	if r := f["records_max"]; r.v != nil {
		m.limits.RecordsMax = int64(r.whole(1, maxRecords))
	}
	if p := f["privacy"]; p.v != nil {
		b := p.fields("unit", "epsilon", "delta")
		m.limits.Privacy = Budget{
			Unit: b["unit"].choice("participant", "record"), Epsilon: b["epsilon"].positive(maxEpsilon), Delta: b["delta"].positive(maxDelta),
		}
	}
	if n := len(m.members); n > 0 && m.limits.LeastParticipants > n {
		f["least_participants"].fault("is %d, but there are %d members", m.limits.LeastParticipants, n)
	}
}
