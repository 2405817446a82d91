package coordinator_test

import (
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/coordinator"
	pb "consilium.dev/proto/consilium/v1"
)

// sending is an upload that the test takes step by step.
type sending struct {
	t      *testing.T
	stream pb.Rounds_OfferClient
	u      *upload
	next   int
}

// begin sends an upload's header and returns the coordinator's first answer.
func (c *court) begin(p *peer, u *upload) (*sending, pb.OfferReply_State) {
	c.t.Helper()
	stream, err := p.Offer(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	if err := stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Header{Header: u.head}}); err != nil {
		c.t.Fatal(err)
	}
	s := &sending{t: c.t, stream: stream, u: u}
	return s, s.state()
}

// state returns the coordinator's next answer, unspecified where the stream broke.
func (s *sending) state() pb.OfferReply_State {
	reply, err := s.stream.Recv()
	if err != nil {
		s.t.Logf("upload: %v", err)
		return pb.OfferReply_STATE_UNSPECIFIED
	}
	return reply.State
}

// chunk sends the next chunk. That the stream broke is found out by state.
func (s *sending) chunk() {
	_ = s.stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Chunk{Chunk: s.u.chunks[s.next]}})
	s.next++
}

// crumbs cuts an upload into chunks of n bytes.
func (u *upload) crumbs(n int) {
	var all []*pb.Chunk
	for _, c := range u.chunks {
		for at := 0; at < len(c.Data); at += n {
			part := c.Data[at:min(at+n, len(c.Data))]
			all = append(all, &pb.Chunk{Offset: c.Offset + int64(at), Size: uint32(len(part)), Data: part})
		}
	}
	u.chunks = all
}

// TestLine has more uploads at once than there is memory for. The second waits in line without a limit, as long as the first
// makes progress; one that stands still is cut, and the memory is the next one's.
func TestLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.Uploads = 4*wideLen + 4 })
		run := c.open(wide)
		first, state := c.begin(c.budapest, sound(run, large()...))
		if state != pb.OfferReply_STATE_SEND {
			t.Fatalf("first upload: %v, want send", state)
		}
		second, state := c.begin(c.cleveland, sound(run, large()...))
		if state != pb.OfferReply_STATE_WAIT {
			t.Fatalf("second upload: %v, want wait", state)
		}
		// Slow, but alive: a chunk a moment before patience ends.
		time.Sleep(59 * time.Second)
		first.chunk()
		synctest.Wait()
		if lines := c.books["council"].find("upload stands still, connection cut"); len(lines) != 0 {
			t.Fatalf("an upload that makes progress was cut: %v", lines)
		}
		stood := time.Now()
		if state := second.state(); state != pb.OfferReply_STATE_SEND {
			t.Fatalf("second upload, when the first stands still: %v, want send", state)
		}
		if waited := time.Since(stood); waited != time.Minute {
			t.Errorf("the upload that stood still was cut after %v, want 1m", waited)
		}
		c.books["council"].await(t, "upload stands still, connection cut", "run", run, "member", "budapest")
		for range second.u.chunks {
			second.chunk()
		}
		if state := second.state(); state != pb.OfferReply_STATE_ACCEPTED {
			t.Errorf("second upload: %v, want accepted", state)
		}
		if state := first.state(); state != pb.OfferReply_STATE_UNSPECIFIED {
			t.Errorf("the upload that was cut: %v, want a broken stream", state)
		}
		c.accepted(c.budapest, sound(run, large()...)) // over a new connection
		c.books["council"].await(t, "round closed", "run", run)
	})
}

// TestCrumbs cuts an upload that sends a little just before patience ends, again and again: it would hold its memory for days.
func TestCrumbs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open(wide)
		u := sound(run, large()...)
		u.crumbs(16 << 10)
		s, state := c.begin(c.budapest, u)
		if state != pb.OfferReply_STATE_SEND {
			t.Fatalf("%v, want send", state)
		}
		began := time.Now()
		for time.Since(began) < time.Minute {
			s.chunk()
			time.Sleep(15 * time.Second)
		}
		c.books["council"].await(t, "upload stands still, connection cut", "run", run)
		if waited := time.Since(began); waited != time.Minute {
			t.Errorf("crumbs were cut after %v, want 1m: a whole chunk would have taken 2m", waited)
		}
		if state := s.state(); state != pb.OfferReply_STATE_UNSPECIFIED {
			t.Errorf("the upload that was cut: %v, want a broken stream", state)
		}
		// At five times the pace, which is more than a chunk a minute, they get through.
		s, state = c.begin(c.budapest, u)
		if state != pb.OfferReply_STATE_SEND {
			t.Fatalf("%v, want send", state)
		}
		for range u.chunks {
			s.chunk()
			time.Sleep(3 * time.Second)
		}
		if state := s.state(); state != pb.OfferReply_STATE_ACCEPTED {
			text, _ := c.books["council"].read()
			t.Errorf("crumbs at a good pace: %v, want accepted:\n%s", state, text)
		}
	})
}

// TestLeavesLine has an upload give up while it waits in line, and one that is cut while it is received: neither keeps memory.
func TestLeavesLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, oneUpload)
		run, other := c.open(), c.open()
		first, state := c.begin(c.budapest, sound(run))
		if state != pb.OfferReply_STATE_SEND {
			t.Fatalf("first upload: %v, want send", state)
		}
		if _, state = c.begin(c.cleveland, sound(run)); state != pb.OfferReply_STATE_WAIT {
			t.Fatalf("second upload: %v, want wait", state)
		}
		if err := c.cleveland.conn.Close(); err != nil {
			t.Fatal(err)
		}
		first.chunk()
		if state := first.state(); state != pb.OfferReply_STATE_ACCEPTED {
			t.Fatalf("first upload: %v, want accepted", state)
		}
		c.accepted(c.budapest, sound(other))
	})
}

// TestStops ends a coordinator within ten seconds, whatever is going on: followers, a watched run, an upload on its way and
// one in line. Nothing that it has begun is left: the bubble would not end.
func TestStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &court{world: newWorld(t)}
		council := c.serve(oneUpload)
		c.budapest, c.cleveland = c.connect(participantOffice, "budapest"), c.connect(participantOffice, "cleveland")
		run := c.open()
		watch, err := c.person("ada").Watch(t.Context(), &pb.ShowRequest{Run: run})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		follow, err := c.budapest.Follow(t.Context(), &pb.FollowRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := follow.Recv(); err != nil {
			t.Fatal(err)
		}
		first, _ := c.begin(c.budapest, sound(run))
		second, _ := c.begin(c.cleveland, sound(run))
		synctest.Wait()
		began := time.Now()
		council.stop()
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("stopping took %v, want 10s at most", took)
		}
		for name, s := range map[string]*sending{"upload": first, "upload in line": second} {
			if state := s.state(); state != pb.OfferReply_STATE_UNSPECIFIED {
				t.Errorf("%s: %v after the stop, want a broken stream", name, state)
			}
		}
		if _, err := follow.Recv(); err == nil {
			t.Error("Follow goes on after the stop")
		}
		for err = nil; err == nil; { // views that were on their way
			_, err = watch.Recv()
		}
	})
}

// TestWatchRests opens a watch on a run that waits. Reading makes no news: else each reader would wake all others, and itself,
// for ever, and the bubble's clock would never move.
func TestWatchRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open()
		lead := c.person("ada")
		watch, err := lead.Watch(t.Context(), &pb.ShowRequest{Run: run})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		follow, err := c.longbeach.Follow(t.Context(), &pb.FollowRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := follow.Recv(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for range 10 {
			if _, err := lead.List(t.Context(), &pb.ListRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := follow.Recv(); err != nil {
			t.Fatal(err)
		}
		if beat := time.Since(began); beat != 15*time.Second {
			t.Errorf("a follower of whom nothing new is wanted heard after %v, want the heartbeat of 15s", beat)
		}
	})
}
