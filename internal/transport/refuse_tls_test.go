package transport_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// rogueCase is one thing that a rogue does, and how its victim refuses it.
type rogueCase struct {
	name   string
	side   uint8                    // the rogue's; 0 is the client
	office attest.Office            // of the dialler; 0 is a participant
	who    string                   // likewise; "" is north
	setup  func(*testing.T, *ends)  // of the victim
	twist  func(*testing.T, *rogue) // what the rogue does
	want   attest.Class             // that the victim refuses it with; 0 where it is admitted
	untold bool                     // no ALERT can arrive
	peer   bool                     // the victim was told this class by the rogue
}

func runRogues(t *testing.T, cases []rogueCase) {
	t.Helper()
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if test.side == 0 {
					test.side = clientSide
				}
				if test.office == 0 {
					test.office = attest.Participant
				}
				if test.who == "" {
					test.who = "north"
				}
				e := newEnds(test.office, test.who)
				if test.setup != nil {
					test.setup(t, e)
				}
				g := newRogue(t, e, test.side)
				test.twist(t, g)
				checkRogue(t, test, g.run())
			})
		})
	}
}

func checkRogue(t *testing.T, test rogueCase, got result) {
	t.Helper()
	if test.want == 0 {
		if got.victim.err != nil || !got.finished || len(got.refusals) != 0 {
			t.Errorf("victim: %v, rogue: %v; want it admitted", got.victim.err, got.err)
		}
		return
	}
	if got.victim.conn != nil || classOf(got.victim.err) != test.want {
		t.Errorf("victim's handshake = %v, want class %v", got.victim.err, test.want)
	}
	if len(got.refusals) != 1 || got.refusals[0].Class != test.want || got.refusals[0].ByPeer != test.peer {
		t.Fatalf("Refused was told %v, want once %v", got.refusals, test.want)
	}
	t.Log(got.refusals[0].Err)
	told := test.want
	if test.untold || test.peer {
		told = 0
	}
	if got.class != told || got.err == nil && !test.peer {
		t.Errorf("the rogue was told %v (%v), want %v", got.class, got.err, told)
	}
}

func TestRefusesTLS(t *testing.T) {
	runRogues(t, []rogueCase{
		{name: "I165 tls 1.2 from a client", want: attest.ClassTLS, untold: true, twist: withTLS(func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		})},
		{name: "I165 tls 1.2 from a server", side: serverSide, want: attest.ClassTLS, untold: true, twist: withTLS(func(c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		})},
		{name: "I165 h2 from a client", want: attest.ClassTLS, untold: true, twist: withTLS(func(c *tls.Config) { c.NextProtos = []string{"h2"} })},
		{
			name: "I165 h2 from a server", side: serverSide, want: attest.ClassTLS, untold: true,
			twist: withTLS(func(c *tls.Config) { c.NextProtos = []string{"h2"} }),
		},
		{name: "I165 no protocol from a client", want: attest.ClassTLS, twist: withTLS(func(c *tls.Config) { c.NextProtos = nil })},
		{
			name: "I165 no protocol from a server", side: serverSide, want: attest.ClassTLS,
			twist: withTLS(func(c *tls.Config) { c.NextProtos = nil }),
		},
		{name: "I165 x25519 alone from a client, where the hybrid is required", want: attest.ClassTLS, twist: withGroup(tls.X25519)},
		{
			name: "I165 x25519 alone from a server, where the hybrid is required", side: serverSide, want: attest.ClassTLS,
			twist: withGroup(tls.X25519),
		},
		{name: "x25519 alone, where the hybrid is preferred", setup: preferPQ, twist: withGroup(tls.X25519)},
		{
			name: "x25519 alone from a server, where the hybrid is preferred", side: serverSide, setup: preferPQ,
			twist: withGroup(tls.X25519),
		},
		{name: "I165 p-256 from a client", want: attest.ClassTLS, setup: preferPQ, untold: true, twist: withGroup(tls.CurveP256)},
		{
			name: "I165 p-256 from a server", side: serverSide, want: attest.ClassTLS, setup: preferPQ, untold: true,
			twist: withGroup(tls.CurveP256),
		},
		{name: "I165 no certificate", want: attest.ClassTLS, untold: true, twist: withTLS(func(c *tls.Config) { c.Certificates = nil })},
		{
			name: "I165 one certificate from a client", want: attest.ClassTLS,
			twist: withLeaf(mint{chain: func(c [][]byte) [][]byte { return c[:1] }}),
		},
		{
			name: "I165 one certificate from a server", side: serverSide, want: attest.ClassTLS,
			twist: withLeaf(mint{chain: func(c [][]byte) [][]byte { return c[:1] }}),
		},
		{
			name: "I165 three certificates from a client", want: attest.ClassTLS,
			twist: withLeaf(mint{chain: func(c [][]byte) [][]byte { return append(c, c[1]) }}),
		},
		{
			name: "I165 three certificates from a server", side: serverSide, want: attest.ClassTLS,
			twist: withLeaf(mint{chain: func(c [][]byte) [][]byte { return append(c, c[1]) }}),
		},
	})
}

func withTLS(edit func(*tls.Config)) func(*testing.T, *rogue) {
	return func(_ *testing.T, g *rogue) { g.tls = edit }
}

func withGroup(id tls.CurveID) func(*testing.T, *rogue) {
	return withTLS(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{id} })
}

func withLeaf(m mint) func(*testing.T, *rogue) {
	return func(t *testing.T, g *rogue) { g.chain = m.make(t) }
}

func preferPQ(_ *testing.T, e *ends) { e.server.RequirePQ, e.client.RequirePQ = false, false }

// TestRefusesLeaf shows leaves of north that are wrong in one thing each, to a listener.
func TestRefusesLeaf(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(name string, want attest.Class, m mint) rogueCase {
		return rogueCase{name: name, want: want, twist: withLeaf(m)}
	}
	edited := func(name string, want attest.Class, edit func(*x509.Certificate)) rogueCase {
		return leaf(name, want, mint{edit: edit})
	}
	named := func(name, uri string) rogueCase { return leaf(name, attest.ClassChain, mint{uri: uri}) }
	extension := func(critical bool) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: critical, Value: []byte{5, 0}}}
		}
	}
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	const client, server = x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	runRogues(t, []rogueCase{
		leaf("good", 0, mint{}),
		leaf("good, with a P-256 key", 0, mint{key: p256}),
		edited("good, of 24 hours", 0, func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(24 * time.Hour) }),
		edited("good, with an extension that is not critical", 0, extension(false)),
		edited("good, usages the other way round", 0, usage(server, client)),
		leaf("good, identity's certificate expired", 0, mint{parent: func(c *x509.Certificate) { c.NotAfter = c.NotBefore }}),

		edited("expired", attest.ClassTime, func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(time.Second) }),
		edited("not yet valid", attest.ClassTime, func(c *x509.Certificate) { c.NotBefore = c.NotBefore.Add(time.Hour) }),
		edited("longer than 24 hours", attest.ClassTime, func(c *x509.Certificate) {
			c.NotAfter = c.NotBefore.Add(24*time.Hour + time.Second)
		}),
		edited("a certificate authority", attest.ClassChain, func(c *x509.Certificate) { c.IsCA = true }),
		edited("may sign certificates", attest.ClassChain, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }),
		edited("may not sign", attest.ClassChain, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }),
		edited("no usage", attest.ClassChain, usage()),
		edited("for clients only", attest.ClassChain, usage(client)),
		edited("for clients twice", attest.ClassChain, usage(client, client)),
		edited("for servers only", attest.ClassChain, usage(server)),
		edited("for code too", attest.ClassChain, usage(client, server, x509.ExtKeyUsageCodeSigning)),
		edited("for an unknown usage too", attest.ClassChain, func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}}
		}),
		edited("another critical extension", attest.ClassChain, extension(true)),
		edited("no name", attest.ClassChain, func(c *x509.Certificate) { c.URIs = nil }),
		edited("two names", attest.ClassChain, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }),
		edited("a host's name too", attest.ClassChain, func(c *x509.Certificate) { c.DNSNames = []string{"north"} }),
		edited("an address too", attest.ClassChain, func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 1}} }),
		edited("a mailbox too", attest.ClassChain, func(c *x509.Certificate) { c.EmailAddresses = []string{"a@north"} }),
		named("name with a query", northURI+"?a"),
		named("name with a fragment", northURI+"#a"),
		named("name with a port", "spiffe://heart:1/participant/north/00112233445566778899aabbccddeeff"),
		named("name with a user", "spiffe://a@heart/participant/north/00112233445566778899aabbccddeeff"),
		named("name of another scheme", "https://heart/participant/north/00112233445566778899aabbccddeeff"),
		named("name with an escaped letter", "spiffe://heart/participant/n%6frth/00112233445566778899aabbccddeeff"),
		named("instance in capitals", "spiffe://heart/participant/north/00112233445566778899AABBCCDDEEFF"),
		named("instance too short", "spiffe://heart/participant/north/00112233445566778899aabbccddee"),
		named("instance missing", "spiffe://heart/participant/north"),
		named("a part too many", northURI+"/x"),
		named("unknown office", "spiffe://heart/members/north/00112233445566778899aabbccddeeff"),
		named("office in capitals", "spiffe://heart/Participant/north/00112233445566778899aabbccddeeff"),
		leaf("P-384 key", attest.ClassChain, mint{key: p384}),
		leaf("RSA key", attest.ClassChain, mint{key: rsa2048}),

		leaf("another federation's", attest.ClassManifest, mint{uri: "spiffe://lungs/participant/north/00112233445566778899aabbccddeeff"}),
		leaf("another member's", attest.ClassManifest, mint{
			uri: "spiffe://heart/participant/south/00112233445566778899aabbccddeeff", identity: seeded("participant/south"),
		}),
		leaf("nobody's", attest.ClassManifest, mint{
			uri: "spiffe://heart/participant/east/00112233445566778899aabbccddeeff", identity: seeded("participant/east"),
		}),
		leaf("a stranger's self-signed identity", attest.ClassManifest, mint{identity: seeded("stranger")}),
		leaf("endorsed by another member", attest.ClassManifest, mint{identity: seeded("participant/south")}),
		leaf("endorsed by a person", attest.ClassManifest, mint{identity: seeded("person/ada")}),
		leaf("endorsed by the coordinator", attest.ClassManifest, mint{identity: seeded("coordinator/council")}),
		leaf("a coordinator's, which nobody asked for", attest.ClassManifest, mint{
			uri: "spiffe://heart/coordinator/second/00112233445566778899aabbccddeeff", identity: seeded("coordinator/second"),
		}),
		leaf("with the right identity, but signed by another", attest.ClassSig, mint{signer: seeded("participant/south")}),
		leaf("with the right identity, but signed by itself", attest.ClassSig, mint{key: seeded("leaf"), signer: seeded("leaf")}),
		leaf("with the right identity, but signed by an ECDSA key", attest.ClassSig, mint{signer: p256}),
	})
}

// TestRefusesLeafOfListener is the same for a dialler, in what differs: it dials one name.
func TestRefusesLeafOfListener(t *testing.T) {
	of := func(name string, want attest.Class, m mint) rogueCase {
		return rogueCase{name: name, side: serverSide, want: want, twist: withLeaf(m)}
	}
	const instance = "/00112233445566778899aabbccddeeff"
	council := seeded("coordinator/council")
	runRogues(t, []rogueCase{
		of("good", 0, mint{uri: "spiffe://heart/coordinator/council" + instance, identity: council}),
		of("another coordinator's", attest.ClassManifest, mint{
			uri: "spiffe://heart/coordinator/second" + instance, identity: seeded("coordinator/second"),
		}),
		of("a participant's of that name", attest.ClassManifest, mint{
			uri: "spiffe://heart/participant/council" + instance, identity: council,
		}),
		of("endorsed by a member", attest.ClassManifest, mint{
			uri: "spiffe://heart/coordinator/council" + instance, identity: seeded("participant/north"),
		}),
		of("signed by a member", attest.ClassSig, mint{
			uri: "spiffe://heart/coordinator/council" + instance, identity: council, signer: seeded("participant/north"),
		}),
		of("longer than 24 hours", attest.ClassTime, mint{
			uri: "spiffe://heart/coordinator/council" + instance, identity: council,
			edit: func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(25 * time.Hour) },
		}),
	})
}

// counting is a session cache that counts what it is asked to keep.
type counting struct {
	tls.ClientSessionCache
	kept atomic.Int64
}

func (c *counting) Put(key string, s *tls.ClientSessionState) {
	c.kept.Add(1)
	c.ClientSessionCache.Put(key, s)
}

// TestNoResumption has a client that would resume, and a server that would let it: neither comes to anything.
func TestNoResumption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cache := &counting{ClientSessionCache: tls.NewLRUClientSessionCache(0)}
		for range 2 {
			g := newRogue(t, newEnds(attest.Participant, "north"), clientSide)
			g.tls = func(c *tls.Config) {
				c.ClientSessionCache, c.ServerName, c.SessionTicketsDisabled = cache, "council", false
			}
			if got := g.run(); got.victim.err != nil || g.conn.ConnectionState().DidResume {
				t.Errorf("victim: %v, resumed: %v", got.victim.err, g.conn.ConnectionState().DidResume)
			}
		}
		if n := cache.kept.Load(); n != 0 {
			t.Errorf("the server gave %d tickets", n)
		}
		for range 2 {
			g := newRogue(t, newEnds(attest.Participant, "north"), serverSide)
			g.tls = func(c *tls.Config) { c.SessionTicketsDisabled = false; c.SetSessionTicketKeys([][32]byte{{1}}) }
			if got := g.run(); got.victim.err != nil || got.victim.peer.State.DidResume {
				t.Errorf("victim: %v", got.victim.err)
			}
		}
	})
}

// TestJudgesTLSState shows states to step 1 that crypto/tls, configured as it is, should never report.
func TestJudgesTLSState(t *testing.T) {
	good := tls.ConnectionState{
		HandshakeComplete: true, Version: tls.VersionTLS13, NegotiatedProtocol: transport.ALPN, CurveID: tls.X25519MLKEM768,
		PeerCertificates: make([]*x509.Certificate, 2),
	}
	for _, test := range []struct {
		name string
		edit func(*tls.ConnectionState)
		ok   bool
	}{
		{"good", func(*tls.ConnectionState) {}, true},
		{"not complete", func(s *tls.ConnectionState) { s.HandshakeComplete = false }, false},
		{"1.2", func(s *tls.ConnectionState) { s.Version = tls.VersionTLS12 }, false},
		{"resumed", func(s *tls.ConnectionState) { s.DidResume = true }, false},
		{"other protocol", func(s *tls.ConnectionState) { s.NegotiatedProtocol = "h2" }, false},
		{"no protocol", func(s *tls.ConnectionState) { s.NegotiatedProtocol = "" }, false},
		{"other hybrid", func(s *tls.ConnectionState) { s.CurveID = tls.SecP256r1MLKEM768 }, false},
		{"no group", func(s *tls.ConnectionState) { s.CurveID = 0 }, false},
		{"no certificate", func(s *tls.ConnectionState) { s.PeerCertificates = nil }, false},
		{"one certificate", func(s *tls.ConnectionState) { s.PeerCertificates = s.PeerCertificates[:1] }, false},
		{"three certificates", func(s *tls.ConnectionState) { s.PeerCertificates = make([]*x509.Certificate, 3) }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := good
			test.edit(&s)
			for _, pq := range []bool{true, false} {
				if err := transport.JudgeState(s, pq); (err == nil) != test.ok || err != nil && classOf(err) != attest.ClassTLS {
					t.Errorf("pq required %v: %v", pq, err)
				}
			}
		})
	}
}
