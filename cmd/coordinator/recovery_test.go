package main

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"consilium.dev/internal/entry"
)

var recoveries = flag.Int("recoveries", 1, "how often TestRecovery kills the coordinator")

// TestRecovery kills the coordinator in round after round, when two or more of four updates are in its log, starts it again, and
// says how long it took from the kill until a member was admitted again and until the round was closed. The members find it again
// by themselves.
func TestRecovery(t *testing.T) {
	f := newFederation(t)
	for _, m := range hospitals {
		f.participant(m)
	}
	var admitted, closed []time.Duration
	council := f.coordinator("update_accepted 1 2 after")
	run := f.start(plan(t, func(p *entry.Plan) {
		p.Rounds, p.Quorum, p.Tries, p.Standardize = *recoveries, 4, 100, nil
	}))
	for round := 1; round <= *recoveries; round++ {
		council.stopped()
		killed := time.Now()
		council.kill()
		as := "coordinator"
		if round < *recoveries {
			as = fmt.Sprintf("update_accepted %d 2 after", round+1)
		}
		council = f.coordinator(as)
		council.log.line(t, "admitted", "office", "participant")
		admitted = append(admitted, time.Since(killed))
		council.log.line(t, "round closed", "round", fmt.Sprint(round))
		closed = append(closed, time.Since(killed))
	}
	f.completed(council, run)
	council.stop()
	for _, d := range [][]time.Duration{admitted, closed} {
		slices.Sort(d)
	}
	middle := len(closed) / 2
	fmt.Printf("recovery: %d kills; from the kill to the first member %.2f s in the middle and %.2f s at most, to the closed round %.2f s and %.2f s\n",
		len(closed), admitted[middle].Seconds(), admitted[len(closed)-1].Seconds(), closed[middle].Seconds(), closed[len(closed)-1].Seconds())
}
