package socket

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// family is a kind of sockets: how its addresses are written for the kernel and read back. Package net knows none but its own.
type family struct {
	domain int
	write  func(Addr) unix.Sockaddr
	read   func(unix.Sockaddr) Addr
}

// kernel is AF_VSOCK. The tests of this package have another, so that its code runs where the kernel has no way to itself.
var kernel = family{
	domain: unix.AF_VSOCK,
	write:  func(a Addr) unix.Sockaddr { return &unix.SockaddrVM{CID: a.CID, Port: a.Port} },
	read: func(s unix.Sockaddr) Addr {
		if vm, ok := s.(*unix.SockaddrVM); ok {
			return Addr{CID: vm.CID, Port: vm.Port}
		}
		return Addr{}
	},
}

// open makes a socket of the family that blocks nobody.
func (f family) open() (int, error) {
	fd, err := unix.Socket(f.domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	return fd, os.NewSyscallError("socket", err)
}

// own is the address that a socket is bound to, as far as the kernel says.
func (f family) own(fd int) Addr {
	s, err := unix.Getsockname(fd)
	if err != nil {
		return Addr{}
	}
	return f.read(s)
}

// handle is a socket that the runtime waits for. The file owns the descriptor.
type handle struct {
	file   *os.File
	raw    syscall.RawConn
	gone   atomic.Bool
	local  Addr
	remote net.Addr // nil: of a listener
}

// hold gives a socket to the runtime. An error closes it.
func hold(fd int, local Addr, remote net.Addr) (*handle, error) {
	h := &handle{file: os.NewFile(uintptr(fd), "vsock"), local: local, remote: remote}
	err := h.file.SetDeadline(time.Time{}) // which fails where the runtime cannot wait for it
	if err == nil {
		h.raw, err = h.file.SyscallConn()
	}
	if err != nil {
		_ = h.file.Close() // it was not used
		return nil, err
	}
	return h, nil
}

func (h *handle) fault(op string, err error) error {
	if err == nil || err == io.EOF { //nolint:errorlint // a file's own, never wrapped
		return err
	}
	var p *os.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	if h.gone.Load() {
		err = net.ErrClosed
	}
	if h.remote == nil {
		return fault(op, nil, h.local, err)
	}
	return fault(op, h.local, h.remote, err)
}

// Close closes it and ends whatever waits for it.
func (h *handle) Close() error {
	if h.gone.Swap(true) {
		return h.fault("close", net.ErrClosed)
	}
	return h.fault("close", h.file.Close())
}

// listener hears callers.
type listener struct {
	*handle
	f family
}

func listen(f family, a Addr) (net.Listener, error) {
	fd, err := f.open()
	if err != nil {
		return nil, fault("listen", nil, a, err)
	}
	if err = os.NewSyscallError("bind", unix.Bind(fd, f.write(a))); err == nil {
		err = os.NewSyscallError("listen", unix.Listen(fd, unix.SOMAXCONN))
	}
	if err != nil {
		_ = unix.Close(fd) // it was not used
		return nil, fault("listen", nil, a, err)
	}
	h, err := hold(fd, a, nil)
	if err != nil {
		return nil, fault("listen", nil, a, err)
	}
	return &listener{h, f}, nil
}

// Addr returns the address that it was told to listen at.
func (l *listener) Addr() net.Addr { return l.local }

// Accept waits for a caller.
func (l *listener) Accept() (net.Conn, error) {
	fd, from, err := -1, unix.Sockaddr(nil), error(nil)
	wait := l.raw.Read(func(own uintptr) bool {
		for {
			fd, from, err = unix.Accept4(int(own), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			switch {
			case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED): // this one has gone again
			case errors.Is(err, unix.EAGAIN):
				return false
			default:
				return true
			}
		}
	})
	if wait != nil {
		return nil, l.fault("accept", wait)
	}
	if err != nil {
		return nil, l.fault("accept", os.NewSyscallError("accept4", err))
	}
	h, err := hold(fd, l.f.own(fd), l.f.read(from))
	if err != nil {
		return nil, l.fault("accept", err)
	}
	return &conn{h}, nil
}

// conn is a connection. It is safe for concurrent use, as a net.Conn is.
type conn struct{ *handle }

var _ Conn = (*conn)(nil)

func dial(ctx context.Context, f family, to Addr) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fd, err := f.open()
	if err != nil {
		return nil, fault("dial", nil, to, err)
	}
	pending := false
	switch err := unix.Connect(fd, f.write(to)); {
	case errors.Is(err, unix.EINPROGRESS), errors.Is(err, unix.EINTR): // a call that was interrupted goes on (POSIX, connect)
		pending = true
	case err != nil:
		_ = unix.Close(fd) // it was not used
		return nil, fault("dial", nil, to, os.NewSyscallError("connect", err))
	}
	h, err := hold(fd, f.own(fd), to)
	if err != nil {
		return nil, fault("dial", nil, to, err)
	}
	if pending {
		if err := h.connected(ctx); err != nil {
			_ = h.Close() // it was not used
			return nil, fault("dial", nil, to, err)
		}
		h.local = f.own(fd)
	}
	return &conn{h}, nil
}

// connected waits until the socket is connected, or will never be, or ctx ends.
func (h *handle) connected(ctx context.Context) error {
	// A deadline that has passed ends the wait.
	stop := context.AfterFunc(ctx, func() { _ = h.file.SetDeadline(time.Unix(1, 0)) })
	var err error
	wait := h.raw.Write(func(fd uintptr) bool {
		var code int
		if code, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
			err = unix.Errno(code)
		}
		if err != nil {
			return true
		}
		_, err = unix.Getpeername(int(fd))
		return !errors.Is(err, unix.ENOTCONN) // else it was woken early
	})
	if !stop() { // the deadline has been set, or is about to be
		return ctx.Err()
	}
	if wait != nil {
		return wait
	}
	return os.NewSyscallError("connect", err)
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.file.Read(p)
	return n, c.fault("read", err)
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.file.Write(p)
	return n, c.fault("write", err)
}

// CloseWrite tells the other end that nothing more comes.
func (c *conn) CloseWrite() error {
	var err error
	if wait := c.raw.Control(func(fd uintptr) { err = unix.Shutdown(int(fd), unix.SHUT_WR) }); wait != nil {
		err = wait
	}
	return c.fault("close", os.NewSyscallError("shutdown", err))
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error     { return c.fault("set", c.file.SetDeadline(t)) }
func (c *conn) SetReadDeadline(t time.Time) error { return c.fault("set", c.file.SetReadDeadline(t)) }

func (c *conn) SetWriteDeadline(t time.Time) error { return c.fault("set", c.file.SetWriteDeadline(t)) }
