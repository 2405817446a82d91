package coordinator_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// TestStartsPerDay has a lead start more runs than one may in a day. What became of them does not matter, another lead has its own
// day, and nothing is stored for a run that is refused.
func TestStartsPerDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.Starts = 2 })
		ada, ben := c.person("ada"), c.person("ben")
		start := func(p *peer, n int) error {
			text := asJSON(t, plan(t, bare, func(p *entry.Plan) { p.Name = fmt.Sprint("run ", n) }))
			r, err := p.Start(t.Context(), &pb.StartRequest{Request: fmt.Sprint(n), Plan: text})
			if err == nil {
				_, err = p.Cancel(t.Context(), &pb.CancelRequest{Run: r.Run})
			}
			return err
		}
		for n := range 2 {
			if err := start(ada, n); err != nil {
				t.Fatal(err)
			}
		}
		before := c.blobs()
		for n := range 3 {
			err := start(ada, 10+n)
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "ada started 2 in the last 24 hours") {
				t.Errorf("one run too many: %v, want FailedPrecondition", err)
			}
		}
		if after := c.blobs(); after != before {
			t.Errorf("%d blobs were stored for runs that were refused", after-before)
		}
		if err := start(ben, 20); err != nil {
			t.Errorf("another lead: %v", err)
		}
		time.Sleep(24 * time.Hour)
		if err := start(c.person("ada"), 30); err != nil {
			t.Errorf("a day later: %v", err)
		}
	})
}

// blobs returns how many sealed blobs the coordinator's storage holds.
func (w *world) blobs() int {
	w.t.Helper()
	n := 0
	for _, err := range w.disks["council"].List(w.t.Context(), "blob/") {
		if err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

// TestMessageLimit sends a plan that is longer than any may be. It is refused for that where the message may be so long, and by
// the message's length where not.
func TestMessageLimit(t *testing.T) {
	for _, test := range []struct {
		limit int
		want  codes.Code
	}{{0, codes.InvalidArgument}, {5 << 18, codes.ResourceExhausted}, {4 << 20, codes.InvalidArgument}} {
		t.Run(fmt.Sprint(test.limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCourt(t, func(o *coordinator.Options) { o.Limits.Message = test.limit })
				_, err := c.person("ada").Start(t.Context(), &pb.StartRequest{Request: "r", Plan: make([]byte, 3<<19)})
				if status.Code(err) != test.want {
					t.Errorf("%v, want %v", err, test.want)
				}
			})
		})
	}
}

// TestLimitsRefused gives a coordinator limits with which it could not work.
func TestLimitsRefused(t *testing.T) {
	w := newWorld(t)
	for name, l := range map[string]coordinator.Limits{
		"uploads": {Uploads: -1}, "connections": {Room: transport.Room{Connections: -1}}, "address": {Room: transport.Room{PerAddress: -1}},
		"handshakes": {Handshakes: transport.Limits{Handshakes: -1}}, "handshakes of an address": {Handshakes: transport.Limits{PerAddress: -1}},
		"handshakes a second": {Handshakes: transport.Limits{PerSecond: -1}}, "message": {Message: -1}, "age": {Age: -1}, "young age": {Age: time.Minute - 1}, "short message": {Message: 1 << 20},
		"long message": {Message: 1 << 30}, "progress": {Progress: -1}, "resume": {Resume: -1}, "open runs": {OpenRuns: -1}, "starts": {Starts: -1},
	} {
		d := w.disks["council"]
		_, err := coordinator.New(coordinator.Options{
			Name: "council", Manifest: w.manifest, Identity: keyOf("coordinator/council"), Attester: w.realm.council.Attester(time.Now),
			Verifiers: w.realm.verifiers, Objects: d, Head: d, KEK: d.kek, Log: newBook().log(), Limits: l,
		})
		if err == nil || !strings.Contains(err.Error(), "limit") {
			t.Errorf("%s: %v, want that a limit is wrong", name, err)
		}
	}
}

// TestTurnedAway has a coordinator with room for two connections turn the third away, and say so once in a minute.
func TestTurnedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(func(o *coordinator.Options) { o.Limits.Room.Connections = 2 })
		ada, ben := w.person("ada"), w.connect(attest.Participant, "budapest")
		if _, err := ada.List(t.Context(), &pb.ListRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := ben.Tell(t.Context(), &pb.TellRequest{Doing: "idle"}); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			conn, err := w.line.dial(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("a third connection was let in")
			}
		}
		if lines := w.books["council"].find("connection turned away; others of this minute are not logged"); len(lines) != 1 {
			t.Errorf("it was logged %d times, want once", len(lines))
		}
		if _, err := ada.List(t.Context(), &pb.ListRequest{}); err != nil {
			t.Errorf("one that was in before: %v", err)
		}
	})
}

// TestNewsIsForWhomItConcerns has two members follow of whom one is asked something. The other hears nothing before its heartbeat:
// in a federation of a thousand, each fact would else be a thousand messages.
func TestNewsIsForWhomItConcerns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		follow := func(p *peer) pb.Rounds_FollowClient {
			s, err := p.Follow(t.Context(), &pb.FollowRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Recv(); err != nil {
				t.Fatal(err)
			}
			return s
		}
		asked, other := follow(c.budapest), follow(c.longbeach)
		began := time.Now()
		c.open()
		if w, err := asked.Recv(); err != nil || time.Since(began) != 0 {
			t.Errorf("who is asked heard %v, %v after %v", w, err, time.Since(began))
		}
		if w, err := other.Recv(); err != nil || time.Since(began) != 15*time.Second || len(w.Invitations) != 0 {
			t.Errorf("who is not asked heard %v, %v after %v, want its heartbeat after 15s", w, err, time.Since(began))
		}
	})
}
