package simulation_test

import (
	"slices"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// lease is how long what a member said of itself holds: three of its calls.
const lease = 24 * time.Second

// saying is what a member last said of itself.
type saying struct {
	number  int // of its calls: over one connection none overtakes another, and an older connection's count no more
	at      time.Duration
	follows bool // false: its connection has ended
	paused  bool
}

// holds reports whether it can still be relied on.
func (t saying) holds(now time.Duration) bool { return t.number > 0 && now-t.at <= lease }

// there reports whether a member that said this follows and takes part.
func (t saying) there(now time.Duration) bool { return t.follows && !t.paused && t.holds(now) }

// tell takes what a member says of itself, and looks again at whom a round waits for where that has changed.
func (c *council) tell(m *member, t saying) {
	if c.dead || t.number < c.told[m.name].number {
		return
	}
	t.at = c.w.now
	c.w.judge.hears(c, m, t)
	if c.w.fault == keepsPause {
		t.paused = t.paused || c.told[m.name].paused
	}
	before := c.sighting(m.name)
	c.told[m.name] = t
	if after := c.sighting(m.name); c.open && (before.Connected != after.Connected || before.Paused != after.Paused) {
		c.settle()
	}
}

// sighting says when a member was last heard from, and what holds of what it said then.
func (c *council) sighting(m entry.Member) round.Sighting {
	last, ok := c.seen[m]
	if !ok {
		return round.Sighting{}
	}
	t := c.told[m]
	holds := t.holds(c.w.now) || c.w.fault == holdsForEver
	return round.Sighting{Last: start.Add(last + c.skew), Connected: t.follows && holds, Paused: t.paused && holds}
}

// administer has a member's own administrator pause it, or resume it. What was said is on its disk before it holds.
func (m *member) administer(pause bool) {
	m.paused, m.w.judge.will(m).paused = pause, pause
	if pause {
		m.w.note("pause")
		m.w.hurt(paused)
	} else {
		m.w.note("resume")
	}
	m.call()
}

// leave has the administrator withdraw the member from a run for ever.
func (m *member) leave(run string) {
	if slices.Contains(m.left, run) {
		return
	}
	m.w.note("leave")
	m.w.hurt(departed)
	m.left = append(m.left, run)
	m.w.judge.will(m).left[run] = true
	m.call()
}

// obeys reports whether the administrator lets this member do something for a run, as its disk has it.
func (m *member) obeys(run string) bool { return !m.paused && !slices.Contains(m.left, run) }

// runOf returns which run an action is of.
func runOf(a round.Action) string {
	switch a := a.(type) {
	case round.Invite:
		return a.Run
	case asked:
		return a.Run
	case round.Ask:
		return a.Run
	case round.Evaluate:
		return a.Run
	}
	return ""
}

// will is what a member's administrator wants, as the judge remembers it.
type will struct {
	paused bool
	left   map[string]bool
}

func (j *judge) will(m *member) *will {
	if j.wills[m.name] == nil {
		j.wills[m.name] = &will{left: map[string]bool{}}
	}
	return j.wills[m.name]
}

// gives checks that a member gives a run nothing that its administrator does not want: over restarts, and whatever a coordinator asks.
func (j *judge) gives(m *member, run string) {
	switch w := j.will(m); {
	case w.paused:
		j.world.fail("%s is paused, and gives something to %s", m.name, run)
	case w.left[run]:
		j.world.fail("%s has left %s, and gives something to it", m.name, run)
	}
}

// hears notes what has come to a coordinator of what a member says of itself.
func (j *judge) hears(c *council, m *member, t saying) {
	if j.words[c] == nil {
		j.words[c] = map[entry.Member]saying{}
	}
	j.words[c][m.name] = t
}

// shows checks that a coordinator shows nobody as there, or paused, of whom it has not heard for longer than that holds.
func (j *judge) shows(c *council) {
	for _, m := range j.world.names {
		if s := c.sighting(m); (s.Connected || s.Paused) && !j.words[c][m].holds(j.world.now) {
			j.world.fail("%s has %s for connected or paused, and has not heard of it for longer than %v", c.name, m, lease)
		}
	}
}

// leavesOut checks a round that is closed early since those who are missing are absent: none of them is there.
func (j *judge) leavesOut(c *council, a round.Combine) {
	if a.Early != entry.Absent {
		return
	}
	in := map[entry.Member]bool{}
	for _, m := range a.Members {
		in[m.Member] = true
	}
	for _, m := range c.audit.selected[a.Run] {
		if plan := c.audit.plans[a.Run].Plan; plan.Masks && !slices.Contains(c.audit.masked[a.Run], m) {
			continue // it has no masks, and was not waited for when the others had
		}
		if !in[m] && !c.audit.left[a.Run][m] && c.audit.refused[accepted{a.Run, try{a.Round, a.Try}, m}] < 8 && j.words[c][m].there(j.world.now) {
			j.world.fail("round %d of %s is closed without %s, which is there and not paused", a.Round, a.Run, m)
		}
	}
}
