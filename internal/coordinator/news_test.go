package coordinator_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// wordy gives a plan a schema of more than 200 KiB, near the most that a plan may have.
func wordy(p *entry.Plan) {
	var levels []string
	for i := range 3200 {
		levels = append(levels, fmt.Sprintf(`"%d.%060d"`, i, 0)) // few features, many bytes
	}
	p.Schema = fmt.Appendf(nil, `{"columns": [{"name": "gene", "use": "category", "levels": [%s]}, {"name": "ill", "use": "label", "above": 0}]}`,
		strings.Join(levels, ","))
}

// TestManyPlans wants more of a member than one message can say. It hears of the oldest runs first, and of the others when those
// are answered; nothing breaks, and nothing is forgotten.
func TestManyPlans(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		const runs = 20
		lead, total := c.person("ada"), 0
		for i := range runs {
			text := asJSON(t, plan(t, bare, wordy, func(p *entry.Plan) { p.Name = fmt.Sprint("run ", i) }))
			total += len(text)
			if _, err := lead.Start(t.Context(), &pb.StartRequest{Request: fmt.Sprint(i), Plan: text}); err != nil {
				t.Fatal(err)
			}
		}
		if total < 4<<20 {
			t.Fatalf("the plans have %d bytes in all, which one message could hold", total)
		}
		follow, err := c.budapest.Follow(t.Context(), &pb.FollowRequest{})
		if err != nil {
			t.Fatal(err)
		}
		next := 0
		for next < runs {
			w, err := follow.Recv()
			if err != nil {
				t.Fatalf("after %d of %d invitations: %v", next, runs, err)
			}
			if n := proto.Size(w); n > 4<<20 {
				t.Errorf("a message of %d bytes, at most 4 MiB are allowed", n)
			}
			if len(w.Invitations) == 0 {
				continue
			}
			var p entry.Plan
			if err := json.Unmarshal(w.Invitations[0].Plan, &p); err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint("run ", next); p.Name == want { // else it is news from before the last answer
				if _, err := c.budapest.Consent(t.Context(), &pb.ConsentRequest{Run: w.Invitations[0].Run, Declined: "no"}); err != nil {
					t.Fatal(err)
				}
				next++
			}
		}
	})
}
