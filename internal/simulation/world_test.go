package simulation_test

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/witness"
)

// start is when each federation begins.
var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// The longest times of the two parts of a simulation: bad weather, and then good weather in which every run has to end.
const (
	longestStorm = 5 * time.Minute
	patience     = time.Hour
)

// world is a federation in virtual time: everything that happens in it follows from its seed. Nothing in it runs at once: each
// event is carried out whole, and then the next.
type world struct {
	chance  *rand.Rand
	fault   fault
	now     time.Duration // since start
	queue   queue
	count   int // of events that were planned
	steps   int // that were carried out
	calm    bool
	encodes bool // lines are encoded
	trace   hash.Hash64
	log     io.Writer // nil: nowhere
	harms   [harms]int64

	members  []*member
	names    []entry.Member
	charters []charter      // manifests, oldest first
	wishes   []round.Create // what the lead asks for, again and again

	main      *disk   // whose council is the right one, if anybody knew
	disks     []*disk // all that a council was ever on
	snapshots []*disk
	councils  []*council // that live
	born      int        // councils so far
	cut       [][2]string

	judge judge
}

// violation is a broken promise.
type violation struct {
	step int
	what string
}

// outcome is what became of one simulated federation.
type outcome struct {
	violation *violation
	digest    uint64 // of all that happened
	steps     int
	released  int64 // lines
	models    int
	harms     [harms]int64
	stuck     bool // no log is left that a quorum of witnesses could go on with
}

// simulate runs the federation of one seed to its end.
func simulate(seed uint64, f fault, log io.Writer) (o outcome) {
	w := &world{chance: rand.New(rand.NewPCG(seed, 1)), fault: f, trace: fnv.New64a(), log: log, encodes: seed%64 == 0}
	w.judge = judge{world: w, updates: map[entry.Digest]*update{}, judged: map[[32]byte]bool{}, shown: map[entry.Digest]bool{}, wills: map[entry.Member]*will{}, words: map[*council]map[entry.Member]saying{}, hidden: map[uint64]hidden{}, kinds: map[holding]bool{}}
	defer func() {
		o.digest, o.steps, o.models, o.released, o.harms = w.trace.Sum64(), w.steps, len(w.judge.shown), w.judge.released(), w.harms
		switch p := recover().(type) {
		case nil:
		case broken:
			o.violation = &violation{w.steps, string(p)}
		default: // one of our own rooms has found a rule broken
			o.violation = &violation{w.steps, fmt.Sprintf("panic: %v\n%s", p, debug.Stack())}
		}
	}()
	w.found()
	end := time.Duration(w.chance.Int64N(int64(longestStorm)))
	for w.now < end {
		w.step()
	}
	if !w.clear() {
		o.stuck = true
		return o
	}
	w.await("the runs that were under way", w.over)
	w.wish("afterwards", true)
	w.await("a run in good weather", w.over)
	w.judge.last()
	return o
}

// broken is the panic of a promise that was not kept.
type broken string

// fail ends the simulation.
func (w *world) fail(format string, args ...any) { panic(broken(fmt.Sprintf(format, args...))) }

// note adds to the trace what happens.
func (w *world) note(what string, numbers ...int64) {
	var text [8]byte
	io.WriteString(w.trace, what) //nolint:errcheck // a hash takes everything
	for _, n := range append(numbers, int64(w.now)) {
		binary.LittleEndian.PutUint64(text[:], uint64(n))
		w.trace.Write(text[:]) //nolint:errcheck // likewise
	}
	if w.log != nil {
		fmt.Fprintf(w.log, "%6d %12v %s %v\n", w.steps, w.now, what, numbers) //nolint:errcheck // for people
	}
}

// event is something that will happen.
type event struct {
	at    time.Duration
	count int // of two at the same instant the one planned first comes first
	do    func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].count < q[j].count
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// after plans an event.
func (w *world) after(d time.Duration, do func()) {
	w.count++
	heap.Push(&w.queue, event{w.now + d, w.count, do})
}

// every plans an event again and again, at uneven intervals.
func (w *world) every(d time.Duration, do func()) {
	w.after(w.upTo(d)/2+d/2, func() { do(); w.every(d, do) })
}

// step carries out the next event and judges what it has left.
func (w *world) step() {
	e := heap.Pop(&w.queue).(event)
	w.now = e.at
	w.steps++
	e.do()
	w.judge.step()
}

// await lets good weather last until something is so.
func (w *world) await(what string, is func() bool) {
	for end := w.now + patience; !is(); w.step() {
		if w.now > end {
			w.fail("%s: no end after %v of good weather: %s", what, patience, w.describe())
		}
	}
}

// describe says where the runs are.
func (w *world) describe() string {
	if len(w.councils) == 0 {
		return "no coordinator"
	}
	var out []string
	for _, r := range w.councils[0].state.Runs() {
		out = append(out, fmt.Sprintf("%s is %s %s", r.Fact.Run, r.State, r.Reason))
	}
	return strings.Join(out, "; ")
}

// upTo draws a time below d.
func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.chance.Int64N(int64(d))) }

// bad reports, with so many chances in a thousand, that something goes wrong; never in good weather.
func (w *world) bad(permille int) bool { return !w.calm && w.chance.IntN(1000) < permille }

// send has a message from one to another arrive: in bad weather perhaps never, late, after later ones, or twice.
func (w *world) send(from, to string, arrive func()) {
	if w.bad(80) || w.apart(from, to) {
		w.hurt(lost)
		return
	}
	delay := time.Millisecond + w.upTo(50*time.Millisecond)
	if w.bad(50) {
		w.hurt(late)
		delay += w.upTo(20 * time.Second)
	}
	w.after(delay, arrive)
	if w.bad(50) {
		w.hurt(doubled)
		w.after(delay+w.upTo(10*time.Second), arrive)
	}
}

// apart reports whether the network between two is cut.
func (w *world) apart(a, b string) bool {
	return slices.Contains(w.cut, [2]string{a, b}) || slices.Contains(w.cut, [2]string{b, a})
}

// found makes the federation.
func (w *world) found() {
	for i := range 2 + w.chance.IntN(4) {
		m := &member{w: w, name: entry.Member(fmt.Sprintf("hospital-%d", i)), up: true, records: 1 + w.chance.Int64N(300), masks: map[maskTry]*maskRecord{}}
		w.members, w.names = append(w.members, m), append(w.names, m.name)
	}
	var set witness.Set
	if w.chance.IntN(4) > 0 {
		set = w.choose()
	}
	w.sign(w.names, set)
	for i := range 1 + w.chance.IntN(2) {
		w.wish(fmt.Sprint("run-", i), false)
	}
	w.main = &disk{w: w, models: map[entry.Digest][]float32{}}
	w.disks = append(w.disks, w.main)
	w.boot(w.main)
	for _, m := range w.members {
		w.every(8*time.Second, m.call)
	}
	w.every(8*time.Second, w.lead)
	w.every(6*time.Second, w.operate)
	w.every(3*time.Second, w.storm)
}

// choose draws the first witnesses, how many decide, and whom the storage of may be rolled back: fewer than two quorums share.
func (w *world) choose() witness.Set {
	n := 1 + w.chance.IntN(len(w.members))
	set := witness.Set{Quorum: n/2 + 1 + w.chance.IntN(n-n/2)}
	for i, m := range w.members[:n] {
		set.Names = append(set.Names, string(m.name))
		m.forgetful = i < 2*set.Quorum-n-1
	}
	return set
}

// wish has the lead ask for a run.
func (w *world) wish(id string, easy bool) {
	members := w.newest().limits.Members
	p := entry.Plan{
		Name: "p", Trainer: "builtin/logistic", Strategy: entry.Strategy{Name: "fedavg"}, Rounds: 1 + w.chance.IntN(3),
		Schema: []byte("{}"), Quorum: 1 + w.chance.IntN(len(members)), Deadline: entry.Duration(time.Minute), Tries: 1 + w.chance.IntN(3),
		MaxAbs: 16, Resolution: 1, Grace: entry.Duration(20 * time.Second),
	}
	if w.chance.IntN(2) == 0 {
		p.ReportGoal = p.Quorum + w.chance.IntN(len(members)-p.Quorum+1)
	}
	if n := len(members); n > 1 && w.chance.IntN(3) == 0 {
		p.Masks, p.Quorum = true, max(p.Quorum, n/2+1, 2)
		p.ReportGoal = min(p.ReportGoal, n)
		if p.ReportGoal > 0 {
			p.ReportGoal = max(p.ReportGoal, p.Quorum)
		}
	} else if w.chance.IntN(3) == 0 {
		p.ReportGoal, p.Strategy = 0, entry.Strategy{Name: "fedbuff", Params: map[string]any{
			"buffer_size": float64(p.Quorum + w.chance.IntN(len(members)-p.Quorum+1)), "max_staleness": float64(w.chance.IntN(4)),
			"normalize": []string{"buffer_size", "sum_of_weights"}[w.chance.IntN(2)],
		}}
	}
	if !easy && w.chance.IntN(4) == 0 {
		p.MaxTime = entry.Duration(time.Duration(1+w.chance.IntN(10)) * time.Minute)
	}
	f := entry.RunCreated{Run: id, Request: id, Lead: "ada", Members: members, Plan: p}
	if w.chance.IntN(2) == 0 {
		f.Plan.Standardize = &entry.Standardize{MaxAbs: 16}
	} else {
		first := []float32{1, 2, 3}
		f.Model = digestOf(first)
		f.Initial = &entry.Blob{Plain: f.Model}
	}
	w.wishes = append(w.wishes, round.Create{Fact: f})
}

// lead asks for the runs. It never knows whether an answer was lost, so it asks again.
func (w *world) lead() {
	for _, in := range w.wishes {
		if c := w.reach("ada"); c != nil {
			w.send("ada", c.name, func() { c.create(in) })
		}
	}
}

// reach returns the council that somebody's calls come to, nil if to none: of several, one or the other.
func (w *world) reach(who string) *council {
	if len(w.councils) == 0 {
		return nil
	}
	c := w.councils[w.chance.IntN(len(w.councils))]
	if w.apart(who, c.name) {
		return nil
	}
	return c
}

// over reports whether every run that was asked for has ended, as the one council knows it; the last one well.
func (w *world) over() bool {
	if len(w.councils) == 0 {
		return false
	}
	c := w.councils[0]
	for _, in := range w.wishes {
		switch ended := c.audit.over[in.Fact.Run]; {
		case ended == "":
			return false
		case in.Fact.Run == "afterwards" && ended != "completed":
			w.fail("a run in good weather is %s", w.describe())
		}
	}
	return c.shows()
}
