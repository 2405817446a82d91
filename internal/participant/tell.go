package participant

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "consilium.dev/proto/consilium/v1"
)

// heartbeat is how often the coordinator is told what this participant does, though that has not changed. It believes it for
// three of them.
const heartbeat = 15 * time.Second

// desk knows what the participant does now, for whoever asks. It is safe for concurrent use.
type desk struct {
	now func() time.Time

	mu      sync.Mutex // guards what follows
	doing   string     // as in pb.TellRequest
	run     string
	round   int32
	from    time.Time // since when
	steps   int
	of      int
	step    time.Time     // last one of the trainer
	changed chan struct{} // closed when doing, run or round have changed
}

func newDesk(now func() time.Time) *desk {
	if now == nil {
		now = time.Now
	}
	return &desk{now: now, doing: "idle", from: now(), changed: make(chan struct{})}
}

// set says what is done from now on.
func (d *desk) set(doing, run string, round int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.doing == doing && d.run == run && d.round == round {
		return
	}
	now := d.now()
	d.doing, d.run, d.round, d.from, d.steps, d.of, d.step = doing, run, round, now, 0, 0, now
	close(d.changed)
	d.changed = make(chan struct{})
}

// since says that doing lasts since then.
func (d *desk) since(doing string, at time.Time) {
	d.set(doing, "", 0)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.from = at
}

// progress says that so many steps of the training are done. The training may have outlived the session that set it.
func (d *desk) progress(done, of int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.steps, d.of, d.step = done, of, d.now()
}

// read returns what is done, and a channel that is closed when that changes.
func (d *desk) read() (*pb.TellRequest, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	q := &pb.TellRequest{Doing: d.doing, Run: d.run, Round: d.round, ForUs: max(now.Sub(d.from), 0).Microseconds()}
	if d.doing == "training" {
		q.Steps, q.Of, q.StillUs = int64(d.steps), int64(d.of), max(now.Sub(d.step), 0).Microseconds()
	}
	return q, d.changed
}

// tell tells the coordinator what this participant does, at each change and each heartbeat, until ctx ends. What went wrong with
// that ends no session: the stream that follows finds out by itself. A coordinator of the version before is told nothing.
func (s *session) tell(ctx context.Context) {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		q, changed := s.p.desk.read()
		one, cancel := context.WithTimeout(ctx, heartbeat)
		_, err := s.rounds.Tell(one, q)
		cancel()
		if status.Code(err) == codes.Unimplemented {
			return
		}
		select { // what lasts less than a second is nobody's news
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-beat.C:
		}
	}
}
