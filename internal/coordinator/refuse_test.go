package coordinator_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// oneUpload lets one upload of a bare plan into memory at a time: memory that was not given back is found by the next one.
func oneUpload(o *coordinator.Options) { o.Limits.Uploads = bareSize }

// bomb returns the zstd frame of that many zeros.
func bomb(t *testing.T, n int) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(make([]byte, n), nil)
}

// TestUpdatesRefused offers updates with one thing wrong each. The participant is told the reason, the log keeps it, the sum
// does not get the update, and the memory is free again.
func TestUpdatesRefused(t *testing.T) {
	t.Parallel()
	zeros := bomb(t, codec.MaxChunk)
	tests := []struct {
		name, reason string
		spoil        func(*upload)
	}{
		{"too short", "size", func(u *upload) { u.fill(make([]float32, bareLen-1)) }},
		{"too long", "size", func(u *upload) { u.fill(make([]float32, bareLen+1)) }},
		{"other digest", "digest", func(u *upload) { u.head.Update[31] ^= 1 }},
		{"other salt", "digest", func(u *upload) { u.head.Salt[0] ^= 1 }},
		{"other bytes", "digest", func(u *upload) { u.chunks[0].Data[0] ^= 1 }},
		{"NaN", "value", func(u *upload) { u.fill(with(math.NaN())) }},
		{"infinity", "value", func(u *upload) { u.fill(with(math.Inf(1))) }},
		{"negative infinity", "value", func(u *upload) { u.fill(with(math.Inf(-1))) }},
		{"beyond max_abs", "value", func(u *upload) { u.fill(with(16.000002)) }},
		{"below -max_abs", "value", func(u *upload) { u.fill(with(-16.000002)) }},
		{"less weight", "weight", func(u *upload) { u.head.Weight = records - 1 }},
		{"more weight", "weight", func(u *upload) { u.head.Weight = records + 1 }},
		{"no weight", "weight", func(u *upload) { u.head.Weight = 0 }},
		{"negative weight", "weight", func(u *upload) { u.head.Weight = -records }},
		{"chunk out of order", "chunk", func(u *upload) { u.chunks[0].Offset = 4 }},
		{"negative offset", "chunk", func(u *upload) { u.chunks[0].Offset = -4 }},
		{"chunk twice", "chunk", func(u *upload) { u.halve(); u.chunks[1] = u.chunks[0] }},
		{"chunk left out", "chunk", func(u *upload) { u.halve(); u.chunks = u.chunks[1:] }},
		{"empty chunk", "chunk", func(u *upload) { u.chunks[0].Size, u.chunks[0].Data = 0, nil }},
		{"broken value", "chunk", func(u *upload) { u.chunks[0].Size, u.chunks[0].Data = 5, u.chunks[0].Data[:5] }},
		{"chunk beyond the end", "chunk", func(u *upload) { u.chunks[0].Size, u.chunks[0].Data = bareSize+4, make([]byte, bareSize+4) }},
		{"chunk of another size than it says", "chunk", func(u *upload) { u.chunks[0].Size = bareSize - 4 }},
		{"unknown scheme", "chunk", func(u *upload) { u.chunks[0].Scheme = 9 }},
		{"bomb that declares its size", "chunk", func(u *upload) { u.chunks[0] = &pb.Chunk{Scheme: 1, Size: codec.MaxChunk, Data: zeros} }},
		{"bomb that declares another size", "chunk", func(u *upload) {
			u.chunks[0] = &pb.Chunk{Scheme: 1, Size: bareSize, Data: zeros[:min(len(zeros), bareSize)]}
		}},
		{"header twice", "chunk", func(u *upload) { u.chunks[0] = nil }},
		{"ended half way", "short", func(u *upload) { u.halve(); u.chunks = u.chunks[:1] }},
		{"ended at once", "short", func(u *upload) { u.chunks = nil }},
	}
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, oneUpload)
		for _, test := range tests {
			run := c.open()
			u := sound(run)
			test.spoil(u)
			reply, err := c.budapest.send(t.Context(), u)
			if err != nil || reply.State != pb.OfferReply_STATE_REFUSED || reply.Reason != test.reason {
				t.Errorf("%s: %v, %v, want refused for %s", test.name, reply, err, test.reason)
			}
			if early := test.reason == "size" || test.reason == "weight"; u.asked == early {
				t.Errorf("%s: its bytes were asked for: %v, want %v", test.name, u.asked, !early)
			}
			c.books["council"].await(t, "update refused", "run", run, "reason", test.reason, "member", "budapest")
			c.checkRefusals(run, test.name, test.reason)
			// The same member's sound update is taken, and closes the round with the other's.
			c.accepted(c.budapest, sound(run))
			c.accepted(c.cleveland, sound(run))
			c.books["council"].await(t, "round closed", "run", run)
		}
	})
}

// halve makes two chunks of one.
func (u *upload) halve() {
	all := u.chunks[0].Data
	n := len(all) / 8 * 4
	u.chunks = []*pb.Chunk{
		{Size: uint32(n), Data: all[:n]},
		{Offset: int64(n), Size: uint32(len(all) - n), Data: all[n:]},
	}
}

// checkRefusals compares the refusals of a run in the log.
func (c *court) checkRefusals(run, name string, want ...string) {
	c.t.Helper()
	synctest.Wait()
	var got []string
	for _, f := range only[entry.UpdateRefused](c.facts()) {
		if f.Run == run {
			got = append(got, f.Reason)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		c.t.Errorf("%s: the log has the refusals %q, want %q", name, got, want)
	}
}

// TestSecond offers the same update again, which is harmless, and then another one.
func TestSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, oneUpload)
		run := c.open()
		c.accepted(c.budapest, sound(run))
		c.accepted(c.budapest, sound(run))
		q := sound(run).head
		held, err := c.budapest.Query(t.Context(), &pb.QueryRequest{Run: run, Round: 1, Try: 1, Update: q.Update})
		if err != nil || held.State != pb.QueryReply_STATE_HELD {
			t.Errorf("asked for the update that is here: %v, %v, want held", held, err)
		}
		reply, err := c.budapest.send(t.Context(), sound(run, with(1)...))
		if err != nil || reply.State != pb.OfferReply_STATE_REFUSED || reply.Reason != "second" {
			t.Errorf("another update: %v, %v, want refused for second", reply, err)
		}
		asked, err := c.budapest.Query(t.Context(), &pb.QueryRequest{Run: run, Round: 1, Try: 1, Update: sound(run, with(1)...).head.Update})
		if err != nil || asked.State != pb.QueryReply_STATE_REFUSED || asked.Reason != "second" {
			t.Errorf("asked for another update: %v, %v, want refused for second", asked, err)
		}
		c.checkRefusals(run, "second", "second")
		accepts := 0
		for _, f := range only[entry.UpdateAccepted](c.facts()) {
			if f.Run == run {
				accepts++
			}
		}
		if accepts != 1 {
			t.Errorf("the log has %d accepted updates, want one", accepts)
		}
		c.accepted(c.cleveland, sound(run))
		c.books["council"].await(t, "round closed", "run", run)
	})
}

// TestOneUpload has a member offer two updates of one try at once. Over the same connection the second is refused; one over
// another connection takes the place of the first, whose line must be dead, and its memory.
func TestOneUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, oneUpload)
		run := c.open()
		first, state := c.begin(c.budapest, sound(run, with(1)...))
		if state != pb.OfferReply_STATE_SEND {
			t.Fatalf("first upload: %v, want send", state)
		}
		if reply, err := c.budapest.send(t.Context(), sound(run)); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("second upload over the same connection: %v, %v, want ResourceExhausted", reply, err)
		}
		began := time.Now()
		c.accepted(c.connect(attest.Participant, "budapest"), sound(run))
		if waited := time.Since(began); waited > time.Second {
			t.Errorf("the second upload waited for %v, until the first was found to stand still", waited)
		}
		if state := first.state(); state != pb.OfferReply_STATE_UNSPECIFIED {
			t.Errorf("first upload, after another came over a new connection: %v, want a broken stream", state)
		}
		c.checkRefusals(run, "two uploads")
		c.accepted(c.cleveland, sound(run))
		c.books["council"].await(t, "round closed", "run", run)
	})
}

// TestNotAsked offers updates that nobody asked for. No fact can be about them, so the operator is told.
func TestNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, oneUpload)
		run, done := c.open(), c.open()
		c.accepted(c.budapest, sound(done))
		c.accepted(c.cleveland, sound(done))
		c.books["council"].await(t, "round closed", "run", done)
		tests := []struct {
			name, reason string
			by           *peer
			who          string
			spoil        func(*pb.OfferHeader)
		}{
			{"round closed", "closed", c.budapest, "budapest", func(h *pb.OfferHeader) { h.Run = done }},
			{"round to come", "closed", c.budapest, "budapest", func(h *pb.OfferHeader) { h.Round = 2 }},
			{"round 0", "closed", c.budapest, "budapest", func(h *pb.OfferHeader) { h.Round = 0 }},
			{"other try", "closed", c.budapest, "budapest", func(h *pb.OfferHeader) { h.Try = 2 }},
			{"no such run", "unknown_run", c.budapest, "budapest", func(h *pb.OfferHeader) { h.Run = strings.Repeat("0", 16) }},
			{"run of others", "stranger", c.longbeach, "longbeach", func(*pb.OfferHeader) {}},
		}
		for _, test := range tests {
			u := sound(run)
			test.spoil(u.head)
			reply, err := test.by.send(t.Context(), u)
			if err != nil || reply.State != pb.OfferReply_STATE_REFUSED || reply.Reason != test.reason {
				t.Errorf("%s: %v, %v, want refused for %s", test.name, reply, err, test.reason)
			}
			c.books["council"].await(t, "update not taken", "member", test.who, "reason", test.reason)
		}
		c.checkRefusals(run, "not asked")
		c.accepted(c.budapest, sound(run))
	})
}

// TestOften takes a member out of a try after its eighth refusal, so that it does not fill the log; then two can no longer
// come together, and the run fails without waiting for the deadline.
func TestOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, oneUpload)
		run := c.open()
		for range 8 {
			u := sound(run, with(math.NaN())...)
			if reply, err := c.budapest.send(t.Context(), u); err != nil || reply.Reason != "value" {
				t.Fatalf("%v, %v, want refused for value", reply, err)
			}
		}
		v := c.finish(run)
		if v.Summary.State != "failed" {
			t.Errorf("run is %s, want failed", v.Summary.State)
		}
		if reply, err := c.budapest.send(t.Context(), sound(run)); err != nil || reply.Reason != "closed" {
			t.Errorf("after the end: %v, %v, want refused as closed", reply, err)
		}
		c.checkRefusals(run, "often", strings.Fields(strings.Repeat("value ", 8))...)
	})
}

// TestTooLarge refuses an update for which there is no memory any more: the run was started under a coordinator that had it.
func TestTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &court{world: newWorld(t)}
		council := c.serve()
		c.budapest, c.cleveland = c.connect(attest.Participant, "budapest"), c.connect(attest.Participant, "cleveland")
		run := c.open()
		council.stop()
		c.serve(func(o *coordinator.Options) { o.Limits.Uploads = bareSize - 1 })
		c.budapest = c.connect(attest.Participant, "budapest")
		if reply, err := c.budapest.send(t.Context(), sound(run)); err != nil || reply.Reason != "memory" {
			t.Errorf("%v, %v, want refused for memory", reply, err)
		}
		c.checkRefusals(run, "too large", "memory")
	})
}

// TestHeaders refuses words that make no sense before anything is asked.
func TestHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open()
		tests := map[string]func(*upload){
			"no salt":          func(u *upload) { u.head.Salt = nil },
			"long salt":        func(u *upload) { u.head.Salt = make([]byte, 33) },
			"no digest":        func(u *upload) { u.head.Update = nil },
			"short digest":     func(u *upload) { u.head.Update = u.head.Update[:31] },
			"no size":          func(u *upload) { u.head.Size = 0 },
			"negative size":    func(u *upload) { u.head.Size = -4 },
			"size of no value": func(u *upload) { u.head.Size = 3 },
			"no header":        func(u *upload) { u.head = nil },
		}
		for name, spoil := range tests {
			u := sound(run)
			spoil(u)
			if reply, err := c.budapest.send(t.Context(), u); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v, %v, want InvalidArgument", name, reply, err)
			}
		}
		for _, d := range [][]byte{nil, make([]byte, 31), make([]byte, 33)} {
			if _, err := c.budapest.Query(t.Context(), &pb.QueryRequest{Run: run, Round: 1, Try: 1, Update: d}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("Query with a digest of %d bytes: %v, want InvalidArgument", len(d), err)
			}
			if _, err := c.budapest.Report(t.Context(), &pb.ReportRequest{Run: run, Model: d}); status.Code(err) != codes.InvalidArgument {
				t.Errorf("Report with a digest of %d bytes: %v, want InvalidArgument", len(d), err)
			}
		}
		c.checkRefusals(run, "headers")
	})
}

// TestCutOff breaks an upload off half way. Its memory is given back, and the same bytes are taken later.
func TestCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, oneUpload)
		run := c.open()
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := c.budapest.Offer(ctx)
		if err != nil {
			t.Fatal(err)
		}
		u := sound(run)
		u.halve()
		if err := stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Header{Header: u.head}}); err != nil {
			t.Fatal(err)
		}
		if reply, err := stream.Recv(); err != nil || reply.State != pb.OfferReply_STATE_SEND {
			t.Fatalf("%v, %v, want send", reply, err)
		}
		if err := stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Chunk{Chunk: u.chunks[0]}}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		cancel()
		line := c.books["council"].await(t, "upload cut off", "run", run, "member", "budapest")
		if got := fmt.Sprint(line["error"]); !strings.HasPrefix(got, "at 28 of 56 bytes: ") {
			t.Errorf("the log says %q, want where it was cut", got)
		}
		c.accepted(c.cleveland, sound(run)) // in the memory that was given back
		c.accepted(c.budapest, sound(run))
		c.checkRefusals(run, "cut off")
		c.books["council"].await(t, "round closed", "run", run)
	})
}
