package transport

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
)

// Epochs are the credentials of a listener that outlives an epoch of its manifest: each connection is proven by those that hold
// when it comes. They are safe for concurrent use.
type Epochs struct{ now atomic.Pointer[Credentials] }

// NewEpochs returns credentials that begin with first, which must be a listener's.
func NewEpochs(first *Credentials) *Epochs {
	e := &Epochs{}
	e.now.Store(first)
	return e
}

// Now returns the credentials that hold.
func (e *Epochs) Now() *Credentials { return e.now.Load() }

// Turn makes next those by which connections are proven from now on, and returns the ones before. Their connections and the
// handshakes under way are the caller's to end, with [Credentials.Close].
func (e *Epochs) Turn(next *Credentials) *Credentials { return e.now.Swap(next) }

// ServerHandshake is [Credentials.ServerHandshake] of those that hold.
func (e *Epochs) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return e.Now().ServerHandshake(raw)
}

// ClientHandshake refuses: a dialler makes its credentials anew.
func (e *Epochs) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("transport: a listener's credentials cannot dial")
}

// Info names the protocol.
func (e *Epochs) Info() credentials.ProtocolInfo { return e.Now().Info() }

// Clone returns the credentials themselves, as [Credentials.Clone].
func (e *Epochs) Clone() credentials.TransportCredentials { return e }

// OverrideServerName refuses, as [Credentials.OverrideServerName].
func (e *Epochs) OverrideServerName(name string) error { return e.Now().OverrideServerName(name) }
