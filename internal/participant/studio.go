package participant

import (
	"context"
	"crypto/rand"
	"errors"

	"go.uber.org/zap"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// subject is what a training is of. A new try of a round with the same base and weight wants the same update.
type subject struct {
	at     key
	base   entry.Digest
	weight int64
}

func subjectOf(at key, t *pb.Train) subject {
	s := subject{at: at, weight: t.Weight}
	copy(s.base[:], t.Model)
	return s
}

// training is a training that is under way, or over and not yet kept.
type training struct {
	subject
	cancel context.CancelFunc
	done   chan struct{} // closed when what follows is set
	made
	err error
}

// made is what a training has made.
type made struct {
	values []float32
	next   *trainer.Carried // what is carried on with this update; nil where the plan has nothing carried
}

// studio runs one training at a time, beside the session that asked for it. A training outlives its session: connections end
// when appraisals do, and links break, and neither may cost hours of work. It is used by one goroutine at a time; whoever made
// it calls stop at the end.
type studio struct {
	now *training
}

// begin starts the training of s with f, unless it is under way. Another one is given up.
func (r *studio) begin(s subject, f func(context.Context) (made, error)) {
	if r.has(s) {
		return
	}
	r.stop()
	ctx, cancel := context.WithCancel(context.Background()) // it ends with stop, and not with whoever asked
	t := &training{subject: s, cancel: cancel, done: make(chan struct{})}
	r.now = t
	go func() {
		defer close(t.done)
		defer cancel()
		t.made, t.err = f(ctx)
	}()
}

// has reports whether s is under way, or over and not yet taken.
func (r *studio) has(s subject) bool { return r.now != nil && r.now.subject == s }

// finished returns a channel that is closed when there is a training to take; nil, which never is, where none is under way.
func (r *studio) finished() <-chan struct{} {
	if r.now == nil {
		return nil
	}
	return r.now.done
}

// take returns the training that is over.
func (r *studio) take() *training {
	t := r.now
	r.now = nil
	<-t.done
	return t
}

// stop gives up what is under way.
func (r *studio) stop() {
	if r.now != nil {
		r.now.cancel()
		r.take()
	}
}

// trained waits for the training that is under way and keeps what it made. Where ctx ends first it is left running: what is
// wanted next shows whether it still is.
func (p *Participant) trained(ctx context.Context) (finished, error) {
	select {
	case <-p.studio.finished():
		return p.keep(ctx)
	case <-ctx.Done():
		return finished{}, ctx.Err()
	}
}

// keep makes the outcome of the training that is over durable.
func (p *Participant) keep(ctx context.Context) (finished, error) {
	t := p.studio.take()
	if t.err != nil {
		return finished{}, t.err
	}
	u := finished{base: t.base, weight: t.weight, values: t.values}
	rand.Read(u.salt[:]) //nolint:errcheck // crypto/rand.Read never fails: it ends the program
	u = u.named()
	if t.next != nil {
		if err := p.own.put(ctx, t.at.run, u.digest(), *t.next); err != nil {
			return finished{}, err
		}
	}
	// A crash here leaves what belongs to an update that nobody knows: the next training of the run drops it.
	return u, p.kept.put(ctx, t.at, u)
}

// wants reports whether the training under way is among what is wanted, or can still count in a later round.
func (r *studio) wants(w *pb.Wanted) bool {
	if r.now != nil && counts(w, r.now.at) {
		return true
	}
	for _, t := range w.Train {
		if at, err := keyOf(t); err == nil && r.has(subjectOf(at, t)) {
			return true
		}
	}
	for _, a := range w.Masks { // its update is wanted when masks are agreed upon
		if r.now != nil && r.now.at == (key{a.Run, int(a.Round)}) {
			return true
		}
	}
	return false
}

// finish keeps what is trained, once it is over, where that is before ctx ends, and gives it up otherwise.
func (p *Participant) finish(ctx context.Context) error {
	defer p.studio.stop()
	if p.studio.now == nil {
		return nil
	}
	t := p.studio.now
	log := p.log.With(zap.String("run", t.at.run), zap.Int("round", t.at.round))
	select {
	case <-t.done:
	case <-ctx.Done():
		log.Warn("training given up: it will begin again")
		return nil
	}
	_, err := p.keep(ctx)
	if errors.Is(err, errNotOurs) { // the next process will find out again
		return nil
	}
	return err
}
