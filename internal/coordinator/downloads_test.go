package coordinator_test

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"io"
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

// TestFetchOnBase: who has a model that it may fetch gets another one of the same size as its difference to it; who names anything
// else gets the whole.
func TestFetchOnBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open(wide)
		c.accepted(c.budapest, sound(run, large()...))
		c.accepted(c.cleveland, sound(run, large()...))
		c.books["council"].await(t, "round closed", "run", run)
		first, second := only[entry.RunCreated](c.facts())[0].Model, only[entry.RoundClosed](c.facts())[0].Model
		other := c.open() // its model has another size
		small := only[entry.RunCreated](c.facts())[1].Model
		c.accepted(c.budapest, sound(other))
		fetch := func(base []byte, at int64) (text []byte, onBase bool) {
			stream, err := c.budapest.Fetch(t.Context(), &pb.FetchRequest{Model: second[:], Base: base, Offset: at, Schemes: uint32(codec.All)})
			if err != nil {
				t.Fatal(err)
			}
			for {
				q, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return text, onBase
				}
				if err != nil {
					t.Fatal(err)
				}
				onBase = q.OnBase
				if text, err = codec.Decode(text, codec.Scheme(q.Scheme), q.Data, int(q.Size)); err != nil {
					t.Fatal(err)
				}
			}
		}
		was, _ := c.budapest.download(t.Context(), first)
		is, _ := fetch(nil, 0)
		for _, at := range []int64{0, codec.Piece + 3} {
			text, onBase := fetch(first[:], at)
			subtle.XORBytes(text, text, was[at:])
			if !onBase || !bytes.Equal(text, is[at:]) {
				t.Errorf("from %d: %d bytes, a difference: %v, want the difference of %d", at, len(text), onBase, len(is)-int(at))
			}
		}
		unknown := entry.Digest{1}
		for name, base := range map[string][]byte{"itself": second[:], "unknown": unknown[:], "no digest": {1}, "another size": small[:]} {
			if text, onBase := fetch(base, 0); onBase || !bytes.Equal(text, is) {
				t.Errorf("%s: %d bytes, a difference: %v, want the whole", name, len(text), onBase)
			}
		}
	})
}
