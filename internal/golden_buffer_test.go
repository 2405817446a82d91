package internal_test

import (
	"fmt"
	"testing"

	"consilium.dev/internal/aggregate"
)

type arrival struct {
	ID          string   `json:"id"`
	BaseVersion int      `json:"base_version"`
	Update      []number `json:"update"`
}

type fedBuffInput struct {
	Global   []number  `json:"global"`
	Arrivals []arrival `json:"arrivals"`
}

type fedBuffParams struct {
	BufferSize   int      `json:"buffer_size"`
	ServerLR     float64  `json:"server_lr"`
	Exponent     float64  `json:"exponent"`
	Normalize    string   `json:"normalize"`
	MaxStaleness *float64 `json:"max_staleness"`
}

type fedBuffExpected struct {
	Arrivals []struct {
		Staleness *int   `json:"staleness"`
		Weight    number `json:"weight"`
		Refused   string `json:"refused"`
	} `json:"arrivals"`
	Models []struct {
		Version int      `json:"version"`
		Global  []number `json:"global"`
	} `json:"models"`
	LeftInBuffer int `json:"left_in_buffer"`
}

// fedBuffCase fills buffer after buffer. In some cases a client comes twice while one fills, which the rule weighs like any others; that a
// member's update counts once in a round is no part of it.
func fedBuffCase(t *testing.T, c sample[fedBuffInput, fedBuffParams, fedBuffExpected]) {
	params := map[string]any{
		"buffer_size": float64(c.Params.BufferSize), "learning_rate": c.Params.ServerLR, "exponent": c.Params.Exponent, "normalize": c.Params.Normalize,
	}
	if m := c.Params.MaxStaleness; m != nil {
		params["max_staleness"] = *m
	}
	s := strategy(t, "fedbuff", params)
	b := s.Buffer()
	if b.Size() != c.Params.BufferSize || len(c.Input.Arrivals) != len(c.Expected.Arrivals) {
		t.Fatalf("buffer of %d; %d arrivals, %d are expected", b.Size(), len(c.Input.Arrivals), len(c.Expected.Arrivals))
	}
	spec := aggregate.Spec{
		Ranges: []aggregate.Range{{Len: len(c.Input.Global), MaxAbs: 16}}, Weights: b.Weights(make([]int64, b.Size())),
	}
	empty := func() *aggregate.Sum {
		sum, err := aggregate.NewSum(spec)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	one, _ := b.Weigh(1, 0)
	global, version, sum, in := float32s(c.Input.Global), 0, empty(), 0
	for i, a := range c.Input.Arrivals {
		want := c.Expected.Arrivals[i]
		n, why := b.Staleness(version, a.BaseVersion)
		update := float32s(a.Update)
		if err, bad := spec.Check(update).(*aggregate.ValueError); bad && why == "" {
			why = err.Reason
		}
		if string(why) != want.Refused || why == "" && (want.Staleness == nil || n != *want.Staleness) {
			t.Fatalf("arrival %d has staleness %d and is refused for %q, want %+v", i, n, why, want)
		}
		if why != "" {
			continue
		}
		weight, counted := b.Weigh(1, n)
		c.Tolerance.check(t, fmt.Sprintf("weight of arrival %d", i), []float64{weight / one}, []number{want.Weight})
		sum.Add(0, update, weight)
		sum.AddWeight(counted)
		if in++; in < b.Size() {
			continue
		}
		mean := make([]float64, len(global))
		sum.Mean(0, mean)
		s.Optimizer(version+1).Step(global, global, mean, nil)
		version, sum, in = version+1, empty(), 0
		if version > len(c.Expected.Models) || c.Expected.Models[version-1].Version != version {
			t.Fatalf("model %d is not expected", version)
		}
		c.Tolerance.check(t, fmt.Sprintf("model %d", version), widen(global), c.Expected.Models[version-1].Global)
	}
	if in != c.Expected.LeftInBuffer || version != len(c.Expected.Models) {
		t.Errorf("%d models and %d updates left, want %d and %d", version, in, len(c.Expected.Models), c.Expected.LeftInBuffer)
	}
}
