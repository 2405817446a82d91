package coordinator_test

import (
	"slices"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// member returns the view of a run's member.
func member(v *pb.ShowReply, name string) *pb.MemberView {
	i := slices.IndexFunc(v.Members, func(m *pb.MemberView) bool { return m.Member == name })
	if i < 0 {
		return &pb.MemberView{}
	}
	return v.Members[i]
}

// TestDownloadsAreCounted cuts a download after its first chunk, and counts what the next one sends again: what had been given to the
// line and was lost, which is less than the call's window of 512 KiB and a chunk. One that is not cut, and is made again, counts
// nothing.
func TestDownloadsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open(wide)
		c.accepted(c.budapest, sound(run, large()...))
		c.accepted(c.cleveland, sound(run, large()...))
		c.books["council"].await(t, "round closed", "run", run)
		id := only[entry.RoundClosed](c.facts())[0].Model // which is no smaller on the line
		for range 2 {
			if _, err := c.cleveland.download(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		p := c.connect(attest.Participant, "budapest")
		stream, err := p.Fetch(t.Context(), &pb.FetchRequest{Model: id[:]})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := p.conn.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		const at = codec.Piece // the one chunk that was read
		stream, err = c.budapest.Fetch(t.Context(), &pb.FetchRequest{Model: id[:], Offset: at})
		if err != nil {
			t.Fatal(err)
		}
		if chunk, err := stream.Recv(); err != nil || chunk.Offset != at {
			t.Fatalf("the second download begins with %v, %v, want it at %d", chunk.GetOffset(), err, at)
		}
		c.books["council"].await(t, "download goes on", "office", "participant", "name", "budapest")
		v := c.shown(run)
		if n := member(v, "budapest").Resent; n <= 0 || n > 512<<10+2*codec.Piece {
			t.Errorf("%d bytes were sent to budapest twice, want more than 0 and less than the window and two chunks", n)
		}
		if n := member(v, "cleveland").Resent; n != 0 {
			t.Errorf("%d bytes were sent to cleveland twice, want none: nothing was cut", n)
		}
	})
}
