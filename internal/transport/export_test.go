package transport

import (
	"bytes"
	"crypto/sha512"
	"crypto/tls"

	"consilium.dev/internal/attest"
)

// Leaf returns the current leaf with its key: what an attacker has who stole it.
func (c *Credentials) Leaf() (tls.Certificate, error) {
	l, err := c.currentLeaf()
	if err != nil {
		return tls.Certificate{}, err
	}
	return l.cert, nil
}

// Live returns how many connections are registered, and Held how many places of the lobby and of quotes are taken.
func (c *Credentials) Live() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.live)
}

// Held returns how many places of the lobby, of quotes and of names are taken.
func (c *Credentials) Held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.lobby) + len(c.quotes)
	for _, g := range c.guests {
		n += g.sessions
	}
	return n
}

// ReencodeHello parses a hello and encodes it again.
func ReencodeHello(b []byte) ([]byte, error) {
	h, err := parseHello(b)
	if err != nil {
		return nil, err
	}
	return h.encode(), nil
}

// ReencodeEvidence parses an EVIDENCE body of the types and encodes it again.
func ReencodeEvidence(b []byte, types []attest.Type) ([]byte, error) {
	all, err := parseEvidence(b, types)
	if err != nil {
		return nil, err
	}
	return encodeEvidence(all), nil
}

// ReencodeChain parses a MANIFESTS body and encodes it again.
func ReencodeChain(b []byte) ([]byte, error) {
	all, err := parseChain(b)
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, e := range all {
		out = appendLP(out, e)
	}
	return out, nil
}

// ReadFrame reads one frame from b and encodes it again.
func ReadFrame(b []byte, want uint8, limit int) ([]byte, error) {
	body, err := readFrame(bytes.NewReader(b), frameType(want), limit)
	if err != nil {
		return nil, err
	}
	return appendFrame(nil, frameType(want), body), nil
}

// Given is what a golden transcript begins from: values that a real session draws or derives.
type Given struct {
	Client, Server       End
	Federation           string
	Epoch                uint64
	Manifest             [32]byte
	EKMC, EKMS, EKMF     []byte
	EvidenceC, EvidenceS []attest.Evidence
}

// End is one side of it.
type End struct {
	Office attest.Office
	Name   string
	Nonce  [32]byte
	SPKI   []byte
	Types  []attest.Type
}

// Derived is what follows.
type Derived struct {
	HelloC, HelloS, EvidenceC, EvidenceS []byte
	TH                                   [32]byte
	BC, BS                               [64]byte
	SeedC, SeedS, PersonC                []byte
	FinishedC, FinishedS                 []byte
}

// Derive computes a transcript with the very functions that the channel uses.
func Derive(g Given) Derived {
	hello := func(s side, me, peer End) hello {
		return hello{
			side: s, office: me.Office, nonce: me.Nonce, federation: g.Federation, manifest: g.Manifest,
			epoch: g.Epoch, own: me.Name, peer: peer.Name, types: me.Types,
		}
	}
	var d Derived
	d.HelloC = hello(clientSide, g.Client, g.Server).encode()
	d.HelloS = hello(serverSide, g.Server, g.Client).encode()
	d.TH = transcript(d.HelloC, d.HelloS)
	ekm := exported{g.EKMC, g.EKMS, g.EKMF}
	bind := func(s side, a, v End, all []attest.Evidence) [64]byte {
		return sha512.Sum512(reportInput{
			side: s, office: a.Office, epoch: g.Epoch, ekm: ekm.of(s), th: d.TH,
			attester: party{a.Name, a.SPKI, a.Nonce}, verifier: party{v.Name, v.SPKI, v.Nonce},
			federation: g.Federation, manifest: g.Manifest, bundle: deviceBundle(all),
		}.preimage())
	}
	d.BC = bind(clientSide, g.Client, g.Server, g.EvidenceC)
	d.BS = bind(serverSide, g.Server, g.Client, g.EvidenceS)
	d.SeedC, d.SeedS = deviceSeed(g.EKMC, g.Server.Nonce), deviceSeed(g.EKMS, g.Client.Nonce)
	d.PersonC = personInput(d.BC)
	d.EvidenceC, d.EvidenceS = encodeEvidence(g.EvidenceC), encodeEvidence(g.EvidenceS)
	d.FinishedC = finished(g.EKMF, clientSide, d.TH, d.EvidenceS, d.EvidenceC, verdictAccept)
	d.FinishedS = finished(g.EKMF, serverSide, d.TH, d.EvidenceS, d.EvidenceC, verdictAccept)
	return d
}
