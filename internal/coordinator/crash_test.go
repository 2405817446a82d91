package coordinator_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	pb "consilium.dev/proto/consilium/v1"
)

var crashAll = flag.Bool("crash", false, "TestCrash kills programs at every step of a larger run, in every way")

// TestCrash kills the coordinator, and in other runs a participant, at every step of a run: at each change of its storage and at
// each write to a connection, one run for each, and starts it again. The run ends with the model of a run that nobody disturbed;
// nothing that was acknowledged is lost, and nothing counts twice. Without -crash it is a smaller run, and the steps are those that
// store something for good.
func TestCrash(t *testing.T) {
	p := plan(t, adam, pair, short)
	if *crashAll {
		p = plan(t, adam, pair)
	}
	points, survived := 0, 0
	for _, victim := range []string{"council", "budapest"} {
		for _, how := range ways() {
			t.Run(victim+" "+string(how), func(t *testing.T) {
				c := &crashes{plan: p, victim: victim, how: how, brief: !*crashAll, tally: map[string]int{}}
				c.undisturbed(t)
				c.everywhere(t)
				points, survived = points+c.points, survived+c.survived
			})
		}
	}
	t.Logf("crash points %d survived %d", points, survived)
}

// ways returns how processes are cut off.
func ways() []cut {
	if *crashAll {
		return []cut{before, torn, after, power}
	}
	return []cut{torn, after}
}

// eachWay is TestCrash for one victim of a plan's run. check looks at what each way has come to.
func eachWay(t *testing.T, p entry.Plan, victim string, check func(*testing.T, *crashes)) {
	t.Helper()
	points, survived := 0, 0
	for _, how := range ways() {
		t.Run(string(how), func(t *testing.T) {
			c := &crashes{plan: p, victim: victim, how: how, brief: !*crashAll, tally: map[string]int{}}
			c.undisturbed(t)
			c.everywhere(t)
			check(t, c)
			points, survived = points+c.points, survived+c.survived
		})
	}
	t.Logf("crash points %d survived %d", points, survived)
}

// TestCrashControlled is TestCrash for a participant of a run under SCAFFOLD, whose rounds build on what it keeps between them.
func TestCrashControlled(t *testing.T) {
	eachWay(t, plan(t, adam, pair, controlled), "budapest", func(t *testing.T, c *crashes) {
		if c.how != before && c.tally["put carried"] != 2 {
			t.Errorf("killed at %d control variates, want that of each round", c.tally["put carried"])
		}
	})
}

// TestCrashUnsent is TestCrash for a participant of a run whose members send few values of their updates, and the others later.
func TestCrashUnsent(t *testing.T) {
	few := func(p *entry.Plan) { p.Encoding, p.TopK = "top-k", 0.2 }
	eachWay(t, plan(t, adam, pair, short, few, func(p *entry.Plan) { p.Rounds = 2 }), "budapest", func(t *testing.T, c *crashes) {
		if c.how != before && c.tally["put carried"] != 2 {
			t.Errorf("killed at %d times what is carried on, want that of each round", c.tally["put carried"])
		}
	})
}

// TestCrashBuffered is TestCrash for a run under FedBuff, whose updates participants keep for later rounds too: each counts in one.
func TestCrashBuffered(t *testing.T) {
	two := func(p *entry.Plan) {
		p.Strategy = entry.Strategy{Name: "fedbuff", Params: map[string]any{"buffer_size": 2.0}}
		p.Standardize, p.Local.LearningRate = nil, 1e-6
	}
	victims := []string{"budapest"}
	if *crashAll {
		victims = append(victims, "council")
	}
	for _, victim := range victims {
		t.Run(victim, func(t *testing.T) { eachWay(t, plan(t, pair, two), victim, func(*testing.T, *crashes) {}) })
	}
}

// TestCrashPrivate is TestCrash for the coordinator of a run with noise. What it drew is lost with it, and what comes instead is another model;
// but each round has one closing, and what the log says was spent is what so many closings cost.
func TestCrashPrivate(t *testing.T) {
	three := func(p *entry.Plan) {
		p.Rounds, p.Quorum, p.Members = 1, 3, []entry.Member{"budapest", "cleveland", "longbeach"}
		if *crashAll {
			p.Rounds = 2
		}
	}
	eachWay(t, plan(t, private, three), "council", func(*testing.T, *crashes) {})
}

// TestCrashDrawn is TestCrash for a participant that draws the records of each round in secret: what it has offered, it offers again after its end, and no other
// draw of the round counts beside it.
func TestCrashDrawn(t *testing.T) {
	drawn := func(p *entry.Plan) {
		p.Rounds, p.Quorum, p.Members, p.Privacy.SamplingRate = 1, 3, []entry.Member{"budapest", "cleveland", "longbeach"}, 0.5
		if *crashAll {
			p.Rounds = 2
		}
	}
	eachWay(t, ofRecords(t, drawn), "budapest", func(t *testing.T, c *crashes) {
		if c.how != before && c.tally["put kept"] == 0 {
			t.Errorf("never killed as it kept an update: %v", c.tally)
		}
	})
}

// controlled makes a plan of two rounds under SCAFFOLD, without their statistics.
func controlled(p *entry.Plan) {
	p.Strategy, p.Standardize, p.MaxAbs, p.Local.LearningRate = entry.Strategy{Name: "scaffold"}, nil, 4096, 1e-6
}

// pair makes a plan of two rounds and their statistics, by two members.
func pair(p *entry.Plan) {
	p.Rounds, p.Quorum, p.Members = 2, 2, []entry.Member{"budapest", "cleveland"}
}

// short makes a plan of one round.
func short(p *entry.Plan) {
	p.Rounds, p.Standardize, p.Local.LearningRate = 1, nil, 1e-6
}

// crashes is one enumeration: a run for each step at which one program is killed in one way.
type crashes struct {
	plan   entry.Plan
	victim string
	how    cut
	brief  bool // only at what is stored for good, not at what is sent or laid out
	want   entry.Digest

	mu       sync.Mutex // guards what follows
	steps    []string   // at which to kill, of those that every run has
	numbered []*numbered
	tally    map[string]int
	points   int
	survived int
	absent   int // steps of the undisturbed run that no other had
}

// manifest returns the changes of the manifest: in the larger run one member is a witness. Of several, those that have cosigned the
// first head when the coordinator is killed may be fewer than a quorum; then the others, who keep nothing, do not count, and the log
// does not open again.
func (c *crashes) manifest() []string {
	var edits []string
	if c.plan.Privacy != nil {
		edits = withBudgetOf(c.plan.Privacy.Unit)
	}
	if c.brief {
		return edits
	}
	return append(slices.Clone(edits), `{none: true, reason: "a test"}`, "{quorum: 1, members: [budapest]}")
}

// members returns whose participants run.
func (c *crashes) members() []string {
	var names []string
	for _, m := range c.plan.Members {
		names = append(names, string(m))
	}
	return names
}

// numbered are the steps of one kind of which no two runs have as many: messages, blobs, since each admission keeps its evidence, and
// what witnesses cosign, since one cosignature may stand for many lines. They are tried by their numbers until a run has none of that number.
type numbered struct {
	kind  string
	tried int
	over  bool
}

// countless reports whether a step is of such a kind.
func countless(step string) bool {
	switch kind(step) {
	case "send", "put blob", "put cosigned", "delete cosigned", "put witness", "delete witness":
		return true
	}
	return false
}

// everywhere kills the victim at each change of its storage that the undisturbed run had, and at each write to a connection
// until a run ends before there are so many.
func (c *crashes) everywhere(t *testing.T) {
	t.Run("steps", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for at := c.next(); at != "" && !t.Failed(); at = c.next() {
					for tries, done := 3, false; tries > 0 && !done; tries-- { // a run may have fewer commits than another
						synctest.Test(t, func(t *testing.T) { done = c.at(t, at, tries == 1) })
					}
				}
			})
		}
	})
	for _, what := range slices.Sorted(maps.Keys(c.tally)) {
		t.Logf("%4d %s", c.tally[what], what)
	}
}

// kind returns what the step of that name does, without the numbers.
func kind(step string) string {
	what, _, _ := strings.Cut(step, " of commit")
	return strings.TrimRight(what, " 0123456789")
}

// forGood reports whether a step stores what nothing will make anew from what is stored, or commits to the log. A blob that was
// not stored before anything named it is as if its step had not come.
func (c *crashes) forGood(step string) bool {
	switch k := kind(step); k {
	case "put blob", "put log.key":
		return c.how == after
	case "put tile", "put bundle", "put stage":
		return false
	default:
		return !strings.HasPrefix(k, "delete")
	}
}

// next returns the name of the next step at which to kill, "" for none.
func (c *crashes) next() (at string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.steps) > 0 {
		at, c.steps = c.steps[0], c.steps[1:]
		return at
	}
	for _, n := range c.numbered {
		if !n.over {
			n.tried++
			return fmt.Sprintf("%s %d", n.kind, n.tried)
		}
	}
	return ""
}

// at kills the victim at one step, and reports whether that needs no further try.
func (c *crashes) at(t *testing.T, at string, last bool) (done bool) {
	got, fell := c.try(t, at)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !fell && countless(at):
		for _, n := range c.numbered {
			n.over = n.over || n.kind == kind(at)
		}
		return true
	case !fell && !last:
		return false
	case !fell && strings.Contains(at, " of commit "): // facts that come together are written in one
		if c.absent++; c.absent > c.points/2 {
			t.Errorf("%s was never killed at %d steps, the last is %q; at %d it was", c.victim, c.absent, at, c.points)
		}
		return true
	case !fell:
		t.Errorf("%s was never killed at %q", c.victim, at)
	case got != c.want && c.plan.Privacy == nil:
		t.Errorf("%s killed %s %q: model %s, undisturbed %s", c.victim, c.how, at, got.Short(), c.want.Short())
	}
	c.tally[kind(at)]++
	c.points++
	if !t.Failed() {
		c.survived++
	}
	return true
}

// undisturbed learns what the run ends with, and its steps.
func (c *crashes) undisturbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, c.manifest()...)
		d := newMortalStore(t, newMortal("", c.how))
		w.launchAll(c.members(), c.victim, d)
		v := w.persist(c.plan)
		synctest.Wait()
		c.want = final(v)
		for _, what := range d.m.taken() {
			c.plant(what)
		}
	})
}

// plant notes a step of the undisturbed run, to be killed at if it is one of those that are tried.
func (c *crashes) plant(step string) {
	sent := kind(step) == "send"
	switch {
	case c.how == before && !sent, c.how == power && sent, c.brief && (sent || !c.forGood(step)):
	case !countless(step):
		c.steps = append(c.steps, step)
	case !slices.ContainsFunc(c.numbered, func(n *numbered) bool { return n.kind == kind(step) }):
		c.numbered = append(c.numbered, &numbered{kind: kind(step)})
	}
}

// try kills the victim at one step, and returns the run's final model and whether the step was reached.
func (c *crashes) try(t *testing.T, at string) (model entry.Digest, fell bool) {
	w := newWorld(t, c.manifest()...)
	d := newMortalStore(t, newMortal(at, c.how))
	victim := w.launchAll(c.members(), c.victim, d)
	ended := make(chan struct{})
	var keeper sync.WaitGroup
	keeper.Go(func() {
		select {
		case <-d.m.fallen:
		case <-ended:
			return
		}
		_ = victim.end() // it thinks that its storage failed it
		if err := d.bury(context.Background()); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Millisecond) // what was told before the end is heard by then
		if h, err := readHistory(c.shelf(w, d).copied()); err != nil {
			t.Errorf("%s killed %s %q: reading the log: %v", c.victim, c.how, at, err)
		} else {
			c.compare(t, w, d.m, h)
		}
		w.relaunch(c.victim, d)
	})
	v := w.persist(c.plan)
	synctest.Wait() // what is still under way
	close(ended)
	keeper.Wait()
	synctest.Wait()
	if v.Summary.State != "completed" {
		t.Errorf("%s killed %s %q: the run is %s: %s", c.victim, c.how, at, v.Summary.State, v.Reason)
		return model, true
	}
	c.judge(t, w, d)
	return final(v), d.m.alive() != nil
}

// shelf returns where the coordinator's log is.
func (c *crashes) shelf(w *world, d *mortalStore) shelf {
	if c.victim == "council" {
		return d.shelf()
	}
	return w.disks["council"].shelf()
}

// judge reads the history that is left when all is over.
func (c *crashes) judge(t *testing.T, w *world, d *mortalStore) {
	on := c.shelf(w, d)
	h, err := readHistory(on)
	if err != nil {
		t.Errorf("%s killed %s %q: reading the log: %v", c.victim, c.how, d.m.at, err)
		return
	}
	c.compare(t, w, d.m, h)
	if c.plan.Privacy != nil {
		if err := spentBy(c.plan, h); err != nil {
			t.Errorf("%s killed %s %q: %v", c.victim, c.how, d.m.at, err)
		}
	}
	if err := h.missing(on); err != nil {
		t.Errorf("%s killed %s %q: %v", c.victim, c.how, d.m.at, err)
	}
}

// compare holds a history against what everybody was told by then, and against what no history has.
func (c *crashes) compare(t *testing.T, w *world, m *mortal, h history) {
	wrong := h.twice()
	for _, head := range m.heads() {
		if err := h.extends(head); err != nil {
			wrong = append(wrong, err.Error())
		}
	}
	for _, name := range c.members() {
		wrong = append(wrong, h.lost(w.books[name], entry.Member(name))...)
	}
	for _, what := range wrong {
		t.Errorf("%s killed %s %q: %s", c.victim, c.how, m.at, what)
	}
}

// launchAll starts everybody, and returns the one who can be killed.
func (w *world) launchAll(who []string, victim string, d *mortalStore) *program {
	council := func(o *coordinator.Options) {}
	if victim == "council" {
		council = func(o *coordinator.Options) { o.Objects, o.Head, o.KEK = d, d, d.kek }
		w.wrap = func(l net.Listener) net.Listener { return &mortalListener{l, d.m} }
	}
	all := map[string]*program{"council": w.serve(council)}
	for _, name := range who {
		if name != victim {
			all[name] = w.join(name)
			continue
		}
		all[name] = w.join(name, func(o *participant.Options) {
			o.Objects, o.KEK = d, d.kek
			o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
				c, err := w.line.dial(ctx, address)
				if err != nil {
					return nil, err
				}
				return d.m.wrap(c)
			}
		})
	}
	return all[victim]
}

// relaunch starts again who was killed, on what is left.
func (w *world) relaunch(name string, d *mortalStore) {
	if name == "council" {
		w.serve(func(o *coordinator.Options) { o.Objects, o.Head, o.KEK = d.Dir, d.Dir, d.kek })
		return
	}
	w.join(name, func(o *participant.Options) { o.Objects, o.KEK = d.Dir, d.kek })
}

// persist starts a run and waits for its end, as a lead does whose coordinator may be away: what gets no answer is asked again.
func (w *world) persist(p entry.Plan) *pb.ShowReply {
	w.t.Helper()
	ada, run, err := w.person("ada"), "", error(nil)
	for range 1000 {
		if run == "" {
			var r *pb.StartReply
			if r, err = ada.Start(w.t.Context(), &pb.StartRequest{Request: "request of " + p.Name, Plan: asJSON(w.t, p)}); err == nil {
				run = r.Run
			}
		} else {
			var v *pb.ShowReply
			v, err = ada.Show(w.t.Context(), &pb.ShowRequest{Run: run})
			if err == nil && (v.Summary.State == "failed" || v.Summary.State == "completed") {
				return v
			}
		}
		time.Sleep(5 * time.Second)
	}
	w.t.Fatalf("the run %q does not end; the last error was %v", run, err)
	return nil
}
