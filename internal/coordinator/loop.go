package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/model"
	"consilium.dev/internal/privacy"
	"consilium.dev/internal/registry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/skew"
	"consilium.dev/internal/trainer"
	"consilium.dev/internal/transport"
	"consilium.dev/internal/witness"
)

// errStopping is what a handler gets that still waits when the coordinator stops.
var errStopping = errors.New("the coordinator is stopping")

// errUnwritable is what a peer gets whose words cannot be written down.
var errUnwritable = errors.New("this cannot stand in the log")

// loop owns the facts. One goroutine decides, writes and applies; everybody else sends it messages. It holds no rule (round
// has them) and does no arithmetic (workers do it beside the loop and come back as inputs).
type loop struct {
	log     *zap.Logger
	now     func() time.Time
	version string // of the program
	facts   *ledger.Ledger
	quorum  *quorum // nil while the log is replayed
	clocks  *clocks // of the members
	combine func(context.Context, round.Combine, *sum) (round.Combined, error)

	presence *presence
	closings map[closing]int64 // lines of all closings, while the log is replayed; then nil

	messages chan message
	ending   chan struct{} // closed when no new call is taken, and those that would go on for ever have to end
	done     chan struct{} // closed when the loop has ended
	wanted   atomic.Pointer[news]
	view     atomic.Pointer[ledger.View] // of the log, for readers

	// Owned by the loop's goroutine.
	state     *round.State
	index     *registry.Index
	hold      *hold
	studies   map[string]study // of the runs that have not ended
	epoch     uint64           // of the manifest that holds
	members   []entry.Member   // of it
	adopted   []entry.ManifestAdopted
	sets      witness.Sets // of the log's witnesses
	workers   sync.WaitGroup
	results   chan combined
	running   int                 // combinations that have begun and are not finished
	turns     *semaphore.Weighted // of which so many are under way, and the others in line
	wake      *time.Timer
	blobs     *blob.Blobs
	memory    int64                 // bytes that the process may take, 0 where nobody knows
	kept      time.Duration         // how long a run's blobs are kept after its end, 0 for ever
	named     map[entry.Digest]bool // ciphertexts of the blobs that are needed; nil once the log is replayed
	orphans   []entry.Blob          // to be deleted once our boot is written
	stale     bool                  // something has changed since the loop last settled
	noted     []noted               // facts that are applied and not yet written; see group.go
	unwritten int                   // bytes of their lines
	// While untimely nothing is written, and outcomes of combinations wait in parked. See clock.go.
	untimely bool
	parked   []combined
}

// study is what follows from a run's plan, found out once.
type study struct {
	shape    trainer.Description
	strategy aggregate.Strategy
	recipe   *privacy.Recipe // nil where the plan asks for no noise
	masks    bool            // updates come masked
	text     []byte          // the plan as JSON, as participants get it
}

func studyOf(p entry.Plan) (s study, err error) {
	if s.shape, err = trainer.Describe(p); err != nil {
		return s, err
	}
	if s.strategy, err = aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params); err != nil {
		return s, err
	}
	if r, private := round.Recipe(p); private {
		s.recipe = &r
	}
	s.masks = p.Masks
	s.text, err = json.Marshal(p)
	return s, err
}

// message is one thing that the loop is asked to do. Either in is decided, and then, once its facts are durable, after runs; or,
// without in, after runs alone, to read.
type message struct {
	in    round.Input
	draw  func(context.Context) (round.Input, error) // makes in, where it hangs on the log as it is
	first func() error                               // judged before in is decided, for what only memory knows
	after func() error                               // its error ends the loop
	reply chan error
	gated func(context.Context) error // instead of in and draw while the log is not open; nil: an admission waits, all else is refused
	epoch uint64                      // under which whoever asks was appraised; 0 for nobody's asking
}

// combined is the outcome of a combination beside the loop.
type combined struct {
	in  round.Combined
	err error
}

// outcome is what the rules are told of it. An error that it has is of what the members sent.
func (c combined) outcome() round.Input {
	if c.err == nil {
		return c.in
	}
	why := "without its masks the sum is none: "
	if errors.Is(c.err, model.ErrNotFinite) {
		why = "its model would be none; a smaller max_abs or learning rate would do: "
	}
	return round.Spoil{Run: c.in.Run, Round: c.in.Round, Try: c.in.Try, Reason: why + c.err.Error()}
}

// decide has the loop decide in and returns after its facts are durable, or with the refusal.
func (l *loop) decide(ctx context.Context, in round.Input) error {
	return l.send(ctx, message{in: in})
}

// read runs f in the loop, where state, index and hold may be read.
func (l *loop) read(ctx context.Context, f func()) error {
	return l.send(ctx, message{after: func() error { f(); return nil }})
}

func (l *loop) send(ctx context.Context, m message) error {
	m.reply = make(chan error, 1)
	if p, ok := ctx.Value(peerKey{}).(transport.Peer); ok {
		m.epoch = p.Epoch
	}
	select {
	case l.messages <- m:
	case <-l.done:
		return errStopping
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-m.reply:
		return err
	case <-l.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-m.reply: // the last thing that the loop did
		return err
	default:
		return errStopping
	}
}

// replay folds the whole log into the state: the state is nothing else.
func (l *loop) replay(ctx context.Context) error {
	position := int64(0)
	for text, err := range l.facts.Entries(ctx, 0) {
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		line, err := entry.Decode(text)
		if err != nil {
			return fmt.Errorf("log entry %d: %w", position, err)
		}
		if err := l.apply(position, line.At, line.Fact); err != nil {
			return fmt.Errorf("log entry %d: %w", position, err)
		}
		for _, b := range entry.Blobs(line.Fact) {
			l.named[b.Sealed] = true
		}
		if f, ok := line.Fact.(entry.Dropped); ok { // the process before may not have got to delete them
			for _, b := range l.state.Blobs(f) {
				delete(l.named, b.Sealed)
			}
		}
		position++
	}
	l.log.Info("log replayed", zap.Int64("entries", position))
	l.promised()
	return nil
}

// run is the loop. It ends with ctx, or with the first error after which memory and log might disagree.
func (l *loop) run(ctx context.Context) error {
	defer close(l.done)
	defer l.wake.Stop()
	ctx, cancel := context.WithCancel(ctx)
	defer l.hold.close()
	defer l.workers.Wait()
	defer cancel()
	l.stale = true
	var retire <-chan time.Time
	for {
		// What only reads changes nothing: settling after it would tell news that are none, and whoever reads at each news
		// would never rest.
		if err := l.assent(ctx); err != nil {
			return err
		}
		if l.stale && !l.gated() {
			l.stale = false
			if err := l.settle(ctx); err != nil {
				return err
			}
		}
		if retire == nil && !l.gated() { // the first time when the log opens: whoever restarts often must get there too
			retire = l.retires()
		}
		l.propose()
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake.C:
			l.stale = true
		case <-l.presence.changed: // whom a round waits for depends on it
			l.stale = true
		case c := <-l.results:
			if err := l.finish(ctx, c); err != nil {
				return err
			}
		case <-retire:
			again, err := l.retire(ctx)
			if err != nil {
				return err
			}
			retire = time.After(again)
		case m := <-l.messages:
			if err := l.serve(ctx, m); err != nil {
				return err
			}
		}
	}
}

// time is what a clock said, but never behind the newest fact: the host's clock is not trusted to go forward.
func (l *loop) time(now time.Time) time.Time {
	now = now.UTC().Truncate(time.Microsecond)
	if newest := l.state.Newest(); now.Before(newest) {
		return newest
	}
	return now
}

// show lets readers see the log as it is now.
func (l *loop) show() {
	v := l.facts.View()
	l.view.Store(&v)
}

// apply folds one fact into everything that is derived from the log.
func (l *loop) apply(position int64, at time.Time, f entry.Fact) error {
	if err := l.state.Apply(at, f); err != nil {
		return err
	}
	if err := l.index.Apply(position, at, f); err != nil {
		return err
	}
	switch f := f.(type) {
	case entry.ManifestAdopted:
		set, err := witness.ParseSet(f.Epoch, f.Witnesses)
		if err != nil {
			return err
		}
		l.adopted = append(l.adopted, f)
		l.sets.Adopt(position, set)
	case entry.HandedOver:
		if err := l.sets.HandOver(position, f.Size); err != nil {
			return err
		}
	case entry.RunCreated:
		s, err := studyOf(f.Plan)
		if err != nil {
			return fmt.Errorf("run %s: %w", f.Run, err)
		}
		l.studies[f.Run] = s
	case entry.RoundOpened:
		l.hold.open(attempt{f.Run, f.Round, f.Try}, sumOf(l.studies[f.Run], f))
	case entry.RoundFailed:
		l.hold.drop(attempt{f.Run, f.Round, f.Try})
	case entry.RoundClosed:
		l.hold.drop(attempt{f.Run, f.Round, f.Try})
		if l.closings != nil {
			l.closings[closing{f.Run, f.Round}] = position
		} else {
			l.quorum.withhold(position, f)
		}
	case entry.RunEnded:
		for a := range l.hold.sums {
			if a.run == f.Run {
				l.hold.drop(a)
			}
		}
		l.hold.drop(attempt{run: f.Run}) // uploads that outlive rounds
		delete(l.studies, f.Run)
		if l.quorum != nil {
			l.quorum.ended(f.Run)
		}
	}
	return nil
}

// sumOf returns an empty sum of a try that was opened: how its updates are judged, and what its strategy does with them. Statistics are added
// up, whatever the strategy.
func sumOf(study study, f entry.RoundOpened) *sum {
	s := &sum{held: map[entry.Member]entry.Digest{}, spec: aggregate.Spec{Ranges: study.shape.Training}, of: attempt{f.Run, f.Round, f.Try}, buffer: study.strategy.Buffer()}
	if f.Kind == entry.Statistics {
		s.spec.Ranges, s.buffer = study.shape.Statistics, aggregate.Buffer{}
	}
	for _, share := range f.Selected {
		s.spec.Weights = append(s.spec.Weights, share.Weight)
	}
	s.spec.Weights = s.buffer.Weights(s.spec.Weights)
	if study.masks {
		s.veil = newVeil()
	}
	if f.Kind == entry.Training && study.strategy.Gathers() {
		s.spool = map[entry.Member]*update{}
	}
	if f.Kind == entry.Training && study.strategy.Clips() {
		var layout []int
		for _, t := range study.shape.Layout {
			layout = append(layout, t.Len())
		}
		s.clip = func(values []float32) []aggregate.Scaled { return study.strategy.Clip(layout, values) }
		s.clipped = map[entry.Member]bool{}
	}
	if recipe := study.recipe; recipe != nil {
		s.spec = s.spec.Coarsened(recipe.Step(f.Clip))
	}
	if recipe := study.recipe; recipe != nil && !recipe.PerRecord() { // records are clipped where they are
		s.clip = func(values []float32) []aggregate.Scaled {
			return []aggregate.Scaled{{Len: len(values), Scale: privacy.Clip(aggregate.Norm(values), f.Clip)}}
		}
		s.clipped = map[entry.Member]bool{}
	}
	return s
}

// settle lets time pass until nothing follows from it any more, then sees to it that what should be going on is going on.
func (l *loop) settle(ctx context.Context) error {
	read := l.now()
	if !l.timely(read) {
		l.wake.Reset(time.Second)
		return nil
	}
	parked := l.parked
	l.parked = nil
	for _, c := range parked {
		if err := l.finish(ctx, c); err != nil {
			return err
		}
	}
	if err := l.handOver(ctx); err != nil {
		return err
	}
	for {
		now := l.time(read)
		facts, err := l.state.Decide(now, round.Tick{Held: l.hold.digest, Seen: l.presence.sighting, Released: l.released, Veils: l.hold.veil})
		if err != nil {
			return fmt.Errorf("letting time pass: %w", err)
		}
		if len(facts) == 0 {
			break
		}
		if err := l.note(now, facts); err != nil {
			return err
		}
		if err := l.commit(ctx); err != nil {
			return err
		}
	}
	now := l.time(l.now())
	l.wake.Stop()
	actions := l.state.Todo(round.View{Now: now, Held: l.hold.digest, Seen: l.presence.sighting, Released: l.released, Veils: l.hold.veil})
	for _, a := range actions {
		switch a := a.(type) {
		case round.Combine:
			l.begin(ctx, a)
		case round.Mask:
			if err := l.fix(a); err != nil {
				return err
			}
		case round.Wake:
			// Also when a lease may have lapsed: a link that is dead without being closed tells nobody.
			l.wake.Reset(min(max(a.At.Sub(now), time.Millisecond), lease))
		}
	}
	l.publish(actions)
	return nil
}

// combining is how many combinations are under way at a time. Each takes some 20 MiB beside its sum for the blocks that pass through it, of
// which beside has room for so many; with 64 open runs, which are closed together where their members come back together, there could else be 64.
const combining = 2

// begin starts a combination beside the loop, unless it is under way. It waits in line while others are.
func (l *loop) begin(ctx context.Context, a round.Combine) {
	s := l.hold.sums[attempt{a.Run, a.Round, a.Try}]
	if s.combined {
		return
	}
	s.combined = true
	if s.veil != nil {
		s.terms = s.veil.terms(l.maskTry(a.Run, a.Round, a.Try), a.Masked, a.Members)
	}
	s.reading.Add(1)
	l.running++
	work, over := context.WithCancelCause(ctx)
	s.over = over
	l.workers.Go(func() {
		defer over(nil)
		s.pending.Wait()
		in, err := l.inTurn(work, a, s)
		if errors.Is(context.Cause(work), errOver) {
			err = errOver
		}
		s.reading.Done()
		select {
		case l.results <- combined{in, err}:
		case <-ctx.Done():
		}
	})
}

// inTurn combines when it is its turn.
func (l *loop) inTurn(ctx context.Context, a round.Combine, s *sum) (round.Combined, error) {
	if err := l.turns.Acquire(ctx, 1); err != nil {
		return round.Combined{Run: a.Run, Round: a.Round, Try: a.Try}, err
	}
	defer l.turns.Release(1)
	return l.combine(ctx, a, s)
}

// rest returns when no combination is under way, or ctx ends. No call may be under way: then none begins.
func (l *loop) rest(ctx context.Context) {
	for {
		busy := false
		changed := l.wanted.Load().changed
		if err := l.read(ctx, func() { busy = l.running > 0 }); err != nil || !busy {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-l.done:
		}
	}
}

// finish takes the outcome of a combination. A combination that failed ends the coordinator: its storage failed it, and
// the next boot asks for the same work again. One that comes while the clock is contradicted waits for a right one.
func (l *loop) finish(ctx context.Context, c combined) error {
	l.stale = true // whoever waits for it looks again
	if errors.Is(c.err, errOver) {
		l.running--
		l.unneeded(c.in, c.err)
		return nil
	}
	if spoilt, ok := errors.AsType[*maskError](c.err); ok {
		l.log.Warn("the masks do not come off a sum", zap.String("run", c.in.Run), zap.Int("round", c.in.Round), zap.Int("try", c.in.Try), zap.Error(spoilt.err))
		if l.hold.again(attempt{c.in.Run, c.in.Round, c.in.Try}, spoilt.err) {
			l.running--
			return nil
		}
	} else if errors.Is(c.err, model.ErrNotFinite) { // so it would be after each boot
		l.log.Warn("a round's model is none", zap.String("run", c.in.Run), zap.Int("round", c.in.Round), zap.Int("try", c.in.Try), zap.Error(c.err))
	} else if c.err != nil {
		l.running--
		return fmt.Errorf("combining round %d of run %s: %w", c.in.Round, c.in.Run, orRestore(c.err))
	}
	err := l.take(ctx, c.outcome())
	if _, wrong := errors.AsType[*skew.Error](err); wrong {
		l.parked = append(l.parked, c)
		return nil
	}
	l.running--
	if refusal, ok := errors.AsType[*refused](err); ok { // the run was cancelled meanwhile
		l.unneeded(c.in, refusal.err)
		return nil
	}
	return err
}

// unneeded logs a combination that came too late.
func (l *loop) unneeded(in round.Combined, why error) {
	l.log.Info("combination not needed any more", zap.String("run", in.Run), zap.Int("round", in.Round), zap.Error(why))
}

// meant returns the sum of the try for which an update is offered, nil if there is none: see [round.Query]. Called by the loop.
func (l *loop) meant(a attempt, from round.Source) *sum {
	if s := l.hold.sums[a]; s != nil || from.Base <= 0 || l.studies[a.run].strategy.Buffer().MaxStaleness() == 0 {
		return s
	}
	for open, s := range l.hold.sums { // a run has one
		if open.run == a.run {
			return s
		}
	}
	return nil
}

// offer has the loop accept an update and, when it is history, hold it. While a try's mean is taken nothing is added. An
// update that is whole is offered to the end, though its sender may have hung up: it need not be sent again then. Where it is refused its memory is
// the caller's again.
func (l *loop) offer(ctx context.Context, in round.Offer, u *update) error {
	a := attempt{in.Run, in.Round, in.Try}
	return l.send(context.WithoutCancel(ctx), message{
		in: in,
		first: func() error {
			if s := l.meant(a, in.Source); s != nil && s.combined {
				return round.ErrClosed
			}
			return nil
		},
		after: func() error {
			l.stale = true // also where the update was accepted before a boot, and no fact is new
			s := l.meant(a, in.Source)
			if s != nil && in.Base > 0 {
				u.staleness = s.of.round - in.Base
			}
			return l.hold.add(s, u)
		},
	})
}
