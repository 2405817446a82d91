package coordinator_test

import (
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/coordinator"
)

// TestFlipping has a member say a thousand times a second that it is paused, and that it is not. The loop is woken once a second, the
// first time at once, and for the last word too; and at once for another member, whom that does not concern.
func TestFlipping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := coordinator.NewPresence()
		took := func() bool {
			select {
			case <-p.Changed():
				return true
			default:
				return false
			}
		}
		p.Enter("mallory")
		if !took() {
			t.Fatal("the loop is not woken at once for a member that has come")
		}
		time.Sleep(time.Minute)
		p.Tell("mallory", "idle")
		p.Tell("mallory", "paused")
		if !took() {
			t.Error("the loop is not woken at once for a member that has paused")
		}
		woken := 0
		for n := range 10_000 {
			p.Tell("mallory", []string{"idle", "paused"}[n%2])
			time.Sleep(time.Millisecond)
			synctest.Wait()
			if took() {
				woken++
			}
		}
		if woken < 9 || woken > 11 {
			t.Errorf("the loop was woken %d times in 10 s, want once a second", woken)
		}
		p.Enter("alice")
		if !took() {
			t.Error("the loop is not woken at once for another member")
		}
		p.Tell("mallory", "idle")
		time.Sleep(time.Second)
		synctest.Wait()
		if !took() || p.Paused("mallory") {
			t.Error("the loop does not hear of the last word")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if took() {
			t.Error("the loop is woken, and nothing has changed")
		}
	})
}
