package coordinator_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/dialect"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
)

// TestVersions has members whose programs are a version behind and ahead of the coordinator's take part in a run, and one that is
// two ahead named on both sides and left out.
func TestVersions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = dialect.Version
		w := newWorld(t)
		w.serve(func(o *coordinator.Options) { o.Speech = dialect.Speech{Protocol: n, Program: "ours"} })
		for name, version := range map[string]uint64{"budapest": n - 1, "cleveland": n, "longbeach": n + 1, "switzerland": n + 2} {
			w.join(name, func(o *participant.Options) { o.Speech = dialect.Speech{Protocol: version, Program: "of " + name} })
		}
		v := w.completed(w.start(plan(t, adam, func(p *entry.Plan) { p.Quorum = 3 })))
		if got := v.Rounds[len(v.Rounds)-1].Accepted; len(got) != 3 || strings.Contains(fmt.Sprint(got), "switzerland") {
			t.Errorf("the last round was closed with %v, want all but switzerland", got)
		}
		for book, said := range map[string]string{
			w.books["council"].await(t, "a peer's version is too far from ours", "name", "switzerland")["error"].(string): "upgrade this program",
			w.books["switzerland"].await(t, "no coordinator")["reason"].(string):                                          "upgrade the coordinator",
		} {
			for _, want := range []string{said, fmt.Sprintf("protocol %d (version ours)", n), fmt.Sprintf("protocol %d (version of switzerland)", n+2)} {
				if !strings.Contains(book, want) {
					t.Errorf("said %q, want %q in it", book, want)
				}
			}
		}
		if tries := len(w.books["switzerland"].find("no coordinator")); tries > 3 {
			t.Errorf("switzerland dialled %d times during the run, want it to wait: only people can change this", tries)
		}
	})
}
