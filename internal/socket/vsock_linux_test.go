package socket_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"consilium.dev/internal/socket"
)

// network is one on which these tests run: the kernel's own, or files of a folder in its place.
type network struct {
	listen func(t *testing.T, port uint32) net.Listener
	dial   func(ctx context.Context, port uint32) (net.Conn, error)
}

// folder returns a network of files.
func folder(t *testing.T) network {
	dir := t.TempDir()
	return network{
		listen: func(t *testing.T, port uint32) net.Listener {
			t.Helper()
			lis, err := socket.ListenIn(dir, socket.Addr{CID: 1, Port: port})
			if err != nil {
				t.Fatal(err)
			}
			return lis
		},
		dial: func(ctx context.Context, port uint32) (net.Conn, error) {
			return socket.DialIn(ctx, dir, socket.Addr{CID: 1, Port: port})
		},
	}
}

// TestFolder runs the code of AF_VSOCK over sockets of another family, which every kernel has.
func TestFolder(t *testing.T) { speak(t, folder) }

// speak is what must hold on a network.
func speak(t *testing.T, open func(*testing.T) network) {
	t.Run("conn", func(t *testing.T) {
		n := open(t)
		port := uint32(20000)
		nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
			port++
			lis := n.listen(t, port)
			defer lis.Close()
			near, far := pair(t, n, lis, port)
			return near, far, func() { _, _ = near.Close(), far.Close() }, nil
		})
	})
	t.Run("ends", func(t *testing.T) { ends(t, open(t)) })
	t.Run("closed", func(t *testing.T) { closed(t, open(t)) })
	t.Run("context", func(t *testing.T) {
		n := open(t)
		over, end := context.WithCancel(t.Context())
		end()
		if _, err := n.dial(over, 23000); !errors.Is(err, context.Canceled) {
			t.Errorf("dialling after the context's end: %v", err)
		}
	})
}

// pair connects the two ends of a listener.
func pair(t *testing.T, n network, lis net.Listener, port uint32) (near, far net.Conn) {
	t.Helper()
	var all sync.WaitGroup
	var refused error
	all.Go(func() { far, refused = lis.Accept() })
	near, err := n.dial(t.Context(), port)
	if err != nil {
		_ = lis.Close() // or the other end would wait for ever
	}
	all.Wait()
	if err := errors.Join(err, refused); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// ends ends one way of a connection before the other.
func ends(t *testing.T, n network) {
	lis := n.listen(t, 21000)
	defer lis.Close()
	near, far := pair(t, n, lis, 21000)
	defer near.Close()
	defer far.Close()
	if got := near.RemoteAddr().String(); got != "vsock:1:21000" {
		t.Errorf("the other end is %s, want vsock:1:21000", got)
	}
	if got := lis.Addr().Network(); got != "vsock" {
		t.Errorf("the listener's network is %q", got)
	}
	if _, err := io.WriteString(near, "that is all"); err != nil {
		t.Fatal(err)
	}
	if err := near.(socket.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(far); err != nil || string(got) != "that is all" {
		t.Errorf("heard %q, %v, want all of it and the end", got, err)
	}
	if _, err := io.WriteString(far, "heard"); err != nil {
		t.Fatal(err)
	}
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(near); err != nil || string(got) != "heard" {
		t.Errorf("heard %q, %v, want the answer and the end", got, err)
	}
}

// closed ends waits by closing, and says so as package net does.
func closed(t *testing.T, n network) {
	lis := n.listen(t, 22000)
	var all sync.WaitGroup
	var err error
	all.Go(func() { _, err = lis.Accept() })
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	var op *net.OpError
	if !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) || op.Op != "accept" {
		t.Errorf("Accept of a listener that was closed: %v, want an accept error that is net.ErrClosed", err)
	}
	if err := lis.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closing again: %v, want net.ErrClosed", err)
	}

	lis = n.listen(t, 22001)
	defer lis.Close()
	near, far := pair(t, n, lis, 22001)
	defer far.Close()
	if err := near.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	var late net.Error
	if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &late) || !late.Timeout() {
		t.Errorf("Read after the deadline: %v, want a timeout", err)
	}
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Read":        func() error { _, err := near.Read(make([]byte, 1)); return err },
		"Write":       func() error { _, err := near.Write([]byte{1}); return err },
		"CloseWrite":  near.(socket.Conn).CloseWrite,
		"SetDeadline": func() error { return near.SetDeadline(time.Time{}) },
		"Close":       near.Close,
	} {
		if err := call(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s of a connection that was closed: %v, want net.ErrClosed", name, err)
		}
	}
}

// TestNobody: where nobody listens, the error says where.
func TestNobody(t *testing.T) {
	_, err := folder(t).dial(t.Context(), 24000)
	var op *net.OpError
	if !errors.Is(err, syscall.ENOENT) || !errors.As(err, &op) || op.Addr.String() != "vsock:1:24000" {
		t.Errorf("dialling nobody: %v, want an error of vsock:1:24000", err)
	}
}
