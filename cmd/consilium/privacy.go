package main

import (
	"errors"
	"math"

	"github.com/spf13/cobra"

	"consilium.dev/internal/privacy"
)

const privacyLong = `Privacy reckons, without a coordinator, what rounds with noise cost and how much noise they need, before a plan is written. Two
accountants answer: renyi is the bound that the federation's log and its budget go by; tight is nearly exact, never too little, and
shows what the bound gives away. Whom epsilon protects, a participant as a whole, the plan says.`

func privacyCommand(a *app) *cobra.Command {
	group := &cobra.Command{Use: "privacy", Short: "Reckon what noise costs, and how much is needed", Long: privacyLong}
	group.AddCommand(privacyCost(a), privacyNoise(a))
	return group
}

// privacyOptions are the flags of both verbs.
type privacyOptions struct {
	rounds             int
	noise, rate, delta float64
	epsilon            float64
}

func (o *privacyOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&o.rounds, "rounds", 1, "training rounds")
	f.Float64Var(&o.delta, "delta", 1e-5, "delta")
	f.Float64Var(&o.rate, "rate", 1, "probability that a unit is in a round, drawn in secret; 1 for a federation's rounds, of which the log names everybody")
}

// errPrivacy words what privacy refuses as a fault of the command line.
func errPrivacy(err error) error {
	if errors.Is(err, privacy.ErrParameter) {
		return usageError("see consilium privacy --help", "%w", err)
	}
	return err
}

func privacyCost(a *app) *cobra.Command {
	var o privacyOptions
	cmd := &cobra.Command{
		Use:     "cost --noise MULTIPLIER --rounds N",
		Short:   "Reckon the epsilon of rounds with noise",
		Long:    privacyLong,
		Example: "  consilium privacy cost --noise 4 --rounds 20",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			all := []privacy.Mechanism{{Rate: o.rate, Noise: o.noise, Rounds: o.rounds}}
			var data struct {
				Renyi float64 `json:"renyi"`
				Tight float64 `json:"tight"`
				Delta float64 `json:"delta"`
			}
			var err error
			data.Delta = o.delta
			if data.Renyi, _, err = privacy.RenyiEpsilon(all, o.delta, nil); err != nil {
				return errPrivacy(err)
			}
			if data.Tight, err = privacy.Epsilon(all, o.delta); err != nil {
				return errPrivacy(err)
			}
			if math.IsInf(data.Renyi, 1) {
				return usageError("take a noise multiplier above 0", "rounds without noise have no epsilon")
			}
			return a.emit("privacy.cost", data, func(w *page) {
				w.printf("renyi  epsilon %.4f at delta %g\ntight  epsilon %.4f at delta %g\n", data.Renyi, o.delta, data.Tight, o.delta)
			})
		},
	}
	o.flags(cmd)
	cmd.Flags().Float64Var(&o.noise, "noise", 0, "noise multiplier, of a plan's privacy block")
	return cmd
}

func privacyNoise(a *app) *cobra.Command {
	var o privacyOptions
	cmd := &cobra.Command{
		Use:     "noise --epsilon EPSILON --rounds N",
		Short:   "Reckon the least noise multiplier with which rounds cost no more than an epsilon",
		Long:    privacyLong,
		Example: "  consilium privacy noise --epsilon 8 --rounds 20",
		Args:    noArguments,
		RunE: func(*cobra.Command, []string) error {
			if o.rounds < 1 {
				return usageError("say how many with --rounds", "%d rounds need no noise", o.rounds)
			}
			var data struct {
				Renyi float64 `json:"renyi"`
				Tight float64 `json:"tight,omitempty"`
			}
			var err error
			// Up to the fourth digit, from above: what is printed is to do.
			if data.Renyi, err = privacy.CalibrateRenyi(o.rate, o.rounds, o.epsilon, o.delta, privacy.DefaultOrders()); err != nil {
				return errPrivacy(err)
			}
			if math.IsInf(data.Renyi, 1) {
				return usageError("take a larger epsilon or fewer rounds", "no noise makes %d rounds cost epsilon %g", o.rounds, o.epsilon)
			}
			data.Renyi = math.Ceil(data.Renyi*1e4) / 1e4
			if o.rate == 1 {
				// All rounds together are one Gaussian release whose noise is smaller by the root of their number.
				sigma, err := privacy.GaussianSigma(o.epsilon, o.delta, math.Sqrt(float64(o.rounds)))
				if err != nil {
					return errPrivacy(err)
				}
				data.Tight = math.Ceil(sigma*1e4) / 1e4
			}
			return a.emit("privacy.noise", data, func(w *page) {
				w.printf("renyi  noise_multiplier %.4f\n", data.Renyi)
				if data.Tight > 0 {
					w.printf("tight  noise_multiplier %.4f\n", data.Tight)
				}
			})
		},
	}
	o.flags(cmd)
	cmd.Flags().Float64Var(&o.epsilon, "epsilon", 0, "most that the rounds may cost")
	return cmd
}
