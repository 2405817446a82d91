package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"consilium.dev/internal/client"
	"consilium.dev/internal/entry"
)

// modelCommand returns the commands for model versions. All of them talk to the coordinator.
func modelCommand(a *app) *cobra.Command {
	group := &cobra.Command{Use: "model", Short: "List model versions, show where they come from, fetch them"}
	group.AddCommand(modelList(a), modelShow(a), modelExport(a))
	return group
}

const whichModel = "MODEL is a version's id, the beginning of one, or a tag."

// fewModels is how many versions are listed for people: each round of a run makes one.
const fewModels = 20

func modelList(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the model versions, the newest first",
		Long:  "Each round of a run makes a version. The table shows the newest 20; JSON holds all of them.",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, c *connection) error {
				models, err := c.Models(ctx)
				if err != nil {
					return err
				}
				data := struct {
					Models []client.Model `json:"models"`
				}{models}
				return a.emit("model.list", data, func(w *page) { showModels(w, models, all) })
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "list every version")
	return cmd
}

func showModels(w *page, models []client.Model, all bool) {
	older := 0
	if !all && len(models) > fewModels {
		models, older = models[:fewModels], len(models)-fewModels
	}
	if len(models) == 0 {
		w.printf("no models yet; the first round of a run makes one\n")
		return
	}
	titles := table.Row{"MODEL", "RUN", "ROUND", "MEMBERS", "LOSS", "ACCURACY", "CREATED", "TAGS"}
	deleted := slices.ContainsFunc(models, func(m client.Model) bool { return !m.Deleted.IsZero() })
	if deleted {
		titles = append(titles, "DELETED")
	}
	t := newTable(titles...)
	for _, m := range models {
		row := table.Row{
			m.ID.Short(), name(m.RunName), m.Round, len(m.Members), over(m.Figures, "train", "loss", "%.6f"),
			over(m.Figures, "test", "accuracy", "%.4f"), clock(m.Created), names(m.Tags),
		}
		if deleted {
			row = append(row, gone(m))
		}
		t.AppendRow(row)
	}
	if older > 0 {
		t.SetCaption("%d older versions: consilium model list --all", older)
	}
	w.printf("%s\n", t.Render())
}

// gone returns when a model was deleted, "" where it can be fetched.
func gone(m client.Model) string {
	if m.Deleted.IsZero() {
		return ""
	}
	return clock(m.Deleted)
}

func modelShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show MODEL",
		Short: "Show where a model version comes from",
		Long:  whichModel,
		Args:  oneArgument("model"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, c *connection) error {
				m, err := c.Model(ctx, args[0])
				if err != nil {
					return err
				}
				return a.emit("model.show", m, func(w *page) { showModel(w, m) })
			})
		},
	}
}

func showModel(w *page, m client.Model) {
	base := "none, the first"
	if !m.Base.IsZero() {
		base = m.Base.String()
	}
	deleted := gone(m)
	if deleted != "" {
		deleted += ", by the coordinator's retention; it cannot be exported"
	}
	late, masks := strings.TrimPrefix(lateText(m.Late), "late: "), ""
	if m.Masked {
		masks = "updates were masked: the coordinator saw their sum alone"
	}
	privacy := "no noise was asked for"
	if m.Epsilon > 0 {
		privacy = fmt.Sprintf("epsilon %.4g at delta %g for %s, all that the federation had released by then (renyi)", m.Epsilon, m.Delta, whom(m.Unit))
	}
	for _, line := range [][2]string{
		{"model", m.ID.String()},
		{"run", fmt.Sprintf("%s (%s), round %d", name(m.RunName), name(m.Run), m.Round)},
		{"created", clock(m.Created)},
		{"deleted", deleted},
		{"base", base},
		{"size", bytesText(m.Size)},
		{"strategy", strategyText(entry.Strategy{Name: m.Strategy, Params: m.Params})},
		{"members", contributors(m.Members, m.Effects)},
		{"late", late},
		{"masks", masks},
		{"privacy", privacy},
		{"enclave", "judged by the reference sets " + names(m.Measurements)},
		{"manifest", m.Manifest.String()},
		{"log", fmt.Sprintf("entry %d", m.Position)},
		{"tags", names(m.Tags)},
	} {
		if line[1] != "" {
			w.printf("%-9s %s\n", line[0], line[1])
		}
	}
	for _, warning := range warnings(m.Simulated, m.Rollback) {
		w.printf("warning   %s\n", warning)
	}
	if len(m.Figures) > 0 {
		w.tables(figuresTable(m.Figures))
	}
}

// figuresTable shows each member's figures of a model, and those over all rows.
func figuresTable(all []client.Figures) table.Writer {
	t := newTable("MEMBER", "TRAINING ROWS", "LOSS", "TEST ROWS", "LOSS", "ACCURACY")
	row := func(title string, f []client.Figures) table.Row {
		_, train := client.Over(f, "train", "loss")
		_, test := client.Over(f, "test", "accuracy")
		return table.Row{
			title, count(train), over(f, "train", "loss", "%.6f"), count(test), over(f, "test", "loss", "%.6f"),
			over(f, "test", "accuracy", "%.4f"),
		}
	}
	for _, f := range all {
		t.AppendRow(row(name(f.Member), []client.Figures{f}))
	}
	t.AppendSeparator()
	t.AppendRow(row("all", all))
	return t
}

func modelExport(a *app) *cobra.Command {
	var out string
	var force bool
	cmd := &cobra.Command{
		Use:   "export MODEL --out FILE",
		Short: "Fetch a model version as safetensors",
		Long: whichModel + "\n\nWhat arrives is checked against the version's id, the SHA-256 of the file. FILE appears whole or not at all, and\n" +
			"nobody but you may read it. A download that breaks off goes on by itself, for as long as something comes within five\n" +
			"minutes; what came stays beside FILE, and the same command goes on with it. To check FILE later: sha256sum FILE.",
		Args: oneArgument("model"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if out == "" {
				return usageError("for example --out model.safetensors", "name the file to write with --out")
			}
			return a.export(cmd.Context(), args[0], out, force)
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file to write")
	cmd.Flags().BoolVar(&force, "force", false, "replace FILE if it is there")
	return cmd
}

func (a *app) export(ctx context.Context, which, out string, force bool) error {
	if _, err := os.Lstat(out); err == nil && !force {
		return refusedError("replace it with --force, or name another", "%s is there already", out)
	}
	c, err := a.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	short, cancel := within(ctx, patience, errNoAnswer)
	defer cancel()
	var m client.Model
	err = c.following(short, a, func(ctx context.Context, c *connection) (err error) {
		m, err = c.Model(ctx, which)
		return err
	})
	if err != nil {
		return explain(short, c, err)
	}
	if !m.Deleted.IsZero() {
		return newFault(kindNotFound, "the newest model of each run is kept: consilium model list", "model %s was deleted at %s by the coordinator's retention", m.ID.Short(), gone(m))
	}
	if err := writeModel(ctx, c, m, out, force); err != nil {
		return explain(ctx, c, err)
	}
	data := struct {
		Model entry.Digest `json:"model"`
		File  string       `json:"file"`
		Size  int64        `json:"size"`
	}{m.ID, out, m.Size}
	return a.emit("model.export", data, func(w *page) {
		w.printf("%s\n", out)
		a.say("model %s of round %d of run %s, %s", m.ID.Short(), m.Round, name(m.RunName), bytesText(m.Size))
	})
}

// writeModel fetches a model into a file beside out, which takes out's name only when it is whole, checked and durable. What came
// of a download that broke off stays there, for the next one to go on with.
func writeModel(ctx context.Context, c *connection, m client.Model, out string, force bool) (err error) {
	part := filepath.Join(filepath.Dir(out), "."+filepath.Base(out)+"."+m.ID.Short()+".part")
	f, err := openPart(part)
	if err != nil {
		return refusedError("name a file in a folder that you may write to", "writing %s: %w", out, err)
	}
	err = c.Export(ctx, m, f)
	if err == nil {
		err = f.Sync()
	}
	if i, e := f.Stat(); err != nil && e == nil && i.Size() == 0 {
		_ = os.Remove(part)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if force {
		return os.Rename(part, out)
	}
	// A link, unlike a rename, does not replace what somebody put there meanwhile.
	if err := os.Link(part, out); errors.Is(err, fs.ErrExist) {
		return refusedError("replace it with --force, or name another", "%s is there already", out)
	} else if err != nil {
		return fmt.Errorf("writing %s: %w", strings.TrimSpace(out), err)
	}
	return os.Remove(part)
}

// openPart opens the file in which a download grows, for this process alone. One that others could have written to or may read
// is refused, as is one that is a link to somewhere else.
func openPart(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	i, err := f.Stat()
	switch {
	case err != nil:
	case !i.Mode().IsRegular() || i.Mode().Perm()&0o077 != 0:
		err = fmt.Errorf("%s is there and is no file of yours alone: remove it", path)
	default:
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			err = fmt.Errorf("%s: another program downloads into it", path)
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
