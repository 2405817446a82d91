package transport

import (
	"context"
	"crypto/hmac"
	"crypto/tls"
	"crypto/x509"
	"net"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/socket"
	"google.golang.org/grpc/credentials"
)

// exchange is one handshake. One goroutine owns it.
type exchange struct {
	c    *Credentials
	raw  net.Conn
	side side // ours

	line    *line
	meter   *meter    // what the listener reads of a peer that has not proven its name
	conn    *tls.Conn // nil until the TLS handshake is over
	state   tls.ConnectionState
	own     *leaf
	claimed leafID // what the peer's leaf says; proven once endorsed is set

	endorsed bool   // the peer is whom its leaf says, under our manifest
	place    func() // gives back our place in the lobby; nil where we have none
	guest    *guest // what the listener remembers of the peer's name; nil until it was counted
	admitted bool   // we are counted among the sessions of the peer's name

	judged judgement // of the peer's evidence, as far as it came

	mine, theirs hello
	th           [32]byte
	ekm          exported
	finish       []byte // the listener's FINISHED, sent last

	mute    bool // the peer hung up on the listener before it sent a byte
	silent  bool // we sent MANIFESTS, so the peer is sent no ALERT
	taken   bool // we took MANIFESTS, so the peer waits for us to close
	adopted bool // and adopted them: that is no refusal
}

// run is the whole handshake. The connection that it returns is registered.
func (x *exchange) run(ctx context.Context) (*conn, error) {
	if err := x.startTLS(ctx); err != nil {
		return nil, err
	}
	step := x.dial
	if x.side == serverSide {
		step = x.listen
	}
	p, err := step(ctx)
	if err != nil {
		return nil, err
	}
	x.line.proven = true
	k := &conn{Conn: x.conn, line: x.line, raw: x.raw, c: x.c, peer: p}
	if err := x.c.keep(k); err != nil {
		return nil, err
	}
	x.admitted = false // from here on the connection counts
	if x.side == serverSide {
		// Last, so that a client that reads it finds a connection that is counted and can be cut.
		if err := x.write(appendFrame(nil, frameFinished, x.finish)); err != nil {
			return k, err
		}
	}
	return k, nil
}

// startTLS shakes hands and judges what TLS says: step 1, and the form of the peer's leaf.
func (x *exchange) startTLS(ctx context.Context) error {
	var err error
	if x.own, err = x.c.currentLeaf(); err != nil {
		return attest.Refuse(attest.ClassTLS, "own leaf: %w", err)
	}
	if x.side == serverSide {
		if x.place, err = x.c.lobby.enter(ctx, socket.Source(x.raw.RemoteAddr())); err != nil {
			return err
		}
		if err := x.hurry(ctx); err != nil {
			return err
		}
	}
	cfg := x.tlsConfig()
	x.line = &line{Conn: x.raw}
	conn := tls.Client(x.line, cfg)
	if x.side == serverSide {
		x.meter = &meter{Conn: x.raw, left: maxStrangeTLS}
		x.line.Conn = x.meter
		conn = tls.Server(x.line, cfg)
	}
	// The deadline is on the raw connection. HandshakeContext would close it under the drain.
	if err := conn.Handshake(); err != nil {
		e := ioError(err, "TLS handshake")
		if e.Class != attest.ClassRate {
			e.Class = attest.ClassTLS
			x.mute = x.meter != nil && x.meter.left == maxStrangeTLS
		}
		return e
	}
	x.conn, x.state = conn, conn.ConnectionState()
	if x.meter != nil {
		x.meter.left = maxStrangeHello
	}
	if err := x.judgeState(); err != nil {
		return err
	}
	x.claimed, err = readLeaf(x.state.PeerCertificates[0], x.c.cfg.Now())
	return err
}

func (x *exchange) tlsConfig() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519}, // by hand: the default hangs on go.mod's version
		NextProtos:             []string{ALPN},
		Certificates:           []tls.Certificate{x.own.cert},
		ClientAuth:             tls.RequireAnyClientCert,
		InsecureSkipVerify:     true, // the peer is judged below, by the manifest's keys
		SessionTicketsDisabled: true,
	}
}

func (x *exchange) judgeState() error {
	s := x.state
	switch {
	case !s.HandshakeComplete || s.Version != tls.VersionTLS13:
		return attest.Refuse(attest.ClassTLS, "TLS version %#x, want 1.3", s.Version)
	case s.DidResume:
		return attest.Refuse(attest.ClassTLS, "TLS session was resumed")
	case s.NegotiatedProtocol != ALPN:
		return attest.Refuse(attest.ClassTLS, "application protocol %q, want %q", s.NegotiatedProtocol, ALPN)
	case s.CurveID != tls.X25519MLKEM768 && (x.c.cfg.RequirePQ || s.CurveID != tls.X25519):
		return attest.Refuse(attest.ClassTLS, "key exchange %v, but the manifest asks for X25519MLKEM768", s.CurveID)
	case len(s.PeerCertificates) != 2:
		return attest.Refuse(attest.ClassTLS, "%d certificates, want leaf and identity", len(s.PeerCertificates))
	}
	return nil
}

// endorse proves the peer's leaf under our own manifest: step 2.
func (x *exchange) endorse() error {
	err := x.endorsedBy(x.c.cfg.Policy)
	x.endorsed = err == nil
	return err
}

// enroll counts the handshake among the sessions of the peer's name (step 17), and only then gives back its place in the
// lobby: whoever dials, and however often, the handshakes that go on at a time are bounded. The peer now has the time of
// the whole exchange.
func (x *exchange) enroll(ctx context.Context) (err error) {
	if x.guest, err = x.c.admit(x.caller()); err != nil {
		return err
	}
	x.admitted = true
	x.leaveLobby()
	x.meter.open()
	end, _ := ctx.Deadline()
	return x.until(ctx, end)
}

// hurry gives a peer strangerTimeout to prove its name, or what is left of the exchange where that is less.
func (x *exchange) hurry(ctx context.Context) error {
	soon := time.Now().Add(strangerTimeout)
	if end, ok := ctx.Deadline(); ok && end.Before(soon) {
		return nil
	}
	return x.until(ctx, soon)
}

// until sets the connection's deadline, and fails where ctx has ended: it set a deadline itself then, which this may have
// undone.
func (x *exchange) until(ctx context.Context, end time.Time) error {
	_ = x.raw.SetDeadline(end) // fails on a line that was cut, as what is read or written next will
	return ctx.Err()
}

// caller is the peer once it has proven its name, under our own manifest or one of before.
func (x *exchange) caller() caller { return caller{x.who(), !x.endorsed} }

// who is the peer as its leaf says, proven or not.
func (x *exchange) who() attest.Peer {
	return attest.Peer{Office: x.claimed.office, Name: x.claimed.name}
}

// endorsedBy asks the keys of p. The office and name must be ones that we talk to.
func (x *exchange) endorsedBy(p attest.Policy) error {
	cfg, id := &x.c.cfg, x.claimed
	want := id.office == cfg.PeerOffice && id.name == cfg.PeerName
	if x.side == serverSide {
		want = id.office == cfg.PeerOffice
		if cfg.PeerOffice == 0 {
			want = id.office == attest.Participant || id.office == attest.Person
		}
	}
	switch {
	case id.federation != cfg.Federation:
		return attest.Refuse(attest.ClassManifest, "leaf is of federation %q, ours is %q", id.federation, cfg.Federation)
	case !want:
		return attest.Refuse(attest.ClassManifest, "leaf is of the %v %q, with whom we have nothing to do", id.office, id.name)
	}
	return endorsed(p, id, x.leafCert(), x.state.PeerCertificates[1])
}

func (x *exchange) leafCert() *x509.Certificate { return x.state.PeerCertificates[0] }

func (x *exchange) leaveLobby() {
	if x.place != nil {
		x.place()
		x.place = nil
	}
}

// leave gives back what the handshake holds of the listener.
func (x *exchange) leave() {
	x.leaveLobby()
	if x.admitted {
		x.c.dismiss(x.caller())
		x.admitted = false
	}
}

func (x *exchange) read(want frameType, limit int) ([]byte, error) {
	return readFrame(x.conn, want, limit)
}

// derive fixes the transcript and the values exported from TLS for it.
func (x *exchange) derive(helloC, helloS []byte) (err error) {
	x.th = transcript(helloC, helloS)
	x.ekm, err = export(x.state, x.th)
	return err
}

// readFinished reads the peer's FINISHED.
func (x *exchange) readFinished() ([]byte, error) {
	mac, err := x.read(frameFinished, lenFinished)
	if err == nil && len(mac) != lenFinished {
		err = attest.Refuse(attest.ClassFrame, "FINISHED of %d bytes, want %d", len(mac), lenFinished)
	}
	return mac, err
}

// checkFinished judges the peer's FINISHED: step 17.
func (x *exchange) checkFinished(got, evidenceS, evidenceC []byte) error {
	want := finished(x.ekm.finished, x.side.other(), x.th, evidenceS, evidenceC, verdictAccept)
	if !hmac.Equal(got, want) {
		return attest.Refuse(attest.ClassBind, "FINISHED is not of this session")
	}
	return nil
}

// peer is what became known of the other side: step 16.
func (x *exchange) peer(j judgement) Peer {
	return Peer{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		State:          x.state,
		Office:         x.claimed.office, Name: x.claimed.name, Instance: x.claimed.instance,
		Epoch: x.c.cfg.Epoch, Manifest: x.c.cfg.Manifest,
		Appraisal: j.appraisal, Claims: j.claims, Evidence: j.evidence,
		Binding: j.binding, Preimage: j.preimage, Issued: j.at, Expires: j.expires, OwnLeaf: x.own.notAfter,
	}
}
