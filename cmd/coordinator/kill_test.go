package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
)

// width is how many weights the killed run's model has: its updates take about 1 MB, in many chunks.
const width = 300_000

// killed makes the plan of the kill test: three rounds with FedAdam that all four members must be in, and no deadline that
// matters. A round's training takes long enough to be killed in it.
func killed(p *entry.Plan) {
	p.Rounds, p.Quorum, p.Strategy, p.Standardize = 3, 4, entry.Strategy{Name: "fedadam"}, nil
	p.Local = entry.Local{Steps: 10, LearningRate: 1e-6}
	if err := p.Deadline.UnmarshalText([]byte("24h")); err != nil {
		panic(err)
	}
	p.Schema = fmt.Appendf(nil, `{"columns": [{"name": "gene", "use": "number", "count": %d}, {"name": "ill", "use": "label", "above": 0}]}`, width)
}

// TestKill kills the coordinator twice and two participants, each with SIGKILL at an instant that the log proves, and ends
// with the model of a run that nobody disturbed.
func TestKill(t *testing.T) {
	f := newFederation(t)
	f.genes(width)
	members := map[string]*process{}
	council := f.coordinator("update_accepted 1 2 after")
	for _, m := range hospitals {
		members[m] = f.participant(m)
	}
	run := f.start(plan(t, killed, func(p *entry.Plan) { p.Name = "killed" }))

	council.stopped()
	council.kill()
	l := f.replay()
	if accepted, closed := l.accepted(run, 1), l.closed(run); len(accepted) < 2 || len(closed) != 0 { // more, where they came together
		t.Fatalf("killed when the log had the updates of %q in round 1, and closed rounds %v: want two or more of four, and none", accepted, closed)
	}
	early := l.accepted(run, 1)

	council = f.coordinator("round_closed 2 1 before")
	council.stopped()
	council.kill()
	l = f.replay()
	if accepted, closed := l.accepted(run, 2), l.closed(run); len(accepted) != 4 || !slices.Equal(closed, []int{1}) {
		t.Fatalf("killed when the log had the updates of %q in round 2, and closed rounds %v: want all four, and round 1", accepted, closed)
	}
	if got := l.accepted(run, 1); len(got) != 4 || !slices.Equal(got[:len(early)], early) {
		t.Errorf("round 1 was closed with the updates of %q, want first those of %q, which had been accepted before the kill", got, early)
	}
	if large := slices.DeleteFunc(l.loose, func(n int64) bool { return n < 4*width }); len(large) != 2 {
		t.Errorf("the storage holds %d large blobs that no fact names, want the model and the optimiser's state of round 2", len(large))
	}

	// At nine tenths of its next update longbeach will find its way blocked.
	most := l.update(run, 2, "longbeach").Bytes / 10 * 9
	f.blockUpload(run, members["longbeach"], most)
	council = f.coordinator("coordinator")
	cleveland, longbeach := members["cleveland"], members["longbeach"]
	cleveland.log.line(t, "training", "run", run, "round", "3")
	cleveland.kill()
	f.relays["longbeach"].faults.line(t, "stalled")
	longbeach.kill()
	if n := council.log.count("update accepted", "round", "3", "member", "longbeach"); n != 0 || most < codec.MaxChunk/2 {
		t.Errorf("longbeach's update was accepted %d times though it was killed after %d bytes of it", n, most)
	}
	f.relays["longbeach"].sever()
	for _, m := range []string{"cleveland", "longbeach"} {
		members[m] = f.participant(m)
	}
	got := f.completed(council, run)
	goesOn := council.log.lines("upload goes on", "round", "3", "member", "longbeach")
	if len(goesOn) != 1 || goesOn[0]["offset"].(float64) < codec.MaxChunk/2 {
		t.Errorf("longbeach's upload goes on: %v, want once, behind what had come before it was killed", goesOn)
	}
	council.stop()
	l = f.replay()
	l.checkKills(t, run, len(early), most)
	for m, want := range map[string]struct{ training, offering int }{"cleveland": {1, 0}, "longbeach": {0, 1}} {
		training := members[m].log.count("training", "run", run, "round", "3")
		offering := members[m].log.count("offering the kept update again", "run", run, "round", "3")
		if training != want.training || offering != want.offering {
			t.Errorf("%s trained %d times after it was killed, and offered what it had kept %d times, want %d and %d",
				m, training, offering, want.training, want.offering)
		}
	}

	council = f.coordinator("coordinator")
	want := f.completed(council, f.start(plan(t, killed, func(p *entry.Plan) { p.Name = "undisturbed" })))
	if got != want {
		t.Errorf("the killed run's model is %s, the undisturbed one's %s", got, want)
	}
	for _, m := range hospitals {
		members[m].stop()
	}
	council.stop()
}

// stopped waits until a coordinator has stopped where it was told to.
func (p *process) stopped() {
	p.t.Helper()
	p.log.line(p.t, "stopped")
}

// blockUpload has the way from longbeach to the coordinator blocked after n more bytes, from when it trains for round 3.
func (f *federation) blockUpload(run string, longbeach *process, n int64) {
	go func() {
		for longbeach.log.count("training", "run", run, "round", "3") == 0 {
			_, changed := longbeach.log.read()
			if longbeach.log.count("training", "run", run, "round", "3") > 0 {
				break
			}
			select {
			case <-changed:
			case <-longbeach.done:
				return
			}
		}
		f.relays["longbeach"].fail(fault{n: n, kind: stalls})
	}()
}

// accepted returns the members whose updates the log has accepted in a round, in its order.
func (l log) accepted(run string, round int) []entry.Member {
	var all []entry.Member
	for _, f := range l.facts {
		if f, ok := f.(entry.UpdateAccepted); ok && f.Run == run && f.Round == round {
			all = append(all, f.Member)
		}
	}
	return all
}

// closed returns the rounds that the log has closed, in its order.
func (l log) closed(run string) []int {
	var all []int
	for _, f := range l.facts {
		if f, ok := f.(entry.RoundClosed); ok && f.Run == run {
			all = append(all, f.Round)
		}
	}
	return all
}

// update returns what the log has of a member's accepted update.
func (l log) update(run string, round int, m entry.Member) entry.UpdateAccepted {
	for _, f := range l.facts {
		if f, ok := f.(entry.UpdateAccepted); ok && f.Run == run && f.Round == round && f.Member == m {
			return f
		}
	}
	return entry.UpdateAccepted{}
}

// events words those facts of a run, and of everybody's coming and going, whose order proves where a kill fell.
func (l log) events(run string) []string {
	var all []string
	for _, f := range l.facts {
		switch f := f.(type) {
		case entry.Booted:
			all = append(all, "booted")
		case entry.Admitted:
			all = append(all, "admitted "+f.Name)
		case entry.RoundOpened:
			if f.Run == run {
				all = append(all, fmt.Sprint("opened ", f.Round))
			}
		case entry.UpdateAccepted:
			if f.Run == run {
				all = append(all, fmt.Sprintf("accepted %d %s", f.Round, f.Member))
			}
		case entry.RoundClosed:
			if f.Run == run {
				all = append(all, fmt.Sprint("closed ", f.Round))
			}
		}
	}
	return all
}

// checkKills looks for each kill in the log of a run that is over: the first came when so many updates were accepted.
func (l log) checkKills(t *testing.T, run string, early int, sent int64) {
	t.Helper()
	all := l.events(run)
	var told []string // without admissions
	for _, e := range all {
		if !strings.HasPrefix(e, "admitted") {
			told = append(told, strings.TrimRight(e, "abcdefghijklmnopqrstuvwxyz"))
		}
	}
	want := slices.Insert([]string{
		"", "opened 1", "accepted 1 ", "accepted 1 ", "accepted 1 ", "accepted 1 ", "closed 1",
		"opened 2", "accepted 2 ", "accepted 2 ", "accepted 2 ", "accepted 2 ", "", "closed 2",
		"opened 3", "accepted 3 ", "accepted 3 ", "accepted 3 ", "accepted 3 ", "closed 3",
	}, 2+early, "")
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("the run's history (a boot is an empty line; -want +got):\n%s", diff)
	}
	last := all[slices.Index(all, "opened 3"):]
	for _, m := range []string{"cleveland", "longbeach"} {
		came, accepted := slices.Index(last, "admitted "+m), slices.Index(last, "accepted 3 "+m)
		if came < 0 || accepted < came {
			t.Errorf("the log does not have %s come again in round 3 before its update: %q", m, last)
		}
	}
	if n := l.update(run, 3, "longbeach").Bytes; n <= sent {
		t.Errorf("longbeach's update has %d bytes on the wire, and it was killed after %d: that was not in the middle", n, sent)
	}
}
