package simulation_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// Masks are modelled: keys are numbers, a masked update is one whose values nobody looks at before its masks have come off, and they come off if
// a quorum has shown, of each member, the kind of share that it takes. What they are made of is shown in package mask.

// maskTry names a try.
type maskTry struct {
	run string
	try
}

// maskRecord is what a member has on its disk of the masks of a try. Each step is there before it is told.
type maskRecord struct {
	key    uint64
	among  []entry.Member // whom it has shared with; nil while it has not
	keys   []uint64       // theirs
	sent   []entry.Member // whose masks its update has; nil while it has sent none
	update entry.Digest
	shown  []entry.Member // whose updates it was told are in the sum, nil while it was not
}

// asked is what a member is asked about masks, with the keys that are shown to it.
type asked struct {
	round.Mask
	keys []uint64 // of Among
}

// share is one that a member shows of another's secrets.
type share struct{ self, right bool }

// veil is what a coordinator's memory has of the masks of a try.
type veil struct {
	keys         map[entry.Member]uint64
	among        []entry.Member
	shared       map[entry.Member]bool
	shown        map[entry.Member]map[entry.Member]share
	tried, wrong int
}

func newVeil() *veil {
	return &veil{keys: map[entry.Member]uint64{}, shared: map[entry.Member]bool{}, shown: map[entry.Member]map[entry.Member]share{}}
}

// veils is the round.Veils of memory.
func (c *council) veils(run string, number, attempt int) round.Veil {
	s := c.sum(run, number, attempt)
	if s == nil || s.veil == nil {
		return round.Veil{}
	}
	v := s.veil
	return round.Veil{
		Announced: slices.Sorted(maps.Keys(v.keys)), Among: v.among, Shared: slices.Sorted(maps.Keys(v.shared)), Shown: slices.Sorted(maps.Keys(v.shown)),
		Wrong: v.wrong, Why: "a share is wrong",
	}
}

// fix notes between whom masks are, before anybody hears of it.
func (c *council) fix(actions []round.Action) {
	for _, a := range actions {
		if a, ok := a.(round.Mask); ok && a.Stage == round.Share {
			if v := c.sum(a.Run, a.Round, a.Try).veil; v.among == nil {
				v.among = a.Among
			}
		}
	}
}

// asks words what a member is asked. Now and then a coordinator leaves one out of those of whose updates it says that they are in the sum: it
// would have both kinds of its shares, if members told it both.
func (c *council) asks(a round.Mask) asked {
	if n := len(a.In); n > a.Plan.Quorum && c.w.bad(200) {
		c.w.hurt(misled)
		i := c.w.chance.IntN(n)
		a.In = slices.Concat(a.In[:i], a.In[i+1:])
	}
	out := asked{Mask: a}
	for _, m := range a.Among {
		out.keys = append(out.keys, c.sum(a.Run, a.Round, a.Try).veil.keys[m])
	}
	return out
}

// veiled takes what a member says of masks. What it says first counts.
func (c *council) veiled(m *member, a round.Mask, key uint64, shares map[entry.Member]share) {
	if c.dead || !c.open || !c.admits(m) {
		return
	}
	c.seen[m.name] = c.w.now
	in := round.Veiled{Run: a.Run, Round: a.Round, Try: a.Try, Stage: a.Stage, Member: m.name}
	if _, err := c.state.Decide(c.time(), in); err != nil {
		if round.Reason(err) == "" {
			c.w.fail("Decide(%+v) = %v, which no peer can be told", in, err)
		}
		return
	}
	v := c.sum(a.Run, a.Round, a.Try).veil
	_, known := v.keys[m.name]
	switch {
	case a.Stage == round.Announce && v.among == nil && !known:
		v.keys[m.name] = key
	case a.Stage == round.Share && slices.Contains(v.among, m.name) && v.keys[m.name] == key:
		v.shared[m.name] = true
	case a.Stage == round.Show && v.shown[m.name] == nil && v.shared[m.name]:
		v.shown[m.name] = shares
	}
	c.settle()
}

// comesOff reports whether the masks come off the sum by what was shown: of each member a quorum of right shares, beside one that is wrong.
func (v *veil) comesOff(a round.Combine) bool {
	v.tried = len(v.shown)
	for _, m := range a.Masked {
		self := slices.ContainsFunc(a.Members, func(c entry.Contribution) bool { return c.Member == m })
		right, wrong := 0, 0
		for _, shares := range v.shown {
			switch s, ok := shares[m]; {
			case ok && s.right && s.self == self:
				right++
			case ok:
				wrong++
			}
		}
		if right < a.Plan.Quorum || wrong > 1 {
			return false
		}
	}
	return true
}

// bare is what comes of a mean whose masks do not come off, or whose updates were none.
func (c *council) bare(a round.Combine, s *sum, off bool) {
	if !off {
		c.w.note("masks do not come off")
		s.combined, s.veil.wrong = false, s.veil.tried
		c.settle()
		return
	}
	c.w.note("masks leave no sum")
	if c.take(round.Spoil{Run: a.Run, Round: a.Round, Try: a.Try, Reason: "an update is none"}) == nil {
		c.settle()
	}
}

// mask does what a try's masks need of this member, or refuses what would give something away.
func (m *member) mask(c *council, a asked) {
	at := maskTry{a.Run, try{a.Round, a.Try}}
	r := m.masks[at]
	var shares map[entry.Member]share
	refused := true
	switch a.Stage {
	case round.Announce:
		m.w.judge.gives(m, a.Run)
		refused = false
		if r == nil {
			r = &maskRecord{key: m.w.chance.Uint64()}
			m.forget(at)
		}
	case round.Share:
		m.w.judge.gives(m, a.Run)
		if refused = !r.fits(m.name, a); !refused {
			r = &maskRecord{key: r.key, among: a.Among, keys: a.keys, sent: r.sent, update: r.update, shown: r.shown}
		}
	case round.Show:
		if refused = !m.may(r, a); !refused {
			shares = m.opens(r, a.In)
			before := *r
			if r = &before; r.shown == nil {
				r.shown = a.In
			}
		}
	}
	if refused {
		m.w.note("masks refused")
		return
	}
	if m.w.bad(10) {
		m.crash() // before it was durable
		return
	}
	m.masks[at] = r
	for of, s := range shares {
		m.w.judge.unmasks(m, r.keys[slices.Index(r.among, of)], of, s.self)
	}
	if shares != nil && m.w.bad(300) {
		m.w.hurt(lied)
		for of, s := range shares {
			shares[of] = share{s.self, false}
		}
	}
	m.w.send(string(m.name), c.name, func() { c.veiled(m, a.Mask, r.key, shares) })
}

// forget drops what is kept of tries of before in the same round.
func (m *member) forget(at maskTry) {
	for old := range m.masks {
		if old.run == at.run && old.round == at.round && old.try.try < at.try.try {
			delete(m.masks, old)
		}
	}
}

// fits reports whether a member may share, with keys of its own, among those whose keys it is shown: once, or again with the same.
func (r *maskRecord) fits(own entry.Member, a asked) bool {
	if r == nil {
		return false
	}
	i := slices.Index(a.Among, own)
	return i >= 0 && a.keys[i] == r.key && len(a.Among) >= a.Plan.Quorum &&
		(r.among == nil || slices.Equal(r.among, a.Among) && slices.Equal(r.keys, a.keys))
}

// may reports whether a member may show shares.
func (m *member) may(r *maskRecord, a asked) bool {
	if r == nil || r.sent == nil || !slices.Contains(a.In, m.name) || len(a.In) < a.Plan.Quorum {
		return false
	}
	for _, in := range a.In {
		if !slices.Contains(r.sent, in) {
			return false
		}
	}
	return r.shown == nil || slices.Equal(r.shown, a.In) || m.w.fault == showsTwice
}

// opens returns the shares that a member shows.
func (m *member) opens(r *maskRecord, in []entry.Member) map[entry.Member]share {
	out := map[entry.Member]share{}
	for _, of := range r.sent {
		out[of] = share{slices.Contains(in, of), true}
	}
	return out
}

// hides masks an update, or refuses to.
func (m *member) hides(a round.Ask, u *update) bool {
	at := maskTry{a.Run, try{a.Round, a.Try}}
	r := m.masks[at]
	ok := r != nil && r.among != nil && slices.Contains(a.Masked, m.name) && len(a.Masked) >= a.Plan.Quorum
	for _, other := range a.Masked {
		ok = ok && slices.Contains(r.among, other)
	}
	if ok && r.sent != nil && m.w.fault != masksTwice {
		ok = slices.Equal(r.sent, a.Masked) && r.update == u.digest
	}
	if !ok {
		m.w.note("masks refused")
		return false
	}
	if m.w.bad(10) {
		m.crash()
		return false
	}
	r.sent, r.update = a.Masked, u.digest
	m.w.judge.masks(m, r.key, a.Masked, u.digest)
	return true
}

// hidden is an update under masks.
type hidden struct {
	update  entry.Digest
	members string
}

// masks checks that a member masks one update by its keys, and with the same others' masks each time.
func (j *judge) masks(m *member, key uint64, members []entry.Member, update entry.Digest) {
	now := hidden{update, fmt.Sprint(members)}
	if before, known := j.hidden[key]; known && before != now {
		j.world.fail("%s masks %s with %s, and by the same keys it has masked %s with %s", m.name, now.update.Short(), now.members, before.update.Short(), before.members)
	}
	j.hidden[key] = now
}

// holding names what one member holds of another's secrets.
type holding struct {
	by  entry.Member
	key uint64
}

// unmasks checks that a member shows one kind of share of another's secrets.
func (j *judge) unmasks(m *member, key uint64, of entry.Member, self bool) {
	h := holding{m.name, key}
	if before, known := j.kinds[h]; known && before != self {
		j.world.fail("%s shows both kinds of shares of %s", m.name, of)
	}
	j.kinds[h] = self
}

// agreed checks that masks are agreed upon once in an open try, by a quorum of those who were asked.
func (a *audit) agreed(f entry.MasksAgreed) error {
	plan := a.plans[f.Run].Plan
	if !plan.Masks || a.open[f.Run] != (try{f.Round, f.Try}) || a.lost[f.Run] || a.masked[f.Run] != nil || len(f.Members) < plan.Quorum {
		return errors.New("masks are agreed upon out of their try, twice, after a boot, or by fewer than a quorum")
	}
	for i, m := range f.Members {
		if !slices.Contains(a.selected[f.Run], m) || i > 0 && f.Members[i-1] >= m {
			return fmt.Errorf("masks are agreed upon with %s, which was not asked, or twice", m)
		}
	}
	a.masked[f.Run] = f.Members
	return nil
}

// unmasked checks that masks come off once, off the sum of a quorum of updates that were accepted.
func (a *audit) unmasked(f entry.Unmasking) error {
	if a.open[f.Run] != (try{f.Round, f.Try}) || a.lost[f.Run] || a.masked[f.Run] == nil || a.unmasking[f.Run] != nil || len(f.Members) < a.plans[f.Run].Plan.Quorum {
		return errors.New("masks come off out of their try, twice, after a boot, or off the sum of fewer than a quorum")
	}
	for i, m := range f.Members {
		if _, ok := a.accepted[accepted{f.Run, try{f.Round, f.Try}, m}]; !ok || i > 0 && f.Members[i-1] >= m {
			return fmt.Errorf("masks come off a sum with %s, of which no update was accepted, or twice", m)
		}
	}
	a.unmasking[f.Run] = f.Members
	return nil
}

// hides reports whether an update may be accepted, as far as masks go.
func (a *audit) hides(f entry.UpdateAccepted) bool {
	return !a.plans[f.Run].Plan.Masks || !a.lost[f.Run] && a.unmasking[f.Run] == nil && slices.Contains(a.masked[f.Run], f.Member)
}
