package coordinator_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store/storetest"
	pb "consilium.dev/proto/consilium/v1"
)

// undisturbed returns the model that the plan of three rounds with FedAdam ends with when nothing goes wrong.
func undisturbed(t *testing.T) (id entry.Digest, calls int) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		w.joinAll()
		id = final(w.completed(w.start(plan(t, adam))))
		calls = w.disks["council"].Calls()
	})
	return id, calls
}

// TestRestarts kills the coordinator at storage calls all over a run, between two of them in effect, and starts it again: in
// rounds, between them, and between a model's storing and its round's commit. The model is the same, and every round has one
// commit.
func TestRestarts(t *testing.T) {
	t.Parallel()
	want, calls := undisturbed(t)
	step := calls / 6
	if testing.Short() {
		step = calls / 3
	}
	for n := step / 2; n < calls; n += step {
		effect := storetest.Effect(n / step % 2)
		t.Run(fmt.Sprintf("call %d %s", n, effect), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { restart(t, want, n, effect) })
		})
	}
}

func restart(t *testing.T, want entry.Digest, n int, effect storetest.Effect) {
	w := newWorld(t)
	disk := w.disks["council"]
	disk.FailFrom(n, effect)
	council := w.serve()
	w.joinAll()
	killed := false
	again := func() {
		killed = true
		_ = council.end() // it has failed, or only a call has: then it is killed now
		disk.Heal()
		council = w.serve()
	}
	var run string
	for run == "" { // a lead whose start gets no answer starts again
		r, err := w.person("ada").Start(t.Context(), &pb.StartRequest{Request: "once", Plan: asJSON(t, plan(t, adam))})
		if err != nil {
			again()
			continue
		}
		run = r.Run
	}
	if !killed {
		select {
		case <-council.done:
			again()
		case <-w.told("request failed", "run ended"):
			if len(w.books["council"].find("run ended")) == 0 {
				again()
			}
		}
	}
	disk.Heal() // a fault that is still to come: a run takes fewer calls where more facts come together
	synctest.Wait()
	select {
	case <-council.done: // of one that came after the run's end
		again()
	default:
	}
	// The end may have been durable and not logged before a kill: it is asked for.
	v := w.watched(run)
	if got := final(v); v.Summary.State != "completed" || got != want {
		t.Errorf("run is %s: %s; model %s, want it completed, and %s", v.Summary.State, v.Reason, got.Short(), want.Short())
	}
	council.stop()
	if boots := len(only[entry.Booted](w.facts())); boots < 1 || boots > 2 {
		t.Errorf("%d boots in the log, want one or two", boots)
	}
	commits := only[entry.RoundClosed](w.facts())
	if len(commits) != 4 {
		t.Errorf("%d rounds were closed, want 4", len(commits))
	}
	for i, c := range commits {
		if c.Round != i || c.Try != 1 || len(c.Members) != 4 {
			t.Errorf("commit %d is of round %d, try %d, with %d members, want the first try of round %d with 4", i, c.Round, c.Try, len(c.Members), i)
		}
	}
}

// watched follows a run as its lead does, and returns what is said of it last.
func (w *world) watched(run string) (v *pb.ShowReply) {
	w.t.Helper()
	stream, err := w.person("ada").Watch(w.t.Context(), &pb.ShowRequest{Run: run})
	for err == nil {
		var next *pb.ShowReply
		if next, err = stream.Recv(); err == nil && next.Summary != nil { // and no heartbeat
			v = next
		}
	}
	if !errors.Is(err, io.EOF) || v == nil {
		w.t.Fatalf("watching run %s: %v", run, err)
	}
	return v
}

// told returns a channel that is closed when the coordinator has logged one of these messages, or the test is over.
func (w *world) told(messages ...string) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		defer close(c)
		for {
			_, changed := w.books["council"].read()
			for _, m := range messages {
				if len(w.books["council"].find(m)) > 0 {
					return
				}
			}
			select {
			case <-changed:
			case <-w.t.Context().Done():
				return
			}
		}
	}()
	return c
}

// TestAbsence lets a participant come late, go in the middle of a run for longer than its session's patience, and come back,
// while every round wants all four.
func TestAbsence(t *testing.T) {
	t.Parallel()
	want, _ := undisturbed(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		for _, name := range hospitals[1:] {
			w.join(name)
		}
		run := w.start(plan(t, adam))
		for _, name := range hospitals[1:] {
			w.books["council"].await(t, "consented", "member", name)
		}
		time.Sleep(7 * time.Minute)
		v, err := w.person("ada").Show(t.Context(), &pb.ShowRequest{Run: run})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := v.Waiting, "waiting for 1 of 4 (answer to the invitation): budapest not seen since the coordinator started, 7 min ago"; got != want {
			t.Errorf("run says %q, want %q", got, want)
		}
		late := w.join("budapest")
		w.books["council"].await(t, "update accepted", "member", "budapest", "round", "1")
		late.stop()
		time.Sleep(5 * time.Minute)
		if v, err = w.person("ada").Show(t.Context(), &pb.ShowRequest{Run: run}); err != nil {
			t.Fatal(err)
		}
		if got, want := v.Waiting, "waiting for 1 of 4 (update of round 2): budapest last seen 5 min ago"; got != want {
			t.Errorf("run says %q, want %q", got, want)
		}
		w.join("budapest")
		if got := final(w.completed(run)); got != want {
			t.Errorf("model %s, want %s", got.Short(), want.Short())
		}
	})
}

// TestQuorum goes on without a participant that has vanished for good: one round waits for it as long as the plan's grace, the
// others not at all.
func TestQuorum(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		all := w.joinAll()
		run := w.start(plan(t, adam, func(p *entry.Plan) { p.Quorum, p.Grace = 3, entry.Duration(time.Minute) }))
		w.books["council"].await(t, "update accepted", "member", "longbeach", "round", "0")
		all["longbeach"].stop()
		v := w.completed(run)
		w.books["cleveland"].await(t, "run ended", "run", run, "outcome", "completed")
		var waited time.Duration
		for _, r := range v.Rounds[1:] {
			if len(r.Accepted) != 3 || len(r.Selected) != 4 || r.Early != string(entry.Absent) {
				t.Errorf("round %d was closed with %q of %q, early %q, want three of four for absence", r.Round, r.Accepted, r.Selected, r.Early)
			}
			waited += time.UnixMicro(r.ClosedUs).Sub(time.UnixMicro(r.OpenedUs))
		}
		if waited < time.Minute || waited > 2*time.Minute {
			t.Errorf("the rounds were open for %v, want the grace of 1m once", waited)
		}
	})
}

// TestQuorumLost fails a run whose rounds get too few updates in all their tries, and says so.
func TestQuorumLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		all := w.joinAll()
		run := w.start(plan(t, adam, func(p *entry.Plan) { p.Tries = 2 }))
		w.books["council"].await(t, "round closed", "round", "0")
		all["longbeach"].stop()
		v := w.finish(run)
		if v.Summary.State != "failed" || !strings.Contains(v.Reason, "3 of the 4 updates needed") || !strings.Contains(v.Reason, "longbeach") {
			t.Errorf("run is %s: %q, want failed, and who was missing", v.Summary.State, v.Reason)
		}
	})
}

// waits returns how long a participant said that it would wait, each time.
func waits(t *testing.T, b *book, n int) []time.Duration {
	t.Helper()
	var out []time.Duration
	for _, l := range b.awaitMany(t, n, "no coordinator") {
		out = append(out, time.Duration(l["next_try"].(float64)*float64(time.Second)))
	}
	return out
}

// TestBackoff lets participants wait for a coordinator that is not there: longer and longer, up to a limit, and not in step
// with each other. When it is there they come.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.join("budapest")
		w.join("cleveland")
		first, other := waits(t, w.books["budapest"], 15), waits(t, w.books["cleveland"], 15)
		same := 0
		for i, d := range first[:15] {
			if d < 250*time.Millisecond || d > 45*time.Second {
				t.Errorf("wait %d is %v, want 250ms to 45s", i, d)
			}
			if d == other[i] {
				same++
			}
		}
		if first[0] > time.Second || first[14] < 10*time.Second {
			t.Errorf("the first wait is %v and the last %v, want them to grow", first[0], first[14])
		}
		if same > 2 {
			t.Errorf("%d of 15 waits of two participants are the same", same)
		}
		w.serve()
		began := time.Now()
		w.books["budapest"].await(t, "following")
		w.books["cleveland"].await(t, "following")
		if waited := time.Since(began); waited > time.Minute {
			t.Errorf("the participants came after %v, want a minute at most", waited)
		}
	})
}

// TestOtherManifest has a participant that goes by another manifest wait for minutes between its attempts, since each costs
// evidence and only people can help.
func TestOtherManifest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		other := w.realm.manifestOf(t, "rounds_max: 200", "rounds_max: 100")
		w.join("budapest", func(o *participant.Options) { o.Manifest = other })
		for i, d := range waits(t, w.books["budapest"], 5) {
			if d < 2*time.Minute || d > 4*time.Minute {
				t.Errorf("wait %d is %v, want 2m to 4m", i, d)
			}
		}
		for _, name := range []string{"budapest", "council"} {
			if n := len(w.books[name].find(map[string]string{"budapest": "coordinator refused", "council": "peer refused"}[name], "class", "MANIFEST")); n < 5 {
				t.Errorf("%s logged %d refusals of class MANIFEST, want 5 or more", name, n)
			}
		}
	})
}

// TestAppraisalEnds lets a run wait for longer than an appraisal is good for. Connections end with it, and everything goes on
// over new ones, which are there before.
func TestAppraisalEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		for _, name := range hospitals[1:] {
			w.join(name)
		}
		run := w.start(plan(t, adam, func(p *entry.Plan) { p.Deadline = entry.Duration(24 * time.Hour) }))
		time.Sleep(3*time.Hour + time.Minute)
		for _, name := range hospitals[1:] {
			if n := len(w.books["council"].find("admitted", "name", name)); n < 4 || n > 8 {
				t.Errorf("%s was admitted %d times in three hours, want one time an hour or a little more", name, n)
			}
			if n := len(w.books[name].find("connection renewed")); n < 3 {
				t.Errorf("%s renewed its connection %d times in three hours, want 3 at least", name, n)
			}
			if n := len(w.books[name].find("no coordinator")); n > 0 {
				t.Errorf("%s lost the coordinator %d times in three hours", name, n)
			}
		}
		w.join("budapest")
		w.completed(run)
	})
}

// TestManifests has the log refuse a coordinator of another manifest, which is not its successor.
func TestManifests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		council := w.serve()
		w.books["council"].await(t, "serving")
		council.stop()
		with := func(m *manifest.Manifest) func(*coordinator.Options) {
			return func(o *coordinator.Options) { o.Manifest = m }
		}
		err := w.serve(with(w.realm.manifestOf(t, "rounds_max: 200", "rounds_max: 100"))).wait()
		if err == nil {
			t.Error("a coordinator of another manifest goes on with the log")
		}
		w.serve(with(w.manifest))
		w.books["council"].awaitMany(t, 2, "serving")
	})
}
