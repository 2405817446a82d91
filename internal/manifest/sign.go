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
	if document.field("federation") != nil && document.field("payload") == nil {
		return nil, errors.New("the envelope: this is a manifest that nobody has signed: name the file that consilium manifest sign wrote, manifest.dsse.json")
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

// owners returns, signature by signature, which of m's members signed; empty for one that is of none of them.
func (m *Manifest) owners(e *envelope) ([]string, error) {
	owners := make([]string, len(e.signatures))
	message, next := e.pae(), 0
	trials := 0
	for n, sig := range e.signatures {
		for i := range m.members {
			one := m.members[(next+i)%len(m.members)]
			if trials++; trials > maxTrials {
				return nil, errors.New("too many signatures that fit no key")
			}
			if ed25519.Verify(one.Governance, message, sig) {
				owners[n] = one.Name
				next += i + 1
				break
			}
		}
	}
	return owners, nil
}

// Signed returns the members of m whose governance keys signed an envelope, ascending, whichever manifest the envelope holds: what
// a successor still lacks of the manifest that it replaces is found by asking that one. Signatures by other keys are passed over.
func (m *Manifest) Signed(signed []byte) ([]string, error) {
	e, err := openEnvelope(signed)
	if err != nil {
		return nil, refused(err)
	}
	owners, err := m.owners(e)
	if err != nil {
		return nil, refused(err)
	}
	return names(owners), nil
}

// names returns the names among owners, once each, ascending.
func names(owners []string) []string {
	var all []string
	for _, name := range owners {
		if name != "" {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// enough refuses an envelope that fewer than m's threshold of members signed, and returns the signatures' owners.
func (m *Manifest) enough(e *envelope) ([]string, error) {
	owners, err := m.owners(e)
	if err != nil {
		return nil, err
	}
	signers := names(owners)
	if len(signers) >= m.threshold {
		return owners, nil
	}
	who, more := "nobody", ""
	if len(signers) > 0 {
		who = strings.Join(signers, ", ")
	}
	if strange := count(owners, ""); strange > 0 {
		more = fmt.Sprintf("; %d signatures are of no member's governance key (identity keys and people's keys do not count)",
			strange)
	}
	return nil, fmt.Errorf("epoch %d needs the signatures of %d of its %d members, it has %d: %s%s",
		m.epoch, m.threshold, len(m.members), len(signers), who, more)
}

func count(owners []string, name string) int {
	n := 0
	for _, one := range owners {
		if one == name {
			n++
		}
	}
	return n
}

// Sign adds one member's signature to a manifest and returns the envelope. The envelope given may be nil for the first
// signature; the payload may be nil if an envelope is given, else both must hold the same manifest. The key must be a
// governance key of a member that has not signed yet. Signatures stand in the order of members' names, so the envelope
// does not tell who signed first.
func Sign(envelopeOrNil, payload []byte, key crypto.Signer) ([]byte, error) {
	return addSignature(nil, envelopeOrNil, payload, key)
}

// SignSuccessor does what [Sign] does for a manifest that replaces m, and takes the governance keys of m's members as well: a member
// whose key is another one in the next epoch signs with both, and one that leaves signs with the key that it had. Signatures that
// count for m only stand behind the others.
func (m *Manifest) SignSuccessor(envelopeOrNil, payload []byte, key crypto.Signer) ([]byte, error) {
	return addSignature(m, envelopeOrNil, payload, key)
}

func addSignature(before *Manifest, envelopeOrNil, payload []byte, key crypto.Signer) ([]byte, error) {
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
	if before != nil {
		if err := before.precedes(m); err != nil {
			return nil, err
		}
	}
	by, former, err := signedUnder(before, m, e)
	if err != nil {
		return nil, err
	}
	name, err := m.governor(key)
	if err != nil && before != nil {
		if was, e := before.governor(key); e == nil {
			name, err, by = was, nil, former
		}
	}
	if err != nil {
		return nil, err
	}
	if by[name] != nil {
		return nil, fmt.Errorf("%s has signed already with this key", name)
	}
	if by[name], err = sign(e.pae(), key); err != nil {
		return nil, err
	}
	by, former, err = signedUnder(before, m, &envelope{e.payload, append(e.signatures, by[name])})
	if err != nil {
		return nil, err // with one more, no program would read it
	}
	return seal(e.payload, by, former, m.epoch-1), nil
}

// signedUnder returns the signatures under a manifest, by its members' names, and those that only the manifest before it knows the
// keys of. There may be no others.
func signedUnder(before, m *Manifest, e *envelope) (by, former map[string][]byte, err error) {
	owners, err := m.owners(e)
	if err != nil {
		return nil, nil, err
	}
	was := make([]string, len(owners))
	if before != nil {
		if was, err = before.owners(e); err != nil {
			return nil, nil, err
		}
	}
	by, former = map[string][]byte{}, map[string][]byte{}
	strange := 0
	for i, sig := range e.signatures {
		switch {
		case owners[i] != "":
			by[owners[i]] = sig
		case was[i] != "":
			former[was[i]] = sig
		default:
			strange++
		}
	}
	switch {
	case strange == 0:
		return by, former, nil
	case before == nil && m.epoch > 1:
		return nil, nil, fmt.Errorf("%d signatures of the envelope are of no member's governance key: name the manifest of epoch %d, whose keys they may be of, "+
			"or begin with the manifest anew", strange, m.epoch-1)
	}
	return nil, nil, fmt.Errorf("%d signatures of the envelope are of no member's governance key: begin with the manifest anew", strange)
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
	return "", fmt.Errorf("this is no member's governance key in epoch %d", m.epoch)
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

// FormerKey returns the key id under which a signature stands that counts for the manifest of an epoch only, and not for the one that
// it is under.
func FormerKey(member string, epoch uint64) string {
	return fmt.Sprintf("%s of epoch %d", member, epoch)
}

// seal writes an envelope with a signature by each of the members named, and behind them those of the epoch before only. Their names
// are the key ids, for people.
func seal(payload []byte, by, former map[string][]byte, epoch uint64) []byte {
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
	for _, name := range sortedNames(former) {
		out.Signatures = append(out.Signatures, signature{FormerKey(name, epoch), base64.StdEncoding.EncodeToString(former[name])})
	}
	b, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		panic("manifest: an envelope of strings has no JSON: " + err.Error())
	}
	return append(b, '\n')
}

// What [Load] refuses a manifest for that is signed by enough of its members.
var (
	ErrNotOurs  = errors.New("own governance key has not signed this manifest")
	ErrNoMember = errors.New("no member")
)

// Load opens a signed manifest. It must be the one that the anchor's digest names, its members' threshold must have
// signed it, and the anchor's member too: else the error is [ErrNotOurs], or [ErrNoMember] where the manifest does not name that member.
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
	owners, err := m.enough(e)
	if err != nil {
		return nil, refused(err)
	}
	m.signers = names(owners)
	if a.Member == "" || slices.Contains(m.signers, a.Member) {
		return m, nil
	}
	if _, ok := m.Member(a.Member); !ok {
		return nil, refused(fmt.Errorf("the manifest knows %w %q", ErrNoMember, a.Member))
	}
	return nil, refused(fmt.Errorf("%s's %w", a.Member, ErrNotOurs))
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
	owners, err := m.owners(e)
	if err != nil {
		return nil, refused(err)
	}
	m.signers = names(owners)
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
	was, err := m.enough(e)
	if err != nil {
		return nil, refused(fmt.Errorf("a successor of %w", err))
	}
	next, err := load(signed, e)
	if err != nil {
		return nil, refused(err)
	}
	if err := m.precedes(next); err != nil {
		return nil, refused(err)
	}
	owners, err := next.enough(e)
	if err != nil {
		return nil, refused(err)
	}
	for i, owner := range owners {
		if owner != "" {
			was[i] = "" // it counts for both
		}
	}
	next.signers, next.former = names(owners), names(was)
	return next, nil
}

// precedes refuses a manifest that does not say that it replaces m. It judges no signature.
func (m *Manifest) precedes(next *Manifest) error {
	switch {
	case next.federation != m.federation:
		return fmt.Errorf("the successor is of the federation %s, not of %s", next.federation, m.federation)
	case next.epoch != m.epoch+1:
		return fmt.Errorf("the successor is of epoch %d, want %d", next.epoch, m.epoch+1)
	case next.prev != m.Digest():
		return fmt.Errorf("the successor follows %x, not %x", next.prev, m.Digest())
	}
	return nil
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
