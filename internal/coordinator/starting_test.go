package coordinator_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/coordinator"
	pb "consilium.dev/proto/consilium/v1"
)

// wants is a follower's stream that takes what it is sent.
type wants struct {
	grpc.ServerStreamingServer[pb.Wanted]
	ctx  context.Context
	sent int
}

func (s *wants) Context() context.Context { return s.ctx }

func (s *wants) Send(*pb.Wanted) error {
	s.sent++
	return nil
}

// TestFollowsBeforeNews has members follow a coordinator that has just started: who follows before the first news waits for them, and hears only from
// them whether it is a member.
func TestFollowsBeforeNews(t *testing.T) {
	for _, test := range []struct {
		name string
		then func(coordinator.Starting, context.CancelFunc)
		want codes.Code
		says string
		sent int
	}{
		{"a member", func(s coordinator.Starting, end context.CancelFunc) { s.Settle("north"); synctest.Wait(); end() }, codes.Canceled, "canceled", 1},
		{"a stranger", func(s coordinator.Starting, _ context.CancelFunc) { s.Settle("south") }, codes.PermissionDenied, "not a member", 0},
		{"no news", func(coordinator.Starting, context.CancelFunc) { time.Sleep(time.Minute) }, codes.Unavailable, "still starting", 0},
		{"the end", func(s coordinator.Starting, _ context.CancelFunc) { s.Stop() }, codes.Unavailable, "stopping", 0},
		{"gone", func(_ coordinator.Starting, end context.CancelFunc) { end() }, codes.Canceled, "canceled", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := coordinator.NewStarting()
				ctx, end := context.WithCancel(t.Context())
				defer end()
				stream, over := &wants{ctx: ctx}, make(chan error, 1)
				go func() { over <- s.Follow("north", stream) }()
				synctest.Wait()
				select {
				case err := <-over:
					t.Fatalf("before the first news Follow = %v", err)
				default:
				}
				test.then(s, end)
				err := <-over
				if got := status.FromContextError(err).Code(); status.Code(err) != test.want && got != test.want || !strings.Contains(err.Error(), test.says) {
					t.Errorf("Follow = %v, want %v that says %q", err, test.want, test.says)
				}
				if stream.sent != test.sent {
					t.Errorf("it was sent news %d times, want %d", stream.sent, test.sent)
				}
			})
		})
	}
}

// TestWaitsForNobody words for whom a closed round waits in the moment between two heads, in which no witness is asked.
func TestWaitsForNobody(t *testing.T) {
	if got, want := coordinator.Releasing(29), "round 29 is closed, and its release is under way"; got != want {
		t.Errorf("the round waits: %q, want %q", got, want)
	}
}
