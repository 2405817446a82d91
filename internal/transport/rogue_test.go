package transport_test

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

const (
	clientSide uint8 = 1
	serverSide uint8 = 2
)

// rogue is a peer that speaks the protocol by itself, rightly but for what a test twists. Without a twist it is admitted,
// so what it is refused for is the twist.
type rogue struct {
	t       *testing.T
	e       *ends
	side    uint8
	given   transport.Given
	me      *transport.End // its end of given
	chain   tls.Certificate
	tls     func(*tls.Config)
	witness func(attest.Binding) []attest.Evidence // its evidence
	hello   func(body []byte) []byte               // the body that it sends as its hello
	twist   func(frame string, sent []byte) []byte // the bytes that it sends in place of "hello", "evidence", "finished"
	verdict byte
	victim  *transport.Credentials // whom it meets; nil makes one of e
	script  func(*rogue)           // what it does after TLS, in place of the exchange

	line                                 net.Conn
	conn                                 *tls.Conn
	th                                   [32]byte
	helloC, helloS, evidenceC, evidenceS []byte
	finished                             bool         // the exchange came to its end, rightly
	told                                 attest.Class // by an ALERT
	err                                  error
}

// newRogue returns one that takes a side of e, with the leaf and the machine of whom it plays.
func newRogue(t *testing.T, e *ends, side uint8) *rogue {
	t.Helper()
	g := &rogue{t: t, e: e, side: side, verdict: 1}
	mine, creds := e.client, (*transport.Credentials)(nil)
	if side == serverSide {
		mine, creds = e.server, makeServer(t, e.server)
	} else {
		creds = makeClient(t, e.client)
	}
	var err error
	if g.chain, err = creds.Leaf(); err != nil {
		t.Fatal(err)
	}
	g.given = transport.Given{Federation: mine.Federation, Epoch: mine.Epoch, Manifest: mine.Manifest}
	g.given.Client = transport.End{Office: e.client.Office, Name: e.client.Name, Types: []attest.Type{attest.Signature}}
	if e.client.Attester != nil {
		g.given.Client.Types = e.client.Attester.Types()
	}
	g.given.Server = transport.End{Office: e.server.Office, Name: e.server.Name, Types: e.server.Attester.Types()}
	g.me = &g.given.Client
	if side == serverSide {
		g.me = &g.given.Server
	}
	g.me.Nonce = sha256.Sum256([]byte("a rogue's nonce"))
	g.witness = func(b attest.Binding) []attest.Evidence { return g.genuine(mine, b) }
	return g
}

// genuine asks the machine, or signs, as c says.
func (g *rogue) genuine(c transport.Config, b attest.Binding) []attest.Evidence {
	if c.Attester == nil {
		sig, err := c.Identity.Sign(nil, transport.PersonInput(b.ReportData), crypto.Hash(0))
		if err != nil {
			g.t.Fatal(err)
		}
		return []attest.Evidence{{Type: attest.Signature, Body: sig}}
	}
	e, err := c.Attester.Attest(context.Background(), b)
	if err != nil {
		g.t.Fatal(err)
	}
	return []attest.Evidence{e}
}

// result is how a rogue fared.
type result struct {
	class    attest.Class // that it was told, 0 without an ALERT
	err      error        // that ended its part, ALERTs included
	finished bool
	victim   outcome
	refusals []transport.Refusal // the victim's
}

// run meets a victim that e configures, over a pipe.
func (g *rogue) run() result {
	near, far := net.Pipe()
	done := make(chan outcome, 1)
	refused, victim := &g.e.serverRefused, g.victim
	if g.side == serverSide {
		refused = &g.e.clientRefused
		client := makeClient(g.t, g.e.client)
		go func() { done <- gather(client.ClientHandshake(context.Background(), "", far)) }()
	} else {
		if victim == nil {
			victim = makeServer(g.t, g.e.server)
		}
		go func() { done <- gather(victim.ServerHandshake(far)) }()
	}
	g.play(near)
	if g.err != nil {
		_ = near.Close()
	}
	read := make(chan struct{})
	if g.err == nil && g.side == serverSide {
		go func() { // its part is over, but an ALERT may be on the way
			defer close(read)
			g.receive(0)
		}()
	} else {
		close(read)
	}
	v := <-done
	if v.err == nil {
		_ = near.Close()
	}
	<-read
	if v.err == nil && g.side == serverSide {
		g.err, g.finished = nil, true
	}
	_ = near.Close()
	v.close()
	return result{g.told, g.err, g.finished, v, refused.list()}
}

// play is the exchange, step by step until one fails.
func (g *rogue) play(line net.Conn) {
	g.handshake(line)
	if g.script != nil {
		g.script(g)
		return
	}
	if g.side == clientSide {
		g.sendHello()
		g.receive(2)
		g.receive(3)
		g.sendEvidence()
		g.receive(4)
		return
	}
	g.receive(1)
	g.sendHello()
	g.sendEvidence()
	g.receive(3)
	g.receive(4)
	g.sendFinished()
}

func (g *rogue) handshake(line net.Conn) {
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{transport.ALPN}, Certificates: []tls.Certificate{g.chain},
		ClientAuth: tls.RequireAnyClientCert, InsecureSkipVerify: true, SessionTicketsDisabled: true,
	}
	if g.tls != nil {
		g.tls(cfg)
	}
	g.line, g.conn = line, tls.Client(line, cfg)
	if g.side == serverSide {
		g.conn = tls.Server(line, cfg)
	}
	if g.err = g.conn.Handshake(); g.err != nil {
		return
	}
	if certs := g.conn.ConnectionState().PeerCertificates; g.side == clientSide {
		g.given.Server.SPKI = certs[0].RawSubjectPublicKeyInfo
	} else {
		g.given.Client.SPKI = certs[0].RawSubjectPublicKeyInfo
	}
	g.me.SPKI = g.chain.Leaf.RawSubjectPublicKeyInfo
}

// send writes a frame, or what the twist makes of it.
func (g *rogue) send(name string, frame []byte) {
	if g.twist != nil {
		frame = g.twist(name, frame)
	}
	if g.err != nil || len(frame) == 0 {
		return
	}
	if _, err := g.conn.Write(frame); err != nil {
		g.receive(0) // an ALERT may be there
		g.err = errors.Join(err, g.err)
	}
}

func (g *rogue) sendHello() {
	if g.err != nil {
		return
	}
	body := g.given.Hello(g.side)
	if g.hello != nil {
		body = g.hello(body)
	}
	if g.side == clientSide {
		g.helloC = body
	} else {
		g.helloS = body
	}
	g.send("hello", transport.Frame(g.side, body))
	if g.side == serverSide {
		g.derive()
	}
}

func (g *rogue) derive() {
	g.th = transport.Transcript(g.helloC, g.helloS)
	if err := g.given.Export(g.conn.ConnectionState(), g.th); err != nil {
		g.t.Error(err)
	}
}

// binding returns what its evidence must carry.
func (g *rogue) binding() attest.Binding {
	nonce := g.given.Server.Nonce
	if g.side == serverSide {
		nonce = g.given.Client.Nonce
	}
	return attest.Binding{ReportData: g.given.Report(g.side, g.th), Nonce: nonce, SPKI: g.me.SPKI}
}

// sendEvidence sends its evidence, and as client FINISHED with it.
func (g *rogue) sendEvidence() {
	if g.err != nil {
		return
	}
	body := transport.EncodeEvidence(g.witness(g.binding()))
	if g.side == serverSide {
		g.evidenceS = body
		g.send("evidence", transport.Frame(3, body))
		return
	}
	g.evidenceC = body
	g.send("evidence", transport.Frame(3, body))
	g.sendFinished()
}

func (g *rogue) sendFinished() {
	if g.err == nil {
		mac := transport.Finished(g.given.EKMF, g.side, g.th, g.evidenceS, g.evidenceC, g.verdict)
		g.send("finished", transport.Frame(4, mac))
	}
}

// receive reads the victim's next frame and keeps what it needs of it.
func (g *rogue) receive(want byte) []byte {
	if g.err != nil {
		return nil
	}
	head := make([]byte, 5)
	if _, g.err = io.ReadFull(g.conn, head); g.err != nil {
		return nil
	}
	body := make([]byte, binary.BigEndian.Uint32(head[1:]))
	if _, g.err = io.ReadFull(g.conn, body); g.err != nil {
		return nil
	}
	switch {
	case head[0] == 6:
		if len(body) != 1 {
			g.t.Errorf("an ALERT of %d bytes", len(body))
		}
		g.told = attest.Class(body[0])
		g.err = fmt.Errorf("told %v", g.told)
	case head[0] != want:
		g.err = fmt.Errorf("frame %d, want %d", head[0], want)
	case want == 1:
		g.helloC = body
		copy(g.given.Client.Nonce[:], body[20:52])
	case want == 2:
		g.helloS = body
		copy(g.given.Server.Nonce[:], body[20:52])
		g.derive()
	case want == 3 && g.side == clientSide:
		g.evidenceS = body
	case want == 3:
		g.evidenceC = body
	case want == 4:
		mac := transport.Finished(g.given.EKMF, 3-g.side, g.th, g.evidenceS, g.evidenceC, 1)
		g.finished = hmac.Equal(mac, body)
	}
	return body
}
