package coordinator_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// TestRobust has three members send updates of which one is hostile, under strategies that do more than add them up: once undisturbed, and once
// with a coordinator that is killed between two updates of the second round, after which they come again in another order. Both end with the
// model that the strategy's formula makes, and the log says what became of each update.
func TestRobust(t *testing.T) {
	const out, cut, measure = entry.Effect(aggregate.LeftOut), entry.Effect(aggregate.Clipped), entry.Effect(aggregate.Reference)
	for _, c := range []struct {
		strategy entry.Strategy
		want     []entry.Effect // of budapest, cleveland and longbeach, which lies
	}{
		{entry.Strategy{Name: "median"}, []entry.Effect{"", "", ""}},
		{entry.Strategy{Name: "krum", Params: map[string]any{"attackers": 0.0}}, nil}, // the nearest two differ from round to round
		{entry.Strategy{Name: "centered-clipping", Params: map[string]any{"radius": 20.0, "iterations": 2.0}}, []entry.Effect{"", "", cut}},
		{entry.Strategy{Name: "fltrust", Params: map[string]any{"reference": "cleveland"}}, []entry.Effect{"", measure, out}},
		{entry.Strategy{Name: "norm-clipping", Params: map[string]any{"max_norm": 20.0}}, []entry.Effect{"", "", cut}},
		{entry.Strategy{Name: "norm-clipping", Params: map[string]any{"max_norm": 20.0, "scope": "per_tensor"}}, []entry.Effect{"", "", cut}},
	} {
		for _, disturbed := range []bool{false, true} {
			t.Run(fmt.Sprint(c.strategy, " disturbed ", disturbed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { robustRun(t, c.strategy, c.want, disturbed) })
			})
		}
	}
}

// lie is the update of a member in a round.
func lie(member, round int) []float32 {
	values := series(bareLen, 10*round+member)
	for i := range values {
		values[i] = 1 + values[i]/16
		if member == 2 {
			values[i] *= -10
		}
	}
	return values
}

func robustRun(t *testing.T, strategy entry.Strategy, want []entry.Effect, disturbed bool) {
	c := &court{world: newWorld(t)}
	council := c.serve()
	names := []string{"budapest", "cleveland", "longbeach"}
	var peers []*peer
	connect := func() {
		peers = nil
		for _, name := range names {
			peers = append(peers, c.connect(attest.Participant, name))
		}
	}
	connect()
	p := plan(t, bare, func(p *entry.Plan) {
		p.Strategy, p.Rounds, p.Quorum, p.MaxAbs = strategy, 2, 3, 32
		p.Members = append(p.Members, "longbeach")
	})
	run := c.start(p)
	for _, m := range peers {
		if _, err := m.Consent(t.Context(), &pb.ConsentRequest{Run: run, Records: records}); err != nil {
			t.Fatal(err)
		}
	}
	send := func(round int, order ...int) {
		for _, m := range order {
			u := sound(run, lie(m, round)...)
			u.head.Round = int32(round)
			c.accepted(peers[m], u)
		}
	}
	c.books["council"].await(t, "round opened", "run", run)
	send(1, 2, 0, 1)
	c.books["council"].await(t, "round closed", "run", run, "round", "1")
	if disturbed {
		send(2, 0, 2)
		council.stop()
		c.serve()
		connect()
		send(2, 2, 1, 1, 0)
	} else {
		send(2, 1, 0, 2)
	}
	view := c.completed(run)
	if got, want := final(view), robustModel(t, p); got != want {
		t.Errorf("the model is %s, want %s", got, want)
	}
	closed := only[entry.RoundClosed](c.facts())
	effectsShown(c, run, closed)
	for _, f := range closed {
		var got []entry.Effect
		for _, m := range f.Members {
			got = append(got, m.Effect)
		}
		if want != nil && !slices.Equal(got, want) {
			t.Errorf("round %d says of the updates %q, want %q", f.Round, got, want)
		}
	}
	if len(closed) != 2 {
		t.Errorf("%d rounds were closed, want 2", len(closed))
	}
}

// effectsShown finds views of a run and of its model that say something else of the updates than the log, and one that says it to somebody
// who may read no figures.
func effectsShown(c *court, run string, closed []entry.RoundClosed) {
	c.t.Helper()
	for name, may := range map[string]bool{"ada": true, "ben": false} {
		p := c.person(name)
		v, err := p.Show(c.t.Context(), &pb.ShowRequest{Run: run})
		if err != nil {
			c.t.Fatal(err)
		}
		last := closed[len(closed)-1]
		m, err := p.ShowModel(c.t.Context(), &pb.ShowModelRequest{Model: last.Model.String()})
		if err != nil {
			c.t.Fatal(err)
		}
		for i, shown := range [][]*pb.MemberEffect{v.Rounds[0].Effects, v.Rounds[1].Effects, m.Model.Effects} {
			var want []string
			for _, x := range closed[min(i, 1)].Members {
				if x.Effect != "" && may {
					want = append(want, fmt.Sprint(x.Member, " ", x.Effect))
				}
			}
			var got []string
			for _, e := range shown {
				got = append(got, e.Member+" "+e.Effect)
			}
			if !slices.Equal(got, want) {
				c.t.Errorf("%s is shown of the updates of round %d %q, want %q", name, min(i, 1)+1, got, want)
			}
		}
	}
}

// robustModel is what the plan's strategy makes of two rounds of these updates, from zeros.
func robustModel(t *testing.T, p entry.Plan) entry.Digest {
	t.Helper()
	d, err := trainer.Describe(p)
	if err != nil {
		t.Fatal(err)
	}
	s, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params)
	if err != nil {
		t.Fatal(err)
	}
	m := &model.Model{Layout: d.Layout, Params: make([]float32, bareLen)}
	state := make([]float64, s.Optimizer(1).StateLen(bareLen))
	for round := 1; round <= 2; round++ {
		mean := make([]float64, bareLen)
		if s.Clips() {
			sum, err := aggregate.NewSum(aggregate.Spec{Ranges: d.Training, Weights: []int64{records, records, records}})
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				sum.AddWeight(records)
				lo := 0
				for _, part := range s.Clip([]int{1, bareLen - 1}, lie(i, round)) {
					sum.Add(lo, lie(i, round)[lo:lo+part.Len], records*part.Scale)
					lo += part.Len
				}
			}
			sum.Mean(0, mean)
		} else {
			var all []aggregate.Update
			for i, name := range []string{"budapest", "cleveland", "longbeach"} {
				all = append(all, aggregate.Update{Member: name, Weight: records, Values: lie(i, round)})
			}
			g, err := s.Gather(all, state)
			if err != nil {
				t.Fatal(err)
			}
			for g.Pass() {
				for b := range g.Blocks() {
					g.Scan(b)
				}
			}
			g.Mean(0, mean)
		}
		s.Optimizer(round).Step(m.Params, m.Params, mean, state)
	}
	return m.Digest()
}

// TestRobustMemory: updates that are kept until a round has all of them are promised their room when the run starts; what could not be kept
// beside the updates of other runs is refused then. Memory that was kept is given back when a round has ended, also by a cancelled run.
func TestRobustMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t, func(o *coordinator.Options) { o.Limits.Uploads = 3 * bareSize })
		median := func(p *entry.Plan) { p.Strategy.Name = "median" }
		start := func(name string, change ...func(*entry.Plan)) error {
			p := plan(t, append([]func(*entry.Plan){bare, func(p *entry.Plan) { p.Name = name }}, change...)...)
			_, err := c.person("ada").Start(t.Context(), &pb.StartRequest{Request: name, Plan: asJSON(t, p)})
			return err
		}
		first := c.open(median)
		c.books["council"].await(t, "memory suffices for a run", "spool", fmt.Sprint(2*bareSize))
		err := start("another", median)
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "the run keeps 112 bytes of updates until a round has all of them, beside 112 of open runs") {
			t.Errorf("a run too many: %v, want FailedPrecondition with the figures", err)
		}
		// Another run's updates find room beside those that are kept, also those of the same member.
		c.accepted(c.budapest, sound(first))
		plain := c.open()
		c.accepted(c.budapest, sound(plain))
		c.accepted(c.cleveland, sound(plain))
		c.books["council"].await(t, "round closed", "run", plain)
		if err := start("wide", wide); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a run whose update would not fit beside what is kept: %v, want FailedPrecondition", err)
		}
		if _, err := c.person("ada").Cancel(t.Context(), &pb.CancelRequest{Run: first}); err != nil {
			t.Fatal(err)
		}
		for range 2 { // each takes what the one before has given back
			next := c.open(median)
			c.accepted(c.cleveland, sound(next))
			c.accepted(c.budapest, sound(next))
			c.books["council"].await(t, "round closed", "run", next)
			if _, err := c.person("ada").Cancel(t.Context(), &pb.CancelRequest{Run: next}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestRobustPromise: a coordinator that comes back with less memory than an open run was promised says so, and goes on with a run when it has it.
func TestRobustPromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &court{world: newWorld(t)}
		room := func(updates int64) *program {
			council := c.serve(func(o *coordinator.Options) { o.Limits.Uploads = updates * bareSize })
			c.budapest, c.cleveland = c.connect(attest.Participant, "budapest"), c.connect(attest.Participant, "cleveland")
			return council
		}
		council := room(2)
		run := c.open(func(p *entry.Plan) { p.Strategy.Name = "median" })
		council.stop()
		council = room(1)
		c.books["council"].await(t, "limits.uploads is less than open runs keep of updates: raise it to what it was when they started, or cancel them",
			"spool", fmt.Sprint(2*bareSize), "memory", fmt.Sprint(bareSize))
		council.stop()
		room(2)
		c.accepted(c.budapest, sound(run))
		c.accepted(c.cleveland, sound(run))
		c.books["council"].await(t, "round closed", "run", run)
	})
}

// TestRobustRefused: parameters outside a rule's domain, and rounds that would never be closed, are refused when the run starts.
func TestRobustRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCourt(t)
		for _, r := range []struct {
			strategy entry.Strategy
			want     string
		}{
			{entry.Strategy{Name: "trimmed-mean", Params: map[string]any{"share": 0.5}}, "parameter share of strategy trimmed-mean is 0.5"},
			{entry.Strategy{Name: "krum"}, "quorum is 2, but strategy krum makes a model of 5 updates or more"},
			{entry.Strategy{Name: "bulyan"}, "strategy bulyan makes a model of 7 updates or more"},
			{entry.Strategy{Name: "fltrust"}, "needs the parameter reference"},
			{entry.Strategy{Name: "fltrust", Params: map[string]any{"reference": "longbeach"}}, `measures by the updates of "longbeach", who is not among the members listed`},
		} {
			p := plan(t, bare, func(p *entry.Plan) { p.Strategy = r.strategy })
			_, err := c.person("ada").Start(t.Context(), &pb.StartRequest{Request: "r", Plan: asJSON(t, p)})
			if err == nil || !strings.Contains(err.Error(), r.want) {
				t.Errorf("%v: %v, want %q", r.strategy, err, r.want)
			}
		}
		everybody := plan(t, bare, func(p *entry.Plan) {
			p.Members, p.Strategy = nil, entry.Strategy{Name: "fltrust", Params: map[string]any{"reference": "nobody"}}
		})
		_, err := c.person("ada").Start(t.Context(), &pb.StartRequest{Request: "r", Plan: asJSON(t, everybody)})
		if err == nil || !strings.Contains(err.Error(), "nobody, by whose updates strategy fltrust measures the others, is not asked") {
			t.Errorf("a reference that is no member: %v", err)
		}
	})
}
