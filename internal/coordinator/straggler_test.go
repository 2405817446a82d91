package coordinator_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// TestReportGoal closes a round when as many updates are there as the plan wants, though more members were asked. The straggler
// hears that its round is closed, and is in the next one.
func TestReportGoal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open(func(p *entry.Plan) {
			p.Members = append(p.Members, "longbeach")
			p.ReportGoal, p.Rounds = 2, 2
		})
		if _, err := c.longbeach.Consent(t.Context(), &pb.ConsentRequest{Run: run, Records: records}); err != nil {
			t.Fatal(err)
		}
		// The first round was opened when longbeach was counted as absent; the second one selects it.
		next := func(number int32, who *peer) {
			u := sound(run)
			u.head.Round = number
			c.accepted(who, u)
		}
		next(1, c.budapest)
		next(1, c.cleveland)
		c.books["council"].await(t, "round opened", "run", run, "round", "2", "selected", "3")
		next(2, c.longbeach)
		late := sound(run)
		if reply, err := c.cleveland.send(t.Context(), late); err != nil || reply.State != pb.OfferReply_STATE_REFUSED || reply.Reason != "closed" {
			t.Errorf("an update of the round before: %v, %v, want closed", reply, err)
		}
		next(2, c.budapest)
		closed := c.books["council"].await(t, "round closed", "run", run, "round", "2")
		if closed["early"] != string(entry.ReportGoal) {
			t.Errorf("round 2 was closed early for %q, want the report goal", closed["early"])
		}
		u := sound(run)
		u.head.Round = 2
		if reply, err := c.cleveland.send(t.Context(), u); err != nil || reply.State != pb.OfferReply_STATE_REFUSED || reply.Reason != "closed" {
			t.Errorf("the straggler's update: %v, %v, want closed", reply, err)
		}
		if asked := u.asked; asked {
			t.Error("the straggler's bytes were asked for")
		}
		commits := only[entry.RoundClosed](c.facts())
		if n := len(commits); n != 2 || commits[1].Early != entry.ReportGoal || len(commits[1].Members) != 2 {
			t.Errorf("the log has the commits %+v, want the second with two members for the report goal", commits)
		}
	})
}

// TestMaxTime fails a run that lasts longer than its plan lets it, whatever it waits for.
func TestMaxTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		before := time.Now()
		run := w.start(plan(t, func(p *entry.Plan) { p.MaxTime = entry.Duration(17 * time.Minute) }))
		v := w.finish(run)
		if want := "it took longer than its max_time of 17m0s; it was at: waiting for consent"; v.Summary.State != "failed" || v.Reason != want {
			t.Errorf("run is %s: %q, want failed: %q", v.Summary.State, v.Reason, want)
		}
		if waited := time.Since(before).Round(time.Second); waited != 17*time.Minute {
			t.Errorf("the run failed after %v", waited)
		}
	})
}

// TestRecordsMax: a member that has more records than the manifest lets it declare takes no part; and a program that declares
// them nevertheless is not heard.
func TestRecordsMax(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "rounds_max: 200", "rounds_max: 200\n  records_max: 20")
		w.serve()
		w.joinAll()
		run := w.start(plan(t, func(p *entry.Plan) { p.Quorum = 3 }))
		v := w.finish(run)
		declined := 0
		for _, m := range v.Members {
			if strings.HasPrefix(m.Rule, "records_max: there are more than the 20 records") {
				declined++
			}
		}
		if v.Summary.State != "failed" || declined < 2 {
			t.Errorf("run is %s, and %d members say that they have too many records, want failed and two at least", v.Summary.State, declined)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.start(plan(t, bare))
		_, err := c.budapest.Consent(t.Context(), &pb.ConsentRequest{Run: run, Records: 1_000_001})
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "at most 1000000") {
			t.Errorf("Consent with more records than a manifest that does not say allows: %v", err)
		}
		if _, err := c.budapest.Consent(t.Context(), &pb.ConsentRequest{Run: run, Records: 1_000_000}); err != nil {
			t.Errorf("Consent: %v", err)
		}
	})
}

// TestLongReason: a reason that would be cut is refused.
func TestLongReason(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		run := w.start(plan(t))
		for _, reason := range []string{strings.Repeat("é", 101), "two\nlines"} {
			if _, err := w.person("ada").Cancel(t.Context(), &pb.CancelRequest{Run: run, Reason: reason}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("Cancel with the reason %q: %v, want refused", reason, err)
			}
		}
		if _, err := w.person("ada").Cancel(t.Context(), &pb.CancelRequest{Run: run, Reason: strings.Repeat("é", 100)}); err != nil {
			t.Errorf("Cancel: %v", err)
		}
	})
}
