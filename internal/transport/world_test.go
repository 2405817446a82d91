package transport_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
	"google.golang.org/grpc/credentials"
)

const federation = "heart"

var digest = sha256.Sum256([]byte("manifest of epoch 1"))

// seeded returns the identity key of whom tests call so.
func seeded(who string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(who))
	return ed25519.NewKeyFromSeed(seed[:])
}

// policy is a manifest in a few lines. Its keys are those that seeded gives to OFFICE/NAME.
type policy struct {
	known   map[attest.Peer]bool
	types   map[attest.Office][][]attest.Type
	refuse  error
	ttl     time.Duration
	renamed map[string]string // names whose key is another's
}

func newPolicy() *policy {
	p := &policy{
		known: map[attest.Peer]bool{},
		types: map[attest.Office][][]attest.Type{
			attest.Coordinator: {{attest.SEVSNP}, {attest.SEVSNP, attest.NvidiaGPU}},
			attest.Participant: {{attest.SEVSNP}, {attest.Nitro}, {attest.SEVSNP, attest.NvidiaGPU}},
		},
		ttl: time.Hour,
	}
	p.know(attest.Coordinator, "council")
	p.know(attest.Coordinator, "second")
	p.know(attest.Participant, "north")
	p.know(attest.Participant, "south")
	p.know(attest.Person, "ada")
	return p
}

// withoutDevices returns a policy under which nobody shows a device, so that a handshake may take 20 s.
func withoutDevices() *policy {
	p := newPolicy()
	p.types = map[attest.Office][][]attest.Type{
		attest.Coordinator: {{attest.SEVSNP}}, attest.Participant: {{attest.SEVSNP}, {attest.Nitro}},
	}
	return p
}

func (p *policy) know(o attest.Office, name string) {
	p.known[attest.Peer{Office: o, Name: name}] = true
}

func (p *policy) Key(o attest.Office, name string) (ed25519.PublicKey, bool) {
	if !p.known[attest.Peer{Office: o, Name: name}] {
		return nil, false
	}
	if s, ok := p.renamed[name]; ok {
		name = s
	}
	return seeded(o.String() + "/" + name).Public().(ed25519.PublicKey), true
}

func (p *policy) Types(o attest.Office) [][]attest.Type { return p.types[o] }

func (p *policy) Appraise(who attest.Peer, claims []attest.Claims, _ time.Time) (attest.Appraisal, error) {
	if p.refuse != nil {
		return attest.Appraisal{}, p.refuse
	}
	a := attest.Appraisal{TTL: p.ttl}
	if who.Office == attest.Person {
		return a, nil
	}
	for _, c := range claims {
		a.Sets = append(a.Sets, who.Name+"-"+c.Type.String())
	}
	return a, nil
}

// machine is an attester of one type whose evidence is its binding, spelt out; what a real platform signs.
type machine struct {
	t     attest.Type
	gpu   bool
	spoil func(*attest.Evidence)
	slow  time.Duration
	fail  error
	boot  attest.Collateral // what its evidence covers

	mu   sync.Mutex
	busy int // requests at this moment
	most int // and the most there ever were
	made int
}

func spell(t attest.Type, b attest.Binding) []byte {
	spki := sha256.Sum256(b.SPKI)
	if t == attest.NvidiaGPU {
		return append([]byte("gpu of "), b.Seed...)
	}
	return bytes.Join([][]byte{[]byte(t.String()), b.ReportData[:], b.Nonce[:], spki[:]}, []byte("|"))
}

func (m *machine) Types() []attest.Type {
	if m.gpu {
		return []attest.Type{m.t, attest.NvidiaGPU}
	}
	return []attest.Type{m.t}
}

func (m *machine) Devices(_ context.Context, seed []byte) (attest.Bundle, error) {
	if !m.gpu {
		return nil, nil
	}
	e := attest.Evidence{Type: attest.NvidiaGPU, Body: spell(attest.NvidiaGPU, attest.Binding{Seed: seed})}
	e.Collateral = attest.Collateral{{Kind: attest.KindEventLog, Bytes: []byte("driver loaded")}}
	return attest.Bundle{e}, nil
}

func (m *machine) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	m.mu.Lock()
	m.made++
	m.busy++
	m.most = max(m.most, m.busy)
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.busy--
		m.mu.Unlock()
	}()
	if m.slow > 0 {
		select {
		case <-time.After(m.slow):
		case <-ctx.Done():
			return attest.Evidence{}, ctx.Err()
		}
	}
	if m.fail != nil {
		return attest.Evidence{}, m.fail
	}
	e := attest.Evidence{Type: m.t, Body: spell(m.t, b)}
	e.Collateral = attest.Collateral{{Kind: attest.KindCertificate, Bytes: []byte("chip certificate")}}
	if m.spoil != nil {
		m.spoil(&e)
	}
	return e, nil
}

func (m *machine) Covered() attest.Collateral { return m.boot }
func (m *machine) Simulated() string          { return "" }

// verifier takes what machine made, for the binding it is asked about.
type verifier struct{ t attest.Type }

func (v verifier) Type() attest.Type { return v.t }

func (v verifier) Verify(_ context.Context, e attest.Evidence, b attest.Binding, _ time.Time, _ attest.Collateral) (attest.Claims, error) {
	if !bytes.Equal(e.Body, spell(v.t, b)) {
		return attest.Claims{}, attest.Refuse(attest.ClassBind, "evidence %q is not of this session", e.Body)
	}
	return attest.Claims{Type: v.t, Signed: sha256.Sum256(e.Body)}, nil
}

func verifiers() []attest.Verifier {
	return []attest.Verifier{verifier{attest.SEVSNP}, verifier{attest.Nitro}, verifier{attest.NvidiaGPU}}
}

// witness gathers what Refused is told.
type witness struct {
	mu  sync.Mutex
	all []transport.Refusal
}

func (w *witness) refused(r transport.Refusal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, r)
}

func (w *witness) list() []transport.Refusal {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]transport.Refusal(nil), w.all...)
}

// take is list, and forgets.
func (w *witness) take() []transport.Refusal {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.all
	w.all = nil
	return all
}

// one returns the only refusal there was.
func (w *witness) one(t *testing.T) transport.Refusal {
	t.Helper()
	all := w.list()
	if len(all) != 1 {
		t.Fatalf("%d refusals, want 1: %v", len(all), all)
	}
	return all[0]
}

// config returns the configuration of one who is what the name says, "coordinator/council" and so on, dialling council or
// listening.
func config(o attest.Office, name string, w *witness) transport.Config {
	c := transport.Config{
		Office: o, Name: name, Federation: federation, Epoch: 1, Manifest: digest, RequirePQ: true,
		Identity: seeded(o.String() + "/" + name), Verifiers: verifiers(), Policy: newPolicy(), Refused: w.refused,
	}
	switch o {
	case attest.Coordinator:
		c.Attester = &machine{t: attest.SEVSNP}
	case attest.Participant:
		c.Attester = &machine{t: attest.Nitro}
	}
	if o != attest.Coordinator {
		c.PeerOffice, c.PeerName = attest.Coordinator, "council"
	}
	return c
}

// ends are the two sides of a test, with what each was told.
type ends struct {
	server, client               transport.Config
	serverRefused, clientRefused witness
}

func newEnds(dialler attest.Office, name string) *ends {
	e := &ends{}
	e.server = config(attest.Coordinator, "council", &e.serverRefused)
	e.client = config(dialler, name, &e.clientRefused)
	return e
}

// outcome is what one side's handshake gave.
type outcome struct {
	conn net.Conn
	peer transport.Peer
	err  error
}

func (o outcome) close() {
	if o.conn != nil {
		_ = o.conn.Close()
	}
}

func gather(conn net.Conn, info any, err error) outcome {
	p, _ := info.(transport.Peer)
	return outcome{conn, p, err}
}

func makeServer(t testing.TB, c transport.Config) *transport.Credentials {
	t.Helper()
	s, err := transport.Server(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func makeClient(t testing.TB, c transport.Config) *transport.Credentials {
	t.Helper()
	s, err := transport.Client(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shake runs both handshakes over the two ends of a line.
func shake(server, client credentials.TransportCredentials, a, b net.Conn) (s, c outcome) {
	done := make(chan outcome, 1)
	go func() {
		conn, info, err := server.ServerHandshake(a)
		done <- gather(conn, info, err)
	}()
	conn, info, err := client.ClientHandshake(context.Background(), "", b)
	c = gather(conn, info, err)
	if err != nil {
		_ = b.Close()
	}
	return <-done, c
}

// classOf returns the class of a refusal, 0 where err is none.
func classOf(err error) attest.Class {
	var e *attest.Error
	if errors.As(err, &e) {
		return e.Class
	}
	return 0
}
