package main

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// relay is the network between one participant and the coordinator, whose address may change. It can be slow and far, and made
// to fail after so many bytes on the way to the coordinator or back.
type relay struct {
	lis net.Listener
	to  func() string

	mu       sync.Mutex // guards what follows
	up, down way
	coming   []fault       // after the one that is set
	rate     int           // bytes a second, each way; 0: as fast as it goes
	delay    time.Duration // each way
	faults   *book         // has a line for each that has happened
	lines    map[*line]bool
}

// way is one of the two directions.
type way struct {
	name   string
	passed int64 // bytes sent on
	limit  int64 // of passed, at which the fault happens; -1: none
	kind   kind
}

// fault is what happens to the connections when n more bytes have gone one way: to all, or to the one that stands still.
type fault struct {
	down bool // the way
	n    int64
	kind kind
}

type kind string

const (
	stalls kind = "stalled" // nothing passes any more, and nobody is told
	cuts   kind = "cut"     // both ends are told that it is over
	resets kind = "reset"   // the same, with what is on its way lost
)

var errFault = errors.New("the relay has failed")

// line is a connection through a relay.
type line struct {
	near, far *net.TCPConn
	once      sync.Once
	over      chan struct{} // closed when an end is
}

func (l *line) hangUp() { l.once.Do(func() { close(l.over) }) }

func newRelay(t *testing.T, to func() string) *relay {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{
		lis: lis, to: to, up: way{name: "up", limit: -1}, down: way{name: "down", limit: -1}, faults: newBook(), lines: map[*line]bool{},
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := lis.Accept()
			if err != nil {
				return
			}
			all.Go(func() { r.carry(near.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		_ = lis.Close()
		r.sever()
		all.Wait()
	})
	return r
}

// carry joins a connection to one to the coordinator, until either ends.
func (r *relay) carry(near *net.TCPConn) {
	defer near.Close()
	far, err := net.Dial("tcp", r.to())
	if err != nil {
		return
	}
	defer far.Close()
	l := &line{near: near, far: far.(*net.TCPConn), over: make(chan struct{})}
	r.mu.Lock()
	r.lines[l] = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.lines, l)
		r.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() { r.move(&r.down, l, l.near, l.far) })
	both.Go(func() { r.move(&r.up, l, l.far, l.near) })
	both.Wait()
}

// parcel is some bytes on their way, and when they arrive.
type parcel struct {
	bytes []byte
	due   time.Time
}

// move carries one way until the line is over, and then ends it.
func (r *relay) move(w *way, l *line, to, from *net.TCPConn) {
	parcels := make(chan parcel, 64)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(parcels)
		defer l.hangUp()
		for {
			p := make([]byte, 16<<10)
			n, err := from.Read(p)
			if n > 0 {
				r.mu.Lock()
				due := time.Now().Add(r.delay)
				r.mu.Unlock()
				parcels <- parcel{p[:n], due}
			}
			if err != nil {
				return
			}
		}
	})
	for p := range parcels {
		time.Sleep(time.Until(p.due))
		if err := r.send(w, l, to, p.bytes); err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
	for range parcels { // what was on its way is lost
	}
	reading.Wait()
}

func (r *relay) send(w *way, l *line, to *net.TCPConn, p []byte) error {
	for len(p) > 0 {
		n, pause := r.pass(w, len(p))
		if n == 0 {
			<-l.over
			return errFault
		}
		time.Sleep(pause)
		if _, err := to.Write(p[:n]); err != nil {
			return err
		}
		if r.resetsNext(w) {
			arrived(to)
		}
		p = p[n:]
	}
	return nil
}

// resetsNext reports whether what comes next on the way is a reset.
func (r *relay) resetsNext(w *way) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return w.kind == resets && w.limit >= 0 && w.passed >= w.limit
}

// arrived waits until the other end's system has all that was sent: a reset takes what has not left ours along, and that would be all of it where
// the other end is slow to read. It waits for 10 s at most; where the system does not say, for nothing.
func arrived(c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	for range 10_000 {
		left := 0
		if err := raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) }); err != nil || left == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// pass returns how many of n bytes may pass, and how long they take: none where a fault happens.
func (r *relay) pass(w *way, n int) (int, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.limit >= 0 && w.passed >= w.limit {
		_, _ = fmt.Fprintf(r.faults, "{\"msg\": %q, \"way\": %q}\n", w.kind, w.name)
		if w.kind != stalls {
			r.end(w.kind)
		}
		w.limit = -1
		r.next()
		return 0, 0
	}
	if w.limit >= 0 {
		n = int(min(int64(n), w.limit-w.passed))
	}
	w.passed += int64(n)
	if r.rate == 0 {
		return n, 0
	}
	return n, time.Duration(n) * time.Second / time.Duration(r.rate)
}

// fail has faults happen, each so many bytes after the one before.
func (r *relay) fail(all ...fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.coming = all
	r.next()
}

// next sets the fault that comes next. The caller holds mu.
func (r *relay) next() {
	if len(r.coming) == 0 {
		return
	}
	f := r.coming[0]
	r.coming = r.coming[1:]
	w := &r.up
	if f.down {
		w = &r.down
	}
	w.limit, w.kind = w.passed+f.n, f.kind
}

// pace makes both ways as slow and long as that.
func (r *relay) pace(rate int, delay time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rate, r.delay = rate, delay
}

// sever cuts the connections there are, with all that is on its way in them, and lets everything pass over new ones.
func (r *relay) sever() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.up.limit, r.down.limit, r.coming = -1, -1, nil
	r.end(cuts)
}

// end ends the connections there are. The caller holds mu.
func (r *relay) end(k kind) {
	for l := range r.lines {
		for _, c := range []*net.TCPConn{l.near, l.far} {
			if k == resets {
				_ = c.SetLinger(0)
			}
			_ = c.Close()
		}
		l.hangUp()
	}
}
