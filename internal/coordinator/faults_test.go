package coordinator_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"
)

// fault is what happens to one connection through a wire. The zero fault is none.
type fault struct {
	upAfter, downAfter int64 // cut when so many bytes have gone that way; 0: never
	stall              bool  // at that point carry nothing more that way, and close nothing
	reset              bool  // cut so that TCP sends a reset
}

// wire is a proxy between a participant and the coordinator that counts what it carries and does what its test says to each
// connection in turn.
type wire struct {
	dial  func(ctx context.Context, address string) (net.Conn, error)
	rate  int64         // bytes a second each way; 0: no bound
	delay time.Duration // each way

	pumps sync.WaitGroup

	mu       sync.Mutex // guards what follows
	faults   []fault    // of the next connections
	met      int        // faults that have happened
	up, down int64
}

// laid returns the wire, which is waited for at the end of the test.
func (w *wire) laid(t *testing.T) *wire {
	t.Cleanup(w.pumps.Wait)
	return w
}

// through returns a connection to the coordinator by way of the wire.
func (w *wire) through(ctx context.Context, address string) (net.Conn, error) {
	far, err := w.dial(ctx, address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	var f fault
	if len(w.faults) > 0 {
		f, w.faults = w.faults[0], w.faults[1:]
	}
	w.mu.Unlock()
	near, mid := net.Pipe()
	cut := sync.OnceFunc(func() {
		if tcp, ok := far.(*net.TCPConn); ok && f.reset {
			_ = tcp.SetLinger(0)
		}
		_ = far.Close()
		_ = mid.Close()
	})
	w.pumps.Go(func() { w.pump(far, mid, f.upAfter, f.stall, &w.up, cut) })
	w.pumps.Go(func() { w.pump(mid, far, f.downAfter, f.stall, &w.down, cut) })
	return near, nil
}

// packet is what was read at one moment.
type packet struct {
	text []byte
	due  time.Time
}

// pump carries bytes one way until a side closes or the fault comes.
func (w *wire) pump(to, from net.Conn, after int64, stall bool, count *int64, cut func()) {
	defer cut()
	line := make(chan packet, 1<<10)
	go func() {
		defer close(line)
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			if n > 0 {
				line <- packet{buf[:n], time.Now().Add(w.delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() {
		cut()
		for range line { // the reader ends
		}
	}()
	var carried int64
	for p := range line {
		if late := time.Until(p.due); late > 0 {
			time.Sleep(late)
		}
		if w.rate > 0 {
			time.Sleep(time.Duration(int64(len(p.text)) * int64(time.Second) / w.rate))
		}
		if carried += int64(len(p.text)); after > 0 && carried > after {
			w.mu.Lock()
			w.met++
			w.mu.Unlock()
			if stall {
				for range line {
				}
			}
			return
		}
		if _, err := to.Write(p.text); err != nil {
			return
		}
		w.mu.Lock()
		*count += int64(len(p.text))
		w.mu.Unlock()
	}
}

// carried returns the bytes that went each way since it was last called, and how many faults have happened.
func (w *wire) carried() (up, down int64, met int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	up, down, met = w.up, w.down, w.met
	w.up, w.down, w.met = 0, 0, 0
	return up, down, met
}
