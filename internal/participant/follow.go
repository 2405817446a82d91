package participant

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"consilium.dev/internal/skew"
	pb "consilium.dev/proto/consilium/v1"
)

// errSilent ends a session whose link is dead without being closed.
var errSilent = errors.New("the coordinator has been silent for " + patience.String())

// errEnding ends a session whose participant ends.
var errEnding = errors.New("the participant is ending")

// session is one connection, and those that take its place before it ends: what is wanted over it, and what was done over it.
type session struct {
	p      *Participant
	line   *line
	rounds pb.RoundsClient
	blobs  pb.BlobsClient
	alive  func()          // tells that the coordinator is heard from
	done   map[string]bool // owned by work: keys of tasks that need nothing more over this connection
	group  *errgroup.Group // of all that goes on in it

	mu      sync.Mutex // guards what follows
	ear     *ear       // over the newest connection
	wanted  *pb.Wanted
	news    chan struct{} // holds one token when wanted is newer than what work has seen
	veiled  chan struct{} // likewise, for veil
	current string        // key of the task under way
	steady  key           // what that goes on with though it may not be wanted any more; zero: nothing
	cancel  context.CancelFunc
}

// ear is what the coordinator is heard with, over one connection.
type ear struct {
	stream grpc.ServerStreamingClient[pb.Wanted]
	deafen func() // ends the stream
}

// follow runs one session until it breaks.
func (p *Participant) follow(ctx context.Context) error {
	d, err := p.dialer()
	if err != nil {
		return err
	}
	defer d.close()
	first, err := d.dial()
	if err != nil {
		return err
	}
	return p.over(ctx, first, d)
}

// introduction is what a participant says when it begins to follow.
func (p *Participant) introduction() *pb.FollowRequest {
	return &pb.FollowRequest{Version: p.o.Version, Clock: p.o.Now().UnixMicro()}
}

// over follows over a connection, and over those that renew makes, until the newest breaks. It closes them. A nil renew makes none.
func (p *Participant) over(ctx context.Context, first *strand, renew *dialer) error {
	lines := newLine(first)
	defer lines.close()
	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(patience, func() { cancel(errSilent) })
	defer silence.Stop()
	s := &session{
		p: p, line: lines, rounds: pb.NewRoundsClient(lines), blobs: pb.NewBlobsClient(lines),
		alive: func() { silence.Reset(patience) }, done: map[string]bool{}, news: make(chan struct{}, 1),
		veiled: make(chan struct{}, 1),
	}
	watch.Go(func() {
		select {
		case <-p.ending:
			if s.idle() {
				cancel(errEnding)
			}
		case <-ctx.Done():
		}
	})
	listening, deafen := context.WithCancel(ctx)
	defer deafen()
	stream, err := s.rounds.Follow(listening, p.introduction())
	if err != nil {
		return err
	}
	g, work := errgroup.WithContext(ctx)
	s.group, s.ear = g, &ear{stream, deafen}
	g.Go(func() error {
		w, err := stream.Recv()
		if err != nil {
			return errors.Join(context.Cause(ctx), fmt.Errorf("following: %w", err))
		}
		p.log.Info("following", zap.String("coordinator", p.o.Coordinator), zap.String("version", w.Version))
		if err := p.agree(w.Clock); err != nil {
			return err
		}
		p.spoke = p.o.Now()
		s.listen(ctx, s.ear, w)
		if renew == nil {
			return nil
		}
		if end, ok := renew.end(stream.Context()); ok {
			return s.renew(work, renew, end)
		}
		return nil
	})
	g.Go(func() error { return s.work(work) })
	g.Go(func() error { return s.veil(work) })
	g.Go(func() error { s.tell(work); return nil })
	if p.memory != nil && p.epochs.mayWitness(p.o.Name) {
		g.Go(func() error { return p.witness(work, lines, s.alive) })
	}
	// A worker's error must end the receiver, which waits for the stream.
	g.Go(func() error { <-work.Done(); cancel(context.Cause(work)); return nil })
	return g.Wait()
}

// listen hears the coordinator with e from now on, which has heard w, and with no other, until ctx ends.
func (s *session) listen(ctx context.Context, e *ear, w *pb.Wanted) {
	s.mu.Lock()
	before := s.ear
	s.ear = e
	s.mu.Unlock()
	if before != e {
		before.deafen()
	}
	s.alive()
	s.hear(e, w)
	s.group.Go(func() error {
		for {
			w, err := e.stream.Recv()
			if err != nil && !s.hears(e) {
				return nil
			}
			if err != nil {
				return errors.Join(context.Cause(ctx), fmt.Errorf("following: %w", err))
			}
			if err := s.p.agree(w.Clock); err != nil {
				return err
			}
			s.alive()
			s.hear(e, w)
		}
	})
}

// hears reports whether the coordinator is heard with e.
func (s *session) hears(e *ear) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ear == e
}

// skewError ends a session with a coordinator whose clock is far from ours. One of the two is wrong, and neither knows which.
type skewError struct{ ahead, limit time.Duration }

func (e *skewError) Error() string {
	return fmt.Sprintf("clock: the coordinator's is %s ours, at most %s is allowed: set the one that is wrong", skew.Text(e.ahead), e.limit)
}

// agree compares the coordinator's clock with ours. A coordinator of before 0.2 does not say.
func (p *Participant) agree(clock int64) error {
	if ahead := time.UnixMicro(clock).Sub(p.o.Now()); clock != 0 && skew.Far(ahead, p.o.Skew) {
		return &skewError{ahead, p.o.Skew}
	}
	return nil
}

// idle reports whether no task is under way.
func (s *session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cancel == nil
}

// hear makes w what is wanted, and stops what is not wanted any more. What comes over a connection of before is older than what
// was heard since.
func (s *session) hear(e *ear, w *pb.Wanted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ear != e {
		return
	}
	s.wanted = w
	s.p.standing.hear(w)
	select {
	case s.news <- struct{}{}:
	default:
	}
	s.again()
	if s.cancel == nil {
		return
	}
	if !s.stays(w) {
		s.cancel()
	}
}

// task is one thing that is wanted.
type task struct {
	key   string // names it within a session
	doing string // as in pb.TellRequest
	of    string // the run
	round int32
	run   func(context.Context) error
}

// tasks returns what w wants, in the order in which it is done: answers first, for others wait for them; figures
// of the newest model before its training, or the slowest member would never get to them.
func (s *session) tasks(w *pb.Wanted) []task {
	var all []task
	for _, run := range openRuns(w) {
		if l, left := s.p.standing.left(run); left {
			all = append(all, task{"leave/" + run, "leaving", run, 0, func(ctx context.Context) error { return s.leave(ctx, run, l.Reason) }})
		}
	}
	for _, i := range w.GetInvitations() {
		all = append(all, task{"consent/" + i.Run, "answering", i.Run, 0, func(ctx context.Context) error { return s.consent(ctx, i) }})
	}
	for _, e := range w.GetEvaluate() {
		key := fmt.Sprintf("evaluate/%s/%d", e.Run, e.Round)
		all = append(all, task{key, "evaluating", e.Run, e.Round, func(ctx context.Context) error { return s.evaluate(ctx, e) }})
	}
	for _, t := range w.GetTrain() {
		// What was accepted before a crash of the coordinator is another task than what has not been offered yet.
		key := fmt.Sprintf("train/%s/%d/%d/%x", t.Run, t.Round, t.Try, t.Accepted)
		all = append(all, task{key, "training", t.Run, t.Round, func(ctx context.Context) error { return s.train(ctx, t) }})
	}
	return all
}

// work does what is wanted, one task at a time, and looks at the newest wants after each. When the participant ends it takes no
// further task.
func (s *session) work(ctx context.Context) error {
	changed := s.p.standing.changes()
	for turned := 0; ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx) // it may be the first to see why the session ends
		case <-s.p.ending:
			return errEnding
		case <-s.news:
		case <-changed:
		}
		changed = s.p.standing.changes() // what changes from here on is found by the next turn
		if n := s.line.turned(); n != turned {
			turned = n
			clear(s.done) // what is wanted still is not done for the coordinator
		}
		for s.p.goesOn() {
			s.p.heed()
			w, t, ok := s.next()
			if w == nil { // only the administrator has spoken yet
				break
			}
			if err := s.p.forget(ctx, w); err != nil {
				return err
			}
			if !ok {
				break
			}
			if err := s.do(ctx, t); err != nil {
				return err
			}
		}
	}
}

// next returns what is wanted now and its first task that is not done.
func (s *session) next() (*pb.Wanted, task, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tasks(s.wanted) {
		if !s.done[t.key] && s.allows(t) {
			return s.wanted, t, true
		}
	}
	return s.wanted, task{}, false
}

// allows reports whether the administrator lets a task be done now. A pause does not keep a run from being left.
func (s *session) allows(t task) bool { return t.doing == "leaving" || s.p.standing.allows(t.of) }

// do runs a task until it is done or not wanted any more, by the coordinator or by the administrator. Its error ends the session.
func (s *session) do(session context.Context, t task) error {
	ctx, cancel := context.WithCancel(session)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		for {
			changed := s.p.standing.changes()
			if !s.allows(t) {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	s.mu.Lock()
	s.current, s.cancel = t.key, cancel
	s.mu.Unlock()
	s.p.desk.set(t.doing, t.of, t.round)
	turned := s.line.turned()
	err := t.run(ctx)
	s.p.rest()
	s.mu.Lock()
	unwanted := ctx.Err() != nil
	s.current, s.cancel, s.steady = "", nil, key{}
	goesOn := s.p.studio.now != nil && counts(s.wanted, s.p.studio.now.at)
	s.mu.Unlock()
	if err != nil && session.Err() != nil {
		return context.Cause(session) // it is all over, not only this task
	}
	if err != nil && unwanted && goesOn {
		s.p.log.Info("training goes on, for a later round", zap.String("task", t.key))
		return nil
	}
	if err != nil && unwanted {
		s.p.log.Info("stopped, not wanted any more", zap.String("task", t.key))
		return nil
	}
	var broken *diskError
	if err != nil && s.line.turned() != turned && !errors.As(err, &broken) {
		// It went over a connection that another has taken the place of, and may have ended with it.
		s.p.log.Info("goes on over the new connection", zap.String("task", t.key), zap.String("reason", plain(err)))
		return nil
	}
	if err != nil {
		return err
	}
	s.done[t.key] = true
	return nil
}

// forget drops the kept updates of rounds that are closed, what is carried, plans and data of runs that have ended, and a training that an
// earlier session began and nobody wants any more.
func (p *Participant) forget(ctx context.Context, w *pb.Wanted) error {
	if !p.studio.wants(w) {
		p.studio.stop()
	}
	closed := map[string]int{}
	for _, r := range w.Progress {
		if _, left := p.standing.left(r.Run); left {
			delete(p.known, r.Run)
		} else if !r.Ended {
			closed[r.Run] = floor(r)
			p.known[r.Run] = true
		} else if p.known[r.Run] {
			delete(p.known, r.Run)
			p.log.Info("run ended", zap.String("run", r.Run), zap.String("outcome", r.Outcome), zap.String("reason", r.Reason))
		}
	}
	for _, i := range w.Invitations { // not consented yet: data was only counted
		closed[i.Run] = -1
	}
	var models [][]byte
	for _, t := range w.Train {
		models = append(models, t.Model)
	}
	for _, e := range w.Evaluate {
		models = append(models, e.Model)
	}
	if err := p.parts.forget(ctx, models); err != nil {
		return err
	}
	p.plans.forget(closed)
	p.data.forget(closed)
	return errors.Join(p.kept.forget(ctx, closed), p.own.forget(ctx, closed), p.masks.forget(ctx, closed))
}
