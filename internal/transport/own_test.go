package transport_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// scripted is an attester that gives what it is told to, whatever it announces.
type scripted struct {
	announced []attest.Type
	devices   attest.Bundle
	evidence  attest.Evidence
	fail      error // of Devices
}

func (s *scripted) Types() []attest.Type { return s.announced }

func (s *scripted) Devices(context.Context, []byte) (attest.Bundle, error) { return s.devices, s.fail }

func (s *scripted) Attest(context.Context, attest.Binding) (attest.Evidence, error) {
	return s.evidence, nil
}

func (s *scripted) Covered() attest.Collateral { return nil }
func (s *scripted) Simulated() string          { return "" }

// TestOwnAttester has our own attester break its promises. We refuse to go on, and the peer hears why in one byte.
func TestOwnAttester(t *testing.T) {
	snp, gpu := []attest.Type{attest.SEVSNP}, []attest.Type{attest.SEVSNP, attest.NvidiaGPU}
	report := attest.Evidence{Type: attest.SEVSNP, Body: []byte("report")}
	device := attest.Evidence{Type: attest.NvidiaGPU, Body: []byte("gpu")}
	covered := report
	covered.Collateral = attest.Collateral{{Kind: attest.KindEventLog, Bytes: []byte("x")}}
	long := report
	long.Body = make([]byte, 16<<10)
	for _, test := range []struct {
		name string
		is   scripted
		want attest.Class
	}{
		{"evidence of another type", scripted{snp, nil, attest.Evidence{Type: attest.Nitro}, nil}, attest.ClassPlat},
		{"a device that it did not announce", scripted{snp, attest.Bundle{device}, report, nil}, attest.ClassPlat},
		{"a device missing", scripted{gpu, nil, report, nil}, attest.ClassPlat},
		{"a device of another type", scripted{gpu, attest.Bundle{report}, report, nil}, attest.ClassPlat},
		{"an event log that the evidence cannot cover", scripted{snp, nil, covered, nil}, attest.ClassPlat},
		{"evidence beyond its cap", scripted{snp, nil, long, nil}, attest.ClassFrame},
		{"devices that fail", scripted{gpu, attest.Bundle{device}, report, errors.New("no answer")}, attest.ClassDev},
	} {
		for _, side := range []string{"client", "server"} {
			t.Run(test.name+" at the "+side, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEnds(attest.Participant, "north")
					if side == "client" {
						e.client.Attester = &test.is
					} else {
						e.server.Attester = &test.is
					}
					a, b := net.Pipe()
					s, c := shake(makeServer(t, e.server), makeClient(t, e.client), a, b)
					checkBoth(t, e, s, c, side, test.want)
				})
			})
		}
	}
}

// says is a verifier that answers what it is told to.
type says struct {
	t      attest.Type
	claims attest.Claims
	err    error
}

func (s says) Type() attest.Type { return s.t }

func (s says) Verify(context.Context, attest.Evidence, attest.Binding, time.Time, attest.Collateral) (attest.Claims, error) {
	return s.claims, s.err
}

// TestOwnVerifier has a verifier answer with claims of another type, and without a class.
func TestOwnVerifier(t *testing.T) {
	for _, test := range []struct {
		name string
		says says
		want attest.Class
	}{
		{"claims of another type", says{attest.Nitro, attest.Claims{Type: attest.SEVSNP}, nil}, attest.ClassParse},
		{"no claims", says{attest.Nitro, attest.Claims{}, nil}, attest.ClassParse},
		{"an error without a class", says{attest.Nitro, attest.Claims{}, errors.New("no")}, attest.ClassParse},
		{"an error with a class", says{attest.Nitro, attest.Claims{}, attest.Refuse(attest.ClassRevoked, "no")}, attest.ClassRevoked},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(attest.Participant, "north")
				e.server.Verifiers = append([]attest.Verifier{test.says}, e.server.Verifiers...)
				a, b := net.Pipe()
				s, c := shake(makeServer(t, e.server), makeClient(t, e.client), a, b)
				checkBoth(t, e, s, c, "server", test.want)
			})
		})
	}
}

// mute is a line on which writing fails after some bytes, while reading goes on.
type mute struct {
	net.Conn
	left int
}

func (m *mute) Write(b []byte) (int, error) {
	if m.left -= len(b); m.left < 0 {
		return 0, errors.New("broken pipe")
	}
	return m.Conn.Write(b)
}

// TestAlertAfterFailedWrite finds the reason for a refusal although writing failed first, as it does where the peer refused
// us and hung up before we had finished.
func TestAlertAfterFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		client := makeClient(t, e.client)
		near, far := net.Pipe()
		line := &mute{near, 1 << 20}
		done := make(chan error, 1)
		go func() {
			_, _, err := client.ClientHandshake(context.Background(), "", line)
			done <- err
		}()
		g := newRogue(t, e, serverSide)
		g.handshake(far)
		g.receive(1)
		line.left = 0
		g.sendHello()
		g.sendEvidence()
		go func() { _, _ = g.conn.Write(transport.Frame(6, []byte{byte(attest.ClassInst)})) }()
		if err := <-done; classOf(err) != attest.ClassInst {
			t.Errorf("the client's handshake = %v, want INST", err)
		}
		if r := e.clientRefused.one(t); r.Class != attest.ClassInst || !r.ByPeer {
			t.Errorf("Refused was told %+v", r)
		}
	})
}

// TestOwnCollateral shows what of our collateral goes along: what evidence covers always, the rest while it fits.
func TestOwnCollateral(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		e.client.Collateral = attest.Collateral{
			{Kind: attest.KindInitdata, Bytes: []byte("init")},
			{Kind: attest.KindCRL, Bytes: make([]byte, 30<<10)},
			{Kind: attest.KindIssuerChain, Bytes: []byte("small")},
			{Kind: attest.KindEventLog, Bytes: []byte("log")},
		}
		e.client.Attester.(*machine).boot = attest.Collateral{
			{Kind: attest.KindEventLog, Bytes: []byte("the machine's log")},
			{Kind: attest.KindTCBInfo, Bytes: []byte("what evidence does not cover")},
		}
		a, b := net.Pipe()
		s, c := shake(makeServer(t, e.server), makeClient(t, e.client), a, b)
		if s.err != nil || c.err != nil {
			t.Fatal(s.err, c.err)
		}
		var got bytes.Buffer
		for _, i := range s.peer.Evidence[0].Collateral {
			got.WriteByte('0' + byte(i.Kind))
		}
		if want := ":7716"; got.String() != want { // initdata, event logs, the machine's own certificate, issuer chain
			t.Errorf("collateral of kinds %q, want %q", got.String(), want)
		}
		s.close()
		c.close()
	})
}

// TestRolesOfCredentials keeps a dialler's credentials from listening and a listener's from dialling.
func TestRolesOfCredentials(t *testing.T) {
	e := newEnds(attest.Participant, "north")
	server, client := makeServer(t, e.server), makeClient(t, e.client)
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, _, err := client.ServerHandshake(a); err == nil {
		t.Error("a dialler listened")
	}
	if _, _, err := server.ClientHandshake(t.Context(), "", b); err == nil {
		t.Error("a listener dialled")
	}
	if err := client.OverrideServerName("other"); err == nil {
		t.Error("the peer's name was changed")
	}
	if client.Clone() != client || client.Info().SecurityProtocol != "consilium-atls-v1" {
		t.Errorf("clone or info: %+v", client.Info())
	}
}

// away is an identity key that can be taken out of reach.
type away struct {
	crypto.Signer
	gone atomic.Bool
}

func (a *away) Sign(rand io.Reader, message []byte, o crypto.SignerOpts) ([]byte, error) {
	if a.gone.Load() {
		return nil, errors.New("no answer from the key's keeper")
	}
	return a.Signer.Sign(rand, message, o)
}

// TestIdentityOutOfReach goes on with the leaf that there is while the identity key does not answer, until that leaf ends.
func TestIdentityOutOfReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		key := &away{Signer: seeded("participant/north")}
		e.client.Identity = key
		server, client := makeServer(t, e.server), makeClient(t, e.client)
		first, err := client.Leaf()
		if err != nil {
			t.Fatal(err)
		}
		key.gone.Store(true)
		for _, step := range []struct {
			wait time.Duration
			gone bool
			want attest.Class
			old  bool // the leaf is the first
		}{
			{13 * time.Hour, true, 0, true},
			{10 * time.Hour, true, 0, true},
			{time.Hour, true, attest.ClassTLS, false},
			{time.Hour, false, 0, false},
		} {
			time.Sleep(step.wait)
			key.gone.Store(step.gone)
			a, b := net.Pipe()
			s, c := shake(server, client, a, b)
			if classOf(c.err) != step.want || (c.conn == nil) != (step.want != 0) {
				t.Errorf("after %v more: %v, want %v", step.wait, c.err, step.want)
			}
			if s.conn != nil && s.peer.State.PeerCertificates[0].Equal(first.Leaf) != step.old {
				t.Errorf("after %v more the leaf is of %v", step.wait, s.peer.State.PeerCertificates[0].NotBefore)
			}
			s.close()
			c.close()
		}
		if _, err := transport.Client(e.client); err != nil {
			t.Errorf("with the key back: %v", err)
		}
		key.gone.Store(true)
		if _, err := transport.Client(e.client); err == nil {
			t.Error("credentials were made without the identity key")
		}
	})
}

// TestCallerGoesAway ends a handshake whose caller has lost interest: that is nobody's refusal.
func TestCallerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		client := makeClient(t, e.client)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, cancel)
		near, far := net.Pipe()
		from := time.Now()
		_, _, err := client.ClientHandshake(ctx, "", near)
		if !errors.Is(err, context.Canceled) || time.Since(from) != 3*time.Second || len(e.clientRefused.list()) != 0 {
			t.Errorf("%v after %v, refusals %v", err, time.Since(from), e.clientRefused.list())
		}
		_ = far.Close()
	})
}

// TestEndsAtTheDeadline lets the last step of a dialler's handshake take until after its deadline: it is over, however well
// it went.
func TestEndsAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls, last := 0, 0
		for range 2 {
			e := newEnds(attest.Participant, "north")
			e.client.Now = func() time.Time {
				if calls++; last > 0 && calls == last { // its last look at the clock comes after FINISHED
					time.Sleep(2 * time.Minute)
				}
				return time.Now()
			}
			server := makeServer(t, e.server)
			client := makeClient(t, e.client)
			a, b := net.Pipe()
			s, c := shake(server, client, a, b)
			if last == 0 {
				if s.err != nil || c.err != nil {
					t.Fatal(s.err, c.err)
				}
				last, calls = calls, 0
			} else if classOf(c.err) != attest.ClassRate || c.conn != nil || client.Live() != 0 {
				t.Errorf("after the deadline: %v, live %d", c.err, client.Live())
			}
			s.close()
			c.close()
		}
	})
}
