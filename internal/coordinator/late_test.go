package coordinator_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"consilium.dev/internal/codec"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// asynchronous makes a plan whose rounds two of three members close.
func asynchronous(p *entry.Plan) {
	p.Strategy = entry.Strategy{Name: "fedbuff", Params: map[string]any{"buffer_size": 2.0, "max_staleness": 2.0}}
	p.Members, p.Quorum, p.Rounds = []entry.Member{"budapest", "cleveland", "longbeach"}, 2, 5
}

// openToAll starts a run under an asynchronous plan in which all three take part.
func (c *court) openToAll(change ...func(*entry.Plan)) string {
	c.t.Helper()
	run := c.start(plan(c.t, append([]func(*entry.Plan){bare, asynchronous}, change...)...))
	for _, p := range []*peer{c.budapest, c.cleveland, c.longbeach} {
		if _, err := p.Consent(c.t.Context(), &pb.ConsentRequest{Run: run, Records: records}); err != nil {
			c.t.Fatal(err)
		}
	}
	c.books["council"].await(c.t, "round opened", "run", run, "selected", "3")
	return run
}

// of says of which round's base an upload is that is asked for in another.
func (u *upload) of(asked, base int32, model entry.Digest) *upload {
	u.head.Round, u.head.Base, u.head.Model = asked, base, model[:]
	return u
}

// bases returns the base models of a run's training rounds, that of round 1 first.
func (c *court) bases() []entry.Digest {
	all := []entry.Digest{only[entry.RunCreated](c.facts())[0].Model}
	for _, f := range only[entry.RoundClosed](c.facts()) {
		all = append(all, f.Model)
	}
	return all
}

// TestLate: a round closes with as many updates as its buffer takes. What a slower member sends meanwhile goes on, chunk after chunk, and counts
// in the round that is open when it is whole, the less the later it comes. The same work does not count twice.
func TestLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.openToAll(wide)
		first := c.bases()[0]
		ones, halves := make([]float32, wideLen), make([]float32, wideLen)
		for i := range ones {
			ones[i], halves[i] = 1, 0.5
		}
		slow := sound(run, ones...).of(1, 1, first)
		s, state := c.begin(c.longbeach, slow)
		if state != pb.OfferReply_STATE_SEND {
			t.Fatalf("the slow upload: %v, want send", state)
		}
		s.chunk()
		for _, p := range []*peer{c.budapest, c.cleveland} {
			c.accepted(p, sound(run, halves...).of(1, 1, first))
		}
		c.books["council"].await(t, "round opened", "run", run, "round", "2")
		s.chunk()
		if state := s.state(); state != pb.OfferReply_STATE_ACCEPTED {
			t.Fatalf("the slow upload, when its round is closed: %v, want accepted", state)
		}
		if reply, err := c.longbeach.Query(t.Context(), &pb.QueryRequest{Run: run, Round: 1, Try: 1, Update: slow.head.Update, Base: 1, Model: first[:]}); err != nil || reply.State != pb.QueryReply_STATE_HELD {
			t.Errorf("asked about afterwards: %v, %v, want held", reply, err)
		}
		second := c.bases()[1]
		c.accepted(c.budapest, sound(run, halves...).of(2, 2, second))
		c.books["council"].await(t, "round closed", "run", run, "round", "2")
		closed := only[entry.RoundClosed](c.facts())[1]
		if m := closed.Members; closed.Early != entry.ReportGoal || len(m) != 2 || m[0].Staleness != 0 || m[1].Member != "longbeach" || m[1].Staleness != 1 || m[1].Weight != records {
			t.Errorf("round 2 is closed with %+v", closed)
		}
		model := c.model(closed.Model)
		for _, i := range []int{0, wideLen - 1} {
			if want := 0.5 + (0.5+math.Sqrt(0.5))/2; math.Abs(float64(model.Params[i])-want) > 1e-6 {
				t.Errorf("value %d of the second model is %v, want %v", i, model.Params[i], want)
			}
		}

		third := closed.Model
		for _, x := range []struct {
			what   string
			who    *peer
			u      *upload
			reason string
		}{
			{"the same again", c.longbeach, sound(run, ones...).of(1, 1, first), "used"},
			{"other work of the same base", c.longbeach, sound(run, halves...).of(3, 1, first), "used"},
			{"work of a model of another round", c.cleveland, sound(run, ones...).of(3, 2, first), "model"},
			{"work of the future", c.cleveland, sound(run, ones...).of(3, 4, third), "from_the_future"},
			{"work for a round that has gone, of which nobody says that it is late", c.cleveland, sound(run, ones...), "closed"},
		} {
			if reply, err := x.who.send(t.Context(), x.u); err != nil || reply.Reason != x.reason {
				t.Errorf("%s: %v, %v, want refused for %s", x.what, reply, err, x.reason)
			}
		}
		c.checkRefusals(run, "what is a lie", "from_the_future")
		if v := c.shown(run).Rounds; len(v[0].Staleness) != 0 || !slices.Equal(v[1].Accepted, []string{"longbeach", "budapest"}) || !slices.Equal(v[1].Staleness, []int32{1, 0}) {
			t.Errorf("the lead is shown staleness %v, and %v of %v", v[0].Staleness, v[1].Staleness, v[1].Accepted)
		}
		m, err := c.person("ada").ShowModel(t.Context(), &pb.ShowModelRequest{Model: entry.Digest(c.shown(run).Rounds[1].Model).String()})
		if err != nil {
			t.Fatal(err)
		}
		if m := m.Model; !slices.Equal(m.Members, []string{"budapest", "longbeach"}) || !slices.Equal(m.Staleness, []int32{0, 1}) ||
			m.Masked || !strings.Contains(string(m.Params), `"buffer_size":2`) {
			t.Errorf("the lead is shown a model with staleness %v of %v, masked %v, with %s", m.Staleness, m.Members, m.Masked, m.Params)
		}
		for _, number := range []int32{3, 4} {
			for _, p := range []*peer{c.budapest, c.longbeach} {
				c.accepted(p, sound(run, halves...).of(number, number, c.bases()[number-1]))
			}
			c.books["council"].await(t, "round closed", "run", run, "round", fmt.Sprint(number))
		}
		if reply, err := c.cleveland.send(t.Context(), sound(run, ones...).of(2, 2, second)); err != nil || reply.Reason != "too_stale" {
			t.Errorf("work that is three rounds late: %v, %v, want too_stale", reply, err)
		}
	})
}

// TestLateGoesOn: an upload whose line breaks goes on behind what is here though its round was closed meanwhile, and its memory is given back when the
// run ends.
func TestLateGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.openToAll(wide)
		first := c.bases()[0]
		u := c.broken(resumable(run).of(1, 1, first))
		for _, p := range []*peer{c.longbeach, c.cleveland} {
			c.accepted(p, sound(run, large()...).of(1, 1, first))
		}
		c.books["council"].await(t, "round opened", "run", run, "round", "2")
		u.head.Round = 2
		s, at := c.offered(u)
		if at != codec.MaxChunk {
			t.Errorf("the upload goes on at %d, want at %d", at, codec.MaxChunk)
		}
		if _, err := c.person("ada").Cancel(t.Context(), &pb.CancelRequest{Run: run}); err != nil {
			t.Fatal(err)
		}
		cancelled := time.Now()
		if state, took := s.state(), time.Since(cancelled); state != pb.OfferReply_STATE_UNSPECIFIED || took > 10*time.Second {
			t.Errorf("the upload of a run that was cancelled: %v after %v, want it cut at once", state, took)
		}
	})
}

// TestSynchronous: where rounds are synchronous an update of another round's base is not taken, and nothing goes on for the next.
func TestSynchronous(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		run := c.open(func(p *entry.Plan) { p.Rounds = 2 })
		first := c.bases()[0]
		for _, p := range []*peer{c.budapest, c.cleveland} {
			c.accepted(p, sound(run).of(1, 1, first))
		}
		c.books["council"].await(t, "round opened", "run", run, "round", "2")
		for reason, u := range map[string]*upload{"too_stale": sound(run).of(2, 1, first), "closed": sound(run).of(1, 1, first)} {
			if reply, err := c.budapest.send(t.Context(), u); err != nil || reply.Reason != reason {
				t.Errorf("%v, %v, want refused for %s", reply, err, reason)
			}
		}
	})
}

// slowDisk is a disk that takes no update until its gate is open: as if the member trained for so long.
type slowDisk struct {
	*disk
	gate <-chan struct{}
}

func (d *slowDisk) Put(ctx context.Context, name func() string, r io.Reader) error {
	return d.disk.Put(ctx, func() string {
		n := name()
		if strings.HasPrefix(n, "kept/") {
			<-d.gate
		}
		return n
	}, r)
}

// TestAsynchronous follows the models of a run under FedBuff by its formula, in this test's own words. One member trains while others close round
// after round, and the coordinator begins again meanwhile; what it has made counts then, by how late it comes.
func TestAsynchronous(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		council := w.serve()
		p := plan(t, bare, asynchronous, func(p *entry.Plan) {
			p.Rounds, p.Tries, p.Local.LearningRate = 40, 3, 1e-6
			p.Strategy.Params["normalize"], p.Strategy.Params["max_staleness"] = "sum_of_weights", 40.0
		})
		gate := make(chan struct{})
		w.join("budapest")
		second := w.join("cleveland")
		w.join("longbeach", func(o *participant.Options) { o.Objects = &slowDisk{w.disks["longbeach"], gate} })
		run := w.start(p)
		w.books["council"].await(t, "round closed", "run", run, "round", "2")
		second.stop()
		council.stop()
		w.serve()
		close(gate)
		w.books["longbeach"].await(t, "update accepted")
		w.join("cleveland")
		w.completed(run)

		x := []*model.Model{w.model(only[entry.RunCreated](w.facts())[0].Model)}
		late := -1
		for i, f := range only[entry.RoundClosed](w.facts()) {
			round := i + 1
			sum, by := make([]float64, len(x[i].Params)), 0.
			for _, m := range f.Members {
				base := round - m.Staleness
				u, err := trainer.Train(t.Context(), p, x[base-1], trainingSet(t, p.Schema, string(m.Member)), base, string(m.Member), nil)
				if err != nil {
					t.Fatal(err)
				}
				weight := 1 / math.Sqrt(float64(1+m.Staleness))
				for j := range u {
					sum[j] += weight * float64(u[j])
				}
				by += weight
				if m.Member == "longbeach" && late < 0 {
					late = m.Staleness
				}
			}
			got := w.model(f.Model)
			for j := range sum {
				want := float64(x[i].Params[j]) + sum[j]/by
				if math.Abs(float64(got.Params[j])-want) > 1e-6*math.Max(1, math.Abs(want)) {
					t.Errorf("round %d, value %d is off by %g", round, j, float64(got.Params[j])-want)
				}
			}
			x = append(x, got)
		}
		if late < 1 || len(x) != 41 {
			t.Errorf("%d rounds; the slow member's first update came %d rounds late, want 40, and 1 or more", len(x)-1, late)
		}
		for name, err := range w.disks["longbeach"].List(t.Context(), "kept/") {
			t.Errorf("longbeach still keeps %s: %v", name, err)
		}
		if r := w.verify(w.export()); !r.Good() || r.Rounds != 40 {
			t.Errorf("an audit of %d rounds finds %v", r.Rounds, r.Findings)
		}
	})
}

// TestLateWhileCombining: an update that is whole when a full buffer is being emptied is told that the round is closed; it is here when it is offered for
// the next one, and no byte of it is sent again.
func TestLateWhileCombining(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := &gated{}
		c := newCourt(t, func(o *coordinator.Options) {
			g.Objects = o.Objects
			o.Objects = g
		})
		run := c.openToAll()
		first := c.bases()[0]
		g.mu.Lock()
		g.shut = make(chan struct{})
		g.mu.Unlock()
		for _, p := range []*peer{c.budapest, c.cleveland} {
			c.accepted(p, sound(run).of(1, 1, first))
		}
		synctest.Wait()
		u := sound(run).of(1, 1, first)
		u.head.Resumes = true
		if reply, err := c.longbeach.send(t.Context(), u); err != nil || reply.Reason != "closed" || !u.asked {
			t.Errorf("an update while the buffer is emptied: %v, %v, want closed when it is here", reply, err)
		}
		g.mu.Lock()
		close(g.shut)
		g.shut = nil
		g.mu.Unlock()
		c.books["council"].await(t, "round opened", "run", run, "round", "2")
		u.head.Round, u.head.Sent, u.chunks = 2, bareSize, nil
		c.accepted(c.longbeach, u)
		f := only[entry.UpdateAccepted](c.facts())
		if last := f[len(f)-1]; last.Member != "longbeach" || last.Staleness != 1 || last.Resent != 0 || last.Bytes != bareSize {
			t.Errorf("the log has %+v, want it once, and one round late", last)
		}
	})
}
