// Package porter carries bytes between an enclave that has no network and the network, from the enclave's host: out, where the
// enclave asks for a way by HTTP CONNECT (RFC 9110, section 9.3.6) and gets it to what is listed, and along fixed ways, such as from a
// TCP port of the host to the enclave's socket.
//
//	p, err := porter.New(porter.Options{Connect: lis, Allow: []string{"kms.eu-central-1.amazonaws.com:443"}, Log: log})
//	err = p.Run(ctx)
//
// Nobody trusts it. TLS and attestation are between the ends; a porter sees who talks with whom, when and how much, and may stop it. It
// keeps the enclave from what is not listed, and strangers from filling the enclave's line.
package porter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"consilium.dev/internal/socket"
)

const (
	patienceHead = 10 * time.Second // for a question, from its first byte to the empty line
	patienceDial = 10 * time.Second // for whoever is behind it to be reached; less than a tunnel waits
	quiet        = time.Second      // after the end of Run's context: a connection over which nothing goes for so long is closed
)

// Forward is a fixed way: who calls the listener is led to an address.
type Forward struct {
	Listener net.Listener
	To       string // host:port or vsock:CID:PORT
}

// Limits are what it bears. A zero field has its default.
type Limits struct {
	Connections int           // open at once, all ways together; default 1024. What comes then is closed at once
	PerAddress  int           // of them from one IPv4 address or from one /64 of IPv6; default 128
	Idle        time.Duration // longest that nothing goes over a connection; default 5 min
}

// Options is all that a porter needs.
type Options struct {
	Connect net.Listener // where CONNECT is asked; nil: nowhere
	Allow   []string     // host:port, each what may be asked for; what is not listed is refused
	Forward []Forward
	Limits  Limits
	Grace   time.Duration // how long connections go on after the end of Run's context, while something goes over them; 0: not at all
	Log     *zap.Logger
}

// Porter carries. Run it once.
type Porter struct {
	o     Options
	allow map[string]bool
	dial  func(ctx context.Context, to string) (net.Conn, error)
	say   rate.Sometimes // what a flood would fill the log with

	mu    sync.Mutex // guards what follows
	lines map[*line]bool
	from  map[netip.Prefix]int
}

// New checks the options.
func New(o Options) (*Porter, error) {
	o.Limits.Connections, o.Limits.PerAddress = cmp.Or(o.Limits.Connections, 1024), cmp.Or(o.Limits.PerAddress, 128)
	o.Limits.Idle = cmp.Or(o.Limits.Idle, 5*time.Minute)
	switch {
	case o.Log == nil:
		return nil, errors.New("porter: no log")
	case o.Connect == nil && len(o.Forward) == 0:
		return nil, errors.New("there is nothing to carry: neither connect nor forward is set")
	case (o.Connect == nil) != (len(o.Allow) == 0):
		return nil, errors.New("connect: listen and allow belong together: what is not listed is refused")
	case o.Limits.Connections < 0 || o.Limits.PerAddress < 0 || o.Limits.Idle < 0 || o.Grace < 0:
		return nil, errors.New("limits and grace: want no negative numbers")
	}
	p := &Porter{
		o: o, allow: map[string]bool{}, dial: reach, lines: map[*line]bool{}, from: map[netip.Prefix]int{},
		say: rate.Sometimes{First: 20, Interval: time.Minute},
	}
	for _, text := range o.Allow {
		d, err := destination(text)
		if err != nil {
			return nil, fmt.Errorf("connect.allow: %w", err)
		}
		p.allow[d] = true
	}
	for _, f := range o.Forward {
		if err := socket.Check(f.To); err != nil {
			return nil, fmt.Errorf("forward.to: %w", err)
		}
	}
	return p, nil
}

// Run carries until ctx ends, or until a listener fails. It closes the listeners, and when it returns nothing that it has begun is
// left. After the end of ctx it takes nothing new; what is open goes on while something moves, for the grace at most.
func (p *Porter) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	work, cut := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx by the grace
	defer cut()
	var open sync.WaitGroup // counted while an accepting goroutine runs, or by one
	if p.o.Connect != nil {
		g.Go(func() error { return p.accept(ctx, work, &open, p.o.Connect, "") })
	}
	for _, f := range p.o.Forward {
		g.Go(func() error { return p.accept(ctx, work, &open, f.Listener, f.To) })
	}
	<-ctx.Done()
	err := g.Wait() // nothing new comes any more
	p.hush()
	late := time.AfterFunc(p.o.Grace, func() {
		cut()
		p.sever()
	})
	defer late.Stop()
	open.Wait()
	return err
}

// accept takes connections of one listener until ctx ends.
func (p *Porter) accept(ctx, work context.Context, open *sync.WaitGroup, lis net.Listener, to string) error {
	defer context.AfterFunc(ctx, func() { _ = lis.Close() })() // it ends Accept
	defer lis.Close()
	p.o.Log.Info("listening", zap.Stringer("address", lis.Addr()), zap.String("to", cmp.Or(to, "what is listed")))
	for {
		near, err := lis.Accept()
		switch temporary := (interface{ Temporary() bool })(nil); {
		case err == nil:
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &temporary) && temporary.Temporary(): // no descriptors, for example: they come back
			p.say.Do(func() {
				p.o.Log.Warn("no connection can be taken", zap.Stringer("address", lis.Addr()), zap.Error(err))
			})
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
			continue
		default:
			return fmt.Errorf("listening at %s: %w", lis.Addr(), err)
		}
		l, err := p.enter(near)
		if err != nil {
			_ = near.Close() // it was not used
			p.say.Do(func() {
				p.o.Log.Warn("connection turned away", zap.Stringer("peer", near.RemoteAddr()), zap.Error(err))
			})
			continue
		}
		open.Go(func() {
			defer p.leave(l)
			p.serve(work, l, to)
		})
	}
}

// The reasons for which a connection is turned away.
var (
	errFull    = errors.New("no room: limits.connections are open")
	errAddress = errors.New("no room for this address: limits.connections_per_address are open")
)

// enter counts a connection, and gives it the time in which something must go over it.
func (p *Porter) enter(near net.Conn) (*line, error) {
	source := socket.Source(near.RemoteAddr())
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(p.lines) >= p.o.Limits.Connections:
		return nil, errFull
	case source.IsValid() && p.from[source] >= p.o.Limits.PerAddress:
		return nil, errAddress
	}
	l := &line{near: near, source: source}
	l.idle.Store(int64(p.o.Limits.Idle))
	l.timer = time.AfterFunc(p.o.Limits.Idle, l.hangUp)
	p.lines[l] = true
	p.from[source]++
	return l, nil
}

// leave hangs up, and counts the connection no more.
func (p *Porter) leave(l *line) {
	l.hangUp()
	p.mu.Lock()
	defer p.mu.Unlock()
	l.timer.Stop() // with mu, since hush sets it
	delete(p.lines, l)
	if p.from[l.source]--; p.from[l.source] == 0 {
		delete(p.from, l.source)
	}
}

// hush shortens what a connection may be silent.
func (p *Porter) hush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.lines {
		l.idle.Store(int64(quiet))
		l.touch()
	}
}

// sever hangs up every connection.
func (p *Porter) sever() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.lines {
		l.hangUp()
	}
}

// serve leads one connection to where it is to go, and carries until either end has hung up.
func (p *Porter) serve(ctx context.Context, l *line, to string) {
	asked := to == ""
	if asked {
		var status int
		if to, status = p.question(l.near); status != 0 {
			answer(l.near, status)
			return
		}
	}
	far, err := p.dial(ctx, to)
	if err != nil {
		p.say.Do(func() {
			p.o.Log.Warn("not reached", zap.Stringer("peer", l.near.RemoteAddr()), zap.String("to", to), zap.Error(err))
		})
		if asked {
			answer(l.near, unreached(err))
		}
		return
	}
	if !l.join(far) || asked && !answer(l.near, 200) {
		return
	}
	p.o.Log.Debug("carrying begins", zap.Stringer("peer", l.near.RemoteAddr()), zap.String("to", to))
	bytes := l.carry()
	p.o.Log.Debug("carrying ends", zap.Stringer("peer", l.near.RemoteAddr()), zap.String("to", to), zap.Int64("bytes", bytes))
}

// reach connects to an address.
func reach(ctx context.Context, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patienceDial)
	defer cancel()
	if socket.IsVsock(to) {
		return socket.Dial(ctx, to)
	}
	host, _, err := net.SplitHostPort(to)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{Control: guard(host)}).DialContext(ctx, "tcp", to)
}
