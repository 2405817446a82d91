package transport_test

import (
	"bytes"
	"crypto/sha512"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/transport"
)

// pair is one of the ways in which a council is dialled.
type pair struct {
	name   string
	office attest.Office
	who    string
	types  []attest.Type // that the council sees
	sets   []string
	ttl    time.Duration // of the dialler's appraisal
}

var pairs = []pair{
	{"participant on sev-snp", attest.Participant, "north", []attest.Type{attest.SEVSNP}, []string{"snp"}, time.Hour},
	{"participant on nitro", attest.Participant, "south", []attest.Type{attest.Nitro}, []string{"nitro"}, time.Hour},
	{"person", attest.Person, "ada", []attest.Type{attest.Signature}, nil, 30 * time.Minute},
}

// council is what everyone sees of the coordinator.
var council = pair{"", attest.Coordinator, "council", []attest.Type{attest.SEVSNP}, []string{"snp"}, 30 * time.Minute}

// TestPairsOverPipe looks at what each side of each pair learns of the other, over a line without buffers.
func TestPairsOverPipe(t *testing.T) {
	r := aRealm(t)
	m := r.manifestOf(t)
	for _, p := range pairs {
		t.Run(p.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := r.realEnds(t, m, p.office, p.who)
				server, client := makeServer(t, e.server), makeClient(t, e.client)
				a, b := net.Pipe()
				s, c := shake(server, client, a, b)
				if s.err != nil || c.err != nil {
					t.Fatalf("server: %v\nclient: %v", s.err, c.err)
				}
				checkReal(t, "the council's", s.peer, p, client.Instance(), m.Digest())
				checkReal(t, "the dialler's", c.peer, council, server.Instance(), m.Digest())
				checkTalk(t, s.conn, c.conn)
				checkClose(t, s.conn, c.conn)
				if server.Live() != 0 || client.Live() != 0 || server.Held() != 0 {
					t.Errorf("live %d and %d, held %d after closing", server.Live(), client.Live(), server.Held())
				}
			})
		})
	}
}

// checkReal compares everything that a side knows of its peer with what it must be.
func checkReal(t *testing.T, whose string, got transport.Peer, want pair, instance string, digest [32]byte) {
	t.Helper()
	a := attest.Appraisal{Sets: want.sets, TTL: want.ttl, Any: got.Appraisal.Any}
	machine := want.office != attest.Person
	if machine {
		a.Simulated = "demo"
	}
	if len(got.Appraisal.Any) > 0 != machine {
		t.Errorf("%s peer: fields not judged: %q", whose, got.Appraisal.Any)
	}
	if d := cmp.Diff(a, got.Appraisal); d != "" {
		t.Errorf("%s peer's appraisal (-want +got):\n%s", whose, d)
	}
	if got.Office != want.office || got.Name != want.who || got.Instance != instance || got.Epoch != 1 || got.Manifest != digest {
		t.Errorf("%s peer is the %v %q, instance %s, at epoch %d", whose, got.Office, got.Name, got.Instance, got.Epoch)
	}
	if got.SecurityLevel.String() != "PrivacyAndIntegrity" || got.AuthType() != "consilium-atls-v1" {
		t.Errorf("%s peer: %v, %s", whose, got.SecurityLevel, got.AuthType())
	}
	if cs := got.State; cs.Version != tls.VersionTLS13 || cs.CurveID != tls.X25519MLKEM768 || cs.DidResume ||
		cs.NegotiatedProtocol != transport.ALPN || len(cs.PeerCertificates) != 2 {
		t.Errorf("%s TLS state: version %#x, group %v, protocol %q", whose, cs.Version, cs.CurveID, cs.NegotiatedProtocol)
	}
	if !got.Expires.Equal(got.Issued.Add(want.ttl)) || got.Issued.Sub(begin).Abs() > time.Minute {
		t.Errorf("%s peer's appraisal is of %v and holds until %v", whose, got.Issued, got.Expires)
	}
	if got.Binding != sha512.Sum512(got.Preimage) {
		t.Errorf("%s binding is not the digest of its preimage", whose)
	}
	var types []attest.Type
	for _, e := range got.Evidence {
		types = append(types, e.Type)
	}
	if !slices.Equal(types, want.types) {
		t.Errorf("%s peer showed %v, want %v", whose, types, want.types)
	}
	if !machine && len(got.Claims) != 0 || machine && len(got.Claims) != 1 {
		t.Fatalf("%s peer has %d claims", whose, len(got.Claims))
	}
	if machine {
		checkClaims(t, got.Claims[0], got)
	}
}

// checkClaims holds a machine's claims against the session.
func checkClaims(t *testing.T, c attest.Claims, p transport.Peer) {
	t.Helper()
	if c.SNP != nil && (c.SNP.ReportData != p.Binding || c.SNP.Measurement != simulated.DefaultMeasurement()) {
		t.Error("the claims are not of this session's report")
	}
	if c.Nitro != nil && !bytes.Equal(c.Nitro.PCRs[0], simulated.DefaultPCRs()[0]) {
		t.Error("the claims are not of this enclave's document")
	}
	if c.Simulated != "demo" || c.Signed == [32]byte{} || c.Type != p.Evidence[0].Type || c.SNP == nil == (c.Nitro == nil) {
		t.Errorf("claims %+v", c)
	}
}

// checkClose shows that a closed connection is closed at both ends, and stays so.
func checkClose(t *testing.T, a, b net.Conn) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if n, err := b.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("reading from a peer that closed = %d, %v", n, err)
	}
	if _, err := a.Write([]byte("x")); err == nil {
		t.Error("writing after Close worked")
	}
	if _, err := a.Read(make([]byte, 1)); err == nil {
		t.Error("reading after Close worked")
	}
	_ = a.Close() // again, without harm
	_ = b.Close()
}

// TestPairsOverTCP makes real gRPC calls and streams, several at once, in the machine's own time.
func TestPairsOverTCP(t *testing.T) {
	r := aRealm(t)
	m := r.manifestOf(t)
	for _, p := range pairs {
		t.Run(p.name, func(t *testing.T) {
			e := r.realEnds(t, m, p.office, p.who)
			server, client := makeServer(t, e.server), makeClient(t, e.client)
			lis, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			d, closing := serve(server, lis)
			defer closing()
			conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(client))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			checkCalls(t, conn, p.office.String()+"/"+p.who)
			seen := d.peers()
			if len(seen) != 4 {
				t.Fatalf("%d calls, want 4", len(seen))
			}
			for _, peer := range seen {
				checkReal(t, "the council's", peer, p, client.Instance(), m.Digest())
				if peer.Binding != seen[0].Binding {
					t.Error("two calls on one connection have different bindings")
				}
			}
			if n := len(e.serverRefused.list()) + len(e.clientRefused.list()); n != 0 {
				t.Errorf("%d refusals", n)
			}
		})
	}
}

// checkCalls asks who we are, in single calls and over a stream, with messages of up to some mebibytes.
func checkCalls(t *testing.T, conn *grpc.ClientConn, want string) {
	t.Helper()
	for range 3 {
		if got, err := ask(t.Context(), conn); err != nil || got != want {
			t.Fatalf("Who = %q, %v; want %q", got, err, want)
		}
	}
	stream, err := conn.NewStream(t.Context(), &deskService.Streams[0], "/consilium.test.Desk/Echo")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 1 << 10, 3 << 20} {
		text := string(bytes.Repeat([]byte("y"), n))
		if err := stream.SendMsg(wrapperspb.String(text)); err != nil {
			t.Fatal(err)
		}
		var out wrapperspb.StringValue
		if err := stream.RecvMsg(&out); err != nil || out.Value != want+" says "+text {
			t.Fatalf("echo of %d bytes: %d bytes, %v", n, len(out.Value), err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(wrapperspb.StringValue)); err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
}

// TestConnBehaves runs over an admitted connection what a net.Conn must do: deadlines that wake a reader and a writer and
// can be taken back, reading and writing at once, and whole messages however they are cut.
func TestConnBehaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		a, b := net.Pipe()
		s, c := shake(makeServer(t, e.server), makeClient(t, e.client), a, b)
		if s.err != nil || c.err != nil {
			t.Fatal(s.err, c.err)
		}
		defer s.close()
		defer c.close()
		if err := s.conn.SetDeadline(time.Time{}); err != nil { // as gRPC does after the preface
			t.Fatal(err)
		}
		from := time.Now()
		if err := c.conn.SetReadDeadline(from.Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		_, err := c.conn.Read(make([]byte, 1))
		if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() || time.Since(from) != time.Minute {
			t.Errorf("reading with a deadline = %v after %v", err, time.Since(from))
		}
		if err := c.conn.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		// Server to client a mebibyte, client to server another, at once.
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		var all sync.WaitGroup
		for _, k := range []net.Conn{s.conn, c.conn} {
			all.Go(func() {
				for i, n := 0, 0; i < len(sent); i += n {
					n = min(4096+i%1000, len(sent)-i)
					if _, err := k.Write(sent[i : i+n]); err != nil {
						t.Errorf("writing: %v", err)
						return
					}
				}
			})
			all.Go(func() {
				got := make([]byte, len(sent))
				if _, err := io.ReadFull(k, got); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("what was read is not what was written: %v", err)
				}
			})
		}
		all.Wait()
		if s.conn.LocalAddr() == nil || s.conn.RemoteAddr() == nil {
			t.Error("a connection without addresses")
		}
	})
}

// TestGarbageAfterFinished has an admitted peer go on with something else than HTTP/2: no call comes of it, and the server
// hangs up.
func TestGarbageAfterFinished(t *testing.T) {
	for name, garbage := range map[string][]byte{
		"finished again":    transport.Frame(4, make([]byte, 32)),
		"evidence again":    transport.Frame(3, make([]byte, 100)),
		"an alert":          transport.Frame(6, []byte{byte(attest.ClassBind)}),
		"another protocol":  []byte("GET / HTTP/1.1\r\nHost: council\r\n\r\n"),
		"half of a preface": []byte("PRI * HTTP/2.0\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(attest.Participant, "north")
				server, lis := makeServer(t, e.server), newPipes()
				d, closing := serve(server, lis)
				defer closing()
				line, err := lis.dial(t.Context(), "")
				if err != nil {
					t.Fatal(err)
				}
				g := newRogue(t, e, clientSide)
				g.play(line)
				if g.err != nil || !g.finished {
					t.Fatal(g.err)
				}
				_, _ = g.conn.Write(garbage)       // the server may hang up before it is through
				_, _ = io.Copy(io.Discard, g.conn) // and this ends when it has
				synctest.Wait()
				if d.calls.Load() != 0 || server.Live() != 0 || server.Held() != 0 {
					t.Errorf("%d calls, live %d, held %d", d.calls.Load(), server.Live(), server.Held())
				}
			})
		})
	}
}
