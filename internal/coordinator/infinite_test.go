package coordinator_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
)

// TestInfinite: a run whose model becomes infinite fails with its tries, and neither ends the coordinator nor another run; an audit finds nothing
// wrong with that.
func TestInfinite(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &court{world: newWorld(t, "max_abs: 1048576", "max_abs: 1.0e38")}
		c.serve()
		c.budapest, c.cleveland = c.connect(attest.Participant, "budapest"), c.connect(attest.Participant, "cleveland")
		run := c.open(func(p *entry.Plan) {
			p.MaxAbs, p.Strategy.Params = 1e38, map[string]any{"learning_rate": 100.0}
		})
		c.accepted(c.budapest, sound(run, with(9e37)...))
		c.accepted(c.cleveland, sound(run, with(9e37)...))
		if v := c.finish(run); v.Summary.State != "failed" || !strings.Contains(v.Reason, "its model would be none") || !strings.Contains(v.Reason, "is not finite") {
			t.Errorf("the run is %s: %s", v.Summary.State, v.Reason)
		}
		if strings.Contains(c.finish(run).Reason, "e+37") {
			t.Error("the reason tells a value")
		}
		other := c.open()
		c.accepted(c.budapest, sound(other))
		c.accepted(c.cleveland, sound(other))
		c.books["council"].await(t, "round closed", "run", other)
		if r := c.verify(c.export()); len(r.Findings) != 0 {
			t.Errorf("an audit finds %v", r.Findings)
		}
	})
}
