package main

import (
	"context"

	"github.com/spf13/cobra"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
)

func manifestPublish(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "publish ENVELOPE",
		Short: "Hand the signed manifest of the next epoch to the coordinator",
		Long: "Publish puts the federation under the next epoch of its manifest. The coordinator takes it if the members of the\n" +
			"epoch before have signed it, and cuts all connections; participants and people are sent it when they come back, and\n" +
			"check it themselves. Anybody whom the manifest names may publish: the signatures count, not who brings them. It may\n" +
			"be repeated.",
		Args: oneArgument("file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			envelope, err := readManifestFile(args[0])
			if err != nil {
				return err
			}
			if !isEnvelope(envelope) {
				return refusedError("sign it first: consilium manifest sign "+args[0]+" --key governance.key", "%s is not signed", args[0])
			}
			return a.ask(cmd.Context(), func(ctx context.Context, c *connection) error {
				return a.publish(ctx, c, args[0], envelope)
			})
		},
	}
}

func (a *app) publish(ctx context.Context, c *connection, file string, envelope []byte) error {
	before := c.epochs.history()
	epoch, digest, adopted, err := c.Publish(ctx, envelope)
	if err != nil {
		return err
	}
	if next, err := manifest.OpenUnverified(envelope); err == nil { // the coordinator has verified it
		a.sayUnit(next, before...)
	}
	// Our own next call comes under it. What does not follow, an epoch that is over, is not for us to adopt.
	if err := c.epochs.adopt(epoch, [][]byte{envelope}); err == nil {
		c.epochs.keep(a)
	}
	data := struct {
		File    string       `json:"file"`
		Epoch   uint64       `json:"epoch"`
		Digest  entry.Digest `json:"digest"`
		Adopted bool         `json:"adopted"` // by this command; false where it was adopted before
	}{file, epoch, digest, adopted}
	return a.emit("manifest.publish", data, func(w *page) {
		if adopted {
			w.printf("epoch %d was adopted, manifest %s\n", epoch, digest)
			return
		}
		w.printf("epoch %d had been adopted before, manifest %s\n", epoch, digest)
	})
}
