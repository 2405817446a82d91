package coordinator_test

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/mask"
	pb "consilium.dev/proto/consilium/v1"
)

// TestWantedFitsAMessage: what is wanted of a member of a large federation, in all runs that it may have open, fits into a message with its plans
// and with what the others say of their masks: a longer one would end its session, and the next one again.
func TestWantedFitsAMessage(t *testing.T) {
	const most = 4 << 20 // of gRPC
	w, room := &pb.Wanted{}, coordinator.NewRoom()
	for run := range 64 {
		q := &pb.MaskAsked{Run: fmt.Sprintf("%016x", run), Round: 1, Try: 1, Stage: pb.MaskAsked_STAGE_SHARE, Lead: "ada", Plan: make([]byte, 2000)}
		for i := range mask.MaxMembers {
			q.Keys = append(q.Keys, &pb.MaskKeys{Member: fmt.Sprintf("member %d", i), Keys: make([]byte, mask.PublicSize), Signature: make([]byte, 64)})
		}
		if room.Fits("member 1", q) {
			w.Masks = append(w.Masks, q)
		}
	}
	if n := proto.Size(w); n > most*7/8 || n < most/2 {
		t.Errorf("%d tasks have %d bytes, want less than a message may have, %d, with room for how runs went", len(w.Masks), n, most)
	}
	if room.Fits("member 1", w.Masks[0]) || !room.Fits("member 2", w.Masks[0]) {
		t.Error("a task has room that has none, or the room of another member")
	}
}
