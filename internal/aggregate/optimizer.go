package aggregate

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// Optimizer makes the next model of a base model and the mean of its round's updates (update = trained - base, so the next
// model moves along the mean). An Optimizer has no state of its own: what it keeps from round to round stands in a slice that
// its caller stores. It is safe for concurrent use on different slices.
type Optimizer interface {
	// StateLen returns how many float64s of state n parameters need. They lie together parameter by parameter, so the state
	// of parameters [a, b) is state[StateLen(a):StateLen(b)], and a model can be gone through in blocks.
	StateLen(n int) int
	// Step fills dst with the next model and brings state up to date. dst, base and mean have n values, state StateLen(n);
	// dst may be base. Before the first round state is all zeros. The same input gives the same bits on every processor.
	Step(dst, base []float32, mean, state []float64)
}

// NewOptimizer returns the server optimiser with the given name. Parameters left out have the defaults below; unknown names
// and values outside the given bounds are refused.
//
//	fedavg   learning_rate 1 (above 0)
//	         x += learning_rate*mean                               McMahan et al. 2017, arXiv:1602.05629
//	fedadam  learning_rate 0.1 (above 0), beta1 0.9, beta2 0.99 (both 0 up to but not 1), tau 1e-3 (1e-12 to 1e12),
//	         initial_v tau^2 (0 or more)
//	         m = beta1*m + (1-beta1)*mean
//	         v = beta2*v + (1-beta2)*mean^2
//	         x += learning_rate*m/(sqrt(v)+tau)                    Reddi et al. 2021, arXiv:2003.00295, algorithm 2
//
// FedAdam starts with m = 0 and v = initial_v, and corrects no bias, as in the paper.
func NewOptimizer(name string, params map[string]float64) (Optimizer, error) {
	switch name {
	case "fedavg":
		p, err := readParams(name, params, map[string]param{"learning_rate": {1, positive, maxRate}})
		if err != nil {
			return nil, err
		}
		return fedAvg{p["learning_rate"]}, nil
	case "fedadam":
		p, err := readParams(name, params, map[string]param{
			"learning_rate": {0.1, positive, maxRate},
			"beta1":         {0.9, 0, below1},
			"beta2":         {0.99, 0, below1},
			"tau":           {1e-3, 1e-12, 1e12},
			"initial_v":     {-1, 0, math.MaxFloat32},
		})
		if err != nil {
			return nil, err
		}
		if _, given := params["initial_v"]; !given {
			p["initial_v"] = p["tau"] * p["tau"]
		}
		return fedAdam{
			rate: p["learning_rate"], tau: p["tau"], start: p["initial_v"],
			beta1: p["beta1"], rest1: 1 - p["beta1"], beta2: p["beta2"], rest2: 1 - p["beta2"],
		}, nil
	default:
		return nil, fmt.Errorf("strategy %q is unknown, want fedavg or fedadam", name)
	}
}

const (
	positive = math.SmallestNonzeroFloat64
	maxRate  = 1e6
	below1   = 1 - 0x1p-53
)

// param is a parameter's default and its bounds, both included.
type param struct{ value, min, max float64 }

// readParams returns all parameters of a strategy, given ones and defaults.
func readParams(name string, given map[string]float64, known map[string]param) (map[string]float64, error) {
	p := make(map[string]float64, len(known))
	for k, d := range known {
		p[k] = d.value
	}
	for _, k := range slices.Sorted(maps.Keys(given)) {
		d, ok := known[k]
		if !ok {
			return nil, fmt.Errorf("strategy %s has no parameter %q, only %s", name, k,
				strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if v := given[k]; !(v >= d.min && v <= d.max) {
			return nil, fmt.Errorf("parameter %s of strategy %s is %v, want %v to %v", k, name, v, d.min, d.max)
		}
		p[k] = given[k]
	}
	return p, nil
}

type fedAvg struct{ rate float64 }

func (fedAvg) StateLen(int) int { return 0 }

func (o fedAvg) Step(dst, base []float32, mean, state []float64) {
	sameLen(o, dst, base, mean, state)
	for i, d := range mean {
		dst[i] = float32(float64(base[i]) + float64(o.rate*d))
	}
}

// fedAdam keeps two numbers a parameter, m and v, side by side. A v of 0 stands for "before the first round"; v that has begun
// never gets there, being at least leastV.
type fedAdam struct {
	rate, tau, start           float64
	beta1, rest1, beta2, rest2 float64
}

// leastV is the smallest normal float64. Its square root adds nothing to any tau that is allowed.
const leastV = 0x1p-1022

func (fedAdam) StateLen(n int) int { return 2 * n }

func (o fedAdam) Step(dst, base []float32, mean, state []float64) {
	sameLen(o, dst, base, mean, state)
	for i, d := range mean {
		m, v := state[2*i], state[2*i+1]
		if v == 0 {
			v = o.start
		}
		m = float64(o.beta1*m) + float64(o.rest1*d)
		v = max(float64(o.beta2*v)+float64(o.rest2*float64(d*d)), leastV)
		state[2*i], state[2*i+1] = m, v
		dst[i] = float32(float64(base[i]) + float64(o.rate*m)/(math.Sqrt(v)+o.tau))
	}
}

// sameLen panics unless the lengths fit together.
func sameLen(o Optimizer, dst, base []float32, mean, state []float64) {
	if n := len(mean); len(dst) != n || len(base) != n || len(state) != o.StateLen(n) {
		panic(fmt.Sprintf("aggregate: step over %d values into %d from %d with %d of state", n, len(dst), len(base), len(state)))
	}
}
