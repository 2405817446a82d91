package transport_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// The evidence in these tests is genuine, of the right machine, and made by whoever holds stolen leaf keys: only what it is
// bound to is not this session.

// TestBoundToAll changes one by one the values that evidence is bound to, and has the machine attest to that.
func TestBoundToAll(t *testing.T) {
	r := aRealm(t)
	m := r.manifestOf(t)
	for _, test := range []struct {
		name string
		edit func(g *transport.Given, me, peer *transport.End)
	}{
		{"I166 another session", func(g *transport.Given, _, _ *transport.End) { g.EKMC, g.EKMS = make([]byte, 32), make([]byte, 32) }},
		{"I166 the other side's exporter", func(g *transport.Given, _, _ *transport.End) { g.EKMC, g.EKMS = g.EKMS, g.EKMC }},
		{"I166 the exporter of FINISHED", func(g *transport.Given, _, _ *transport.End) { g.EKMC, g.EKMS = g.EKMF, g.EKMF }},
		{"I166 another office", func(_ *transport.Given, me, _ *transport.End) { me.Office = 3 - me.Office }},
		{"I166 another epoch", func(g *transport.Given, _, _ *transport.End) { g.Epoch++ }},
		{"I166 another federation", func(g *transport.Given, _, _ *transport.End) { g.Federation = "lungs" }},
		{"I166 another manifest", func(g *transport.Given, _, _ *transport.End) { g.Manifest[31] ^= 1 }},
		{"I166 another name, by diversion", func(_ *transport.Given, me, _ *transport.End) { me.Name = "west" }},
		{"I166 another verifier's name", func(_ *transport.Given, _, peer *transport.End) { peer.Name = "west" }},
		{"I166 another key of its own", func(_ *transport.Given, me, _ *transport.End) { me.SPKI = []byte("another") }},
		{"I166 another key of ours", func(_ *transport.Given, _, peer *transport.End) { peer.SPKI = []byte("another") }},
		{"I166 another nonce of its own", func(_ *transport.Given, me, _ *transport.End) { me.Nonce[0] ^= 1 }},
		{"I166 another nonce of ours", func(_ *transport.Given, _, peer *transport.End) { peer.Nonce[0] ^= 1 }},
		{"I166 devices that it does not show", func(g *transport.Given, _, _ *transport.End) {
			gpu := []attest.Evidence{{Type: attest.NvidiaGPU, Body: []byte("x")}}
			g.EvidenceC, g.EvidenceS = gpu, gpu
		}},
	} {
		for _, who := range []string{"north", "south", "council"} {
			t.Run(test.name+", from "+who, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					side, dialler := clientSide, who
					if who == "council" {
						side, dialler = serverSide, "north"
					}
					g := newRogue(t, r.realEnds(t, m, attest.Participant, dialler), side)
					honest := g.witness
					g.witness = func(b attest.Binding) []attest.Evidence {
						other := g.given
						me, peer := &other.Client, &other.Server
						if side == serverSide {
							me, peer = peer, me
						}
						test.edit(&other, me, peer)
						b.ReportData = other.Report(side, g.th)
						return honest(b)
					}
					checkRogue(t, rogueCase{want: attest.ClassBind}, g.run())
				})
			})
		}
	}
}

// TestRefusesOtherBindings shows evidence over something else altogether.
func TestRefusesOtherBindings(t *testing.T) {
	r := aRealm(t)
	m := r.manifestOf(t)
	for _, test := range []struct {
		name string
		bind func(g *rogue, b *attest.Binding)
	}{
		{"I166 another transcript", func(g *rogue, b *attest.Binding) { b.ReportData = g.given.Report(g.side, [32]byte{1}) }},
		{"I166 reflection: the other side of this session", func(g *rogue, b *attest.Binding) { b.ReportData = g.given.Report(3-g.side, g.th) }},
		{"I166 a log's key", func(g *rogue, b *attest.Binding) {
			b.ReportData, _ = transport.LogKeyBinding(b.SPKI, g.given.Federation, g.given.Manifest, b.Nonce)
		}},
		{"I166 the first half of it", func(_ *rogue, b *attest.Binding) { clear(b.ReportData[32:]) }},
		{"I166 nothing", func(_ *rogue, b *attest.Binding) { b.ReportData = [64]byte{} }},
	} {
		for _, who := range []string{"north", "south"} {
			t.Run(test.name+", from "+who, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g := newRogue(t, r.realEnds(t, m, attest.Participant, who), clientSide)
					honest := g.witness
					g.witness = func(b attest.Binding) []attest.Evidence {
						test.bind(g, &b)
						return honest(b)
					}
					checkRogue(t, rogueCase{want: attest.ClassBind}, g.run())
				})
			})
		}
	}
}

// TestReplay shows the evidence of a session that was admitted in the next one, by the same peer with the same leaf.
func TestReplay(t *testing.T) {
	r := aRealm(t)
	m := r.manifestOf(t)
	for _, test := range []struct {
		side   uint8
		office attest.Office
		who    string
	}{
		{clientSide, attest.Participant, "north"},
		{clientSide, attest.Participant, "south"},
		{clientSide, attest.Person, "ada"},
		{serverSide, attest.Participant, "north"},
	} {
		t.Run(fmt.Sprintf("side %d of %s's session", test.side, test.who), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := r.realEnds(t, m, test.office, test.who)
				first := newRogue(t, e, test.side)
				var seen []attest.Evidence
				honest := first.witness
				first.witness = func(b attest.Binding) []attest.Evidence {
					seen = honest(b)
					return seen
				}
				checkRogue(t, rogueCase{}, first.run())
				second := newRogue(t, e, test.side)
				second.chain = first.chain
				second.witness = func(attest.Binding) []attest.Evidence { return seen }
				checkRogue(t, rogueCase{want: attest.ClassBind}, second.run())
			})
		})
	}
}

// TestReflection sends a listener its own evidence back, from a machine of the same kind.
func TestReflection(t *testing.T) {
	r := aRealm(t)
	synctest.Test(t, func(t *testing.T) {
		g := newRogue(t, r.realEnds(t, r.manifestOf(t), attest.Participant, "north"), clientSide)
		g.twist = func(what string, sent []byte) []byte {
			if what == "evidence" {
				g.evidenceC = g.evidenceS // and FINISHED over it
				return transport.Frame(3, g.evidenceS)
			}
			return sent
		}
		checkRogue(t, rogueCase{want: attest.ClassBind}, g.run())
	})
}

// blind takes whatever it is shown. A dialler that uses it shows its own evidence to anybody.
type blind struct{ attest.Verifier }

func (b blind) Verify(ctx context.Context, e attest.Evidence, _ attest.Binding, _ time.Time, _ attest.Collateral) (attest.Claims, error) {
	return attest.Claims{Type: e.Type, Simulated: "demo"}, nil
}

// blindPolicy admits whoever was verified.
type blindPolicy struct{ attest.Policy }

func (blindPolicy) Appraise(attest.Peer, []attest.Claims, time.Time) (attest.Appraisal, error) {
	return attest.Appraisal{TTL: time.Hour}, nil
}

// TestLiveRelay puts an attacker between a dialler and a listener who holds both their leaf keys, ends both TLS sessions and
// passes every frame on. Leaves, nonces, names and hellos are all as they should be; only the sessions are two.
func TestLiveRelay(t *testing.T) {
	r := aRealm(t)
	m := r.manifestOf(t)
	for _, who := range []string{"north", "south"} {
		t.Run("to "+who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := r.realEnds(t, m, attest.Participant, who)
				s, c := relay(t, e)
				checkBoth(t, e, s, c, "client", attest.ClassBind)
			})
		})
		// The dialler is the first to notice. Where it does not look, the listener does.
		t.Run("from "+who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := r.realEnds(t, m, attest.Participant, who)
				e.client.Policy = blindPolicy{m}
				e.client.Verifiers = []attest.Verifier{blind{verifier{attest.SEVSNP}}}
				s, c := relay(t, e)
				checkBoth(t, e, s, c, "server", attest.ClassBind)
			})
		})
	}
}

// relay runs a handshake through the attacker.
func relay(t *testing.T, e *ends) (s, c outcome) {
	t.Helper()
	server, client := makeServer(t, e.server), makeClient(t, e.client)
	councils, err := server.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	diallers, err := client.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	config := func(stolen tls.Certificate) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{transport.ALPN}, Certificates: []tls.Certificate{stolen},
			ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true,
		}
	}
	a, aFar := net.Pipe()
	b, bFar := net.Pipe()
	front, back := tls.Server(bFar, config(councils)), tls.Client(aFar, config(diallers))
	var passed [2]bytes.Buffer
	done := make(chan error, 2)
	pass := func(dst, src *tls.Conn, near, far net.Conn, seen *bytes.Buffer) {
		_, err := io.Copy(io.MultiWriter(dst, seen), src)
		_, _ = near.Close(), far.Close()
		done <- err
	}
	go pass(back, front, aFar, bFar, &passed[0])
	go pass(front, back, bFar, aFar, &passed[1])
	s, c = shake(server, client, a, b)
	<-done
	<-done
	if passed[0].Len() < 100 || passed[1].Len() < 1000 {
		t.Errorf("the attacker passed on %d and %d bytes only", passed[0].Len(), passed[1].Len())
	}
	return s, c
}
