package transport

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"consilium.dev/internal/socket"
)

// Room is how many connections a door lets in. A zero field has its default.
type Room struct {
	Connections int // open at once; default 2048. Half of them at most are with peers that have not proven their name
	PerAddress  int // of these, from one IPv4 address or from one /64 of IPv6; default 128

	Unread time.Duration // longest that a write may wait for the other side to read, then the connection is closed; default 1 min
}

// The reasons for which a door turns a connection away.
var (
	ErrFull    = errors.New("no room for another connection")
	ErrAddress = errors.New("too many connections of peers from this address that have not proven their name")
)

// Door returns a listener that closes at once what comes to lis and has no room, and tells turned so, if that is not nil. Whoever
// waited for room instead would fill the line before the door, and keep members out of it. A connection counts as proven when
// the handshake of [Credentials] has found whose it is.
func Door(lis net.Listener, r Room, turned func(from net.Addr, why error)) net.Listener {
	r.Connections, r.PerAddress, r.Unread = cmp.Or(r.Connections, 2048), cmp.Or(r.PerAddress, 128), cmp.Or(r.Unread, time.Minute)
	if turned == nil {
		turned = func(net.Addr, error) {}
	}
	return &door{Listener: lis, room: r, turned: turned, from: map[netip.Prefix]int{}}
}

type door struct {
	net.Listener
	room   Room
	turned func(net.Addr, error)

	mu        sync.Mutex // guards what follows
	all       int        // connections that are open
	strangers int        // of them, with peers that have not proven their name
	from      map[netip.Prefix]int
}

func (d *door) Accept() (net.Conn, error) {
	for {
		raw, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g := &guestLine{Conn: raw, door: d, from: socket.Source(raw.RemoteAddr()), strange: true}
		err = d.enter(g.from)
		if err == nil {
			return g, nil
		}
		_ = raw.Close() // it was not used
		d.turned(raw.RemoteAddr(), err)
	}
}

func (d *door) enter(from netip.Prefix) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.all >= d.room.Connections || d.strangers >= max(d.room.Connections/2, 1):
		return ErrFull
	case from.IsValid() && d.from[from] >= d.room.PerAddress:
		return ErrAddress
	}
	d.all++
	d.strangers++
	d.from[from]++
	return nil
}

// guestLine is a connection that a door has let in.
type guestLine struct {
	net.Conn
	door    *door
	from    netip.Prefix
	strange bool // guarded by the door's mu
	gone    bool // likewise
}

func (g *guestLine) proven() {
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	g.known()
}

// known takes the connection off those with strangers. The door's mu is held.
func (g *guestLine) known() {
	d := g.door
	if !g.strange {
		return
	}
	g.strange = false
	d.strangers--
	if d.from[g.from]--; d.from[g.from] == 0 {
		delete(d.from, g.from)
	}
}

// Write gives up a peer that does not read. What asks for a sign of life is not enough for that: it is not asked while the peer
// goes on to send.
func (g *guestLine) Write(p []byte) (int, error) {
	stuck := time.AfterFunc(g.door.room.Unread, func() { _ = g.Close() }) // which ends the write
	defer stuck.Stop()
	return g.Conn.Write(p)
}

func (g *guestLine) Close() error {
	g.door.mu.Lock()
	if !g.gone {
		g.gone = true
		g.known()
		g.door.all--
	}
	g.door.mu.Unlock()
	return g.Conn.Close()
}
