package coordinator

import (
	"sync"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// presence remembers when each member was last heard from in this boot. It is no fact: whom a round is closed without for being
// absent, its fact says.
type presence struct {
	now     func() time.Time
	changed chan struct{} // holds one token when a member came or went and the loop has not seen it

	mu sync.Mutex // guards of
	of map[entry.Member]sighting
}

type sighting struct {
	at        time.Time
	following int // open Follow streams
}

func newPresence(now func() time.Time) *presence {
	return &presence{now: now, changed: make(chan struct{}, 1), of: map[entry.Member]sighting{}}
}

func (p *presence) enter(m entry.Member) { p.change(m, 1) }
func (p *presence) leave(m entry.Member) { p.change(m, -1) }
func (p *presence) seen(m entry.Member)  { p.change(m, 0) }

func (p *presence) change(m entry.Member, by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.of[m].following
	p.of[m] = sighting{p.now(), before + by}
	if (before == 0) != (before+by == 0) {
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
}

// last returns when the member was last heard from, zero for never, and whether it follows now.
func (p *presence) last(m entry.Member) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.of[m]
	if s.following > 0 {
		return p.now(), true
	}
	return s.at, false
}

// sighting is what the rules may know of a member's whereabouts.
func (p *presence) sighting(m entry.Member) round.Sighting {
	at, connected := p.last(m)
	return round.Sighting{Last: at, Connected: connected}
}
