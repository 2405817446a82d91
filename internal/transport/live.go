package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"consilium.dev/internal/attest"
	"golang.org/x/time/rate"
)

const (
	maxSessions = 16                     // connections and handshakes of one name at a time
	guestEvery  = 500 * time.Millisecond // one more handshake of one name
	guestBurst  = 32                     // that may come at once
)

var (
	errClosed  = errors.New("transport: the credentials are closed")
	errExpired = errors.New("transport: the connection's appraisal has ended: dial again")
)

// guest is what a listener remembers of one name.
type guest struct {
	pace     *rate.Limiter
	sessions int
	quote    chan struct{} // one slot: so many of its handshakes wait in the line for our quotes
}

// conn is a connection that was proven. It ends with its appraisal.
type conn struct {
	*tls.Conn
	line  *line
	write sync.Mutex // held while somebody writes: a join is one writer's
	raw   net.Conn
	c     *Credentials
	peer  Peer
	timer *time.Timer
	once  sync.Once
}

// Read and Write look at the clock too: the timer that cuts the connection does not run while a machine sleeps.

func (k *conn) Read(p []byte) (int, error) {
	n, err := k.Conn.Read(p)
	if over := k.over(); over != nil { // it may have waited until then
		return 0, over
	}
	return n, err
}

// Write sends the records of more than one to the line together.
func (k *conn) Write(p []byte) (int, error) {
	if err := k.over(); err != nil {
		return 0, err
	}
	k.write.Lock()
	defer k.write.Unlock()
	if len(p) <= maxRecord {
		return k.Conn.Write(p)
	}
	k.line.join()
	n, err := k.Conn.Write(p)
	if e := k.line.part(); err == nil && e != nil {
		return 0, e
	}
	return n, err
}

// over cuts a connection whose appraisal has ended, and says so.
func (k *conn) over() error {
	if k.c.cfg.Now().Before(k.peer.Expires) {
		return nil
	}
	_ = k.Close()
	return errExpired
}

// Close cuts the connection. It sends no close_notify, for which crypto/tls may wait 5 s: HTTP/2 says itself where a stream
// ends.
func (k *conn) Close() error {
	k.c.forget(k)
	return k.raw.Close()
}

// caller is whose sessions are counted together. Whoever has proven a name by a key of an epoch that is over is counted apart from
// whoever has that name now: an old key that was stolen keeps nobody out.
type caller struct {
	attest.Peer
	past bool
}

// admit counts one more session of a peer that has proven its name, or refuses it before it costs a quote.
func (c *Credentials) admit(p caller) (*guest, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.guests[p]
	if g == nil {
		g = &guest{pace: rate.NewLimiter(rate.Every(guestEvery), guestBurst), quote: make(chan struct{}, 1)}
		c.guests[p] = g
	}
	if g.sessions >= maxSessions {
		return nil, attest.Refuse(attest.ClassRate, "%v %q has %d connections already", p.Office, p.Name, g.sessions)
	}
	if !g.pace.Allow() {
		return nil, attest.Refuse(attest.ClassRate, "%v %q dials too often", p.Office, p.Name)
	}
	g.sessions++
	return g, nil
}

// dismiss takes back what admit counted.
func (c *Credentials) dismiss(p caller) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.guests[p]; g != nil {
		g.sessions--
	}
}

// keep registers a proven connection, so that it can be cut, and has it cut when its appraisal ends.
func (c *Credentials) keep(k *conn) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life.Err() != nil {
		return errClosed
	}
	c.live[k] = struct{}{}
	k.timer = time.AfterFunc(k.peer.Expires.Sub(c.cfg.Now()), func() { _ = k.Close() })
	return nil
}

// forget undoes keep and, on a listener, admit. It may be called again.
func (c *Credentials) forget(k *conn) {
	k.once.Do(func() {
		c.mu.Lock()
		delete(c.live, k)
		timer := k.timer
		c.mu.Unlock()
		if timer != nil {
			timer.Stop()
		}
		if !c.client {
			c.dismiss(caller{Peer: attest.Peer{Office: k.peer.Office, Name: k.peer.Name}})
		}
	})
}
