// Package socket makes streams by one spelling of addresses: TCP at host:port, and the sockets of a virtual machine (AF_VSOCK,
// vsock(7)) at vsock:CID:PORT, the only way between a Nitro enclave and its parent.
//
//	lis, err := socket.Listen("vsock:any:7443")        // in the enclave
//	conn, err := socket.Dial(ctx, "vsock:16:7443")     // on its parent
//
// A CID is whose machine is meant: 1 is this one, 2 the host, and 3 the parent, as a Nitro enclave counts; an enclave's own is 4 or
// more. A listener that says "any" hears whoever calls this machine. Nobody proves anything by a CID or by an IP address, so nothing
// here is trusted.
//
// AF_VSOCK is spoken on Linux. Elsewhere its addresses are read, and using them is an error that is [errors.ErrUnsupported].
package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Any is the CID of a listener that hears whoever calls this machine (VMADDR_CID_ANY).
const Any = 1<<32 - 1

// scheme is what an address of AF_VSOCK begins with.
const scheme = "vsock:"

const wantVsock = "want vsock:CID:PORT, each a decimal number from 1 to 4294967294"

// Addr is an address of AF_VSOCK.
type Addr struct{ CID, Port uint32 }

// Network returns "vsock".
func (a Addr) Network() string { return "vsock" }

// String returns vsock:CID:PORT, as Check reads it.
func (a Addr) String() string {
	cid := "any"
	if a.CID != Any {
		cid = strconv.FormatUint(uint64(a.CID), 10)
	}
	return fmt.Sprintf("%s%s:%d", scheme, cid, a.Port)
}

// Conn is a stream of either kind, one way of which can end before the other.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// IsVsock reports whether an address is one of AF_VSOCK, or is meant to be.
func IsVsock(address string) bool { return strings.HasPrefix(address, scheme) }

// Check says what is wrong with an address that somebody wants to dial: host:port with a port's number and a host, or vsock:CID:PORT.
func Check(address string) error {
	if IsVsock(address) {
		_, err := somebody(address)
		return err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || !number(port, 1<<16-1) {
		return fmt.Errorf("%.300q: want host:port or vsock:CID:PORT", address)
	}
	return nil
}

// parse reads vsock:CID:PORT. Every address has one spelling.
func parse(address string) (Addr, error) {
	rest, ok := strings.CutPrefix(address, scheme)
	cid, port, two := strings.Cut(rest, ":")
	if !ok || !two || cid != "any" && !number(cid, Any-1) || !number(port, Any-1) {
		return Addr{}, fmt.Errorf("%.60q: %s; the CID of a listener may be any", address, wantVsock)
	}
	a := Addr{CID: Any}
	if cid != "any" {
		n, _ := strconv.ParseUint(cid, 10, 32) // number has read it
		a.CID = uint32(n)
	}
	n, _ := strconv.ParseUint(port, 10, 32) // likewise
	a.Port = uint32(n)
	return a, nil
}

// somebody is parse for an address that is dialled.
func somebody(address string) (Addr, error) {
	a, err := parse(address)
	if err == nil && a.CID == Any {
		err = fmt.Errorf("%.60q: nobody can be dialled at any: name the CID", address)
	}
	return a, err
}

// number reports whether text is a number from 1 to most, in its one spelling.
func number(text string, most uint64) bool {
	n, err := strconv.ParseUint(text, 10, 32)
	return err == nil && n >= 1 && n <= most && strconv.FormatUint(n, 10) == text
}

// Listen listens at host:port, where port may be 0, or at vsock:CID:PORT.
func Listen(address string) (net.Listener, error) {
	if !IsVsock(address) {
		return net.Listen("tcp", address)
	}
	a, err := parse(address)
	if err != nil {
		return nil, err
	}
	return listen(kernel, a)
}

// Dial connects to an address. What comes back is a [Conn]. Names are looked up for each connection.
func Dial(ctx context.Context, address string) (net.Conn, error) {
	if !IsVsock(address) {
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	a, err := somebody(address)
	if err != nil {
		return nil, err
	}
	return dial(ctx, kernel, a)
}

// Source returns whom a connection's other end is counted against: an IPv4 address, or the /64 of an IPv6 address, all of which one
// host can have. It is the zero prefix, which is nobody, for whoever did not come over TCP.
func Source(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // an address of no length is none
	}
	return p
}

// fault words what went wrong with a socket of AF_VSOCK as package net does.
func fault(op string, from, to net.Addr, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return &net.OpError{Op: op, Net: "vsock", Source: from, Addr: to, Err: err}
}
