package coordinator_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/control"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	pb "consilium.dev/proto/consilium/v1"
)

// desk is a control socket that is a pipe.
func (w *world) desk(name string) (*pipes, func(control.Question)) {
	lis := newPipes()
	return lis, func(q control.Question) {
		w.t.Helper()
		if err := w.tell(lis, q); err != nil {
			w.t.Fatalf("%s is told %+v: %v", name, q, err)
		}
	}
}

// tell says something over a control socket, and returns what the participant refuses it with.
func (w *world) tell(lis *pipes, q control.Question) error {
	w.t.Helper()
	conn, err := lis.dial(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_, err = control.AskOver(conn, q)
	return err
}

// TestPause pauses a participant while it trains for ever: the training stops, the others go on without it, the coordinator says
// that it is paused, and after resume it is in the next round. Then it leaves, and the run goes on without it.
func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		lis, tell := w.desk("longbeach")
		others := []string{"budapest", "cleveland", "switzerland"}
		with := func(o *participant.Options) { o.Control = lis }
		for _, name := range others {
			w.join(name)
		}
		w.join("longbeach", with)
		tell(control.Question{Verb: "status"})
		run := w.start(plan(t, func(p *entry.Plan) { p.Quorum, p.Rounds, p.Standardize, p.Local.Steps = 3, 4, nil, 1 }))
		w.books["council"].await(t, "round closed", "run", run, "round", "1")
		tell(control.Question{Verb: "pause", Reason: "the machine is needed"})
		done := w.books["longbeach"].find("update accepted")
		w.books["council"].await(t, "round closed", "run", run, "round", "4")
		// What was under way when it was paused may have been accepted; nothing more.
		if got := w.books["longbeach"].find("update accepted"); len(got) > len(done)+1 {
			t.Errorf("%d updates of a paused participant were accepted", len(got)-len(done))
		}
		if v := w.completed(run); v.Rounds[len(v.Rounds)-1].Early != string(entry.Absent) {
			t.Errorf("the last round was closed early for %q, want without the paused one", v.Rounds[len(v.Rounds)-1].Early)
		}

		second := w.start(plan(t, func(p *entry.Plan) { p.Name, p.Rounds = "second", 2 }))
		for _, name := range others {
			w.books["council"].await(t, "consented", "run", second, "member", name)
		}
		time.Sleep(5 * time.Minute)
		v, err := w.person("ada").Show(t.Context(), &pb.ShowRequest{Run: second})
		if err != nil {
			t.Fatal(err)
		}
		if want := "waiting for 1 of 4 (answer to the invitation): longbeach paused for 5 min"; v.Waiting != want {
			t.Errorf("run says %q, want %q", v.Waiting, want)
		}
		tell(control.Question{Verb: "resume"})
		w.completed(second)

		third := w.start(plan(t, func(p *entry.Plan) { p.Name, p.Quorum, p.Rounds = "third", 3, 15 }))
		w.books["council"].await(t, "round closed", "run", third, "round", "1")
		tell(control.Question{Verb: "leave", Reason: "no more"})
		if v := w.completed(third); v.Members[2].State != "left" || v.Members[2].Rule != "no more" {
			t.Errorf("a member that has left is shown as %v", v.Members[2])
		}
	})
}
