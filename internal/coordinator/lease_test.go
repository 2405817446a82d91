package coordinator_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// told has a member's program say what it does.
func (c *court) told(p *peer, q *pb.TellRequest) {
	c.t.Helper()
	if _, err := p.Tell(c.t.Context(), q); err != nil {
		c.t.Fatal(err)
	}
}

func (c *court) shown(run string) *pb.ShowReply {
	c.t.Helper()
	v, err := c.person("ada").Show(c.t.Context(), &pb.ShowRequest{Run: run})
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

// follows has a member's program follow until the test ends. Its answers are read by nobody.
func (c *court) follows(p *peer) {
	c.t.Helper()
	stream, err := p.Follow(c.t.Context(), &pb.FollowRequest{Version: "test"})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		c.t.Fatal(err)
	}
}

// TestLease: what a participant does is shown with its age, a trainer that stands still is told apart from a program that says
// nothing any more, and that one is not shown as connected, though its connection is open.
func TestLease(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open()
		c.follows(c.budapest)
		c.accepted(c.cleveland, sound(run))
		for _, step := range []struct {
			name      string
			tell      *pb.TellRequest
			after     time.Duration
			waiting   string
			connected bool
		}{
			{"nothing said, as by a program of the version before", nil, 0, "budapest connected", true},
			{
				"it trains", &pb.TellRequest{Doing: "training", Run: run, Round: 1, ForUs: 3e6, Steps: 1, Of: 5}, 10 * time.Second,
				"budapest training for 13 s", true,
			},
			{
				"it trains and makes no step", &pb.TellRequest{Doing: "training", Run: run, Round: 1, ForUs: 400e6, StillUs: 290e6}, 10 * time.Second,
				"budapest training for 6 min, no progress for 5 min", true,
			},
			{"at the end of its lease", &pb.TellRequest{Doing: "idle"}, 45 * time.Second, "budapest idle for 45 s", true},
			{"after its lease", &pb.TellRequest{Doing: "training", Run: run, Round: 1}, 46 * time.Second, "budapest last seen 46 s ago", false},
			{"paused", &pb.TellRequest{Doing: "paused", ForUs: 5 * 60e6}, 20 * time.Second, "budapest paused for 5 min", true},
		} {
			if step.tell != nil {
				c.told(c.budapest, step.tell)
			}
			time.Sleep(step.after)
			v := c.shown(run)
			if want := "waiting for 1 of 2 (update of round 1): " + step.waiting; v.Waiting != want {
				t.Errorf("%s: run says %q, want %q", step.name, v.Waiting, want)
			}
			if m := v.Members[0]; m.Connected != step.connected || (m.Activity != nil) != (step.connected && step.tell != nil) {
				t.Errorf("%s: member is shown as %v", step.name, m)
			}
		}
	})
}

// TestPausedIsNotWaitedFor closes a round at once when whoever is missing says that it is paused.
func TestPausedIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		c.follows(c.longbeach)
		c.told(c.longbeach, &pb.TellRequest{Doing: "idle"})
		run := c.start(plan(t, bare, func(p *entry.Plan) { p.Members = append(p.Members, "longbeach") }))
		for _, p := range []*peer{c.budapest, c.cleveland, c.longbeach} {
			if _, err := p.Consent(t.Context(), &pb.ConsentRequest{Run: run, Records: records}); err != nil {
				t.Fatal(err)
			}
		}
		c.accepted(c.budapest, sound(run))
		c.accepted(c.cleveland, sound(run))
		synctest.Wait()
		if n := len(c.books["council"].find("round closed")); n != 0 {
			t.Fatal("the round was closed while a member was there and not paused")
		}
		time.Sleep(time.Second) // since it came, or the loop would be told of it only then
		c.told(c.longbeach, &pb.TellRequest{Doing: "paused"})
		synctest.Wait()
		if got := c.books["council"].find("round closed", "early", "absent"); len(got) != 1 {
			t.Errorf("the round was closed %d times when the last member paused, want once", len(got))
		}
	})
}

// TestTwice warns of two programs under one name, once, and not of one that dials again.
func TestTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const warning = "two programs speak under one name: one of them is to be ended"
		c := newCourt(t)
		run := c.open()
		again := c.connect(attest.Participant, "budapest")
		c.told(c.budapest, &pb.TellRequest{Doing: "idle"})
		time.Sleep(time.Second)
		c.told(again, &pb.TellRequest{Doing: "idle"})
		time.Sleep(time.Second)
		c.told(again, &pb.TellRequest{Doing: "idle"})
		if got := c.books["council"].find(warning); len(got) != 0 {
			t.Errorf("one that has dialled again is warned of: %v", got)
		}
		for range 3 {
			c.told(c.budapest, &pb.TellRequest{Doing: "idle"})
			time.Sleep(time.Second)
			c.told(again, &pb.TellRequest{Doing: "idle"})
		}
		if got := c.books["council"].find(warning, "member", "budapest"); len(got) != 1 {
			t.Errorf("two that speak are warned of %d times, want once", len(got))
		}
		c.follows(again)
		if v := c.shown(run); !v.Members[0].Twice || v.Members[1].Twice {
			t.Errorf("run shows %v, want budapest twice and nobody else", v.Members)
		}
	})
}

// TestTellRefused: words and numbers of a participant that make no sense are shown to nobody.
func TestTellRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open()
		c.follows(c.budapest)
		for name, q := range map[string]*pb.TellRequest{
			"unknown word": {Doing: "mining"}, "no word": {}, "a long run": {Doing: "idle", Run: strings.Repeat("a", 17)},
			"a run with a line end": {Doing: "idle", Run: "a\n"}, "round below 0": {Doing: "training", Round: -1},
			"longer than a year": {Doing: "idle", ForUs: 366 * 24 * 3600e6}, "below 0": {Doing: "idle", ForUs: -1},
			"still below 0": {Doing: "idle", StillUs: -1}, "steps below 0": {Doing: "idle", Steps: -1}, "of below 0": {Doing: "idle", Of: -1},
		} {
			if _, err := c.budapest.Tell(t.Context(), q); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v, want refused", name, err)
			}
		}
		if v := c.shown(run); v.Members[0].Activity != nil {
			t.Errorf("what was refused is shown: %v", v.Members[0])
		}
	})
}

// TestLeave withdraws a member from a run: it is asked nothing more, and the run ends where too few are left.
func TestLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open(func(p *entry.Plan) { p.Rounds = 2 })
		if _, err := c.budapest.Leave(t.Context(), &pb.LeaveRequest{Run: run, Reason: strings.Repeat("x", 201)}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("Leave with a long reason: %v, want refused", err)
		}
		if _, err := c.longbeach.Leave(t.Context(), &pb.LeaveRequest{Run: run}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("Leave of a stranger: %v, want refused", err)
		}
		if _, err := c.budapest.Leave(t.Context(), &pb.LeaveRequest{Run: run, Reason: "the study ended"}); err != nil {
			t.Fatal(err)
		}
		v := c.finish(run)
		if want := "1 of the 2 members needed still take part; left: budapest"; v.Summary.State != "failed" || v.Reason != want {
			t.Errorf("run is %s: %q, want failed: %q", v.Summary.State, v.Reason, want)
		}
		if m := v.Members[0]; m.State != "left" || m.Rule != "the study ended" {
			t.Errorf("member is shown as %v", m)
		}
	})
}
