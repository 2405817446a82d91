package transport_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// TestIdleHour leaves a connection alone until its appraisals have ended: it is there a second before, and gone then, on
// both sides. gRPC dials again by itself, and is judged anew.
func TestIdleHour(t *testing.T) {
	r := aRealm(t)
	m := r.manifestOf(t, "appraisal_ttl: 30m", "appraisal_ttl: 1h")
	synctest.Test(t, func(t *testing.T) {
		e := r.realEnds(t, m, attest.Participant, "south")
		server, client := makeServer(t, e.server), makeClient(t, e.client)
		lis := newPipes()
		d, closing := serve(server, lis)
		defer closing()
		conn := connect(t, client, lis)
		defer conn.Close()
		if _, err := ask(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour - time.Second)
		if _, err := ask(t.Context(), conn); err != nil {
			t.Fatalf("a second before the end: %v", err)
		}
		if server.Live() != 1 || client.Live() != 1 {
			t.Errorf("live %d and %d a second before the end", server.Live(), client.Live())
		}
		time.Sleep(time.Second + 1) // a bubble does not say which of two timers of one instant comes first
		synctest.Wait()
		if server.Live() != 0 || client.Live() != 0 {
			t.Errorf("live %d and %d after the end", server.Live(), client.Live())
		}
		if _, err := ask(t.Context(), conn, grpc.WaitForReady(true)); err != nil {
			t.Fatalf("after the end: %v", err)
		}
		seen := d.peers()
		if len(seen) != 3 || seen[0].Binding != seen[1].Binding || seen[1].Binding == seen[2].Binding {
			t.Error("the third call is not on a connection of its own")
		}
		if len(e.serverRefused.list())+len(e.clientRefused.list()) != 0 {
			t.Error("an end without fault was reported as a refusal")
		}
	})
}

// TestExpiryEndsStream cuts a stream in the middle of a message's way, at the instant at which the shorter of the two
// appraisals ends.
func TestExpiryEndsStream(t *testing.T) {
	r := aRealm(t)
	m := r.manifestOf(t) // the council's appraisal holds for half an hour
	synctest.Test(t, func(t *testing.T) {
		e := r.realEnds(t, m, attest.Participant, "north")
		lis := newPipes()
		_, closing := serve(makeServer(t, e.server), lis)
		defer closing()
		conn := connect(t, makeClient(t, e.client), lis)
		defer conn.Close()
		from := time.Now()
		stream, err := conn.NewStream(t.Context(), &deskService.Streams[0], "/consilium.test.Desk/Echo", grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg(wrapperspb.String("x")); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(new(wrapperspb.StringValue)); err != nil {
			t.Fatal(err)
		}
		if err := stream.RecvMsg(new(wrapperspb.StringValue)); err == nil || time.Since(from) != 30*time.Minute {
			t.Errorf("the stream ended with %v after %v", err, time.Since(from))
		}
	})
}

// TestExpiryFollowsLeaf shows that no appraisal outlives the peer's leaf.
func TestExpiryFollowsLeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		long := newPolicy()
		long.ttl = 48 * time.Hour
		e.server.Policy, e.client.Policy = long, long
		server, client := makeServer(t, e.server), makeClient(t, e.client)
		a, b := net.Pipe()
		s, c := shake(server, client, a, b)
		if s.err != nil || c.err != nil {
			t.Fatal(s.err, c.err)
		}
		for _, p := range []transport.Peer{s.peer, c.peer} {
			if end := p.State.PeerCertificates[0].NotAfter; !p.Expires.Equal(end) || end.Sub(p.Issued) > 24*time.Hour {
				t.Errorf("expires %v, leaf ends %v", p.Expires, end)
			}
		}
		time.Sleep(24*time.Hour + 1)
		synctest.Wait()
		if server.Live() != 0 || client.Live() != 0 {
			t.Error("a connection outlived a leaf")
		}
	})
}

// TestLeafRenewal dials once an hour for three days: leaves are made anew in time, with the instance they had.
func TestLeafRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		server, client := makeServer(t, e.server), makeClient(t, e.client)
		leaves := map[string]bool{}
		for range 72 {
			a, b := net.Pipe()
			s, c := shake(server, client, a, b)
			if s.err != nil || c.err != nil {
				t.Fatal(s.err, c.err)
			}
			leaf := s.peer.State.PeerCertificates[0]
			leaves[string(leaf.RawSubjectPublicKeyInfo)] = true
			if left := time.Until(leaf.NotAfter); left < 12*time.Hour || s.peer.Instance != client.Instance() {
				t.Errorf("a leaf with %v left, of the instance %s", left, s.peer.Instance)
			}
			s.close()
			c.close()
			time.Sleep(time.Hour)
		}
		if len(leaves) != 6 {
			t.Errorf("%d leaf keys in three days, want 6", len(leaves))
		}
	})
}

// TestClockPutBack makes a new leaf where the old one would not be valid yet.
func TestClockPutBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		ahead := time.Hour
		e.client.Now = func() time.Time { return time.Now().Add(ahead) }
		server, client := makeServer(t, e.server), makeClient(t, e.client)
		for i, want := range []attest.Class{attest.ClassTime, 0} {
			a, b := net.Pipe()
			s, c := shake(server, client, a, b)
			if classOf(s.err) != want || (s.err == nil) != (want == 0) {
				t.Errorf("dial %d: %v, want class %v", i, s.err, want)
			}
			ahead = 0
			s.close()
			c.close()
		}
	})
}

// TestSilentPeer shows that a peer that says nothing, at whatever point, is let go: after 5 s where it has proven
// no name, and at the deadline of the whole exchange where it has.
func TestSilentPeer(t *testing.T) {
	tests := []struct {
		name  string
		speak func(t *testing.T, e *ends, line net.Conn) // and then fall silent, without hanging up
		want  time.Duration                              // with the drain, where there is a TLS session
	}{
		{"before TLS", func(*testing.T, *ends, net.Conn) {}, 5 * time.Second},
		{"in its first record", func(t *testing.T, _ *ends, line net.Conn) {
			if _, err := line.Write([]byte{22, 3, 1}); err != nil {
				t.Error(err)
			}
		}, 5 * time.Second},
		{"after TLS", func(t *testing.T, e *ends, line net.Conn) {
			g := newRogue(t, e, clientSide)
			g.handshake(line)
		}, 6 * time.Second},
		{"after its hello", func(t *testing.T, e *ends, line net.Conn) {
			g := newRogue(t, e, clientSide)
			g.handshake(line)
			g.sendHello()
			g.receive(2)
			g.receive(3)
		}, 21 * time.Second},
		{"in its evidence", func(t *testing.T, e *ends, line net.Conn) {
			g := newRogue(t, e, clientSide)
			g.handshake(line)
			g.sendHello()
			g.receive(2)
			g.receive(3)
			if _, err := g.conn.Write([]byte{3, 0, 0, 1}); err != nil {
				t.Error(err)
			}
		}, 21 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(attest.Participant, "north")
				e.server.Policy = withoutDevices()
				server := makeServer(t, e.server)
				near, far := net.Pipe()
				from := time.Now()
				done := make(chan error)
				go func() {
					_, _, err := server.ServerHandshake(far)
					done <- err
				}()
				test.speak(t, e, near)
				err := <-done
				if took := time.Since(from); took != test.want {
					t.Errorf("it took %v, want %v", took, test.want)
				}
				if r := e.serverRefused.one(t); r.Class != attest.ClassRate || classOf(err) != attest.ClassRate {
					t.Errorf("refused with %v, %v", r, err)
				}
				if server.Held() != 0 {
					t.Errorf("%d places held", server.Held())
				}
				_ = near.Close()
			})
		})
	}
}

// TestDripFeed sends the first record of a handshake a byte a second: the deadline is of the whole, not of each read.
func TestDripFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		e.server.Policy = withoutDevices()
		server := makeServer(t, e.server)
		near, far := net.Pipe()
		from := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, b := range append([]byte{22, 3, 1, 16, 0}, make([]byte, 4096)...) {
				if _, err := near.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}()
		_, _, err := server.ServerHandshake(far)
		if classOf(err) != attest.ClassRate || time.Since(from) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(from))
		}
		<-done
	})
}

// TestSilentListener is the same from the other side; and a caller's own deadline ends it sooner.
func TestSilentListener(t *testing.T) {
	for _, test := range []struct {
		name   string
		ctx    time.Duration
		policy *policy
		want   time.Duration
	}{
		{"own timeout", time.Hour, withoutDevices(), 20 * time.Second},
		{"own timeout, where devices may be asked for", time.Hour, newPolicy(), time.Minute},
		{"the caller's", 3 * time.Second, withoutDevices(), 3 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(attest.Participant, "north")
				e.client.Policy = test.policy
				client := makeClient(t, e.client)
				near, far := net.Pipe()
				ctx, cancel := context.WithTimeout(t.Context(), test.ctx)
				defer cancel()
				from := time.Now()
				_, _, err := client.ClientHandshake(ctx, "", near)
				if classOf(err) != attest.ClassRate || time.Since(from) != test.want {
					t.Errorf("%v after %v, want RATE after %v", err, time.Since(from), test.want)
				}
				_ = far.Close()
			})
		})
	}
}

// TestNoPreface shows that a server's connection ends by itself where an admitted peer never speaks HTTP/2.
func TestNoPreface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		e.server.Policy = withoutDevices()
		a, b := net.Pipe()
		s, c := shake(makeServer(t, e.server), makeClient(t, e.client), a, b)
		if s.err != nil || c.err != nil {
			t.Fatal(s.err, c.err)
		}
		from := time.Now()
		_, err := s.conn.Read(make([]byte, 1))
		if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() || time.Since(from) != 20*time.Second {
			t.Errorf("reading = %v after %v", err, time.Since(from))
		}
		s.close()
		c.close()
	})
}

// TestClose ends what goes on, on either side, and forgets the leaf.
func TestClose(t *testing.T) {
	for _, side := range []string{"server", "client"} {
		t.Run(side, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(attest.Participant, "north")
				e.server.Attester = &machine{t: attest.SEVSNP, slow: 10 * time.Second}
				server, client := makeServer(t, e.server), makeClient(t, e.client)
				which, refused := server, &e.serverRefused
				if side == "client" {
					which, refused = client, &e.clientRefused
				}
				from := time.Now()
				time.AfterFunc(time.Second, func() { _ = which.Close() })
				a, b := net.Pipe()
				s, c := shake(server, client, a, b)
				if s.err == nil || c.err == nil || time.Since(from) > 12*time.Second {
					t.Errorf("server: %v, client: %v after %v", s.err, c.err, time.Since(from))
				}
				if len(refused.list()) != 0 {
					t.Errorf("closing was reported as a refusal: %v", refused.list())
				}
				a, b = net.Pipe()
				defer b.Close()
				var err error
				if side == "server" {
					_, _, err = server.ServerHandshake(a)
				} else {
					_, _, err = client.ClientHandshake(t.Context(), "", a)
				}
				if err == nil || classOf(err) != 0 {
					t.Errorf("a handshake after Close = %v", err)
				}
				if leaf, err := which.Leaf(); err == nil {
					t.Errorf("a leaf after Close: %v", leaf.Leaf.Subject)
				}
			})
		})
	}
}

// TestTLSAlone makes sure that the rogue of these tests is refused for what it does and not for what it is.
func TestTLSAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, side := range []uint8{clientSide, serverSide} {
			e := newEnds(attest.Participant, "north")
			g := newRogue(t, e, side)
			if got := g.run(); got.err != nil || got.class != 0 || !g.finished {
				t.Errorf("side %d, without a twist: %+v", side, got)
			}
			if g.conn.ConnectionState().Version != tls.VersionTLS13 {
				t.Error("not TLS 1.3")
			}
		}
	})
}
