package coordinator

import (
	"sync"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// lease is how long what a participant has told of itself holds: three heartbeats. Whoever follows and has let it lapse is not
// connected, though its connection is not known to be dead yet.
const lease = 3 * heartbeat

// calm is the least time between two changes of one member that wake the loop: each has it settle all runs and word anew what is wanted
// of every member, and a member can say that it is paused, and that it is not, as fast as its line is.
const calm = time.Second

// presence remembers when each member was last heard from in this boot, and what it said that it does. It is no fact: whom a
// round is closed without for being absent, its fact says.
type presence struct {
	now     func() time.Time
	began   time.Time
	changed chan struct{} // holds one token when a member came, went or paused and the loop has not seen it

	mu sync.Mutex // guards of and what it holds
	of map[entry.Member]*sighting
}

type sighting struct {
	at        time.Time
	following int // open Follow streams
	told      activity
	programs  map[string]program // who tell under this name, by instance

	woke time.Time   // when the loop was last woken for this member
	due  *time.Timer // wakes it again, for whatever holds then; nil where nothing is to be told
}

// program is one process that tells of itself.
type program struct{ first, last time.Time }

// activity is what a participant said that it does.
type activity struct {
	at         time.Time // it was told; zero: never
	doing, run string
	round      int
	since      time.Time
	steps, of  int64
	progress   time.Time // last step of the trainer; zero where nothing is trained
}

func newPresence(now func() time.Time) *presence {
	return &presence{now: now, began: now(), changed: make(chan struct{}, 1), of: map[entry.Member]*sighting{}}
}

func (p *presence) enter(m entry.Member) { p.change(m, func(s *sighting) { s.following++ }) }
func (p *presence) leave(m entry.Member) { p.change(m, func(s *sighting) { s.following-- }) }
func (p *presence) seen(m entry.Member)  { p.change(m, func(*sighting) {}) }

// change records that a member was heard from, and wakes the loop where that changes whom a round waits for.
func (p *presence) change(m entry.Member, f func(*sighting)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.of[m]
	if s == nil {
		s = &sighting{programs: map[string]program{}}
		p.of[m] = s
	}
	now := p.now()
	before := s.view(now)
	s.at = now
	f(s)
	if after := s.view(now); before.Connected != after.Connected || before.Paused != after.Paused {
		p.wake(s, now)
	}
}

// wake wakes the loop for a change of one member: at once, or, where it was woken for the same member just before, when the calm is
// over. Then it sees the last of all that has changed meanwhile. mu is held.
func (p *presence) wake(s *sighting, now time.Time) {
	if s.due != nil {
		return
	}
	tell := func(now time.Time) {
		s.woke = now
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
	if since := now.Sub(s.woke); since >= 0 && since < calm {
		s.due = time.AfterFunc(calm-since, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			s.due = nil
			tell(p.now())
		})
		return
	}
	tell(now)
}

// tell records what a member's program, that instance of it, says that it does. It reports whether another instance speaks under
// the same name: one that was there before this one, and has spoken since this one began.
func (p *presence) tell(m entry.Member, instance string, a activity) (twice bool) {
	p.change(m, func(s *sighting) {
		a.at = s.at
		s.told = a
		before := s.twice(s.at)
		me, known := s.programs[instance]
		if !known {
			me.first = s.at
		}
		me.last = s.at
		s.programs[instance] = me
		for name, other := range s.programs {
			if s.at.Sub(other.last) > lease {
				delete(s.programs, name)
			}
		}
		twice = s.twice(s.at) && !before
	})
	return twice
}

// twice reports whether two programs speak under this name. After a restart, or over a new connection, there is an older one that
// says nothing more.
func (s *sighting) twice(now time.Time) bool {
	for name, a := range s.programs {
		for other, b := range s.programs {
			if name != other && !a.first.After(b.first) && a.last.After(b.first) && now.Sub(a.last) <= lease && now.Sub(b.last) <= lease {
				return true
			}
		}
	}
	return false
}

// view is what the rules may know of a member's whereabouts.
func (s *sighting) view(now time.Time) round.Sighting {
	out := round.Sighting{Last: s.at, Connected: s.following > 0}
	if s.told.at.IsZero() { // never, or by a program of the version before
		if out.Connected {
			out.Last = now
		}
		return out
	}
	holds := now.Sub(s.told.at) <= lease
	out.Connected = out.Connected && holds
	out.Paused = s.told.doing == "paused" && holds
	return out
}

func (p *presence) sighting(m entry.Member) round.Sighting {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.of[m]
	if s == nil {
		return round.Sighting{}
	}
	return s.view(p.now())
}

// last returns when the member was last heard from, zero for never, and whether it follows now.
func (p *presence) last(m entry.Member) (time.Time, bool) {
	s := p.sighting(m)
	return s.Last, s.Connected
}

// doing returns what the member does, false where it has not said, or not lately.
func (p *presence) doing(m entry.Member) (a activity, twice, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.of[m]
	if s == nil || s.told.at.IsZero() || p.now().Sub(s.told.at) > lease || s.following == 0 {
		return activity{}, false, false
	}
	return s.told, s.twice(p.now()), true
}
