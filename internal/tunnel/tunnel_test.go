package tunnel_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/tunnel"
	"consilium.dev/internal/tunnel/tunneltest"
)

// What no error may tell.
const (
	user     = "longbeach-user"
	password = "open sesame 42"
)

const target = "council.invalid:7443"

func given(p string) func() (string, error) { return func() (string, error) { return p, nil } }

func open(t *testing.T, o tunnel.Options) *tunnel.Tunnel {
	t.Helper()
	if o.Setting == "" {
		o.Setting = "coordinator.proxy"
	}
	out, err := tunnel.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// secretless fails where an error tells the user, the password or what is sent of both.
func secretless(t *testing.T, err error) {
	t.Helper()
	for _, secret := range []string{user, password, base64.StdEncoding.EncodeToString([]byte(user + ":" + password))} {
		if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), secret) {
			t.Errorf("the error %q tells %q", err, secret)
		}
	}
}

// TestNew: what cannot be a proxy is refused at once, and nothing of it is quoted.
func TestNew(t *testing.T) {
	long := strings.Repeat("x", 2000)
	for _, c := range []struct {
		name string
		o    tunnel.Options
		want string
	}{
		{"no scheme", tunnel.Options{URL: "proxy:3128"}, "no HTTP proxy"},
		{"no URL", tunnel.Options{}, "no HTTP proxy"},
		{"SOCKS", tunnel.Options{URL: "socks5://proxy:1080"}, "no HTTP proxy"},
		{"vsock without a port", tunnel.Options{URL: "vsock:3"}, "want vsock:CID:PORT"},
		{"vsock of anybody", tunnel.Options{URL: "vsock:any:8000"}, "name the CID"},
		{"vsock as a URL", tunnel.Options{URL: "vsock://3:8000"}, "want vsock:CID:PORT"},
		{"no host", tunnel.Options{URL: "http://:3128"}, "want http://HOST:PORT"},
		{"path", tunnel.Options{URL: "http://proxy:3128/pac"}, "want http://HOST:PORT"},
		{"query", tunnel.Options{URL: "http://proxy:3128?a"}, "want http://HOST:PORT"},
		{"user in it", tunnel.Options{URL: "http://" + user + "@proxy:3128"}, "does not belong there"},
		{"password in it", tunnel.Options{URL: "http://" + user + ":x@proxy:3128"}, "does not belong there"},
		{"unreadable", tunnel.Options{URL: "http://" + user + "@proxy:port"}, "cannot be read"},
		{"user alone", tunnel.Options{URL: "http://proxy:3128", User: user}, "belong together"},
		{"password alone", tunnel.Options{URL: "http://proxy:3128", Password: given(password)}, "belong together"},
		{"colon", tunnel.Options{URL: "http://proxy:3128", User: user + ":", Password: given(password)}, "without a colon"},
		{"long user", tunnel.Options{URL: "http://proxy:3128", User: long[:tunnel.MaxUser+1], Password: given(password)}, "at most 256 bytes"},
		{"two lines", tunnel.Options{URL: "http://proxy:3128", User: user, Password: given(password + "\n" + password)}, "password: want one line"},
		{"long password", tunnel.Options{URL: "http://proxy:3128", User: user, Password: given(long[:tunnel.MaxPassword+1])}, "at most 1024 bytes"},
		{"unreadable password", tunnel.Options{URL: "http://proxy:3128", User: user, Password: func() (string, error) { return "", io.ErrUnexpectedEOF }}, "password: unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.Setting = "the setting"
			_, err := tunnel.New(c.o)
			if err == nil || !strings.HasPrefix(err.Error(), "the setting: ") || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("New = %v, want an error of the setting with %q", err, c.want)
			}
			secretless(t, err)
		})
	}
	for url, want := range map[string]string{
		"http://proxy": "proxy:80", "https://proxy/": "proxy:443", "http://proxy:3128": "proxy:3128", "http://[::1]:3128": "[::1]:3128",
		"vsock:3:8000": "vsock:3:8000",
	} {
		if got := open(t, tunnel.Options{URL: url}).Proxy(); got != want {
			t.Errorf("the proxy of %s is %s, want %s", url, got, want)
		}
	}
}

// echo listens on loopback and sends back what it hears.
func echo(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := lis.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { _ = lis.Close(); all.Wait() })
	return lis.Addr().String()
}

func reach(real string) func(string) (string, bool) {
	return func(address string) (string, bool) { return real, address == target }
}

// talk says something through the tunnel and hears it back.
func talk(t *testing.T, through *tunnel.Tunnel) {
	t.Helper()
	c, err := through.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const text = "anybody there?"
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Errorf("heard %q, %v, want what was said", got, err)
	}
}

// TestThrough: a name that only the proxy can resolve is reached, with the password as it is at that moment.
func TestThrough(t *testing.T) {
	proxy := tunneltest.Start(t, tunneltest.Options{User: user, Password: password, Reach: reach(echo(t))})
	now := password
	through := open(t, tunnel.Options{URL: "http://" + proxy.Address(), User: user, Password: func() (string, error) { return now, nil }})
	talk(t, through)
	now = "another"
	_, err := through.Dial(t.Context(), target)
	var fault *tunnel.Error
	if !errors.As(err, &fault) || !fault.Denied() || !strings.Contains(err.Error(), "correct them (407)") {
		t.Errorf("with a wrong password: %v, want one that is denied", err)
	}
	now = password
	talk(t, through)
	if proxy.Opened() != 2 || proxy.Denied() != 1 {
		t.Errorf("the proxy has let %d through and denied %d, want 2 and 1", proxy.Opened(), proxy.Denied())
	}
	_, err = through.Dial(t.Context(), "elsewhere.invalid:7443")
	if err == nil || !strings.Contains(err.Error(), "does not let us go to elsewhere.invalid:7443") {
		t.Errorf("to another address: %v, want that the proxy does not let us", err)
	}
	secretless(t, err)
	stranger := open(t, tunnel.Options{URL: "http://" + proxy.Address()})
	if _, err := stranger.Dial(t.Context(), target); err == nil || !strings.Contains(err.Error(), "asks for a user and a password") {
		t.Errorf("without a user: %v, want that the proxy asks for one", err)
	}
}

// TestThroughTLS: the same where the proxy itself is spoken to over TLS, which is judged.
func TestThroughTLS(t *testing.T) {
	back := echo(t)
	proxy := tunneltest.Start(t, tunneltest.Options{User: user, Password: password, Reach: reach(back)})
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(proxy)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	_ = server.Listener.Close()
	server.Listener = plain
	server.StartTLS()
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	url := "https://" + plain.Addr().String()
	o := tunnel.Options{URL: url, User: user, Password: given(password), Roots: roots}
	talk(t, open(t, o))
	o.Roots = x509.NewCertPool()
	if _, err := open(t, o).Dial(t.Context(), target); err == nil || !strings.Contains(err.Error(), "who has signed its certificate") {
		t.Errorf("with a certificate of nobody: %v, want that it is not known", err)
	}
	o.URL = "https://" + proxy.Address()
	if _, err := open(t, o).Dial(t.Context(), target); err == nil || !strings.Contains(err.Error(), "is it an http:// proxy?") {
		t.Errorf("https to an http proxy: %v, want the question", err)
	}
}

// TestFaults: whatever a proxy does instead is an error that names the proxy, the setting and what to do.
func TestFaults(t *testing.T) {
	refused := func(status int, header string) string {
		return fmt.Sprintf("HTTP/1.1 %d %s\r\n%sContent-Length: 6\r\n\r\n%s", status, "for "+password, header, user)
	}
	for _, c := range []struct {
		name, answer string
		denied       bool
		want         string
	}{
		{"wrong password", refused(407, "Proxy-Authenticate: Basic realm=x\r\n"), true, "does not accept our user and password: correct them (407)"},
		{"wrong password, one of several schemes", refused(407, "Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: basic realm=x\r\n"), true, "does not accept our user"},
		{"another scheme", refused(407, "Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n"), true, "in another way than Basic"},
		{"forbidden", refused(403, ""), false, "does not let us go to council.invalid:7443: ask whoever runs it to allow CONNECT to that host and port (403)"},
		{"nobody behind it", refused(502, ""), false, "does not reach council.invalid:7443: is what we want there running"},
		{"slow behind it", refused(504, ""), false, "does not reach council.invalid:7443"},
		{"often", refused(429, ""), false, "too many requests"},
		{"no CONNECT", refused(405, ""), false, "is it an HTTP proxy that knows CONNECT? (405)"},
		{"elsewhere", refused(302, "Location: http://login.invalid/\r\n"), false, "is it an HTTP proxy that knows CONNECT? (302)"},
		{"garbage", "SSH-2.0-OpenSSH_9.9\r\n\r\n", false, "is no HTTP proxy"},
		{"garbage without an end", strings.Repeat("x", 2*tunnel.MaxAnswer), false, "has answered with more than 16384 bytes"},
		{"header without an end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 20), false, "has answered with more than 16384 bytes"},
		{"nothing", "", false, "has closed the connection without an answer"},
		{"half a line", "HTTP/1.1 20", false, "is no HTTP proxy"},
		{"half a header", "HTTP/1.1 200 OK\r\nA:", false, "has closed the connection without an answer"},
		{"more than asked for", "HTTP/1.1 200 OK\r\n\r\nhello", false, "has sent more than its answer"},
		{"patience asked for without an end", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", tunnel.MaxInterim+1), false, "and not whether"},
	} {
		t.Run(c.name, func(t *testing.T) {
			through := open(t, tunnel.Options{URL: "http://proxy.invalid:3128", User: user, Password: given(password)})
			far := answering(t, through, c.answer)
			_, err := through.Dial(t.Context(), target)
			var fault *tunnel.Error
			if !errors.As(err, &fault) || fault.Denied() != c.denied || errors.Unwrap(fault) == nil {
				t.Fatalf("Dial = %v, want a tunnel's error with a cause, denied %t", err, c.denied)
			}
			if !strings.HasPrefix(err.Error(), "proxy proxy.invalid:3128 (coordinator.proxy) ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("said %q, want the proxy, its setting and %q", err, c.want)
			}
			secretless(t, err)
			if got := <-far; !strings.HasPrefix(got, "CONNECT "+target+" HTTP/1.1\r\n") {
				t.Errorf("the proxy was asked %q", got)
			}
		})
	}
}

// answering makes a tunnel's proxy one that reads a request, answers and closes. The channel gets the request.
func answering(t *testing.T, through *tunnel.Tunnel, answer string) <-chan string {
	t.Helper()
	asked := make(chan string, 1)
	var all sync.WaitGroup
	t.Cleanup(all.Wait)
	through.DialBy(func(context.Context, string) (net.Conn, error) {
		near, far := net.Pipe()
		all.Go(func() {
			defer far.Close()
			r, err := http.ReadRequest(bufio.NewReader(far))
			if err != nil {
				asked <- err.Error()
				return
			}
			asked <- r.Method + " " + r.RequestURI + " " + r.Proto + "\r\n"
			_, _ = io.WriteString(far, answer)
		})
		return near, nil
	})
	return asked
}

// TestInterim: answers that say that the proxy goes on are none.
func TestInterim(t *testing.T) {
	through := open(t, tunnel.Options{URL: "http://proxy.invalid:3128"})
	answering(t, through, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Connection established\r\nContent-Length: 12\r\n\r\n")
	c, err := through.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

// TestUnreached: a proxy that is not there.
func TestUnreached(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = lis.Close()
	_, err = open(t, tunnel.Options{URL: "http://" + lis.Addr().String(), Setting: "HTTPS_PROXY in the environment"}).Dial(t.Context(), target)
	if err == nil || !strings.Contains(err.Error(), "proxy "+lis.Addr().String()+" (HTTPS_PROXY in the environment) not reached: ") {
		t.Errorf("Dial = %v, want that the proxy is not reached", err)
	}
}

// TestSilent: a proxy that never answers, or never ends its answer, is waited for so long and no longer; a caller that goes away is not told that
// it was the proxy.
func TestSilent(t *testing.T) {
	for name, says := range map[string]string{"nothing": "", "half an answer": "HTTP/1.1 200 OK\r\nVia: "} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				through := open(t, tunnel.Options{URL: "http://proxy.invalid:3128"})
				through.DialBy(func(context.Context, string) (net.Conn, error) { return silent(t, says), nil })
				began := time.Now()
				_, err := through.Dial(t.Context(), target)
				var fault *tunnel.Error
				if took := time.Since(began); took != tunnel.Patience || !errors.As(err, &fault) {
					t.Errorf("Dial = %v after %s, want the proxy's fault after %s", err, took, tunnel.Patience)
				}
				if !strings.Contains(err.Error(), "has not answered for 20s") {
					t.Errorf("said %q, want how long it has not answered", err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				if _, err := through.Dial(ctx, target); !errors.Is(err, context.Canceled) || errors.As(err, &fault) {
					t.Errorf("Dial = %v for a caller that went away, want that", err)
				}
			})
		})
	}
	t.Run("unreachable", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			through := open(t, tunnel.Options{URL: "http://proxy.invalid:3128"})
			through.DialBy(func(ctx context.Context, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() })
			if _, err := through.Dial(t.Context(), target); err == nil || !strings.Contains(err.Error(), "has not answered for 20s") {
				t.Errorf("Dial = %v, want how long it has not answered", err)
			}
		})
	})
}

// silent is a proxy that reads what it is sent, says something and then nothing more.
func silent(t *testing.T, says string) net.Conn {
	near, far := net.Pipe()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(io.Discard, far) })
	both.Go(func() { _, _ = io.WriteString(far, says) })
	t.Cleanup(func() { _ = far.Close(); both.Wait() })
	return near
}

// TestClosesBehind: a proxy that lets us through and then closes is named; once the other end has spoken, its end is its own.
func TestClosesBehind(t *testing.T) {
	through := open(t, tunnel.Options{URL: "http://proxy.invalid:3128"})
	answering(t, through, "HTTP/1.1 200 OK\r\n\r\n")
	c, err := through.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake()
	var fault *tunnel.Error
	if !errors.As(err, &fault) && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the handshake ends with %v, want the tunnel's error", err)
	}
	_, err = c.Read(make([]byte, 1))
	if !errors.As(err, &fault) || !strings.Contains(err.Error(), "has let us through to council.invalid:7443 and closed") || !errors.Is(err, io.EOF) {
		t.Errorf("reading ends with %v, want that the proxy has closed", err)
	}
	proxy := tunneltest.Start(t, tunneltest.Options{Reach: reach(echo(t)), User: user, Password: password})
	c, err = open(t, tunnel.Options{URL: "http://" + proxy.Address(), User: user, Password: given(password)}).Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.As(err, &fault) || !strings.Contains(err.Error(), "nothing came back in time") {
		t.Errorf("reading ends with %v, want that nothing came", err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	proxy.Sever()
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.As(err, &fault) {
		t.Errorf("a connection that had been in use ends with %v, want an error that is not the tunnel's", err)
	}
}

// FuzzAnswer: no answer of a proxy makes a panic, a hang or an error that is not a tunnel's.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{
		"", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.0 407 x\r\nProxy-Authenticate: Basic realm=\"a, Basic b\"\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/2.0 200\r\n\r\n", "\x15\x03\x01\x00\x02\x02\x28",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		through := open(t, tunnel.Options{URL: "http://proxy.invalid:3128", User: user, Password: given(password)})
		answering(t, through, string(answer))
		c, err := through.Dial(t.Context(), target)
		if err == nil {
			_ = c.Close()
			return
		}
		var fault *tunnel.Error
		if !errors.As(err, &fault) {
			t.Fatalf("Dial = %v, want a tunnel's error", err)
		}
		secretless(t, err)
	})
}

// lateConn answers when its caller has just gone away and the deadline that ends it has been set.
type lateConn struct {
	net.Conn
	leave   context.CancelFunc
	expired chan struct{}
	answer  io.Reader
}

func (c *lateConn) Write(p []byte) (int, error) { return len(p), nil }
func (c *lateConn) Close() error                { return nil }

func (c *lateConn) SetDeadline(time.Time) error {
	close(c.expired)
	return nil
}

func (c *lateConn) Read(p []byte) (int, error) {
	c.leave()
	<-c.expired
	return c.answer.Read(p)
}

// TestLate: a connection whose deadline has passed meanwhile is never handed out as a good one.
func TestLate(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := &lateConn{leave: cancel, expired: make(chan struct{}), answer: strings.NewReader("HTTP/1.1 200 OK\r\n\r\n")}
	through := open(t, tunnel.Options{URL: "http://proxy.invalid:3128"})
	through.DialBy(func(context.Context, string) (net.Conn, error) { return c, nil })
	if got, err := through.Dial(ctx, target); got != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("Dial = %v, %v, want that its caller has gone away", got, err)
	}
}
