package coordinator

import (
	"context"
	"errors"
	"time"

	"consilium.dev/internal/round"
)

// retireEvery is how often it is looked for blobs whose retention has run out.
const retireEvery = 10 * time.Minute

// retires returns what says when to look for the first time, once the log is open; nil, which never does, where everything is kept for ever.
func (l *loop) retires() <-chan time.Time {
	if l.kept == 0 {
		return nil
	}
	return time.After(0)
}

// retire drops what runs that ended long ago need no more: a fact says so, and then the blobs are deleted, beside the loop. It
// returns when to look again: at once where there may be more, so that others are served in between. While nothing may be written
// nothing is dropped, and the next time is early enough.
func (l *loop) retire(ctx context.Context) (again time.Duration, err error) {
	if l.gated() {
		return retireEvery, nil
	}
	before := l.facts.Size()
	err = l.take(ctx, round.Retire{Kept: l.kept})
	if _, ok := errors.AsType[*refused](err); ok { // the clock is contradicted
		return retireEvery, nil
	}
	if l.facts.Size() > before {
		return 0, err
	}
	return retireEvery, err
}
