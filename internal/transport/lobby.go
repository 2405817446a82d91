package transport

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"consilium.dev/internal/attest"
	"golang.org/x/time/rate"
)

// lineSize is how many handshakes wait for a place.
const lineSize = 4096

var errCrowd = errors.New("the line is full, and this address has the most in it")

// lobby bounds what peers cost that have not proven their name. A place is had for a few round trips, so many members
// behind one address come in one after the other; that is why the ninth waits in line and is not refused.
type lobby struct {
	limits Limits
	places chan struct{}
	pace   *rate.Limiter // of the TLS handshakes that begin

	mu      sync.Mutex // guards what follows
	line    int        // handshakes that wait, from everywhere
	sources map[netip.Prefix]*source
}

// source is what a lobby remembers of one address while somebody from there waits or has a place.
type source struct {
	places chan struct{}
	here   int       // handshakes that wait or have a place
	line   []*waiter // those that wait, the newest last
}

// waiter is one handshake in line.
type waiter struct{ sendAway context.CancelCauseFunc }

func newLobby(l Limits) *lobby {
	return &lobby{
		limits: l, places: make(chan struct{}, l.Handshakes), pace: rate.NewLimiter(rate.Limit(l.PerSecond), l.PerSecond),
		sources: map[netip.Prefix]*source{},
	}
}

// enter waits for a place and then for its turn, and returns what gives the place back. A place of the source comes first: so
// no more than Limits.PerAddress from one address stand in the line for the places of all, or for their turn.
func (l *lobby) enter(ctx context.Context, from netip.Prefix) (func(), error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &waiter{cancel}
	s := l.arrive(from, w)
	release, err := take(ctx, s.places, l.places)
	if err == nil {
		if err = l.pace.Wait(ctx); err != nil {
			release()
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unline(s, w)
	if err != nil {
		l.depart(from, s)
		return nil, attest.Refuse(attest.ClassRate, "waiting for one of %d handshakes, %d from one address, %d a second: %w",
			l.limits.Handshakes, l.limits.PerAddress, l.limits.PerSecond, err)
	}
	return func() {
		release()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.depart(from, s)
	}, nil
}

// arrive puts one more in line. Where that is too many, the newest of the source that has the most in it is sent away:
// a flood from a few addresses cannot keep the others out of the line.
func (l *lobby) arrive(from netip.Prefix, w *waiter) *source {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sources[from]
	if s == nil {
		n := l.limits.Handshakes
		if from.IsValid() {
			n = l.limits.PerAddress
		}
		s = &source{places: make(chan struct{}, n)}
		l.sources[from] = s
	}
	s.here++
	s.line = append(s.line, w)
	if l.line++; l.line <= lineSize {
		return s
	}
	most := s
	for _, other := range l.sources {
		if len(other.line) > len(most.line) {
			most = other
		}
	}
	last := most.line[len(most.line)-1]
	l.unline(most, last)
	last.sendAway(errCrowd)
	return s
}

// unline takes one out of the line who may have been sent away already. mu is held.
func (l *lobby) unline(s *source, w *waiter) {
	if i := slices.Index(s.line, w); i >= 0 {
		s.line = slices.Delete(s.line, i, i+1)
		l.line--
	}
}

// depart forgets a source when the last from there has gone. mu is held.
func (l *lobby) depart(from netip.Prefix, s *source) {
	if s.here--; s.here == 0 {
		delete(l.sources, from)
	}
}

// take takes a place of each, in that order, and returns what gives them back; or why ctx ended before. A place that comes free at
// the instant of ctx's end is left to the next, by the clock: ctx's own timer may fire a moment later, and one who took the place
// by then would ask the machine for what nobody waits for any more.
func take(ctx context.Context, places ...chan struct{}) (func(), error) {
	for i, p := range places {
		select {
		case p <- struct{}{}:
		case <-ctx.Done():
			giveBack(places[:i])
			return nil, context.Cause(ctx)
		}
	}
	err := context.Cause(ctx)
	if end, ok := ctx.Deadline(); err == nil && ok && !time.Now().Before(end) {
		err = context.DeadlineExceeded
	}
	if err != nil {
		giveBack(places)
		return nil, err
	}
	return func() { giveBack(places) }, nil
}

func giveBack(places []chan struct{}) {
	for _, p := range places {
		<-p
	}
}
