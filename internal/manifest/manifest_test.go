package manifest_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/manifest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// digest names testdata/manifest.json. It stands in others' configurations: it may not change.
const digest = "830fe806392da71f3675f060e0bdd2b77ae3ac8818b9c0e12c05f4e90f0ad1e1"

// key returns the key that the test manifests name, from its words: "governance cleveland", "person lead".
func key(words string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(words))
	return ed25519.NewKeyFromSeed(seed[:])
}

// public returns a key as manifests spell it.
func public(t testing.TB, words string) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key(words).Public())
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// edited returns text with each of the pairs (old, new) replaced once; each old must be there.
func edited(t testing.TB, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the text has no %q", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

func build(t testing.TB, text string) []byte {
	t.Helper()
	payload, err := manifest.Build([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// signed returns the payload's envelope with the signatures of the members named.
func signed(t testing.TB, payload []byte, members ...string) []byte {
	t.Helper()
	var envelope []byte
	for _, name := range members {
		var err error
		if envelope, err = manifest.Sign(envelope, payload, key("governance "+name)); err != nil {
			t.Fatal(err)
		}
	}
	return envelope
}

func loaded(t testing.TB, name string, members ...string) *manifest.Manifest {
	t.Helper()
	payload := build(t, read(t, name))
	m, err := manifest.Load(signed(t, payload, members...), manifest.Anchor{Digest: manifest.Digest(payload)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestGolden(t *testing.T) {
	payload := build(t, read(t, "manifest.yaml"))
	envelope := signed(t, payload, "cleveland", "budapest", "longbeach")
	for name, got := range map[string][]byte{"manifest.json": payload, "manifest.dsse.json": envelope} {
		if *update {
			if err := os.WriteFile(filepath.Join("testdata", name), got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(read(t, name), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	sum := manifest.Digest(payload)
	if got := hex.EncodeToString(sum[:]); got != digest {
		t.Errorf("Digest = %s, want %s", got, digest)
	}
}

func TestAccessors(t *testing.T) {
	m := loaded(t, "manifest.yaml", "longbeach", "budapest", "cleveland")
	lead, _ := m.Person("lead")
	council, _ := m.Key(attest.Coordinator, "council")
	budapest, _ := m.Member("budapest")
	for _, test := range []struct {
		name      string
		got, want any
	}{
		{"Federation", m.Federation(), "four-hospitals"},
		{"Epoch", m.Epoch(), uint64(1)},
		{"Previous", m.Previous(), [32]byte{}},
		{"Digest", m.Digest(), manifest.Digest(m.Payload())},
		{"Threshold", m.Threshold(), 3},
		{"Members", m.Members(), []string{"budapest", "cleveland", "longbeach", "switzerland"}},
		{"Signers", m.Signers(), []string{"budapest", "cleveland", "longbeach"}},
		{"Coordinators", m.Coordinators(), []string{"council"}},
		{"governance", budapest.Governance, key("governance budapest").Public()},
		{"identity", budapest.Identity, key("identity budapest").Public()},
		{"council", council, key("identity council").Public()},
		{"Person", lead, manifest.Person{
			Name: "lead", Member: "cleveland", May: []string{"lead", "audit"},
			Key: key("person lead").Public().(ed25519.PublicKey),
		}},
		{"People", len(m.People()), 2},
		{"People ascending", m.People()[0].Name, "auditor"},
		{"Limits", m.Limits(), manifest.Limits{
			Strategies: []string{"fedavg", "fedadam"}, Trainers: []string{"builtin/logistic"},
			LeastParticipants: 3, MaxAbs: 1 << 20, RoundsMax: 200,
		}},
		{"Readers", m.Readers(), manifest.Readers{Models: []string{"lead"}, Metrics: []string{"lead"}}},
		{"MayReadModels", []bool{m.MayReadModels("lead"), m.MayReadModels("auditor")}, []bool{true, false}},
		{"MayReadMetrics", []bool{m.MayReadMetrics("lead"), m.MayReadMetrics("auditor")}, []bool{true, false}},
		{"Witnesses", m.Witnesses(), "none: demonstration on one machine"},
		{"SimulatedRoots", len(m.SimulatedRoots()["demo"]), 1},
		{"Types", m.Types(attest.Participant), [][]attest.Type{{attest.SEVSNP}, {attest.Nitro}}},
		{"Types of people", m.Types(attest.Person), [][]attest.Type{{attest.Signature}}},
		{"Types of nobody", m.Types(0), [][]attest.Type(nil)},
	} {
		if diff := cmp.Diff(test.want, test.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	for _, none := range []string{"", "council", "nobody"} {
		if _, ok := m.Member(none); ok {
			t.Errorf("there is a member %q", none)
		}
		if _, ok := m.Person(none); ok {
			t.Errorf("there is a person %q", none)
		}
	}
}

// Models and metrics have readers of their own.
func TestReaders(t *testing.T) {
	payload := build(t, edited(t, read(t, "manifest.yaml"), "metrics: [lead]", "metrics: [auditor]"))
	m, err := manifest.OpenUnverified(payload)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		person          string
		models, metrics bool
	}{{"lead", true, false}, {"auditor", false, true}, {"cleveland", false, false}, {"", false, false}} {
		if models, metrics := m.MayReadModels(test.person), m.MayReadMetrics(test.person); models != test.models || metrics != test.metrics {
			t.Errorf("%q may read models %t and metrics %t, want %t and %t", test.person, models, metrics, test.models, test.metrics)
		}
	}
}

// What callers do to what they are given must not change the manifest.
func TestImmutable(t *testing.T) {
	m := loaded(t, "manifest.yaml", "longbeach", "budapest", "cleveland")
	// Written down, since what shares memory with the manifest would change along with it.
	said := func() string {
		return fmt.Sprintf("%s %s %v %v %v %v %v %v", m.Payload(), m.Envelope(), m.Members(), m.People(), m.Limits(), m.Readers(),
			m.SimulatedRoots(), m.Signers())
	}
	before := said()
	m.Payload()[0], m.Envelope()[0] = 'x', 'x'
	m.Members()[0], m.Signers()[0] = "x", "x"
	m.People()[0].Key[0] ^= 1
	m.People()[0].May[0] = "lead"
	m.Limits().Strategies[0], m.Limits().Trainers[0] = "x", "x"
	m.Readers().Models[0], m.Readers().Metrics[0] = "x", "x"
	m.SimulatedRoots()["demo"][0][0] ^= 1
	m.Types(attest.Participant)[0][0] = attest.TDX
	one, _ := m.Member("budapest")
	one.Governance[0], one.Identity[0] = one.Governance[0]^1, one.Identity[0]^1
	for _, office := range []attest.Office{attest.Coordinator, attest.Participant, attest.Person} {
		name := map[attest.Office]string{1: "council", 2: "budapest", 3: "lead"}[office]
		held, _ := m.Key(office, name)
		held[0] ^= 1
		if again, _ := m.Key(office, name); again.Equal(held) {
			t.Errorf("the key of %s %s was changed", office, name)
		}
	}
	if diff := cmp.Diff(before, said()); diff != "" {
		t.Error(diff)
	}
	if got := m.Types(attest.Participant)[0][0]; got != attest.SEVSNP {
		t.Errorf("Types was changed to %v", got)
	}
}

func TestKey(t *testing.T) {
	m := loaded(t, "manifest.yaml", "longbeach", "budapest", "cleveland")
	for _, test := range []struct {
		office attest.Office
		name   string
		want   string
	}{
		{attest.Participant, "cleveland", "identity cleveland"},
		{attest.Coordinator, "council", "identity council"},
		{attest.Person, "lead", "person lead"},
		{attest.Person, "cleveland", ""},
		{attest.Coordinator, "cleveland", ""},
		{attest.Participant, "council", ""},
		{attest.Participant, "lead", ""},
		{attest.Participant, "", ""},
		{0, "cleveland", ""},
		{4, "lead", ""},
	} {
		got, ok := m.Key(test.office, test.name)
		if ok != (test.want != "") || ok && !got.Equal(key(test.want).Public()) {
			t.Errorf("Key(%s, %q) = %x, %t, want %q", test.office, test.name, got, ok, test.want)
		}
	}
}

func TestPQ(t *testing.T) {
	m := loaded(t, "hardware.yaml", "north", "south")
	for office, want := range map[attest.Office]bool{
		attest.Coordinator: false, attest.Participant: true, attest.Person: false, 0: true, 9: true,
	} {
		if got := m.PQ(office); got != want {
			t.Errorf("PQ(%s) = %t, want %t", office, got, want)
		}
	}
	if m := loaded(t, "manifest.yaml", "longbeach", "budapest", "cleveland"); !m.PQ(attest.Person) {
		t.Error("PQ(person) = false where coordinators require it")
	}
}

// The bytes that were loaded remain the caller's.
func TestLoadKeepsACopy(t *testing.T) {
	payload := build(t, read(t, "manifest.yaml"))
	given := envelopeBy(payload, three...)
	m, err := manifest.Load(given, manifest.Anchor{Digest: manifest.Digest(payload)})
	if err != nil {
		t.Fatal(err)
	}
	clear(given)
	if !bytes.Equal(m.Envelope(), envelopeBy(payload, three...)) || !bytes.Equal(m.Payload(), payload) {
		t.Error("the manifest changed with the bytes that it was loaded from")
	}
	open, err := manifest.OpenUnverified(payload)
	if err != nil {
		t.Fatal(err)
	}
	clear(payload)
	if open.Payload()[0] != '{' {
		t.Error("the manifest changed with the bytes that it was opened from")
	}
}

// A comment, the order of fields and YAML's styles are no part of the manifest.
func TestBuildIgnoresStyle(t *testing.T) {
	text := read(t, "hardware.yaml")
	want := build(t, text)
	moved := edited(t, text, "federation: two-hospitals\n", "", "epoch: 1\n", "epoch: 1 # the first\nfederation: 'two-hospitals'\n",
		"max_abs: 16", "max_abs: 1.6e1", "trainers: [builtin/logistic]", "trainers:\n    - builtin/logistic")
	if got := build(t, moved); !bytes.Equal(got, want) {
		t.Errorf("Build of the same manifest in another style:\n%s\nwant\n%s", got, want)
	}
}

func TestWitnesses(t *testing.T) {
	payload := build(t, edited(t, read(t, "manifest.yaml"), `{none: true, reason: "demonstration on one machine"}`,
		"{quorum: 2, members: [switzerland, budapest, longbeach]}"))
	m, err := manifest.OpenUnverified(payload)
	if err != nil {
		t.Fatal(err)
	}
	names, quorum := m.Quorum()
	if want := []string{"budapest", "longbeach", "switzerland"}; quorum != 2 || !cmp.Equal(names, want) {
		t.Errorf("Quorum = %d of %v, want 2 of %v", quorum, names, want)
	}
	names[0] = "somebody"
	if got, want := m.Witnesses(), "2 of 3: budapest, longbeach, switzerland"; got != want {
		t.Errorf("Witnesses = %q, want %q", got, want)
	}
	if !m.IsWitness("longbeach") || m.IsWitness("cleveland") || m.IsWitness("") {
		t.Error("IsWitness does not tell witnesses from other members")
	}
	m, err = manifest.OpenUnverified(build(t, read(t, "manifest.yaml")))
	if err != nil {
		t.Fatal(err)
	}
	if names, quorum := m.Quorum(); names != nil || quorum != 0 || m.IsWitness("cleveland") {
		t.Errorf("without witnesses Quorum = %d of %v", quorum, names)
	}
}
