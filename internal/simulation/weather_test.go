package simulation_test

import (
	"slices"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/witness"
)

// mostCharters is how many manifests there are at most.
const mostCharters = 6

// mostSnapshots is how many old copies of storage there are to be put back.
const mostSnapshots = 5

// harm is a kind of thing that goes wrong.
type harm int

const (
	lost harm = iota
	late
	doubled
	cutOff
	wrongClock
	fullDisk
	noAnswer
	died
	memberDied
	updateLost
	lied
	forgot
	rival
	rolledBack
	amended
	replaced
	paused
	departed
	misled
	harms // how many there are
)

func (h harm) String() string {
	return [harms]string{
		"messages lost", "messages late", "messages doubled", "links cut", "clocks set wrong", "disks full", "writes without an answer or refused",
		"coordinators killed", "members killed", "kept updates lost", "lies of members", "witnesses rolled back", "second coordinators",
		"storages rolled back", "manifests replaced", "witnesses changed", "members paused", "runs left", "lies of coordinators",
	}[h]
}

// hurt counts what goes wrong.
func (w *world) hurt(h harm) {
	if !w.calm {
		w.harms[h]++
	}
}

// pick returns one of some.
func pick[T any](w *world, all []T) T { return all[w.chance.IntN(len(all))] }

// storm lets one thing go wrong.
func (w *world) storm() {
	if w.calm {
		return
	}
	m := pick(w, w.members)
	switch n := w.chance.IntN(20); {
	case n < 2 && len(w.councils) > 0:
		pick(w, w.councils).end("killed")
	case n < 5 && m.up:
		m.crash()
	case n < 8 && len(w.councils) > 0:
		w.note("cut")
		w.hurt(cutOff)
		w.cut = append(w.cut, [2]string{string(m.name), pick(w, w.councils).name})
	case n == 8:
		w.cut = nil
	case n == 9 && len(w.councils) > 0:
		w.note("clock")
		w.hurt(wrongClock)
		pick(w, w.councils).skew = w.upTo(10*time.Minute) - 5*time.Minute
	case n == 10:
		w.note("full")
		w.hurt(fullDisk)
		d := pick(w, w.disks)
		d.full = true
		w.after(w.upTo(30*time.Second), func() { d.full = false })
	case n == 11 && len(m.kept) > 0:
		w.note("a member's disk loses an update")
		w.hurt(updateLost)
		i := w.chance.IntN(len(m.kept))
		m.kept = slices.Delete(m.kept, i, i+1)
	case n == 12 && m.forgetful && len(m.heads) > 0:
		w.note("witness rolled back")
		w.hurt(forgot)
		m.head = pick(w, append(m.heads, witness.Head{}))
	case n == 13 && w.chance.IntN(3) == 0:
		w.turn(m)
	case n == 14:
		w.snapshots = append(w.snapshots, pick(w, w.disks).copied())
		w.snapshots = w.snapshots[max(0, len(w.snapshots)-mostSnapshots):]
	case n == 15:
		w.second()
	case n == 16 && w.chance.IntN(2) == 0:
		w.rollBack()
	case n == 17 && w.chance.IntN(2) == 0 && len(w.charters) < mostCharters:
		w.amend()
	case n >= 18 && m.up:
		m.administer(!w.judge.will(m).paused)
	}
}

// turn has a member leave a run, or the lead cancel one.
func (w *world) turn(m *member) {
	run := pick(w, w.wishes).Fact.Run
	if w.chance.IntN(2) == 0 {
		if m.up {
			m.leave(run)
		}
		return
	}
	if c := w.reach(string(m.name)); c != nil {
		w.send(string(m.name), c.name, func() { c.answered(m, round.Cancel{Run: run, By: "ada"}) })
	}
}

// second starts a second coordinator beside the first: on the same storage, or, where witnesses see to it, on a copy.
func (w *world) second() {
	d := pick(w, w.disks)
	if !w.newest().set.Nobody() && w.chance.IntN(2) == 0 {
		d = d.copied()
		w.disks = append(w.disks, d)
	}
	w.note("second")
	w.hurt(rival)
	w.boot(d)
}

// rollBack puts all storage of the coordinator back to what it was.
func (w *world) rollBack() {
	if w.newest().set.Nobody() || len(w.snapshots) == 0 {
		return
	}
	for _, c := range slices.Clone(w.councils) {
		c.end("killed for a rollback")
	}
	w.main = pick(w, w.snapshots).copied()
	w.disks = append(w.disks, w.main)
	w.note("rollback", w.main.log.size())
	w.hurt(rolledBack)
	w.boot(w.main)
}

// operate starts a coordinator again where none is left.
func (w *world) operate() {
	switch {
	case len(w.councils) > 0 || w.main == nil:
	case w.calm:
		w.boot(w.main)
	default:
		w.boot(pick(w, w.disks))
	}
}

// clear lets the weather turn good for good: one coordinator, on the newest copy that a quorum of witnesses can go on with. It
// reports whether there is one: the package's page says when there is none.
func (w *world) clear() bool {
	w.calm, w.cut = true, nil
	for _, c := range slices.Clone(w.councils) {
		c.end("the operator keeps one")
	}
	w.main = nil
	for end := w.now + time.Minute; w.now < end; { // what was said before has arrived by then, or never will
		w.step()
	}
	for _, d := range w.disks {
		d.full = false
		if w.fits(d) && (w.main == nil || d.log.size() > w.main.log.size()) {
			w.main = d
		}
	}
	if w.main == nil {
		return false
	}
	for _, m := range w.members {
		m.up = true
		if w.judge.will(m).paused {
			m.administer(false)
		}
	}
	w.note("calm")
	w.replan()
	w.boot(w.main)
	return true
}

// replan has the lead ask anew, of the members that there are now, for what the log that goes on does not have.
func (w *world) replan() {
	wishes := w.wishes
	w.wishes = nil
	for _, in := range wishes {
		created := slices.ContainsFunc(w.main.log.lines, func(l line) bool {
			f, ok := l.fact.(entry.RunCreated)
			return ok && f.Run == in.Fact.Run
		})
		if created {
			w.wishes = append(w.wishes, in)
		} else {
			w.wish(in.Fact.Run, false)
		}
	}
}

// fits reports whether a quorum of all witnesses whom it takes can go on with what is on a disk.
func (w *world) fits(d *disk) bool {
	c := council{w: w, log: d.log, known: len(w.charters)}
	for i, l := range d.log.lines {
		c.fold(int64(i), w.read(l).fact)
	}
	for _, set := range c.ahead() {
		fit := 0
		for _, name := range set.Names {
			if d.log.begins(w.member(name).head) {
				fit++
			}
		}
		if fit < set.Quorum {
			return false
		}
	}
	return d.log.begins(d.cosigned)
}
