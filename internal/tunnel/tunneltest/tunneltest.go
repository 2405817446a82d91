// Package tunneltest is an HTTP proxy for tests, on loopback: it asks for a user and a password, resolves names that nobody else
// knows, and can cut what goes through it.
package tunneltest

import (
	"crypto/subtle"
	"encoding/base64"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
)

// Options says whom a proxy lets through, and where to.
type Options struct {
	User, Password string                                      // who must prove itself, by Basic
	Reach          func(address string) (real string, ok bool) // where an address leads to; others are answered 403
}

// Proxy is a proxy that runs until its test ends. It is safe for concurrent use.
type Proxy struct {
	o   Options
	lis net.Listener
	all sync.WaitGroup

	mu     sync.Mutex // guards what follows
	conns  map[net.Conn]bool
	limit  int64 // bytes that may still pass to the other side before everything is cut; 0: no limit
	opened int
	denied int
	passed int64
	ended  bool
}

// Start starts one.
func Start(tb testing.TB, o Options) *Proxy {
	tb.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{o: o, lis: lis, conns: map[net.Conn]bool{}}
	server := &http.Server{Handler: p, ErrorLog: log.New(io.Discard, "", 0)}
	p.all.Go(func() { _ = server.Serve(lis) })
	tb.Cleanup(func() {
		_ = server.Close()
		p.mu.Lock()
		p.ended = true
		p.mu.Unlock()
		p.Sever()
		p.all.Wait()
	})
	return p
}

// Address returns its host:port.
func (p *Proxy) Address() string { return p.lis.Addr().String() }

// Opened returns how many connections it has let through.
func (p *Proxy) Opened() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.opened
}

// Denied returns how many it has answered with 407.
func (p *Proxy) Denied() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.denied
}

// Passed returns how many bytes have gone through it to those that were dialled.
func (p *Proxy) Passed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed
}

// CutAfter cuts everything once n more bytes, n > 0, have gone through to those that were dialled, and then lets all pass.
func (p *Proxy) CutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limit = n
}

// Sever cuts the connections that go through it.
func (p *Proxy) Sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sever()
}

// sever is Sever for one who holds mu.
func (p *Proxy) sever() {
	for c := range p.conns {
		_ = c.Close()
	}
}

// ServeHTTP answers one CONNECT.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(p.o.User+":"+p.o.Password))
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Proxy-Authorization")), []byte(want)) != 1 {
		p.mu.Lock()
		p.denied++
		p.mu.Unlock()
		w.Header().Set("Proxy-Authenticate", `Basic realm="test"`)
		http.Error(w, "who are you?", http.StatusProxyAuthRequired)
		return
	}
	if r.Method != http.MethodConnect {
		http.Error(w, "CONNECT only", http.StatusMethodNotAllowed)
		return
	}
	real, ok := p.o.Reach(r.Host)
	if !ok {
		http.Error(w, "not there", http.StatusForbidden)
		return
	}
	far, err := net.Dial("tcp", real)
	if err != nil {
		http.Error(w, "nobody there", http.StatusBadGateway)
		return
	}
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = far.Close()
		return
	}
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		_, _ = near.Close(), far.Close()
		return
	}
	p.opened++
	p.conns[near], p.conns[far] = true, true
	p.all.Add(1)
	p.mu.Unlock()
	defer p.all.Done()
	p.carry(near, far)
}

// carry joins the two until either ends.
func (p *Proxy) carry(near, far net.Conn) {
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err == nil {
			_, _ = io.Copy(near, far)
		}
		_ = near.Close()
	})
	both.Go(func() {
		_, _ = io.Copy(counted{p, far}, near)
		_ = far.Close()
	})
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, near)
	delete(p.conns, far)
}

// counted is the way to one that was dialled.
type counted struct {
	p   *Proxy
	far net.Conn
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.far.Write(b)
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.p.passed += int64(n)
	if c.p.limit > 0 {
		if c.p.limit -= int64(n); c.p.limit <= 0 {
			c.p.limit = 0
			c.p.sever()
		}
	}
	return n, err
}
