package simulation_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/witness"
)

// charter is a manifest: what the members have signed. Each names the one before it, so there is one line of them.
type charter struct {
	fact   entry.ManifestAdopted
	limits round.Limits
	set    witness.Set
}

// sign adds a manifest of these members and witnesses.
func (w *world) sign(members []entry.Member, set witness.Set) {
	f := entry.ManifestAdopted{
		Federation: "f", Epoch: uint64(len(w.charters) + 1), Manifest: entry.Digest{byte(len(w.charters) + 1)}, Members: members,
		Witnesses: "none: nobody remembers",
	}
	if set.Epoch = f.Epoch; !set.Nobody() {
		f.Witnesses = fmt.Sprintf("%d of %d: %s", set.Quorum, len(set.Names), strings.Join(set.Names, ", "))
	}
	if n := len(w.charters); n > 0 {
		f.Previous = w.charters[n-1].fact.Manifest
	}
	w.charters = append(w.charters, charter{f, round.Limits{
		Members: members, Strategies: []string{"fedavg", "fedbuff"}, Trainers: []string{"builtin/logistic"}, LeastParticipants: 1, MaxAbs: 1 << 20,
		RoundsMax: 10, OpenRuns: 8,
	}, set})
}

// amend has the members sign a manifest with other witnesses, without one of them who never was a witness, or with everybody again, and
// brings it to the coordinators that live.
func (w *world) amend() {
	members, set := w.names, w.newest().set
	if w.chance.IntN(2) == 0 {
		set = w.others(set)
	}
	strangers := slices.DeleteFunc(slices.Clone(w.names), func(m entry.Member) bool {
		return slices.Contains(set.Names, string(m)) || slices.ContainsFunc(w.charters, func(c charter) bool { return slices.Contains(c.set.Names, string(m)) })
	})
	if len(w.names) > 2 && len(strangers) > 0 && w.chance.IntN(2) == 0 {
		gone := pick(w, strangers)
		members = slices.DeleteFunc(slices.Clone(w.names), func(m entry.Member) bool { return m == gone })
	}
	w.sign(members, set)
	if !set.Same(w.charters[len(w.charters)-2].set) {
		w.hurt(replaced)
		w.note("other witnesses", int64(len(set.Names)), int64(set.Quorum))
	}
	w.hurt(amended)
	w.note("signed", int64(len(w.charters)), int64(len(members)))
	signed := len(w.charters)
	for _, c := range w.councils {
		w.after(w.upTo(5*time.Second), func() {
			if c.dead || c.known >= signed {
				return
			}
			c.known = signed
			if c.open {
				c.adopt()
				c.settle()
				return
			}
			c.must = c.ahead()
			c.turn(c.must)
		})
	}
}

// others draws witnesses: fewer of whose storage may be rolled back than two quorums of them share. It returns those of before
// where these will not do.
func (w *world) others(before witness.Set) witness.Set {
	names := slices.Clone(w.names)
	w.chance.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	names = names[:1+w.chance.IntN(len(names))]
	slices.Sort(names)
	forgetful := 0
	var set witness.Set
	for _, name := range names {
		set.Names = append(set.Names, string(name))
		if w.member(string(name)).forgetful {
			forgetful++
		}
	}
	n := len(names)
	least := (n+forgetful)/2 + 1 // 2q - n > forgetful
	if least > n {
		return before
	}
	set.Quorum = least + w.chance.IntN(n-least+1)
	return set
}

// first returns how many manifests a new log leaves out.
func (c *council) first() int {
	if c.w.fault == beginsNewest {
		return c.known - 1
	}
	return 0
}

// adopt puts the log under all manifests that the process has heard of, one after the other.
func (c *council) adopt() {
	if c.audit.epoch == 0 {
		c.audit.epoch = c.first()
	}
	for c.audit.epoch < c.known {
		next := c.w.charters[c.audit.epoch]
		if c.take(round.Adopt{Fact: next.fact, Limits: next.limits, Leads: []string{"ada"}}) != nil {
			return
		}
	}
}

// admits reports whether the manifest that the log is under names a member: all others are cut off.
func (c *council) admits(m *member) bool { return slices.Contains(c.charter().limits.Members, m.name) }

// charter returns the manifest that the log is under.
func (c *council) charter() charter { return c.w.charters[c.audit.epoch-1] }

// newest returns the manifest that was signed last.
func (w *world) newest() charter { return w.charters[len(w.charters)-1] }
