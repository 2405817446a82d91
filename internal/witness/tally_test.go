package witness_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"consilium.dev/internal/witness"
)

var four = []string{"longbeach", "budapest", "switzerland", "cleveland"}

func tally(t testing.TB, quorum int) *witness.Tally {
	t.Helper()
	all, err := witness.New(four, quorum)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestNewRefuses(t *testing.T) {
	for _, test := range []struct {
		names  []string
		quorum int
		ok     bool
	}{
		{nil, 0, false},
		{nil, 1, false},
		{four[:1], 1, true},
		{four[:1], 0, false},
		{four[:2], 1, false},
		{four[:2], 2, true},
		{four[:3], 1, false},
		{four[:3], 2, true},
		{four[:3], 4, false},
		{four, 2, false},
		{four, 3, true},
		{four, 4, true},
		{four, 5, false},
		{[]string{"a", "b", "a"}, 2, false},
	} {
		if _, err := witness.New(test.names, test.quorum); (err == nil) != test.ok {
			t.Errorf("New(%v, %d) = %v, want it allowed: %t", test.names, test.quorum, err, test.ok)
		}
	}
}

// TestOpen shows a coordinator with a log of seven lines what its witnesses keep, one after the other.
func TestOpen(t *testing.T) {
	log := history{}.with(t, "a", "b", "c", "d", "e", "f", "g")
	fork := history{}.with(t, "a", "b", "c", "D", "e", "f", "g", "h")
	at := func(n int64) witness.Head { return log.at(t, n) }
	none := witness.Head{}
	for _, test := range []struct {
		name  string
		shown []witness.Head // by longbeach, budapest, switzerland, cleveland
		open  bool
		lost  bool
		miss  string
	}{
		{"nobody", nil, false, false, "budapest cleveland longbeach switzerland"},
		{"two of the three needed", []witness.Head{at(7), at(7)}, false, false, "cleveland switzerland"},
		{"three", []witness.Head{at(7), at(3), at(1)}, true, false, ""},
		{"three that keep nothing: the log begins", []witness.Head{none, none, none}, true, false, ""},
		{"one of three keeps nothing", []witness.Head{none, at(7), at(7)}, true, false, ""},
		{"one of three keeps something: killed before a quorum had cosigned", []witness.Head{none, none, at(7)}, true, false, ""},
		{"four, and one keeps nothing", []witness.Head{none, at(7), at(7), at(7)}, true, false, ""},
		{"one has seen more", []witness.Head{fork.at(t, 8), at(7), at(7)}, false, false, "cleveland longbeach"},
		{"one has seen more, three have not", []witness.Head{fork.at(t, 8), at(7), at(7), at(7)}, true, false, ""},
		{"one has seen another history", []witness.Head{fork.at(t, 4), at(7), at(7)}, false, false, "cleveland longbeach"},
		{"one has seen another history of the same length", []witness.Head{fork.at(t, 7), at(7), at(7)}, false, false, "cleveland longbeach"},
		{"three keep nothing, and one another history, which no quorum has cosigned", []witness.Head{fork.at(t, 7), none, none, none}, true, false, ""},
		{"all keep a prefix of both", []witness.Head{fork.at(t, 3), at(3), at(3)}, true, false, ""},
		{"two have seen more: no quorum is left", []witness.Head{fork.at(t, 8), fork.at(t, 8)}, false, true, "budapest cleveland longbeach switzerland"},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := tally(t, 3)
			for i, seen := range test.shown {
				err := all.Show(four[i], seen, log.size(), log.root(t, seen.Size))
				var conflict *witness.ConflictError
				if ours := seen.Size <= 7 && (seen.Size == 0 || seen == at(seen.Size)); ours != (err == nil) {
					t.Errorf("Show(%s, %d lines) = %v", four[i], seen.Size, err)
				} else if err != nil && (!errors.As(err, &conflict) || conflict.Seen != seen.Size || conflict.Size != 7 || conflict.Witness != four[i]) {
					t.Errorf("Show(%s, %d lines) = %#v", four[i], seen.Size, err)
				}
			}
			if all.Open() != test.open {
				t.Errorf("open is %t, want %t", all.Open(), test.open)
			}
			lost := all.Lost()
			if (lost != nil) != test.lost {
				t.Errorf("Lost = %v, want a loss: %t", lost, test.lost)
			}
			if lost != nil && strings.Count(lost.Error(), "restore a newer copy") != 2 {
				t.Errorf("Lost = %v, want what both have seen", lost)
			}
			if got := names(all.Missing()); got != test.miss {
				t.Errorf("missing are %q, want %q", got, test.miss)
			}
			if all.Propose(log.head(t)) != test.open {
				t.Errorf("a head can be proposed: %t, want %t", !test.open, test.open)
			}
		})
	}
}

func names(all []witness.Standing) string {
	var out []string
	for _, s := range all {
		out = append(out, s.Name)
	}
	return strings.Join(out, " ")
}

func TestShowAgain(t *testing.T) {
	log := history{}.with(t, "a", "b", "c")
	all := tally(t, 3)
	show := func(name string, seen witness.Head) error {
		return all.Show(name, seen, log.size(), log.root(t, seen.Size))
	}
	if err := show("cleveland", witness.Head{Size: 9}); err == nil {
		t.Fatal("nine of three lines were believed")
	}
	for _, name := range four[:2] {
		if err := show(name, log.at(t, 2)); err != nil {
			t.Fatal(err)
		}
	}
	if all.Open() {
		t.Fatal("open with a conflict as the third")
	}
	if err := show("cleveland", log.at(t, 3)); err != nil || !all.Open() || all.Lost() != nil {
		t.Errorf("judged anew: %v, open %t", err, all.Open())
	}
	if err := show("nobody", log.at(t, 3)); !errors.Is(err, witness.ErrNoWitness) {
		t.Errorf("Show(nobody) = %v", err)
	}
	if err := all.Contradict("nobody", errors.New("x")); !errors.Is(err, witness.ErrNoWitness) {
		t.Errorf("Contradict(nobody) = %v", err)
	}
	other := errors.New("another key")
	for _, name := range four[:2] {
		if err := all.Contradict(name, other); err != nil {
			t.Fatal(err)
		}
	}
	if !all.Open() || !errors.Is(all.Lost(), other) {
		t.Errorf("open %t, lost %v: what was open stays so, and is lost", all.Open(), all.Lost())
	}
	for _, s := range all.Standings() {
		if want := slices.Contains(four[:2], s.Name); (s.Conflict != nil) != want {
			t.Errorf("%s stands with %v", s.Name, s.Conflict)
		}
	}
}

func TestRelease(t *testing.T) {
	log := history{}.with(t, "a", "b", "c")
	all := tally(t, 3)
	if all.Propose(log.head(t)) {
		t.Error("proposed before it was open")
	}
	for _, name := range four[:3] {
		if err := all.Show(name, witness.Head{}, log.size(), [32]byte{}); err != nil {
			t.Fatal(err)
		}
	}
	if all.Propose(witness.Head{}) || !all.Propose(log.head(t)) {
		t.Error("Propose takes no lines, or not what is there")
	}
	three := log.head(t)
	log = log.with(t, "d")
	if all.Propose(log.head(t)) || all.Ballot() != three {
		t.Error("a second head was proposed while the first is gathered for")
	}
	for _, step := range []struct {
		name string
		head witness.Head
		want bool
	}{
		{"longbeach", three, false},
		{"longbeach", three, false}, // twice is once
		{"nobody", three, false},
		{"cleveland", witness.Head{Size: 3, Root: [32]byte{9}}, false}, // not what was asked
		{"switzerland", three, false},
		{"cleveland", three, true},
		{"budapest", three, false}, // late
	} {
		if got := all.Cosign(step.name, step.head); got != step.want {
			t.Errorf("Cosign(%s) = %t, want %t", step.name, got, step.want)
		}
		if want := step.want || all.Released() == three; want != (all.Released().Size == 3) {
			t.Errorf("after %s %d lines are released", step.name, all.Released().Size)
		}
	}
	if got := strings.Join(all.Cosigners(three), " "); got != "budapest cleveland longbeach switzerland" {
		t.Errorf("cosigned have %q", got)
	}
	if all.Propose(three) || len(all.Missing()) != 0 || !all.Propose(log.head(t)) {
		t.Error("what is released was proposed again, or what is new was not")
	}
	all.Cosign("budapest", log.head(t))
	if got := names(all.Missing()); got != "cleveland longbeach switzerland" {
		t.Errorf("missing are %q", got)
	}
	if q, n := all.Quorum(); q != 3 || n != 4 {
		t.Errorf("Quorum = %d of %d", q, n)
	}
}

func TestRestore(t *testing.T) {
	head := history{}.with(t, "a", "b").head(t)
	for _, test := range []struct {
		names []string
		want  bool
	}{
		{four, true},
		{four[1:], true},
		{four[2:], false},
		{[]string{"cleveland", "cleveland", "cleveland"}, false},
		{[]string{"cleveland", "longbeach", "nobody"}, false},
	} {
		all := tally(t, 3)
		if got := all.Restore(head, test.names); got != test.want || (all.Released() == head) != test.want {
			t.Errorf("Restore(%v) = %t, %d lines released", test.names, got, all.Released().Size)
		}
		if all.Open() {
			t.Errorf("Restore(%v) opened the log", test.names)
		}
	}
	all := tally(t, 3)
	if all.Restore(witness.Head{}, four) {
		t.Error("no lines were restored")
	}
}

// coordinator is a process over a copy of a log.
type coordinator struct {
	log   history
	tally *witness.Tally
}

// TestTwoCopies gives any number of coordinators, each over any earlier copy of any of their logs, whatever witnesses it draws
// in whatever order, with as many witnesses rolled back as the quorum allows for. Whatever two of them have released, one
// begins with the other: there is one history.
func TestTwoCopies(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 5).Draw(rt, "witnesses")
		q := rapid.IntRange(n/2+1, n).Draw(rt, "quorum")
		w := &world{t: t, quorum: q, kept: map[string]witness.Head{}, copies: []history{{}}}
		for i := range n {
			w.names = append(w.names, fmt.Sprintf("w%d", i))
		}
		w.forgetful = w.some(rt)[:min(2*q-n-1, rapid.IntRange(0, n).Draw(rt, "forgetful"))]
		w.boot(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"boot": w.boot, "go on": w.goOn, "go on again": w.goOn, "forget": w.forget, "": func(*rapid.T) { w.check() },
		})
	})
}

type world struct {
	t         *testing.T
	quorum    int
	names     []string
	forgetful []string
	kept      map[string]witness.Head
	copies    []history // of the store, whenever it changed
	running   []*coordinator
	released  []history
	lines     int
}

// some returns the witnesses in any order.
func (w *world) some(rt *rapid.T) []string { return rapid.Permutation(w.names).Draw(rt, "witnesses") }

// boot starts a coordinator over any copy there ever was, and shows it what some witnesses keep.
func (w *world) boot(rt *rapid.T) {
	all, err := witness.New(w.names, w.quorum)
	if err != nil {
		rt.Fatal(err)
	}
	c := &coordinator{rapid.SampledFrom(w.copies).Draw(rt, "copy"), all}
	for _, name := range w.some(rt) {
		seen := w.kept[name]
		c.tally.Show(name, seen, c.log.size(), c.log.root(w.t, seen.Size)) //nolint:errcheck // a conflict is an outcome
		if rapid.IntRange(0, 9).Draw(rt, "reached") == 0 {
			break
		}
	}
	w.running = append(w.running, c)
}

// goOn has a coordinator that may append a line and ask witnesses for their cosignatures.
func (w *world) goOn(rt *rapid.T) {
	c := rapid.SampledFrom(w.running).Draw(rt, "coordinator")
	if !c.tally.Open() {
		return
	}
	w.lines++
	c.log = c.log.with(w.t, fmt.Sprint("line ", w.lines))
	w.copies = append(w.copies, c.log)
	c.tally.Propose(c.log.head(w.t))
	for _, name := range w.some(rt) {
		switch rapid.IntRange(0, 9).Draw(rt, "link") {
		case 0:
			return // the others are not reached
		case 1:
			w.ask(c, name, true)
		default:
			w.ask(c, name, false)
		}
	}
}

// ask asks a witness to cosign what is being gathered for, and once more if it has seen another head than was thought.
func (w *world) ask(c *coordinator, name string, crashes bool) {
	ballot := c.tally.Ballot()
	if ballot.Size == 0 {
		return
	}
	part := history{c.log.lines[:ballot.Size], c.log.hashes}
	kept, err := witness.Judge(w.kept[name], part.offer(w.t, 0))
	var stale *witness.StaleError
	if errors.As(err, &stale) && stale.Kept.Size <= ballot.Size {
		kept, err = witness.Judge(w.kept[name], part.offer(w.t, stale.Kept.Size))
	}
	w.kept[name] = kept
	if err != nil || crashes { // between keeping and cosigning
		return
	}
	if c.tally.Cosign(name, ballot) {
		w.released = append(w.released, part)
	}
}

// forget rolls a witness back, one of those few that may be.
func (w *world) forget(rt *rapid.T) {
	if len(w.forgetful) > 0 {
		w.kept[rapid.SampledFrom(w.forgetful).Draw(rt, "witness")] = witness.Head{}
	}
}

func (w *world) check() {
	if len(w.released) == 0 {
		return
	}
	a := w.released[len(w.released)-1]
	for _, b := range w.released {
		n := min(len(a.lines), len(b.lines))
		if !slices.Equal(a.lines[:n], b.lines[:n]) {
			w.t.Fatalf("two histories were released:\n%v\n%v", a.lines, b.lines)
		}
	}
}
