package round_test

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// FuzzDecide: whatever peers send and in whatever order, Decide does not panic and changes nothing, each fact that it returns
// can be written and applied, time comes to rest, and the written log replays to the same state.
func FuzzDecide(f *testing.F) {
	ordinary := []byte{0, 1, 1, 2, 0, 3, 0} // a manifest, a boot, a run
	for m := range byte(4) {
		ordinary = append(ordinary, 3, 0, m, 10) // consent
	}
	for r := range byte(3) {
		for m := range byte(4) {
			ordinary = append(ordinary, 6, 0, r, 1, m, m, 10) // offer
		}
		ordinary = append(ordinary, 8, 0, 9, 0) // combine
	}
	f.Add(ordinary)
	late := []byte{0, 1, 1, 2, 42, 2, 0} // a run that is asynchronous
	for m := range byte(4) {
		late = append(late, 3, 2, m, 10)
	}
	late = append(late, 6, 2, 1, 1, 0, 1, 10, 6, 2, 1, 1, 1, 5, 10, 8, 9) // two of the base of round 1, and a combination
	late = append(late, 6, 2, 1, 1, 2, 1, 10, 6, 2, 2, 1, 3, 2, 10, 8, 9) // one of it in round 2, one of the base of that
	f.Add(late)
	f.Add([]byte{2, 1, 0x55, 3, 1, 0, 9, 3, 1, 1, 9, 10, 60, 11, 10, 60, 10, 60, 10, 60})
	masked := []byte{0, 1, 1, 2, 0b0_01_011_01, 0, 200} // a manifest, a boot, a run with masks: one round, a quorum of three, one try
	for m := range byte(4) {
		masked = append(masked, 3, 0, m, 10) // consent
	}
	for stage := range byte(3) {
		for m := range byte(4) {
			masked = append(masked, 252, 0, 1, 1, m, 1+stage) // what the masks need
		}
		if stage == 1 {
			for m := range byte(4) {
				masked = append(masked, 6, 0, 1, 1, m, m, 10) // offer
			}
		}
	}
	f.Add(append(masked, 8, 9))
	f.Add(append(masked, 8, 253, 10, 60, 1, 10, 60))
	f.Add(append(masked, 8, 254, 1, 8, 254, 0))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := &player{T: t, text: text, now: start, state: round.New(), held: map[string]entry.Digest{}, veils: map[string]round.Veil{}}
		for range 60 {
			if len(p.text) == 0 {
				break
			}
			p.step()
			p.settle()
		}
		if again := p.read(); !reflect.DeepEqual(p.state, again) {
			t.Fatalf("the written log replays to another state:\n%s", cmp.Diff(p.state.Runs(), again.Runs()))
		}
	})
}

// player makes inputs of bytes. There are few of each name, so that they meet.
type player struct {
	*testing.T
	text  []byte
	now   time.Time
	state *round.State
	log   []entry.Line
	held  map[string]entry.Digest
	veils map[string]round.Veil
	begun []round.Combine
	where int // the members are
}

// next returns the next byte, modulo n; 0 behind the end.
func (p *player) next(n int) int {
	if len(p.text) == 0 {
		return 0
	}
	b := p.text[0]
	p.text = p.text[1:]
	return int(b) % n
}

func (p *player) run() string          { return []string{"r0", "r1", "r2"}[p.next(3)] }
func (p *player) member() entry.Member { return []entry.Member{"a", "b", "c", "d", "e"}[p.next(5)] }
func (p *player) update() entry.Digest { return entry.Digest{1, byte(p.next(6))} }

// records is now and then a weight that cannot be, or that makes means coarse.
func (p *player) records() int64 {
	switch n := p.next(16); n {
	case 13:
		return -1
	case 14:
		return 1 << 29
	case 15:
		return 1<<29 + 1
	default:
		return int64(n)
	}
}

func (p *player) step() {
	kind := p.next(256)
	switch kind {
	case 252:
		p.veil(round.Veiled{Run: p.run(), Round: p.next(4), Try: p.next(4), Member: p.member(), Stage: round.Stage(p.next(5))})
		return
	case 253, 254:
		p.wrong(kind == 253)
		return
	}
	switch kind % 14 {
	case 0:
		n := p.next(4)
		p.decide(round.Adopt{Fact: entry.ManifestAdopted{
			Federation: "f", Epoch: uint64(n), Manifest: entry.Digest{byte(n)}, Previous: entry.Digest{byte(n) - 1},
		}})
	case 1:
		p.crash()
	case 2:
		p.decide(p.create())
	case 3:
		p.decide(round.Consent{Run: p.run(), Member: p.member(), Records: p.records()})
	case 4:
		p.decide(round.Decline{Run: p.run(), Member: p.member(), Rule: "rule"})
	case 5:
		p.decide(round.Query{Run: p.run(), Round: p.next(4), Try: p.next(4), Member: p.member(), Update: p.update(), Weight: p.records()})
	case 6:
		o := round.Offer{Run: p.run(), Round: p.next(4), Try: p.next(4), Member: p.member(), Update: p.update(), Weight: p.records()}
		if o.Run == "r2" { // its rounds are asynchronous
			o.Base = int(o.Update[1]) % 4
		}
		if p.decide(o) {
			if r, _ := p.state.Run(o.Run); o.Base > 0 {
				now := r.Rounds[len(r.Rounds)-1]
				o.Round, o.Try = now.Round, now.Try
			}
			p.held[tryKey(o.Run, o.Round, o.Try)+string(o.Member)] = o.Update
		}
	case 7:
		r := round.Reject{Run: p.run(), Round: p.next(4), Try: p.next(4), Member: p.member(), Update: p.update(), Reason: "value"}
		for range p.next(10) {
			p.decide(r)
		}
	case 8:
		p.begin()
	case 9:
		p.finish()
	case 10:
		p.now = p.now.Add(time.Duration(p.next(256)) * time.Second)
	case 11:
		p.evaluate()
	case 12:
		p.decide(round.Leave{Run: p.run(), Member: p.member(), Reason: "reason"})
	case 13:
		p.where = p.next(256)
	}
}

func (p *player) create() round.Create {
	bits := p.next(256)
	plan := entry.Plan{
		Trainer: "builtin/logistic", Strategy: entry.Strategy{Name: "fedavg"}, Rounds: bits & 3, Quorum: bits >> 2 & 7, Tries: bits >> 5 & 3,
		Deadline: entry.Duration(time.Minute), MaxAbs: 16, Schema: []byte("{}"),
	}
	if bits&3 == 3 { // the longest runs
		plan.ReportGoal, plan.Grace, plan.MaxTime = p.next(6), entry.Duration(time.Second)*entry.Duration(p.next(256)), entry.Duration(10*time.Minute)
	}
	run, who := p.run(), p.next(256)
	if plan.Masks = who >= 192; plan.Masks {
		plan.ReportGoal = 0
	}
	f := entry.RunCreated{
		Run: run, Request: "request", Lead: []string{"x", "y", "z"}[who%3], Members: []entry.Member{"a", "b", "c", "d"}, Plan: plan,
	}
	if f.Run == "r2" {
		f.Plan.ReportGoal = 0
		f.Plan.Strategy = entry.Strategy{Name: "fedbuff", Params: map[string]any{"buffer_size": float64(max(plan.Quorum, 1)), "max_staleness": 2.0}}
	}
	if bits&128 != 0 {
		f.Plan.Standardize = &entry.Standardize{MaxAbs: 16}
	} else {
		f.Initial, f.Model = &zeros, zeros.Plain
	}
	if bits == 255 {
		f.Members = []entry.Member{"b", "a"}
	}
	return round.Create{Fact: f, Limits: round.Limits{
		Members: f.Members, Strategies: []string{"fedavg", "fedbuff"}, Trainers: []string{"builtin/logistic"}, MaxAbs: 16, RoundsMax: 3, OpenRuns: 2,
	}}
}

// veil answers what a try's masks need, where it is taken, as a coordinator does that knows what was said before.
func (p *player) veil(in round.Veiled) {
	if !p.decide(in) {
		return
	}
	key := tryKey(in.Run, in.Round, in.Try)
	v := p.veils[key]
	for _, a := range p.state.Todo(p.view()) {
		if a, ok := a.(round.Mask); ok && a.Run == in.Run && a.Stage == round.Share && v.Among == nil {
			v.Among = a.Among
		}
	}
	to := map[round.Stage]*[]entry.Member{round.Announce: &v.Announced, round.Share: &v.Shared, round.Show: &v.Shown}[in.Stage]
	if slices.Contains(*to, in.Member) || in.Stage == round.Announce == (v.Among != nil) || v.Among != nil && !slices.Contains(v.Among, in.Member) {
		return
	}
	*to = append(slices.Clone(*to), in.Member)
	slices.Sort(*to)
	p.veils[key] = v
}

// wrong has the masks not come off the sum that is to be combined first, or what is left be none.
func (p *player) wrong(shares bool) {
	if len(p.begun) == 0 || p.begun[0].Masked == nil {
		return
	}
	c := p.begun[0]
	p.begun = p.begun[1:]
	if !shares {
		p.decide(round.Spoil{Run: c.Run, Round: c.Round, Try: c.Try, Reason: "an update is none"})
		return
	}
	key := tryKey(c.Run, c.Round, c.Try)
	v := p.veils[key]
	v.Wrong, v.Why = len(v.Shown), "a share is wrong"
	p.veils[key] = v
}

func (p *player) veilOf(run string, number, try int) round.Veil {
	return p.veils[tryKey(run, number, try)]
}

// begin remembers what is to be combined, finish hands in the one that was remembered first, however old it is.
func (p *player) begin() {
	for _, a := range p.state.Todo(p.view()) {
		if c, ok := a.(round.Combine); ok {
			p.begun = append(p.begun, c)
		}
	}
}

func (p *player) finish() {
	if len(p.begun) == 0 {
		return
	}
	c := p.begun[0]
	p.begun = p.begun[1:]
	model := mean(c.Base, c.Members)
	p.decide(round.Combined{Run: c.Run, Round: c.Round, Try: c.Try, Members: c.Members, Model: model, Blob: entry.Blob{Plain: model}, Early: c.Early})
}

// evaluate answers one of the questions, or none that was asked.
func (p *player) evaluate() {
	in := round.Evaluation{Run: p.run(), Round: p.next(4), Member: p.member()}
	n := p.next(64)
	for _, a := range p.state.Todo(p.view()) {
		if e, ok := a.(round.Evaluate); ok {
			if n == 0 {
				in = round.Evaluation{Run: e.Run, Round: e.Round, Member: e.Member, Model: e.Model}
				break
			}
			n--
		}
	}
	in.Metrics = []entry.Metric{{Set: "test", Name: "loss", Value: 0.5, Count: int64(p.next(3)) - 1, Better: "min"}}
	p.decide(in)
}

// decide returns whether the input was taken.
func (p *player) decide(in round.Input) bool {
	before := p.state.Runs()
	facts, err := p.state.Decide(p.now, in)
	if after := p.state.Runs(); !reflect.DeepEqual(before, after) {
		p.Fatalf("Decide(%+v) changed the state:\n%s", in, cmp.Diff(before, after))
	}
	if err != nil {
		if round.Reason(err) == "" || facts != nil {
			p.Fatalf("Decide(%+v) = %v, %v: no reason, or facts with it", in, facts, err)
		}
		return false
	}
	for _, f := range facts {
		p.log = append(p.log, entry.Line{At: p.now, Fact: f})
		if err := p.state.Apply(p.now, f); err != nil {
			p.Fatalf("Apply(%+v), which Decide returned: %v", f, err)
		}
	}
	return true
}

// settle lets time pass until nothing follows, and then asks when something will.
func (p *player) settle() {
	for size := -1; size != len(p.log); {
		if size = len(p.log); size > 10000 {
			p.Fatal("time does not come to rest")
		}
		p.decide(round.Tick{Held: p.holds, Seen: p.seen, Veils: p.veilOf})
	}
	for _, a := range p.state.Todo(p.view()) {
		if w, ok := a.(round.Wake); ok && !w.At.After(p.now) {
			p.Fatalf("wake at %s, and it is %s", w.At, p.now)
		}
	}
}

func (p *player) view() round.View {
	return round.View{Now: p.now, Held: p.holds, Seen: p.seen, Veils: p.veilOf}
}

// seen reads two bits for each member: connected, paused.
func (p *player) seen(m entry.Member) round.Sighting {
	bits := p.where >> (2 * (m[0] - 'a') % 8)
	return round.Sighting{Last: p.now.Add(-time.Minute), Connected: bits&1 == 0, Paused: bits&2 != 0}
}

func (p *player) holds(run string, number, attempt int, m entry.Member) (entry.Digest, bool) {
	d, ok := p.held[tryKey(run, number, attempt)+string(m)]
	return d, ok
}

// crash erases memory, and outcomes on their way; the log is what is left.
func (p *player) crash() {
	clear(p.held)
	clear(p.veils)
	p.begun = nil
	p.state = round.New()
	for _, l := range p.log {
		if err := p.state.Apply(l.At, l.Fact); err != nil {
			p.Fatalf("replaying %+v: %v", l.Fact, err)
		}
	}
	p.decide(round.Boot{})
}

// read writes the log as text and replays what it reads in it.
func (p *player) read() *round.State {
	s := round.New()
	for i, l := range p.log {
		l, err := entry.Decode(entry.Encode([16]byte{}, l.At, l.Fact)) // Encode panics over what cannot be written
		if err != nil {
			p.Fatalf("line %d: %v", i, err)
		}
		if err := s.Apply(l.At, l.Fact); err != nil {
			p.Fatalf("line %d, %+v: %v", i, l.Fact, err)
		}
	}
	return s
}
