package coordinator_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// masked makes a plan whose updates are masked.
func masked(p *entry.Plan) { p.Masks = true }

// TestMasks: a run whose updates are masked makes the very models of one whose updates are not: statistics, weights, control variates and all;
// in whatever order members come, and where coordinator and members begin again in between.
func TestMasks(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*entry.Plan){
		"fedadam":  adam,
		"scaffold": locally("scaffold", nil),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backwards := slices.Clone(hospitals)
			slices.Reverse(backwards)
			want := lastModel(t, plan(t, change), hospitals, false)
			if got := lastModel(t, plan(t, change, masked), backwards, false); got != want {
				t.Errorf("with masks the model is %s, without it is %s", got, want)
			}
			if got := lastModel(t, plan(t, change, masked), hospitals, true); got != want {
				t.Errorf("with masks, and begun again in between, the model is %s, without it is %s", got, want)
			}
		})
	}
}

// TestCrashMasked is TestCrash for a run whose updates are masked. What the coordinator knew of masks is lost with it, and the next try draws
// others; a participant that begins again goes on with its own.
func TestCrashMasked(t *testing.T) {
	for _, victim := range []string{"council", "budapest"} {
		t.Run(victim, func(t *testing.T) {
			eachWay(t, plan(t, adam, pair, short, masked), victim, func(t *testing.T, c *crashes) {
				if victim == "budapest" && c.how != before && c.tally["put mask"] != 4 {
					t.Errorf("killed at %d steps of its masks, want 4", c.tally["put mask"])
				}
			})
		})
	}
}

// TestMasksAudited: an audit finds nothing wrong with a history of masked rounds, in which a member stayed away and the coordinator began
// again; and it finds masks, updates under them and models that the rules do not draw from what the history says.
func TestMasksAudited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		council, all := w.serve(), w.joinAll()
		run := w.start(plan(t, masked, func(p *entry.Plan) { p.Rounds, p.Quorum, p.Grace = 2, 3, entry.Duration(time.Minute) }))
		w.books["council"].awaitMany(t, 2, "round closed", "run", run)
		all["longbeach"].stop()
		council.stop()
		w.serve()
		w.completed(run)
		facts := w.facts()
		if n := len(only[entry.Unmasking](facts)); n < 3 || len(only[entry.MasksAgreed](facts)) < n {
			t.Errorf("%d times masks came off, want once for each of 3 rounds at least", n)
		}
		id := final(w.completed(run)).String()
		if m, err := w.person("ada").ShowModel(t.Context(), &pb.ShowModelRequest{Model: id}); err != nil || !m.Model.Masked || m.Model.Params != nil {
			t.Errorf("the lead is shown the model as %v, %v, want that it was masked", m, err)
		}
		if r := w.verify(w.export()); len(r.Findings) != 0 || r.Masked != 3 {
			t.Errorf("an audit finds %v and %d masked rounds, want 3", r.Findings, r.Masked)
		}
		for name, folder := range map[string]string{
			"masks with fewer than a quorum":      reworded(w, w.export(), func(f *entry.MasksAgreed) { f.Members = f.Members[:2] }),
			"masks with a stranger":               reworded(w, w.export(), func(f *entry.MasksAgreed) { f.Members = append(f.Members, "zurich") }),
			"fewer updates than are in the model": reworded(w, w.export(), func(f *entry.Unmasking) { f.Members = f.Members[1:] }),
			"unmasked early without a reason":     reworded(w, w.export(), func(f *entry.Unmasking) { f.Early = entry.ReportGoal }),
			"a model of other updates":            reworded(w, w.export(), func(f *entry.RoundClosed) { f.Members = f.Members[1:] }),
		} {
			if r := w.verify(folder); len(r.Findings) < 2 { // one is of the checkpoint
				t.Errorf("%s: an audit finds %v", name, r.Findings)
			}
		}
	})
}
