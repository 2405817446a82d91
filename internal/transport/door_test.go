package transport_test

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// street is a listener to which a test brings lines.
type street struct{ come chan net.Conn }

func (s street) Accept() (net.Conn, error) {
	c, ok := <-s.come
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (s street) Close() error   { close(s.come); return nil }
func (s street) Addr() net.Addr { return tcp("192.0.2.99") }

// porch is a door, whom it has let in and how many it has turned away for what.
type porch struct {
	street street
	in     []net.Conn
	turned map[error]int
}

// newPorch opens a door in a synctest bubble, until the test closes its street.
func newPorch(r transport.Room) *porch {
	p := &porch{street: street{make(chan net.Conn)}, turned: map[error]int{}}
	door := transport.Door(p.street, r, func(_ net.Addr, why error) { p.turned[why]++ })
	go func() {
		for {
			c, err := door.Accept()
			if err != nil {
				return
			}
			p.in = append(p.in, c)
		}
	}()
	return p
}

// come has somebody come from there, and returns his end of the line and whether he was let in. Who is not must find his line
// closed.
func (p *porch) come(t *testing.T, address string) (near net.Conn, in bool) {
	t.Helper()
	near, far := net.Pipe()
	before := len(p.in)
	p.street.come <- located{far, tcp(address)}
	synctest.Wait()
	if in = len(p.in) > before; in {
		return near, true
	}
	if _, err := near.Read(make([]byte, 1)); err == nil {
		t.Errorf("one from %s was neither let in nor turned away", address)
	}
	return near, false
}

// TestDoor has strangers come until there is no room, from one address or from many. What comes then is closed at once; who was
// let in, and who comes from elsewhere while there is room, is not disturbed.
func TestDoor(t *testing.T) {
	for _, test := range []struct {
		name      string
		from      func(i int) string
		room      int
		elsewhere bool // others may come still
		why       error
	}{
		{"one address", func(int) string { return "192.0.2.1" }, 4, true, transport.ErrAddress},
		{"a /64", func(i int) string { return fmt.Sprintf("2001:db8::%x:1", i) }, 4, true, transport.ErrAddress},
		{"many addresses", func(i int) string { return fmt.Sprintf("192.0.2.%d", i) }, 10, false, transport.ErrFull},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPorch(transport.Room{Connections: 20, PerAddress: 4})
				defer p.street.Close()
				for i := range test.room {
					if _, in := p.come(t, test.from(i)); !in {
						t.Fatalf("number %d of %d was turned away", i+1, test.room)
					}
				}
				if _, in := p.come(t, test.from(100)); in {
					t.Errorf("number %d was let in", test.room+1)
				}
				if _, in := p.come(t, "198.51.100.7"); in != test.elsewhere {
					t.Errorf("one from elsewhere was let in: %v, want %v", in, test.elsewhere)
				}
				if test.elsewhere {
					_ = p.in[len(p.in)-1].Close()
				}
				_ = p.in[0].Close()
				_ = p.in[0].Close() // a second time makes no more room
				if _, in := p.come(t, test.from(101)); !in {
					t.Error("nobody is let in though one has left")
				}
				if _, in := p.come(t, test.from(102)); in {
					t.Error("one that closed twice made room for two")
				}
				for why := range maps.Keys(p.turned) {
					if !errors.Is(why, test.why) {
						t.Errorf("turned away for %v, want %v", why, test.why)
					}
				}
			})
		})
	}
}

// TestDoorKeepsRoomForMembers has strangers take all the room that they may have: members whose names were proven before do not
// count among them, and use the other half of the room, and then no one comes in.
func TestDoorKeepsRoomForMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEnds(attest.Participant, "north")
		server, client := makeServer(t, e.server), makeClient(t, e.client)
		p := newPorch(transport.Room{Connections: 8, PerAddress: 2})
		defer p.street.Close()
		var members []outcome
		for i := range 6 {
			near, in := p.come(t, "192.0.2.1")
			if !in {
				t.Fatalf("member's connection %d was turned away, though the others from there are proven", i+1)
			}
			s, c := shake(server, client, p.in[i], near)
			if s.err != nil || c.err != nil {
				t.Fatal(s.err, c.err)
			}
			members = append(members, s, c)
		}
		for i := range 2 {
			if _, in := p.come(t, fmt.Sprintf("192.0.2.%d", 10+i)); !in {
				t.Errorf("stranger %d was turned away, with room for 8 and 6 there", i+1)
			}
		}
		if _, in := p.come(t, "192.0.2.20"); in || p.turned[transport.ErrFull] != 1 {
			t.Errorf("a ninth was let in, with room for 8: turned away %v", p.turned)
		}
		members[0].close()
		members[0].close() // a second time makes no more room
		if _, in := p.come(t, "192.0.2.21"); !in {
			t.Error("nobody is let in though a member has left")
		}
		if _, in := p.come(t, "192.0.2.22"); in || p.turned[transport.ErrFull] != 2 {
			t.Errorf("one that closed twice made room for two: turned away %v", p.turned)
		}
		for _, m := range members {
			m.close()
		}
		if _, in := p.come(t, "192.0.2.23"); !in {
			t.Error("a fourth stranger was turned away, with room for 8")
		}
		if _, in := p.come(t, "192.0.2.24"); in || p.turned[transport.ErrFull] != 3 {
			t.Errorf("a fifth stranger was let in, with room for 8: turned away %v", p.turned)
		}
	})
}
