package transport

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Quotes is the line before one machine's attester, which is asked for one quote at a time. Only who has proven a name comes to stand
// in it. It is made by [NewQuotes], shared by all [Credentials] of the machine, and safe for concurrent use.
type Quotes struct {
	place    chan struct{} // one slot: whose turn it is among the handshakes
	hardware chan struct{} // one slot: who asks the attester

	mu      sync.Mutex // guards what follows
	waiting []*time.Time
}

// NewQuotes returns a line in which nobody stands.
func NewQuotes() *Quotes {
	return &Quotes{place: make(chan struct{}, 1), hardware: make(chan struct{}, 1)}
}

// Queue is what a line looks like from outside. It does not say who stands in it.
type Queue struct {
	Waiting int           // who have asked for a quote that is not being made yet
	Oldest  time.Duration // that one of them has waited; 0 where nobody waits
}

// Queue returns how the line is now.
func (q *Quotes) Queue() Queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return Queue{}
	}
	return Queue{len(q.waiting), time.Since(*q.waiting[0])}
}

// Ahead waits until the attester is asked by nobody, before all handshakes that wait: for evidence that this machine makes for
// itself. The function that it returns must be called when the evidence is made.
func (q *Quotes) Ahead(ctx context.Context) (release func(), err error) {
	return q.wait(ctx, q.hardware)
}

// enter waits for a handshake's turn, which has to wait for the places before first.
func (q *Quotes) enter(ctx context.Context, before ...chan struct{}) (release func(), err error) {
	return q.wait(ctx, append(before, q.place, q.hardware)...)
}

func (q *Quotes) wait(ctx context.Context, places ...chan struct{}) (release func(), err error) {
	since := time.Now()
	q.mu.Lock()
	q.waiting = append(q.waiting, &since)
	q.mu.Unlock()
	release, err = take(ctx, places...)
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, &since); i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	return release, err
}
