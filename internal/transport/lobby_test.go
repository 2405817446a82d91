package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// located is a line from a TCP address.
type located struct {
	net.Conn
	from net.Addr
}

func (l located) RemoteAddr() net.Addr { return l.from }

func tcp(address string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(address), Port: 4433} }

// TestOneAddressKeepsNobodyOut has 300 silent strangers at one address, or at all that one host may have. A member from
// elsewhere comes in at once, and one from there when its turn has come.
func TestOneAddressKeepsNobodyOut(t *testing.T) {
	for _, test := range []struct {
		name, member string
		stranger     func(i int) string
		waited       time.Duration
		strangers    int
	}{
		{"IPv4", "192.0.2.2", func(int) string { return "192.0.2.1" }, 0, 300},
		{"loopback", "192.0.2.2", func(int) string { return "127.0.0.1" }, 0, 300},
		{"IPv4 in IPv6", "192.0.2.2", func(i int) string { return []string{"192.0.2.1", "::ffff:192.0.2.1"}[i%2] }, 0, 300},
		{"a /64", "2001:db8:0:1::1", func(i int) string { return fmt.Sprintf("2001:db8::%x:1", i) }, 0, 300},
		{"the member's own", "192.0.2.1", func(int) string { return "192.0.2.1" }, 10 * time.Second, 16},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(attest.Participant, "north")
				server, client := makeServer(t, e.server), makeClient(t, e.client)
				var all sync.WaitGroup
				for i := range test.strangers {
					near, far := net.Pipe()
					all.Go(func() {
						if _, _, err := server.ServerHandshake(located{far, tcp(test.stranger(i))}); classOf(err) != attest.ClassRate {
							t.Errorf("a silent stranger: %v", err)
						}
						_ = near.Close()
					})
				}
				synctest.Wait()
				if places, line, sources := transport.LobbyOf(server).Counts(); places != 8 || line != test.strangers-8 || sources != 1 {
					t.Errorf("%d places, %d in line, %d sources", places, line, sources)
				}
				from := time.Now()
				a, b := net.Pipe()
				s, c := shake(server, client, located{a, tcp(test.member)}, b)
				if s.err != nil || c.err != nil || time.Since(from) != test.waited {
					t.Errorf("the member: %v, %v after %v, want %v", s.err, c.err, time.Since(from), test.waited)
				}
				s.close()
				c.close()
				all.Wait()
				if places, line, sources := transport.LobbyOf(server).Counts(); places+line+sources != 0 || server.Held() != 0 {
					t.Errorf("%d places, %d in line, %d sources, %d held are left", places, line, sources, server.Held())
				}
			})
		})
	}
}

// TestManyBehindOneAddress has forty members behind one address dial at once. All come in: a place is only had until the
// name is proven, though the quotes take longer.
func TestManyBehindOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		p := newPolicy()
		e.server.Attester, e.server.Policy = &machine{t: attest.SEVSNP, slow: time.Second}, p
		for i := range 40 {
			p.know(attest.Participant, fmt.Sprintf("member-%d", i))
		}
		server := makeServer(t, e.server)
		from := time.Now()
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				var w witness
				cfg := config(attest.Participant, fmt.Sprintf("member-%d", i), &w)
				cfg.Policy = p
				a, b := net.Pipe()
				s, c := shake(server, makeClient(t, cfg), located{a, tcp("192.0.2.1")}, b)
				if s.err != nil || c.err != nil {
					t.Errorf("member %d: %v, %v", i, s.err, c.err)
				}
				s.close()
				c.close()
			})
		}
		all.Wait()
		if took := time.Since(from); took != 40*time.Second {
			t.Errorf("it took %v, want a second for each quote", took)
		}
	})
}

// TestLineIsBounded fills the line from one address. Who comes from there after is sent away; for one from elsewhere, one of
// those in line is.
func TestLineIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := transport.NewLobby(transport.Limits{})
		var all sync.WaitGroup
		var mu sync.Mutex
		away := 0
		for range 8 + 4096 {
			all.Go(func() {
				leave, err := l.Enter(ctx, tcp("192.0.2.1"))
				if err == nil {
					defer leave()
					<-ctx.Done()
				} else if ctx.Err() == nil {
					mu.Lock()
					defer mu.Unlock()
					away++
				}
			})
			synctest.Wait() // so that none is in line that could have a place
		}
		if places, line, _ := l.Counts(); places != 8 || line != 4096 || away != 0 {
			t.Errorf("%d places, %d in line, %d sent away", places, line, away)
		}
		if _, err := l.Enter(ctx, tcp("192.0.2.1")); classOf(err) != attest.ClassRate {
			t.Errorf("one more from there: %v, want RATE", err)
		}
		leave, err := l.Enter(ctx, tcp("192.0.2.2"))
		if err != nil {
			t.Fatalf("from elsewhere: %v", err)
		}
		synctest.Wait()
		if places, line, sources := l.Counts(); places != 9 || line != 4095 || sources != 2 || away != 1 {
			t.Errorf("%d places, %d in line, %d sources, %d sent away", places, line, sources, away)
		}
		leave()
		cancel()
		all.Wait()
		if places, line, sources := l.Counts(); places+line+sources != 0 {
			t.Errorf("%d places, %d in line, %d sources are left", places, line, sources)
		}
	})
}

// TestGivenUpInLine has one that has a place of its address give up before it has one of all: the other is not lost.
func TestGivenUpInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, north := transport.NewLobby(transport.Limits{}), tcp("192.0.2.1")
		var leave func()
		for i := range 256 {
			from := net.Addr(nil)
			if i < 7 {
				from = north
			}
			var err error
			if leave, err = l.Enter(t.Context(), from); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Enter(ctx, north); classOf(err) != attest.ClassRate || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with all places taken: %v", err)
		}
		leave()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Enter(ctx, north); err != nil {
			t.Errorf("with one free, and seven from there: %v", err)
		}
	})
}

// TestGivenUpForAQuote has a name whose handshake ended in the line for quotes dial again.
func TestGivenUpForAQuote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		slow := &machine{t: attest.SEVSNP, slow: time.Hour}
		e.server.Attester = slow
		server := makeServer(t, e.server)
		var all sync.WaitGroup
		for _, name := range []string{"south", "north"} {
			all.Go(func() {
				var w witness
				if s, _ := dialAs(t, server, name, &w); s.err == nil {
					t.Errorf("%s was admitted without a quote", name)
				}
			})
			synctest.Wait()
		}
		all.Wait()
		slow.slow = 0
		for _, name := range []string{"south", "north"} {
			var w witness
			s, c := dialAs(t, server, name, &w)
			if s.err != nil || c.err != nil {
				t.Errorf("%s: %v, %v", name, s.err, c.err)
			}
			s.close()
			c.close()
		}
	})
}

// TestOneNameInTheQuoteLine has one name dial ten times before another does once: the other waits for one quote of the
// first, and not for ten.
func TestOneNameInTheQuoteLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		e.server.Attester = &machine{t: attest.SEVSNP, slow: time.Second}
		server := makeServer(t, e.server)
		var all sync.WaitGroup
		dial := func(name string) time.Duration {
			var w witness
			from := time.Now()
			s, c := dialAs(t, server, name, &w)
			if s.err != nil || c.err != nil {
				t.Errorf("%s: %v, %v", name, s.err, c.err)
			}
			s.close()
			c.close()
			return time.Since(from)
		}
		for range 10 {
			all.Go(func() { dial("north") })
		}
		synctest.Wait()
		if took := dial("south"); took > 3*time.Second {
			t.Errorf("the other name came in after %v, want two or three quotes' time", took)
		}
		all.Wait()
		if server.Held() != 0 {
			t.Errorf("held %d", server.Held())
		}
	})
}
