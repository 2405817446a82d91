package coordinator

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/skew"
)

// readingFor is how long a reading counts. A session ends after an hour at most, and the next one brings another.
const readingFor = 2 * time.Hour

// clocks remembers what the members' clocks said when they last wanted to follow, whether they were let or not. Between two
// readings a member's clock is taken to go on as our steady one does, which no setting of the time moves; so a jump of our own
// clock shows at once. It is safe for concurrent use.
type clocks struct {
	now    func() time.Time
	steady func() time.Duration // since an instant of this process's life
	limit  time.Duration

	mu sync.Mutex // guards of
	of map[entry.Member]reading
}

// reading is what a member's clock said, and when that was by the steady clock.
type reading struct {
	theirs time.Time
	at     time.Duration
}

func newClocks(now func() time.Time, limit time.Duration) *clocks {
	began := time.Now()
	return &clocks{now: now, steady: func() time.Duration { return time.Since(began) }, limit: limit, of: map[entry.Member]reading{}}
}

// meet takes the reading of a member who wants to follow, and reports how far its clock is ahead and whether it may.
func (c *clocks) meet(m entry.Member, theirs time.Time) (ahead time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[m] = reading{theirs, c.steady()}
	ahead = theirs.Sub(c.now())
	return ahead, !skew.Far(ahead, c.limit)
}

// judge returns a [*skew.Error] where the members' clocks say that now, which ours said just now, is wrong.
func (c *clocks) judge(now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	steady := c.steady()
	var all []skew.Reading
	for m, r := range c.of {
		since := steady - r.at
		if since > readingFor {
			delete(c.of, m)
			continue
		}
		all = append(all, skew.Reading{Member: string(m), Ahead: r.theirs.Add(since).Sub(now)})
	}
	return skew.Judge(all, c.limit)
}

// only forgets the clocks of those who are no members any more.
func (c *clocks) only(members []entry.Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.of, func(m entry.Member, _ reading) bool { return !slices.Contains(members, m) })
}

// behind returns an error if the clock is far behind the log's newest fact: then no time would pass until it has caught up.
func (c *clocks) behind(newest time.Time) error {
	if late := newest.Sub(c.now()); late > c.limit {
		return fmt.Errorf("own clock: %s behind the log's newest fact, of %s, at most %s is allowed: set the clock; "+
			"if it is right, the fact was written under a wrong one: put back a copy of before, or wait",
			late.Round(time.Second), newest.Format(time.RFC3339), c.limit)
	}
	return nil
}

// moment returns the time at which in happens. While the members' clocks contradict ours nothing happens but that members are
// admitted, since only so can their clocks be read again, and that a newer manifest is adopted, or members who lie could hold off
// the one that expels them. Where ours is ahead this gets the time that their median says. Where ours is behind it keeps ours:
// the log's time never goes back, so two members who lie could push it years ahead for good.
func (l *loop) moment(in round.Input) (time.Time, error) {
	now := l.now() // once: between two readings the clock may jump
	err := l.clocks.judge(now)
	var wrong *skew.Error
	if !errors.As(err, &wrong) {
		return l.time(now), err
	}
	switch in.(type) {
	case round.Admit, round.Adopt:
		return l.time(now.Add(min(wrong.Ahead, 0))), nil
	}
	return time.Time{}, err
}

// timely reports whether facts may be written at now, which the clock said just now. It says once when that changes.
func (l *loop) timely(now time.Time) bool {
	err := l.clocks.judge(now)
	switch {
	case err != nil && !l.untimely:
		l.log.Error("the members' clocks contradict ours; nothing is written until they agree", zap.Error(err))
	case err == nil && l.untimely:
		l.log.Info("the members' clocks agree with ours again")
	}
	l.untimely = err != nil
	return err == nil
}
