package coordinator_test

import (
	"context"
	"math"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	pb "consilium.dev/proto/consilium/v1"
)

// TestRenewal has a run last for many appraisals, of which each holds for 30 seconds: one member's update and models go over a line
// on which each takes longer than that. Nobody loses the coordinator, nor it its witnesses. What is under way when a connection
// ends goes on over the one that is there already; what ends before stays on its own.
func TestRenewal(t *testing.T) {
	t.Parallel()
	data := map[string]participant.Data{"budapest": genomes(t, 1), "cleveland": genomes(t, 2)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "appraisal_ttl: 1h", "appraisal_ttl: 30s", none, "{quorum: 2, members: [budapest, cleveland]}")
		w.serve()
		slow := (&wire{dial: w.line.dial, rate: 16_000}).laid(t)
		for name, dial := range map[string]func(context.Context, string) (net.Conn, error){"budapest": slow.through, "cleveland": w.line.dial} {
			w.join(name, func(o *participant.Options) { o.Dial, o.Data, o.Policy.LeastRecords = dial, data[name], 2 })
		}
		began := time.Now()
		v := w.completed(w.start(plan(t, genome, func(p *entry.Plan) { p.Rounds, p.Deadline = 1, entry.Duration(2*time.Hour) })))
		took := time.Since(began)
		if took < 75*time.Second {
			t.Fatalf("the run took %v, which is not many appraisals", took)
		}
		for _, name := range []string{"budapest", "cleveland"} {
			b := w.books[name]
			if n := len(b.find("connection renewed")); n < 3 || n > 1+int(took/(19*time.Second)) {
				t.Errorf("%s renewed its connection %d times in %v, want 3 or more, and no more than once in 19 s", name, n, took)
			}
			for _, message := range []string{"no coordinator", "connection not renewed", "coordinator refused"} {
				if lines := b.find(message); len(lines) > 0 {
					t.Errorf("%s: %q: %v", name, message, lines)
				}
			}
			if n := len(b.find("following")); n != 1 {
				t.Errorf("%s began to follow %d times, want once", name, n)
			}
		}
		if lines := w.books["cleveland"].find("goes on over the new connection"); len(lines) > 0 {
			t.Errorf("what takes a moment was cut: %v", lines)
		}
		cut := w.books["budapest"].find("goes on over the new connection")
		if len(cut) < 2 { // the update, and the model that is evaluated
			t.Errorf("what takes longer than an appraisal went on over new connections %d times: %v", len(cut), cut)
		}
		var ends []float64
		for _, line := range w.books["council"].find("admitted", "name", "budapest") {
			ends = append(ends, line["expires"].(float64))
		}
		for _, line := range cut {
			at := line["ts"].(float64)
			if !slices.ContainsFunc(ends, func(end float64) bool { return math.Abs(end-at) < 2 }) {
				t.Errorf("cut at %.1f, which is not the end of any of the appraisals %.1f: %v", at, ends, line)
			}
		}
		on := w.books["council"].find("upload goes on", "member", "budapest")
		if anew := w.books["council"].find("upload goes on", "offset", "0"); len(on) == 0 || len(anew) > 0 {
			t.Errorf("the upload went on %v, want behind what had come", on)
		}
		if n := v.Rounds[0].Resent; n <= 0 || n > int64(len(on))<<20 {
			t.Errorf("%d bytes of the update were sent twice, want less than 1 MiB for each of %d connections that ended", n, len(on))
		}
		if n := member(v, "cleveland").Resent; n != 0 {
			t.Errorf("%d bytes of models were sent to cleveland twice, want none", n)
		}
		if n := len(w.books["council"].find("round released")); n != 1+len(v.Rounds) && n != len(v.Rounds) {
			t.Errorf("%d rounds were released by the witnesses of %d", n, len(v.Rounds))
		}
		for _, message := range []string{"peer refused", "another program under the same name"} {
			if lines := w.books["council"].find(message); len(lines) > 0 {
				t.Errorf("%q: %v", message, lines)
			}
		}
	})
}

// TestRenewalsAreSpread has members connect in one instant: what they renew their connections at lies apart.
func TestRenewalsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		w.joinAll()
		time.Sleep(55 * time.Minute)
		at := map[int64]bool{}
		for _, name := range hospitals {
			lines := w.books[name].find("connection renewed")
			if len(lines) != 1 {
				t.Fatalf("%s has renewed its connection %d times after 55 minutes, want once: before the hour is over", name, len(lines))
			}
			at[int64(lines[0]["ts"].(float64))] = true
		}
		if len(at) < 3 {
			t.Errorf("four members renewed their connections in %d instants", len(at))
		}
	})
}

// lagging is a stream whose next message takes its time.
type lagging struct {
	grpc.ServerStream
	lag time.Duration
}

func (l lagging) RecvMsg(any) error { time.Sleep(l.lag); return nil }
func (l lagging) SendMsg(any) error { time.Sleep(l.lag); return nil }

// TestExpiryEndsStreamAtItsNextMessage has a stream outlive its peer's appraisal, as it may where the connection is not cut in time:
// neither what was waited for before the end, nor anything after it, is taken or sent.
func TestExpiryEndsStreamAtItsNextMessage(t *testing.T) {
	m := aRealm(t).manifestOf(t)
	synctest.Test(t, func(t *testing.T) {
		end := time.Now().Add(time.Minute)
		s := coordinator.Guarded(lagging{lag: 25 * time.Second}, m, time.Now, end)
		for _, message := range []func(any) error{s.SendMsg, s.RecvMsg} {
			if err := message(nil); err != nil {
				t.Errorf("%v before the end: %v", time.Until(end), err)
			}
		}
		for _, message := range []func(any) error{s.RecvMsg, s.RecvMsg, s.SendMsg} {
			if err := message(nil); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%v after the end: %v, want Unauthenticated", time.Since(end), err)
			}
		}
		if over := time.Since(end); over != 15*time.Second {
			t.Errorf("it ended %v after the end, want with the message that was waited for", over)
		}
	})
}

// tired is an attester that takes its time once it has been made to.
type tired struct {
	attest.Attester
	takes *atomic.Int64 // time.Duration
}

func (a tired) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	select {
	case <-time.After(time.Duration(a.takes.Load())):
		return a.Attester.Attest(ctx, b)
	case <-ctx.Done():
		return attest.Evidence{}, ctx.Err()
	}
}

// TestQueueIsSaid has members wait for the coordinator's attester, and a lead who is connected ask how many they are.
func TestQueueIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var takes atomic.Int64
		w.serve(func(o *coordinator.Options) { o.Attester = tired{o.Attester, &takes} })
		lead := pb.NewFederationClient(w.person("ada").conn)
		asked := func(waiting uint32, oldest time.Duration) {
			t.Helper()
			r, err := lead.Status(t.Context(), &pb.StatusRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if got := time.Duration(r.QuotesOldestUs) * time.Microsecond; r.QuotesWaiting != waiting || got != oldest {
				t.Errorf("%d wait, the oldest for %v, want %d and %v", r.QuotesWaiting, got, waiting, oldest)
			}
			if d := w.manifest.Digest(); r.Coordinator != "council" || r.Version != "test" || r.Epoch != 1 || !slices.Equal(r.Manifest, d[:]) || r.Simulated != "demo" {
				t.Errorf("status is %v", r)
			}
		}
		asked(0, 0)
		takes.Store(int64(5 * time.Second))
		w.join("budapest")
		synctest.Wait()
		for _, name := range []string{"cleveland", "longbeach"} {
			time.Sleep(time.Second)
			w.join(name)
			synctest.Wait()
		}
		asked(2, time.Second)
		for _, name := range hospitals[:3] {
			w.books[name].await(t, "following")
		}
		asked(0, 0)
	})
}
