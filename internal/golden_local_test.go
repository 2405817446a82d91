package internal_test

import (
	"fmt"
	"slices"
	"testing"

	"consilium.dev/internal/aggregate"
)

// The rules with a part for participants have clients with the loss 1/2*sum h*(y - a)^2, and take it down by the product's own steps.

type localClient struct {
	ID       string   `json:"id"`
	Examples int64    `json:"examples"`
	H        []number `json:"h"`
	A        []number `json:"a"`
	Steps    int      `json:"steps"`
}

type localInput struct {
	X            []number      `json:"x"`
	Clients      []localClient `json:"clients"`
	Participants [][]string    `json:"participants"`
}

// descend takes so many steps from x, and returns where they lead.
func (c localClient) descend(d *aggregate.Descent, x []float64, steps int) []float64 {
	y, grad := slices.Clone(x), make([]float64, len(x))
	for range steps {
		c.slope(grad, y)
		d.Step(y, grad)
	}
	return y
}

func (c localClient) slope(grad, y []float64) {
	for i := range grad {
		grad[i] = float64(c.H[i]) * (y[i] - float64(c.A[i]))
	}
}

// less returns (a - b)/norm as an update holds it.
func less(a, b []float64, norm float64) []float32 {
	u := make([]float32, len(a))
	for i := range a {
		u[i] = float32((a[i] - b[i]) / norm)
	}
	return u
}

// meanUpdate returns the weighted mean of updates by the product's sum, each bounded by 64.
func meanUpdate(t *testing.T, updates [][]float32, weights []int64) []float64 {
	t.Helper()
	sum, err := aggregate.NewSum(aggregate.Spec{Ranges: []aggregate.Range{{Len: len(updates[0]), MaxAbs: 64}}, Weights: weights})
	if err != nil {
		t.Fatal(err)
	}
	for i, u := range updates {
		sum.AddWeight(float64(weights[i]))
		sum.Add(0, u, float64(weights[i]))
	}
	mean := make([]float64, len(updates[0]))
	sum.Mean(0, mean)
	return mean
}

// next returns the model behind a round with these updates.
func next(t *testing.T, s aggregate.Strategy, x []number, updates [][]float32, turnout aggregate.Turnout) []float64 {
	t.Helper()
	mean := meanUpdate(t, updates, turnout.Weights)
	for i := range mean {
		mean[i] *= s.Factor(turnout)
	}
	global := float32s(x)
	s.Optimizer(1).Step(global, global, mean, nil)
	return widen(global)
}

type fedProxParams struct {
	Mu    float64 `json:"mu"`
	Steps int     `json:"steps"`
	LR    float64 `json:"lr"`
}

type fedProxExpected struct {
	Clients []struct {
		ID     string   `json:"id"`
		Y      []number `json:"y"`
		Update []number `json:"update"`
	} `json:"clients"`
	Global []number `json:"global"`
}

func fedProxCase(t *testing.T, c sample[localInput, fedProxParams, fedProxExpected]) {
	s := strategy(t, "fedprox", map[string]any{"mu": c.Params.Mu})
	x := float64s(c.Input.X)
	var updates [][]float32
	turnout := aggregate.Turnout{Rate: c.Params.LR}
	for i, client := range c.Input.Clients {
		want := c.Expected.Clients[i]
		if want.ID != client.ID {
			t.Fatalf("client %s has the values of %s", client.ID, want.ID)
		}
		y := client.descend(s.Local().Descent(c.Params.LR, x), x, c.Params.Steps)
		u := less(y, x, 1)
		c.Tolerance.check(t, want.ID+": y", y, want.Y)
		c.Tolerance.check(t, want.ID+": update", widen(u), want.Update)
		updates = append(updates, u)
		turnout.Weights, turnout.Steps = append(turnout.Weights, client.Examples), append(turnout.Steps, c.Params.Steps)
	}
	c.Tolerance.check(t, "global", next(t, s, c.Input.X, updates, turnout), c.Expected.Global)
}

type fedNovaParams struct {
	Momentum float64 `json:"momentum"`
	Mu       float64 `json:"mu"`
	LR       float64 `json:"lr"`
	TauEff   string  `json:"tau_eff"`
}

type fedNovaExpected struct {
	Clients []struct {
		ID    string   `json:"id"`
		Y     []number `json:"y"`
		NormA number   `json:"norm_a"`
	} `json:"clients"`
	TauEff number   `json:"tau_eff"`
	Global []number `json:"global"`
}

func fedNovaCase(t *testing.T, c sample[localInput, fedNovaParams, fedNovaExpected]) {
	tau, ok := map[string]string{"sum_p_norm": "norm", "sum_p_steps": "steps"}[c.Params.TauEff]
	if !ok {
		t.Fatalf("tau_eff %q is unknown", c.Params.TauEff)
	}
	s := strategy(t, "fednova", map[string]any{"momentum": c.Params.Momentum, "mu": c.Params.Mu, "tau_eff": tau})
	x := float64s(c.Input.X)
	var updates [][]float32
	turnout := aggregate.Turnout{Rate: c.Params.LR}
	for i, client := range c.Input.Clients {
		want := c.Expected.Clients[i]
		if want.ID != client.ID {
			t.Fatalf("client %s has the values of %s", client.ID, want.ID)
		}
		y := client.descend(s.Local().Descent(c.Params.LR, x), x, client.Steps)
		norm := s.Local().Norm(client.Steps, c.Params.LR)
		c.Tolerance.check(t, want.ID+": y", y, want.Y)
		c.Tolerance.check(t, want.ID+": norm_a", []float64{norm}, []number{want.NormA})
		updates = append(updates, less(y, x, norm))
		turnout.Weights, turnout.Steps = append(turnout.Weights, client.Examples), append(turnout.Steps, client.Steps)
	}
	c.Tolerance.check(t, "tau_eff", []float64{s.Factor(turnout)}, []number{c.Expected.TauEff})
	c.Tolerance.check(t, "global", next(t, s, c.Input.X, updates, turnout), c.Expected.Global)
	for range 5 { // who came when is nothing
		c.Tolerance.check(t, fmt.Sprintf("global of %v", turnout.Weights), next(t, s, c.Input.X, updates, turnout), c.Expected.Global)
		rotate(updates)
		rotate(turnout.Weights)
		rotate(turnout.Steps)
	}
}

func rotate[T any](v []T) { copy(v, append(slices.Clone(v[1:]), v[0])) }

type scaffoldParams struct {
	Option    int     `json:"option"`
	Steps     int     `json:"steps"`
	LR        float64 `json:"lr"`
	ServerLR  float64 `json:"server_lr"`
	Weighting string  `json:"weighting"`
}

type scaffoldExpected struct {
	Rounds []struct {
		Clients []struct {
			ID string   `json:"id"`
			Y  []number `json:"y"`
			CI []number `json:"c_i"`
		} `json:"clients"`
		Global []number `json:"global"`
		C      []number `json:"c"`
	} `json:"rounds"`
}

func scaffoldCase(t *testing.T, c sample[localInput, scaffoldParams, scaffoldExpected]) {
	option, ok := map[int]string{1: "I", 2: "II"}[c.Params.Option]
	if !ok {
		t.Fatalf("option %d is unknown", c.Params.Option)
	}
	s := strategy(t, "scaffold", map[string]any{"option": option, "learning_rate": c.Params.ServerLR})
	if len(c.Input.Participants) != len(c.Expected.Rounds) {
		t.Fatalf("%d rounds and values of %d", len(c.Input.Participants), len(c.Expected.Rounds))
	}
	n := len(c.Input.X)
	params := append(make([]float32, n), float32s(c.Input.X)...) // c and x, as a model holds them
	own := map[string][]float64{}
	for r, names := range c.Input.Participants {
		want := c.Expected.Rounds[r]
		base, x := widen(params[:n]), widen(params[n:])
		turnout := aggregate.Turnout{Rate: c.Params.LR, Asked: len(c.Input.Clients)}
		var updates [][]float32
		for i, id := range names {
			client := c.Input.Clients[slices.IndexFunc(c.Input.Clients, func(l localClient) bool { return l.ID == id })]
			if own[id] == nil {
				own[id] = make([]float64, n)
			}
			d := s.Local().Descent(c.Params.LR, x)
			d.Correct(base, own[id])
			y, slope := client.descend(d, x, c.Params.Steps), make([]float64, n)
			client.slope(slope, x)
			change := less(d.Control(y, slope, c.Params.Steps), own[id], 1)
			for j, v := range change {
				own[id][j] += float64(v)
			}
			if want.Clients[i].ID != id {
				t.Fatalf("client %s has the values of %s", id, want.Clients[i].ID)
			}
			c.Tolerance.check(t, fmt.Sprintf("round %d: y of %s", r+1, id), y, want.Clients[i].Y)
			c.Tolerance.check(t, fmt.Sprintf("round %d: c_i of %s", r+1, id), own[id], want.Clients[i].CI)
			weight := client.Examples
			if c.Params.Weighting == "uniform" {
				weight = 1
			}
			updates = append(updates, append(change, less(y, x, 1)...))
			turnout.Weights, turnout.Steps = append(turnout.Weights, weight), append(turnout.Steps, c.Params.Steps)
		}
		mean := meanUpdate(t, updates, turnout.Weights)
		for i := range mean {
			if i < n {
				mean[i] *= s.ControlFactor(turnout)
			} else {
				mean[i] *= s.Factor(turnout)
			}
		}
		s.Optimizer(r+1).Step(params, params, mean, nil)
		c.Tolerance.check(t, fmt.Sprintf("round %d: global", r+1), widen(params[n:]), want.Global)
		c.Tolerance.check(t, fmt.Sprintf("round %d: c", r+1), widen(params[:n]), want.C)
	}
}
