package participant

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// A connection ends with the shorter of the two appraisals that it rests on. The next one is dialled when between earlyPart and
// latePart of that time is over, drawn anew each time: participants that came all at once, after a restart of the coordinator, are so
// spread over a tenth and more of it, and what is left is enough for another attempt or two.
const (
	earlyPart = 0.65
	latePart  = 0.80
)

// partingWait is the most that is waited before a connection is dialled in place of one that the coordinator is ending.
const partingWait = time.Second

// line is what a session speaks over: one attested connection after the other. A call goes over the newest, and stays there: one that
// another has taken the place of is closed when its last call has ended, or cut when its appraisal has. It is safe for concurrent use.
type line struct {
	mu      sync.Mutex // guards what follows
	newest  *strand
	strands map[*strand]struct{} // that are not closed
	turns   int                  // how often another became the newest

	closing sync.WaitGroup // connections whose last call has ended
}

// strand is one connection.
type strand struct {
	conn  grpc.ClientConnInterface
	close func()
	calls int           // under way; guarded by the line's mu
	old   chan struct{} // closed when another has taken its place
}

func newStrand(conn grpc.ClientConnInterface, closing func()) *strand {
	return &strand{conn: conn, close: closing, old: make(chan struct{})}
}

// while calls f with a context that ends with ctx, or when another connection has taken the place of s. It says whether one has.
func (s *strand) while(ctx context.Context, f func(context.Context) error) (replaced bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-s.old:
			cancel()
		case <-ctx.Done():
		}
	})
	err = f(ctx)
	cancel()
	watch.Wait()
	select {
	case <-s.old:
		return true, err
	default:
		return false, err
	}
}

func newLine(first *strand) *line {
	return &line{newest: first, strands: map[*strand]struct{}{first: {}}}
}

// now returns the newest connection.
func (l *line) now() *strand {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.newest
}

// turned returns how often another connection has become the newest.
func (l *line) turned() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turns
}

// turn has further calls go over next.
func (l *line) turn(next *strand) {
	l.mu.Lock()
	before := l.newest
	l.newest = next
	l.strands[next] = struct{}{}
	l.turns++
	close(before.old)
	idle := l.leave(before)
	l.mu.Unlock()
	if idle {
		before.close()
	}
}

// leave takes a connection off those that are open where another has taken its place and none of its calls is under way. Whoever is
// told so closes it. mu is held.
func (l *line) leave(s *strand) bool {
	if _, open := l.strands[s]; !open || s == l.newest || s.calls > 0 {
		return false
	}
	delete(l.strands, s)
	return true
}

// close closes all connections. No call is made any more.
func (l *line) close() {
	l.mu.Lock()
	all := l.strands
	l.strands = map[*strand]struct{}{}
	l.mu.Unlock()
	for s := range all {
		s.close()
	}
	l.closing.Wait()
}

// begin counts a call over the newest connection, until the function that it returns is called, once or more.
func (l *line) begin() (grpc.ClientConnInterface, func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.newest
	s.calls++
	return s.conn, sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock() // until it is counted: else close finds neither it nor what closes it
		s.calls--
		if l.leave(s) {
			l.closing.Go(s.close) // not here: gRPC waits there for its own goroutines, of which this is one
		}
	})
}

// Invoke makes a call of one message each way.
func (l *line) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	conn, end := l.begin()
	defer end()
	return conn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream begins a stream.
func (l *line) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	conn, end := l.begin()
	stream, err := conn.NewStream(ctx, desc, method, append(opts, grpc.OnFinish(func(error) { end() }))...)
	if err != nil {
		end()
	}
	return stream, err
}

// dialer makes the connections of one session: all under one manifest, and as one instance of this program.
type dialer struct {
	p        *Participant
	manifest *manifest.Manifest
	creds    *transport.Credentials
	options  []grpc.DialOption
}

// dial prepares a connection. It is made, and both sides attest, with its first call.
func (d *dialer) dial() (*strand, error) {
	conn, err := grpc.NewClient("passthrough:///"+d.p.o.Address, d.options...)
	if err != nil {
		return nil, fmt.Errorf("coordinator's address %q: %w", d.p.o.Address, err)
	}
	return newStrand(conn, func() { _ = conn.Close() }), nil // whatever became of it, it is over
}

// close ends what is left of the session's connections.
func (d *dialer) close() { _ = d.creds.Close() } // it forgets, and always can

// end returns when the connection of a call ends that was answered: with the coordinator's appraisal, or with the one of us that the
// coordinator has made a moment later.
func (d *dialer) end(ctx context.Context) (time.Time, bool) {
	who, _ := peer.FromContext(ctx)
	if who == nil {
		return time.Time{}, false
	}
	p, ok := who.AuthInfo.(transport.Peer)
	if !ok {
		return time.Time{}, false
	}
	end := p.Expires
	for _, other := range []time.Time{p.Issued.Add(d.manifest.TTL(attest.Participant)), p.OwnLeaf} {
		if other.Before(end) {
			end = other
		}
	}
	return end, true
}

// errEpochTurned ends a session under a manifest that holds no more.
var errEpochTurned = errors.New("a newer manifest was adopted")

// renew has the session go on over one new connection after the other, each dialled before the one before ends, until the session
// ends.
func (s *session) renew(ctx context.Context, d *dialer, end time.Time) (err error) {
	defer s.p.attested.Store(nil)
	for err == nil {
		until := end
		s.p.attested.Store(&until)
		if err = s.due(ctx, end); err == nil {
			end, err = s.renewed(ctx, d, end)
		}
	}
	return err
}

// renewed makes the next connection, and returns when that ends. What goes wrong with it is tried again while the session lasts.
func (s *session) renewed(ctx context.Context, d *dialer, end time.Time) (time.Time, error) {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = firstWait, longestWait
	for {
		next, err := s.change(ctx, d)
		switch {
		case err == nil:
			s.p.class.Store(0)
			s.p.log.Info("connection renewed", zap.Time("expires", next))
			return next, nil
		case ctx.Err() != nil:
			return time.Time{}, context.Cause(ctx)
		case s.p.epochs.now() != d.manifest:
			return time.Time{}, errEpochTurned
		}
		pause := wait.NextBackOff()
		s.p.log.Warn("connection not renewed", zap.String("reason", plain(err)), zap.Duration("next_try", pause.Round(time.Millisecond)),
			zap.Time("expires", end))
		select {
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// due waits until another connection is to be dialled: while there is time before the end of this one, or when the coordinator
// is ending it for its age.
func (s *session) due(ctx context.Context, end time.Time) error {
	left := end.Sub(s.p.o.Now())
	part := earlyPart + (latePart-earlyPart)*rand.Float64()
	wait, cancel := context.WithTimeout(ctx, time.Duration(part*float64(left)))
	defer cancel()
	conn, ok := s.line.now().conn.(*grpc.ClientConn)
	// gRPC gives a connection to calls a moment before it says that it is there.
	for ok && conn.GetState() == connectivity.Connecting && conn.WaitForStateChange(wait, connectivity.Connecting) {
	}
	if !ok || !conn.WaitForStateChange(wait, connectivity.Ready) {
		<-wait.Done()
		return context.Cause(ctx)
	}
	select { // all may be told at once; and where the line has broken the session ends now
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(rand.N(partingWait)):
		return nil
	}
}

// change dials the next connection, follows over it, and has all further calls go over it. It returns when that ends.
func (s *session) change(ctx context.Context, d *dialer) (end time.Time, err error) {
	next, err := d.dial()
	if err != nil {
		return time.Time{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	e := &ear{deafen: func() { cancel(nil) }}
	defer func() {
		if err != nil {
			e.deafen()
			next.close()
		}
	}()
	silence := time.AfterFunc(patience, func() { cancel(errSilent) })
	defer silence.Stop()
	if e.stream, err = pb.NewRoundsClient(next.conn).Follow(ctx, s.p.introduction()); err != nil {
		return time.Time{}, err
	}
	w, err := e.stream.Recv()
	if err != nil {
		return time.Time{}, errors.Join(context.Cause(ctx), err)
	}
	end, ok := d.end(e.stream.Context())
	if !ok {
		return time.Time{}, errors.New("the new connection is no attested channel")
	}
	if err := s.p.agree(w.Clock); err != nil {
		return time.Time{}, err
	}
	s.listen(ctx, e, w) // first: the old one may be closed at once when it is not the newest any more
	s.line.turn(next)
	return end, nil
}
