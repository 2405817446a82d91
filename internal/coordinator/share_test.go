package coordinator_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/coordinator"
	pb "consilium.dev/proto/consilium/v1"
)

// TestShare gives a member memory for one update, whatever its length, and for more only within its share of the budget. What is
// shelved of its own makes room, and who waits goes on when something is given back.
func TestShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := coordinator.NewHold(100, time.Hour, 4)
		large, ok := h.Try("mallory", 60)
		if !ok {
			t.Fatal("a member does not get memory for one update")
		}
		if _, ok := h.Try("mallory", 10); ok {
			t.Error("a member gets memory for a second update beyond its share of 25")
		}
		other, ok := h.Try("alice", 40)
		if !ok {
			t.Error("another member does not get what is left")
		}
		other()
		got := make(chan func(), 1)
		go func() {
			release, err := h.Wait(t.Context(), "mallory", 20)
			if err != nil {
				t.Error(err)
			}
			got <- release
		}()
		synctest.Wait()
		if len(got) > 0 {
			t.Error("a member that waits gets memory beyond its share")
		}
		large()
		synctest.Wait()
		if len(got) == 0 {
			t.Fatal("a member that waits does not go on when it has given its other memory back")
		}
		small, ok := h.Try("mallory", 5)
		if !ok {
			t.Error("a member does not get a second update within its share")
		}
		if _, ok := h.Try("mallory", 1); ok {
			t.Error("a member gets more than its share")
		}
		small()
		(<-got)()
		if !h.Shelve("run", 1, 1, 40) {
			t.Fatal("what came of an update is not shelved")
		}
		if release, ok := h.Try("member", 40); !ok {
			t.Error("what is shelved of a member does not make room for its next update")
		} else {
			release()
		}
		if free := h.Free(); free != 100 {
			t.Errorf("%d bytes are free at the end, want all 100", free)
		}
	})
}

// TestEndedTryLetsGo has an upload stand still whose run is cancelled, while another run's upload waits for its memory: it gets that
// when the sender has had a moment to give up by itself, long before standing still is noticed. What had come is not kept.
func TestEndedTryLetsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.Uploads = 4 * wideLen })
		run, other := c.open(wide), c.open(wide)
		first, state := c.begin(c.budapest, resumable(run))
		if state != pb.OfferReply_STATE_SEND {
			t.Fatalf("first upload: %v, want send", state)
		}
		first.chunk()
		second, state := c.begin(c.cleveland, sound(other, large()...))
		if state != pb.OfferReply_STATE_WAIT {
			t.Fatalf("upload for another run: %v, want wait", state)
		}
		began := time.Now()
		if _, err := c.person("ada").Cancel(t.Context(), &pb.CancelRequest{Run: run}); err != nil {
			t.Fatal(err)
		}
		if state := second.state(); state != pb.OfferReply_STATE_SEND || time.Since(began) > 5*time.Second {
			t.Errorf("upload for another run, when the first's has ended: %v after %v, want send within 5s", state, time.Since(began))
		}
		if state := first.state(); state != pb.OfferReply_STATE_UNSPECIFIED {
			t.Errorf("the upload whose run has ended: %v, want a broken stream", state)
		}
		for range second.u.chunks {
			second.chunk()
		}
		if state := second.state(); state != pb.OfferReply_STATE_ACCEPTED {
			t.Errorf("upload for another run: %v, want accepted", state)
		}
	})
}

// TestEverybodyInLineIsServed has four uploads of two members and two runs at once, in memory for one.
func TestEverybodyInLineIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.Uploads = 4 * wideLen })
		runs := []string{c.open(wide), c.open(wide)}
		var all sync.WaitGroup
		for _, run := range runs {
			for _, p := range []*peer{c.budapest, c.cleveland} {
				all.Go(func() {
					if reply, err := p.send(t.Context(), sound(run, large()...)); err != nil || reply.State != pb.OfferReply_STATE_ACCEPTED {
						t.Errorf("an upload that waited in line: %v, %v, want accepted", reply, err)
					}
				})
			}
		}
		all.Wait()
		for _, run := range runs {
			c.books["council"].await(t, "round closed", "run", run)
		}
	})
}
