package simulation_test

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/witness"
)

// vector is how many values a model has.
const vector = 3

// council is one process of a coordinator: package coordinator's loop without its goroutines.
type council struct {
	w    *world
	name string
	d    *disk
	skew time.Duration // of its clock
	dead bool

	log   chain // as it has read or written it
	state *round.State
	sums  []*sum
	seen  map[entry.Member]time.Duration // when they were last heard from
	told  map[entry.Member]saying        // what they said of themselves

	sets     witness.Sets  // as the log has them
	must     []witness.Set // for the judge: who had to show it that its log is the newest
	tally    *witness.Tallies
	open     bool // it may append
	known    int  // manifests that it has heard of
	withheld []closing
	freed    map[string]freed // the newest closing of each run that was withheld and is released
	wakes    int              // number of the newest wake

	audit audit
	shown map[entry.Member]witness.Head // for the judge: what witnesses have shown
	stood bool                          // likewise: a quorum had shown it that its log is the newest
}

// closing is a closing that nobody may hear of yet.
type closing struct {
	run   string
	round int
	line  int64
}

type freed struct {
	round int
	at    time.Time
}

// sum is the running sum of one try, in memory.
type sum struct {
	run        string
	round, try int
	spec       aggregate.Spec
	buffer     aggregate.Buffer
	held       map[entry.Member]entry.Digest
	acc        *aggregate.Sum
	combined   bool
	veil       *veil // nil without masks
	garbage    bool  // among what was added is what is no update
}

var errDead = errors.New("the process has ended")

// boot starts a coordinator on a disk.
func (w *world) boot(d *disk) {
	w.born++
	d.log = d.log.clip()
	c := &council{
		w: w, name: fmt.Sprint("council-", w.born), d: d, log: d.log, state: round.New(), seen: map[entry.Member]time.Duration{}, told: map[entry.Member]saying{},
		audit: newAudit(w), shown: map[entry.Member]witness.Head{}, freed: map[string]freed{},
	}
	w.note("boot", int64(w.born), c.log.size())
	w.councils = append(w.councils, c)
	for i, l := range c.log.lines {
		c.fold(int64(i), w.read(l).fact)
	}
	c.known = len(w.charters)
	c.must = c.ahead()
	t, err := witness.NewTallies(c.must)
	if err != nil {
		w.fail("tallies: %v", err)
	}
	c.tally = t
	if !c.log.begins(d.cosigned) {
		c.end("rolled back")
		return
	}
	t.Restore(d.cosigned, c.sets.Deciding(d.cosigned.Size), d.by)
	for i, l := range c.log.lines {
		c.apply(int64(i), w.read(l))
	}
	w.after(10*time.Second, c.beat)
	if len(c.must) == 0 || w.fault == appendsUnseen {
		c.takeOver()
	}
}

// beat tells everybody again what is wanted, in case it was lost.
func (c *council) beat() {
	if c.dead {
		return
	}
	if c.open {
		actions := c.todo()
		c.fix(actions)
		c.publish(actions)
		c.gather()
	}
	c.w.after(10*time.Second, c.beat)
}

// takeOver writes who goes on with the log.
func (c *council) takeOver() {
	c.open = true
	c.adopt()
	if c.take(round.Boot{Fact: entry.Booted{Coordinator: "council", Instance: c.name}}) == nil {
		c.settle()
	}
}

// end ends the process: what it had in memory is gone.
func (c *council) end(why string) {
	if c.dead {
		return
	}
	c.w.note("end "+why, int64(len(c.log.lines)))
	c.w.hurt(died)
	c.dead, c.sums = true, nil
	c.w.councils = slices.DeleteFunc(c.w.councils, func(o *council) bool { return o == c })
}

// time is the clock's, never behind the newest fact.
func (c *council) time() time.Time {
	now := start.Add(c.w.now + c.skew).Truncate(time.Microsecond)
	if newest := c.state.Newest(); now.Before(newest) {
		return newest
	}
	return now
}

// take decides, writes and applies, in this order.
func (c *council) take(in round.Input) error {
	if c.dead {
		return errDead
	}
	now := c.time()
	facts, err := c.state.Decide(now, in)
	if err != nil {
		if round.Reason(err) == "" {
			c.w.fail("Decide(%+v) = %v, which no peer can be told", in, err)
		}
		return err
	}
	return c.write(now, facts)
}

// write makes facts history and applies them; the process may end in between.
func (c *council) write(at time.Time, facts []entry.Fact) error {
	if len(facts) == 0 {
		return nil
	}
	if c.w.bad(3) {
		c.end("before a write")
		return errDead
	}
	var lines []line
	for _, f := range facts {
		lines = append(lines, c.w.line(at, f))
	}
	size := c.log.size()
	c.w.judge.mayAppend(c)
	if err := c.d.commit(size, lines); err != nil {
		c.end(err.Error())
		return errDead
	}
	if c.w.bad(3) {
		c.end("after a write")
		return errDead
	}
	c.log = c.d.log
	for i, l := range lines {
		c.fold(size+int64(i), l.fact)
		c.apply(size+int64(i), l)
		if f, ok := l.fact.(entry.Unmasking); ok { // then, and not when the mean is taken, it is said whom nobody waits for
			a := round.Combine{Run: f.Run, Round: f.Round, Try: f.Try, Early: f.Early}
			for _, m := range f.Members {
				a.Members = append(a.Members, entry.Contribution{Member: m})
			}
			c.w.judge.leavesOut(c, a)
		}
	}
	c.redecide(facts)
	return nil
}

// apply folds one line into everything that is derived from the log.
func (c *council) apply(position int64, l line) {
	c.w.note(fmt.Sprintf("%T", l.fact), position)
	if err := c.audit.read(c, l); err != nil {
		c.w.fail("line %d of %s, %T%+v: %v", position, c.name, l.fact, l.fact, err)
	}
	f := l.fact
	if created, ok := f.(entry.RunCreated); ok && c.w.fault == forgetsQuorum {
		created.Plan.Quorum, created.Plan.ReportGoal = 1, 0
		f = created
	}
	if _, boot := f.(entry.Booted); boot && c.w.fault == outlivesBoot {
		return
	}
	if _, gone := f.(entry.Left); gone && c.w.fault == asksLeavers {
		return
	}
	if err := c.state.Apply(l.at, f); err != nil {
		c.w.fail("Apply(%+v), line %d: %v", f, position, err)
	}
	switch f := f.(type) {
	case entry.RoundOpened:
		c.sums = append(c.sums, newSum(f, c.audit.plans[f.Run].Plan))
	case entry.RoundFailed:
		c.drop(f.Run)
	case entry.RoundClosed:
		c.drop(f.Run)
		if position >= c.visible() {
			c.withheld = append(c.withheld, closing{f.Run, f.Round, position})
		}
	case entry.RunEnded:
		c.drop(f.Run)
	}
}

// bufferOf returns the buffer of a plan's rounds of a kind, the zero value where they are synchronous.
func bufferOf(p entry.Plan, kind entry.RoundKind) aggregate.Buffer {
	s, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params)
	if err != nil {
		panic("a plan with an impossible strategy: " + err.Error())
	}
	if kind != entry.Training {
		return aggregate.Buffer{}
	}
	return s.Buffer()
}

func newSum(f entry.RoundOpened, p entry.Plan) *sum {
	s := &sum{run: f.Run, round: f.Round, try: f.Try, held: map[entry.Member]entry.Digest{}, buffer: bufferOf(p, f.Kind)}
	s.spec.Ranges = []aggregate.Range{{Len: vector, MaxAbs: 16}}
	for _, share := range f.Selected {
		s.spec.Weights = append(s.spec.Weights, share.Weight)
	}
	s.spec.Weights = s.buffer.Weights(s.spec.Weights)
	if p.Masks {
		s.veil = newVeil()
	}
	return s
}

// meant returns the sum of the try for which an update is offered: under an asynchronous plan the one that is open.
func (c *council) meant(in round.Offer) *sum {
	s := c.sum(in.Run, in.Round, in.Try)
	for _, open := range c.sums {
		if s == nil && in.Base > 0 && open.run == in.Run && open.buffer.MaxStaleness() > 0 {
			s = open
		}
	}
	return s
}

// drop forgets the sum of a run's try that has ended.
func (c *council) drop(run string) {
	if c.w.fault == keepsUpdates {
		return
	}
	c.sums = slices.DeleteFunc(c.sums, func(s *sum) bool { return s.run == run })
}

func (c *council) sum(run string, number, try int) *sum {
	for _, s := range c.sums {
		if s.run == run && s.round == number && s.try == try {
			return s
		}
	}
	return nil
}

func (c *council) holds(run string, number, try int, m entry.Member) (entry.Digest, bool) {
	s := c.sum(run, number, try)
	if s == nil {
		return entry.Digest{}, false
	}
	d, ok := s.held[m]
	return d, ok
}

// released is the round.Released of the witnesses.
func (c *council) released(run string, number int) (time.Time, bool) {
	if c.w.fault == releasesAlone {
		return time.Time{}, true
	}
	if slices.ContainsFunc(c.withheld, func(w closing) bool { return w.run == run && w.round == number }) {
		return time.Time{}, false
	}
	if f := c.freed[run]; f.round == number {
		return f.at, true
	}
	return time.Time{}, true
}

// shows reports whether everything that was closed may be heard of.
func (c *council) shows() bool { return len(c.withheld) == 0 }

// settle lets time pass until nothing follows from it any more, then sees to it that what should be going on is going on.
func (c *council) settle() {
	for i := 0; ; i++ {
		if c.dead {
			return
		}
		now := c.time()
		facts, err := c.state.Decide(now, round.Tick{Held: c.holds, Seen: c.sighting, Released: c.released, Veils: c.veils})
		if err != nil || i > 100 {
			c.w.fail("time does not stop having consequences: %v", err)
		}
		if len(facts) == 0 {
			break
		}
		if c.write(now, facts) != nil {
			return
		}
	}
	c.w.judge.shows(c)
	now, actions := c.time(), c.todo()
	c.fix(actions)
	for _, a := range actions {
		switch a := a.(type) {
		case round.Combine:
			c.combine(a)
		case round.Wake:
			c.wake(min(max(a.At.Sub(now), time.Millisecond), lease)) // a dead link tells nobody
		}
	}
	c.publish(actions)
	c.gather()
}

// todo returns what should be going on.
func (c *council) todo() []round.Action {
	return c.state.Todo(round.View{Now: c.time(), Held: c.holds, Seen: c.sighting, Released: c.released, Veils: c.veils})
}

// wake lets the process look again after a while: the last one counts.
func (c *council) wake(d time.Duration) {
	c.wakes++
	n := c.wakes
	c.w.after(d, func() {
		if !c.dead && n == c.wakes {
			c.settle()
		}
	})
}

// publish tells each member what is wanted of it.
func (c *council) publish(actions []round.Action) {
	for _, m := range c.w.members {
		var mine []round.Action
		for _, a := range actions {
			switch a := a.(type) {
			case round.Invite:
				if a.Member == m.name {
					mine = append(mine, a)
				}
			case round.Ask:
				if a.Member == m.name {
					mine = append(mine, a)
					c.w.judge.sees(c, a.Model)
				}
			case round.Mask:
				if a.Member == m.name {
					mine = append(mine, c.asks(a))
				}
			case round.Evaluate:
				if a.Member == m.name {
					mine = append(mine, a)
					c.w.judge.sees(c, a.Model)
				}
			}
		}
		if len(mine) > 0 && c.admits(m) {
			c.w.send(c.name, string(m.name), func() { m.hear(c, mine) })
		}
	}
}

// create takes the lead's wish; an initial model is durable before the run is.
func (c *council) create(in round.Create) {
	if c.dead || !c.open {
		return
	}
	if in.Fact.Initial != nil {
		if err := c.d.put([]float32{1, 2, 3}); err != nil {
			c.end(err.Error())
			return
		}
	}
	in.Limits = c.charter().limits
	if c.take(in) == nil {
		c.settle()
	}
}

// answered takes what a member says that is an input as it stands.
func (c *council) answered(m *member, in round.Input) {
	if c.dead || !c.open || !c.admits(m) {
		return
	}
	c.seen[m.name] = c.w.now
	if err := c.take(in); err == nil {
		c.settle()
	}
}

// offered takes an upload.
func (c *council) offered(m *member, in round.Offer, u *update) {
	if c.dead || !c.open || !c.admits(m) {
		return
	}
	c.seen[m.name] = c.w.now
	s := c.meant(in)
	q := round.Query{Run: in.Run, Round: in.Round, Try: in.Try, Member: in.Member, Update: in.Update, Weight: in.Weight, Source: in.Source}
	_, err := c.state.Decide(c.time(), q)
	if err == nil {
		in.Round, in.Try = s.round, s.try
	}
	switch {
	case err == nil && s.held[in.Member] == in.Update && c.w.fault != countsTwice:
		c.acknowledge(m, in)
		return
	case err == nil && (u.digest != in.Update || s.veil == nil && s.spec.Check(u.values) != nil):
		c.reject(in, "value")
		return
	case err == nil && s.combined && c.w.fault != addsLate:
		return
	case err == nil:
		if c.w.fault == answersFirst {
			c.acknowledge(m, in)
		}
		err = c.take(in)
	}
	switch {
	case errors.Is(err, round.ErrWeight), errors.Is(err, round.ErrSecond):
		c.reject(in, round.Reason(err))
	case errors.Is(err, round.ErrUsed), errors.Is(err, round.ErrStale), errors.Is(err, round.ErrModel), errors.Is(err, round.ErrFuture):
		c.w.send(c.name, string(m.name), func() { m.drop(in) })
	case err == nil:
		c.add(s, in, u)
		c.acknowledge(m, in)
		c.settle()
	}
}

// add adds an accepted update to its try's sum. A second copy of what is held is dropped.
func (c *council) add(s *sum, in round.Offer, u *update) {
	if s.held[in.Member] == in.Update && c.w.fault != countsTwice {
		return
	}
	if s.acc == nil {
		acc, err := aggregate.NewSum(s.spec)
		if err != nil {
			c.w.fail("a sum: %v", err)
		}
		s.acc = acc
	}
	staleness := 0
	if in.Base > 0 {
		staleness = in.Round - in.Base
	}
	if staleness > 0 {
		c.w.note("late update", int64(staleness))
	}
	if c.w.fault == weighsAlike {
		staleness = 0
	}
	weight, counted := s.buffer.Weigh(in.Weight, staleness)
	s.acc.AddWeight(counted)
	if c.w.fault == mixesWeights {
		weight = float64(s.spec.Weights[0])
	}
	s.acc.Add(0, u.values, weight)
	s.held[in.Member] = in.Update
	s.garbage = s.garbage || u.garbage
}

func (c *council) acknowledge(m *member, in round.Offer) {
	c.w.send(c.name, string(m.name), func() {})
	c.w.judge.acknowledged(c, in)
}

func (c *council) reject(in round.Offer, reason string) {
	err := c.take(round.Reject{Run: in.Run, Round: in.Round, Try: in.Try, Member: in.Member, Update: in.Update, Reason: reason, Source: in.Source})
	if err == nil {
		c.settle()
	}
}

// combine takes the mean beside the loop. While it does nothing is added.
func (c *council) combine(a round.Combine) {
	s := c.sum(a.Run, a.Round, a.Try)
	if s.combined {
		return
	}
	s.combined = true
	off := s.veil == nil || s.veil.comesOff(a)
	if s.veil == nil {
		c.w.judge.leavesOut(c, a)
	}
	c.w.after(time.Millisecond+c.w.upTo(300*time.Millisecond), func() {
		if c.dead || c.sum(a.Run, a.Round, a.Try) != s || c.w.fault == losesMeans {
			return
		}
		if !off || s.garbage {
			c.bare(a, s, off)
			return
		}
		mean := make([]float64, vector)
		s.acc.Mean(0, mean)
		next := step(a.Kind, c.base(a.Base), mean)
		if err := c.d.put(next); err != nil { // before anybody hears of it
			c.end(err.Error())
			return
		}
		in := round.Combined{
			Run: a.Run, Round: a.Round, Try: a.Try, Members: a.Members, Model: digestOf(next), Blob: entry.Blob{Plain: digestOf(next)},
			Early: a.Early,
		}
		if c.w.fault == showsEarly {
			c.w.judge.sees(c, in.Model)
		}
		if c.take(in) == nil {
			c.settle()
		}
	})
}

// base reads a model back.
func (c *council) base(ref *entry.Blob) []float32 {
	if ref == nil {
		return nil
	}
	values, ok := c.d.models[ref.Plain]
	if !ok {
		c.w.fail("a model that a fact names is not stored: %s", ref.Plain.Short())
	}
	return values
}

// step makes the next model of a base and a mean, or the first one of a statistics round's.
func step(kind entry.RoundKind, base []float32, mean []float64) []float32 {
	next := make([]float32, vector)
	if kind == entry.Statistics {
		for i, x := range mean {
			next[i] = float32(x)
		}
		return next
	}
	strategy, err := aggregate.NewStrategy("fedavg", nil)
	if err != nil {
		panic("fedavg without parameters: " + err.Error())
	}
	strategy.Optimizer(1).Step(next, base, mean, nil)
	return next
}
