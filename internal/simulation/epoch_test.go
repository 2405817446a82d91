package simulation_test

import (
	"slices"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// charter is a manifest: what the members have signed. Each names the one before it, so there is one line of them.
type charter struct {
	fact   entry.ManifestAdopted
	limits round.Limits
}

// sign adds a manifest of these members.
func (w *world) sign(members []entry.Member) {
	f := entry.ManifestAdopted{
		Federation: "f", Epoch: uint64(len(w.charters) + 1), Manifest: entry.Digest{byte(len(w.charters) + 1)}, Members: members,
	}
	if n := len(w.charters); n > 0 {
		f.Previous = w.charters[n-1].fact.Manifest
	}
	w.charters = append(w.charters, charter{f, round.Limits{
		Members: members, Strategies: []string{"fedavg"}, Trainers: []string{"builtin/logistic"}, LeastParticipants: 1, MaxAbs: 1 << 20,
		RoundsMax: 10, OpenRuns: 8,
	}})
}

// amend has the members sign a manifest without one of them who is no witness, or with everybody again, and brings it to the
// coordinators that live.
func (w *world) amend() {
	members := w.names
	if n := len(w.names); n > 2 && len(w.witnesses) < n && w.chance.IntN(2) == 0 {
		gone := len(w.witnesses) + w.chance.IntN(n-len(w.witnesses))
		members = slices.Delete(slices.Clone(w.names), gone, gone+1)
	}
	w.sign(members)
	w.hurt(amended)
	w.note("signed", int64(len(w.charters)), int64(len(members)))
	for _, c := range w.councils {
		w.after(w.upTo(5*time.Second), func() {
			if !c.dead && c.open {
				c.adopt()
				c.settle()
			}
		})
	}
}

// adopt puts the log under all manifests that have been signed, one after the other.
func (c *council) adopt() {
	if c.audit.epoch == 0 {
		c.audit.epoch = len(c.w.charters) - 1 // the first may be of any epoch
	}
	for c.audit.epoch < len(c.w.charters) {
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
