package round_test

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/privacy"
	"consilium.dev/internal/round"
)

var seeds = flag.Int("seeds", 500, "how many simulated federations TestSimulate tries")

// TestSimulate runs whole federations in virtual time, each from one seed: members answer, refuse, vanish, come back, repeat
// themselves, lie and lose what they kept; messages are lost, doubled and late; the coordinator crashes before and after each
// write. After every step the rules of the log are checked and the state is compared with a replay. When the weather has turned
// good a run must end.
func TestSimulate(t *testing.T) {
	stale := 0
	for seed := range *seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := newWorld(t, uint64(seed))
			for range 400 {
				w.step()
			}
			w.calm = true
			for range 4000 {
				if w.ended() {
					stale = max(stale, w.audit.stalest)
					return
				}
				w.step()
			}
			t.Fatalf("a run in good weather did not end:\n%s", w.trace())
		})
	}
	if *seeds >= 500 && stale < 2 {
		t.Errorf("no update of all came more than %d rounds late", stale)
	}
}

// world is a coordinator without a network, a disk or numbers, and its members.
type world struct {
	testing.TB
	chance *rand.Rand
	now    time.Time
	calm   bool

	log   []entry.Line
	state *round.State
	held  map[string]entry.Digest         // memory: what a crash erases
	seen  map[entry.Member]round.Sighting // likewise; whoever is not in it is connected
	busy  map[string]bool                 // tries whose mean is being taken
	veils map[string]round.Veil           // memory: what was said of masks
	mail  []round.Input                   // on its way to the coordinator

	members []entry.Member
	limits  round.Limits
	kept    map[string]entry.Digest // members' own disks: by member, run and round
	fresh   int

	checked int // entries of the log
	audit   audit
}

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(t testing.TB, seed uint64) *world {
	w := &world{
		TB: t, chance: rand.New(rand.NewPCG(seed, 1)), now: start, state: round.New(), held: map[string]entry.Digest{},
		busy: map[string]bool{}, veils: map[string]round.Veil{}, kept: map[string]entry.Digest{}, seen: map[entry.Member]round.Sighting{},
		audit: audit{
			models: map[string]entry.Digest{}, quorum: map[string]int{}, last: map[string]int{}, over: map[string]bool{},
			masked: map[string][]entry.Member{}, unmasking: map[string][]entry.Member{},
			accepted: map[string]entry.Digest{}, late: map[string]int{}, counted: map[string]int{}, goal: map[string]int{}, reference: map[string]entry.Member{}, gone: map[string]bool{}, plans: map[string]entry.Plan{},
		},
	}
	for i := range 2 + w.chance.IntN(5) {
		w.members = append(w.members, entry.Member(fmt.Sprintf("hospital-%d", i)))
	}
	w.limits = round.Limits{
		Members: w.members, Strategies: []string{"fedavg", "fltrust", "fedbuff"}, Trainers: []string{"builtin/logistic"}, LeastParticipants: 1,
		MaxAbs: 1 << 20, RoundsMax: 10, OpenRuns: 4,
	}
	if len(w.members) >= round.LeastPrivate && seed%3 == 0 {
		unit := []string{entry.Participant, entry.Record}[w.chance.IntN(2)]
		w.limits.Budget = entry.Budget{Unit: unit, Epsilon: 2 + 10*w.chance.Float64(), Delta: 1e-5}
		w.audit.budget = w.limits.Budget
	}
	w.decide(round.Adopt{
		Fact: entry.ManifestAdopted{Federation: "f", Epoch: 1, Manifest: entry.Digest{1}, Budget: w.limits.Budget}, Limits: w.limits,
	})
	w.decide(round.Boot{})
	for i := range 1 + w.chance.IntN(2) {
		w.create(i)
	}
	return w
}

// create asks for a run; in good weather every run can end, for the plan asks for no more than the members could give.
func (w *world) create(i int) {
	p := entry.Plan{
		Name: "p", Trainer: "builtin/logistic", Strategy: entry.Strategy{Name: "fedavg"}, Rounds: 1 + w.chance.IntN(4),
		Quorum: 1 + w.chance.IntN(len(w.members)), Deadline: entry.Duration(time.Minute), Tries: 1 + w.chance.IntN(4), MaxAbs: 16,
		Resolution: 1, Grace: entry.Duration(10 * time.Second),
	}
	private := w.limits.Budget != entry.Budget{}
	if private {
		p.Quorum, p.Resolution = max(p.Quorum, round.LeastPrivate), 0
		p.Privacy = &entry.Privacy{Unit: entry.Participant, ClipNorm: 0.5, NoiseMultiplier: 0.5 + 4*w.chance.Float64(), Delta: 1e-5}
		switch p.Privacy.Unit = w.limits.Budget.Unit; {
		case p.PerRecord():
			p.Privacy.ExpectedRecords = 1 + w.chance.Int64N(1000)
			if w.chance.IntN(2) == 0 {
				p.Privacy.SamplingRate = 0.01 + 0.98*w.chance.Float64()
			}
		case w.chance.IntN(2) == 0:
			p.Privacy.Adaptive = &entry.AdaptiveClip{Quantile: 0.5, LearningRate: 0.2, CountStddev: 3}
		}
	}
	if w.chance.IntN(2) == 0 {
		p.ReportGoal = p.Quorum + w.chance.IntN(len(w.members)-p.Quorum+1)
	}
	if !private && w.chance.IntN(3) == 0 && len(w.members) > 1 {
		p.Masks, p.Quorum, p.ReportGoal = true, max(p.Quorum, len(w.members)/2+1, 2), 0
	} else if w.chance.IntN(4) == 0 && p.Quorum > 1 {
		who := w.members[w.chance.IntN(len(w.members))]
		p.Strategy = entry.Strategy{Name: "fltrust", Params: map[string]any{"reference": string(who)}}
	}
	if !private && !p.Masks && w.chance.IntN(4) == 0 {
		p.ReportGoal = 0
		p.Strategy = entry.Strategy{Name: "fedbuff", Params: map[string]any{
			"buffer_size": float64(p.Quorum + w.chance.IntN(len(w.members)-p.Quorum+1)), "max_staleness": float64(w.chance.IntN(4)),
		}}
	}
	if w.chance.IntN(4) == 0 {
		p.MaxTime = entry.Duration(10 * time.Minute)
	}
	f := entry.RunCreated{
		Run: fmt.Sprintf("run-%d", i), Request: fmt.Sprint(i), Lead: "lead", Members: w.members, Plan: p,
	}
	if !private && w.chance.IntN(2) == 0 {
		f.Plan.Standardize = &entry.Standardize{MaxAbs: 16}
	} else {
		f.Initial, f.Model = &entry.Blob{Plain: digest("initial")}, digest("initial")
	}
	in := round.Create{Fact: f, Limits: w.limits}
	w.decide(in)
	w.decide(in) // the answer was lost: the same request once more
}

func digest(parts ...any) entry.Digest { return sha256.Sum256(fmt.Append(nil, parts...)) }

func (w *world) chanceOf(percent int) bool { return !w.calm && w.chance.IntN(100) < percent }

// step lets one thing happen.
func (w *world) step() {
	switch n := w.chance.IntN(10); {
	case n == 0:
		w.now = w.now.Add(time.Duration(w.chance.Int64N(int64(20 * time.Second))))
	case w.chanceOf(3):
		w.crash()
	case w.chanceOf(2):
		w.lose()
	case w.chanceOf(10):
		w.move()
	case w.chanceOf(1):
		w.leave()
	case n < 5 && len(w.mail) > 0:
		w.deliver()
	default:
		w.act()
	}
	w.settle()
	w.check()
}

func (w *world) view() round.View {
	return round.View{Now: w.now, Held: w.holds, Seen: w.sighting, Veils: w.veil}
}

// settle is the coordinator's loop: time passes until nothing follows from it any more.
func (w *world) settle() {
	for range 100 {
		if w.decide(round.Tick{Held: w.holds, Seen: w.sighting, Veils: w.veil}) == 0 {
			return
		}
	}
	w.Fatalf("time does not stop having consequences:\n%s", w.trace())
}

// sighting says where a member is; in good weather everybody is there.
func (w *world) sighting(m entry.Member) round.Sighting {
	if at, ok := w.seen[m]; ok && !w.calm {
		return at
	}
	return round.Sighting{Last: w.now, Connected: true}
}

// move lets a member vanish, come back or pause.
func (w *world) move() {
	m := w.members[w.chance.IntN(len(w.members))]
	w.seen[m] = round.Sighting{Last: w.now, Connected: w.chance.IntN(2) == 0, Paused: w.chance.IntN(4) == 0}
}

// leave lets a member withdraw from a run.
func (w *world) leave() {
	runs := w.state.Runs()
	if len(runs) == 0 { // a crash came before the first was written
		return
	}
	w.send(round.Leave{Run: runs[w.chance.IntN(len(runs))].Fact.Run, Member: w.members[w.chance.IntN(len(w.members))]})
}

func (w *world) holds(run string, number, attempt int, m entry.Member) (entry.Digest, bool) {
	d, ok := w.held[tryKey(run, number, attempt)+string(m)]
	return d, ok
}

func tryKey(run string, number, attempt int) string {
	return fmt.Sprintf("%s/%d/%d/", run, number, attempt)
}

// decide decides, writes and applies, and may crash between any two of them. It returns how many facts followed.
func (w *world) decide(in round.Input) int {
	facts, err := w.state.Decide(w.now, in)
	if err != nil {
		if round.Reason(err) == "" {
			w.Fatalf("Decide(%+v) = %v, which no peer can be told", in, err)
		}
		return 0
	}
	if len(facts) > 0 && w.chanceOf(2) { // before the write
		w.crash()
		return 0
	}
	for _, f := range facts {
		w.log = append(w.log, entry.Line{At: w.now, Fact: f})
	}
	if len(facts) > 0 && w.chanceOf(2) { // after it
		w.crash()
		return len(facts)
	}
	for _, f := range facts {
		if err := w.state.Apply(w.now, f); err != nil {
			w.Fatalf("Apply(%+v), which Decide returned: %v", f, err)
		}
	}
	if o, ok := in.(round.Offer); ok {
		o = w.aimed(o)
		w.mustBeAccepted(o)
		w.held[tryKey(o.Run, o.Round, o.Try)+string(o.Member)] = o.Update
	}
	return len(facts)
}

// aimed returns the offer for the try that is meant: that which is open, where it says of which base it is under an asynchronous plan.
func (w *world) aimed(o round.Offer) round.Offer {
	r, _ := w.state.Run(o.Run)
	if n := len(r.Rounds); n > 0 && o.Base > 0 && latest(r.Fact.Plan) > 0 {
		o.Round, o.Try = r.Rounds[n-1].Round, r.Rounds[n-1].Try
	}
	return o
}

// mustBeAccepted fails the test where an offer was taken that the state does not know as the member's one update.
func (w *world) mustBeAccepted(o round.Offer) {
	r, _ := w.state.Run(o.Run)
	for _, t := range r.Rounds {
		if t.Round == o.Round && t.Try == o.Try && slices.ContainsFunc(t.Accepted, func(a entry.UpdateAccepted) bool {
			return a.Member == o.Member && a.Update == o.Update && a.Weight == o.Weight
		}) {
			return
		}
	}
	w.Fatalf("offer %+v was taken and is not accepted:\n%s", o, w.trace())
}

// crash erases the coordinator's memory and boots it again.
func (w *world) crash() {
	clear(w.held)
	clear(w.busy)
	clear(w.veils)
	clear(w.seen)
	w.mail = nil
	w.state = w.replay()
	calm := w.calm
	w.calm = true // one crash at a time
	w.decide(round.Boot{})
	w.calm = calm
}

func (w *world) replay() *round.State {
	s := round.New()
	for i, l := range w.log {
		if err := s.Apply(l.At, l.Fact); err != nil {
			w.Fatalf("replaying entry %d, %+v: %v", i, l.Fact, err)
		}
	}
	return s
}

// lose makes a member forget an update that it kept.
func (w *world) lose() {
	for _, k := range slices.Sorted(maps.Keys(w.kept)) { // in an order that the seed decides
		if w.chance.IntN(4) == 0 {
			delete(w.kept, k)
		}
	}
}

// act lets somebody do one of the things that are wanted.
func (w *world) act() {
	actions := w.state.Todo(w.view())
	if len(actions) == 0 {
		return
	}
	switch a := actions[w.chance.IntN(len(actions))].(type) {
	case round.Invite:
		if w.chanceOf(15) {
			w.send(round.Decline{Run: a.Run, Member: a.Member, Rule: "rule"})
		} else {
			records := 1 + w.chance.Int64N(300)
			if a.Plan.Privacy != nil && !w.chanceOf(5) { // now and then one says how many it has, which is not taken
				records = 1
			}
			w.send(round.Consent{Run: a.Run, Member: a.Member, Records: records})
		}
	case round.Ask:
		w.answer(a)
	case round.Mask:
		w.mask(a)
	case round.Evaluate:
		w.send(round.Evaluation{Run: a.Run, Round: a.Round, Member: a.Member, Model: a.Model})
	case round.Combine:
		w.combine(a)
	case round.Wake:
		if w.calm {
			w.now = a.At
		}
	}
}

// answer offers what the member has kept, or trains anew; now and then it lies.
func (w *world) answer(a round.Ask) {
	base := a.Round
	key := fmt.Sprint(a.Member, a.Run, base)
	d, ok := w.kept[key]
	for n := 1; !ok && n <= latest(a.Plan) && a.Round-n > 0; n++ { // it has begun with the model of an earlier round
		old := fmt.Sprint(a.Member, a.Run, a.Round-n)
		if d, ok = w.kept[old]; ok && d == a.Contributed {
			break // what counts is newer than all before it
		}
		if ok {
			base, key = a.Round-n, old
		}
	}
	if ok && d == a.Contributed {
		ok = false
	}
	if !ok {
		if !a.Accepted.IsZero() {
			return // it has lost what was accepted, and sits this try out
		}
		w.fresh++
		d = digest(key, w.fresh)
		w.kept[key] = d
	}
	in := round.Offer{
		Run: a.Run, Round: a.Round, Try: a.Try, Member: a.Member, Update: d, Weight: a.Weight, Bytes: 1, Source: round.Source{Base: base},
	}
	switch {
	case w.chanceOf(5):
		in.Update = digest("another", w.fresh, w.chance.Uint64())
	case w.chanceOf(5):
		in.Weight++
	case w.chanceOf(5):
		in.Round++
	case w.chanceOf(5):
		in.Base += w.chance.IntN(5) - 2
	case w.chanceOf(10):
		w.send(round.Reject{Run: a.Run, Round: a.Round, Try: a.Try, Member: a.Member, Update: d, Reason: "value"})
		return
	}
	w.send(in)
}

// mask answers what the masks of a try need; now and then it answers another stage.
func (w *world) mask(a round.Mask) {
	if key := tryKey(a.Run, a.Round, a.Try); a.Stage == round.Share && w.veils[key].Among == nil {
		v := w.veils[key]
		v.Among = a.Among
		w.veils[key] = v
	}
	in := round.Veiled{Run: a.Run, Round: a.Round, Try: a.Try, Stage: a.Stage, Member: a.Member}
	if w.chanceOf(5) {
		in.Stage = round.Stage(w.chance.IntN(5))
	}
	w.send(in)
}

func (w *world) veil(run string, number, try int) round.Veil {
	return w.veils[tryKey(run, number, try)]
}

// veiled takes an answer as the coordinator does, which knows what was said before.
func (w *world) veiled(in round.Veiled) {
	if _, err := w.state.Decide(w.now, in); err != nil {
		return
	}
	key := tryKey(in.Run, in.Round, in.Try)
	v := w.veils[key]
	add := func(to []entry.Member) []entry.Member {
		if slices.Contains(to, in.Member) {
			return to
		}
		out := append(slices.Clone(to), in.Member)
		slices.Sort(out)
		return out
	}
	switch {
	case in.Stage == round.Announce && v.Among == nil:
		v.Announced = add(v.Announced)
	case in.Stage == round.Share && slices.Contains(v.Among, in.Member):
		v.Shared = add(v.Shared)
	case in.Stage == round.Show:
		v.Shown = add(v.Shown)
	}
	w.veils[key] = v
}

// latest returns how many rounds late an update may be under a plan.
func latest(p entry.Plan) int {
	n, _ := p.Strategy.Params["max_staleness"].(float64)
	return int(n)
}

// combine takes the mean beside the loop: its outcome is another message.
func (w *world) combine(a round.Combine) {
	key := tryKey(a.Run, a.Round, a.Try)
	if w.busy[key] {
		return
	}
	w.busy[key] = true
	if a.Masked != nil && w.chanceOf(10) {
		w.mail = append(w.mail, round.Spoil{Run: a.Run, Round: a.Round, Try: a.Try, Reason: "a share is wrong"})
		return
	}
	in := round.Combined{
		Run: a.Run, Round: a.Round, Try: a.Try, Members: a.Members, Model: mean(a.Base, a.Members),
		Blob: entry.Blob{Plain: mean(a.Base, a.Members)}, Early: a.Early,
	}
	if recipe, private := round.Recipe(a.Plan); private != (a.Clip > 0) || private && len(a.Members) > a.Selected {
		w.Fatalf("asks for a mean with noise without a clip norm, or the reverse: %+v", a)
	} else if private && recipe.Adaptive != nil {
		in.Clip = recipe.Adaptive.Next(a.Clip, w.chance.Float64())
	}
	w.mail = append(w.mail, in)
}

// mean stands for the exact mean: the same base and the same updates give the same digest.
func mean(base *entry.Blob, members []entry.Contribution) entry.Digest {
	from := entry.Digest{}
	if base != nil {
		from = base.Plain
	}
	return digest(from, members)
}

// send puts a message on its way: it may be lost, or arrive twice.
func (w *world) send(in round.Input) {
	if w.chanceOf(15) {
		return
	}
	w.mail = append(w.mail, in)
	if w.chanceOf(15) {
		w.mail = append(w.mail, in)
	}
}

// deliver brings any of the messages that are on their way.
func (w *world) deliver() {
	i := w.chance.IntN(len(w.mail))
	in := w.mail[i]
	w.mail = slices.Delete(w.mail, i, i+1)
	if o, ok := in.(round.Offer); ok {
		o = w.aimed(o)
		if !w.busy[tryKey(o.Run, o.Round, o.Try)] {
			w.decide(in)
		}
		return // the sum is closed: the coordinator refuses it before the rules see it
	}
	if v, ok := in.(round.Veiled); ok {
		w.veiled(v)
		return
	}
	w.decide(in)
}

func (w *world) ended() bool {
	for _, r := range w.state.Runs() {
		if r.State != "completed" && r.State != "failed" {
			return false
		}
	}
	return true
}

// check reads the whole log as an auditor would and compares the state with its replay.
func (w *world) check() {
	if w.checked == len(w.log) {
		return
	}
	again := w.replay()
	view := w.view()
	if got, want := w.state.Runs(), again.Runs(); !reflect.DeepEqual(got, want) {
		w.Fatalf("the state differs from its replay:\n%s%s", cmp.Diff(got, want), w.trace())
	}
	if got, want := w.state.Todo(view), again.Todo(view); !reflect.DeepEqual(got, want) {
		w.Fatalf("the state wants other things than its replay:\n%s%s", cmp.Diff(got, want), w.trace())
	}
	for ; w.checked < len(w.log); w.checked++ {
		if err := w.audit.read(w.log[w.checked].Fact); err != nil {
			w.Fatalf("entry %d: %v\n%s", w.checked, err, w.trace())
		}
	}
}

func (w *world) trace() string {
	var out strings.Builder
	for i, l := range w.log {
		fmt.Fprintf(&out, "%4d %s %T%+v\n", i, l.At.Format("15:04:05"), l.Fact, l.Fact)
	}
	return out.String()
}

// audit holds the promises of the log, written down a second time without the machine.
type audit struct {
	models    map[string]entry.Digest // newest of each run
	quorum    map[string]int
	last      map[string]int // newest closed round
	over      map[string]bool
	accepted  map[string]entry.Digest // by try and member
	late      map[string]int          // likewise: by how many rounds
	counted   map[string]int          // by run and member, the newest round whose model has an update of it
	stalest   int                     // update of all that were accepted
	goal      map[string]int
	masked    map[string][]entry.Member // by try, since the last boot
	unmasking map[string][]entry.Member // likewise
	gone      map[string]bool           // who has left a run
	budget    entry.Budget
	plans     map[string]entry.Plan
	spent     []privacy.Mechanism     // rounds with noise
	reference map[string]entry.Member // without whose update no training round is closed
}

func (a *audit) read(f entry.Fact) error {
	switch f := f.(type) {
	case entry.RunCreated:
		a.plans[f.Run] = f.Plan
		a.models[f.Run], a.quorum[f.Run], a.last[f.Run], a.goal[f.Run] = f.Model, f.Plan.Quorum, -1, f.Plan.ReportGoal
		if m, ok := f.Plan.Strategy.Params["reference"].(string); ok {
			a.reference[f.Run] = entry.Member(m)
		}
		if f.Plan.Standardize == nil {
			a.last[f.Run] = 0
		}
	case entry.RoundOpened:
		if a.over[f.Run] || f.Round != a.last[f.Run]+1 || f.Model != a.models[f.Run] {
			return fmt.Errorf("opened after round %d of model %s", a.last[f.Run], a.models[f.Run].Short())
		}
	case entry.Booted:
		clear(a.masked)
		clear(a.unmasking)
	case entry.MasksAgreed:
		key := tryKey(f.Run, f.Round, f.Try)
		if a.masked[key] != nil || len(f.Members) < a.quorum[f.Run] || !a.plans[f.Run].Masks {
			return fmt.Errorf("masks are agreed upon twice, or by fewer than a quorum")
		}
		a.masked[key] = f.Members
	case entry.Unmasking:
		key := tryKey(f.Run, f.Round, f.Try)
		if a.unmasking[key] != nil || len(f.Members) < a.quorum[f.Run] {
			return fmt.Errorf("unmasked twice, or for fewer than a quorum")
		}
		a.unmasking[key] = f.Members
	case entry.Left:
		a.gone[f.Run+string(f.Member)] = true
	case entry.UpdateAccepted:
		if a.gone[f.Run+string(f.Member)] {
			return fmt.Errorf("accepted of %s, which has left", f.Member)
		}
		key := tryKey(f.Run, f.Round, f.Try)
		if a.plans[f.Run].Masks && (a.unmasking[key] != nil || !slices.Contains(a.masked[key], f.Member)) {
			return fmt.Errorf("accepted of %s, which has no masks, or after it was said whose updates are in the sum", f.Member)
		}
		key += string(f.Member)
		if _, twice := a.accepted[key]; twice || a.over[f.Run] || f.Round != a.last[f.Run]+1 {
			return fmt.Errorf("accepted twice, or out of its round")
		}
		plan := a.plans[f.Run]
		if f.Staleness < 0 || f.Staleness > latest(plan) || f.Staleness > 0 && f.Round-f.Staleness < 1 {
			return fmt.Errorf("accepted %d rounds late, %d are allowed", f.Staleness, latest(plan))
		}
		if n, counts := a.counted[f.Run+string(f.Member)]; counts && f.Round-f.Staleness <= n {
			return fmt.Errorf("accepted of the base of round %d, and an update of %s is part of round %d", f.Round-f.Staleness, f.Member, n)
		}
		a.accepted[key], a.late[key] = f.Update, f.Staleness
		a.stalest = max(a.stalest, f.Staleness)
	case entry.RoundClosed:
		return a.close(f)
	case entry.RunEnded:
		if a.over[f.Run] {
			return fmt.Errorf("ended twice")
		}
		a.over[f.Run] = true
	}
	return nil
}

// spend reckons anew what all rounds cost, and holds that to the budget.
func (a *audit) spend(f entry.RoundClosed) error {
	p := a.plans[f.Run].Privacy
	if p == nil {
		if f.Spent != (entry.Spent{}) || f.Clip != 0 || a.budget != (entry.Budget{}) {
			return fmt.Errorf("closed without noise under a budget, or at a cost without noise")
		}
		return nil
	}
	rate := 1.0
	if p.SamplingRate != 0 {
		rate = p.SamplingRate
	}
	a.spent = append(a.spent, privacy.Mechanism{Rate: rate, Noise: p.NoiseMultiplier, Rounds: 1})
	want, err := privacy.DiscreteEpsilon(a.spent, a.budget.Delta)
	if err != nil {
		return err
	}
	if math.Abs(f.Spent.Epsilon-want) > 1e-9*want || want > a.budget.Epsilon || f.Spent.Unit != a.budget.Unit {
		return fmt.Errorf("closed with %+v spent, it is %v, and the budget is %v", f.Spent, want, a.budget.Epsilon)
	}
	return nil
}

func (a *audit) close(f entry.RoundClosed) error {
	if a.over[f.Run] || f.Round != a.last[f.Run]+1 || f.Base != a.models[f.Run] || len(f.Members) < a.quorum[f.Run] {
		return fmt.Errorf("closed out of order, from another base, or below the quorum")
	}
	goal := a.goal[f.Run]
	if n, ok := a.plans[f.Run].Strategy.Params["buffer_size"].(float64); ok && f.Kind == entry.Training {
		goal = int(n)
	}
	if f.Early == entry.ReportGoal && (goal == 0 || len(f.Members) < goal) {
		return fmt.Errorf("closed early below the report goal")
	}
	if err := a.spend(f); err != nil {
		return err
	}
	if a.plans[f.Run].Masks && len(f.Members) != len(a.unmasking[tryKey(f.Run, f.Round, f.Try)]) {
		return fmt.Errorf("closed with others than were unmasked since the last boot")
	}
	seen := map[entry.Member]bool{}
	for _, c := range f.Members {
		if a.plans[f.Run].Masks && !slices.Contains(a.unmasking[tryKey(f.Run, f.Round, f.Try)], c.Member) {
			return fmt.Errorf("closed with %s, which was not unmasked", c.Member)
		}
		key := tryKey(f.Run, f.Round, f.Try) + string(c.Member)
		if seen[c.Member] || a.accepted[key] != c.Update || a.late[key] != c.Staleness {
			return fmt.Errorf("%s counts twice, or with what was not accepted", c.Member)
		}
		seen[c.Member] = true
		if f.Kind == entry.Training {
			a.counted[f.Run+string(c.Member)] = f.Round
		}
	}
	if m := a.reference[f.Run]; m != "" && f.Kind == entry.Training && !seen[m] {
		return fmt.Errorf("closed without %s, by whom the others are measured", m)
	}
	var base *entry.Blob
	if !f.Base.IsZero() {
		base = &entry.Blob{Plain: f.Base}
	}
	if mean(base, f.Members) != f.Model {
		return fmt.Errorf("the model is not the mean of the accepted updates")
	}
	a.models[f.Run], a.last[f.Run] = f.Model, f.Round
	return nil
}
