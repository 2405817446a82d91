package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"consilium.dev/internal/client"
)

// statusCommand asks the coordinator how it is.
func statusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Say how the coordinator is, and how many wait for it to attest",
		Long: "Status asks the coordinator which program it runs, which epoch of the manifest holds, and how many handshakes wait for its\n" +
			"attester, which makes one quote at a time, and since when. Only peers whose key is in the manifest come to wait there.",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s client.Status
			err := a.ask(cmd.Context(), func(ctx context.Context, c *connection) (err error) {
				s, err = c.Status(ctx)
				return err
			})
			if err != nil {
				return err
			}
			return a.emit("status", s, func(w *page) {
				w.printf("coordinator  %s, version %s\n", name(s.Coordinator), name(s.Version))
				w.printf("epoch        %d, %s\n", s.Epoch, s.Manifest)
				if s.Simulated != "" {
					w.printf("enclave      SIMULATED, under the root %s\n", name(s.Simulated))
				}
				if s.Collateral != "" {
					w.printf("collateral   %s\n", name(s.Collateral))
				}
				w.printf("clock        %s\n", s.Now.UTC().Format(time.RFC3339))
				if s.QuotesWaiting == 0 {
					w.printf("quotes       nobody waits\n")
				} else {
					w.printf("quotes       %d wait, the oldest for %s\n", s.QuotesWaiting, time.Duration(s.QuotesOldest).Round(time.Millisecond))
				}
			})
		},
	}
}
