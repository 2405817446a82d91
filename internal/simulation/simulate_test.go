// Package simulation_test runs whole federations in virtual time, each from one seed: the rules of package round over a log with
// package ledger's promises, a coordinator's loop around them, members that train, keep and offer, and witnesses. The network
// loses, delays, doubles and reorders messages and falls apart; disks are full, lose what was not synced, and give no answer; clocks
// jump; programs are killed between any two steps; new manifests come, without a member or with it again, or with other witnesses; the coordinator's storage is
// put back to what it was, and other coordinators run on it or on copies of it. Then the weather turns good, and everything has to come to its end.
//
// Real are the rules (round, witness), the numbers (aggregate, and the digests of model), the lines (entry, in every 64th
// world) and the Merkle tree. Modelled are network, storage, clocks and processes: what they promise is shown where they live,
// in package ledger's and store's own tests and in the coordinator's, which is killed at every step.
//
// Held after each step, by a judge who knows everything:
//
//	one history     what was released with a quorum of cosignatures, of each set of witnesses that decides over it, never forks,
//	                and no coordinator appends before a quorum of each has shown that its log is the newest
//	the exact mean  a closed round has the mean of a quorum of accepted updates, taken again in whole numbers
//	once            a member's update counts once in a round, with the weight that was declared, and under an asynchronous plan less the later
//	                it comes; none counts that is later than the plan lets it, or of a base that is no newer than what counted of that member before
//	no longer       no update outlives its round in a coordinator's memory
//	never unlogged  nobody is told of a model before the line is durable that has made it, with the privacy that it cost; where
//	                there are witnesses, before it was released; no run ends by its longest time while what it has closed is withheld
//	no lie          who is told that an update was accepted can rely on it
//	the owner's word  a paused member gives nothing to any run, one that has left a run gives that run nothing any more, over restarts;
//	                nothing of it is accepted, and it is not asked, after the line that says so
//	nobody left out a round that is closed early, since those who are missing are absent, misses none that is there and not paused;
//	                and nobody is shown as there who has said nothing for longer than that holds
//	under masks     updates are taken of those only between whom masks are agreed upon, and none any more when they come off; a round closes with
//	                the very members of whose sum they do, and never after a boot; no member masks two updates by the same keys, or shows both
//	                kinds of shares of one other member's
//	an end          a run that keeps its quorum and good weather is completed, every other one ends
//
// Several forks may each have some of the witnesses on their side, with no quorum left for any; then the federation stops. It is
// not asked for an end; the report says how many federations stopped so.
//
// make simulate SEEDS=100000 runs that many; the same seed is the same federation.
package simulation_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	many  = flag.Int("seeds", 500, "how many federations; given, they are simulated and nothing else")
	first = flag.Uint64("seed", 1, "the first of their seeds")
	told  = flag.Bool("trace", false, "print what happens in them")
)

// TestMain simulates as many federations as the flag says, and says what came of them; without it the tests run.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "seeds" })
	if !given {
		os.Exit(m.Run())
	}
	if *many < 1 {
		fmt.Fprintln(os.Stderr, "seeds: want one or more")
		os.Exit(2)
	}
	debug.SetGCPercent(400) // a world is small, and soon garbage
	os.Exit(report(os.Stdout, *first, *many, ""))
}

// fault is a rule that is broken on purpose; "" for none.
type fault string

const (
	countsTwice   fault = "an update that is sent again is added again"
	forgetsQuorum fault = "one update is a quorum"
	mixesWeights  fault = "each update has the weight of the first member"
	weighsAlike   fault = "an update weighs as much as a fresh one however late it comes"
	addsLate      fault = "an update is added while the mean is taken"
	keepsUpdates  fault = "an ended try's updates stay in memory"
	answersFirst  fault = "an update is acknowledged before it is written down"
	showsEarly    fault = "a model is told of before its round is closed"
	appendsUnseen fault = "a coordinator appends before its witnesses have shown what they keep"
	releasesAlone fault = "a closing is told of before a quorum has cosigned it"
	forgetsFormer fault = "new witnesses decide alone as soon as their manifest is adopted"
	beginsNewest  fault = "a new log begins with the newest manifest, and asks none of the witnesses before"
	cosignsForks  fault = "a witness cosigns whatever it is shown"
	cosignsFirst  fault = "a witness cosigns and forgets"
	losesMeans    fault = "a mean that was taken is forgotten"
	keepsPause    fault = "who has resumed still counts as paused"
	holdsForEver  fault = "what a member says of itself holds for ever"
	forgetsWill   fault = "what a member's administrator wants ends with its process"
	asksLeavers   fault = "who has left a run is asked on"
	outlivesBoot  fault = "a try goes on after a boot, and what was said of its masks is gone"
	masksTwice    fault = "another update is masked by the keys that one was masked by"
	showsTwice    fault = "shares are shown for another sum of the same try"
)

var faults = []fault{
	countsTwice, forgetsQuorum, mixesWeights, weighsAlike, addsLate, keepsUpdates, answersFirst, showsEarly, appendsUnseen, releasesAlone,
	cosignsForks, cosignsFirst, losesMeans, keepsPause, holdsForEver, forgetsWill, asksLeavers, outlivesBoot, masksTwice, showsTwice,
	forgetsFormer, beginsNewest,
}

// search simulates federations on all processors. What comes of them does not depend on how the work is shared.
func search(from uint64, n int, f fault, log io.Writer) []outcome {
	all := make([]outcome, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				all[i] = simulate(from+uint64(i), f, log)
			}
		})
	}
	wg.Wait()
	return all
}

// report simulates federations, prints what is wrong and how to see it again, and returns the program's exit code.
func report(out io.Writer, from uint64, n int, f fault) (code int) {
	const batch = 10_000 // outcomes in memory at once
	var sum struct {
		steps, models, released, stuck, bad int64
		harms                               [harms]int64
	}
	for done := 0; done < n; done += batch {
		var log io.Writer
		if *told {
			log = out
		}
		for i, o := range search(from+uint64(done), min(batch, n-done), f, log) {
			sum.steps, sum.models, sum.released = sum.steps+int64(o.steps), sum.models+int64(o.models), sum.released+o.released
			for h, n := range o.harms {
				sum.harms[h] += n
			}
			if o.stuck {
				sum.stuck++
			}
			if o.violation != nil {
				sum.bad++
				seed := from + uint64(done+i)
				fmt.Fprintf(out, "seed %d, step %d: %s\n  make simulate SEEDS=1 SEED=%d\n", seed, o.violation.step, o.violation.what, seed) //nolint:errcheck // as ever
			}
		}
	}
	fmt.Fprintf(out, "%d steps, %d models shown, %d lines released, %d federations left without a quorum that keeps one history\n", //nolint:errcheck // likewise
		sum.steps, sum.models, sum.released, sum.stuck)
	var wrong []string
	for h := range harms {
		wrong = append(wrong, fmt.Sprint(sum.harms[h], " ", h))
	}
	fmt.Fprintf(out, "went wrong: %s\n", strings.Join(wrong, ", ")) //nolint:errcheck // likewise
	fmt.Fprintf(out, "seeds %d violations %d\n", n, sum.bad)        //nolint:errcheck // likewise
	if sum.bad > 0 {
		return 1
	}
	return 0
}

func TestSimulate(t *testing.T) {
	var out bytes.Buffer
	if report(&out, *first, *many, "") != 0 {
		t.Error(out.String())
	}
	if want := fmt.Sprintf("\nseeds %d violations 0\n", *many); !strings.HasSuffix(out.String(), want) {
		t.Errorf("it says %q, want %q at the end", out.String(), want)
	}
}

// TestPlanted breaks a rule at a time: within a thousand seeds it is found, and the report says how to see it again.
func TestPlanted(t *testing.T) {
	for _, f := range faults {
		t.Run(string(f), func(t *testing.T) {
			const batch = 8
			for from := uint64(1); from <= 1000; from += batch {
				for i, o := range search(from, batch, f, nil) {
					if o.violation == nil {
						continue
					}
					seed := from + uint64(i)
					what, _, _ := strings.Cut(o.violation.what, "\n")
					t.Logf("seed %d: %.200s", seed, what)
					var out bytes.Buffer
					code := report(&out, seed, 1, f)
					again := fmt.Sprintf("make simulate SEEDS=1 SEED=%d\n", seed)
					if text := out.String(); code == 0 || !strings.Contains(text, again) || !strings.HasSuffix(text, "\nseeds 1 violations 1\n") {
						t.Errorf("code %d, the report says %q, want how to see it again", code, text)
					}
					return
				}
			}
			t.Error("a thousand seeds do not show it")
		})
	}
}

// TestSame simulates the same seeds twice, and then by one worker after the other: what happens is the same each time.
func TestSame(t *testing.T) {
	const n = 16
	once, again := search(1, n, "", nil), search(1, n, "", nil)
	different := map[uint64]bool{}
	for i := range n {
		alone := simulate(uint64(i+1), "", nil)
		if once[i] != again[i] || once[i] != alone {
			t.Errorf("seed %d gives %+v, then %+v, and alone %+v", i+1, once[i], again[i], alone)
		}
		different[alone.digest] = true
	}
	if len(different) != n {
		t.Errorf("%d seeds give %d different traces", n, len(different))
	}
}

// TestWeather checks that what can go wrong does, and that in spite of it there is something to judge.
func TestWeather(t *testing.T) {
	var out bytes.Buffer
	lines, models := int64(0), 0
	for seed := range uint64(60) {
		o := simulate(seed, "", &out)
		lines, models = lines+o.released, models+o.models
	}
	if lines == 0 || models == 0 {
		t.Errorf("%d lines were released and %d models shown", lines, models)
	}
	for _, what := range []string{
		"end killed", "end before a write", "end after a write", "end storage is full", "end no answer", "end another writer",
		"end no quorum is left", "cut", "clock", "full", "rollback", "second", "member ends", "a member's disk", "witness rolled back",
		"signed", "other witnesses", "hand over", "entry.ManifestAdopted", "entry.RoundFailed", "entry.UpdateRefused", "entry.Left", "entry.RoundClosed", "released", "entry.MasksAgreed", "entry.Unmasking", "masks do not come off", "masks leave no sum", "masks refused", "pause", "resume", "leave", "late update",
	} {
		if !strings.Contains(out.String(), " "+what) {
			t.Errorf("it never happens: %s", what)
		}
	}
}
