package transport

import (
	"bytes"
	"context"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/socket"
)

// Leaf returns the current leaf with its key: what an attacker has who stole it.
func (c *Credentials) Leaf() (tls.Certificate, error) {
	l, err := c.currentLeaf()
	if err != nil {
		return tls.Certificate{}, err
	}
	return l.cert, nil
}

// ErrExpired is what a connection is cut with at its end.
var ErrExpired = errExpired

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
	n := len(c.lobby.places) + len(c.cfg.Quotes.place)
	for _, g := range c.guests {
		n += g.sessions
	}
	return n
}

// JudgeState judges what TLS says of a session.
func JudgeState(s tls.ConnectionState, pq bool) error {
	x := exchange{c: &Credentials{cfg: Config{RequirePQ: pq}}, state: s}
	return x.judgeState()
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

// AlertClass returns the class of an ALERT that was read, and false where err is none.
func AlertClass(err error) (attest.Class, bool) {
	var alert alertError
	told := errors.As(err, &alert)
	return alert.class, told
}

// ReadLeaf reads a certificate and, where it is one, judges it as a leaf and returns its name.
func ReadLeaf(der []byte, now time.Time) (string, *x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return "", nil, err
	}
	id, err := readLeaf(cert, now)
	return id.uri().String(), cert, err
}

// ReadFrame reads one frame from b and encodes it again.
func ReadFrame(b []byte, want uint8, limit int) ([]byte, error) {
	body, err := readFrame(bytes.NewReader(b), frameType(want), limit)
	if err != nil {
		return nil, err
	}
	return appendFrame(nil, frameType(want), body), nil
}

// Given is what a transcript begins from: values that a real session draws or derives. The side is 1 for the client and 2
// for the server, as on the wire.
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

// of returns a side's own end, the other one, and its evidence.
func (g Given) of(s uint8) (me, peer End, all []attest.Evidence) {
	if side(s) == clientSide {
		return g.Client, g.Server, g.EvidenceC
	}
	return g.Server, g.Client, g.EvidenceS
}

// Hello returns the body of a side's hello.
func (g Given) Hello(s uint8) []byte {
	me, peer, _ := g.of(s)
	return hello{
		side: side(s), office: me.Office, nonce: me.Nonce, federation: g.Federation, manifest: g.Manifest,
		epoch: g.Epoch, own: me.Name, peer: peer.Name, types: me.Types,
	}.encode()
}

// Preimage returns what a side's report data is the digest of, and Report the report data.
func (g Given) Preimage(s uint8, th [32]byte) []byte {
	a, v, all := g.of(s)
	return reportInput{
		side: side(s), office: a.Office, epoch: g.Epoch, ekm: exported{g.EKMC, g.EKMS, g.EKMF}.of(side(s)), th: th,
		attester: party{a.Name, a.SPKI, a.Nonce}, verifier: party{v.Name, v.SPKI, v.Nonce},
		federation: g.Federation, manifest: g.Manifest, bundle: deviceBundle(all),
	}.preimage()
}

func (g Given) Report(s uint8, th [32]byte) [64]byte { return sha512.Sum512(g.Preimage(s, th)) }

// Seed returns what a side's devices derive their nonces from.
func (g Given) Seed(s uint8) []byte {
	_, v, _ := g.of(s)
	return deviceSeed(exported{g.EKMC, g.EKMS, g.EKMF}.of(side(s)), v.Nonce)
}

// The functions of the channel that a peer needs who does as it does, up to a point.
var (
	Transcript     = transcript
	EncodeEvidence = encodeEvidence
)

// Finished returns the body of FINISHED.
func Finished(ekm []byte, from uint8, th [32]byte, evidenceS, evidenceC []byte, verdict byte) []byte {
	return finished(ekm, side(from), th, evidenceS, evidenceC, verdict)
}

// Frame returns a frame.
func Frame(t uint8, body []byte) []byte { return appendFrame(nil, frameType(t), body) }

// LP returns lp of each part.
func LP(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = appendLP(b, p)
	}
	return b
}

// Export derives the session's values.
func (g *Given) Export(cs tls.ConnectionState, th [32]byte) error {
	e, err := export(cs, th)
	g.EKMC, g.EKMS, g.EKMF = e.client, e.server, e.finished
	return err
}

// Derived is what follows.
type Derived struct {
	HelloC, HelloS, EvidenceC, EvidenceS []byte
	TH                                   [32]byte
	PreimageC, PreimageS                 []byte
	BC, BS                               [64]byte
	SeedC, SeedS, PersonC                []byte
	FinishedC, FinishedS                 []byte
}

// Derive computes a transcript with the very functions that the channel uses.
func Derive(g Given) Derived {
	var d Derived
	d.HelloC, d.HelloS = g.Hello(1), g.Hello(2)
	d.TH = transcript(d.HelloC, d.HelloS)
	d.PreimageC, d.PreimageS = g.Preimage(1, d.TH), g.Preimage(2, d.TH)
	d.BC, d.BS = g.Report(1, d.TH), g.Report(2, d.TH)
	d.SeedC, d.SeedS = g.Seed(1), g.Seed(2)
	d.PersonC = PersonInput(d.BC)
	d.EvidenceC, d.EvidenceS = encodeEvidence(g.EvidenceC), encodeEvidence(g.EvidenceS)
	d.FinishedC = Finished(g.EKMF, 1, d.TH, d.EvidenceS, d.EvidenceC, verdictAccept)
	d.FinishedS = Finished(g.EKMF, 2, d.TH, d.EvidenceS, d.EvidenceC, verdictAccept)
	return d
}

// Lobby is a listener's lobby by itself.
type Lobby struct{ l *lobby }

// NewLobby returns an empty one.
func NewLobby(l Limits) Lobby { return Lobby{newLobby(l.withDefaults())} }

// LobbyOf returns that of a listener.
func LobbyOf(c *Credentials) Lobby { return Lobby{c.lobby} }

// Enter waits for a place on behalf of a peer of that address, and returns what gives it back.
func (l Lobby) Enter(ctx context.Context, a net.Addr) (func(), error) {
	return l.l.enter(ctx, socket.Source(a))
}

// Counts returns how many have a place and wait for one, and how many sources are remembered.
func (l Lobby) Counts() (places, line, sources int) {
	l.l.mu.Lock()
	defer l.l.mu.Unlock()
	return len(l.l.places), l.l.line, len(l.l.sources)
}

// Tame is tame.
func Tame(err error) error { return tame(err) }

// EvidenceLimit is the most bytes that evidence of these types may have.
var EvidenceLimit = evidenceLimit
