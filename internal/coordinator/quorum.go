package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/registry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/witness"
)

// errWaiting is what is refused while the log's witnesses are waited for.
var errWaiting = errors.New("the log is not open: its witnesses are waited for")

// maxPostponed is how many admissions of one witness wait for the log to open. Each is of another connection, and a newer one has
// cut the older.
const maxPostponed = 8

// quorum is what the loop knows of the log's witnesses: whether the log may grow, what they are asked to cosign, and which closings
// nobody may see yet. Where nobody is a witness it lets everything pass.
type quorum struct {
	log      *zap.Logger
	blobs    *blob.Blobs
	takeOver func(context.Context) error // writes down who goes on with the log
	opened   chan struct{}               // closed when the log may grow
	ballot   atomic.Pointer[ballot]      // never nil
	released atomic.Pointer[release]     // nil before the first
	deciding atomic.Pointer[[]witness.Set]
	free     atomic.Int64 // lines that need nobody's cosignature: see witness.Sets

	// Owned by the loop's goroutine.
	tally     *witness.Tallies
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

// errWitnesses is what a manifest is refused with under which nothing would ever be released again.
var errWitnesses = errors.New("the change could never be released: witnesses of before have to cosign it as members of this epoch; leave them " +
	"in it, as members, and out in a later one")

// releasable returns an error unless of each set that will decide under m a quorum are members of it: nobody else can come and cosign.
func releasable(m *manifest.Manifest, sets []witness.Set) error {
	for _, set := range sets {
		var gone []string
		for _, name := range set.Names {
			if _, ok := m.Member(name); !ok {
				gone = append(gone, name)
			}
		}
		if stay := len(set.Names) - len(gone); stay < set.Quorum {
			return fmt.Errorf("%w: of the witnesses of epoch %d it takes %d, and %d would be left; gone: %s", errWitnesses, set.Epoch, set.Quorum,
				stay, strings.Join(gone, ", "))
		}
	}
	return nil
}

// witnessesOf returns the witnesses that a manifest names.
func witnessesOf(m *manifest.Manifest) witness.Set {
	names, least := m.Quorum()
	return witness.Set{Epoch: m.Epoch(), Names: names, Quorum: least}
}

// newQuorum returns the quorum of those sets, over a log of which so many lines need nobody.
func newQuorum(sets []witness.Set, free int64, blobs *blob.Blobs, log *zap.Logger) (*quorum, error) {
	t, err := witness.NewTallies(sets)
	if err != nil {
		return nil, err
	}
	q := &quorum{
		log: log, blobs: blobs, opened: make(chan struct{}), tally: t, postponed: map[string][]round.Admit{},
		gathered: map[string]witness.Cosignature{}, withheld: map[closing]int64{}, freed: map[string]freed{},
	}
	q.ballot.Store(&ballot{changed: make(chan struct{})})
	q.deciding.Store(&sets)
	q.free.Store(free)
	if len(sets) == 0 {
		q.open = true
		close(q.opened)
	}
	return q, nil
}

// decides reports whether the member is a witness whose word counts now. It may be called from anywhere.
func (q *quorum) decides(member string) bool {
	return slices.ContainsFunc(*q.deciding.Load(), func(s witness.Set) bool { return slices.Contains(s.Names, member) })
}

// unguarded reports whether nobody is a witness. It may be called from anywhere.
func (q *quorum) unguarded() bool { return len(*q.deciding.Load()) == 0 }

// rollback says what protects the log from being rolled back: "" where witnesses do. It may be called from anywhere.
func (l *loop) rollback() string {
	if l.quorum.unguarded() {
		return registry.NoProtection
	}
	return ""
}

// turn has other sets decide from now on. What was put before the witnesses is put before them anew. Called by the loop.
func (l *loop) turn(sets []witness.Set, free int64) error {
	q := l.quorum
	if err := q.tally.Turn(sets); err != nil {
		return err
	}
	clear(q.gathered)
	q.deciding.Store(&sets)
	q.free.Store(free)
	last := q.ballot.Swap(&ballot{changed: make(chan struct{})})
	close(last.changed)
	l.let(free)
	return nil
}

// redecide has those witnesses decide, once the log says so, who do after what was just written.
func (l *loop) redecide() error {
	turns := slices.ContainsFunc(l.noted, func(n noted) bool {
		switch n.fact.(type) {
		case entry.ManifestAdopted, entry.HandedOver:
			return true
		}
		return false
	})
	if l.quorum == nil || !turns {
		return nil
	}
	return l.turn(l.sets.Deciding(l.facts.Size()), l.sets.Free(l.facts.Size()))
}

// await has the witnesses of a manifest that is to be adopted waited for too, while the log is not open. Who has come was admitted
// under the one before and has to come again.
func (l *loop) await(due []*manifest.Manifest) error {
	clear(l.quorum.postponed)
	return l.turn(l.ahead(due))
}

// ahead returns who decides over the log once those manifests are adopted, and how many of its lines need nobody.
func (l *loop) ahead(due []*manifest.Manifest) (sets []witness.Set, free int64) {
	then, size := l.sets.Clone(), l.facts.Size()
	for _, m := range due {
		then.Adopt(size, witnessesOf(m))
		size++
	}
	return then.Deciding(size), then.Free(size)
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
	if err := q.tally.Lost(); err != nil {
		return fmt.Errorf("no quorum of the witnesses is left for this log: %w", err)
	}
	if q.open || !q.tally.Open() {
		return nil
	}
	q.open = true
	q.log.Info("log opened by its witnesses", zap.Int("quorum", leastOf(q.tally.Sets())), zap.Int64("entries", l.facts.Size()))
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
	l.let(r.size)
	l.stale = l.stale || l.sets.Due(r.size)
	return nil
}

// let frees the closings below a line.
func (l *loop) let(below int64) {
	q, now := l.quorum, l.time(l.now())
	for at, line := range q.withheld {
		if line < below {
			delete(q.withheld, at)
			q.freed[at.run] = freed{max(at.round, q.freed[at.run].round), now}
			l.log.Info("round released", zap.String("run", at.run), zap.Int("round", at.round), zap.Int64("entries", below))
			l.stale = true
		}
	}
}

// handOver writes that the newest witnesses decide alone, once all that decide have released a head with the adoption of their
// manifest in it. What they cosigned is kept for auditors first. A crash in between leaves the old ones deciding too. Called by the loop.
func (l *loop) handOver(ctx context.Context) error {
	q := l.quorum
	r := q.released.Load()
	if r == nil || !l.sets.Due(r.size) {
		return nil
	}
	text, err := r.cosigned.Encode()
	if err != nil {
		return err
	}
	kept, err := q.blobs.Put(context.WithoutCancel(ctx), bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("keeping the cosignatures of the witnesses who hand over: %w", err)
	}
	err = l.take(ctx, round.HandOver{Fact: entry.HandedOver{Epoch: l.epoch, Size: r.size, Cosigned: kept}})
	if refusal, ok := errors.AsType[*refused](err); ok { // the clock was set just now: it is tried again
		l.log.Warn("witnesses could not hand over yet", zap.Error(refusal.err))
		return nil
	}
	return err
}

// withhold notes the closing at a line that no quorum has cosigned yet. Called by the loop.
func (q *quorum) withhold(line int64, f entry.RoundClosed) {
	if line >= q.visible() {
		q.withheld[closing{f.Run, f.Round}] = line
	}
}

// withholdAll notes those of the closings at these lines that no quorum has cosigned yet.
func (q *quorum) withholdAll(lines map[closing]int64) {
	for at, line := range lines {
		if line >= q.visible() {
			q.withheld[at] = line
		}
	}
}

// ended forgets a run that has ended, but not what of it is withheld.
func (q *quorum) ended(run string) { delete(q.freed, run) }

// released is the round.Released of the log's witnesses. Called by the loop.
func (l *loop) released(run string, round int) (time.Time, bool) {
	q := l.quorum
	if _, withheld := q.withheld[closing{run, round}]; withheld {
		return time.Time{}, false
	}
	if f, ok := q.freed[run]; ok && f.round == round {
		return f.at, true
	}
	return time.Time{}, true
}

// visible returns how many of the log's lines may be seen by those who may see lines. It may be called from anywhere.
func (q *quorum) visible() int64 {
	n := q.free.Load()
	if r := q.released.Load(); r != nil {
		n = max(n, r.size)
	}
	return n
}

// lack says whose cosignatures a withheld closing waits for.
type lack struct {
	round int
	waiting
}

// waiting says whose word is waited for, in how many sets.
type waiting struct {
	sets  int
	lacks []witness.Lack
}

func (q *quorum) waiting() waiting { return waiting{len(q.tally.Sets()), q.tally.Lacks()} }

// lacks returns what the newest closing of a run waits for, nil if for nothing. Called by the loop.
func (l *loop) lacks(r round.Run) *lack {
	q := l.quorum
	if len(r.Rounds) == 0 {
		return nil
	}
	last := r.Rounds[len(r.Rounds)-1]
	if _, withheld := q.withheld[closing{r.Fact.Run, last.Round}]; !withheld {
		return nil
	}
	return &lack{last.Round, q.waiting()}
}

// leastOf returns how many witnesses decide in the newest of some sets.
func leastOf(sets []witness.Set) int { return sets[len(sets)-1].Quorum }
