package transport_test

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// tcpPair returns the two ends of a connection over the loopback.
func tcpPair(b testing.TB, lis net.Listener) (server, client net.Conn) {
	b.Helper()
	accepted := make(chan net.Conn)
	go func() {
		c, err := lis.Accept()
		if err != nil {
			b.Error(err)
		}
		accepted <- c
	}()
	client, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	return <-accepted, client
}

// BenchmarkHandshake is a mutual handshake over the loopback, both sides on this machine: quote, verification and appraisal
// by a signed manifest included. A listener's pace of one name allows 32 at once, so that each 32 get a new listener, whose
// making is not counted.
func BenchmarkHandshake(b *testing.B) {
	r := aRealm(b)
	m := r.manifestOf(b)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer lis.Close()
	for _, p := range pairs {
		b.Run(p.name, func(b *testing.B) {
			e := r.realEnds(b, m, p.office, p.who)
			handshakes(b, e, lis)
		})
	}
	intel, of := intelRealm(b)
	for _, p := range []struct{ name, who string }{{"participant on tdx", "north"}, {"participant on sgx", "south"}} { // and the council on TDX
		b.Run(p.name, func(b *testing.B) { handshakes(b, intel.realEnds(b, of, attest.Participant, p.who), lis) })
	}
	b.Run("evidence that costs nothing", func(b *testing.B) { handshakes(b, newEnds(attest.Participant, "north"), lis) })
}

func handshakes(b *testing.B, e *ends, lis net.Listener) {
	b.ReportAllocs()
	client := makeClient(b, e.client)
	var server *transport.Credentials
	var in, out atomic.Int64
	i := 0
	for ; b.Loop(); i++ {
		b.StopTimer()
		if i%32 == 0 {
			server = makeServer(b, e.server)
		}
		near, far := tcpPair(b, lis)
		near = &weighed{near, &in, &out}
		b.StartTimer()
		s, c := shake(server, client, near, far)
		if s.err != nil || c.err != nil {
			b.Fatal(s.err, c.err)
		}
		b.StopTimer()
		s.close()
		c.close()
		b.StartTimer()
	}
	b.ReportMetric(float64(in.Load())/float64(i), "B-in/handshake")
	b.ReportMetric(float64(out.Load())/float64(i), "B-out/handshake")
}

// weighed counts the bytes of a server's connection.
type weighed struct {
	net.Conn
	in, out *atomic.Int64
}

func (w *weighed) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.in.Add(int64(n))
	return n, err
}

func (w *weighed) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.out.Add(int64(n))
	return n, err
}

// BenchmarkIdle reports the bytes of heap that an idle connection holds, both ends together, beyond the pipe.
func BenchmarkIdle(b *testing.B) {
	r := aRealm(b)
	m := r.manifestOf(b)
	for _, p := range pairs {
		b.Run(p.name, func(b *testing.B) {
			const connections = 16
			e := r.realEnds(b, m, p.office, p.who)
			client := makeClient(b, e.client)
			var sum int64
			var n int
			for b.Loop() {
				server := makeServer(b, e.server)
				var held []outcome
				before := used()
				for range connections {
					near, far := net.Pipe()
					s, c := shake(server, client, near, far)
					if s.err != nil || c.err != nil {
						b.Fatal(s.err, c.err)
					}
					held = append(held, s, c)
				}
				sum += used() - before
				n += connections
				for _, o := range held {
					o.close()
				}
			}
			b.ReportMetric(float64(sum)/float64(n), "B/connection")
		})
	}
}

// used returns the bytes of heap in use after a collection; what finalizers keep is gone after the second.
func used() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
