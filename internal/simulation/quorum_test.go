package simulation_test

import (
	"errors"
	"slices"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/witness"
)

// show takes what a witness says that it keeps.
func (c *council) show(m *member, kept witness.Head) {
	if c.dead {
		return
	}
	c.seen[m.name] = c.w.now
	if !c.decides(m) {
		return
	}
	c.shown[m.name] = kept
	c.w.note("shown", int64(kept.Size))
	c.tally.Show(string(m.name), kept, c.log.size(), c.log.root(kept.Size)) //nolint:errcheck // Lost says what matters
	c.assent()
}

// assent does what the witnesses' word allows.
func (c *council) assent() {
	switch {
	case c.tally.Lost() != nil:
		c.end("no quorum is left for its log")
	case !c.open && c.tally.Open():
		c.takeOver()
	case c.open:
		c.gather()
	}
}

// gather asks the witnesses to cosign the log as it is.
func (c *council) gather() {
	if c.dead || !c.open {
		return
	}
	c.tally.Propose(c.log.head())
	ballot := c.tally.Ballot()
	if ballot.Size == 0 {
		return
	}
	for _, s := range c.tally.Standings() {
		if s.Shown && s.Conflict == nil && s.Cosigned != ballot && s.Seen <= ballot.Size {
			c.ask(c.w.member(s.Name), s.Seen, ballot)
		}
	}
}

// ask asks one witness to cosign, going on from what it is believed to have seen.
func (c *council) ask(m *member, old int64, head witness.Head) {
	o := witness.Offer{Old: old, Next: head, Proof: c.log.proof(old, head)}
	log := c.log
	c.w.send(c.name, string(m.name), func() { m.asked(c, log, o) })
}

// cosigned takes a cosignature.
func (c *council) cosigned(m *member, h witness.Head) {
	if c.dead {
		return
	}
	c.seen[m.name] = c.w.now
	if !c.log.begins(h) || !c.tally.Cosign(string(m.name), h) {
		return
	}
	c.w.note("released", h.Size)
	c.d.cosigned, c.d.by = h, c.tally.Cosigners(h)
	c.w.judge.releases(c, h)
	c.let(h.Size)
	if c.sets.Due(h.Size) {
		c.w.note("hand over", h.Size)
		c.take(round.HandOver{Fact: entry.HandedOver{Epoch: uint64(c.audit.epoch), Size: h.Size}}) //nolint:errcheck // a process that has ended
	}
	c.settle()
}

// let frees the closings below a line.
func (c *council) let(below int64) {
	c.withheld = slices.DeleteFunc(c.withheld, func(w closing) bool {
		if w.line < below {
			c.freed[w.run] = freed{max(w.round, c.freed[w.run].round), c.time()}
		}
		return w.line < below
	})
}

// fold takes down who witnesses the log from a line on.
func (c *council) fold(position int64, f entry.Fact) {
	switch f := f.(type) {
	case entry.ManifestAdopted:
		set, err := witness.ParseSet(f.Epoch, f.Witnesses)
		if err != nil {
			c.w.fail("line %d: %v", position, err)
		}
		c.sets.Adopt(position, set)
	case entry.HandedOver:
		if err := c.sets.HandOver(position, f.Size); err != nil {
			c.w.fail("line %d: %v", position, err)
		}
	}
}

// newest keeps of some sets the newest, where a coordinator forgets the others.
func (c *council) newest(sets []witness.Set) []witness.Set {
	if c.w.fault == forgetsFormer && len(sets) > 1 {
		return sets[len(sets)-1:]
	}
	return sets
}

// ahead returns who decides over the log once the manifests are adopted that the process has heard of.
func (c *council) ahead() []witness.Set {
	then, size := c.sets.Clone(), c.log.size()
	from := int(c.sets.Epoch(size))
	if from == 0 {
		from = c.first()
	}
	for ; from < c.known; from++ {
		then.Adopt(size, c.w.charters[from].set)
		size++
	}
	return c.newest(then.Deciding(size))
}

// redecide has those witnesses decide who do after what was just written.
func (c *council) redecide(facts []entry.Fact) {
	for _, f := range facts {
		switch f.(type) {
		case entry.ManifestAdopted, entry.HandedOver:
			c.turn(c.newest(c.sets.Deciding(c.log.size())))
			c.let(c.sets.Free(c.log.size()))
			return
		}
	}
}

func (c *council) turn(sets []witness.Set) {
	if err := c.tally.Turn(sets); err != nil {
		c.w.fail("tallies: %v", err)
	}
}

// visible returns how many lines may be heard of.
func (c *council) visible() int64 { return max(c.sets.Free(c.log.size()), c.tally.Released().Size) }

// decides reports whether a member's word as a witness counts.
func (c *council) decides(m *member) bool {
	return slices.ContainsFunc(c.tally.Sets(), func(s witness.Set) bool { return slices.Contains(s.Names, string(m.name)) })
}

// refused takes a witness's refusal.
func (c *council) refused(m *member, o witness.Offer, err error) {
	if c.dead {
		return
	}
	if !c.decides(m) {
		return
	}
	var stale *witness.StaleError
	if !errors.As(err, &stale) {
		c.w.note("refused")
		c.contradicted(m, err)
		return
	}
	kept := stale.Kept
	switch {
	case !c.log.begins(kept):
		c.contradicted(m, err)
	case kept.Size <= o.Next.Size && o.Next == c.tally.Ballot():
		c.ask(m, kept.Size, o.Next)
	default:
		c.shown[m.name] = kept
		c.tally.Show(string(m.name), kept, c.log.size(), c.log.root(kept.Size)) //nolint:errcheck // our log begins with it
	}
}

func (c *council) contradicted(m *member, why error) {
	if err := c.tally.Contradict(string(m.name), why); err != nil {
		c.w.fail("contradicted: %v", err)
	}
	c.assent()
}

// member returns the member of that name.
func (w *world) member(name string) *member {
	return w.members[slices.Index(w.names, entry.Member(name))]
}
