package main

import (
	"io"
	"net"
	"sync"
	"testing"
)

// relay is the network between one participant and the coordinator, whose address may change. It can be made to stand still
// after so many bytes on the way to the coordinator.
type relay struct {
	lis net.Listener
	to  func() string

	mu      sync.Mutex // guards what follows
	room    *sync.Cond // signalled when limit changes
	passed  int64      // bytes sent on to the coordinator
	limit   int64      // of passed; -1: none
	stalled *book      // has a line once it stands still
	conns   map[net.Conn]bool
}

func newRelay(t *testing.T, to func() string) *relay {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{lis: lis, to: to, limit: -1, stalled: newBook(), conns: map[net.Conn]bool{}}
	r.room = sync.NewCond(&r.mu)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			near, err := lis.Accept()
			if err != nil {
				return
			}
			all.Go(func() { r.carry(near) })
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
func (r *relay) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", r.to())
	if err != nil {
		return
	}
	defer far.Close()
	r.know(near, far, true)
	defer r.know(near, far, false)
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(near, far)
		_ = near.Close()
	})
	both.Go(func() {
		_, _ = io.Copy(gate{r, far}, near)
		_ = far.Close()
	})
	both.Wait()
}

func (r *relay) know(a, b net.Conn, open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range []net.Conn{a, b} {
		if open {
			r.conns[c] = true
		} else {
			delete(r.conns, c)
		}
	}
}

// stallAfter lets n more bytes pass to the coordinator and then none.
func (r *relay) stallAfter(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.limit = r.passed + n
}

// sever cuts the connections there are, with all that is on its way in them, and lets everything pass over new ones.
func (r *relay) sever() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		_ = c.Close()
	}
	r.limit = -1
	r.room.Broadcast()
}

// gate is the way to the coordinator.
type gate struct {
	r   *relay
	far net.Conn
}

func (g gate) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n := g.r.pass(len(p) - done)
		k, err := g.far.Write(p[done : done+n])
		if done += k; err != nil {
			return done, err
		}
	}
	return done, nil
}

// pass waits until bytes may pass and returns how many of n, which is more than 0.
func (r *relay) pass(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.limit >= 0 && r.passed >= r.limit {
		_, _ = r.stalled.Write([]byte("{\"msg\": \"stalled\"}\n"))
		r.room.Wait()
	}
	if r.limit >= 0 {
		n = int(min(int64(n), r.limit-r.passed))
	}
	r.passed += int64(n)
	return n
}
