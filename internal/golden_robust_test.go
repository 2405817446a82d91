package internal_test

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"consilium.dev/internal/aggregate"
)

type clientsInput struct {
	Clients []client `json:"clients"`
}

// refusal is what a case's updates are refused for: some of them, or all together.
type refusal struct {
	Error    string      `json:"error"`
	Rejected []rejection `json:"rejected"`
}

// gathered is how a case came out.
type gathered struct {
	ids    []string // of the updates that were not refused, in input order
	result []float64

	measures []float64 // of each
	effects  []aggregate.Effect
}

func (g gathered) measure(id string) float64 { return g.measures[slices.Index(g.ids, id)] }

func (g gathered) effect(id string) aggregate.Effect { return g.effects[slices.Index(g.ids, id)] }

// gather goes through a case by a strategy that needs all updates at once. Ties go by position in the list, so a client's name begins with its
// place there. It returns false where the case wants an error, and got it.
func gather(t *testing.T, s aggregate.Strategy, clients []client, state []number, want refusal) (gathered, bool) {
	t.Helper()
	in := fedAvgInput{Clients: clients, Global: make([]number, lengthOf(clients))}
	accepted, rejected := admit(t, in, fedAvgParams{})
	if diff := gocmp.Diff(rejected, append([]rejection{}, want.Rejected...)); diff != "" {
		t.Errorf("rejected (-got +want):\n%s", diff)
	}
	var g gathered
	var out []aggregate.Update
	for i, c := range accepted {
		g.ids = append(g.ids, c.ID)
		out = append(out, aggregate.Update{Member: fmt.Sprintf("%03d%s", i, c.ID), Weight: int64(c.Weight), Values: float32s(c.Update)})
	}
	slices.Reverse(out) // in whichever order they come
	round, err := s.Gather(out, float64s(state))
	if want.Error != "" {
		if errors.Is(err, aggregate.ErrTooFew) && (want.Error == "too_few_clients" || want.Error == "no_updates" && len(out) == 0) {
			return g, false
		}
		t.Fatalf("%d updates: %v, want %s", len(out), err, want.Error)
	}
	if err != nil {
		t.Fatal(err)
	}
	for round.Pass() {
		for b := range round.Blocks() {
			round.Scan(b)
		}
	}
	g.result = make([]float64, len(in.Global))
	round.Mean(0, g.result)
	g.measures, g.effects = round.Measures(), round.Effects()
	return g, true
}

// lengthOf returns how many values the updates of a case have: those of the first.
func lengthOf(clients []client) int {
	if len(clients) == 0 {
		return 0
	}
	return len(clients[0].Update)
}

type columnExpected struct {
	refusal
	Trim   *int     `json:"trim"`
	Result []number `json:"result"`
}

func medianCase(t *testing.T, c sample[clientsInput, struct{}, columnExpected]) {
	if g, ok := gather(t, strategy(t, "median", nil), c.Input.Clients, nil, c.Expected.refusal); ok {
		c.Tolerance.check(t, "result", g.result, c.Expected.Result)
	}
}

type trimmedParams struct {
	Beta float64 `json:"beta"`
}

// trimmedMeanCase: a share of one half, which leaves nothing or one value, is what a plan cannot ask for.
func trimmedMeanCase(t *testing.T, c sample[clientsInput, trimmedParams, columnExpected]) {
	s, err := aggregate.NewStrategy("trimmed-mean", map[string]any{"share": c.Params.Beta})
	switch {
	case c.Expected.Error == "trim_too_large":
		if err == nil {
			t.Errorf("a share of %v is taken", c.Params.Beta)
		}
		return
	case c.Params.Beta == 0.5:
		if err == nil {
			t.Errorf("a share of %v is taken", c.Params.Beta)
		}
		s = strategy(t, "median", nil) // which it would be
	case err != nil:
		t.Fatal(err)
	}
	g, ok := gather(t, s, c.Input.Clients, nil, c.Expected.refusal)
	if !ok {
		return
	}
	c.Tolerance.check(t, "result", g.result, c.Expected.Result)
	if trim := int(c.Params.Beta * float64(len(g.ids))); c.Expected.Trim == nil || trim != *c.Expected.Trim {
		t.Errorf("trimmed = %d, want %v", trim, c.Expected.Trim)
	}
}

type krumParams struct {
	F       int    `json:"f"`
	M       int    `json:"m"`
	Average string `json:"average"`
}

type krumExpected struct {
	refusal
	Scores   []number `json:"scores"`
	Selected []string `json:"selected"`
	Result   []number `json:"result"`
}

func krumCase(t *testing.T, c sample[clientsInput, krumParams, krumExpected]) {
	name, params := "krum", map[string]any{"attackers": float64(c.Params.F)}
	if c.Params.Average != "" {
		name, params["keep"], params["average"] = "multi-krum", float64(c.Params.M), c.Params.Average
	} else if c.Params.M != 1 {
		t.Fatalf("Krum keeps 1, not %d", c.Params.M)
	}
	g, ok := gather(t, strategy(t, name, params), c.Input.Clients, nil, c.Expected.refusal)
	if !ok {
		return
	}
	c.Tolerance.check(t, "result", g.result, c.Expected.Result)
	checkKept(t, g, c.Expected.Selected)
	c.Tolerance.check(t, "scores", g.measures, c.Expected.Scores)
	order := slices.Clone(g.ids)
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(g.measure(a), g.measure(b)) })
	if !slices.Equal(order[:c.Params.M], c.Expected.Selected) {
		t.Errorf("in the order of their scores %v, want %v first", order, c.Expected.Selected)
	}
}

// checkKept compares whose updates were not left out, in any order.
func checkKept(t *testing.T, g gathered, want []string) {
	t.Helper()
	var kept []string
	for _, id := range g.ids {
		if g.effect(id) != aggregate.LeftOut {
			kept = append(kept, id)
		}
	}
	slices.Sort(kept)
	if want := slices.Sorted(slices.Values(want)); !slices.Equal(kept, want) {
		t.Errorf("selected = %v, want %v", kept, want)
	}
}

type bulyanParams struct {
	F         int    `json:"f"`
	Selection string `json:"selection"`
}

type bulyanExpected struct {
	refusal
	Selected []string `json:"selected"`
	Result   []number `json:"result"`
}

func bulyanCase(t *testing.T, c sample[clientsInput, bulyanParams, bulyanExpected]) {
	s := strategy(t, "bulyan", map[string]any{"attackers": float64(c.Params.F), "selection": c.Params.Selection})
	g, ok := gather(t, s, c.Input.Clients, nil, c.Expected.refusal)
	if !ok {
		return
	}
	c.Tolerance.check(t, "result", g.result, c.Expected.Result)
	checkKept(t, g, c.Expected.Selected)
	for i, id := range c.Expected.Selected {
		if place := g.measure(id); place != float64(i) {
			t.Errorf("%s is selected at place %v, want %d", id, place, i)
		}
	}
}

type geometricParams struct {
	Iterations int     `json:"iterations"`
	Nu         float64 `json:"nu"`
	Weighting  string  `json:"weighting"`
}

type geometricExpected struct {
	refusal
	Result    []number `json:"result"`
	Objective number   `json:"objective"`
}

func geometricMedianCase(t *testing.T, c sample[clientsInput, geometricParams, geometricExpected]) {
	s := strategy(t, "geometric-median", map[string]any{
		"iterations": float64(c.Params.Iterations), "smoothing": c.Params.Nu, "weighting": c.Params.Weighting,
	})
	g, ok := gather(t, s, c.Input.Clients, nil, c.Expected.refusal)
	if !ok {
		return
	}
	c.Tolerance.check(t, "result", g.result, c.Expected.Result)
	distance, total := 0.0, 0.0
	for _, u := range c.Input.Clients {
		if !slices.Contains(g.ids, u.ID) {
			continue
		}
		sum, w := 0.0, float64(u.Weight)
		if c.Params.Weighting == "uniform" {
			w = 1
		}
		for i, v := range u.Update {
			sum += (g.result[i] - float64(v)) * (g.result[i] - float64(v))
		}
		distance += w * math.Sqrt(sum)
		total += w
	}
	c.Tolerance.check(t, "objective", []float64{distance / total}, []number{c.Expected.Objective})
}

type centeredInput struct {
	Clients []client `json:"clients"`
	Center  []number `json:"center"`
}

type centeredParams struct {
	Tau        float64 `json:"tau"`
	Iterations int     `json:"iterations"`
}

// centeredClippingCase also steps: what the round makes is the next one's center.
func centeredClippingCase(t *testing.T, c sample[centeredInput, centeredParams, columnExpected]) {
	s := strategy(t, "centered-clipping", map[string]any{"radius": c.Params.Tau, "iterations": float64(c.Params.Iterations)})
	g, ok := gather(t, s, c.Input.Clients, c.Input.Center, c.Expected.refusal)
	if !ok {
		return
	}
	c.Tolerance.check(t, "result", g.result, c.Expected.Result)
	x, state := make([]float32, len(g.result)), float64s(c.Input.Center)
	s.Optimizer(2).Step(x, x, g.result, state)
	if !slices.Equal(state, g.result) {
		t.Errorf("state after the step = %v, want the result, %v", state, g.result)
	}
}

type trustInput struct {
	Clients      []client `json:"clients"`
	ServerUpdate []number `json:"server_update"`
}

type trustExpected struct {
	refusal
	Trust  map[string]number `json:"trust"`
	Result []number          `json:"result"`
}

// flTrustCase has the server's update come from a member that is named for it.
func flTrustCase(t *testing.T, c sample[trustInput, struct{}, trustExpected]) {
	clients := append(slices.Clone(c.Input.Clients), client{"server", 1, c.Input.ServerUpdate})
	place := len(clients) - 1 - len(c.Expected.Rejected) // which its name begins with
	s := strategy(t, "fltrust", map[string]any{"reference": fmt.Sprintf("%03dserver", place)})
	g, ok := gather(t, s, clients, nil, c.Expected.refusal)
	if !ok {
		return
	}
	c.Tolerance.check(t, "result", g.result, c.Expected.Result)
	if len(g.ids) != len(c.Expected.Trust)+1 {
		t.Errorf("trust in %v, want in %v", g.ids, c.Expected.Trust)
	}
	for id, want := range c.Expected.Trust {
		c.Tolerance.check(t, "trust in "+id, []float64{g.measure(id)}, []number{want})
		if left := g.effect(id) == aggregate.LeftOut; left != (want == 0) {
			t.Errorf("%s has the effect %q with trust %v", id, g.effect(id), want)
		}
	}
}

type clipInput struct {
	Update []number `json:"update"`
	Layout []int    `json:"layout"`
}

type clipParams struct {
	MaxNorm float64 `json:"max_norm"`
	Scope   string  `json:"scope"`
}

type clipExpected struct {
	Norm    *number  `json:"norm"`
	Norms   []number `json:"norms"`
	Scale   *number  `json:"scale"`
	Clipped *bool    `json:"clipped"`
	Result  []number `json:"result"`
	Error   string   `json:"error"`
}

func normClippingCase(t *testing.T, c sample[clipInput, clipParams, clipExpected]) {
	values := float32s(c.Input.Update)
	spec := aggregate.Spec{Ranges: []aggregate.Range{{Len: len(values), MaxAbs: 0x1p127}}}
	var fault *aggregate.ValueError
	if err := spec.Check(values); c.Expected.Error != "" || err != nil {
		if !errors.As(err, &fault) || string(fault.Reason) != c.Expected.Error {
			t.Errorf("check: %v, want %q", err, c.Expected.Error)
		}
		return
	}
	s := strategy(t, "norm-clipping", map[string]any{"max_norm": c.Params.MaxNorm, "scope": c.Params.Scope})
	var norms, result []float64
	parts := s.Clip(c.Input.Layout, values)
	lo := 0
	for _, p := range parts {
		norms = append(norms, aggregate.Norm(values[lo:lo+p.Len]))
		for _, v := range values[lo : lo+p.Len] {
			result = append(result, float64(v)*p.Scale)
		}
		lo += p.Len
	}
	c.Tolerance.check(t, "result", result, c.Expected.Result)
	if c.Params.Scope == "per_tensor" {
		c.Tolerance.check(t, "norms", norms, c.Expected.Norms)
		return
	}
	c.Tolerance.check(t, "norm and scale", []float64{norms[0], parts[0].Scale}, []number{*c.Expected.Norm, *c.Expected.Scale})
	if clipped := parts[0].Scale < 1; clipped != *c.Expected.Clipped {
		t.Errorf("clipped = %t, want %t", clipped, *c.Expected.Clipped)
	}
}
