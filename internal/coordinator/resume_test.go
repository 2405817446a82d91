package coordinator_test

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// broken begins an upload as budapest whose line is cut when its first chunk is there, and returns it.
func (c *court) broken(u *upload) *upload {
	c.t.Helper()
	p := c.connect(attest.Participant, "budapest")
	s, state := c.begin(p, u)
	if state != pb.OfferReply_STATE_SEND {
		c.t.Fatalf("first upload: %v, want send", state)
	}
	s.chunk()
	synctest.Wait()
	if err := p.conn.Close(); err != nil {
		c.t.Fatal(err)
	}
	synctest.Wait()
	return u
}

// offered sends the header of an upload as budapest and returns where it has to go on.
func (c *court) offered(u *upload) (*sending, int64) {
	c.t.Helper()
	stream, err := c.connect(attest.Participant, "budapest").Offer(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	if err := stream.Send(&pb.OfferRequest{Part: &pb.OfferRequest_Header{Header: u.head}}); err != nil {
		c.t.Fatal(err)
	}
	reply, err := stream.Recv()
	if err != nil || reply.State != pb.OfferReply_STATE_SEND {
		c.t.Fatalf("second upload: %v, %v, want send", reply, err)
	}
	return &sending{t: c.t, stream: stream, u: u}, reply.Offset
}

// resumable is a sound upload of two chunks whose sender can go on in the middle.
func resumable(run string, values ...float32) *upload {
	if len(values) == 0 {
		values = large()
	}
	u := sound(run, values...)
	u.head.Resumes = true
	return u
}

// TestGoesOn cuts an upload's line after its first chunk. The next one goes on behind it, and the log says how much came twice:
// what the sender had put on the line and the cut had taken.
func TestGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.Uploads = 4 * wideLen })
		run := c.open(wide)
		u := c.broken(resumable(run))
		u.head.Sent = codec.MaxChunk + 1000
		s, at := c.offered(u)
		if at != codec.MaxChunk {
			t.Fatalf("the upload goes on at %d, want behind its first chunk, at %d", at, codec.MaxChunk)
		}
		c.books["council"].await(t, "upload goes on", "run", run, "member", "budapest", "resent", "1000")
		s.next = 1
		s.chunk()
		if state := s.state(); state != pb.OfferReply_STATE_ACCEPTED {
			t.Errorf("second upload: %v, want accepted", state)
		}
		f := only[entry.UpdateAccepted](c.facts())
		if len(f) != 1 || f[0].Resent != 1000 || f[0].Bytes != 4*wideLen {
			t.Errorf("the log has %+v, want one update of %d bytes, 1000 of them sent twice", f, 4*wideLen)
		}
		c.accepted(c.cleveland, sound(run, large()...)) // in the memory that was given back
		c.books["council"].await(t, "round closed", "run", run)
	})
}

// TestGoesOnOverALiveLine has a member offer again while its first upload stands still over another line, which it has given up:
// that line is cut, and what came over it is here.
func TestGoesOnOverALiveLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.Uploads = 4 * wideLen })
		u := resumable(c.open(wide))
		first, _ := c.begin(c.budapest, u)
		first.chunk()
		synctest.Wait()
		began := time.Now()
		if _, at := c.offered(u); at != codec.MaxChunk || time.Since(began) > time.Second {
			t.Errorf("the upload goes on at %d after %v, want at %d at once", at, time.Since(began), codec.MaxChunk)
		}
		if state := first.state(); state != pb.OfferReply_STATE_UNSPECIFIED {
			t.Errorf("the first upload: %v, want a broken stream", state)
		}
	})
}

// TestBeginsAnew has uploads begin anew where what came before cannot be gone on with. Its memory is given back.
func TestBeginsAnew(t *testing.T) {
	other := large()
	other[3]++
	tests := []struct {
		name   string
		before func(*upload)         // the first
		then   func(*court, *upload) // between the first and the second
		second func(*upload)
	}{
		{name: "another update", second: func(u *upload) { u.fill(other) }},
		{name: "another salt", second: func(u *upload) { u.head.Salt[0] ^= 1 }},
		{name: "sender cannot go on", second: func(u *upload) { u.head.Resumes = false }},
		{name: "first sender could not", before: func(u *upload) { u.head.Resumes = false }},
		{name: "too late", then: func(*court, *upload) { time.Sleep(5 * time.Minute); synctest.Wait() }},
		{name: "others need the memory", then: func(c *court, u *upload) { c.accepted(c.cleveland, sound(u.head.Run, large()...)) }},
		{name: "bytes that prove wrong", before: func(u *upload) { u.chunks[0].Data[0] ^= 1 }, then: func(c *court, u *upload) {
			s, at := c.offered(u)
			if at != codec.MaxChunk {
				c.t.Errorf("the upload goes on at %d, want at %d", at, codec.MaxChunk)
			}
			s.next = 1
			s.chunk()
			if reply, err := s.stream.Recv(); err != nil || reply.Reason != "digest" {
				c.t.Errorf("an update with other bytes: %v, %v, want refused for digest", reply, err)
			}
		}},
	}
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.Uploads, o.Limits.Resume = 4*wideLen, 5*time.Minute })
		for _, test := range tests {
			run := c.open(wide)
			u := resumable(run)
			if test.before != nil {
				test.before(u)
			}
			c.broken(u)
			if test.then != nil {
				test.then(c, u)
			}
			u = resumable(run)
			if test.second != nil {
				test.second(u)
			}
			s, at := c.offered(u)
			if at != 0 {
				t.Errorf("%s: the upload goes on at %d, want at 0", test.name, at)
			}
			for range u.chunks {
				s.chunk()
			}
			want := pb.OfferReply_STATE_ACCEPTED
			if test.name == "another salt" {
				want = pb.OfferReply_STATE_REFUSED
			}
			if state := s.state(); state != want {
				t.Errorf("%s: the second upload: %v, want %v", test.name, state, want)
			}
		}
	})
}

// TestShelfEndsWithItsTry gives the memory of what came of an update back when its try has ended, long before its time.
func TestShelfEndsWithItsTry(t *testing.T) {
	h := coordinator.NewHold(100, time.Hour, 1)
	for _, try := range []int{1, 2} {
		if !h.Shelve("run", 1, try, 40) {
			t.Fatalf("what came for try %d is not shelved", try)
		}
	}
	if free := h.Free(); free != 20 {
		t.Fatalf("%d bytes are free beside two shelved updates, want 20", free)
	}
	h.Drop("run", 1, 1)
	if free := h.Free(); free != 60 {
		t.Errorf("%d bytes are free after the end of the first try, want 60", free)
	}
	h.ShelveLate("run", 1, 3, 40)
	if free := h.Free(); free != 60 {
		t.Errorf("%d bytes are free after an upload was cut whose try had ended before, want 60", free)
	}
	h.Close()
	if free := h.Free(); free != 100 {
		t.Errorf("%d bytes are free after the end, want 100", free)
	}
	if h.Shelve("run", 1, 3, 40) {
		t.Error("something was shelved after the end")
	}
}

// TestNothingIsShelvedInMemoryThatOthersWaitFor cuts an upload while another waits in line: it gets the memory at once.
func TestNothingIsShelvedInMemoryThatOthersWaitFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.Uploads = 4 * wideLen })
		run := c.open(wide)
		p := c.connect(attest.Participant, "budapest")
		first, _ := c.begin(p, resumable(run))
		first.chunk()
		second, state := c.begin(c.cleveland, resumable(run))
		if state != pb.OfferReply_STATE_WAIT {
			t.Fatalf("second upload: %v, want wait", state)
		}
		synctest.Wait()
		began := time.Now()
		if err := p.conn.Close(); err != nil {
			t.Fatal(err)
		}
		if state := second.state(); state != pb.OfferReply_STATE_SEND || time.Since(began) > time.Second {
			t.Errorf("second upload, when the first is cut: %v after %v, want send at once", state, time.Since(began))
		}
	})
}

// TestRestartForgets has the coordinator restart in the middle of an upload. What came is gone, since it is never written down:
// the upload begins anew, and what the sender says of the first is in the log.
func TestRestartForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &court{world: newWorld(t)}
		council := c.serve()
		c.budapest, c.cleveland = c.connect(attest.Participant, "budapest"), c.connect(attest.Participant, "cleveland")
		run := c.open(wide)
		u := c.broken(resumable(run))
		council.stop()
		c.serve()
		c.books["council"].awaitMany(t, 2, "serving")
		u.head.Sent = codec.MaxChunk
		s, at := c.offered(u)
		if at != 0 {
			t.Errorf("the upload goes on at %d, want at 0", at)
		}
		for range u.chunks {
			s.chunk()
		}
		if state := s.state(); state != pb.OfferReply_STATE_ACCEPTED {
			t.Errorf("the upload: %v, want accepted", state)
		}
		if f := only[entry.UpdateAccepted](c.facts()); len(f) != 1 || f[0].Resent != codec.MaxChunk {
			t.Errorf("the log has %+v, want one update with a chunk that was sent twice", f)
		}
	})
}

// TestNonsenseOfBytesSent refuses a header that says impossible things of what was sent before.
func TestNonsenseOfBytesSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open()
		for _, sent := range []int64{-1, math.MinInt64, 1<<50 + 1, math.MaxInt64} {
			u := sound(run)
			u.head.Sent = sent
			if reply, err := c.budapest.send(t.Context(), u); err == nil {
				t.Errorf("%d bytes sent before: %v, want an error", sent, reply)
			}
		}
	})
}
