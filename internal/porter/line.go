package porter

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"consilium.dev/internal/socket"
)

// piece is how much is carried at once.
const piece = 32 << 10

// line is a connection and, once that is reached, the one to which it leads.
type line struct {
	near   net.Conn
	source netip.Prefix
	timer  *time.Timer // hangs up
	idle   atomic.Int64

	mu   sync.Mutex // guards what follows
	far  net.Conn
	gone bool
}

// join adds the far end. It reports false, and closes it, where the line has been hung up.
func (l *line) join(far net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		_ = far.Close() // it was not used
		return false
	}
	l.far = far
	return true
}

// hangUp closes both ends, which ends whatever reads or writes.
func (l *line) hangUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return
	}
	l.gone = true
	_ = l.near.Close() // whatever became of it, it is over
	if l.far != nil {
		_ = l.far.Close() // likewise
	}
}

// touch says that something goes over it. A timer that has run down has hung up.
func (l *line) touch() { l.timer.Reset(time.Duration(l.idle.Load())) }

// carry carries both ways until both have ended, or either has broken, and returns how many bytes went to the far end and back.
func (l *line) carry() int64 {
	var both sync.WaitGroup
	var up, down int64
	both.Go(func() { up = l.move(l.far, l.near) })
	both.Go(func() { down = l.move(l.near, l.far) })
	both.Wait()
	return up + down
}

// move carries one way until it ends, and then tells the other end so. What breaks one way ends both.
func (l *line) move(to, from net.Conn) (n int64) {
	buffer := make([]byte, piece)
	for {
		m, err := from.Read(buffer)
		if m > 0 {
			l.touch()
			if _, err := to.Write(buffer[:m]); err != nil {
				l.hangUp()
				return n
			}
			n += int64(m)
			l.touch()
		}
		if err == nil {
			continue
		}
		if half, ok := to.(socket.Conn); !ok || !errors.Is(err, io.EOF) || half.CloseWrite() != nil {
			l.hangUp()
		}
		return n
	}
}
