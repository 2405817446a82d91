package aggregate

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// strategies are the rules that a federation may choose, by the name that plans, manifests and owners' policies use. A rule is one
// file with its formula, its source, its parameters and their defaults, and one line here. What a name means never changes: runs go
// on under it, and models say that they were made by it.
var strategies = map[string]func(*params) rule{
	"fedavg":     fedAvgRule,
	"fedavgm":    fedAvgMRule,
	"fedadam":    fedAdamRule,
	"fedyogi":    fedYogiRule,
	"fedadagrad": fedAdagradRule,
	"fedprox":    fedProxRule,
	"fednova":    fedNovaRule,
	"scaffold":   scaffoldRule,
	"fedbuff":    fedBuffRule,

	"median":            medianRule,
	"trimmed-mean":      trimmedMeanRule,
	"krum":              krumRule,
	"multi-krum":        multiKrumRule,
	"bulyan":            bulyanRule,
	"geometric-median":  geometricMedianRule,
	"centered-clipping": centeredClippingRule,
	"fltrust":           flTrustRule,
	"norm-clipping":     normClippingRule,
}

// rule is what a strategy's parameters amount to.
type rule struct {
	optimizer func(round int) Optimizer
	local     Local                             // what participants do
	factor    func(Turnout) float64             // what the mean is multiplied by; nil: nothing
	control   func(Turnout) float64             // that of control variates; nil: there are none
	gather    func(*gathered) (gatherer, error) // nil: the exact weighted mean does
	clip      *clip                             // nil: no update is shortened before it is added
	buffer    Buffer                            // zero: rounds are synchronous
	least     int                               // fewest updates, 0 as 1
	member    string                            // without whose update there is no model; "" where there is no such member
}

// Turnout is whose updates are in a round's mean.
type Turnout struct {
	Weights []int64 // of each, as declared, in the order of names
	Steps   []int   // that each has taken
	Rate    float64 // learning rate of these steps
	Asked   int     // how many were asked
}

// Strategies returns the names of all strategies, ascending.
func Strategies() []string { return slices.Sorted(maps.Keys(strategies)) }

// CheckName reports that there is no strategy of this name, if so.
func CheckName(name string) error {
	if _, ok := strategies[name]; !ok {
		return fmt.Errorf("strategy %.64q is unknown, want one of %s", name, strings.Join(Strategies(), ", "))
	}
	return nil
}

// Strategy is a rule by which updates become the next model, with parameters that are within its domain. It is a value, safe for
// concurrent use.
type Strategy struct {
	name string
	rule rule
}

// NewStrategy returns the strategy with the given name. A parameter is a float64, a bool or a string, as its rule's doc comment
// says. Those left out have the defaults that stand there; unknown names, and values of another kind or outside the bounds, are
// refused.
func NewStrategy(name string, given map[string]any) (Strategy, error) {
	if err := CheckName(name); err != nil {
		return Strategy{}, err
	}
	p := &params{strategy: name, given: given}
	r := strategies[name](p)
	if err := p.err(); err != nil {
		return Strategy{}, err
	}
	return Strategy{name, r}, nil
}

// Name returns the name under which the strategy was asked for.
func (s Strategy) Name() string { return s.name }

// Local returns what participants do under the strategy.
func (s Strategy) Local() Local { return s.rule.local }

// Factor returns what the mean of a round's updates is multiplied by before [Optimizer.Step] has it. It has the same bits for the same
// turnout on every processor.
func (s Strategy) Factor(t Turnout) float64 {
	if len(t.Weights) == 0 || len(t.Steps) != len(t.Weights) {
		panic(fmt.Sprintf("aggregate: a turnout of %d weights and %d numbers of steps", len(t.Weights), len(t.Steps)))
	}
	if s.rule.factor == nil {
		return 1
	}
	return s.rule.factor(t)
}

// ControlFactor is [Strategy.Factor] for the mean changes of control variates. It is for strategies whose [Local] is controlled only.
func (s Strategy) ControlFactor(t Turnout) float64 {
	if len(t.Weights) == 0 || t.Asked < len(t.Weights) || s.rule.control == nil {
		panic(fmt.Sprintf("aggregate: control variates of %d of %d under %s", len(t.Weights), t.Asked, s.name))
	}
	return s.rule.control(t)
}

// Optimizer returns what makes the next model in a training round, counted from 1.
func (s Strategy) Optimizer(round int) Optimizer {
	if round < 1 {
		panic(fmt.Sprintf("aggregate: training round %d, they are counted from 1", round))
	}
	return s.rule.optimizer(round)
}

// Optimizer makes the next model of a base model and the mean of its round's updates (update = trained - base, so the next
// model moves along the mean). An Optimizer has no state of its own: what it keeps from round to round stands in a slice that
// its caller stores. It is safe for concurrent use on different slices.
type Optimizer interface {
	// StateLen returns how many float64s of state n parameters need. They lie together parameter by parameter, so the state
	// of parameters [a, b) is state[StateLen(a):StateLen(b)], and a model can be gone through in blocks. It does not depend on
	// the round.
	StateLen(n int) int
	// Step fills dst with the next model and brings state up to date. dst, base and mean have n values, state StateLen(n);
	// dst may be base. Before the first round state is all zeros. The same input gives the same bits on every processor.
	Step(dst, base []float32, mean, state []float64)
}

// sameLen panics unless the lengths fit together.
func sameLen(o Optimizer, dst, base []float32, mean, state []float64) {
	if n := len(mean); len(dst) != n || len(base) != n || len(state) != o.StateLen(n) {
		panic(fmt.Sprintf("aggregate: step over %d values into %d from %d with %d of state", n, len(dst), len(base), len(state)))
	}
}

// Bounds that several rules share.
const (
	positive = math.SmallestNonzeroFloat64
	maxRate  = 1e6
	below1   = 1 - 0x1p-53
)

// learningRate reads the server's step, which every rule has.
func learningRate(p *params, value float64) float64 {
	return p.number("learning_rate", value, positive, maxRate)
}

// params reads a strategy's parameters, each by its name, kind, default and bounds. The first fault is kept and the reading goes on,
// so that a rule's constructor is a list of what the rule takes.
type params struct {
	strategy string
	given    map[string]any
	known    []string
	fault    error
}

// read returns the parameter called name, if it was given.
func (p *params) read(name string) (v any, ok bool) {
	p.known = append(p.known, name)
	v, ok = p.given[name]
	return v, ok
}

// refuse keeps what is wrong with a parameter.
func (p *params) refuse(name string, v any, want string) {
	if p.fault == nil {
		p.fault = fmt.Errorf("parameter %s of strategy %s is %.64s, want %s", name, p.strategy, shown(v), want)
	}
}

func shown(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%.64q", s)
	}
	return fmt.Sprint(v)
}

// number reads a number between two bounds, both included. With NaN for its default it has none.
func (p *params) number(name string, value, least, most float64) float64 {
	v, ok := p.read(name)
	if !ok {
		if math.IsNaN(value) {
			p.lacks(name, "a number")
		}
		return value
	}
	x, ok := v.(float64)
	if !ok || !(x >= least && x <= most) { // also true for NaN
		p.refuse(name, v, fmt.Sprintf("%v to %v", least, most))
		return value
	}
	return x
}

// lacks keeps that a parameter without a default was not given.
func (p *params) lacks(name, kind string) {
	if p.fault == nil {
		p.fault = fmt.Errorf("strategy %s needs the parameter %s, %s", p.strategy, name, kind)
	}
}

// whole reads a whole number between two bounds, both included.
func (p *params) whole(name string, value, least, most int) int {
	x := p.number(name, float64(value), float64(least), float64(most))
	if x != math.Trunc(x) {
		p.refuse(name, x, "a whole number")
		return value
	}
	return int(x)
}

// count reads a whole number that has no default between two bounds, both included.
func (p *params) count(name string, least, most int) int {
	x := p.number(name, math.NaN(), float64(least), float64(most))
	if math.IsNaN(x) {
		return least // it was refused
	}
	if x != math.Trunc(x) {
		p.refuse(name, x, "a whole number")
	}
	return int(x)
}

// text reads a text that is not empty and has no default.
func (p *params) text(name string) string {
	v, ok := p.read(name)
	if !ok {
		p.lacks(name, "a text")
		return ""
	}
	x, ok := v.(string)
	if !ok || x == "" {
		p.refuse(name, v, "a text")
	}
	return x
}

// choice reads one of some names, of which the first is the default.
func (p *params) choice(name string, names ...string) string {
	v, ok := p.read(name)
	if !ok {
		return names[0]
	}
	x, ok := v.(string)
	if !ok || !slices.Contains(names, x) {
		p.refuse(name, v, strings.Join(names, " or "))
		return names[0]
	}
	return x
}

// truth reads true or false. Left out it is false.
func (p *params) truth(name string) bool {
	v, ok := p.read(name)
	if !ok {
		return false
	}
	x, ok := v.(bool)
	if !ok {
		p.refuse(name, v, "true or false")
	}
	return x
}

// err returns what is wrong with what was given, if anything: first names that the strategy does not have.
func (p *params) err() error {
	for _, name := range slices.Sorted(maps.Keys(p.given)) {
		if !slices.Contains(p.known, name) {
			slices.Sort(p.known)
			return fmt.Errorf("strategy %s has no parameter %.64q, only %s", p.strategy, name, strings.Join(p.known, ", "))
		}
	}
	return p.fault
}
