// Package tunnel reaches an address through an HTTP proxy, by its method CONNECT (RFC 9110, section 9.3.6), for networks that let
// nothing else out. What goes through is the caller's: the attested channel, of which a proxy sees the address, sizes and times.
//
//	t, err := tunnel.New(tunnel.Options{URL: "http://proxy.example.org:3128", Setting: "coordinator.proxy", User: "longbeach", Password: read})
//	conn, err := t.Dial(ctx, "council.example.org:7443")
//
// A proxy at vsock:CID:PORT, on the host of an enclave, is spoken to as one at http:// is. The proxy looks the address up, so names that only it can resolve will do. A user proves itself by Basic (RFC 7617), the one
// scheme that is known here. A proxy that ends TLS, or lets only HTTP requests through, is of no use.
package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"consilium.dev/internal/socket"
)

// Patience is how long a proxy may take, from the first packet to it until it has reached the address.
const Patience = 20 * time.Second

const (
	maxAnswer   = 16 << 10 // bytes of all its answers to one CONNECT
	maxInterim  = 4        // answers that only say that it goes on, as 100 does
	maxUser     = 256      // bytes
	maxPassword = 1024     // bytes
)

// Options says which proxy, and who we are to it.
type Options struct {
	URL      string                 // http://host[:port], https://host[:port] for TLS to the proxy itself, or vsock:CID:PORT; nothing else in it
	Setting  string                 // where that stands, for errors
	User     string                 // "": the proxy is told nothing of us
	Password func() (string, error) // of the user; asked for each connection, so that it may change
	Roots    *x509.CertPool         // for an https proxy; nil: the system's
}

// Tunnel leads through one proxy. It is safe for concurrent use.
type Tunnel struct {
	o     Options
	proxy string // host:port, or vsock:CID:PORT
	host  string
	tls   bool
	dial  func(ctx context.Context, address string) (net.Conn, error)
}

// New checks the options and reads the password once, so that one that cannot be read is found early. Its errors never quote the
// URL, in which somebody may have put a password.
func New(o Options) (*Tunnel, error) {
	t := &Tunnel{o: o, dial: socket.Dial}
	const want = "want http://HOST:PORT, https://HOST:PORT or vsock:CID:PORT"
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("%s: url: this cannot be read: %s", o.Setting, want)
	}
	vsock := socket.IsVsock(o.URL)
	switch {
	case vsock:
		if err := socket.Check(o.URL); err != nil {
			return nil, fmt.Errorf("%s: url: %w", o.Setting, err)
		}
	case u.User != nil:
		return nil, fmt.Errorf("%s: url: a user or a password does not belong there: %s", o.Setting, want)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%s: url: this is no HTTP proxy, others are not supported: %s", o.Setting, want)
	case u.Hostname() == "" || u.Opaque != "" || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("%s: url: %s", o.Setting, want)
	}
	switch {
	case len(o.User) > maxUser || strings.ContainsFunc(o.User, func(r rune) bool { return r == ':' || unicode.IsControl(r) }):
		return nil, fmt.Errorf("%s: user: want at most %d bytes without a colon or control characters", o.Setting, maxUser)
	case (o.User == "") != (o.Password == nil):
		return nil, fmt.Errorf("%s: a user and a password belong together", o.Setting)
	}
	if t.proxy = o.URL; !vsock {
		t.tls, t.host = u.Scheme == "https", u.Hostname()
		port := u.Port()
		switch {
		case port == "" && t.tls:
			port = "443"
		case port == "":
			port = "80"
		}
		t.proxy = net.JoinHostPort(t.host, port)
	}
	if _, err := t.credentials(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Setting, err)
	}
	return t, nil
}

// Proxy returns the proxy's host:port, or vsock:CID:PORT.
func (t *Tunnel) Proxy() string { return t.proxy }

// Setting returns where it stands that this proxy is used.
func (t *Tunnel) Setting() string { return t.o.Setting }

// credentials returns the value of Proxy-Authorization, "" for none.
func (t *Tunnel) credentials() (string, error) {
	if t.o.User == "" {
		return "", nil
	}
	password, err := t.o.Password()
	switch {
	case err != nil:
		return "", fmt.Errorf("password: %w", err)
	case len(password) > maxPassword || strings.ContainsFunc(password, unicode.IsControl):
		return "", fmt.Errorf("password: want one line of at most %d bytes without control characters", maxPassword)
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(t.o.User+":"+password)), nil
}

// Dial returns a connection to address, host:port, through the proxy. It takes at most [Patience]. Its error is an *[Error], or
// ctx's when the caller has gone away. Whatever breaks the connection before its other end has said anything is an *[Error] too:
// a proxy may say that it has reached the address before it has tried.
func (t *Tunnel) Dial(ctx context.Context, address string) (net.Conn, error) {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	began := time.Now()
	raw, err := t.connect(ctx, address)
	if err == nil {
		return &conn{Conn: raw, t: t, address: address}, nil
	}
	if errors.Is(outer.Err(), context.Canceled) {
		return nil, outer.Err()
	}
	if known := (*Error)(nil); errors.As(err, &known) {
		return nil, known
	}
	return nil, t.fault(0, context.DeadlineExceeded, "has not answered for %s, or not reached %s: is it running, and does it let us go there?",
		time.Since(began).Round(time.Second), address)
}

// connect does what Dial does. Its error is an *Error or ctx's.
func (t *Tunnel) connect(ctx context.Context, address string) (net.Conn, error) {
	auth, err := t.credentials()
	if err != nil {
		return nil, t.fault(0, err, "%v", err)
	}
	raw, err := t.dial(ctx, t.proxy)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, t.fault(0, err, "not reached: %v: is it running, and is that its address?", err)
	}
	// A deadline that has passed ends whatever reads or writes.
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	through, err := t.secure(ctx, raw)
	if err == nil {
		err = t.ask(through, address, auth)
	}
	if err == nil && !stop() {
		err = ctx.Err() // the deadline has been set, or is about to be
	}
	if err != nil {
		_ = raw.Close() // whatever became of it, it is over
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return through, nil
}

// secure speaks TLS to the proxy itself, where that is wanted.
func (t *Tunnel) secure(ctx context.Context, raw net.Conn) (net.Conn, error) {
	if !t.tls {
		return raw, nil
	}
	c := tls.Client(raw, &tls.Config{ServerName: t.host, RootCAs: t.o.Roots, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12})
	err := c.HandshakeContext(ctx)
	var head tls.RecordHeaderError
	switch {
	case err == nil:
		return c, nil
	case errors.As(err, &head):
		return nil, t.fault(0, err, "does not speak TLS: is it an http:// proxy?")
	}
	return nil, t.fault(0, err, "TLS to the proxy itself: %v: the system's roots must know who has signed its certificate", err)
}

// ask asks for the way to address and judges the answer. Nothing of its text gets into an error.
func (t *Tunnel) ask(c net.Conn, address, auth string) error {
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Host: address}, Host: address, Header: http.Header{"User-Agent": {"consilium"}}}
	if auth != "" {
		request.Header.Set("Proxy-Authorization", auth)
	}
	if err := request.Write(c); err != nil {
		return t.closed(err)
	}
	limited := &io.LimitedReader{R: c, N: maxAnswer}
	reader := bufio.NewReader(limited)
	for range maxInterim {
		// Of a body nothing is read. A connection that is refused is closed, one that is let through has none.
		answer, err := http.ReadResponse(reader, request) //nolint:bodyclose // see above
		var op *net.OpError
		switch {
		case err != nil && limited.N == 0:
			return t.fault(0, err, "has answered with more than %d bytes: is it an HTTP proxy?", maxAnswer)
		case errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op):
			return t.closed(err)
		case err != nil:
			return t.fault(0, errors.New("no answer of HTTP"), "what answers there is no HTTP proxy: is that its address, and http:// or https:// as it wants it?")
		case answer.StatusCode/100 == 1:
			continue
		case answer.StatusCode/100 != 2:
			return t.refusal(answer, address, auth != "")
		case reader.Buffered() > 0: // who is behind it never speaks first
			return t.fault(answer.StatusCode, errors.New("bytes behind the answer"), "has sent more than its answer: it does not leave alone what goes through")
		}
		return nil
	}
	return t.fault(0, errors.New("no end of interim answers"), "has answered %d times that it goes on, and not whether", maxInterim)
}
