package socket_test

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"testing"

	"consilium.dev/internal/socket"
	"consilium.dev/internal/socket/sockettest"
)

func TestMain(m *testing.M) {
	if sockettest.IsGuest() {
		sockettest.Boot(m.Run)
	}
	os.Exit(m.Run())
}

// TestKernel runs what TestFolder does over AF_VSOCK itself.
func TestKernel(t *testing.T) {
	if !sockettest.Here(t, 256) {
		return
	}
	speak(t, machine)
	_, err := socket.Dial(t.Context(), "vsock:1:24000")
	var op *net.OpError
	if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &op) || op.Op != "dial" || op.Addr.String() != "vsock:1:24000" {
		t.Errorf("dialling nobody: %v, want an error of vsock:1:24000", err)
	}
	lis, err := socket.Listen("vsock:any:24000")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	if _, err := socket.Listen("vsock:any:24000"); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listening twice: %v, want that it is in use", err)
	}
}

// machine is the kernel's own network.
func machine(*testing.T) network {
	return network{
		listen: func(t *testing.T, port uint32) net.Listener {
			t.Helper()
			lis, err := socket.Listen(socket.Addr{CID: socket.Any, Port: port}.String())
			if err != nil {
				t.Fatal(err)
			}
			return lis
		},
		dial: func(ctx context.Context, port uint32) (net.Conn, error) {
			return socket.Dial(ctx, socket.Addr{CID: 1, Port: port}.String())
		},
	}
}
