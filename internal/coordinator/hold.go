package coordinator

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/mask"
	"consilium.dev/internal/pages"
)

// blockLen is how many values a worker adds before it looks for more.
const blockLen = 1 << 16

// attempt names one try of one round.
type attempt struct {
	run        string
	round, try int
}

// hold owns what a crash erases: the memory that uploads reserve, and the sums of open tries. An update is in memory from
// its first chunk until it is added to the sum, or where the strategy needs all updates at once until its try has ended, and nowhere else.
type hold struct {
	budget  *semaphore.Weighted // bytes of updates not yet added
	limit   int64
	members func() int // of the federation: each has the same share of the budget
	shelf   *shelf     // what came of uploads that were cut; its memory is within the budget
	uploads uploads    // that are under way

	mu      sync.Mutex             // guards what follows
	taken   map[entry.Member]int64 // bytes of the budget that each has, or waits for in line
	spooled map[entry.Member]int64 // of them those of updates that are kept for the end of their try, which are no part of its share
	freed   chan struct{}          // closed when a member may have less of it; nil while nobody waits for that

	sums    map[attempt]*sum // owned by loop
	workers sync.WaitGroup   // all additions under way, of tries that have ended too
}

// sum is the running sum of one try, or its updates themselves where the strategy needs all of them at once.
type sum struct {
	held     map[entry.Member]entry.Digest // owned by loop: whose update is in, or on its way in
	combined bool                          // owned by loop: the mean is being taken, nothing may be added
	over     context.CancelCauseFunc       // owned by loop: ends the combination; nil before it began

	spec   aggregate.Spec // never changes, like what follows
	of     attempt
	buffer aggregate.Buffer // by which updates are weighed

	// Where updates are masked: what was said of the masks, owned by loop, and once the mean is taken what takes them off.
	veil  *veil
	terms func() ([]mask.Term, error)
	words []uint64 // their sum, modulo 2^64, changed as acc is, which there is not then

	// spool holds the updates where the strategy gathers, else it is nil. Owned by loop, until combined: then nobody alters it, and who combines
	// reads it.
	spool   map[entry.Member]*update
	reading sync.WaitGroup // combinations under way

	clip func(values []float32) []aggregate.Scaled // by what the strategy, or the noise, shortens an update; nil where they are added as they are

	pending sync.WaitGroup        // updates that are not yet added
	acc     *aggregate.Sum        // made with the first update: a try that gets none costs nothing
	added   int                   // updates, where they are masked
	weight  float64               // of these
	free    func()                // gives acc's memory, or that of words, back, when nobody uses it any more
	clipped map[entry.Member]bool // whose updates were shortened; changed as acc is

	mu      sync.Mutex // guards what follows
	waiting []*update  // to be added
	adding  bool       // one goroutine is at it: it alone changes acc, by many workers over disjoint ranges
}

func newHold(limit int64, lease time.Duration, members func() int) *hold {
	return &hold{
		budget: semaphore.NewWeighted(limit), limit: limit, members: members, shelf: &shelf{lease: lease}, sums: map[attempt]*sum{},
		taken: map[entry.Member]int64{}, spooled: map[entry.Member]int64{},
	}
}

// errOver says that a combination's try has ended, and that nobody needs the model.
var errOver = errors.New("its try has ended")

// update is one update in memory, whole and checked. release gives its memory and its reservation back, once; nobody touches the values
// afterwards.
type update struct {
	member  entry.Member
	digest  entry.Digest
	weight  int64 // that its member has declared
	values  []float32
	release func()

	staleness int // rounds by which it comes late
}

// reserve waits for n bytes: first until they are within the member's own share, then in line. The caller releases them once.
func (h *hold) reserve(ctx context.Context, m entry.Member, n int64) (release func(), err error) {
	for {
		less, ok := h.take(m, n)
		if ok {
			break
		}
		select {
		case <-less:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	h.shelf.queue(1) // from here on nothing is shelved
	defer h.shelf.queue(-1)
	if release, ok := h.acquire(m, n); ok {
		return release, nil
	}
	if err := h.budget.Acquire(ctx, n); err != nil {
		h.give(m, n)
		return nil, err
	}
	return h.releaser(m, n), nil
}

// tryReserve is reserve without waiting.
func (h *hold) tryReserve(m entry.Member, n int64) (release func(), ok bool) {
	if _, ok := h.take(m, n); !ok {
		return nil, false
	}
	if release, ok := h.acquire(m, n); ok {
		return release, true
	}
	h.give(m, n)
	return nil, false
}

// take counts n bytes as the member's, if they are within its share: one update, whatever its length, or as many as fit into the
// budget's part that is a member's, beside what is kept for the end of tries. What is shelved of its own makes room. Else it returns what is closed when there may be room.
func (h *hold) take(m entry.Member, n int64) (less <-chan struct{}, ok bool) {
	share := h.limit / int64(max(h.members(), 1))
	for {
		h.mu.Lock()
		if has := h.taken[m] - h.spooled[m]; has == 0 || has+n <= share {
			h.taken[m] += n
			h.mu.Unlock()
			return nil, true
		}
		if h.freed == nil {
			h.freed = make(chan struct{})
		}
		less = h.freed
		h.mu.Unlock()
		if !h.shelf.yield(func(s *shelved) bool { return s.key.member == m }) {
			return less, false
		}
	}
}

// give takes n bytes off what is the member's.
func (h *hold) give(m entry.Member, n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.taken[m] -= n; h.taken[m] == 0 {
		delete(h.taken, m)
	}
	h.wake()
}

// wake lets those look again who wait for their share. mu is held.
func (h *hold) wake() {
	if h.freed != nil {
		close(h.freed)
		h.freed = nil
	}
}

// acquire takes n bytes that are counted as the member's already, without waiting. What is shelved makes room.
func (h *hold) acquire(m entry.Member, n int64) (release func(), ok bool) {
	for !h.budget.TryAcquire(n) {
		if !h.shelf.yield(func(*shelved) bool { return true }) {
			return nil, false
		}
	}
	return h.releaser(m, n), true
}

func (h *hold) releaser(m entry.Member, n int64) func() {
	return sync.OnceFunc(func() {
		h.budget.Release(n)
		h.give(m, n)
	})
}

// keep shelves what came of an upload that was cut, unless its try has ended. Where it cannot stay it reports false, and the prefix is
// still the caller's.
func (h *hold) keep(key upload, r *running, p *prefix) bool {
	if !h.shelf.put(key, p) {
		return false
	}
	if h.uploads.isOver(r) { // asked behind putting it there: drop looks there behind saying so
		h.shelf.drop(func(s *shelved) bool { return s.prefix == p })
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wake() // its sender may want the memory for another one
	return true
}

// close forgets all tries and what is shelved, when what is under way with them has ended. Uploads that go on give back what they have
// themselves.
func (h *hold) close() {
	for a, s := range h.sums {
		h.abandon(s)
		delete(h.sums, a)
	}
	h.workers.Wait()
	h.shelf.close()
}

// open begins to hold a try that has just been opened or that replay found open. Called by the loop.
func (h *hold) open(a attempt, s *sum) { h.sums[a] = s }

// drop forgets the sum of a try that has ended, and what came of updates for it; uploads for it that go on are cut. Called by the loop.
func (h *hold) drop(a attempt) {
	if s := h.sums[a]; s != nil && s.over != nil {
		s.over(errOver) // who was counted among open runs no more must not go on taking memory
	}
	h.abandon(h.sums[a])
	delete(h.sums, a)
	h.uploads.over(a) // before the shelf is cleared: none that ends from here on is put there
	h.shelf.drop(func(s *shelved) bool { return s.key.attempt == a })
}

// abandon gives the memory of a try's sum and of the updates that were kept for it back when nobody uses it any more.
func (h *hold) abandon(s *sum) {
	if s == nil || s.free == nil && len(s.spool) == 0 {
		return
	}
	h.workers.Go(func() {
		s.pending.Wait()
		s.reading.Wait()
		for m, u := range s.spool {
			h.unspool(m, u)
		}
		if s.free != nil {
			s.free()
		}
	})
}

// digest returns which update of the member is held in a try.
func (h *hold) digest(run string, round, try int, m entry.Member) (entry.Digest, bool) {
	s := h.sums[attempt{run, round, try}]
	if s == nil {
		return entry.Digest{}, false
	}
	d, ok := s.held[m]
	return d, ok
}

// add begins to add an accepted update to its try's sum, beside the loop, which calls it. A second copy of what is held
// already is only released.
func (h *hold) add(s *sum, u *update) error {
	m := u.member
	if s == nil || s.held[m] == u.digest {
		u.release()
		return nil
	}
	if s.spool != nil {
		s.held[m] = u.digest
		h.unspool(m, s.spool[m])
		s.spool[m] = u
		h.setApart(m, 4*int64(len(u.values)))
		return nil
	}
	if s.free == nil {
		if err := s.begin(); err != nil {
			return fmt.Errorf("making the sum of round %d of run %s: %w", s.of.round, s.of.run, err)
		}
	}
	s.held[m] = u.digest
	s.pending.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, u)
	if !s.adding {
		s.adding = true
		h.workers.Go(s.drain)
	}
	return nil
}

// begin takes the memory of a try's sum.
func (s *sum) begin() (err error) {
	if s.veil != nil {
		s.words, s.free, err = pages.Make[uint64](s.spec.Len())
		return err
	}
	values, free, err := pages.Make[float64](s.spec.Len())
	if err != nil {
		return err
	}
	if s.acc, err = aggregate.NewSumIn(values, s.spec); err != nil {
		free()
		return err
	}
	s.free = free
	return nil
}

// drain adds what waits until nothing does: what has come while others were added goes through the sum together.
func (s *sum) drain() {
	for {
		s.mu.Lock()
		n := min(len(s.waiting), aggregate.AtOnce)
		batch := slices.Clone(s.waiting[:n])
		s.waiting = slices.Delete(s.waiting, 0, n)
		s.adding = n > 0
		s.mu.Unlock()
		if n == 0 {
			return
		}
		s.addBatch(batch)
		for _, u := range batch {
			u.release()
			s.pending.Done()
		}
	}
}

// addBatch adds up to [aggregate.AtOnce] updates, which are clipped before if the strategy says so: then each by itself, since each of its
// tensors has a factor of its own.
func (s *sum) addBatch(batch []*update) {
	if s.veil != nil {
		for _, u := range batch {
			s.addMasked(u)
		}
		return
	}
	var values [aggregate.AtOnce][]float32
	var weights [aggregate.AtOnce]float64
	for i, u := range batch {
		weight, counted := s.buffer.Weigh(u.weight, u.staleness)
		values[i], weights[i] = u.values, weight
		s.acc.AddWeight(counted)
	}
	if s.clip == nil {
		addAll(s.acc, 0, values[:len(batch)], weights[:len(batch)])
		return
	}
	for i, u := range batch {
		lo := 0
		for _, part := range s.clip(u.values) {
			addAll(s.acc, lo, [][]float32{u.values[lo : lo+part.Len]}, []float64{weights[i] * part.Scale})
			s.clipped[u.member] = s.clipped[u.member] || part.Scale < 1
			lo += part.Len
		}
	}
}

// setApart takes n bytes that a member has out of its share, since its update is kept until its try ends: else it could not send to
// another run meanwhile.
func (h *hold) setApart(m entry.Member, n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.spooled[m] += n; h.spooled[m] == 0 {
		delete(h.spooled, m)
	}
	h.wake()
}

// unspool gives back the memory of an update that was kept; nil is none.
func (h *hold) unspool(m entry.Member, u *update) {
	if u == nil {
		return
	}
	h.setApart(m, -4*int64(len(u.values)))
	u.release()
	u.values = nil
}

// addAll adds values of up to [aggregate.AtOnce] updates to the sum from a place on, by as many workers as there are cores, each of which takes
// the next blocks that nobody has: sums are exact, so the bits do not depend on how the work is shared out.
func addAll(acc *aggregate.Sum, from int, values [][]float32, weights []float64) {
	inBlocks(len(values[0]), func(lo, hi int) {
		var parts [aggregate.AtOnce][]float32
		for i, v := range values {
			parts[i] = v[lo:hi]
		}
		acc.AddAll(from+lo, parts[:len(values)], weights)
	})
}

// inBlocks calls f for blocks that come to n values, by as many workers as there are cores.
func inBlocks(n int, f func(lo, hi int)) {
	var next atomic.Int64
	var g sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (n+blockLen-1)/blockLen) {
		g.Go(func() {
			for {
				lo := int(next.Add(blockLen)) - blockLen
				if lo >= n {
					return
				}
				f(lo, min(lo+blockLen, n))
			}
		})
	}
	g.Wait()
}

// unclipped returns how many of the updates that were added were not shortened.
func (s *sum) unclipped() int {
	n := 0
	for _, short := range s.clipped {
		if !short {
			n++
		}
	}
	return n
}
