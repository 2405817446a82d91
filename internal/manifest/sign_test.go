package manifest_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/manifest"
)

// A dsse is an envelope as its format has it, for a writer that shares no code with the one under test.
type dsse struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid,omitempty"`
	Sig   string `json:"sig"`
}

const payloadType = "application/vnd.consilium.manifest+json"

// pae is DSSE's pre-authentication encoding, written down here for the one payload type that there is, of 39 bytes.
func pae(payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 39 application/vnd.consilium.manifest+json %d %s", len(payload), payload)
}

// envelopeBy returns an envelope with a signature by each of the keys.
func envelopeBy(payload []byte, keys ...string) []byte {
	e := dsse{PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(payload), Signatures: []signature{}}
	for i, words := range keys {
		sig := ed25519.Sign(key(words), pae(payload))
		e.Signatures = append(e.Signatures, signature{fmt.Sprint("key ", i), base64.StdEncoding.EncodeToString(sig)})
	}
	text, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return text
}

// three are governance keys enough for testdata/manifest.yaml.
var three = []string{"governance cleveland", "governance budapest", "governance longbeach"}

func wantManifest(t *testing.T, m *manifest.Manifest, err error, want string) {
	t.Helper()
	if m != nil {
		t.Errorf("refused, and gave a manifest of epoch %d", m.Epoch())
	}
	var refusal *attest.Error
	if !errors.As(err, &refusal) || refusal.Class != attest.ClassManifest || !strings.Contains(err.Error(), want) {
		t.Errorf("= %v\nwant the class MANIFEST and %q in it", err, want)
	}
}

// TestPAE computes, without this package, what a signature of the golden envelope covers, byte for byte.
func TestPAE(t *testing.T) {
	var e dsse
	if err := json.Unmarshal([]byte(read(t, "manifest.dsse.json")), &e); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if string(payload) != read(t, "manifest.json") {
		t.Error("the envelope's payload is not testdata/manifest.json")
	}
	head, _ := hex.DecodeString("4453534576312033392061" + // "DSSEv1 39 a"
		"70706c69636174696f6e2f766e642e636f6e73696c69756d2e6d616e69666573742b6a736f6e" + // "pplication/vnd.consilium.manifest+json"
		"203434333720") // " 4437 ", the payload's bytes in decimal
	message := append(head, payload...)
	if len(payload) != 4437 || !bytes.Equal(message, pae(payload)) {
		t.Fatalf("a payload of %d bytes, want 4437", len(payload))
	}
	for i, name := range []string{"budapest", "cleveland", "longbeach"} {
		sig, err := base64.StdEncoding.DecodeString(e.Signatures[i].Sig)
		if err != nil || e.Signatures[i].KeyID != name {
			t.Fatalf("signature %d is of %s: %v, want of %s", i, e.Signatures[i].KeyID, err, name)
		}
		if !ed25519.Verify(key("governance "+name).Public().(ed25519.PublicKey), message, sig) {
			t.Errorf("the signature of %s is not over DSSE's encoding", name)
		}
	}
}

func TestLoad(t *testing.T) {
	payload := build(t, read(t, "manifest.yaml"))
	for _, test := range []struct {
		name   string
		keys   []string
		member string
		want   []string
	}{
		{"just enough", three, "", []string{"budapest", "cleveland", "longbeach"}},
		{"the reader's own member signed", three, "longbeach", []string{"budapest", "cleveland", "longbeach"}},
		{"all", append([]string{"governance switzerland"}, three...), "switzerland", []string{"budapest", "cleveland", "longbeach", "switzerland"}},
		{"one of them twice", append([]string{three[0]}, three...), "", []string{"budapest", "cleveland", "longbeach"}},
		{"a stranger beside them", append([]string{"governance boston"}, three...), "", []string{"budapest", "cleveland", "longbeach"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			signed := envelopeBy(payload, test.keys...)
			m, err := manifest.Load(signed, manifest.Anchor{Digest: manifest.Digest(payload), Member: test.member})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, m.Signers()); diff != "" {
				t.Errorf("Signers (-want +got):\n%s", diff)
			}
			if !bytes.Equal(m.Envelope(), signed) || !bytes.Equal(m.Payload(), payload) {
				t.Error("Envelope or Payload is not what was loaded")
			}
		})
	}
}

func loadRefused(t *testing.T) {
	payload := build(t, read(t, "manifest.yaml"))
	anchor := manifest.Anchor{Digest: manifest.Digest(payload)}
	other := build(t, edited(t, read(t, "manifest.yaml"), "rounds_max: 200", "rounds_max: 201"))
	// A stranger's federation, under the same names, with keys of his own.
	strange := read(t, "manifest.yaml")
	for _, name := range []string{"cleveland", "budapest", "longbeach"} {
		strange = edited(t, strange, public(t, "governance "+name), public(t, "strange "+name))
	}
	self := build(t, strange)
	selfSigned := envelopeBy(self, "strange cleveland", "strange budapest", "strange longbeach")

	for _, test := range []struct {
		name   string
		signed []byte
		anchor manifest.Anchor
		want   string
	}{
		{"no signature", envelopeBy(payload), anchor, "signatures: is empty"},
		{"k-1 signatures", envelopeBy(payload, three[:2]...), anchor, "needs the signatures of 3 of its 4 members, it has 2: budapest, cleveland"},
		{"one signer twice", envelopeBy(payload, three[0], three[1], three[0]), anchor, "it has 2: budapest, cleveland"},
		{"two keys of one member", envelopeBy(payload, three[0], three[1], "identity cleveland"), anchor, "it has 2: budapest, cleveland; 1 signatures are of no member's governance key"},
		{"a person's key", envelopeBy(payload, three[0], three[1], "person lead"), anchor, "it has 2"},
		{"a coordinator's key", envelopeBy(payload, three[0], three[1], "identity council"), anchor, "it has 2"},
		{"strangers only", envelopeBy(payload, "a", "b", "c", "d"), anchor, "it has 0: nobody; 4 signatures"},
		{"a stranger's self-signed manifest", selfSigned, anchor, "the anchor is"},
		{"another manifest of the same members", envelopeBy(other, three...), anchor, "the anchor is"},
		{"no anchor", envelopeBy(payload, three...), manifest.Anchor{}, "the anchor is 0000"},
		{"altered payload", replacedPayload(t, envelopeBy(payload, three...), other), anchor, "the anchor is"},
		{
			"altered payload that the anchor names", replacedPayload(t, envelopeBy(payload, three...), other),
			manifest.Anchor{Digest: manifest.Digest(other)},
			"it has 0: nobody; 3 signatures",
		},
		{
			"own member has not signed", envelopeBy(payload, three...),
			manifest.Anchor{Digest: anchor.Digest, Member: "switzerland"},
			"switzerland's own governance key has not signed",
		},
		{
			"own member signed with its identity key only", envelopeBy(payload, append([]string{"identity switzerland"}, three...)...),
			manifest.Anchor{Digest: anchor.Digest, Member: "switzerland"},
			"switzerland's own governance key has not signed",
		},
		{"own member is none", envelopeBy(payload, three...), manifest.Anchor{Digest: anchor.Digest, Member: "boston"}, `the manifest knows no member "boston"`},
		{"the payload alone", payload, anchor, "the envelope"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := manifest.Load(test.signed, test.anchor)
			wantManifest(t, m, err, test.want)
		})
	}
	for member, want := range map[string]error{"switzerland": manifest.ErrNotOurs, "boston": manifest.ErrNoMember} {
		if _, err := manifest.Load(envelopeBy(payload, three...), manifest.Anchor{Digest: anchor.Digest, Member: member}); !errors.Is(err, want) {
			t.Errorf("as %s: %v, want that error to be %q", member, err, want)
		}
	}
	if _, err := manifest.Load(selfSigned, manifest.Anchor{Digest: manifest.Digest(self)}); err != nil {
		t.Errorf("the stranger's manifest is wrong in more than its signers: %v", err)
	}
}

func replacedPayload(t *testing.T, envelope, payload []byte) []byte {
	t.Helper()
	var e dsse
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	e.Payload = base64.StdEncoding.EncodeToString(payload)
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The envelope is no part of what is signed, so it is read strictly.
func envelopesRefused(t *testing.T) {
	payload := build(t, read(t, "manifest.yaml"))
	anchor := manifest.Anchor{Digest: manifest.Digest(payload)}
	good := string(envelopeBy(payload, three...))
	coded := base64.StdEncoding.EncodeToString(payload)
	for _, test := range []struct {
		name  string
		pairs []string
		want  string
	}{
		{"nothing", []string{good, ""}, "not JSON"},
		{"cut off", []string{"]}", "]"}, "not JSON"},
		{"something after it", []string{"]}", "]}{}"}, "something follows"},
		{"not UTF-8", []string{"key 0", "key \xff"}, "UTF-8"},
		{"a list", []string{good, "[]"}, "want a group of fields"},
		{"unknown field", []string{`{"payloadType"`, `{"more":1,"payloadType"`}, `unknown field "more"`},
		{"unknown field of a signature", []string{`{"keyid"`, `{"cert":"x","keyid"`}, `unknown field "cert"`},
		{"doubled payload", []string{`"payload":`, `"payload":"AAAA","payload":`}, `"payload" stands twice`},
		{"field in another case", []string{`"payload":`, `"Payload":`}, `"payload" is missing`},
		{"no signatures", []string{`,"signatures":[`, `,"signatures":[],"x":[`}, "signatures: is empty"},
		{"another payload type", []string{payloadType, "application/vnd.in-toto+json"}, "payloadType"},
		{"payload in URL base64", []string{coded, base64.URLEncoding.EncodeToString(payload) + "-_"}, "payload: want 1 to"},
		{"payload with a line break", []string{coded, coded[:76] + `\n` + coded[76:]}, "payload: want 1 to"},
		{"payload with a blank behind", []string{coded, coded + " "}, "payload: want 1 to"},
		{"payload empty", []string{coded, ""}, "payload: want 1 to"},
		{"payload too long", []string{coded, base64.StdEncoding.EncodeToString(make([]byte, 1<<19+1))}, "payload: want 1 to"},
		{"signature of 65 bytes", []string{`"sig":"`, `"sig":"` + base64.StdEncoding.EncodeToString(make([]byte, 65)) + `","x":"`}, "sig: want 1 to 64"},
		{"signature of 63 bytes", []string{`{"keyid":"key 0","sig":"`, `{"sig":"` + base64.StdEncoding.EncodeToString(make([]byte, 63)) + `"},{"keyid":"x","keyid":"`}, "twice"},
		{"key id that is a number", []string{`"key 0"`, `7`}, "keyid: is a number"},
		{"deep", []string{`"key 0"`, strings.Repeat("[", 20) + strings.Repeat("]", 20)}, "levels deep"},
		{"too many signatures", []string{`"signatures":[`, `"signatures":[` + strings.Repeat(`{"sig":"AA=="},`, 1024)}, "more than 1024 items"},
		{"too long", []string{`{"payloadType"`, strings.Repeat(" ", 1<<20) + `{"payloadType"`}, "the envelope has"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := manifest.Load([]byte(edited(t, good, test.pairs...)), anchor)
			wantManifest(t, m, err, test.want)
			m, err = manifest.OpenUnverified([]byte(edited(t, good, test.pairs...)))
			wantManifest(t, m, err, "")
		})
	}
	short := edited(t, good, `{"keyid":"key 0","sig":"`, `{"sig":"`+base64.StdEncoding.EncodeToString(make([]byte, 63))+`"},{"keyid":"key 0","sig":"`)
	if _, err := manifest.Load([]byte(short), anchor); err != nil {
		t.Errorf("Load with a short signature beside good ones = %v: it counts as a stranger's", err)
	}
}

// Each payload here was signed by enough members, and is what the anchor names, but breaks a rule of the format.
func payloadsRefused(t *testing.T) {
	payload := string(build(t, read(t, "manifest.yaml")))
	for _, test := range []struct {
		name  string
		pairs []string
		want  string
	}{
		{"white space", []string{`,"epoch"`, `, "epoch"`}, "not in canonical form"},
		{"a newline behind", []string{`"reason":"demonstration on one machine"}}`, `"reason":"demonstration on one machine"}}` + "\n"}, "not in canonical form"},
		{"fields in another order", []string{`"epoch":1,"federation":"four-hospitals"`, `"federation":"four-hospitals","epoch":1`}, "not in canonical form"},
		{"an escape that is not needed", []string{`"council"`, `"counci\u006c"`}, "not in canonical form"},
		{"a number in another form", []string{`"max_abs":1048576`, `"max_abs":1.048576e6`}, "not in canonical form"},
		{"a whole number with a fraction", []string{`"epoch":1`, `"epoch":1.0`}, "not in canonical form"},
		{"half a surrogate pair", []string{`demonstration on one`, `demonstration \ud800 one`}, "canonical form"},
		{"unknown field", []string{`{"coordinators"`, `{"a":1,"coordinators"`}, `unknown field "a"`},
		{"missing field", []string{`"epoch":1,`, ``}, `field "epoch" is missing`},
		{"doubled field", []string{`"epoch":1,`, `"epoch":1,"epoch":1,`}, `"epoch" stands twice`},
		{"doubled field below", []string{`"vmpl":0`, `"vmpl":0,"vmpl":0`}, `"vmpl" stands twice`},
		{"empty list", []string{`["fedavg","fedadam"]`, `[]`}, "strategies: is empty"},
		{"null", []string{`"epoch":1`, `"epoch":null`}, "epoch: is nothing"},
		{"any without a reason", []string{`{"any":true,"reason":"simulated chips"}`, `{"any":true}`}, `"reason" is missing`},
		{"any false", []string{`{"any":true,"reason":"simulated chips"}`, `{"any":false,"reason":"simulated chips"}`}, "any: is false"},
		{"k of n/2", []string{`"threshold":3`, `"threshold":2`}, "want more than half"},
		{"beyond 2^53", []string{`"epoch":1`, `"epoch":9007199254740993`}, "canonical form"},
		{"2^53", []string{`"epoch":1`, `"epoch":9007199254740992`}, "want a whole number from 1 to 9007199254740991"},
		{"key twice", []string{public(t, "identity longbeach"), public(t, "identity cleveland")}, "the same key stands in"},
		{"something behind", []string{`"reason":"demonstration on one machine"}}`, `"reason":"demonstration on one machine"}}{}`}, "something follows"},
		{"not JSON", []string{`{"coordinators"`, `"coordinators"`}, ""},
		{"not UTF-8", []string{"demonstration on one", "demonstration \xff one"}, "UTF-8"},
		{"another schema", []string{"consilium.manifest/1", "consilium.manifest/2"}, "schema"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := []byte(edited(t, payload, test.pairs...))
			m, err := manifest.Load(envelopeBy(bad, three...), manifest.Anchor{Digest: manifest.Digest(bad)})
			wantManifest(t, m, err, test.want)
			m, err = manifest.OpenUnverified(bad)
			wantManifest(t, m, err, "")
			if _, err := manifest.Sign(nil, bad, key(three[0])); err == nil {
				t.Error("Sign signed it")
			}
		})
	}
}

// withMembers returns a manifest's text with so many members more, of the keys "g0", "i0" and on, and a threshold.
func withMembers(t *testing.T, n, threshold int) string {
	t.Helper()
	var members strings.Builder
	for i := range n {
		members.WriteString(fmt.Sprintf("  - {name: m%d, governance: %q, identity: %q}\n", i, public(t, fmt.Sprint("g", i)), public(t, fmt.Sprint("i", i))))
	}
	return edited(t, read(t, "manifest.yaml"), "members:\n", "members:\n"+members.String(), "threshold: 3", fmt.Sprintf("threshold: %d", threshold))
}

// A federation of a hundred is no trouble where signatures stand in the order of names, nor one of forty in the worst.
func TestManyMembers(t *testing.T) {
	for n, order := range map[int]func([]string){96: slices.Sort[[]string], 40: slices.Reverse[[]string]} {
		payload := build(t, withMembers(t, n, n))
		var keys []string
		for i := range n {
			keys = append(keys, fmt.Sprint("g", i))
		}
		order(keys)
		m, err := manifest.Load(envelopeBy(payload, keys...), manifest.Anchor{Digest: manifest.Digest(payload)})
		if err != nil || len(m.Signers()) != n {
			t.Errorf("Load with %d signatures = %v", n, err)
		}
	}
}

// Signatures that fit no key cost the reader a trial on each key; their number is bounded.
func TestStrangeSignaturesAreBounded(t *testing.T) {
	payload := build(t, withMembers(t, 20, 13))
	junk := strings.Repeat(`{"sig":"`+base64.StdEncoding.EncodeToString(make([]byte, 64))+`"},`, 1024)
	signed := edited(t, string(envelopeBy(payload)), `"signatures":[`, `"signatures":[`+strings.TrimSuffix(junk, ","))
	m, err := manifest.Load([]byte(signed), manifest.Anchor{Digest: manifest.Digest(payload)})
	wantManifest(t, m, err, "too many signatures that fit no key")
}

func TestSign(t *testing.T) {
	payload := build(t, read(t, "manifest.yaml"))
	first := signed(t, payload, "longbeach", "cleveland", "budapest")
	if second := signed(t, payload, "budapest", "longbeach", "cleveland"); !bytes.Equal(first, second) {
		t.Errorf("the envelope tells who signed first:\n%s\n%s", first, second)
	}
	again, err := manifest.Sign(first, nil, key("governance switzerland"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Load(again, manifest.Anchor{Digest: manifest.Digest(payload), Member: "switzerland"})
	if err != nil || len(m.Signers()) != 4 {
		t.Errorf("Load = %v, %v", m, err)
	}
}

// A liar signs something else than it is asked to.
type liar struct{ ed25519.PrivateKey }

func (l liar) Sign(chance io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	return l.PrivateKey.Sign(chance, append(message, 'x'), o)
}

// A broken signer fails.
type broken struct{ ed25519.PrivateKey }

func (broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the card was pulled out")
}

func TestSignRefuses(t *testing.T) {
	payload := build(t, read(t, "manifest.yaml"))
	other := build(t, edited(t, read(t, "manifest.yaml"), "rounds_max: 200", "rounds_max: 201"))
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	one := signed(t, payload, "cleveland")
	for _, test := range []struct {
		name              string
		envelope, payload []byte
		key               crypto.Signer
		want              string
	}{
		{"nothing to sign", nil, nil, key(three[0]), "not JSON"},
		{"a broken envelope", []byte("{}"), payload, key(three[0]), "the envelope"},
		{"another manifest", one, other, key(three[1]), "holds another manifest"},
		{"signed already", one, payload, key(three[0]), "cleveland has signed already"},
		{"a stranger's signature in it", envelopeBy(payload, "stranger"), nil, key(three[0]), "1 signatures of the envelope are of no member's"},
		{"an identity key", nil, payload, key("identity budapest"), "this is budapest's identity key"},
		{"a person's key", nil, payload, key("person lead"), "no member's governance key"},
		{"a key of another kind", nil, payload, p256, "a governance key is an Ed25519 key"},
		{"a signer that lies", nil, payload, liar{key(three[0])}, "does not verify"},
		{"a signer that fails", nil, payload, broken{key(three[0])}, "the card was pulled out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := manifest.Sign(test.envelope, test.payload, test.key)
			if err == nil || got != nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Sign = %s, %v, want an error with %q", got, err, test.want)
			}
		})
	}
}

func TestOpenUnverified(t *testing.T) {
	payload := build(t, read(t, "manifest.yaml"))
	for _, test := range []struct {
		name    string
		bytes   []byte
		signers []string
	}{
		{"as built", payload, nil},
		{"signed by nobody known", envelopeBy(payload, "x"), nil},
		{"signed by too few", envelopeBy(payload, three[0], "identity budapest"), []string{"cleveland"}},
		{"signed by enough", envelopeBy(payload, three...), []string{"budapest", "cleveland", "longbeach"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := manifest.OpenUnverified(test.bytes)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.signers, m.Signers()); diff != "" {
				t.Errorf("Signers (-want +got):\n%s", diff)
			}
			if !bytes.Equal(m.Payload(), payload) {
				t.Errorf("Payload = %s", m.Payload())
			}
		})
	}
}
