package tunnel

import (
	"context"
	"net"
)

// DialBy makes t reach its proxy by dial.
func (t *Tunnel) DialBy(dial func(ctx context.Context, address string) (net.Conn, error)) {
	t.dial = dial
}

// What a proxy is bounded by.
const (
	MaxAnswer   = maxAnswer
	MaxInterim  = maxInterim
	MaxUser     = maxUser
	MaxPassword = maxPassword
)
