package coordinator_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// deafLine is a member's end of a connection that reads nothing any more from some moment on, and goes on to send.
type deafLine struct {
	net.Conn
	deaf   chan struct{} // closed then
	closed chan struct{} // when the member closes it
	cut    chan struct{} // when the other side does
	once   sync.Once
	ended  sync.Once
}

func (l *deafLine) Read(p []byte) (int, error) {
	select {
	case <-l.deaf:
		<-l.closed
		return 0, io.EOF
	default:
		return l.Conn.Read(p)
	}
}

func (l *deafLine) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	if err != nil {
		l.once.Do(func() { close(l.cut) })
	}
	return n, err
}

func (l *deafLine) Close() error {
	l.ended.Do(func() { close(l.closed) })
	return l.Conn.Close()
}

// TestReadsNothing has a member stop reading in the middle of a round while it goes on to say that it trains. The round of the
// others goes on, and its connection is cut: it would hold what is sent to it for an hour.
func TestReadsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		line := &deafLine{deaf: make(chan struct{}), closed: make(chan struct{}), cut: make(chan struct{})}
		c.longbeach = c.connect(attest.Participant, "longbeach", grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			if line.Conn != nil {
				return c.line.dial(ctx, address)
			}
			var err error
			line.Conn, err = c.line.dial(ctx, address)
			return line, err
		}))
		if _, err := c.longbeach.Follow(t.Context(), &pb.FollowRequest{Clock: time.Now().UnixMicro()}); err != nil {
			t.Fatal(err)
		}
		run := c.openTo(c.longbeach)
		close(line.deaf)
		ctx, cancel := context.WithCancel(t.Context())
		var telling sync.WaitGroup
		telling.Go(func() {
			for ctx.Err() == nil {
				call, done := context.WithTimeout(ctx, 10*time.Second)
				_, _ = c.longbeach.Tell(call, &pb.TellRequest{Doing: "training", Run: run, Round: 1})
				<-call.Done()
				done()
			}
		})
		began := time.Now()
		<-line.cut
		if d := time.Since(began); d > 5*time.Minute {
			t.Errorf("who reads nothing was cut after %v", d)
		}
		cancel()
		telling.Wait()
		c.closesWithout(run, 1, "longbeach")
	})
}

// TestFetchesAndReadsNothing has a member begin a download and leave it lie.
func TestFetchesAndReadsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.openTo(c.longbeach)
		c.send(run, 1, c.budapest, c.cleveland, c.longbeach)
		c.books["council"].await(t, "round opened", "run", run, "round", "2")
		model := only[entry.RoundClosed](c.facts())[0].Model
		if _, err := c.longbeach.Fetch(t.Context(), &pb.FetchRequest{Model: model[:]}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		c.books["council"].await(t, "peer does not read, connection cut", "name", "longbeach")
		if d := time.Since(began); d > 5*time.Minute {
			t.Errorf("who leaves a download lie was cut after %v", d)
		}
		c.closesWithout(run, 2, "longbeach")
	})
}

// openTo starts a run of three members that two can close, with a model of two chunks, in which the third one is there too.
func (c *court) openTo(third *peer) string {
	c.t.Helper()
	run := c.start(plan(c.t, bare, wide, func(p *entry.Plan) { p.Members, p.Rounds = append(p.Members, "longbeach"), 2 }))
	for _, p := range []*peer{third, c.budapest, c.cleveland} {
		if _, err := p.Consent(c.t.Context(), &pb.ConsentRequest{Run: run, Records: records}); err != nil {
			c.t.Fatal(err)
		}
	}
	c.books["council"].await(c.t, "round opened", "run", run, "selected", "3")
	return run
}

// send has members send an update to a round.
func (c *court) send(run string, number int32, who ...*peer) {
	c.t.Helper()
	for _, p := range who {
		u := sound(run, large()...)
		u.head.Round = number
		c.accepted(p, u)
	}
}

// closesWithout has budapest and cleveland send, and checks that the round is closed with theirs only.
func (c *court) closesWithout(run string, number int32, third entry.Member) {
	c.t.Helper()
	c.send(run, number, c.budapest, c.cleveland)
	c.books["council"].await(c.t, "round closed", "run", run, "round", fmt.Sprint(number), "updates", "2")
	for _, m := range only[entry.RoundClosed](c.facts())[number-1].Members {
		if m.Member == third {
			c.t.Errorf("%s is in the round", third)
		}
	}
}
