package manifest

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"consilium.dev/internal/attest"
)

// payloadType is the DSSE payload type of manifests.
const payloadType = "application/vnd.consilium.manifest+json"

// maxTrials bounds how many signatures are tried on keys: DSSE's key ids are hints that anybody can write, so a signature
// is tried on key after key. Signatures in the order of [Sign] need less than two trials a member, those of 64 members in any
// order at most this many; a stranger's envelope costs a quarter of a second at most.
const maxTrials = 4096

// Anchor is what a program knows of its manifest before it loads it.
type Anchor struct {
	Digest [32]byte // of the manifest: from the program's configuration, or of the epoch it adopted last
	Member string   // if not empty, the manifest must also be signed by this member's own governance key
}

// envelope is a DSSE envelope (secure-systems-lab/dsse, protocol.md and envelope.md) with its base64 undone.
type envelope struct {
	payload    []byte
	signatures [][]byte
}

// pae returns what a signature covers, DSSE's pre-authentication encoding.
func (e *envelope) pae() []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(e.payload), e.payload)
}

// openEnvelope reads an envelope strictly: no unknown or doubled field, standard base64 only. Key ids are not looked at.
func openEnvelope(b []byte) (*envelope, error) {
	if len(b) > maxEnvelope {
		return nil, fmt.Errorf("the envelope has %d bytes, want at most %d", len(b), maxEnvelope)
	}
	document, err := fromJSON(b)
	if err != nil {
		return nil, fmt.Errorf("the envelope: %w", err)
	}
	all := newFaults()
	f := cursor{&document, "", all}.fields("payload", "payloadType", "signatures")
	f["payloadType"].choice(payloadType)
	e := &envelope{payload: f["payload"].base64(maxPayload)}
	for _, item := range f["signatures"].items() {
		s := item.fields("keyid?", "sig")
		if s["keyid"].v != nil {
			s["keyid"].is(text)
		}
		e.signatures = append(e.signatures, s["sig"].base64(ed25519.SignatureSize))
	}
	if err := all.err(); err != nil {
		return nil, fmt.Errorf("the envelope: %w", err)
	}
	return e, nil
}

// signed returns which of m's members signed the envelope, as a signature by each, and how many signatures are by none.
func (m *Manifest) signed(e *envelope) (by map[string][]byte, strange int, err error) {
	by = map[string][]byte{}
	message, next := e.pae(), 0
	trials := 0
	for _, sig := range e.signatures {
		found := false
		for i := range m.members {
			one := m.members[(next+i)%len(m.members)]
			if trials++; trials > maxTrials {
				return nil, 0, errors.New("too many signatures that fit no key")
			}
			if found = ed25519.Verify(one.Governance, message, sig); found {
				by[one.Name] = sig
				next += i + 1
				break
			}
		}
		if !found {
			strange++
		}
	}
	return by, strange, nil
}

// enough refuses an envelope that fewer than m's threshold of members signed, and returns those who did, ascending.
func (m *Manifest) enough(e *envelope) ([]string, error) {
	by, strange, err := m.signed(e)
	if err != nil {
		return nil, err
	}
	names := sortedNames(by)
	if len(names) >= m.threshold {
		return names, nil
	}
	who, more := "nobody", ""
	if len(names) > 0 {
		who = strings.Join(names, ", ")
	}
	if strange > 0 {
		more = fmt.Sprintf("; %d signatures are of no member's governance key (identity keys and people's keys do not count)",
			strange)
	}
	return nil, fmt.Errorf("epoch %d needs the signatures of %d of its %d members, it has %d: %s%s",
		m.epoch, m.threshold, len(m.members), len(names), who, more)
}

// Sign adds one member's signature to a manifest and returns the envelope. The envelope given may be nil for the first
// signature; the payload may be nil if an envelope is given, else both must hold the same manifest. The key must be a
// governance key of a member that has not signed yet. Signatures stand in the order of members' names, so the envelope
// does not tell who signed first.
func Sign(envelopeOrNil, payload []byte, key crypto.Signer) ([]byte, error) {
	e := &envelope{payload: payload}
	if envelopeOrNil != nil {
		given, err := openEnvelope(envelopeOrNil)
		if err != nil {
			return nil, err
		}
		if payload != nil && !bytes.Equal(payload, given.payload) {
			return nil, errors.New("the envelope holds another manifest")
		}
		e = given
	}
	m, err := parse(e.payload)
	if err != nil {
		return nil, err
	}
	by, strange, err := m.signed(e)
	if err != nil {
		return nil, err
	}
	if strange > 0 {
		return nil, fmt.Errorf("%d signatures of the envelope are of no member's governance key: begin with the manifest anew",
			strange)
	}
	name, err := m.governor(key)
	if err != nil {
		return nil, err
	}
	if by[name] != nil {
		return nil, fmt.Errorf("%s has signed already", name)
	}
	if by[name], err = sign(e.pae(), key); err != nil {
		return nil, err
	}
	return seal(e.payload, by), nil
}

// governor returns the member whose governance key this is.
func (m *Manifest) governor(key crypto.Signer) (string, error) {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return "", fmt.Errorf("a governance key is an Ed25519 key, this is %T", key.Public())
	}
	for _, one := range m.members {
		if one.Governance.Equal(public) {
			return one.Name, nil
		}
		if one.Identity.Equal(public) {
			return "", fmt.Errorf("this is %s's identity key: manifests are signed with the governance key", one.Name)
		}
	}
	return "", errors.New("this is no member's governance key")
}

func sign(message []byte, key crypto.Signer) ([]byte, error) {
	// Ed25519 draws no chance; a signer that tries to finds none here.
	sig, err := key.Sign(bytes.NewReader(nil), message, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	if public, ok := key.Public().(ed25519.PublicKey); !ok || !ed25519.Verify(public, message, sig) {
		return nil, errors.New("the key's signature does not verify")
	}
	return sig, nil
}

// seal writes an envelope with a signature by each of the members named. Their names are the key ids, for people.
func seal(payload []byte, by map[string][]byte) []byte {
	type signature struct {
		KeyID string `json:"keyid"`
		Sig   string `json:"sig"`
	}
	out := struct {
		PayloadType string      `json:"payloadType"`
		Payload     string      `json:"payload"`
		Signatures  []signature `json:"signatures"`
	}{PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(payload)}
	for _, name := range sortedNames(by) {
		out.Signatures = append(out.Signatures, signature{name, base64.StdEncoding.EncodeToString(by[name])})
	}
	b, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		panic("manifest: an envelope of strings has no JSON: " + err.Error())
	}
	return append(b, '\n')
}

// Load opens a signed manifest. It must be the one that the anchor's digest names, its members' threshold must have
// signed it, and the anchor's member too.
func Load(signed []byte, a Anchor) (*Manifest, error) {
	e, err := openEnvelope(signed)
	if err != nil {
		return nil, refused(err)
	}
	if got := Digest(e.payload); got != a.Digest {
		return nil, refused(fmt.Errorf("the manifest's digest is %x, the anchor is %x", got, a.Digest))
	}
	m, err := load(signed, e)
	if err != nil {
		return nil, refused(err)
	}
	if m.signers, err = m.enough(e); err != nil {
		return nil, refused(err)
	}
	if a.Member != "" && !slices.Contains(m.signers, a.Member) {
		return nil, refused(fmt.Errorf("%s's own governance key has not signed this manifest", a.Member))
	}
	return m, nil
}

// OpenUnverified opens a manifest for showing, signed or as [Build] made it. Whoever wrote the bytes may have written
// anything: neither its name nor the number of its signatures was checked. Signers says whose signatures it has.
func OpenUnverified(signed []byte) (*Manifest, error) {
	if len(signed) <= maxPayload {
		if document, err := fromJSON(signed); err == nil && document.field("schema") != nil {
			m, err := parse(signed)
			if err != nil {
				return nil, refused(err)
			}
			return m, nil
		}
	}
	e, err := openEnvelope(signed)
	if err != nil {
		return nil, refused(err)
	}
	m, err := load(signed, e)
	if err != nil {
		return nil, refused(err)
	}
	by, _, err := m.signed(e)
	if err != nil {
		return nil, refused(err)
	}
	m.signers = sortedNames(by)
	return m, nil
}

// Successor opens the manifest of the next epoch. It must be of the same federation, follow m directly, name m's digest,
// and be signed by m's threshold of m's members; and by its own threshold too, so that it can be loaded by its digest.
func (m *Manifest) Successor(signed []byte) (*Manifest, error) {
	e, err := openEnvelope(signed)
	if err != nil {
		return nil, refused(err)
	}
	// Strangers' bytes are parsed only after those whom we know have signed them.
	if _, err := m.enough(e); err != nil {
		return nil, refused(fmt.Errorf("a successor of %w", err))
	}
	next, err := load(signed, e)
	if err != nil {
		return nil, refused(err)
	}
	switch {
	case next.federation != m.federation:
		err = fmt.Errorf("the successor is of the federation %s, not of %s", next.federation, m.federation)
	case next.epoch != m.epoch+1:
		err = fmt.Errorf("the successor is of epoch %d, want %d", next.epoch, m.epoch+1)
	case next.prev != m.Digest():
		err = fmt.Errorf("the successor follows %x, not %x", next.prev, m.Digest())
	default:
		next.signers, err = next.enough(e)
	}
	if err != nil {
		return nil, refused(err)
	}
	return next, nil
}

// load parses an envelope's payload without judging its signatures.
func load(signed []byte, e *envelope) (*Manifest, error) {
	m, err := parse(e.payload)
	if err != nil {
		return nil, err
	}
	m.envelope = bytes.Clone(signed)
	return m, nil
}

// refused gives an error the class that the channel and the logs know it by.
func refused(err error) error { return &attest.Error{Class: attest.ClassManifest, Err: err} }

func sortedNames(by map[string][]byte) []string { return slices.Sorted(maps.Keys(by)) }
