package porter

import (
	"context"
	"net"
)

// DialBy makes p reach what it is to reach by dial.
func (p *Porter) DialBy(dial func(ctx context.Context, to string) (net.Conn, error)) { p.dial = dial }

// Reach connects to an address.
var Reach = reach

// Parse reads a question.
var Parse = parse

// Destination reads host:port.
var Destination = destination

// Guard looks at an address that a name leads to.
func Guard(host, address string) error {
	g := guard(host)
	if g == nil {
		return nil
	}
	return g("tcp", address, nil)
}

const (
	MaxHead      = maxHead
	PatienceHead = patienceHead
	Quiet        = quiet
)
