package transport_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"

	"consilium.dev/internal/transport"
)

// connectProxy is an HTTP proxy on loopback that lets in whoever has the password "open sesame" of the user "ward".
func connectProxy(t *testing.T, answer func(q *http.Request, conn net.Conn)) (address string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				q, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					answer(q, conn)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = lis.Close()
		serving.Wait()
	})
	return lis.Addr().String()
}

// guarded connects those who have the password.
func guarded(q *http.Request, conn net.Conn) {
	q.Header["Authorization"] = q.Header["Proxy-Authorization"]
	user, password, ok := q.BasicAuth()
	if q.Method != http.MethodConnect || !ok || user != "ward" || password != "open sesame" {
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n")
		return
	}
	far, err := net.Dial("tcp", q.Host)
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	defer far.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(far, conn)
		_ = far.Close()
	}()
	_, _ = io.Copy(conn, far)
}

// replies answers with a text, whatever was asked.
func replies(text string) func(*http.Request, net.Conn) {
	return func(_ *http.Request, conn net.Conn) { _, _ = io.WriteString(conn, text) }
}

// TestProxy dials through a proxy that demands a password. An error names the proxy, and no secret.
func TestProxy(t *testing.T) {
	echo := connectProxy(t, func(_ *http.Request, conn net.Conn) { _, _ = io.WriteString(conn, "here I am") })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := closed.Addr().String()
	_ = closed.Close()
	secret := url.UserPassword("ward", "open sesame")
	tests := []struct {
		name   string
		answer func(*http.Request, net.Conn)
		user   *url.Userinfo
		to     string
		says   string // "" if it connects
	}{
		{"right password", guarded, secret, echo, ""},
		{"wrong password", guarded, url.UserPassword("ward", "close sesame"), echo, "does not take this user and password (407)"},
		{"no password", guarded, nil, echo, "wants a user and a password (407)"},
		{"nobody there", guarded, secret, nobody, "does not connect to " + nobody + " (502)"},
		{"no HTTP", replies("SSH-2.0\r\n"), secret, echo, "does not answer as an HTTP proxy does"},
		{"nothing", replies(""), secret, echo, "does not answer as an HTTP proxy does"},
		{"endless header", replies("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20)), secret, echo, "does not answer as an HTTP proxy does"},
		{"bytes of its own", replies("HTTP/1.1 200 OK\r\n\r\nhello"), secret, echo, "bytes of its own"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			proxy := connectProxy(t, test.answer)
			conn, err := transport.Dialer{Proxy: &url.URL{Scheme: "http", Host: proxy, User: test.user}}.Dial(t.Context(), test.to)
			if test.says != "" {
				if err == nil || !strings.Contains(err.Error(), "proxy "+proxy+": ") || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "sesame") {
					t.Errorf("%v, want the proxy's name and %q, and no secret", err, test.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(conn); string(text) != "here I am" {
				t.Errorf("through the proxy came %q, %v", text, err)
			}
		})
	}
}

// TestProxyThatWaits gives up a proxy that answers nothing when nobody waits any more.
func TestProxyThatWaits(t *testing.T) {
	asked := make(chan bool, 1)
	proxy := connectProxy(t, func(_ *http.Request, conn net.Conn) {
		asked <- true
		_, _ = io.Copy(io.Discard, conn)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := (transport.Dialer{Proxy: &url.URL{Scheme: "http", Host: proxy}}).Dial(ctx, "127.0.0.1:1"); err == nil {
		t.Error("a proxy that answers nothing has connected")
	}
}

// TestCheckProxy takes a proxy's URL and shows none that it refuses.
func TestCheckProxy(t *testing.T) {
	for text, good := range map[string]bool{
		"http://proxy:3128": true, "http://ward:sesame@proxy": true, "http://proxy/": true, "http://[::1]:3128": true,
		"https://ward:sesame@proxy": false, "socks5://ward:sesame@proxy": false, "proxy:3128": false, "http://": false,
		"http://proxy/sesame": false, "http://proxy?sesame": false, "http://proxy#sesame": false,
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := transport.CheckProxy(u); (err == nil) != good || err != nil && strings.Contains(err.Error(), "sesame") {
			t.Errorf("CheckProxy(%q) = %v, want good: %v", text, err, good)
		}
	}
}
