package transport_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// dialAs runs one handshake of a participant of that name with a listener.
func dialAs(t *testing.T, server *transport.Credentials, name string, w *witness) (s, c outcome) {
	t.Helper()
	cfg := config(attest.Participant, name, w)
	p := newPolicy()
	p.know(attest.Participant, name)
	cfg.Policy = p
	a, b := net.Pipe()
	return shake(server, makeClient(t, cfg), a, b)
}

// TestPace lets one name dial 32 times at once and then twice a second, and other names go on meanwhile.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		quotes := &machine{t: attest.SEVSNP}
		e.server.Attester = quotes
		server := makeServer(t, e.server)
		var w witness
		for i := range 32 {
			s, c := dialAs(t, server, "north", &w)
			if s.err != nil || c.err != nil {
				t.Fatalf("dial %d: %v, %v", i, s.err, c.err)
			}
			s.close()
			c.close()
		}
		for _, step := range []struct {
			wait time.Duration
			name string
			want attest.Class
		}{
			{0, "north", attest.ClassRate},
			{0, "south", 0},
			{499 * time.Millisecond, "north", attest.ClassRate},
			{time.Millisecond, "north", 0},
			{0, "north", attest.ClassRate},
			{time.Second, "north", 0},
			{0, "north", 0},
			{0, "north", attest.ClassRate},
			{time.Hour, "north", 0},
		} {
			time.Sleep(step.wait)
			before := quotes.made
			s, c := dialAs(t, server, step.name, &w)
			if classOf(s.err) != step.want || classOf(c.err) != step.want || (s.conn == nil) != (step.want != 0) {
				t.Errorf("%s after %v: server: %v, client: %v, want %v", step.name, step.wait, s.err, c.err, step.want)
			}
			if (quotes.made == before) != (step.want != 0) {
				t.Errorf("%s after %v cost %d quotes", step.name, step.wait, quotes.made-before)
			}
			s.close()
			c.close()
		}
		if r := e.serverRefused.list()[0]; r.Class != attest.ClassRate || r.Name != "north" || r.Office != attest.Participant {
			t.Errorf("Refused was told %+v", r)
		}
		if server.Held() != 0 {
			t.Errorf("held %d", server.Held())
		}
	})
}

// TestSessions lets one name have 16 connections, and other names theirs.
func TestSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		server := makeServer(t, e.server)
		var w witness
		var held []outcome
		for range 16 {
			s, c := dialAs(t, server, "north", &w)
			if s.err != nil || c.err != nil {
				t.Fatal(s.err, c.err)
			}
			held = append(held, s, c)
		}
		if s, c := dialAs(t, server, "north", &w); classOf(s.err) != attest.ClassRate || classOf(c.err) != attest.ClassRate {
			t.Errorf("the 17th: server: %v, client: %v, want RATE", s.err, c.err)
		}
		s, c := dialAs(t, server, "south", &w)
		if s.err != nil || c.err != nil {
			t.Errorf("another name: %v, %v", s.err, c.err)
		}
		s.close()
		c.close()
		held[0].close()
		if s, c = dialAs(t, server, "north", &w); s.err != nil || c.err != nil {
			t.Errorf("after one was closed: %v, %v", s.err, c.err)
		}
		if n := server.CloseWhere(func(p transport.Peer) bool { return p.Name == "north" }); n != 16 {
			t.Errorf("CloseWhere cut %d connections, want 16", n)
		}
		if server.Live() != 0 || server.Held() != 0 {
			t.Errorf("live %d, held %d", server.Live(), server.Held())
		}
	})
}

// TestLobby fills the listener with peers that have proven nothing. Who comes after waits for a place, and no longer
// than a handshake may take.
func TestLobby(t *testing.T) {
	for _, test := range []struct {
		name   string
		silent func(g *rogue, line net.Conn) // what a stranger does before it falls silent
		whole  time.Duration                 // the listener's Timeout
		held   time.Duration                 // how long it then holds its place
		later  time.Duration                 // that the member comes
		want   attest.Class
		waited time.Duration
	}{
		{"a place in time", func(*rogue, net.Conn) {}, 0, 5 * time.Second, 2 * time.Second, 0, 3 * time.Second},
		{
			"no place", func(g *rogue, line net.Conn) { g.handshake(line) }, 5 * time.Second, 6 * time.Second,
			500 * time.Millisecond, attest.ClassRate, 5 * time.Second,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(attest.Participant, "north")
				e.server.Policy, e.client.Policy = withoutDevices(), withoutDevices()
				e.server.Timeout, e.server.Limits.PerSecond = test.whole, 1000
				server, client := makeServer(t, e.server), makeClient(t, e.client)
				stranger, from := newRogue(t, e, clientSide), time.Now()
				var strangers sync.WaitGroup
				for range 256 {
					near, far := net.Pipe()
					strangers.Go(func() {
						_, _, err := server.ServerHandshake(far)
						if classOf(err) != attest.ClassRate || time.Since(from) != test.held {
							t.Errorf("a silent stranger: %v after %v", err, time.Since(from))
						}
						_ = near.Close()
					})
					one := *stranger
					test.silent(&one, near)
				}
				synctest.Wait()
				if server.Held() != 256 {
					t.Errorf("%d places held by strangers", server.Held())
				}
				time.Sleep(test.later)
				came := time.Now()
				a, b := net.Pipe()
				s, c := shake(server, client, a, b)
				if classOf(s.err) != test.want || (s.conn == nil) != (test.want != 0) || time.Since(came) != test.waited {
					t.Errorf("server: %v, client: %v after %v", s.err, c.err, time.Since(came))
				}
				s.close()
				c.close()
				strangers.Wait()
				if server.Held() != 0 {
					t.Errorf("held %d", server.Held())
				}
			})
		})
	}
}

// TestOneQuoteAtATime has ten members dial at once a listener whose machine takes a second for a quote.
func TestOneQuoteAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		slow := &machine{t: attest.SEVSNP, slow: time.Second}
		p := newPolicy()
		e.server.Attester, e.server.Policy = slow, p
		for i := range 10 {
			p.know(attest.Participant, fmt.Sprintf("member-%d", i))
		}
		server := makeServer(t, e.server)
		from := time.Now()
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				var w witness
				s, c := dialAs(t, server, fmt.Sprintf("member-%d", i), &w)
				if s.err != nil || c.err != nil {
					t.Errorf("member %d: %v, %v", i, s.err, c.err)
				}
				s.close()
				c.close()
			})
		}
		all.Wait()
		if slow.most != 1 || slow.made != 10 || time.Since(from) != 10*time.Second {
			t.Errorf("%d quotes, %d at a time, in %v", slow.made, slow.most, time.Since(from))
		}
	})
}

// TestSlowEvidence has 150 members dial at once a listener whose machine takes 200 ms for a quote, one at a time: 30 s for all, and
// a handshake has 20. Who is not served in time dials again, and all come in; hardly a quote is made for nothing.
func TestSlowEvidence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const members, each = 150, 200 * time.Millisecond
		e := newEnds(attest.Participant, "north")
		slow, p := &machine{t: attest.SEVSNP, slow: each}, withoutDevices()
		e.server.Attester, e.server.Policy = slow, p
		for i := range members {
			p.know(attest.Participant, fmt.Sprintf("member-%d", i))
		}
		server := makeServer(t, e.server)
		from, late := time.Now(), atomic.Int64{}
		var all sync.WaitGroup
		for i := range members {
			all.Go(func() {
				var w witness
				cfg := config(attest.Participant, fmt.Sprintf("member-%d", i), &w)
				cfg.Policy = p
				client := makeClient(t, cfg)
				for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
					a, b := net.Pipe()
					s, c := shake(server, client, a, b)
					s.close()
					c.close()
					if s.err == nil && c.err == nil {
						return
					}
					if class := classOf(s.err); class != attest.ClassRate {
						t.Errorf("member %d was refused %v", i, s.err)
					}
					late.Add(1)
					time.Sleep(wait)
				}
			})
		}
		all.Wait()
		if took := time.Since(from); slow.most != 1 || took > 40*time.Second {
			t.Errorf("%d quotes at a time, all were in after %v, want 40s at most: 30s of quotes", slow.most, took)
		}
		if late.Load() == 0 || slow.made > members+5 {
			t.Errorf("%d members were late, %d quotes were made for %d members", late.Load(), slow.made, members)
		}
		if server.Held() != 0 {
			t.Errorf("held %d", server.Held())
		}
	})
}

// TestQuoteTooSlow ends a handshake whose own machine does not answer in time, and whoever waits in line for it.
func TestQuoteTooSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		e.server.Attester = &machine{t: attest.SEVSNP, slow: time.Hour}
		e.server.Timeout = 20 * time.Second
		server := makeServer(t, e.server)
		var all sync.WaitGroup
		for _, name := range []string{"north", "south"} {
			all.Go(func() {
				var w witness
				s, _ := dialAs(t, server, name, &w)
				if class := classOf(s.err); class != attest.ClassRate && class != attest.ClassPlat {
					t.Errorf("%s: %v", name, s.err)
				}
			})
		}
		from := time.Now()
		all.Wait()
		if took := time.Since(from); took > 21*time.Second || server.Held() != 0 {
			t.Errorf("it took %v, held %d", took, server.Held())
		}
	})
}

// counted is a line that counts what is read from it.
type counted struct {
	net.Conn
	read atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// TestStrangerIsCheap has a peer that nobody endorses send a mebibyte. It costs a TLS handshake and 4 KiB beyond, in a frame and
// a record: no hello is answered, no quote is made, nothing is verified.
func TestStrangerIsCheap(t *testing.T) {
	for _, test := range []struct {
		name string
		send func(g *rogue)
	}{
		{"after its hello", func(g *rogue) { g.sendHello() }},
		{"a hello that is too long", func(g *rogue) { g.send("hello", transport.Frame(1, make([]byte, 4<<10+1))) }},
		{"a newer epoch", func(g *rogue) { g.given.Epoch = 2; g.sendHello() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newEnds(attest.Participant, "north")
				quotes := &machine{t: attest.SEVSNP}
				e.server.Attester = quotes
				e.server.Newer = func(uint64, [][]byte) error { t.Error("a stranger's manifests were read"); return nil }
				server := makeServer(t, e.server)
				near, far := net.Pipe()
				line := &counted{Conn: far}
				done := make(chan error, 1)
				go func() {
					_, _, err := server.ServerHandshake(line)
					done <- err
				}()
				g := newRogue(t, e, clientSide)
				g.chain = mint{identity: seeded("stranger")}.make(t)
				g.handshake(near)
				test.send(g)
				flood := make([]byte, 1<<20)
				go func() { _, _ = g.conn.Write(flood) }()
				g.receive(0)
				if err := <-done; err == nil || g.told == 0 {
					t.Errorf("%v, told %v", err, g.told)
				}
				if r := e.serverRefused.one(t); r.Name != "" || r.Office != 0 {
					t.Errorf("Refused was told the name %q, which is not proven", r.Name)
				}
				const shaking = 4 << 10 // an honest TLS handshake, of which some may be read after its client is done
				if n := line.read.Load(); n > shaking+4<<10+256 {
					t.Errorf("%d bytes were read, want no more than a TLS handshake and a hello", n)
				}
				if quotes.made != 0 || server.Held() != 0 {
					t.Errorf("%d quotes, held %d", quotes.made, server.Held())
				}
				_ = near.Close()
			})
		})
	}
}

// TestStrangersMemory has 64 strangers send all of a hello of 4 KiB but its last byte, and counts what their handshakes keep: what
// crypto/tls has for a connection, and the hello. Both ends of each line are in this process.
func TestStrangersMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const strangers, most = 64, 64 << 10
		e := newEnds(attest.Participant, "north")
		server := makeServer(t, e.server)
		stranger := newRogue(t, e, clientSide)
		stranger.chain = mint{identity: seeded("stranger")}.make(t)
		before := inUse()
		lines := make([]net.Conn, 0, strangers)
		var all sync.WaitGroup
		for range strangers {
			near, far := net.Pipe()
			all.Go(func() {
				if _, _, err := server.ServerHandshake(far); err == nil {
					t.Error("a stranger was admitted")
				}
			})
			one := *stranger
			one.handshake(near)
			hello := transport.Frame(1, make([]byte, 4<<10))
			if _, err := one.conn.Write(hello[:len(hello)-1]); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, near)
		}
		synctest.Wait()
		if each := (inUse() - before) / strangers; each > most {
			t.Errorf("a stranger costs %d bytes of memory, want %d at most", each, most)
		} else {
			t.Logf("a stranger costs %d bytes of memory", each)
		}
		for _, l := range lines {
			_ = l.Close()
		}
		all.Wait()
	})
}

// inUse returns the bytes of the heap and of stacks that are in use.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // what pools keep for one collection more
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestLongTLS has a stranger whose TLS handshake does not end: a certificate of 200 KiB, which crypto/tls would take. No more of
// it is read than 16 KiB.
func TestLongTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		server := makeServer(t, e.server)
		near, far := net.Pipe()
		line := &counted{Conn: far}
		done := make(chan error, 1)
		go func() {
			_, _, err := server.ServerHandshake(line)
			done <- err
		}()
		g := newRogue(t, e, clientSide)
		long := g.chain
		for range 100 {
			long.Certificate = append(long.Certificate, make([]byte, 2<<10))
		}
		shaken := make(chan error, 1)
		go func() {
			client := tls.Client(near, &tls.Config{
				InsecureSkipVerify: true, NextProtos: []string{transport.ALPN}, Certificates: []tls.Certificate{long},
			})
			_, err := client.Read(make([]byte, 1))
			shaken <- err
		}()
		if err := <-done; classOf(err) != attest.ClassTLS {
			t.Errorf("%v, want TLS", err)
		}
		if n := line.read.Load(); n != 16<<10 {
			t.Errorf("%d bytes were read of a TLS handshake, want no more than 16 KiB", n)
		}
		if err := <-shaken; err == nil {
			t.Error("the stranger's TLS handshake came to an end")
		}
		if server.Held() != 0 {
			t.Errorf("held %d", server.Held())
		}
	})
}

// TestHandshakesASecond has 100 strangers come at once where ten handshakes may begin in a second: all are
// heard, in nine seconds.
func TestHandshakesASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		e.server.Limits.PerSecond = 10
		server := makeServer(t, e.server)
		from := time.Now()
		var all sync.WaitGroup
		var mu sync.Mutex
		when := map[time.Duration]int{}
		for i := range 100 {
			g := newRogue(t, e, clientSide)
			g.victim, g.chain = server, mint{identity: seeded("stranger")}.make(t)
			all.Go(func() {
				if got := g.run(); got.class != attest.ClassManifest {
					t.Errorf("stranger %d was told %v", i, got.class)
				}
				mu.Lock()
				defer mu.Unlock()
				when[time.Since(from).Truncate(time.Second)]++
			})
		}
		all.Wait()
		for at, n := range when {
			if want := map[bool]int{true: 19, false: 10}[at == 0]; n > want { // ten at once, and the next every tenth of a second
				t.Errorf("%d handshakes within a second of %v", n, at)
			}
		}
		if took := time.Since(from); took != 9*time.Second {
			t.Errorf("100 handshakes took %v, want 9s: ten at once and ten a second", took)
		}
	})
}

// TestNewerIsPaced holds a member that says it is ahead to the same pace as one that wants to be admitted.
func TestNewerIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		asked := 0
		e.server.Newer = func(uint64, [][]byte) error { asked++; return fmt.Errorf("not today") }
		server := makeServer(t, e.server)
		for range 40 {
			g := newRogue(t, e, clientSide)
			g.victim, g.given.Epoch = server, 2
			g.script = sends(transport.Frame(5, transport.LP([]byte("{}"))))
			g.run()
		}
		classes := map[attest.Class]int{}
		for _, r := range e.serverRefused.list() {
			classes[r.Class]++
		}
		if asked != 32 || classes[attest.ClassRate] != 8 || classes[attest.ClassManifest] != 32 || server.Held() != 0 {
			t.Errorf("asked %d times, refused %v, held %d", asked, classes, server.Held())
		}
	})
}

// TestMembersLeaveTheLobby has 257 proven members wait in line for a quote: a stranger who comes then is judged at once, and
// so would a member be.
func TestMembersLeaveTheLobby(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		p := newPolicy()
		e.server.Attester, e.server.Policy, e.server.Limits.PerSecond = &machine{t: attest.SEVSNP, slow: time.Hour}, p, 1000
		for i := range 257 {
			p.know(attest.Participant, fmt.Sprintf("member-%d", i))
		}
		server := makeServer(t, e.server)
		var all sync.WaitGroup
		for i := range 257 {
			all.Go(func() {
				var w witness
				if s, _ := dialAs(t, server, fmt.Sprintf("member-%d", i), &w); s.err == nil {
					t.Errorf("member %d was admitted without a quote", i)
				}
			})
		}
		synctest.Wait()
		from := time.Now()
		g := newRogue(t, e, clientSide)
		g.victim, g.chain = server, mint{identity: seeded("stranger")}.make(t)
		if got := g.run(); got.class != attest.ClassManifest || time.Since(from) != 0 {
			t.Errorf("a stranger was told %v after %v", got.class, time.Since(from))
		}
		all.Wait()
		if server.Held() != 0 {
			t.Errorf("held %d", server.Held())
		}
	})
}
