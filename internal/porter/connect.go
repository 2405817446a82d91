package porter

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// maxHead is the most bytes of a question: its first line and its header fields.
const maxHead = 8 << 10

// question reads what a connection asks for, and returns it, or the status with which it is refused.
func (p *Porter) question(c net.Conn) (to string, status int) {
	if err := c.SetReadDeadline(time.Now().Add(patienceHead)); err != nil {
		return "", http.StatusBadRequest
	}
	to, status = parse(c)
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return "", http.StatusBadRequest
	}
	if status == 0 && !p.allow[to] {
		status = http.StatusForbidden
	}
	if status != 0 {
		p.say.Do(func() {
			p.o.Log.Warn("not carried", zap.Stringer("peer", c.RemoteAddr()), zap.String("to", to), zap.Int("status", status))
		})
	}
	return to, status
}

// parse reads a CONNECT and returns its destination, in its one spelling. Status 0 is none.
func parse(r io.Reader) (to string, status int) {
	noted := &noted{r: r}
	limited := &io.LimitedReader{R: noted, N: maxHead}
	reader := bufio.NewReader(limited)
	q, err := http.ReadRequest(reader)
	switch {
	case err != nil && limited.N == 0:
		return "", http.StatusRequestHeaderFieldsTooLarge
	case errors.Is(noted.err, os.ErrDeadlineExceeded):
		return "", http.StatusRequestTimeout
	case err != nil:
		return "", http.StatusBadRequest
	case q.Method != http.MethodConnect:
		return "", http.StatusMethodNotAllowed
	case q.ContentLength != 0 || reader.Buffered() > 0: // a body, or bytes before the answer
		return "", http.StatusBadRequest
	}
	// The target is the authority, whatever the field Host says (RFC 9112, sections 3.2 and 3.2.3).
	if to, err = destination(q.RequestURI); err != nil {
		return "", http.StatusBadRequest
	}
	return to, 0
}

// noted remembers why reading ended: a line that is cut off is read as a whole one, and the reason is lost.
type noted struct {
	r   io.Reader
	err error
}

func (n *noted) Read(p []byte) (m int, err error) {
	m, n.err = n.r.Read(p)
	return m, n.err
}

// destination reads host:port, a name of the DNS or an IP address with a port's number, and returns its one spelling. There are no
// patterns: what may be reached is said one by one.
func destination(text string) (string, error) {
	const want = "want host:port, one name or address and a number from 1 to 65535"
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", fmt.Errorf("%.300q: %s", text, want)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return "", fmt.Errorf("%.300q: %s", text, want)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return "", fmt.Errorf("%.300q: want an address without a zone, and IPv4 as such", text)
		}
		return net.JoinHostPort(a.String(), port), nil
	}
	host = strings.ToLower(host)
	if !name(host) {
		return "", fmt.Errorf("%.300q: %s; patterns are not supported", text, want)
	}
	return net.JoinHostPort(host, port), nil
}

// name reports whether text is a name of the DNS, in small letters. One that ends with a number is none: some resolvers take it for an
// IPv4 address in another spelling (RFC 6943, section 3.1.1).
func name(text string) bool {
	if text == "" || len(text) > 253 {
		return false
	}
	last := ""
	for label := range strings.SplitSeq(text, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
		last = label
	}
	return last[0] < '0' || last[0] > '9'
}

// errNear is what a guard says.
var errNear = errors.New("the name leads to this machine or to its cloud's metadata service: list the address itself, if that is meant")

// metadata6 is where AWS answers its instances over IPv6, and none but them: fd00:ec2::254 is the metadata service, fd00:ec2::23 gives
// credentials to what runs in EKS.
var metadata6 = netip.MustParsePrefix("fd00:ec2::/32")

// guard returns what looks at each address before it is dialled. A name must not lead where only this machine gets: to itself, or to
// a link-local address, which is where clouds give a machine its credentials. Whoever writes the name's DNS records is not whoever has
// listed it. An address that is listed as such is meant.
func guard(host string) func(network, address string, _ syscall.RawConn) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	return func(_, address string, _ syscall.RawConn) error {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		a := to.Addr().Unmap().WithZone("")
		if a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.IsMulticast() || metadata6.Contains(a) {
			return errNear
		}
		return nil
	}
}

// unreached is the status for a destination that was not reached.
func unreached(err error) int {
	switch {
	case errors.Is(err, errNear):
		return http.StatusForbidden
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// answer answers a CONNECT and reports whether that was written. One that is refused has no body.
func answer(c net.Conn, status int) bool {
	var text bytes.Buffer
	fmt.Fprintf(&text, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	if status == http.StatusMethodNotAllowed {
		text.WriteString("Allow: CONNECT\r\n")
	}
	if status != http.StatusOK {
		text.WriteString("Content-Length: 0\r\nConnection: close\r\n")
	}
	text.WriteString("\r\n")
	_, err := c.Write(text.Bytes())
	return err == nil
}
