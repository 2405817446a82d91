package transport

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	proxyPatience = 30 * time.Second // for a proxy to be reached and to answer
	maxProxyReply = 64 << 10         // bytes of its answer's header
)

// Dialer opens connections to a coordinator, directly or through an HTTP proxy that is asked to CONNECT. The proxy carries bytes:
// the channel's TLS goes through it from end to end. Names are looked up again for each connection, by the proxy where there is
// one. The zero Dialer does what the environment says (HTTPS_PROXY, NO_PROXY), which never sends loopback addresses to a proxy.
type Dialer struct {
	// Proxy is http://[user:password@]host[:port]. The password is sent to that host and never stands in an error.
	Proxy *url.URL
}

// Dial connects to host:port. What a proxy refuses is an error that names the proxy and its answer's code.
func (d Dialer) Dial(ctx context.Context, address string) (net.Conn, error) {
	proxy := d.Proxy
	if proxy == nil {
		var err error
		if proxy, err = http.ProxyFromEnvironment(&http.Request{URL: &url.URL{Scheme: "https", Host: address}}); err != nil {
			return nil, errors.New("the environment's HTTPS_PROXY is no URL") // the error would show its password
		}
	}
	ctx, cancel := context.WithTimeout(ctx, proxyPatience)
	defer cancel()
	if proxy == nil {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	if err := CheckProxy(proxy); err != nil {
		return nil, err
	}
	port := proxy.Port()
	if port == "" {
		port = "80"
	}
	where := net.JoinHostPort(proxy.Hostname(), port)
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", where)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", where, err)
	}
	if err := ask(ctx, conn, address, proxy.User); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("proxy %s: %w", where, err)
	}
	return conn, nil
}

// CheckProxy returns an error unless u names a proxy that a Dialer can use. It does not show u, which may hold a password.
func CheckProxy(u *url.URL) error {
	if u.Scheme != "http" || u.Hostname() == "" || (u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("want a proxy as http://host:port")
	}
	return nil
}

// ask has the proxy connect to address.
func ask(ctx context.Context, conn net.Conn, address string, user *url.Userinfo) error {
	end, _ := ctx.Deadline()
	if err := conn.SetDeadline(end); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	q := &http.Request{Method: http.MethodConnect, URL: &url.URL{Host: address}, Host: address, Header: http.Header{"User-Agent": {"consilium"}}}
	if user != nil {
		password, _ := user.Password()
		q.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := q.Write(conn); err != nil {
		return err
	}
	r := bufio.NewReader(io.LimitReader(conn, maxProxyReply))
	a, err := http.ReadResponse(r, q)
	if err != nil {
		return errors.New("it does not answer as an HTTP proxy does")
	}
	_ = a.Body.Close()
	switch {
	case a.StatusCode == http.StatusProxyAuthRequired && user == nil:
		return errors.New("it wants a user and a password (407)")
	case a.StatusCode == http.StatusProxyAuthRequired:
		return errors.New("it does not take this user and password (407)")
	case a.StatusCode != http.StatusOK:
		return fmt.Errorf("it does not connect to %s (%d)", address, a.StatusCode)
	case r.Buffered() > 0: // a listener of the channel never speaks first
		return errors.New("it sends bytes of its own")
	}
	if !stop() {
		return ctx.Err()
	}
	return conn.SetDeadline(time.Time{})
}
