package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"consilium.dev/internal/client"
	"consilium.dev/internal/entry"
)

var soak = flag.Duration("soak", 0, "how long TestSoak goes on; 0: for a few runs")

func init() { modes["watched"] = watched }

// watched is main, and tells its vitals whenever it is asked by a signal.
func watched() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR2)
	go func() {
		for range asked {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			fmt.Fprintf(os.Stderr, "{\"msg\": \"vitals\", \"goroutines\": %d, \"heap\": %d}\n", runtime.NumGoroutine(), m.HeapAlloc)
		}
	}()
	main()
}

// vitals are what a process has of what can leak.
type vitals struct {
	runs        int // that have ended
	goroutines  int
	descriptors int
	heap        int64 // bytes that are reachable
	resident    int64 // bytes
	peak        int64 // most bytes that were resident
}

// vitals asks a watched coordinator.
func (p *process) vitals() vitals {
	p.t.Helper()
	before := p.log.count("vitals")
	if err := p.cmd.Process.Signal(syscall.SIGUSR2); err != nil {
		p.t.Fatal(err)
	}
	p.log.await(p.t, "its vitals", func() bool { return p.log.count("vitals") > before })
	var v struct {
		Goroutines int
		Heap       int64
	}
	for line := range strings.Lines(p.says()) {
		if strings.Contains(line, `"vitals"`) {
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	out := p.outside()
	out.goroutines, out.heap = v.Goroutines, v.Heap
	return out
}

// outside returns what the system knows of a process.
func (p *process) outside() vitals {
	p.t.Helper()
	folder := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	open, err := os.ReadDir(filepath.Join(folder, "fd"))
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "status"))
	if err != nil {
		p.t.Fatal(err)
	}
	v := vitals{descriptors: len(open)}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch name {
		case "VmRSS":
			v.resident = kib << 10
		case "VmHWM":
			v.peak = kib << 10
		}
	}
	return v
}

func (v vitals) String() string {
	return fmt.Sprintf("%5d runs %6d goroutines %6d descriptors %8.1f MiB heap %8.1f MiB resident", v.runs, v.goroutines, v.descriptors,
		float64(v.heap)/(1<<20), float64(v.resident)/(1<<20))
}

// bath is a federation in which members come and go.
type bath struct {
	*federation
	council *process
	boss    *client.Client // one connection for all: who dials so often as there are runs is refused
	members map[string]*process
	chance  *rand.Rand
	runs    int
	events  map[string]int
}

// TestSoak has a coordinator carry out run after run while members are killed, ended, cut off and started again, and runs
// cancelled. When it is quiet again it must have no more goroutines and descriptors than when it was quiet before, and no
// memory but that of the runs that are its history.
func TestSoak(t *testing.T) {
	b := &bath{federation: newFederation(t), members: map[string]*process{}, chance: rand.New(rand.NewPCG(1, 2)), events: map[string]int{}}
	b.edit("council", "coordinator.yaml", "listen:", "limits: {starts_per_day: 1000000}\nlisten:")
	b.council = b.coordinator("watched")
	b.boss = b.lead()
	defer b.boss.Close()
	for range 2 { // whatever is made once is made
		b.run("nothing")
	}
	first := b.quiet()
	fmt.Println("soak:", first)
	began := time.Now()
	whats := []string{"kill", "end", "cut", "cancel", "nothing"}
	report := began.Add(time.Minute)
	for i := 0; i < len(whats) || time.Since(began) < *soak; i++ {
		what := whats[b.chance.IntN(len(whats))]
		if i < len(whats) {
			what = whats[i]
		}
		b.run(what)
		if time.Now().After(report) {
			report = time.Now().Add(time.Minute)
			v := b.council.outside()
			fmt.Printf("soak: %3.0f minutes %5d runs %6d descriptors %8.1f MiB resident\n", time.Since(began).Minutes(), b.runs, v.descriptors,
				float64(v.resident)/(1<<20))
		}
	}
	last := b.quiet()
	fmt.Println("soak:", last)
	// A connection that has just ended may be remembered for a moment by the runtime's poller.
	const slack = 3
	if last.goroutines > first.goroutines+slack || last.descriptors > first.descriptors+slack {
		t.Errorf("the coordinator is quiet with %d goroutines and %d descriptors, and was with %d and %d before %d runs",
			last.goroutines, last.descriptors, first.goroutines, first.descriptors, last.runs-first.runs)
	}
	runs := int64(last.runs - first.runs)
	each := (last.heap - first.heap) / runs
	if grown := last.heap - first.heap; grown > 2<<20+runs*maxEach {
		t.Errorf("the coordinator's memory has grown by %d bytes over %d runs, more than their history takes", grown, runs)
	}
	b.council.stop()
	fmt.Printf("soak: %.0f minutes, %d runs, %s: %d bytes of memory a run, %.1f MiB at most, no goroutine and no descriptor more\n",
		time.Since(began).Minutes(), last.runs, b.happened(), each, float64(last.peak)/(1<<20))
}

// maxEach is the most bytes that a run may leave in memory: its facts, above all its plan.
const maxEach = 64 << 10

func (b *bath) happened() string {
	var all []string
	for what, n := range b.events {
		all = append(all, fmt.Sprintf("%d times %s", n, what))
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// quiet ends the members and returns the vitals of the coordinator that is left alone.
func (b *bath) quiet() vitals {
	b.t.Helper()
	for name, p := range b.members {
		p.stop()
		delete(b.members, name)
	}
	var v vitals
	for range 100 { // what a connection leaves behind goes when its ends have noticed
		last := v
		if v = b.council.vitals(); v.goroutines == last.goroutines && v.descriptors == last.descriptors {
			break
		}
	}
	v.runs = b.runs
	return v
}

// run has a run carried out, of which three of four members must be in every round, and something happen in it.
func (b *bath) run(what string) {
	b.t.Helper()
	for _, m := range hospitals {
		if b.members[m] == nil {
			b.members[m] = b.participant(m)
		}
	}
	b.runs++
	b.events[what]++
	p := plan(b.t, func(p *entry.Plan) {
		p.Name, p.Rounds, p.Quorum, p.Tries = fmt.Sprint("soak ", b.runs), 3, 4, 20
	})
	started, err := b.boss.Start(b.t.Context(), "request of "+p.Name, p)
	b.must(err)
	run := started.Run
	b.council.log.line(b.t, "round opened", "run", run)
	name := hospitals[b.chance.IntN(len(hospitals))]
	switch what {
	case "kill":
		b.members[name].kill()
		b.members[name] = b.participant(name)
	case "end":
		b.members[name].stop()
		b.members[name] = b.participant(name)
	case "cut":
		b.relays[name].sever()
	case "cancel":
		_, err = b.boss.Cancel(context.Background(), run, "soaked")
		if err != nil && b.council.log.count("run ended", "run", run) == 0 {
			b.t.Fatal(err)
		}
	}
	b.council.log.line(b.t, "run ended", "run", run)
	for _, p := range b.members {
		p.log.forget()
	}
	b.council.log.forget()
}
