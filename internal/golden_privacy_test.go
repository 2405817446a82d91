package internal_test

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"consilium.dev/internal/privacy"
)

// orders is a list of orders or the text that names one.
type orders []float64

func (o *orders) UnmarshalJSON(text []byte) error {
	var name string
	if json.Unmarshal(text, &name) != nil {
		return json.Unmarshal(text, (*[]float64)(o))
	}
	const normal = "[1.1, 1.2, ..., 10.9] + [11, 12, ..., 63] + [128, 256, 512, 1024]"
	switch name {
	case normal:
		*o = privacy.DefaultOrders()
	case "the integers of " + normal:
		*o = privacy.Whole(privacy.DefaultOrders())
	case "2..128, 256":
		for a := 2.0; a <= 128; a++ {
			*o = append(*o, a)
		}
		*o = append(*o, 256)
	default:
		return errors.New("orders of an unknown name: " + name)
	}
	return nil
}

// whole returns orders as whole numbers.
func (o orders) whole() []int {
	var all []int
	for _, a := range o {
		all = append(all, int(a))
	}
	return all
}

// atOrders fails the test unless got is want, or one of the orders beside it: where two tie either may be found.
func atOrder(t *testing.T, all orders, got, want float64) {
	t.Helper()
	i, j := slices.Index(all, got), slices.Index(all, want)
	if i < 0 || j < 0 || i-j > 1 || j-i > 1 {
		t.Errorf("best_order = %v, want %v", got, want)
	}
}

// one fails the test unless a single number is what is wanted, where anything is.
func (tol tolerance) one(t *testing.T, what string, got float64, want *number) {
	t.Helper()
	if want == nil || got == float64(*want) {
		return
	}
	tol.check(t, what, []float64{got}, []number{*want})
}

// mechanism is one of package privacy as the files spell it.
type mechanism struct {
	SamplingRate    float64 `json:"sampling_rate"`
	NoiseMultiplier float64 `json:"noise_multiplier"`
	Rounds          int     `json:"rounds"`
}

func (m mechanism) get() privacy.Mechanism {
	return privacy.Mechanism{Rate: m.SamplingRate, Noise: m.NoiseMultiplier, Rounds: m.Rounds}
}

type rdpInput struct {
	Mechanisms []mechanism `json:"mechanisms"`
}

type rdpParams struct {
	mechanism
	Orders        orders  `json:"orders"`
	Delta         float64 `json:"delta"`
	TargetEpsilon float64 `json:"target_epsilon"`
}

type rdpExpected struct {
	RDP             []number `json:"rdp"`
	Epsilon         *number  `json:"epsilon"`
	BestOrder       float64  `json:"best_order"`
	Classic         *number  `json:"epsilon_classic_conversion"`
	NoiseMultiplier *number  `json:"noise_multiplier"`
	Error           string   `json:"error"`
}

func rdpCase(t *testing.T, c sample[rdpInput, rdpParams, rdpExpected]) {
	all := []privacy.Mechanism{c.Params.get()}
	if len(c.Input.Mechanisms) > 0 {
		all = nil
	}
	for _, m := range c.Input.Mechanisms {
		all = append(all, m.get())
	}
	switch want := c.Expected; {
	case want.RDP != nil:
		var got []float64
		for _, a := range c.Params.Orders {
			v, err := all[0].Renyi(a)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, v)
		}
		c.Tolerance.check(t, "rdp", got, want.RDP)
	case want.NoiseMultiplier != nil:
		z, err := privacy.CalibrateRenyi(c.Params.SamplingRate, c.Params.Rounds, c.Params.TargetEpsilon, c.Params.Delta, c.Params.Orders)
		if err != nil {
			t.Fatal(err)
		}
		c.Tolerance.one(t, "noise_multiplier", z, want.NoiseMultiplier)
	default:
		e, order, err := privacy.RenyiEpsilon(all, c.Params.Delta, c.Params.Orders)
		if want.Error != "" {
			if want.Error != "bad_parameter" || !errors.Is(err, privacy.ErrParameter) {
				t.Errorf("error = %v, want %s", err, want.Error)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		c.Tolerance.one(t, "epsilon", e, want.Epsilon)
		if want.BestOrder != 0 {
			atOrder(t, c.Params.Orders, order, want.BestOrder)
		}
		// The classic conversion is there for comparison: ours has to be below it.
		if want.Classic != nil && !(e < float64(*want.Classic)) {
			t.Errorf("epsilon = %v, want less than the classic conversion's %v", e, *want.Classic)
		}
	}
}

type pldParams struct {
	mechanism
	Delta float64 `json:"delta"`
}

type pldExpected struct {
	Epsilon number  `json:"epsilon"`
	Opacus  number  `json:"epsilon_opacus_prv_upper"`
	RDP     *number `json:"epsilon_rdp"`
}

// pldCase takes up to 2 % more than expected, and no less than the tolerance lets the expected value itself be off.
func pldCase(t *testing.T, c sample[struct{}, pldParams, pldExpected]) {
	e, err := privacy.Epsilon([]privacy.Mechanism{c.Params.get()}, c.Params.Delta)
	if err != nil {
		t.Fatal(err)
	}
	want := float64(c.Expected.Epsilon)
	if slack := c.Tolerance.Abs + c.Tolerance.Rel*want; e < want-slack || e > 1.02*want {
		t.Errorf("epsilon = %v, want %v to %v", e, want-slack, 1.02*want)
	}
	if c.Expected.RDP != nil && !(e < float64(*c.Expected.RDP)) {
		t.Errorf("epsilon = %v, want less than the Rényi bound's %v", e, *c.Expected.RDP)
	}
}

type gaussianParams struct {
	Mu          float64 `json:"sensitivity_over_sigma"`
	Epsilon     float64 `json:"epsilon"`
	Delta       float64 `json:"delta"`
	Sensitivity float64 `json:"sensitivity"`
}

type gaussianExpected struct {
	Delta   *number `json:"delta"`
	Sigma   *number `json:"sigma"`
	Classic *number `json:"sigma_classic"`
}

func gaussianCase(t *testing.T, c sample[struct{}, gaussianParams, gaussianExpected]) {
	p := c.Params
	if c.Expected.Delta != nil {
		c.Tolerance.one(t, "delta", privacy.GaussianDelta(p.Mu, p.Epsilon), c.Expected.Delta)
		return
	}
	sigma, err := privacy.GaussianSigma(p.Epsilon, p.Delta, p.Sensitivity)
	if err != nil {
		t.Fatal(err)
	}
	c.Tolerance.one(t, "sigma", sigma, c.Expected.Sigma)
	if e, err := privacy.GaussianEpsilon(p.Sensitivity/sigma, p.Delta); err != nil || math.Abs(e-p.Epsilon) > 1e-6*p.Epsilon {
		t.Errorf("with that sigma epsilon = %v, %v, want %v", e, err, p.Epsilon)
	}
}

type distributedInput struct {
	Values  []float64 `json:"values"`
	Signs   []int     `json:"signs"`
	Uniform []float64 `json:"uniform"`
	K       []int64   `json:"k"`
}

type distributedParams struct {
	Padded        int      `json:"padded"`
	ClipNorm      float64  `json:"clip_norm"`
	Gamma         float64  `json:"gamma"`
	Beta          *float64 `json:"beta"`
	Dim           int      `json:"dim"`
	ModulusBits   int      `json:"modulus_bits"`
	Sigma         float64  `json:"sigma"`
	LocalStddev   float64  `json:"local_stddev"`
	Clients       int      `json:"clients"`
	SamplingRate  float64  `json:"sampling_rate"`
	Rounds        int      `json:"rounds"`
	Delta         float64  `json:"delta"`
	Orders        orders   `json:"orders"`
	Variance      float64  `json:"variance"`
	Scale         float64  `json:"scale"`
	CentralStddev float64  `json:"central_stddev"`
}

func (p distributedParams) get() privacy.Distributed {
	d := privacy.Distributed{Clip: p.ClipNorm, Gamma: p.Gamma, Dim: p.Dim, Rate: p.SamplingRate, Rounds: p.Rounds}
	if p.Beta != nil {
		d.Beta = *p.Beta
	}
	if p.Scale != 0 {
		d.Gamma = 1 / p.Scale
	}
	return d
}

type distributedExpected struct {
	Rotated   []number `json:"rotated"`
	L2Bound   *number  `json:"l2_bound_integer_grid"`
	L1Bound   *number  `json:"l1_bound_integer_grid"`
	Rounded   []int64  `json:"rounded"`
	Norm      *number  `json:"norm"`
	Bound     *number  `json:"bound"`
	Accepted  bool     `json:"accepted"`
	Centred   []int64  `json:"centred"`
	PMF       []number `json:"pmf"`
	Variance  *number  `json:"variance"`
	Epsilon   *number  `json:"epsilon"`
	BestOrder int      `json:"best_order"`
	L2        *number  `json:"l2_sensitivity"`
	L1        *number  `json:"l1_sensitivity"`
	Tau       *number  `json:"tau"`
}

func distributedCase(t *testing.T, c sample[distributedInput, distributedParams, distributedExpected]) {
	p, want, tol := c.Params, c.Expected, c.Tolerance
	d := p.get()
	var e float64
	var order int
	var err error
	switch {
	case want.Rotated != nil:
		got := make([]float64, p.Padded)
		privacy.Rotate(got, c.Input.Values, c.Input.Signs)
		tol.check(t, "rotated", got, want.Rotated)
		return
	case want.L2Bound != nil:
		l1, l2, err := privacy.RoundingBounds(d.Clip, d.Gamma, d.Beta, d.Dim)
		if err != nil {
			t.Fatal(err)
		}
		tol.one(t, "l2_bound_integer_grid", l2, want.L2Bound)
		tol.one(t, "l1_bound_integer_grid", l1, want.L1Bound)
		return
	case want.Rounded != nil:
		got := make([]int64, len(c.Input.Values))
		norm := privacy.RoundAtRandom(got, c.Input.Values, c.Input.Uniform, d.Gamma)
		_, bound, err := privacy.RoundingBounds(d.Clip, d.Gamma, d.Beta, len(got))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want.Rounded) || (norm <= bound) != want.Accepted {
			t.Errorf("rounded = %v, within the bound: %v; want %v, %v", got, norm <= bound, want.Rounded, want.Accepted)
		}
		tol.one(t, "norm", norm, want.Norm)
		tol.one(t, "bound", bound, want.Bound)
		return
	case want.Centred != nil:
		for i, v := range c.Input.Values {
			if got := privacy.Centre(int64(v), p.ModulusBits); got != want.Centred[i] {
				t.Errorf("%v centred = %d, want %d", v, got, want.Centred[i])
			}
		}
		return
	case want.PMF != nil:
		var got []float64
		for _, k := range c.Input.K {
			if p.Variance != 0 {
				got = append(got, privacy.SkellamMass(k, p.Variance))
				continue
			}
			mass, variance := privacy.GaussianMass(k, p.Sigma)
			got = append(got, mass)
			tol.one(t, "variance", variance, want.Variance)
		}
		tol.check(t, "pmf", got, want.PMF)
		return
	case p.CentralStddev != 0:
		e, order, err = d.SkellamEpsilon(p.CentralStddev, p.Delta, p.Orders.whole())
	default:
		e, order, err = d.GaussianEpsilon(p.LocalStddev, p.Clients, p.Delta, p.Orders.whole())
		tol.one(t, "tau", d.Excess(p.LocalStddev, p.Clients), want.Tau)
	}
	if err != nil {
		t.Fatal(err)
	}
	tol.one(t, "epsilon", e, want.Epsilon)
	atOrder(t, p.Orders, float64(order), float64(want.BestOrder))
	l1, l2, err := d.Sensitivity()
	if err != nil {
		t.Fatal(err)
	}
	tol.one(t, "l1_sensitivity", l1, want.L1)
	tol.one(t, "l2_sensitivity", l2, want.L2)
	if strings.HasPrefix(c.Name, "epsilon_") == (want.Epsilon == nil) {
		t.Error("the case has no epsilon")
	}
}
