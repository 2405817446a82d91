package coordinator

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// Groups. A commit costs the same with one fact and with hundreds, and storage may take long for it. So whoever waits while a commit is
// under way is served in one group with the others who wait: what they bring is decided one by one, in the order in which it
// came, each by the state that has the facts before it, and all facts are written in one commit. Facts are thus applied before
// they are durable; but until they are nothing leaves the loop. Nobody is answered, not even with a refusal; nobody reads; no
// news is told, no work begun. If the commit fails the loop ends, and the state with it.

// Where a group ends. A commit may hold 4096 lines and 64 MiB; the few facts that its last message brings have room beside these.
const (
	groupMessages = 1024
	groupBytes    = 8 << 20
)

// noted is a fact that is applied and not yet written.
type noted struct {
	at   time.Time
	fact entry.Fact
	line []byte
}

// refused marks an error that only the sender of a message needs to hear of.
type refused struct{ err error }

func (r *refused) Error() string { return r.err.Error() }
func (r *refused) Unwrap() error { return r.err }

// asked is a message of a group, and why it was refused.
type asked struct {
	message
	refusal error
}

// serve carries out a message and those that wait behind it. Its error ends the loop.
func (l *loop) serve(ctx context.Context, m message) error {
	var group []asked
	for more := true; more; m, more = l.another(m, len(group)) {
		if m.draw != nil { // it is made from the log as it is, and what comes of it changes how others are judged: it is alone
			if err := l.conclude(ctx, group); err != nil {
				return err
			}
			group = nil
		}
		refusal := &refused{}
		err := l.handle(ctx, m)
		if errors.As(err, &refusal) {
			err = nil
		}
		group = append(group, asked{m, refusal.err})
		if err != nil {
			return reply(group, err)
		}
	}
	return l.conclude(ctx, group)
}

// another returns the next message of a group that has n, if one waits and there is room.
func (l *loop) another(last message, n int) (message, bool) {
	if last.draw != nil || n >= groupMessages || l.unwritten >= groupBytes {
		return message{}, false
	}
	select {
	case m := <-l.messages:
		return m, true
	default:
		return message{}, false
	}
}

// handle decides what one message brings. Only a *refused leaves the loop as it was; any other error ends it.
func (l *loop) handle(ctx context.Context, m message) error {
	if m.epoch != 0 && m.epoch != l.epoch {
		return &refused{errEpoch}
	}
	if l.gated() && (m.in != nil || m.draw != nil) {
		if m.gated != nil {
			return m.gated(ctx)
		}
		return l.quorum.postpone(m.in)
	}
	if m.draw != nil {
		in, err := m.draw(ctx)
		if err != nil {
			return &refused{err}
		}
		m.in = in
	}
	if m.first != nil {
		if err := m.first(); err != nil {
			return &refused{err}
		}
	}
	if m.in == nil {
		return nil
	}
	return l.decided(m.in)
}

// conclude writes what a group has brought, and only then does and tells what follows from it.
func (l *loop) conclude(ctx context.Context, group []asked) error {
	if err := l.commit(ctx); err != nil {
		return reply(group, err)
	}
	for i, m := range group {
		if m.after != nil && m.refusal == nil {
			if err := m.after(); err != nil {
				return reply(group[i:], err)
			}
		}
		m.reply <- m.refusal
	}
	return nil
}

// reply tells everybody in a group that it has failed.
func reply(group []asked, err error) error {
	for _, m := range group {
		m.reply <- err
	}
	return err
}

// take decides an input and makes its facts history.
func (l *loop) take(ctx context.Context, in round.Input) error {
	if err := l.decided(in); err != nil {
		return err
	}
	return l.commit(ctx)
}

// decided decides an input and notes its facts.
func (l *loop) decided(in round.Input) error {
	now, err := l.moment(in)
	if err != nil {
		return &refused{err}
	}
	facts, err := l.state.Decide(now, in)
	if err != nil {
		return &refused{err}
	}
	for _, f := range facts { // what peers sent may be in it, and not every text can stand in a line
		if err := entry.Check(f); err != nil {
			return &refused{fmt.Errorf("%w: %w", errUnwritable, err)}
		}
	}
	return l.note(now, facts)
}

// note applies facts, which the next commit writes. A crash between the two loses what nobody has seen.
func (l *loop) note(at time.Time, facts []entry.Fact) error {
	for _, f := range facts {
		var salt [16]byte
		if _, err := rand.Read(salt[:]); err != nil {
			return fmt.Errorf("drawing a salt: %w", err)
		}
		position := l.facts.Size() + int64(len(l.noted))
		line := entry.Encode(salt, at, f)
		l.noted, l.unwritten = append(l.noted, noted{at, f, line}), l.unwritten+len(line)
		if err := l.apply(position, at, f); err != nil {
			return fmt.Errorf("applying entry %d, which this program decided itself: %w", position, err)
		}
	}
	return nil
}

// commit makes what was noted history.
func (l *loop) commit(ctx context.Context) error {
	if len(l.noted) == 0 {
		return nil
	}
	l.stale = true
	lines := make([][]byte, len(l.noted))
	for i, f := range l.noted {
		lines[i] = f.line
	}
	// An append that was begun is finished: half a commit would have to be found out by a boot.
	if err := l.facts.Append(context.WithoutCancel(ctx), lines...); err != nil {
		return fmt.Errorf("writing to the log: %w", err)
	}
	l.show()
	if err := l.redecide(); err != nil {
		return err
	}
	var unneeded []entry.Blob
	for _, f := range l.noted {
		tell(l.log, f.at, f.fact)
		if f, ok := f.fact.(entry.Dropped); ok {
			unneeded = append(unneeded, l.state.Blobs(f)...)
		}
	}
	l.sweep(ctx, unneeded) // not before: who finds them gone, in the store or a copy of it, finds the fact too
	l.noted, l.unwritten = nil, 0
	return nil
}
