package transport_test

import (
	"bytes"
	"crypto/sha512"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// TestAdmits runs each pair of offices and looks at what each side learns of the other.
func TestAdmits(t *testing.T) {
	tests := []struct {
		name   string
		office attest.Office
		who    string
		edit   func(*ends)
		want   []attest.Type // that the coordinator sees
	}{
		{
			"snp participant", attest.Participant, "south", func(e *ends) { e.client.Attester = &machine{t: attest.SEVSNP} },
			[]attest.Type{attest.SEVSNP},
		},
		{"nitro participant", attest.Participant, "north", nil, []attest.Type{attest.Nitro}},
		{"person", attest.Person, "ada", nil, []attest.Type{attest.Signature}},
		{
			"participant with a gpu", attest.Participant, "north",
			func(e *ends) { e.client.Attester = &machine{t: attest.SEVSNP, gpu: true} },
			[]attest.Type{attest.SEVSNP, attest.NvidiaGPU},
		},
		{
			"coordinator with a gpu", attest.Person, "ada",
			func(e *ends) { e.server.Attester = &machine{t: attest.SEVSNP, gpu: true} },
			[]attest.Type{attest.Signature},
		},
		{
			"coordinator dials coordinator, where the listener asks for that", attest.Coordinator, "second",
			func(e *ends) {
				e.server.PeerOffice = attest.Coordinator
				e.client.PeerOffice, e.client.PeerName = attest.Coordinator, "council"
			},
			[]attest.Type{attest.SEVSNP},
		},
		{"own collateral goes along", attest.Participant, "north", func(e *ends) {
			e.client.Collateral = attest.Collateral{
				{Kind: attest.KindInitdata, Bytes: []byte("init")},
				{Kind: attest.KindCRL, Bytes: make([]byte, 30<<10)},
				{Kind: attest.KindCRL, Bytes: []byte("small")},
			}
		}, []attest.Type{attest.Nitro}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(test.office, test.who)
				if test.edit != nil {
					test.edit(e)
				}
				server, client := makeServer(t, e.server), makeClient(t, e.client)
				a, b := net.Pipe()
				s, c := shake(server, client, a, b)
				defer s.close()
				defer c.close()
				if s.err != nil || c.err != nil {
					t.Fatalf("server: %v\nclient: %v", s.err, c.err)
				}
				checkPeer(t, s.peer, test.office, test.who, client.Instance(), test.want)
				checkPeer(t, c.peer, attest.Coordinator, "council", server.Instance(), e.server.Attester.Types())
				if s.peer.Binding == c.peer.Binding {
					t.Error("both sides have one binding")
				}
				checkTalk(t, s.conn, c.conn)
				if server.Live() != 1 || client.Live() != 1 || server.Held() != 1 {
					t.Errorf("live %d and %d, held %d", server.Live(), client.Live(), server.Held())
				}
				if n := len(e.serverRefused.list()) + len(e.clientRefused.list()); n != 0 {
					t.Errorf("%d refusals", n)
				}
			})
		})
	}
}

func checkPeer(t *testing.T, p transport.Peer, o attest.Office, name, instance string, types []attest.Type) {
	t.Helper()
	if p.Office != o || p.Name != name || p.Instance != instance || p.Epoch != 1 || p.Manifest != digest {
		t.Errorf("peer is %v %q %s at %d", p.Office, p.Name, p.Instance, p.Epoch)
	}
	if p.AuthType() != "consilium-atls-v1" || p.State.CurveID != tls.X25519MLKEM768 || p.State.DidResume {
		t.Errorf("auth type %q, group %v", p.AuthType(), p.State.CurveID)
	}
	if p.Binding != sha512.Sum512(p.Preimage) || p.Binding == [64]byte{} {
		t.Error("binding is not the digest of its preimage")
	}
	if !p.Expires.Equal(p.Issued.Add(time.Hour)) || p.Appraisal.TTL != time.Hour {
		t.Errorf("issued %v, expires %v", p.Issued, p.Expires)
	}
	var got []attest.Type
	for _, e := range p.Evidence {
		got = append(got, e.Type)
	}
	if !bytes.Equal(asBytes(got), asBytes(types)) {
		t.Errorf("evidence of types %v, want %v", got, types)
	}
	claims := len(types)
	if o == attest.Person {
		claims = 0
	}
	if len(p.Claims) != claims || len(p.Appraisal.Sets) != claims {
		t.Errorf("%d claims, sets %v", len(p.Claims), p.Appraisal.Sets)
	}
}

func asBytes(types []attest.Type) []byte {
	var b []byte
	for _, t := range types {
		b = append(b, byte(t))
	}
	return b
}

// checkTalk sends a message each way.
func checkTalk(t *testing.T, a, b net.Conn) {
	t.Helper()
	for range 2 {
		go func() { _, _ = a.Write([]byte("hello")) }()
		got := make([]byte, 5)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "hello" {
			t.Errorf("read %q, %v", got, err)
		}
		a, b = b, a
	}
}

// TestNoReuse shows that two sessions between the same two share neither leaf key, nonce nor binding where they must not.
func TestNoReuse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		server, client := makeServer(t, e.server), makeClient(t, e.client)
		seen := map[string]bool{}
		for range 4 {
			a, b := net.Pipe()
			s, c := shake(server, client, a, b)
			if s.err != nil || c.err != nil {
				t.Fatal(s.err, c.err)
			}
			if s.peer.State.DidResume || c.peer.State.DidResume {
				t.Error("resumed")
			}
			for _, x := range [][]byte{s.peer.Binding[:], c.peer.Binding[:], s.peer.Evidence[0].Body, c.peer.Evidence[0].Body} {
				if seen[string(x)] {
					t.Error("a binding or evidence came twice")
				}
				seen[string(x)] = true
			}
			s.close()
			c.close()
		}
		if server.Live() != 0 || client.Live() != 0 || server.Held() != 0 {
			t.Errorf("live %d and %d, held %d after closing", server.Live(), client.Live(), server.Held())
		}
	})
}

func TestConfig(t *testing.T) {
	base := func() (transport.Config, transport.Config) {
		var w witness
		return config(attest.Coordinator, "council", &w), config(attest.Participant, "north", &w)
	}
	tests := []struct {
		name string
		edit func(server, client *transport.Config)
	}{
		{"no policy", func(s, c *transport.Config) { s.Policy, c.Policy = nil, nil }},
		{"no epoch", func(s, c *transport.Config) { s.Epoch, c.Epoch = 0, 0 }},
		{"no manifest", func(s, c *transport.Config) { s.Manifest, c.Manifest = [32]byte{}, [32]byte{} }},
		{"no identity", func(s, c *transport.Config) { s.Identity, c.Identity = nil, nil }},
		{"no attester", func(s, c *transport.Config) { s.Attester, c.Attester = nil, nil }},
		{"no office", func(s, c *transport.Config) { s.Office, c.Office = 0, 0 }},
		{"name in capitals", func(s, c *transport.Config) { s.Name, c.Name = "Council", "North" }},
		{"no federation", func(s, c *transport.Config) { s.Federation, c.Federation = "", "" }},
		{"negative timeout", func(s, c *transport.Config) { s.Timeout, c.Timeout = -1, -1 }},
		{"listener with a peer's name, dialler without", func(s, c *transport.Config) { s.PeerName, c.PeerName = "north", "" }},
		{"person who listens, or has an attester", func(s, c *transport.Config) {
			s.Office, s.Attester, c.Office = attest.Person, nil, attest.Person
		}},
		{"attester without types", func(s, c *transport.Config) {
			s.Attester, c.Attester = &machine{}, &machine{}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, c := base()
			test.edit(&s, &c)
			if _, err := transport.Server(s); err == nil {
				t.Error("Server took it")
			}
			if _, err := transport.Client(c); err == nil {
				t.Error("Client took it")
			}
		})
	}
}

// TestRefusesBuilds makes credentials in a build that has no verifier for evidence which the manifest admits: they are refused, and not
// the peers one by one, or none.
func TestRefusesBuilds(t *testing.T) {
	var w witness
	tests := []struct {
		name  string
		make  func(transport.Config) (*transport.Credentials, error)
		whose transport.Config
		lacks attest.Type
		want  attest.Class
	}{
		{"D109 a listener without a verifier of participants", transport.Server, config(attest.Coordinator, "council", &w), attest.Nitro, attest.ClassManifest},
		{"D109 a listener without a verifier of devices", transport.Server, config(attest.Coordinator, "council", &w), attest.NvidiaGPU, attest.ClassManifest},
		{"D109 a participant without a verifier of coordinators", transport.Client, config(attest.Participant, "north", &w), attest.SEVSNP, attest.ClassManifest},
		{"D109 a person without a verifier of coordinators", transport.Client, config(attest.Person, "ada", &w), attest.SEVSNP, attest.ClassManifest},
		{"a participant without a verifier of participants", transport.Client, config(attest.Participant, "north", &w), attest.Nitro, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.whose.Verifiers = slices.DeleteFunc(verifiers(), func(v attest.Verifier) bool { return v.Type() == test.lacks })
			if _, err := test.make(test.whose); classOf(err) != test.want || (err == nil) != (test.want == 0) {
				t.Errorf("without a verifier of %v: %v, want %v", test.lacks, err, test.want)
			}
		})
	}
}
