package main

import (
	"github.com/spf13/cobra"

	"consilium.dev/internal/durable"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/participant"
)

func manifestAccept(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "accept FILE",
		Short: "Let your participant follow to a newer manifest, where its policy asks you",
		Long: "Accept is for the data's owner, on the participant's machine, where participant.yaml says \"adopt: ask\". The participant\n" +
			"then takes no part under a newer manifest before its owner has accepted it: it logs where the signed manifest lies,\n" +
			"in the folder adopt beside participant.yaml. Read it first, with consilium manifest show. Within seconds of accept the\n" +
			"participant follows. Who accepts an epoch accepts those that it follows.",
		Args: oneArgument("file"),
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := readManifestFile(args[0])
			if err != nil {
				return err
			}
			m, err := manifest.OpenUnverified(text)
			if err != nil {
				return refusedError("name the file that the participant's log names", "%s: %w", args[0], err)
			}
			facts := factsOf(args[0], m, false) // the participant has checked it, and checks it again
			to := participant.AcceptedFile(args[0])
			if to == args[0]+".accepted" {
				return refusedError("name the file that the participant's log names", "%s is no signed manifest that a participant has laid here", args[0])
			}
			if err := durable.Replace(to, []byte(facts.Digest.String()+"\n"), 0o644); err != nil {
				return err
			}
			return a.emit("manifest.accept", facts, func(w *page) {
				w.printf("epoch %d is accepted, manifest %s\n", facts.Epoch, facts.Digest)
			})
		},
	}
}
