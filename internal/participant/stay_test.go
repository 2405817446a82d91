package participant_test

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "consilium.dev/proto/consilium/v1"
)

// stay has the participant follow session after session, each as begin says: nil where nobody is there, else what the coordinator
// sends, whose end is the session's.
func (m *member) stay(begin func() chan *pb.Wanted) {
	p := m.process()
	ctx, cancel := context.WithCancel(m.t.Context())
	done := make(chan error, 1)
	go func() {
		done <- p.Stay(ctx, func(ctx context.Context) error {
			if m.wanted = begin(); m.wanted == nil {
				return errors.New("nobody is there")
			}
			err := p.Over(ctx, m.conn)
			return cmp.Or(ctx.Err(), err) // the disk that it looks at anew each time is not at fault for the end
		})
	}()
	m.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("following ended with %v", err)
		}
	})
}

// spoken returns what a coordinator sends that has said one thing.
func spoken() chan *pb.Wanted {
	c := make(chan *pb.Wanted, 1)
	c <- &pb.Wanted{}
	return c
}

// TestSessionThatHeardBeginsTheWaitsAnew has a coordinator that was away for an hour, and is then killed five seconds after each
// start, and away for two seconds a time. Whoever hears it is back soon after each; nobody waits for half a minute.
func TestSessionThatHeardBeginsTheWaitsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMember(t)
		var there atomic.Bool
		came := make(chan time.Time, 1)
		m.stay(func() chan *pb.Wanted {
			if !there.Load() {
				return nil
			}
			came <- time.Now()
			return spoken()
		})
		time.Sleep(time.Hour)
		for kill := range 20 {
			synctest.Wait()
			there.Store(true)
			began := time.Now()
			if waited := (<-came).Sub(began); kill > 0 && waited > 3*time.Second {
				t.Errorf("after kill %d the participant came %v after the coordinator, want 3s at most", kill, waited)
			}
			time.Sleep(5 * time.Second)
			synctest.Wait()
			there.Store(false)
			close(m.wanted)
			time.Sleep(2 * time.Second)
		}
	})
}

// TestHangingUpAtOnceIsNoBusyLoop has a coordinator that lets the participant in and hangs up. Where it does not say a word it is asked
// as seldom as one that is away; where it says one, every few seconds, so that one that is killed early again and again is found.
func TestHangingUpAtOnceIsNoBusyLoop(t *testing.T) {
	tests := []struct {
		name        string
		words       int
		least, most int // sessions in an hour
	}{
		{"without a word", 0, 80, 260}, // waits of 15 to 45 s, and the first few
		{"after a word", 1, 900, 1810}, // of 2 to 4 s
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMember(t)
				var sessions atomic.Int64
				m.stay(func() chan *pb.Wanted {
					sessions.Add(1)
					c := make(chan *pb.Wanted, 1)
					for range test.words {
						c <- &pb.Wanted{}
					}
					close(c)
					return c
				})
				time.Sleep(time.Hour)
				synctest.Wait()
				if n := int(sessions.Load()); n < test.least || n > test.most {
					t.Errorf("%d sessions in an hour, want %d to %d", n, test.least, test.most)
				}
			})
		})
	}
}
