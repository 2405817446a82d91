package participant

import (
	"context"
	"errors"
	"slices"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// Under an asynchronous strategy what this member has begun for a round goes on when that round is closed, and is offered for the one that is open when
// it is finished. So a training is not given up when another round is wanted, an update is kept for longer, and a transfer is not cut: it is what a slow
// line takes longest for. While the training itself goes on, beside the session, the session does what else is wanted.

// counts reports whether what was begun for a round can still be offered though another one may be wanted now.
func counts(w *pb.Wanted, at key) bool {
	return slices.ContainsFunc(w.GetProgress(), func(r *pb.Progress) bool {
		return r.Run == at.run && !r.Ended && r.Oldest > 0 && at.round >= int(r.Oldest)
	})
}

// floor returns up to which round the updates of an open run are needed no more.
func floor(r *pb.Progress) int {
	if r.Oldest > 0 {
		return min(int(r.Closed), int(r.Oldest)-1)
	}
	return int(r.Closed)
}

// lateness returns by how many rounds an update may come late for what is asked.
func lateness(t *pb.Train, plan entry.Plan) int {
	if entry.RoundKind(t.Kind) != entry.Training {
		return 0
	}
	s, err := aggregate.NewStrategy(plan.Strategy.Name, plan.Strategy.Params)
	if err != nil {
		return 0 // the plan was refused before
	}
	return s.Buffer().MaxStaleness()
}

// begun returns what is to be trained where what is asked for is what, which is what was begun before if that may be so late; and its update if it is
// kept. Updates that cannot count any more are dropped.
func (s *session) begun(ctx context.Context, what subject, t *pb.Train, late int) (subject, finished, bool, error) {
	if late == 0 {
		u, ok, err := s.p.kept.get(ctx, what.at)
		return what, u, ok, err
	}
	s.hold(what.at)
	may := func(x subject) bool {
		n := what.at.round - x.at.round
		return x.at.run == what.at.run && x.at.round >= 1 && n >= 0 && n <= late && x.weight == what.weight && (n > 0 || x.base == what.base)
	}
	for _, at := range s.p.kept.of(what.at.run) {
		u, _, err := s.p.kept.get(ctx, at)
		if err != nil {
			return what, u, false, err
		}
		if was := (subject{at, u.base, u.weight}); may(was) && !slices.Equal(t.Contributed, digestOf(u)) {
			u.round = at.round
			s.hold(at)
			return was, u, true, nil
		}
		if at.round > what.at.round { // of a history that is not the coordinator's now
			continue
		}
		if err := s.p.kept.drop(ctx, at); err != nil {
			return what, u, false, err
		}
	}
	if now := s.p.studio.now; now != nil && may(now.subject) {
		return now.subject, finished{}, false, nil
	}
	return what, finished{}, false, nil
}

func digestOf(u finished) []byte {
	d := u.digest()
	return d[:]
}

// source returns which model an update was trained from, where the coordinator is told: 0 and none where that is the base of the round that asks.
func (f finished) source() (base int32, model []byte) {
	if f.round == 0 {
		return 0, nil
	}
	return int32(f.round), f.base[:]
}

// spent reports whether an older update is refused for good, for that reason: then a new one is trained in its place.
func (f finished) spent(t *pb.Train, reason string) bool {
	switch reason {
	case "used", "model", string(aggregate.TooStale), string(aggregate.FromTheFuture):
		return f.round > 0 && f.round < int(t.Round)
	}
	return false
}

// yield waits for a training that goes on for a later round, of another run as a rule, and keeps what it makes: what is asked for now would put an end
// to it, and so whoever takes part in two runs might never get to an end in one.
func (s *session) yield(ctx context.Context, what subject) error {
	for {
		s.mu.Lock()
		goesOn := s.p.studio.now != nil && !s.p.studio.has(what) && counts(s.wanted, s.p.studio.now.at)
		s.mu.Unlock()
		if !goesOn {
			return nil
		}
		s.loosen()
		if _, err := s.p.trained(ctx); err != nil && !errors.Is(err, errNotOurs) {
			return err
		}
		s.hold(what.at)
	}
}

// hold has the task under way go on, which is of what was begun for a round, while that counts.
func (s *session) hold(at key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steady = at
}

// loosen ends that: a task that is not wanted any more is stopped.
func (s *session) loosen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steady = key{}
	if s.cancel != nil && !s.stays(s.wanted) {
		s.cancel()
	}
}

// stays reports whether the task under way goes on where w is wanted. mu is held.
func (s *session) stays(w *pb.Wanted) bool {
	if s.steady != (key{}) && counts(w, s.steady) {
		return true
	}
	return slices.ContainsFunc(s.tasks(w), func(t task) bool { return t.key == s.current })
}
