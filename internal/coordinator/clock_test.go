package coordinator_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	pb "consilium.dev/proto/consilium/v1"
)

// TestClockJumps: a coordinator whose clock jumps in the midst of a run, by hours in either direction, writes nothing with a
// time that its members have not seen, says who contradicts it, and goes on when the clock is right again, to the same model.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	want, _ := undisturbed(t)
	for name, by := range map[string]time.Duration{"ahead": 5 * time.Hour, "behind": -5 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var jump atomic.Int64
				council := w.serve(func(o *coordinator.Options) {
					o.Now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
				})
				w.joinAll()
				run := w.start(plan(t, adam))
				book := w.books["council"]
				book.await(t, "round closed", "run", run)
				jump.Store(int64(by))
				said := book.await(t, "the members' clocks contradict ours; nothing is written until they agree")
				for _, name := range []string{"budapest", "cleveland", "median of 4 members"} {
					if !strings.Contains(said["error"].(string), name) {
						t.Errorf("logged %q, want %q in it", said["error"], name)
					}
				}
				w.books["cleveland"].awaitMany(t, 2, "no coordinator") // members have come back in between
				if found := book.find("run ended"); len(found) > 0 {
					t.Errorf("the run ended under a wrong clock: %v", found)
				}
				jump.Store(0)
				book.await(t, "the members' clocks agree with ours again")
				if got := final(w.completed(run)); got != want {
					t.Errorf("model %s, want %s", got, want)
				}
				council.stop()
				for i, l := range w.lines() {
					if l.At.After(time.Now().Add(time.Minute)) {
						t.Errorf("fact %d is of %s, and it is %s", i, l.At, time.Now())
					}
				}
			})
		})
	}
}

// TestMemberClock: a member whose clock is beyond the limit is not followed, each side names it, and the others go on.
func TestMemberClock(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]time.Duration{"ahead of": 4 * time.Minute, "behind": -4 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.serve()
				w.join("longbeach", func(o *participant.Options) { o.Now = func() time.Time { return time.Now().Add(by) } })
				said := w.books["council"].await(t, "a member's clock is too far from ours", "member", "longbeach")
				if got := said["clock"]; got != "4m0s "+name+" ours" {
					t.Errorf("the coordinator says %q, want 4m0s %s ours", got, name)
				}
				line := w.books["longbeach"].await(t, "no coordinator")
				if got := line["reason"].(string); !strings.Contains(got, "clock: yours is 4m0s "+name+" the coordinator's") {
					t.Errorf("the member says %q", got)
				}
				for _, name := range hospitals[:2] {
					w.join(name)
				}
				run := w.start(plan(t, adam, func(p *entry.Plan) { p.Quorum = 2 }))
				w.completed(run)
				if n := len(w.books["council"].find("the members' clocks contradict ours; nothing is written until they agree")); n > 0 {
					t.Error("one member's clock stops the coordinator")
				}
			})
		})
	}
}

// TestBootBehind: a coordinator whose clock is far behind the log does not go on with it, and one that is a little behind does.
func TestBootBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.serve()
		w.books["council"].await(t, "serving")
		first.stop()
		late := func(by time.Duration) func(*coordinator.Options) {
			return func(o *coordinator.Options) { o.Now = func() time.Time { return time.Now().Add(-by) } }
		}
		if err := w.serve(late(3 * time.Minute)).wait(); err == nil || !strings.Contains(err.Error(), "own clock: 3m0s behind the log's newest fact") {
			t.Errorf("Run = %v, want that the clock is behind", err)
		}
		second := w.serve(late(time.Minute))
		w.books["council"].awaitMany(t, 2, "serving")
		second.stop()
		if n := len(only[entry.Booted](w.facts())); n != 2 {
			t.Errorf("%d boots are in the log, want 2", n)
		}
	})
}

// TestIdleJump: members leave a coordinator whose clock jumps though nothing is under way, and say why.
func TestIdleJump(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var jump atomic.Int64
		w.serve(func(o *coordinator.Options) {
			o.Now = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		})
		w.join("cleveland")
		w.books["cleveland"].await(t, "following")
		jump.Store(int64(30 * time.Minute))
		line := w.books["cleveland"].await(t, "no coordinator")
		if got := line["reason"].(string); !strings.Contains(got, "clock: the coordinator's is 30m0s ahead of ours, at most 2m0s is allowed") {
			t.Errorf("the member says %q", got)
		}
		if wait := time.Duration(line["next_try"].(float64) * float64(time.Second)); wait < 2*time.Minute {
			t.Errorf("the member comes again after %s, though only people can set clocks", wait)
		}
	})
}

// says has a member want to follow with a clock that says so, and returns what the coordinator answers.
func (w *world) says(name string, clock time.Time) error {
	w.t.Helper()
	stream, err := w.connect(attest.Participant, name).Follow(w.t.Context(), &pb.FollowRequest{Clock: clock.UnixMicro()})
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// TestLyingClocks: members whose clocks lie by years, and are the first to be heard, give no fact their time.
func TestLyingClocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		council := w.serve()
		for _, name := range []string{"budapest", "cleveland"} {
			if err := w.says(name, time.Now().AddDate(20, 0, 0)); err == nil {
				t.Errorf("%s is followed with a clock that is 20 years ahead", name)
			}
		}
		if err := w.says("longbeach", time.Now()); err != nil {
			t.Errorf("longbeach, whose clock is right: %v", err)
		}
		council.stop()
		for i, l := range w.lines() {
			if l.At.After(time.Now().Add(time.Minute)) {
				t.Errorf("fact %d is of %s, and it is %s", i, l.At, time.Now())
			}
		}
	})
}

// TestLiarsExpelled: members whose clocks lie do not hold off the manifest without one of them, whose clock then counts no more.
func TestLiarsExpelled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		for _, name := range []string{"budapest", "cleveland"} {
			if err := w.says(name, time.Now().Add(3*time.Minute)); err == nil {
				t.Errorf("%s is followed with a clock that is 3 minutes ahead", name)
			}
		}
		if err := w.says("longbeach", time.Now()); err != nil {
			t.Errorf("longbeach, whose clock is right: %v", err)
		}
		two := w.realm.next(t, w.manifest, without("budapest")...)
		if _, err := pb.NewFederationClient(w.person("cara").conn).Publish(t.Context(), &pb.PublishRequest{Envelope: two.Envelope()}); err != nil {
			t.Error(err)
		}
		w.books["council"].await(t, "the members' clocks agree with ours again")
	})
}
