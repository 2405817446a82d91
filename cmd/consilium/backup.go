package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"consilium.dev/internal/backup"
	"consilium.dev/internal/store"
)

const backupLong = `Backup copies the store of a coordinator or a participant, the folder that its configuration names as "store: dir:STORE",
into the new folder COPY, while the program runs or not. It needs no key and reads no plaintext: what rests in a store is
sealed. Everything is read back and checked at the end; a COPY that is there is whole.

With --base, objects that an earlier copy on the same file system has are shared with it (hard links) and take no more
space. What damages such a file damages it in both copies.

A copy is read with the key-encryption key of its time only. Keep that apart from the copies: with it lost, all of them are
lost; with it, each of them is plaintext.`

func backupCommand(a *app) *cobra.Command {
	var base string
	cmd := &cobra.Command{
		Use:     "backup STORE COPY",
		Short:   "Copy a coordinator's or a participant's store while it runs",
		Long:    backupLong,
		Example: "  consilium backup /var/lib/consilium/store /backup/monday\n  consilium backup /var/lib/consilium/store /backup/tuesday --base /backup/monday",
		Args:    twoArguments("STORE", "COPY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			made, err := backup.Make(cmd.Context(), backup.Options{Store: args[0], To: args[1], Base: base, Now: time.Now()})
			if err != nil {
				return backupFault(err)
			}
			return a.emitCopy("backup", "copied", args[1], made)
		},
	}
	cmd.Flags().StringVar(&base, "base", "", "an earlier copy with which to share what has not changed")
	return cmd
}

const restoreLong = `Restore puts a copy that consilium backup made back as the folder STORE, which must not exist: an older store stays where
it is until you have moved it away yourself. The copy is checked first, and what was made of it at the end.

A store that is put back is the store of that time. If its coordinator has gone on since, this is a rollback: rounds that
were closed since are gone. Do it only where the newer state is lost. See docs/operating.md on what witnesses do then.`

func restoreCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "restore COPY STORE",
		Short:   "Put a copy of a store back",
		Long:    restoreLong,
		Example: "  consilium restore /backup/monday /var/lib/consilium/store",
		Args:    twoArguments("COPY", "STORE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			made, err := backup.Restore(cmd.Context(), args[0], args[1])
			if err != nil {
				return backupFault(err)
			}
			return a.emitCopy("restore", "restored", args[1], made)
		},
	}
}

// backupFault gives an error of copying its kind.
func backupFault(err error) error {
	switch {
	case errors.Is(err, backup.ErrDamaged):
		return refusedError("take another copy", "%w", err)
	case errors.Is(err, store.ErrExist):
		return refusedError("name a folder that is not there", "%w", err)
	case errors.Is(err, store.ErrNotExist):
		return notFoundError("check the path: see consilium backup --help", "%w", err)
	}
	return err
}

// copied is what backup and restore say of a copy.
type copied struct {
	Folder string `json:"folder"`
	backup.Contents
	Shared int `json:"shared"`
}

func (a *app) emitCopy(kind, verb, folder string, c backup.Contents) error {
	return a.emit(kind, copied{folder, c, c.Shared}, func(w *page) {
		w.printf("%s %d objects, %s", verb, c.Objects, bytesText(c.Bytes))
		if c.Shared > 0 {
			w.printf(" (%d shared with the earlier copy)", c.Shared)
		}
		w.printf(": %s\n", folder)
		if c.Version == 0 {
			w.printf("no log in it: it is a participant's, or that of a coordinator that has not booted yet\n")
		} else {
			w.printf("log %s with %d lines, root hash %s\n", name(c.Origin), c.Size, c.Root)
		}
		if c.Key != "" {
			w.printf("its key-encryption key is %s\n", name(c.Key))
		}
		w.printf("as of %s\n", c.Made.Format(time.RFC3339))
	})
}

// twoArguments returns a check for exactly two arguments.
func twoArguments(first, second string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usageError("see "+cmd.CommandPath()+" --help", "%s takes %s and %s, got %d arguments", cmd.CommandPath(), first, second, len(args))
		}
		return nil
	}
}
