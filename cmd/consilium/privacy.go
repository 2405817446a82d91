package main

import (
	"errors"
	"math"

	"github.com/spf13/cobra"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/privacy"
)

const privacyLong = `Privacy reckons, without a coordinator, what rounds with noise cost and how much noise they need, before a plan is written. Two
accountants answer: renyi is the bound that the federation's log and its budget go by; tight is that of the loss distribution
of continuous noise, nearly exact and never too little, and shows what the bound gives away. Whom epsilon protects --unit says,
as the plan's privacy block does: a participant as a whole, or one record of one. Records may be drawn, in secret, with a rate;
participants are in every round.`

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
	unit               string
}

// orders are those of the Rényi accountant that the log goes by.
func (o *privacyOptions) orders() []float64 {
	if o.rate == 1 {
		return privacy.DefaultOrders()
	}
	return privacy.Whole(privacy.DefaultOrders())
}

// check refuses units that there are not, and those that are not drawn.
func (o *privacyOptions) check() error {
	switch {
	case o.unit != entry.Participant && o.unit != entry.Record:
		return usageError("take participant or record", "there is no unit of privacy %q", o.unit)
	case o.unit == entry.Participant && o.rate != 1:
		return usageError("a rate goes with --unit record", "whole participants are in every round: the log names them")
	}
	return nil
}

func (o *privacyOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&o.rounds, "rounds", 1, "training rounds")
	f.Float64Var(&o.delta, "delta", 1e-5, "delta")
	f.StringVar(&o.unit, "unit", entry.Participant, "whom epsilon protects, the plan's privacy.unit: participant or record")
	f.Float64Var(&o.rate, "rate", 1, "probability that a record is in a round, the plan's sampling_rate")
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
			if err := o.check(); err != nil {
				return err
			}
			all := []privacy.Mechanism{{Rate: o.rate, Noise: o.noise, Rounds: o.rounds}}
			var data struct {
				Renyi float64 `json:"renyi"`
				Tight float64 `json:"tight"`
				Delta float64 `json:"delta"`
				Unit  string  `json:"unit"`
			}
			var err error
			data.Delta, data.Unit = o.delta, o.unit
			if data.Renyi, err = privacy.DiscreteEpsilon(all, o.delta); err != nil {
				return errPrivacy(err)
			}
			if data.Tight, err = privacy.Epsilon(all, o.delta); err != nil {
				return errPrivacy(err)
			}
			if math.IsInf(data.Renyi, 1) {
				return usageError("take a noise multiplier above 0", "rounds without noise have no epsilon")
			}
			return a.emit("privacy.cost", data, func(w *page) {
				w.printf("renyi  epsilon %.4f at delta %g for %s\n", data.Renyi, o.delta, whom(o.unit))
				w.printf("tight  epsilon %.4f at delta %g for %s\n", data.Tight, o.delta, whom(o.unit))
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
			if err := o.check(); err != nil {
				return err
			}
			if o.rounds < 1 {
				return usageError("say how many with --rounds", "%d rounds need no noise", o.rounds)
			}
			var data struct {
				Renyi float64 `json:"renyi"`
				Tight float64 `json:"tight,omitempty"`
				Unit  string  `json:"unit"`
			}
			data.Unit = o.unit
			var err error
			// Up to the fourth digit, from above: what is printed is to do.
			if data.Renyi, err = privacy.CalibrateRenyi(o.rate, o.rounds, o.epsilon, o.delta, o.orders()); err != nil {
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
				w.printf("renyi  noise_multiplier %.4f for %s\n", data.Renyi, whom(o.unit))
				if data.Tight > 0 {
					w.printf("tight  noise_multiplier %.4f for %s\n", data.Tight, whom(o.unit))
				}
			})
		},
	}
	o.flags(cmd)
	cmd.Flags().Float64Var(&o.epsilon, "epsilon", 0, "most that the rounds may cost")
	return cmd
}
