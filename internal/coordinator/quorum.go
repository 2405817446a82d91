package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/round"
	"consilium.dev/internal/witness"
)

// errWaiting is what is refused while the log's witnesses are waited for.
var errWaiting = errors.New("the log is not open: its witnesses are waited for")

// maxPostponed is how many admissions of one witness wait for the log to open. Each is of another connection, and a newer one has
// cut the older.
const maxPostponed = 8

// quorum is what the loop knows of the log's witnesses: whether the log may grow, what they are asked to cosign, and which closings
// nobody may see yet. A federation without witnesses has none.
type quorum struct {
	log      *zap.Logger
	manifest func() *manifest.Manifest // that holds; its witnesses stay the same
	blobs    *blob.Blobs
	takeOver func(context.Context) error // writes down who goes on with the log
	opened   chan struct{}               // closed when the log may grow
	ballot   atomic.Pointer[ballot]      // never nil
	released atomic.Pointer[release]     // nil before the first

	// Owned by the loop's goroutine.
	tally     *witness.Tally
	open      bool
	postponed map[string][]round.Admit
	gathered  map[string]witness.Cosignature // of the ballot
	withheld  map[closing]int64              // lines of the closings that are not released
	freed     map[string]freed               // the newest closing of each open run that was withheld and is released
}

// closing is the closing of a round.
type closing struct {
	run   string
	round int
}

type freed struct {
	round int
	at    time.Time
}

// ballot is what the witnesses are asked to cosign.
type ballot struct {
	head    witness.Head // no lines: nothing
	view    ledger.View
	changed chan struct{} // closed when there is a newer ballot
}

// release is the newest head that a quorum has cosigned, with what proves it.
type release struct {
	size     int64
	cosigned witness.Cosigned
}

// errWitnesses is what a manifest is refused with that follows one with other witnesses. It would take a quorum of both: else the
// old ones could go on with another copy of the log.
var errWitnesses = errors.New("it names other witnesses than the epoch before, or another quorum: this version cannot change them, but for naming " +
	"some where there were none, with a restart of the coordinator that has it as its configured manifest")

// mayFollow reports whether a coordinator that starts may go on under a manifest after one before it.
func mayFollow(before, m *manifest.Manifest) bool {
	_, least := before.Quorum()
	return least == 0 || sameWitnesses(before, m)
}

// sameWitnesses reports whether both have the same witnesses, of whom as many decide.
func sameWitnesses(a, b *manifest.Manifest) bool {
	one, p := a.Quorum()
	two, q := b.Quorum()
	return p == q && slices.Equal(one, two)
}

// newQuorum returns nil where the manifest names no witnesses. now returns the one that holds.
func newQuorum(m *manifest.Manifest, now func() *manifest.Manifest, blobs *blob.Blobs, log *zap.Logger) (*quorum, error) {
	names, least := m.Quorum()
	if least == 0 {
		return nil, nil
	}
	t, err := witness.New(names, least)
	if err != nil {
		return nil, fmt.Errorf("the manifest's witnesses: %w", err)
	}
	q := &quorum{
		log: log, manifest: now, blobs: blobs, opened: make(chan struct{}), tally: t, postponed: map[string][]round.Admit{},
		gathered: map[string]witness.Cosignature{}, withheld: map[closing]int64{}, freed: map[string]freed{},
	}
	q.ballot.Store(&ballot{changed: make(chan struct{})})
	return q, nil
}

// gated reports whether the log must not grow yet.
func (l *loop) gated() bool { return l.quorum != nil && !l.quorum.open }

// postpone keeps the admission of a witness until the log is open, and refuses everything else.
func (q *quorum) postpone(in round.Input) error {
	admit, ok := in.(round.Admit)
	if !ok {
		return &refused{errWaiting}
	}
	name := admit.Fact.Name
	waiting := append(q.postponed[name], admit)
	q.postponed[name] = waiting[max(0, len(waiting)-maxPostponed):]
	return nil
}

// assent does what the witnesses' word allows: it opens the log. Its error ends the coordinator: no quorum is left that has not
// seen another history.
func (l *loop) assent(ctx context.Context) error {
	q := l.quorum
	if q == nil {
		return nil
	}
	if err := q.tally.Lost(); err != nil {
		return fmt.Errorf("no quorum of the witnesses is left for this log: %w", err)
	}
	if q.open || !q.tally.Open() {
		return nil
	}
	q.open = true
	least, _ := q.tally.Quorum()
	q.log.Info("log opened by its witnesses", zap.Int("quorum", least), zap.Int64("entries", l.facts.Size()))
	if err := q.takeOver(ctx); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(q.postponed)) {
		for _, in := range q.postponed[name] {
			err := l.take(ctx, in)
			var refusal *refused
			if errors.As(err, &refusal) {
				q.log.Warn("postponed admission refused", zap.String("name", name), zap.Error(refusal.err))
			} else if err != nil {
				return err
			}
		}
	}
	q.postponed = nil
	l.stale = true
	close(q.opened)
	return nil
}

// propose asks the witnesses to cosign the log as it is, unless they are asked already. Called by the loop.
func (l *loop) propose() {
	q := l.quorum
	if q == nil {
		return
	}
	v := l.facts.View()
	head := witness.Head{Size: v.Size(), Root: v.RootHash()}
	if !q.tally.Propose(head) {
		return
	}
	clear(q.gathered)
	last := q.ballot.Swap(&ballot{head: head, view: v, changed: make(chan struct{})})
	close(last.changed)
}

// cosigned takes a witness's cosignature, which was checked. With the last one that a quorum needs, it keeps them and releases
// what they cover. Called by the loop.
func (l *loop) cosigned(ctx context.Context, b *ballot, c witness.Cosignature) error {
	q := l.quorum
	if b == q.ballot.Load() {
		q.gathered[c.Member] = c
	}
	if !q.tally.Cosign(c.Member, b.head) {
		return nil
	}
	r := &release{size: b.head.Size, cosigned: witness.Cosigned{Checkpoint: string(b.view.Checkpoint())}}
	for _, name := range slices.Sorted(maps.Keys(q.gathered)) {
		r.cosigned.Cosignatures = append(r.cosigned.Cosignatures, q.gathered[name])
	}
	if err := q.keep(context.WithoutCancel(ctx), r); err != nil {
		return fmt.Errorf("keeping the witnesses' cosignatures: %w", err)
	}
	q.released.Store(r)
	now := l.time(l.now())
	for at, line := range q.withheld {
		if line < r.size {
			delete(q.withheld, at)
			q.freed[at.run] = freed{max(at.round, q.freed[at.run].round), now}
			l.log.Info("round released", zap.String("run", at.run), zap.Int("round", at.round), zap.Int64("entries", r.size))
			l.stale = true
		}
	}
	return nil
}

// withhold notes the closing at a line that no quorum has cosigned yet. Called by the loop.
func (q *quorum) withhold(line int64, f entry.RoundClosed) {
	if r := q.released.Load(); r == nil || line >= r.size {
		q.withheld[closing{f.Run, f.Round}] = line
	}
}

// withholdAll notes those of the closings at these lines that no quorum has cosigned yet.
func (q *quorum) withholdAll(lines map[closing]int64) {
	for at, line := range lines {
		if r := q.released.Load(); r == nil || line >= r.size {
			q.withheld[at] = line
		}
	}
}

// ended forgets a run that has ended, but not what of it is withheld.
func (q *quorum) ended(run string) { delete(q.freed, run) }

// released is the round.Released of the log's witnesses. Called by the loop.
func (l *loop) released(run string, round int) (time.Time, bool) {
	q := l.quorum
	if q == nil {
		return time.Time{}, true
	}
	if _, withheld := q.withheld[closing{run, round}]; withheld {
		return time.Time{}, false
	}
	if f, ok := q.freed[run]; ok && f.round == round {
		return f.at, true
	}
	return time.Time{}, true
}

// visible returns how many of the log's lines may be seen by those who may see lines. It may be called from anywhere.
func (l *loop) visible() int64 {
	if l.quorum == nil {
		return math.MaxInt64
	}
	if r := l.quorum.released.Load(); r != nil {
		return r.size
	}
	return 0
}

// lack says whose cosignatures a withheld closing waits for.
type lack struct {
	round    int
	quorum   int
	cosigned int
	missing  []witness.Standing
}

// lacks returns what the newest closing of a run waits for, nil if for nothing. Called by the loop.
func (l *loop) lacks(r round.Run) *lack {
	q := l.quorum
	if q == nil || len(r.Rounds) == 0 {
		return nil
	}
	last := r.Rounds[len(r.Rounds)-1]
	if _, withheld := q.withheld[closing{r.Fact.Run, last.Round}]; !withheld {
		return nil
	}
	least, _ := q.tally.Quorum()
	return &lack{last.Round, least, len(q.tally.Cosigners(q.tally.Ballot())), q.tally.Missing()}
}
