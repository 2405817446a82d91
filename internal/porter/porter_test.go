package porter_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"consilium.dev/internal/porter"
	"consilium.dev/internal/socket"
	"consilium.dev/internal/tunnel"
)

// listen listens on loopback.
func listen(t *testing.T) net.Listener {
	t.Helper()
	lis, err := socket.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

// echo listens on loopback, hears until the other side has said all, and then says it back.
func echo(t *testing.T) string {
	t.Helper()
	lis := listen(t)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				if text, err := io.ReadAll(c); err == nil {
					_, _ = c.Write(text)
				}
			})
		}
	})
	t.Cleanup(func() { _ = lis.Close(); all.Wait() })
	return lis.Addr().String()
}

// start runs a porter until the test's end, or until the function that is returned is called, which returns what Run did.
func start(t *testing.T, o porter.Options, dial func(context.Context, string) (net.Conn, error)) (end func() error) {
	t.Helper()
	o.Log = zap.NewNop()
	p, err := porter.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if dial != nil {
		p.DialBy(dial)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { err = p.Run(ctx) })
	end = func() error {
		cancel()
		all.Wait()
		return err
	}
	t.Cleanup(func() {
		if err := end(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return end
}

// say says a text over a connection, ends that way, and returns all that comes back.
func say(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if err := c.(socket.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

// TestConnect: what is listed is reached through a tunnel, in any spelling of its name; the rest is refused, and said to be.
func TestConnect(t *testing.T) {
	to, lis := echo(t), listen(t)
	const name = "council.example.org:7443"
	start(t, porter.Options{Connect: lis, Allow: []string{to, "Council.Example.org:7443"}}, func(ctx context.Context, asked string) (net.Conn, error) {
		if asked == name {
			asked = to
		}
		return socket.Dial(ctx, asked)
	})
	through, err := tunnel.New(tunnel.Options{URL: "http://" + lis.Addr().String(), Setting: "out"})
	if err != nil {
		t.Fatal(err)
	}
	for _, listed := range []string{to, name, "COUNCIL.example.ORG:7443"} {
		c, err := through.Dial(t.Context(), listed)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close() // the way is there
	}
	for _, other := range []string{"council.example.org:443", "169.254.169.254:80", "example.org:7443", "x.council.example.org:7443", "127.0.0.1:1"} {
		_, err := through.Dial(t.Context(), other)
		var known *tunnel.Error
		if !errors.As(err, &known) || known.Status != http.StatusForbidden {
			t.Errorf("dialling %s, which is not listed: %v, want 403", other, err)
		}
	}
	raw, err := socket.Dial(t.Context(), lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := fmt.Fprintf(raw, "CONNECT %s HTTP/1.1\r\nHost: somebody.else\r\n\r\n", to); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(raw)
	for _, want := range []string{"HTTP/1.1 200 OK\r\n", "\r\n"} {
		if line, err := reader.ReadString('\n'); err != nil || line != want {
			t.Fatalf("the answer has %q, %v, want %q", line, err, want)
		}
	}
	if _, err := io.WriteString(raw, "through"); err != nil {
		t.Fatal(err)
	}
	if err := raw.(socket.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(reader); err != nil || string(got) != "through" {
		t.Errorf("heard %q, %v, want what was said", got, err)
	}
}

// TestUnreached: what is listed and not there is said to be so.
func TestUnreached(t *testing.T) {
	gone, lis := listen(t), listen(t)
	closed := gone.Addr().String()
	_ = gone.Close() // nobody listens there now
	_, port, _ := net.SplitHostPort(closed)
	start(t, porter.Options{Connect: lis, Allow: []string{closed, "localhost:" + port, "late.example.org:1"}},
		func(ctx context.Context, to string) (net.Conn, error) {
			if to == "late.example.org:1" {
				return nil, context.DeadlineExceeded
			}
			return porter.Reach(ctx, to)
		})
	through, err := tunnel.New(tunnel.Options{URL: "http://" + lis.Addr().String(), Setting: "out"})
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]int{closed: 502, "localhost:" + port: 403, "late.example.org:1": 504} {
		_, err := through.Dial(t.Context(), to)
		var known *tunnel.Error
		if !errors.As(err, &known) || known.Status != want {
			t.Errorf("dialling %s: %v, want %d", to, err, want)
		}
	}
}

// questions are CONNECTs, with the status of their answer, or 0 and what they ask for.
var questions = []struct {
	name, text string
	status     int
	to         string
}{
	{"name", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 0, "a.example:443"},
	{"address", "CONNECT 192.0.2.7:443 HTTP/1.1\r\nHost: x\r\n\r\n", 0, "192.0.2.7:443"},
	{"IPv6", "CONNECT [2001:DB8::7]:443 HTTP/1.1\r\nHost: x\r\n\r\n", 0, "[2001:db8::7]:443"},
	{"capitals", "CONNECT A.Example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 0, "a.example:443"},
	{"older HTTP", "CONNECT a.example:443 HTTP/1.0\r\n\r\n", 0, "a.example:443"},
	{"GET", "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n", 405, ""},
	{"no port", "CONNECT a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, ""},
	{"port 0", "CONNECT a.example:0 HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, ""},
	{"port in another spelling", "CONNECT a.example:0443 HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, ""},
	{"service", "CONNECT a.example:https HTTP/1.1\r\nHost: a.example\r\n\r\n", 400, ""},
	{"path", "CONNECT /a HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 400, ""},
	{"user", "CONNECT me@a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 400, ""},
	{"dot behind", "CONNECT a.example.:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 400, ""},
	{"pattern", "CONNECT *:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n", 400, ""},
	{"address as one number", "CONNECT 2852039166:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
	{"address in hexadecimal", "CONNECT 0xa9.0xfe.0xa9.0xfe:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
	{"address in octal", "CONNECT 0251.0376.0251.0376:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
	{"IPv4 in IPv6", "CONNECT [::ffff:169.254.169.254]:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
	{"zone", "CONNECT [fe80::1%25eth0]:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
	{"vsock", "CONNECT vsock:3:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
	{"body", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\nx", 400, ""},
	{"chunks", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n", 400, ""},
	{"more than the question", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\nhello", 400, ""},
	{"no HTTP", "\x16\x03\x01 hello\r\n\r\n", 400, ""},
	{"nothing", "", 400, ""},
	{"cut off", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.exa", 400, ""},
	{"long", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\nX: " + strings.Repeat("x", porter.MaxHead) + "\r\n\r\n", 431, ""},
	{"long name", "CONNECT " + strings.Repeat("a.", 126) + "aa:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
}

// TestQuestions: every destination has one spelling, and nothing but a CONNECT is one.
func TestQuestions(t *testing.T) {
	for _, c := range questions {
		t.Run(c.name, func(t *testing.T) {
			if to, status := porter.Parse(strings.NewReader(c.text)); to != c.to || status != c.status {
				t.Errorf("%.100q is read as %q, %d, want %q, %d", c.text, to, status, c.to, c.status)
			}
		})
	}
}

// FuzzQuestion: what is read as a destination is one, in its one spelling.
func FuzzQuestion(f *testing.F) {
	for _, c := range questions {
		f.Add(c.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		to, status := porter.Parse(strings.NewReader(text))
		if status != 0 {
			if to != "" || http.StatusText(status) == "" {
				t.Errorf("%q is refused by %d, and asks for %q", text, status, to)
			}
			return
		}
		if again, err := porter.Destination(to); err != nil || again != to {
			t.Errorf("%q asks for %q, which is read as %q, %v", text, to, again, err)
		}
	})
}

// TestGuard: a name leads to no address that only this machine reaches; one that is listed as an address is meant.
func TestGuard(t *testing.T) {
	for _, address := range []string{
		"169.254.169.254:80", "[fd00:ec2::254]:80", "[fd00:ec2::23]:80", "127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "[::ffff:169.254.169.254]:80", "[fe80::1%eth0]:80",
		"0.0.0.0:80", "[::]:80", "224.0.0.1:80",
	} {
		if err := porter.Guard("kms.example.org", address); err == nil {
			t.Errorf("a name may lead to %s", address)
		}
		if err := porter.Guard("169.254.169.254", address); err != nil {
			t.Errorf("an address that is listed is refused: %v", err)
		}
	}
	for _, address := range []string{"192.0.2.7:443", "10.0.0.1:443", "[2001:db8::1]:443"} {
		if err := porter.Guard("kms.example.org", address); err != nil {
			t.Errorf("a name may not lead to %s: %v", address, err)
		}
	}
}

// TestForward: a fixed way carries both ways, and one may end before the other.
func TestForward(t *testing.T) {
	lis, other := listen(t), listen(t)
	start(t, porter.Options{Forward: []porter.Forward{{Listener: lis, To: echo(t)}, {Listener: other, To: "127.0.0.1:1"}}}, nil)
	c, err := socket.Dial(t.Context(), lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := strings.Repeat("in and out; ", 50_000)
	if got := say(t, c, text); got != text {
		t.Errorf("%d bytes came back, want the %d that were said", len(got), len(text))
	}
	nobody, err := socket.Dial(t.Context(), other.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	if n, err := nobody.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("where nobody is, %d bytes came, %v", n, err)
	}
}

// TestLimits: what comes when there is no room is closed, and room that is given back is there.
func TestLimits(t *testing.T) {
	for name, l := range map[string]porter.Limits{"all": {Connections: 1}, "address": {PerAddress: 1}} {
		t.Run(name, func(t *testing.T) {
			lis := listen(t)
			start(t, porter.Options{Forward: []porter.Forward{{Listener: lis, To: echo(t)}}, Limits: l}, nil)
			first, err := socket.Dial(t.Context(), lis.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer first.Close()
			second, err := socket.Dial(t.Context(), lis.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			if _, err := io.ReadAll(second); err != nil && !strings.Contains(err.Error(), "reset") {
				t.Errorf("the second connection: %v, want its end", err)
			}
			if got := say(t, first, "one"); got != "one" {
				t.Errorf("over the first connection came %q", got)
			}
			for got := ""; got != "two"; { // as soon as the first has been counted out
				third, err := socket.Dial(t.Context(), lis.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(third, "two") // it may be closed
				_ = third.(socket.Conn).CloseWrite()
				text, _ := io.ReadAll(third)
				got = string(text)
				_ = third.Close()
			}
		})
	}
}

// TestNew: what makes no sense is refused at once.
func TestNew(t *testing.T) {
	lis := listen(t)
	defer lis.Close()
	log := zap.NewNop()
	for _, c := range []struct {
		name string
		o    porter.Options
		want string
	}{
		{"no log", porter.Options{Connect: lis, Allow: []string{"a.example:1"}}, "no log"},
		{"nothing", porter.Options{Log: log}, "nothing to carry"},
		{"nothing listed", porter.Options{Log: log, Connect: lis}, "belong together"},
		{"listed for nobody", porter.Options{Log: log, Allow: []string{"a.example:1"}, Forward: []porter.Forward{{lis, "a.example:1"}}}, "belong together"},
		{"pattern", porter.Options{Log: log, Connect: lis, Allow: []string{"*.example:443"}}, "patterns are not supported"},
		{"everything", porter.Options{Log: log, Connect: lis, Allow: []string{"*"}}, "want host:port"},
		{"any port", porter.Options{Log: log, Connect: lis, Allow: []string{"a.example:*"}}, "want host:port"},
		{"network", porter.Options{Log: log, Connect: lis, Allow: []string{"192.0.2.0/24:443"}}, "patterns are not supported"},
		{"forward to nobody", porter.Options{Log: log, Forward: []porter.Forward{{lis, "vsock:any:7443"}}}, "forward.to: "},
		{"negative", porter.Options{Log: log, Forward: []porter.Forward{{lis, "a.example:1"}}, Limits: porter.Limits{Idle: -1}}, "no negative"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := porter.New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New = %v, want %q", err, c.want)
			}
		})
	}
}

// memory is a listener of connections that are made in memory.
type memory struct {
	calls chan net.Conn
	over  chan struct{}
	once  sync.Once
}

func newMemory() *memory { return &memory{calls: make(chan net.Conn), over: make(chan struct{})} }

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.calls:
		return c, nil
	case <-m.over:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error   { m.once.Do(func() { close(m.over) }); return nil }
func (m *memory) Addr() net.Addr { return socket.Addr{CID: socket.Any, Port: 1} }

func (m *memory) call() net.Conn {
	near, far := net.Pipe()
	m.calls <- far
	return near
}

// held answers a dial with a connection whose other end it puts into a channel.
func held(far chan net.Conn) func(context.Context, string) (net.Conn, error) {
	return func(context.Context, string) (net.Conn, error) {
		near, other := net.Pipe()
		far <- other
		return near, nil
	}
}

// lasts returns how long it takes until a connection is closed.
func lasts(c net.Conn) time.Duration {
	began := time.Now()
	_, _ = io.Copy(io.Discard, c)
	return time.Since(began)
}

// TestIdle: a connection over which nothing goes is closed, both ends; one over which something goes is not.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lis, far := newMemory(), make(chan net.Conn, 2)
		start(t, porter.Options{Forward: []porter.Forward{{Listener: lis, To: "a.example:1"}}, Limits: porter.Limits{Idle: time.Minute}}, held(far))
		near := lis.call()
		other := <-far
		for range 5 { // of something that goes one way only
			time.Sleep(50 * time.Second)
			if _, err := other.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			if _, err := near.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if got := lasts(near); got != time.Minute {
			t.Errorf("a silent connection was closed after %v, want 1m", got)
		}
		if got := lasts(other); got != 0 {
			t.Errorf("its other end was closed %v later", got)
		}
		stuck := lis.call() // whose other end never reads
		<-far
		began := time.Now()
		if _, err := stuck.Write(make([]byte, 1<<20)); err == nil || time.Since(began) != time.Minute {
			t.Errorf("a write that nobody takes ended after %v, %v, want an error after 1m", time.Since(began), err)
		}
	})
}

// TestSlowQuestion: who is slow to ask is answered so, and hung up on.
func TestSlowQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lis := newMemory()
		start(t, porter.Options{Connect: lis, Allow: []string{"a.example:1"}}, held(nil))
		near := lis.call()
		began := time.Now()
		if _, err := io.WriteString(near, "CONNECT a.exa"); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(near)
		if !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") || err != nil || time.Since(began) != porter.PatienceHead {
			t.Errorf("after %v it said %q, %v, want 408 after %v", time.Since(began), answer, err, porter.PatienceHead)
		}
	})
}

// TestGrace: after the end a connection goes on while something goes over it, for the grace at most, and Run waits for it.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lis, far := newMemory(), make(chan net.Conn, 2)
		end := start(t, porter.Options{Forward: []porter.Forward{{Listener: lis, To: "a.example:1"}}, Grace: 8 * time.Second}, held(far))
		silent := lis.call()
		<-far
		busy := lis.call()
		other := <-far
		var all sync.WaitGroup
		all.Go(func() {
			for {
				if _, err := busy.Write([]byte{1}); err != nil {
					return
				}
				time.Sleep(porter.Quiet / 2)
			}
		})
		var quiet, moving time.Duration
		all.Go(func() { quiet = lasts(silent) })
		all.Go(func() { moving = lasts(other) })
		synctest.Wait()
		began := time.Now()
		if err := end(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if took := time.Since(began); took != 8*time.Second {
			t.Errorf("Run ended after %v, want 8s", took)
		}
		all.Wait()
		if quiet != porter.Quiet || moving != 8*time.Second {
			t.Errorf("a silent connection lasted %v, a busy one %v, want %v and 8s", quiet, moving, porter.Quiet)
		}
	})
}

// TestListenerFails: a listener that breaks ends Run with an error, and the others with it.
func TestListenerFails(t *testing.T) {
	good, bad := listen(t), listen(t)
	_ = bad.Close() // behind Run's back
	p, err := porter.New(porter.Options{Log: zap.NewNop(), Forward: []porter.Forward{{good, "a.example:1"}, {bad, "a.example:1"}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Run(t.Context()); !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), bad.Addr().String()) {
		t.Errorf("Run = %v, want that %s is closed", err, bad.Addr())
	}
	if _, err := good.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the other listener is still open: %v", err)
	}
}
