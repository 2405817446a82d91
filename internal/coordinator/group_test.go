package coordinator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/store"
)

// slowHead takes a second for each commit, in which others come and wait.
type slowHead struct {
	store.Head
	swaps  atomic.Int64
	broken atomic.Bool
}

var errDisk = errors.New("the disk is broken")

func (h *slowHead) Swap(ctx context.Context, old uint64, value []byte) error {
	h.swaps.Add(1)
	time.Sleep(time.Second)
	if h.broken.Load() {
		return errDisk
	}
	return h.Head.Swap(ctx, old, value)
}

// size returns how many lines are durable.
func (h *slowHead) size(t *testing.T) int {
	_, value, err := h.Load(context.Background())
	if err != nil {
		t.Error(err)
		return 0
	}
	// The name of the staged commit, then the checkpoint: its origin, its size.
	n, err := strconv.Atoi(string(bytes.Split(value, []byte("\n"))[2]))
	if err != nil {
		t.Error(err)
	}
	return n
}

// TestGroup has many come while the first one's fact is being written. Theirs are written in one commit after it, in the order in
// which they came, and each is answered when its own is durable. What breaks the rules is refused by the facts before it, though
// they are of the same commit, and alone.
func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 40
		w := newWorld(t)
		head := &slowHead{Head: w.disks["council"]}
		council, c := w.served(func(o *coordinator.Options) { o.Head = head })
		w.books["council"].await(t, "serving")
		before := head.swaps.Load()
		durable := make([]int, many)
		var all sync.WaitGroup
		come := func(i int, in round.Input, f func(error)) {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				f(c.DecideAs(context.Background(), 0, in))
			})
		}
		for i := range many {
			come(i, round.Admit{Fact: entry.Admitted{Name: fmt.Sprint("guest-", i)}}, func(err error) {
				if err != nil {
					t.Errorf("guest %d: %v", i, err)
				}
				durable[i] = head.size(t)
			})
		}
		come(many/2, round.Consent{Run: "x", Member: "budapest", Records: 1}, func(err error) {
			if !errors.Is(err, round.ErrUnknownRun) {
				t.Errorf("consent to no run: %v", err)
			}
		})
		all.Wait()
		if commits := head.swaps.Load() - before; commits != 2 {
			t.Errorf("%d who came at once cost %d commits, want that of the first and one more", many, commits)
		}
		council.stop()
		next := 0
		for at, f := range w.facts() {
			a, ok := f.(entry.Admitted)
			if !ok {
				continue
			}
			if want := fmt.Sprint("guest-", next); a.Name != want {
				t.Errorf("line %d is of %s, who came at another time: want %s", at, a.Name, want)
			} else if durable[next] <= at {
				t.Errorf("%s was answered when %d lines were durable, its own is number %d", a.Name, durable[next], at)
			}
			next++
		}
		if next != many {
			t.Errorf("%d are in the log, want %d", next, many)
		}
	})
}

// TestGroupFails breaks the disk under a group. Nobody in it is told that anything was written, or refused for what was not.
func TestGroupFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		head := &slowHead{Head: w.disks["council"]}
		council, c := w.served(func(o *coordinator.Options) { o.Head = head })
		w.books["council"].await(t, "serving")
		before := len(w.facts())
		head.broken.Store(true)
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond) // the first brings a fact
				var in round.Input = round.Admit{Fact: entry.Admitted{Name: "guest"}}
				if i%2 > 0 {
					in = round.Consent{Run: "x", Member: "budapest", Records: 1}
				}
				if err := c.DecideAs(context.Background(), 0, in); err == nil || errors.Is(err, round.ErrUnknownRun) {
					t.Errorf("message %d of a group that was not written: %v", i, err)
				}
			})
		}
		all.Wait()
		if err := council.wait(); !errors.Is(err, errDisk) {
			t.Errorf("the coordinator ended with %v, want %v", err, errDisk)
		}
		if after := len(w.facts()); after != before {
			t.Errorf("%d facts before, %d after a commit that failed", before, after)
		}
	})
}
