package transport_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/attest"
)

// tallied counts what is read from and written to a line, and can fail its writes.
type tallied struct {
	net.Conn
	reads, writes atomic.Int64
	broken        atomic.Bool
}

var errBroken = errors.New("the line is broken")

func (c *tallied) Read(p []byte) (int, error) { c.reads.Add(1); return c.Conn.Read(p) }

func (c *tallied) Write(p []byte) (int, error) {
	if c.broken.Load() {
		return 0, errBroken
	}
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// proven returns the two ends of a proven connection over the loopback, and the dialler's line.
func proven(t testing.TB) (from, to net.Conn, under *tallied) {
	t.Helper()
	lis := listen(t)
	defer lis.Close()
	near, far := tcpPair(t, lis)
	under = &tallied{Conn: far}
	e := newEnds(attest.Participant, "north")
	s, c := shake(makeServer(t, e.server), makeClient(t, e.client), near, under)
	if s.err != nil || c.err != nil {
		t.Fatal(s.err, c.err)
	}
	t.Cleanup(func() { s.close(); c.close() })
	return c.conn, s.conn, under
}

// TestLineBytes: whatever is written, by several at once, comes out whole and in order on the other side, both ways.
func TestLineBytes(t *testing.T) {
	one, two, _ := proven(t)
	rapid.Check(t, func(r *rapid.T) {
		sizes := rapid.SliceOfN(rapid.IntRange(1, 400<<10), 1, 8).Draw(r, "sizes")
		var sum int
		for _, n := range sizes {
			sum += n
		}
		var all sync.WaitGroup
		for _, way := range [][2]net.Conn{{one, two}, {two, one}} {
			for i, n := range sizes { // each writer's bytes are its own
				all.Go(func() {
					if _, err := way[0].Write(bytes.Repeat([]byte{byte(i)}, n)); err != nil {
						t.Error(err)
					}
				})
			}
			all.Go(func() {
				got := make([]byte, sum)
				if _, err := io.ReadFull(way[1], got); err != nil {
					t.Error(err)
				}
				for i, n := range sizes {
					if !bytes.Contains(got, bytes.Repeat([]byte{byte(i)}, n)) {
						t.Errorf("write %d of %v is torn", i, sizes)
					}
				}
			})
		}
		all.Wait()
	})
}

// TestLineCalls: much that is written and read takes few calls of the system.
func TestLineCalls(t *testing.T) {
	one, two, under := proven(t)
	const n = 4 << 20
	var all sync.WaitGroup
	for _, way := range [][2]net.Conn{{one, two}, {two, one}} {
		before := under.writes.Load()
		all.Go(func() {
			for range n / (128 << 10) {
				if _, err := way[0].Write(make([]byte, 128<<10)); err != nil {
					t.Error(err)
				}
			}
		})
		if _, err := io.ReadFull(way[1], make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		all.Wait()
		if got := under.writes.Load() - before; way[0] == one && got > n/(128<<10)*5/4+16 {
			t.Errorf("4 MiB took %d writes, want about one for each 128 KiB", got)
		}
	}
}

// TestLineBroken: a write whose records could not be sent says so.
func TestLineBroken(t *testing.T) {
	one, _, under := proven(t)
	under.broken.Store(true)
	if n, err := one.Write(make([]byte, 100<<10)); !errors.Is(err, errBroken) {
		t.Errorf("Write = %d, %v, want %v", n, err, errBroken)
	}
}
