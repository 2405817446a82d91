package tunnel

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
)

// Error says why there is no way through a proxy. Its text names the proxy, where the setting stands and what to do, and neither
// user nor password, nor anything that the proxy has said.
type Error struct {
	Proxy   string // host:port, or vsock:CID:PORT
	Setting string // as in Options
	Status  int    // of its answer; 0: none
	Err     error

	text string
}

func (e *Error) Error() string { return fmt.Sprintf("proxy %s (%s) %s", e.Proxy, e.Setting, e.text) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Denied reports whether the proxy does not accept who we are. That changes only by people, and some proxies lock users out that try again
// and again.
func (e *Error) Denied() bool { return e.Status == http.StatusProxyAuthRequired }

func (t *Tunnel) fault(status int, cause error, format string, args ...any) *Error {
	return &Error{Proxy: t.proxy, Setting: t.o.Setting, Status: status, Err: cause, text: fmt.Sprintf(format, args...)}
}

// closed is the error for a connection that ends instead of an answer.
func (t *Tunnel) closed(err error) *Error {
	return t.fault(0, err, "has closed the connection without an answer: is it an HTTP proxy, and does it let this machine use it?")
}

// refusal words an answer that is neither an interim one nor a success.
func (t *Tunnel) refusal(answer *http.Response, address string, named bool) *Error {
	cause := fmt.Errorf("status %d", answer.StatusCode)
	say := func(format string, args ...any) *Error {
		return t.fault(answer.StatusCode, cause, "%s ("+fmt.Sprint(answer.StatusCode)+")", fmt.Sprintf(format, args...))
	}
	switch answer.StatusCode {
	case http.StatusProxyAuthRequired:
		switch {
		case !basic(answer.Header.Values("Proxy-Authenticate")):
			return say("wants proof of who we are in another way than Basic, the only one that is supported: ask whoever runs it")
		case !named:
			return say("asks for a user and a password: set them")
		}
		return say("does not accept our user and password: correct them")
	case http.StatusForbidden, http.StatusUnauthorized, http.StatusUnavailableForLegalReasons:
		return say("does not let us go to %s: ask whoever runs it to allow CONNECT to that host and port", address)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusNotFound:
		return say("does not reach %s: is what we want there running, and is that its address as the proxy sees it?", address)
	case http.StatusTooManyRequests:
		return say("has had too many requests of us: ask whoever runs it")
	}
	return say("does not open a way to %s: is it an HTTP proxy that knows CONNECT?", address)
}

// basic reports whether a proxy names Basic among the ways in which it may be told who we are, or none at all.
func basic(challenges []string) bool {
	for _, c := range challenges {
		for one := range strings.SplitSeq(c, ",") {
			scheme, _, _ := strings.Cut(strings.TrimSpace(one), " ")
			if strings.EqualFold(scheme, "basic") {
				return true
			}
		}
	}
	return len(challenges) == 0
}

// conn is a way through. Until something has come over it, what breaks it is worded as the proxy's doing.
type conn struct {
	net.Conn
	t       *Tunnel
	address string
	spoken  atomic.Bool // something has come
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.spoken.Store(true)
	}
	if err == nil || c.spoken.Load() {
		return n, err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return n, c.t.fault(0, err, "has let us through to %s and closed the connection before anything came back: "+
			"is what we want there running, and does the proxy leave TLS alone?", c.address)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return n, c.t.fault(0, err, "has let us through to %s, and nothing came back in time: "+
			"is what we want there running, and does the proxy leave TLS alone?", c.address)
	}
	return n, err
}
