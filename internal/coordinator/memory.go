package coordinator

import (
	"math"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
)

// beside is what a coordinator takes beside its sums and its uploads, some hundred connections and the blocks of the combinations that are
// under way at a time included.
const beside = 128 << 20

// sumsOf returns how many bytes the sums of a run's rounds take at once; it has one round at a time. A strategy that gathers has no sum of its
// updates, but sums of its passes, and its optimiser's state as a whole.
func sumsOf(d trainer.Description, strategy aggregate.Strategy, members int) int64 {
	var most int64
	if strategy.Gathers() {
		n := aggregate.Spec{Ranges: d.Training}.Len()
		most = sum64(aggregate.GatherMemory(n, members)-4*int64(n)*int64(members), 8*int64(strategy.Optimizer(1).StateLen(n)))
		d.Training = nil
	}
	for _, ranges := range [][]aggregate.Range{d.Training, d.Statistics} {
		spec := aggregate.Spec{Ranges: ranges, Weights: make([]int64, members)}
		most = max(most, aggregate.Memory(spec, spec.Len(), 0))
	}
	return most
}

// ofPair is what any two members who mask with each other take of memory: the keys and the sealed share of one, as they are kept and as the other is
// asked for what it makes of them, and what each shows.
const ofPair = 1 << 10

// sums returns how many bytes the sums of a run's rounds take, with what its members say of their masks.
func (s study) sums(members int) int64 {
	n := sumsOf(s.shape, s.strategy, members)
	if s.masks {
		n = sum64(n, ofPair*int64(members)*int64(members))
	}
	return n
}

// update returns how many bytes the longest update of a run has.
func (s study) update() int64 {
	d := s.shape
	values := int64(max(aggregate.Spec{Ranges: d.Training}.Len(), aggregate.Spec{Ranges: d.Statistics}.Len()))
	if s.masks {
		return 8 * values
	}
	return 4 * values
}

// spool returns how many bytes the updates of a run's round take that are kept until all of them are there; 0 where they are added as they
// come.
func (s study) spool(members int) int64 {
	if !s.strategy.Gathers() {
		return 0
	}
	return 4 * int64(aggregate.Spec{Ranges: s.shape.Training}.Len()) * int64(members)
}

// promised warns where less memory is left for updates than open runs were promised when they started: their rounds may fail at their deadlines,
// for want of room for the last update. Called when the log is replayed.
func (l *loop) promised() {
	var kept int64
	for id, s := range l.studies {
		if run, known := l.state.Run(id); known {
			kept = sum64(kept, s.spool(len(run.Fact.Members)))
		}
	}
	if kept > l.hold.limit {
		l.log.Warn("limits.uploads is less than open runs keep of updates: raise it to what it was when they started, or cancel them",
			zap.Int64("spool", kept), zap.Int64("memory", l.hold.limit))
	}
}

// crowded reports whether updates that are kept until their round ends would fill the uploads' budget so far that another run's longest
// update never found room: two rounds could then wait for each other until their deadlines.
func (d demand) crowded() bool {
	others := d.others
	if d.spool == 0 {
		others = max(others, d.update)
	}
	kept := sum64(d.spool, d.spools)
	return kept > 0 && sum64(kept, others) > d.uploads
}

// demand is what a run that is asked for would need, in bytes.
type demand struct {
	update  int64 // the longest
	spool   int64 // all updates of a round at once, where its strategy needs them so
	spools  int64 // the same of the runs that are open
	others  int64 // the longest update of an open run that is added as it comes
	sums    int64 // of its rounds, one at a time
	open    int64 // sums of the runs that are open
	uploads int64 // the budget of all runs' uploads
}

// all is what the coordinator needs with that run.
func (d demand) all() int64 { return sum64(d.sums, d.open, d.uploads, beside) }

// demandOf finds out what a run, whose plan was studied, would need beside those that are open. Called by the loop.
func (l *loop) demandOf(f entry.RunCreated, asked study) demand {
	d := demand{
		update: asked.update(), spool: asked.spool(len(f.Members)), sums: asked.sums(len(f.Members)),
		uploads: l.hold.limit,
	}
	for id, s := range l.studies {
		if run, known := l.state.Run(id); known {
			n := len(run.Fact.Members)
			d.open = sum64(d.open, s.sums(n))
			d.spools = sum64(d.spools, s.spool(n))
			if !s.strategy.Gathers() {
				d.others = max(d.others, s.update())
			}
		}
	}
	return d
}

// afford refuses a run that could not be carried out: its updates are larger than all that uploads may take, or there would be no
// room for its sums beside those of the runs that are open. Called by the loop.
func (l *loop) afford(f entry.RunCreated, asked study) error {
	if _, known := l.state.RunOf(f.Lead, f.Request); known {
		return nil // it is there, and only asked for again
	}
	d := l.demandOf(f, asked)
	switch {
	case d.update > d.uploads:
		return status.Errorf(codes.FailedPrecondition, "memory: an update of this plan has %d bytes, and the coordinator holds at most %d of all updates "+
			"(limits.uploads in its configuration)", d.update, d.uploads)
	case d.crowded():
		return status.Errorf(codes.FailedPrecondition, "memory: the run keeps %d bytes of updates until a round has all of them, beside %d of open runs and one update of %d "+
			"bytes that is added as it comes; the coordinator holds at most %d (limits.uploads in its configuration): wait until other runs have ended, or give it more",
			d.spool, d.spools, max(d.others, d.update), d.uploads)
	case l.memory > 0 && d.all() > l.memory:
		return status.Errorf(codes.FailedPrecondition, "memory: the run needs %d bytes for its sums, beside %d for those of open runs, %d for uploads and %d "+
			"for all else; the coordinator has %d (limits.memory in its configuration): wait until other runs have ended, or give it more, or less for uploads",
			d.sums, d.open, d.uploads, int64(beside), l.memory)
	}
	return nil
}

// foretell says what a run that is affordable will need, and returns what is needed with it in all, in bytes.
func (l *loop) foretell(f entry.RunCreated, asked study) int64 {
	d := l.demandOf(f, asked)
	l.log.Info("memory suffices for a run", zap.String("lead", f.Lead), zap.String("name", f.Plan.Name), zap.Int64("sums", d.sums),
		zap.Int64("spool", d.spool), zap.Int64("needed", d.all()), zap.Int64("memory", l.memory))
	return d.all()
}

// sum64 returns the sum of sizes, the largest int64 where it is more.
func sum64(sizes ...int64) int64 {
	var all int64
	for _, n := range sizes {
		if n > math.MaxInt64-all {
			return math.MaxInt64
		}
		all += n
	}
	return all
}
