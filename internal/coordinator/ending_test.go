package coordinator_test

import (
	"context"
	"io"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	pb "consilium.dev/proto/consilium/v1"
)

// grace gives a coordinator so long to end.
func grace(d time.Duration) func(*coordinator.Options) {
	return func(o *coordinator.Options) { o.Grace = d }
}

// half opens an upload of cleveland's and sends its first chunk of two.
func half(t *testing.T, p *peer, u *upload) pb.Rounds_OfferClient {
	t.Helper()
	stream, err := p.Offer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Header{Header: u.head}}); err != nil {
		t.Fatal(err)
	}
	if reply, err := stream.Recv(); err != nil || reply.State != pb.OfferReply_STATE_SEND {
		t.Fatalf("the coordinator answers a header with %v, %v, want to be sent the chunks", reply, err)
	}
	if err := stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Chunk{Chunk: u.chunks[0]}}); err != nil {
		t.Fatal(err)
	}
	return stream
}

// TestEnding asks a coordinator to end while the upload that its round still needs is under way. The upload is taken to its end,
// the round is closed and in the log, though nobody can begin anything new.
func TestEnding(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &court{world: newWorld(t)}
		council := c.serve(grace(time.Minute))
		c.budapest, c.cleveland = c.connect(attest.Participant, "budapest"), c.connect(attest.Participant, "cleveland")
		run := c.open(wide)
		c.accepted(c.budapest, sound(run, large()...))
		follow, err := c.cleveland.Follow(t.Context(), &pb.FollowRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := follow.Recv(); err != nil {
			t.Fatal(err)
		}
		other, err := c.budapest.Follow(t.Context(), &pb.FollowRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Recv(); err != nil {
			t.Fatal(err)
		}
		u := sound(run, large()...)
		stream := half(t, c.cleveland, u)
		council.cancel()
		if _, err := other.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("who follows and sends nothing hears %v, want that the coordinator is not there any more", err)
		}
		session := make(chan error, 1)
		go func() {
			_, err := follow.Recv()
			session <- err
		}()
		synctest.Wait()
		select {
		case <-council.done:
			t.Fatal("the coordinator has ended in the middle of an upload")
		case err := <-session:
			t.Fatalf("the session of the upload's sender has ended in the middle of it: %v", err)
		default:
		}
		if err := stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Chunk{Chunk: u.chunks[1]}}); err != nil {
			t.Fatal(err)
		}
		if reply, err := stream.Recv(); err != nil || reply.State != pb.OfferReply_STATE_ACCEPTED {
			t.Errorf("the upload's end is answered with %v, %v, want accepted", reply, err)
		}
		if err := <-session; status.Code(err) != codes.Unavailable {
			t.Errorf("after its upload cleveland hears %v, want that the coordinator is not there any more", err)
		}
		began := time.Now()
		if err := council.wait(); err != nil {
			t.Errorf("the coordinator ended with %v", err)
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("the coordinator ended %v after the last upload, want at once", d)
		}
		if closed := only[entry.RoundClosed](c.facts()); len(closed) != 1 || len(closed[0].Members) != 2 {
			t.Errorf("the log has closed rounds %v, want the one that both members' updates complete", closed)
		}
		if n := len(c.books["council"].find("the grace is over before everything had ended; members offer again what was not taken")); n != 0 {
			t.Error("the coordinator says that its grace was too short")
		}
	})
}

// TestEndingStuck asks a coordinator to end while an upload stands still. It waits for its grace and no longer.
func TestEndingStuck(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &court{world: newWorld(t)}
		council := c.serve(grace(10 * time.Second))
		c.budapest, c.cleveland = c.connect(attest.Participant, "budapest"), c.connect(attest.Participant, "cleveland")
		run := c.open(wide)
		half(t, c.cleveland, sound(run, large()...))
		began := time.Now()
		council.stop()
		if d := time.Since(began); d < 10*time.Second || d > 11*time.Second {
			t.Errorf("the coordinator ended after %v, want after its grace of 10s", d)
		}
		if n := len(c.books["council"].find("the grace is over before everything had ended; members offer again what was not taken")); n != 1 {
			t.Errorf("the coordinator says %d times that its grace is over, want once", n)
		}
	})
}

// long makes a plan of two members whose training takes a moment in earnest.
func long(p *entry.Plan) {
	p.Standardize, p.Rounds, p.Quorum = nil, 1, 2
	p.Members = []entry.Member{"budapest", "cleveland"}
	p.Local.Steps, p.Local.LearningRate = 10_000, 1e-6
}

// trained checks how often cleveland has begun the training of the run's round.
func (w *world) trained(run string, want int) {
	w.t.Helper()
	if n := len(w.books["cleveland"].find("training", "run", run)); n != want {
		w.t.Errorf("cleveland began its training %d times, want %d", n, want)
	}
}

// TestTrainingOutlives takes the coordinator away while a participant trains. The training goes on, and is offered to the next
// coordinator.
func TestTrainingOutlives(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		council := w.serve()
		w.join("cleveland")
		w.join("budapest")
		run := w.start(plan(t, long))
		w.books["cleveland"].await(t, "training")
		council.stop()
		w.serve()
		w.completed(run)
		w.trained(run, 1)
	})
}

// TestParticipantEnds asks a participant to end while it trains: with enough grace what it trained is offered by the next
// process, without any it trains again.
func TestParticipantEnds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		grace time.Duration
		times int // as long is the training, which must not be over before it is ended
		want  int
	}{{"grace", time.Hour, 1, 1}, {"none", 0, 10, 2}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				council := w.serve()
				cleveland := w.join("cleveland", func(o *participant.Options) { o.Grace = c.grace })
				w.join("budapest")
				run := w.start(plan(t, long, func(p *entry.Plan) { p.Local.Steps *= c.times }))
				w.books["cleveland"].await(t, "training")
				if c.grace > 0 { // or it would offer what it has trained at once
					council.stop()
				}
				cleveland.stop()
				if c.grace > 0 {
					w.serve()
				}
				w.join("cleveland")
				w.completed(run)
				w.trained(run, c.want)
			})
		})
	}
}

// TestIdleEnds: who has nothing to do ends at once, whatever its grace is.
func TestIdleEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		council := w.serve(grace(time.Hour))
		cleveland := w.join("cleveland", func(o *participant.Options) { o.Grace = time.Hour })
		away := w.join("budapest", func(o *participant.Options) { o.Grace = time.Hour })
		w.books["cleveland"].await(t, "following")
		began := time.Now()
		cleveland.stop()
		council.stop()
		w.books["budapest"].await(t, "no coordinator")
		away.stop()
		if d := time.Since(began); d > time.Minute {
			t.Errorf("three idle programs took %v to end", d)
		}
	})
}

// called has a program asked to end at one of its calls to its storage.
type called struct {
	*disk
	left  atomic.Int64 // calls to come, that one too
	now   func()
	asked chan struct{} // closed when it has been asked
}

func (c *called) call() {
	if c.left.Add(-1) == 0 {
		c.now()
		<-c.asked
	}
}

func (c *called) Put(ctx context.Context, name func() string, r io.Reader) error {
	c.call()
	return c.disk.Put(ctx, name, r)
}

func (c *called) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	c.call()
	return c.disk.Get(ctx, name)
}

func (c *called) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	c.call()
	return c.disk.List(ctx, prefix)
}

func (c *called) Load(ctx context.Context) (uint64, []byte, error) {
	c.call()
	return c.disk.Load(ctx)
}

func (c *called) Swap(ctx context.Context, old uint64, value []byte) error {
	c.call()
	return c.disk.Swap(ctx, old, value)
}

// TestEndingAtStart asks both programs to end at each call that they make to their storage while they start. That is no failure of
// theirs, and the next one starts.
func TestEndingAtStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve().stopAfter() // so that there is a log to replay
		for who, start := range map[string]func(*called) *program{
			"council": func(c *called) *program {
				return w.serve(func(o *coordinator.Options) { o.Objects, o.Head = c, c })
			},
			"cleveland": func(c *called) *program {
				return w.join("cleveland", func(o *participant.Options) { o.Objects = c })
			},
		} {
			points := 0
			for n, reached := int64(1), true; reached; n++ {
				now := make(chan struct{})
				c := &called{disk: w.disks[who], now: sync.OnceFunc(func() { close(now) }), asked: make(chan struct{})}
				c.left.Store(n)
				p := start(c)
				go func() {
					<-now
					p.cancel()
					close(c.asked)
				}()
				synctest.Wait()
				reached = c.left.Load() <= 0
				c.now() // where it makes fewer calls
				if err := p.wait(); err != nil {
					t.Errorf("%s, asked to end at its call %d, ends with %v", who, n, err)
				}
				points++
			}
			if points < 5 {
				t.Errorf("%s was ended at %d calls, want more", who, points)
			}
		}
		w.serve()
		w.joinAll()
		w.completed(w.start(plan(t, bare)))
	})
}
