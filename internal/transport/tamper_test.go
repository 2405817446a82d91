package transport_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// direction is one of the two byte streams of a line.
type direction int

const (
	toServer direction = iota
	toClient
)

func (d direction) String() string { return [...]string{"client to server", "server to client"}[d] }

// middle is a man on the line, at the listener's end. He sees all bytes of both directions, and touches one.
type middle struct {
	net.Conn
	how  touch
	mu   sync.Mutex
	seen [2][]byte // as the sender sent them
}

// touch says what he does, and where. The zero touch flips no bit.
type touch struct {
	dir  direction
	at   int  // offset of the byte
	flip byte // bits to flip there; 0 flips none
	cut  bool // the line is cut just before the byte
	hush bool // the byte and all after it are swallowed, and the line stays
}

func (m *middle) Read(b []byte) (int, error) {
	for {
		n, err := m.Conn.Read(b)
		n, cut := m.pass(toServer, b[:n])
		if cut {
			_ = m.Close()
			err = io.EOF
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (m *middle) Write(b []byte) (int, error) {
	touched := bytes.Clone(b)
	n, cut := m.pass(toClient, touched)
	if _, err := m.Conn.Write(touched[:n]); err != nil {
		return 0, err
	}
	if cut {
		_ = m.Close()
		return n, io.ErrClosedPipe
	}
	return len(b), nil
}

// pass touches the next bytes of a direction and returns how many of them go on, and whether the line is then cut.
func (m *middle) pass(d direction, b []byte) (n int, cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.how.at - len(m.seen[d])
	m.seen[d] = append(m.seen[d], b...)
	if m.how.dir != d || at >= len(b) {
		return len(b), false
	}
	switch {
	case m.how.hush:
		return max(at, 0), false
	case m.how.cut && at >= 0:
		return at, true
	case at >= 0:
		b[at] ^= m.how.flip
	}
	return len(b), false
}

// line is a pair of credentials that meet again and again.
type line struct {
	e              *ends
	server, client *transport.Credentials
}

func newLine(t *testing.T) *line {
	t.Helper()
	e := newEnds(attest.Participant, "north")
	e.server.Policy, e.client.Policy = withoutDevices(), withoutDevices()
	return &line{e, makeServer(t, e.server), makeClient(t, e.client)}
}

// meet runs one handshake with the man in the middle, and waits until the next one would not come too soon.
func (l *line) meet(how touch) (m *middle, s, c outcome) {
	a, b := net.Pipe()
	m = &middle{Conn: a, how: how}
	s, c = shake(l.server, l.client, m, b)
	time.Sleep(500 * time.Millisecond)
	return m, s, c
}

// untouched returns the bytes of both directions of a handshake that nobody touches.
func untouched(t *testing.T) (seen [2][]byte) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m, s, c := newLine(t).meet(touch{})
		if s.err != nil || c.err != nil {
			t.Fatal(s.err, c.err)
		}
		s.close()
		c.close()
		seen = m.seen
	})
	return seen
}

// lastRecord returns the offset of the last TLS record of a stream.
func lastRecord(t *testing.T, b []byte) int {
	t.Helper()
	for at := 0; ; {
		next := at + 5 + int(b[at+3])<<8 + int(b[at+4])
		if next == len(b) {
			return at
		}
		if next > len(b) {
			t.Fatal("the stream does not end with a record")
		}
		at = next
	}
}

// free are the bytes that may be changed: the legacy version of the first TLS record of each direction, which TLS 1.3
// says to ignore (RFC 8446, section 5.1).
var free = []int{1, 2}

// TestFlips flips one bit of each byte of a handshake, in both directions, one a run.
func TestFlips(t *testing.T) {
	seen := untouched(t)
	var all []touch
	for dir, b := range seen {
		for at := range b {
			if !slices.Contains(free, at) {
				all = append(all, touch{dir: direction(dir), at: at, flip: 1 << (at % 8)})
			}
		}
	}
	tampered(t, all, seen)
	t.Logf("%d bits flipped, one a run: %d bytes from the client and %d from the server, but for %d of each",
		len(all), len(seen[toServer]), len(seen[toClient]), len(free))
}

// TestFreeBytes flips each bit of the first record's head: nothing but its version is free, and that is.
func TestFreeBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t)
		for _, dir := range []direction{toServer, toClient} {
			admitted := map[int]int{}
			for at := range 5 {
				for bit := range 8 {
					_, s, c := l.meet(touch{dir: dir, at: at, flip: 1 << bit})
					if s.err == nil && c.err == nil {
						admitted[at]++
					}
					s.close()
					c.close()
				}
			}
			if len(admitted) != len(free) || admitted[free[0]] == 0 || admitted[free[1]] == 0 {
				t.Errorf("%v: admitted after a flip, by byte: %v; want bytes %v", dir, admitted, free)
			}
		}
	})
}

// TestCuts cuts the line before each byte of a handshake, in both directions.
func TestCuts(t *testing.T) {
	seen := untouched(t)
	var all []touch
	for dir, b := range seen {
		for at := range b {
			all = append(all, touch{dir: direction(dir), at: at, cut: true})
		}
	}
	tampered(t, all, seen)
	t.Logf("%d cuts, one a run", len(all))
}

// TestHushes swallows everything from a byte on, without hanging up: nobody waits longer than the handshake may take.
func TestHushes(t *testing.T) {
	seen := untouched(t)
	var all []touch
	for dir, b := range seen {
		for at := 0; at < len(b); at += 13 {
			all = append(all, touch{dir: direction(dir), at: at, hush: true})
		}
	}
	tampered(t, all, seen)
	t.Logf("%d silences, one a run", len(all))
}

// tampered runs a handshake with each of the touches, of which none may be admitted. The runs are shared out to bubbles, in
// which time is exact and which end only when no goroutine is left.
func tampered(t *testing.T, all []touch, seen [2][]byte) {
	t.Helper()
	if testing.Short() {
		for i := range len(all) / 17 {
			all[i] = all[i*17]
		}
		all = all[:len(all)/17]
	}
	last := lastRecord(t, seen[toClient])
	work := slices.Collect(slices.Chunk(all, 200))
	var next sync.Mutex
	t.Run("runs", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprintf("worker %d", i), func(t *testing.T) {
				t.Parallel()
				for {
					next.Lock()
					if len(work) == 0 {
						next.Unlock()
						return
					}
					chunk := work[0]
					work = work[1:]
					next.Unlock()
					synctest.Test(t, func(t *testing.T) {
						l := newLine(t)
						for _, how := range chunk {
							l.refuses(t, how, how.dir == toClient && how.at >= last, seen)
						}
					})
				}
			})
		}
	})
}

// refuses runs a handshake with one touch. The client refuses it always; the server too, unless the touch was in the very
// last record, its own FINISHED, after which it hears nothing: then its connection gives not a single byte, so that no call
// can come of it.
func (l *line) refuses(t *testing.T, how touch, confirmed bool, seen [2][]byte) {
	t.Helper()
	from := time.Now()
	m, s, c := l.meet(how)
	if took := time.Since(from) - 500*time.Millisecond; took > 22*time.Second {
		t.Errorf("%+v: it took %v", how, took)
	}
	if len(m.seen[how.dir]) < min(how.at, len(seen[how.dir])) {
		t.Errorf("%+v: only %d bytes came so far", how, len(m.seen[how.dir]))
	}
	sides := []struct {
		name string
		got  outcome
		w    *witness
	}{{"client", c, &l.e.clientRefused}, {"server", s, &l.e.serverRefused}}
	if confirmed && s.err == nil {
		if n, err := s.conn.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%+v: the server read %d bytes, %v", how, n, err)
		}
		sides = sides[:1]
	}
	cut := 0 // sides that were told that the line broke
	for _, side := range sides {
		class := classOf(side.got.err)
		if side.got.conn != nil || class != attest.ClassTLS && class != attest.ClassFrame && class != attest.ClassRate {
			t.Errorf("%+v: %s: %v", how, side.name, side.got.err)
		}
		all := side.w.take()
		if len(all) != 1 || all[0].Class != class {
			t.Errorf("%+v: %s: Refused was told %v, want class %v once", how, side.name, all, class)
		}
		if len(all) > 0 && all[0].Cut {
			cut++
		}
	}
	if (cut == len(sides)) != how.cut {
		t.Errorf("%+v: %d sides of %d were told that the line broke", how, cut, len(sides))
	}
	s.close()
	c.close()
	if l.server.Live()+l.client.Live()+l.server.Held() != 0 {
		t.Errorf("%+v: live %d and %d, held %d", how, l.server.Live(), l.client.Live(), l.server.Held())
	}
}
