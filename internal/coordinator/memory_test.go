package coordinator_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// TestMemoryOfRuns: a run for which there is no room is refused before it starts and before anything is stored, with the figures; one
// that fits is told; when a run has ended its room is free; the same request again is answered, whatever there is.
func TestMemoryOfRuns(t *testing.T) {
	const mib = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		one := int64(8*bareLen + 2*8 + 64) // the sum, the weights of two members, and what a range takes
		c := newCourt(t, func(o *coordinator.Options) {
			o.Limits.Uploads, o.Limits.Memory = 1*mib, 129*mib+2*one-1
		})
		lead := c.person("ada")
		var said int64
		start := func(name string, change ...func(*entry.Plan)) (string, error) {
			p := plan(t, append([]func(*entry.Plan){bare, func(p *entry.Plan) { p.Name = name }}, change...)...)
			r, err := lead.Start(t.Context(), &pb.StartRequest{Request: name, Plan: asJSON(t, p)})
			said = r.GetMemory()
			return r.GetRun(), err
		}
		first, err := start("first")
		if err != nil {
			t.Fatal(err)
		}
		line := c.books["council"].await(t, "memory suffices for a run", "name", "first")
		if line["sums"] != float64(one) || line["needed"] != float64(129*mib+one) || line["memory"] != float64(129*mib+2*one-1) {
			t.Errorf("what the first run will need: %v", line)
		}
		if said != 129*mib+one {
			t.Errorf("its lead is told %d bytes, want %d", said, 129*mib+one)
		}
		before := c.blobs()
		if _, err := start("second"); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "memory: the run needs 192 bytes for its sums, beside 192 for those of open runs, 1048576 for uploads and 134217728 for all else; the coordinator has 135266687") {
			t.Errorf("a run too many: %v, want FailedPrecondition with the figures", err)
		}
		if after := c.blobs(); after != before {
			t.Errorf("%d blobs were stored for a run that was refused", after-before)
		}
		if again, err := start("first"); err != nil || again != first {
			t.Errorf("the same request again: %s, %v, want %s", again, err, first)
		}
		if _, err := lead.Cancel(t.Context(), &pb.CancelRequest{Run: first}); err != nil {
			t.Fatal(err)
		}
		if _, err := start("third"); err != nil {
			t.Errorf("a run when the first has ended: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.Uploads = 4*wideLen - 4 })
		text := asJSON(t, plan(t, bare, wide))
		_, err := c.person("ada").Start(t.Context(), &pb.StartRequest{Request: "wide", Plan: text})
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "memory: an update of this plan has") {
			t.Errorf("a run whose updates are larger than all uploads may be: %v, want FailedPrecondition", err)
		}
	}) // What members say of their masks takes room too: of a hundred in 64 runs at once it is more than all else.
	synctest.Test(t, func(t *testing.T) {
		const masks = 9 << 10
		one := int64(8*bareLen + 3*8 + 64)
		for _, lack := range []int64{0, 1} {
			c := newCourt(t, func(o *coordinator.Options) { o.Limits.Uploads, o.Limits.Memory = 1*mib, 129*mib+one+masks-lack })
			text := asJSON(t, plan(t, bare, threefold))
			if _, err := c.person("ada").Start(t.Context(), &pb.StartRequest{Request: "masked", Plan: text}); (status.Code(err) == codes.FailedPrecondition) != (lack > 0) {
				t.Errorf("a masked run where %d bytes are missing: %v", lack, err)
			}
		}
	})
}
