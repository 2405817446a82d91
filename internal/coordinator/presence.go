package coordinator

import (
	"sync"
	"time"

	"consilium.dev/internal/entry"
)

// presence remembers when each member was last heard from in this boot. It is no fact: nothing is decided on it.
type presence struct {
	now func() time.Time

	mu sync.Mutex // guards of
	of map[entry.Member]sighting
}

type sighting struct {
	at        time.Time
	following int // open Follow streams
}

func newPresence(now func() time.Time) *presence {
	return &presence{now: now, of: map[entry.Member]sighting{}}
}

func (p *presence) enter(m entry.Member) { p.change(m, 1) }
func (p *presence) leave(m entry.Member) { p.change(m, -1) }
func (p *presence) seen(m entry.Member)  { p.change(m, 0) }

func (p *presence) change(m entry.Member, by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of[m] = sighting{p.now(), p.of[m].following + by}
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
