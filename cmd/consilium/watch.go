package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"consilium.dev/internal/client"
)

// The waits between two attempts to reach a coordinator that went away while a run was watched.
const (
	firstWait   = time.Second
	longestWait = 15 * time.Second
)

func runWatch(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "watch RUN",
		Short: "Follow a run until it ends",
		Long: "Watch shows progress on standard error: a bar on a terminal, else a line for each round. It outlives restarts of the\n" +
			"coordinator. It exits with 0 when the run has completed, 8 when it ended otherwise, 9 when --timeout has passed.",
		Args: oneArgument("run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.watch(cmd.Context(), args[0], timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "the longest to wait, for example 90s or 2h (default: for ever)")
	return cmd
}

// watch shows a run's progress until it has ended, then its outcome.
func (a *app) watch(ctx context.Context, run string, timeout time.Duration) error {
	if timeout < 0 {
		return usageError("say for example --timeout 90s", "--timeout %s is negative", timeout)
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer func() { c.Close() }()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = within(ctx, timeout, errWaited)
		defer cancel()
	}
	p := a.progress()
	last, err := a.follow(ctx, c, run, p)
	p.end(err == nil && last.State == "completed")
	if err != nil {
		return explain(ctx, c, err)
	}
	if err := a.emit("run.watch", last, func(w *page) { showOutcome(w, last) }); err != nil {
		return err
	}
	if last.State != "completed" {
		return errSaid{kindRunFailed}
	}
	return nil
}

// follow hands each view of the run to p and returns the last one, when the run has ended. Once it has seen the run, it
// outlives the coordinator's absence.
func (a *app) follow(ctx context.Context, c *connection, run string, p progress) (client.Run, error) {
	var last client.Run
	wait, heard := firstWait, time.Now()
	for {
		err := errors.New("the coordinator ended the stream before the run has ended")
		for r, e := range c.Watch(ctx, run) {
			if err = e; e != nil {
				break
			}
			last, wait, heard = r, firstWait, time.Now()
			run = r.ID // a name may come to mean two runs
			p.show(r)
		}
		if err == nil && last.Ended() {
			return last, nil
		}
		if errors.Is(err, client.ErrNewer) {
			if err := c.turn(a); err != nil {
				return last, err
			}
			continue
		}
		gone := errors.Is(err, client.ErrUnreachable) || errors.Is(err, client.ErrStale) || err == nil
		if ctx.Err() != nil || !gone || last.ID == "" {
			return last, err
		}
		note := fmt.Sprintf("lost the coordinator %s ago; what is shown is of then; next try in %s", age(heard, time.Now()), wait)
		if errors.Is(err, client.ErrUnready) {
			note = fmt.Sprintf("%v; what is shown is of %s ago; next try in %s", err, age(heard, time.Now()), wait)
		}
		p.note(note)
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, longestWait)
		if err := c.again(a); err != nil {
			return last, err
		}
	}
}

// showOutcome says how a run ended.
func showOutcome(w *page, r client.Run) {
	w.printf("run       %s (%s) %s\n", name(r.Name), name(r.ID), name(r.State))
	if r.Reason != "" {
		w.printf("reason    %s\n", name(r.Reason))
	}
	for _, m := range r.Members {
		if m.Rule != "" {
			w.printf("declined  %s: %s\n", name(m.Name), name(m.Rule))
		}
	}
	if x := newest(r); x != nil {
		w.printf("model     %s, of round %d\n", x.Model, x.Round)
		if loss := over(x.Figures, "train", "loss", "%.6f"); loss != "" {
			w.printf("figures   loss %s over the training rows, accuracy %s over the test rows, of those who reported\n", loss,
				over(x.Figures, "test", "accuracy", "%.4f"))
		}
		w.printf("next      consilium model export %s --out model.safetensors\n", x.Model.Short())
	}
	for _, warning := range warnings(r.Simulated, r.Rollback) {
		w.printf("warning   %s\n", warning)
	}
}

// newest returns the round that made a run's newest model, nil if none has.
func newest(r client.Run) *client.Round {
	for i := len(r.History) - 1; i >= 0; i-- {
		if x := &r.History[i]; x.State == "closed" && !x.Model.IsZero() {
			return x
		}
	}
	return nil
}
