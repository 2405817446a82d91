//go:build !linux

package socket

import (
	"context"
	"errors"
	"net"
)

type family struct{}

var kernel family

func listen(_ family, a Addr) (net.Listener, error) {
	return nil, fault("listen", nil, a, errors.ErrUnsupported)
}

func dial(_ context.Context, _ family, a Addr) (net.Conn, error) {
	return nil, fault("dial", nil, a, errors.ErrUnsupported)
}
