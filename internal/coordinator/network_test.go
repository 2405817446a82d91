package coordinator_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
)

const genes = 200_000 // of records whose model has 800 KB

// genome is a plan for such records. Two members close its rounds.
func genome(p *entry.Plan) {
	bare(p)
	p.Rounds, p.Local.LearningRate = 2, 1e-7 // so small that the second round's updates are not all zero
	p.Schema = fmt.Appendf(nil, `{"columns": [{"name": "gene", "use": "number", "count": %d}, {"name": "ill", "use": "label", "above": 0}]}`, genes)
}

// genomes makes a member's two records, whose numbers differ enough for updates not to compress away.
func genomes(t *testing.T, seed uint32) participant.Data {
	t.Helper()
	folder := t.TempDir()
	d := participant.Data{Records: filepath.Join(folder, "records"), Split: filepath.Join(folder, "split")}
	var b strings.Builder
	for row := range 2 {
		for range genes {
			seed = seed*1664525 + 1013904223
			fmt.Fprintf(&b, "0.%d,", seed>>12)
		}
		fmt.Fprintf(&b, "%d\n", row)
	}
	for path, text := range map[string]string{d.Records: b.String(), d.Split: "line,set\n1,train\n2,train\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// TestBrokenLinks runs a federation of a coordinator and two participants, over real channels, whose models have 800 KB: one over a
// line that is cut in uploads and downloads and stalls without being closed, the other over one of 4 Mbit/s and 100 ms. The model
// is that of the same plan over lines without fault, to the bit, and each fault costs less than 1 MiB of bytes that go twice.
func TestBrokenLinks(t *testing.T) {
	t.Parallel()
	data := map[string]participant.Data{"budapest": genomes(t, 1), "cleveland": genomes(t, 2)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve()
		broken := (&wire{dial: w.line.dial, faults: []fault{
			{upAfter: 500_000},                // in the first round's update
			{downAfter: 500_000, stall: true}, // in the second round's base, which is heard of no more
			{upAfter: 500_000, stall: true},   // in its update
		}}).laid(t)
		slow := (&wire{dial: w.line.dial, rate: 500_000, delay: 50 * time.Millisecond}).laid(t)
		for name, line := range map[string]*wire{"budapest": broken, "cleveland": slow} {
			w.join(name, func(o *participant.Options) {
				o.Dial, o.Data, o.Policy.LeastRecords = line.through, data[name], 2
			})
		}
		first := w.completed(w.start(plan(t, genome)))
		up, down, met := broken.carried()
		second := w.completed(w.start(plan(t, genome, func(p *entry.Plan) { p.Name += " again" })))
		upClean, downClean, _ := broken.carried()
		if met != 3 {
			t.Fatalf("%d faults have happened, want 3: %d and %d bytes, without faults %d and %d", met, up, down, upClean, downClean)
		}
		if final(first) != final(second) {
			t.Error("the model differs from that over lines without fault")
		}
		twice := up + down - upClean - downClean
		t.Logf("%d bytes up and %d down with 3 faults, %d and %d without: %d a fault", up, down, upClean, downClean, twice/3)
		if twice > 1_000_000 { // beginning anew would take the 1.5 MB that the lines had carried
			t.Errorf("%d bytes more than without faults, want less than a chunk a fault", twice)
		}
		if lines := w.books["council"].find("upload goes on", "offset", "0"); len(lines) != 0 {
			t.Errorf("uploads began anew: %v", lines)
		}
		if uploads, downloads := w.books["council"].find("upload goes on"), w.books["budapest"].find("download goes on"); len(uploads) != 2 || len(downloads) != 1 {
			t.Errorf("went on: uploads %v, downloads %v, want two and one", uploads, downloads)
		}
		if n := member(first, "budapest").Resent; n <= 0 || n > 1<<20 {
			t.Errorf("budapest was sent %d bytes of models twice in one fault, want more than 0 and less than 1 MiB", n)
		}
		if n := member(first, "cleveland").Resent; n != 0 {
			t.Errorf("cleveland was sent %d bytes of models twice, over a line without fault", n)
		}
		var resent int64
		for _, r := range first.Rounds {
			resent += r.Resent
		}
		if resent <= 0 || resent > 2<<20 {
			t.Errorf("the log says that %d bytes of updates were sent twice in two faults, want 1 to 2 MiB", resent)
		}
	})
}

// TestTransferOutlivesItsConnection has an update go up so slowly that it takes longer than every timeout that there is, and than a
// connection may live. Nothing ends it but its connection's end, and then it goes on where it was: several times.
func TestTransferOutlivesItsConnection(t *testing.T) {
	t.Parallel()
	data := map[string]participant.Data{"budapest": genomes(t, 1), "cleveland": genomes(t, 2)}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.serve(func(o *coordinator.Options) { o.Limits.Age = time.Minute })
		slow := (&wire{dial: w.line.dial, rate: 4000}).laid(t) // more than 128 KiB a minute, which is standing still
		for name, dial := range map[string]func(context.Context, string) (net.Conn, error){"budapest": slow.through, "cleveland": w.line.dial} {
			w.join(name, func(o *participant.Options) { o.Dial, o.Data, o.Policy.LeastRecords = dial, data[name], 2 })
		}
		began := time.Now()
		v := w.completed(w.start(plan(t, genome, func(p *entry.Plan) {
			p.Rounds = 1
			if err := p.Deadline.UnmarshalText([]byte("2h")); err != nil {
				t.Error(err)
			}
		})))
		took := time.Since(began)
		if took < 2*time.Minute {
			t.Fatalf("the run took %v: the update was not slow", took)
		}
		all := w.books["council"].find("upload goes on", "member", "budapest")
		if anew := w.books["council"].find("upload goes on", "member", "budapest", "offset", "0"); len(all) < 2 || len(anew) != 0 {
			t.Errorf("the upload goes on: %v, want it twice or more, behind what had come", all)
		}
		before := 0. // the model comes once, and its figures are not worked out again when a connection ends on their way back
		for _, line := range w.books["council"].find("download goes on", "name", "budapest") {
			if at := line["offset"].(float64); at < before {
				t.Errorf("the model's download goes on at %v and then at %v: it was begun anew", before, at)
			} else {
				before = at
			}
		}
		if n := v.Rounds[0].Resent; n <= 0 || n > int64(len(all))<<20 {
			t.Errorf("%d bytes were sent twice, want less than 1 MiB for each of %d connections that ended", n, len(all))
		}
		t.Logf("the run took %v over %d connections, and %d bytes were sent twice", took, 1+len(all), v.Rounds[0].Resent)
	})
}
