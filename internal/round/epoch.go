package round

import (
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/entry"
)

// adopt returns what follows from a newer manifest: the manifest itself, the end of every open try, and the end of the runs
// that cannot go on under it.
func (s *State) adopt(in Adopt) ([]entry.Fact, error) {
	f, old := in.Fact, s.manifest
	if old.Epoch != 0 && old.Manifest == f.Manifest && old.Epoch == f.Epoch && old.Federation == f.Federation {
		return nil, nil
	}
	if old.Epoch != 0 {
		f.Spent = s.spent
	}
	if err := s.succeeds(f); err != nil {
		return nil, err
	}
	out := facts(f)
	for _, r := range s.live {
		if t := r.open(); t != nil {
			out = append(out, entry.RoundFailed{
				Run: r.fact.Run, Round: t.fact.Round, Try: t.fact.Try, Reason: fmt.Sprintf("epoch %d of the manifest was adopted", f.Epoch), Spared: true,
			})
		}
		if reason := r.outlawed(in); reason != "" {
			out = append(out, r.end(failed, fmt.Sprintf("epoch %d of the manifest: %s", f.Epoch, reason)))
		}
	}
	return out, nil
}

// outlawed returns why a run does not go on under a manifest, "" where it does. It does where it could be created under it by the
// same lead, with as many members left as its plan needs: of those who consented, or also of those who have not yet answered
// while no round has begun. One whose last round is closed is only waited for.
func (r *run) outlawed(in Adopt) string {
	if r.finished() {
		return ""
	}
	if !slices.Contains(in.Leads, r.fact.Lead) {
		return r.fact.Lead + " may not lead any more"
	}
	if err := in.Limits.allowPlan(r.fact.Plan); err != nil {
		return err.Error()
	}
	stay := 0
	var gone []entry.Member
	for _, m := range r.members {
		switch {
		case m.State != consented && m.State != invited:
		case !slices.Contains(in.Limits.Members, m.Member):
			gone = append(gone, m.Member)
		case m.State == consented || len(r.tries) == 0:
			stay++
		}
	}
	if len(gone) > 0 && stay < r.fact.Plan.Quorum {
		return fmt.Sprintf("%d of the %d members needed are left; gone: %s", stay, r.fact.Plan.Quorum, listed(gone))
	}
	return ""
}

// succeeds reports why a manifest is not the one after that which the log is under. The first may be of any epoch, and may say
// what was spent before the log began.
func (s *State) succeeds(f entry.ManifestAdopted) error {
	old := s.manifest
	switch {
	case f.Epoch != 0 && old.Epoch == 0:
		return nil
	case f.Epoch != 0 && f.OldLog != entry.LogHead{}:
		return fmt.Errorf("%w: a new log begins with epoch %d, and this one is there already: give the coordinator an empty store, or agree on an epoch "+
			"without old_log", ErrOtherLog, f.Epoch)
	case f.Epoch == 0 || old.Federation != f.Federation || f.Epoch != old.Epoch+1 || f.Previous != old.Manifest:
		return fmt.Errorf("%w: it is at epoch %d of %s, manifest %s, and this is epoch %d of %s, manifest %s",
			ErrOtherLog, old.Epoch, old.Federation, old.Manifest.Short(), f.Epoch, f.Federation, f.Manifest.Short())
	case f.Spent != s.spent:
		return fmt.Errorf("epoch %d begins with epsilon %g and delta %g spent, and spent were %g and %g",
			f.Epoch, f.Spent.Epsilon, f.Spent.Delta, s.spent.Epsilon, s.spent.Delta)
	}
	return nil
}

// holds reports why an epoch is not the one that the log is under.
func (s *State) holds(epoch uint64) error {
	if epoch == 0 || epoch != s.manifest.Epoch {
		return fmt.Errorf("%w: it is at epoch %d, and this is of epoch %d", ErrOtherLog, s.manifest.Epoch, epoch)
	}
	return nil
}

// adopts puts the state under a manifest. Members that it does not name leave the runs that go on; what the facts after it say
// ends the others and the open tries.
func (s *State) adopts(at time.Time, f entry.ManifestAdopted) error {
	if err := s.succeeds(f); err != nil {
		return err
	}
	if s.manifest.Epoch == 0 {
		s.carried = f.Spent
	}
	s.manifest, s.adopted, s.spent = f, at, f.Spent
	if len(f.Members) == 0 {
		return nil // a log of before epochs followed each other does not say who is left
	}
	for _, r := range s.live {
		for i := range r.members {
			m := &r.members[i]
			if (m.State == consented || m.State == invited) && !slices.Contains(f.Members, m.Member) {
				m.State, m.Rule = left, fmt.Sprintf("not in epoch %d of the manifest", f.Epoch)
			}
		}
	}
	return nil
}

// spared returns how many tries of a round cost none of the plan's.
func (r *run) spared(number int) int {
	n := 0
	for _, t := range slices.Backward(r.tries) {
		if t.fact.Round != number {
			break
		}
		if t.spared {
			n++
		}
	}
	return n
}
