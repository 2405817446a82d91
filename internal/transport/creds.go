package transport

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// Credentials are one side of the channel, for gRPC. They are safe for concurrent use, and belong to one epoch of the
// manifest: after another was adopted, make new ones and close these.
type Credentials struct {
	cfg      Config
	client   bool
	instance string
	identity []byte // certificate of the identity key, DER

	life   context.Context // ends with Close
	cancel context.CancelFunc
	lobby  *lobby // peers that have not proven their name

	leafMu sync.Mutex // guards leaf, also while the identity key is being asked
	leaf   *leaf

	mu     sync.Mutex // guards what follows
	live   map[*conn]struct{}
	guests map[caller]*guest
}

// Server returns the credentials of a listener.
func Server(cfg Config) (*Credentials, error) { return newCredentials(cfg, false) }

// Client returns the credentials of a dialler: all connections made with them lead to the one peer that cfg names.
func Client(cfg Config) (*Credentials, error) { return newCredentials(cfg, true) }

func newCredentials(cfg Config, client bool) (*Credentials, error) {
	if err := cfg.check(client); err != nil {
		return nil, err
	}
	if cfg.Instance == "" {
		instance := make([]byte, 16)
		if _, err := io.ReadFull(cfg.Rand, instance); err != nil {
			return nil, fmt.Errorf("transport: instance: %w", err)
		}
		cfg.Instance = hex.EncodeToString(instance)
	}
	identity, err := newIdentity(cfg.Rand, cfg.Identity, cfg.Name)
	if err != nil {
		return nil, err
	}
	c := &Credentials{
		cfg: cfg, client: client, instance: cfg.Instance, identity: identity,
		lobby: newLobby(cfg.Limits),
		live:  map[*conn]struct{}{}, guests: map[caller]*guest{},
	}
	c.life, c.cancel = context.WithCancel(context.Background())
	if _, err := c.currentLeaf(); err != nil {
		return nil, err
	}
	return c, nil
}

// currentLeaf returns a leaf that is valid for some time to come, and makes it where there is none. Where the identity key
// cannot be reached, the old leaf serves until it ends.
func (c *Credentials) currentLeaf() (*leaf, error) {
	c.leafMu.Lock()
	defer c.leafMu.Unlock()
	now := c.cfg.Now()
	if c.life.Err() != nil {
		return nil, errClosed
	}
	// One from the future is made again: the clock was put back, and peers would refuse it.
	if c.leaf != nil && c.leaf.notAfter.Sub(now) > leafRenew && !now.Before(c.leaf.notBefore) {
		return c.leaf, nil
	}
	who := leafID{federation: c.cfg.Federation, office: c.cfg.Office, name: c.cfg.Name, instance: c.instance}
	fresh, err := newLeaf(c.cfg.Rand, c.cfg.Identity, c.identity, who, now)
	if err != nil {
		if c.leaf != nil && now.Before(c.leaf.notAfter) {
			return c.leaf, nil
		}
		return nil, err
	}
	c.leaf = fresh
	return fresh, nil
}

// Instance returns the 32 hex digits that name this process in its leaves. They are drawn once, and stay when a leaf is
// renewed.
func (c *Credentials) Instance() string { return c.instance }

// Refused returns the function of the configuration that is told of refusals.
func (c *Credentials) Refused() func(Refusal) { return c.cfg.Refused }

// ClientHandshake dials the peer that the configuration names; authority is not used. The error is an *attest.Error, that
// of ctx, or says that the credentials are closed. It is never temporary by its type: whether to dial again is the caller's to know, by [Config.Refused].
func (c *Credentials) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if !c.client {
		return nil, nil, errors.New("transport: a listener's credentials cannot dial")
	}
	return c.handshake(ctx, raw, clientSide)
}

// ServerHandshake proves both sides of a connection that was accepted. It sets the connection's deadline and does not clear
// it: gRPC does so once the peer has sent its HTTP/2 preface, and a peer that never does is so not held for ever.
func (c *Credentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if c.client {
		return nil, nil, errors.New("transport: a dialler's credentials cannot listen")
	}
	return c.handshake(c.life, raw, serverSide)
}

// Info names the protocol.
func (c *Credentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: authType}
}

// Clone returns the credentials themselves: they have nothing that a copy could change.
func (c *Credentials) Clone() credentials.TransportCredentials { return c }

// OverrideServerName refuses: whom we dial is in the configuration, and no authority can change it.
func (c *Credentials) OverrideServerName(string) error {
	return errors.New("transport: the peer's name is fixed by the configuration")
}

// CloseWhere cuts the live connections whose peer matches and returns how many they were. It does not look at handshakes
// that are still going on; call it after what they are judged by has changed.
func (c *Credentials) CloseWhere(match func(Peer) bool) int {
	c.mu.Lock()
	var cut []*conn
	for k := range c.live {
		if match(k.peer) {
			cut = append(cut, k)
		}
	}
	c.mu.Unlock()
	for _, k := range cut {
		_ = k.Close() // the other end may have gone already
	}
	return len(cut)
}

// Close cuts all connections, ends the handshakes that are going on, refuses new ones and forgets the leaf key. It returns
// nil, and may be called again.
func (c *Credentials) Close() error {
	c.cancel()
	c.CloseWhere(func(Peer) bool { return true })
	c.leafMu.Lock()
	defer c.leafMu.Unlock()
	c.leaf = nil
	return nil
}

// handshake runs the exchange on raw. It closes raw where it fails, and reports a refusal once.
func (c *Credentials) handshake(ctx context.Context, raw net.Conn, s side) (net.Conn, credentials.AuthInfo, error) {
	if c.life.Err() != nil {
		return nil, nil, errors.Join(errClosed, raw.Close())
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	end, _ := ctx.Deadline()
	if err := raw.SetDeadline(end); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("transport: deadline: %w", err), raw.Close())
	}
	// A context that ends wakes whoever waits on the connection.
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_ = raw.SetDeadline(time.Unix(1, 0))
	})
	x := &exchange{c: c, raw: raw, side: s}
	defer x.leave()
	k, err := x.run(ctx)
	x.tell()
	if !stop() {
		<-woken // or it would cut short the drain, and an ALERT with it
		if err == nil {
			err = ctx.Err()
		}
	}
	if err == nil && s == clientSide {
		err = raw.SetDeadline(time.Time{})
	}
	if err == nil {
		return k, k.peer, nil
	}
	if k != nil {
		c.forget(k)
	}
	err = x.refuse(ctx, err)
	_ = raw.Close()
	return nil, nil, err
}
