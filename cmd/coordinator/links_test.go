package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"consilium.dev/internal/entry"
)

// linked makes the plan of the tests of links: rounds with FedAdam that all four members must be in, of models with width weights.
func linked(rounds int, name string) func(*entry.Plan) {
	return func(p *entry.Plan) {
		killed(p)
		p.Rounds, p.Name, p.Local.Steps = rounds, name, 1
	}
}

// impatient has a coordinator cut a connection whose upload has stood still for so long.
func (f *federation) impatient(progress time.Duration) {
	f.t.Helper()
	f.edit("council", "coordinator.yaml", "listen:", fmt.Sprintf("limits: {progress: %s}\nlisten:", progress))
}

// edit replaces a text in one of the federation's files, which must hold it.
func (f *federation) edit(who, file, old, text string) {
	f.t.Helper()
	before, err := os.ReadFile(f.path(who, file))
	f.must(err)
	after := strings.Replace(string(before), old, text, 1)
	if after == string(before) {
		f.t.Fatalf("%s of %s holds no %q", file, who, old)
	}
	f.must(os.WriteFile(f.path(who, file), []byte(after), 0o600))
}

// TestLinks has longbeach reach the coordinator over a line on which connections are reset, cut and stand still, in the middle of
// updates and of models, and which is slow and long in the end. Then the coordinator is killed in the middle of a model, and comes
// back at another address. The run's model is that of the same run over a good line; what is sent twice is less than a chunk for
// each fault.
func TestLinks(t *testing.T) {
	f := newFederation(t)
	f.genes(width)
	f.impatient(2 * time.Second)
	council := f.coordinator("coordinator")
	members := map[string]*process{}
	for _, m := range hospitals {
		members[m] = f.participant(m)
	}
	want := f.completed(council, f.start(plan(t, linked(5, "over good lines"))))

	const middle = 500_000 // of an update of 800 KB or more, and of a model likewise
	line := f.relays["longbeach"]
	line.fail(
		fault{n: middle, kind: resets}, fault{down: true, n: middle, kind: resets},
		fault{n: middle, kind: cuts}, fault{down: true, n: middle, kind: cuts},
		fault{n: middle, kind: stalls}, fault{down: true, n: middle, kind: stalls},
	)
	run := f.start(plan(t, linked(5, "over bad lines")))
	council.log.line(t, "round closed", "run", run, "round", "3")
	line.faults.line(t, "stalled", "way", "up")
	line.pace(500_000, 50*time.Millisecond)
	line.faults.line(t, "stalled", "way", "down")
	for what, n := range map[string]int{"reset": 2, "cut": 2, "stalled": 2} {
		if got := line.faults.count(what); got != n {
			t.Errorf("the line was %s %d times, want %d", what, got, n)
		}
	}
	up, down := f.twice(run, "longbeach")
	fmt.Printf("links: 5 faults on loopback (2 resets, 2 cuts, 1 stall) and 4 Mbit/s, %d bytes of updates and %d of models sent twice: %d a fault\n",
		up, down, (up+down)/5)
	if up > 3<<20 || down > 2<<20 {
		t.Errorf("%d bytes of updates went twice in three faults, and %d of models in two: want less than 1 MiB a fault", up, down)
	}
	if n := council.log.count("upload goes on"); n != 3 {
		t.Errorf("%d uploads went on where they had broken, want 3", n)
	}
	if n := members["longbeach"].log.count("download goes on"); n != 2 {
		t.Errorf("%d downloads went on where they had broken, want 2", n)
	}
	before := f.where()
	council.kill()
	council = f.coordinator("coordinator")
	if f.where() == before {
		t.Errorf("the coordinator is back at %s, want it at another address", before)
	}
	if got := f.completed(council, run); got != want {
		t.Errorf("the model is %s, that of the same run over good lines %s", got, want)
	}
	again := members["longbeach"].log.lines("download goes on")
	if len(again) != 3 || again[2]["offset"].(float64) < middle/2 {
		t.Errorf("longbeach's downloads go on: %v, want three, the last behind what had come before the coordinator was killed", again)
	}
	for _, p := range members {
		p.stop()
	}
	council.stop()
}

// twice returns how many bytes of a run's updates, and of models to one member, were sent more than once.
func (f *federation) twice(run, member string) (up, down int64) {
	f.t.Helper()
	c := f.lead()
	defer c.Close()
	r, err := c.Run(f.t.Context(), run)
	f.must(err)
	for _, round := range r.History {
		up += round.Resent
	}
	for _, m := range r.Members {
		if m.Name == member {
			down = m.Resent
		}
	}
	return up, down
}
