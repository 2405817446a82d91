package coordinator_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/store"
	pb "consilium.dev/proto/consilium/v1"
)

// gated is a store that, while it is shut, keeps whoever writes a blob waiting.
type gated struct {
	store.Objects

	mu      sync.Mutex
	shut    chan struct{} // nil while it is open
	waiting int
}

func (g *gated) Put(ctx context.Context, name func() string, r io.Reader) error {
	content, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	n := name()
	if err := g.pass(ctx, n); err != nil {
		return err
	}
	return g.Objects.Put(ctx, store.Named(n), bytes.NewReader(content))
}

func (g *gated) pass(ctx context.Context, name string) error {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut == nil || !strings.HasPrefix(name, "blob/") {
		return nil
	}
	g.count(1)
	defer g.count(-1)
	select {
	case <-shut:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gated) count(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting += n
}

// TestCombinationsInTurn: rounds of many runs that end together are combined two at a time, since each takes memory that no run was reckoned
// with. One whose run is cancelled gives up its turn, or its place in line, at once.
func TestCombinationsInTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gated{}
		c := newCourt(t, func(o *coordinator.Options) {
			g.Objects = o.Objects
			o.Objects = g
		})
		lead := c.person("ada")
		runs := []string{c.open(), c.open(), c.open(), c.open()}
		if _, err := lead.List(t.Context(), &pb.ListRequest{}); err != nil { // her admission, which is a blob too, is written
			t.Fatal(err)
		}
		g.mu.Lock()
		g.shut = make(chan struct{})
		g.mu.Unlock()
		for _, run := range runs {
			c.accepted(c.budapest, sound(run))
			c.accepted(c.cleveland, sound(run))
			synctest.Wait() // they stand in line in this order
		}
		under := func() int {
			synctest.Wait()
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.waiting
		}
		if n := under(); n != 2 {
			t.Errorf("%d models are being stored, want 2", n)
		}
		for i, left := range []struct{ run, models int }{{3, 2}, {0, 2}} { // the last in line, the first under way
			if _, err := lead.Cancel(t.Context(), &pb.CancelRequest{Run: runs[left.run]}); err != nil {
				t.Fatal(err)
			}
			c.books["council"].await(t, "combination not needed any more", "run", runs[left.run])
			if n := under(); n != left.models {
				t.Errorf("after %d were cancelled %d models are being stored, want %d", i+1, n, left.models)
			}
		}
		close(g.shut)
		for _, run := range runs[1:3] {
			c.completed(run)
		}
	})
}
