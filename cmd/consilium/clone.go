package main

import (
	"context"

	"github.com/spf13/cobra"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
)

// maxReason is the most bytes of a reason that a coordinator writes down.
const maxReason = 200

func runCancel(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "cancel RUN",
		Short: "End a run that is not wanted any more, for all its members",
		Long: "Cancel ends an open run. Models that its closed rounds have made stay; the open round's updates are forgotten. Who\n" +
			"cancelled it, and why, stands in the log. RUN is as for run show.",
		Args: oneArgument("run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(reason) > maxReason {
				return usageError("shorten it", "--reason has %d bytes, at most %d are written down", len(reason), maxReason)
			}
			return a.ask(cmd.Context(), func(ctx context.Context, c *connection) error {
				id, err := c.Cancel(ctx, args[0], reason)
				if err != nil {
					return err
				}
				data := struct {
					Run string `json:"run"`
				}{id}
				return a.emit("run.cancel", data, func(w *page) { w.printf("run %s is cancelled\n", name(id)) })
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the members and the log (at most 200 bytes)")
	return cmd
}

// cloneOptions are what a clone changes of a plan. A zero field changes nothing.
type cloneOptions struct {
	startOptions
	note   string
	rounds int
	seed   uint64
}

func runClone(a *app) *cobra.Command {
	var o cloneOptions
	cmd := &cobra.Command{
		Use:   "clone RUN",
		Short: "Start a new run with the plan of another one",
		Long: "Clone starts a run with the plan of a run that there was, ended or not, but for what the flags change. It begins\n" +
			"from its own first model. RUN is as for run show.",
		Example: "  consilium run clone heart-disease --name heart-disease-2 --rounds 100 --watch",
		Args:    oneArgument("run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			plan, err := a.cloned(cmd, args[0], o)
			if err != nil {
				return err
			}
			return a.startPlan(cmd.Context(), plan, o.startOptions)
		},
	}
	o.flags(cmd, "name of the new run (default: the old one's)")
	cmd.Flags().StringVar(&o.note, "note", "", "note of the new run (default: the old one's)")
	cmd.Flags().IntVar(&o.rounds, "rounds", 0, "training rounds (default: as many)")
	cmd.Flags().Uint64Var(&o.seed, "seed", 0, "seed of the order of minibatches (default: the same)")
	return cmd
}

// cloned returns the plan of a run with what the flags change.
func (a *app) cloned(cmd *cobra.Command, run string, o cloneOptions) (plan entry.Plan, err error) {
	err = a.ask(cmd.Context(), func(ctx context.Context, c *connection) error {
		r, err := c.Run(ctx, run)
		plan = r.Plan
		return err
	})
	if err != nil {
		return plan, err
	}
	if o.name != "" {
		plan.Name = o.name
	}
	if cmd.Flags().Changed("note") {
		plan.Note = o.note
	}
	if o.rounds != 0 {
		plan.Rounds = o.rounds
	}
	if cmd.Flags().Changed("seed") {
		plan.Seed = o.seed
	}
	if err := trainer.CheckPlan(plan); err != nil {
		return plan, refusedError("change it otherwise, or start from a file: consilium run start PLAN.yaml", "%w", err)
	}
	return plan, nil
}
