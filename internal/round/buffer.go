package round

import (
	"errors"
	"fmt"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
)

// An asynchronous strategy (see [aggregate.Buffer]) fits into rounds so: a training round is one filling of its buffer, and closes as soon as
// so many updates are held; what else closes or fails a round holds as ever, so at its deadline, or where all others are absent, one with a quorum
// closes with what it has. Whoever still trains then is not told to stop. Its update is offered for the round that is open when it is finished, and
// says of which round's base model it is; so the fact that accepts it says how stale it is, and its weight follows from that. Statistics are taken in
// a synchronous round whatever the strategy is.

// goal returns how many updates close a try though others may still come, 0 where that is left to the deadline and to who is absent.
func (r *run) goal(t *try) int {
	if n := r.buffer.Size(); n > 0 && t.fact.Kind == entry.Training {
		return n
	}
	return r.fact.Plan.ReportGoal
}

// meant returns the open try for which an update is offered: the one that is named, or under an asynchronous strategy the one that has come after it.
func (s *State) meant(id string, number, attempt int, from Source) (*try, error) {
	t, err := s.try(id, number, attempt)
	if r := s.byID[id]; err != nil && r != nil && r.ended == "" && from.Base > 0 && r.buffer.MaxStaleness() > 0 {
		if now := r.open(); now != nil && now.fact.Kind == entry.Training && number >= 1 && number <= now.fact.Round {
			return now, nil
		}
	}
	return t, err
}

// staleness returns by how many rounds an update of a member comes late for a try, or why it is not taken. What it was trained from has to be the base
// of a round that the member was asked for, and newer than all that its updates which count have gone into: else the same work could count again.
func (r *run) staleness(t *try, m entry.Member, from Source) (int, error) {
	base, origin := from.Base, t
	if base == 0 {
		base = t.fact.Round
	}
	n, why := r.buffer.Staleness(t.fact.Round, base)
	if n > 0 {
		origin = r.closing(base)
	}
	switch {
	case why == aggregate.FromTheFuture:
		return 0, fmt.Errorf("%w: %d, and round %d is open", ErrFuture, base, t.fact.Round)
	case why != "" || origin == nil || n > 0 && origin.fact.Kind != entry.Training:
		return 0, fmt.Errorf("%w: that of round %d, and round %d is open", ErrStale, base, t.fact.Round)
	}
	if _, asked := origin.share(m); !asked {
		return 0, fmt.Errorf("%w: %s, in %s", ErrStranger, m, origin)
	}
	if c, counts := r.contributed[m]; counts && base <= c.round {
		return 0, fmt.Errorf("%w: that of round %d, and one of %s is part of the model of round %d", ErrUsed, base, m, c.round)
	}
	if !from.Model.IsZero() && from.Model != origin.fact.Model {
		return 0, fmt.Errorf("%w: %s is not the base of round %d", ErrModel, from.Model.Short(), base)
	}
	return n, nil
}

// oldest returns the oldest round whose base an update may be of that is offered once that round is closed, 0 where that is the next one only, or none.
func (r *run) oldest(closed int) int {
	if closed >= r.fact.Plan.Rounds || r.buffer.MaxStaleness() == 0 {
		return 0
	}
	return max(closed+1-r.buffer.MaxStaleness(), 1)
}

// CheckBufferSize reports why so many members cannot fill the buffer of a strategy, if it has one; 0 members: not yet known.
func CheckBufferSize(s aggregate.Strategy, members int) error {
	if n := s.Buffer().Size(); members > 0 && n > members {
		return fmt.Errorf("buffer_size %d of strategy %s, of %d members", n, s.Name(), members)
	}
	return nil
}

// CheckBuffer reports why a plan cannot be run under an asynchronous strategy by so many members, if its strategy is one; 0 members: not yet known.
func CheckBuffer(p entry.Plan, s aggregate.Strategy, members int) error {
	if err := CheckBufferSize(s, members); err != nil {
		return err
	}
	n := s.Buffer().Size()
	switch {
	case n == 0:
		return nil
	case n < p.Quorum:
		return fmt.Errorf("quorum %d; the buffer of strategy %s is full with %d updates", p.Quorum, s.Name(), n)
	case p.ReportGoal != 0 && p.ReportGoal != n:
		return fmt.Errorf("report_goal %d; strategy %s closes a round with %d updates, its buffer_size, so leave it out", p.ReportGoal, s.Name(), n)
	case p.Masks:
		return errors.New("masks with strategy " + s.Name() + ": they are agreed upon for one round, and its updates may be of rounds before")
	case p.Privacy != nil:
		return errors.New("privacy: what noise costs is reckoned for rounds whose updates are all of their base model, and strategy " + s.Name() + " takes stale ones")
	}
	return nil
}
