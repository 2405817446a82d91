package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/audit"
	"consilium.dev/internal/client"
	"consilium.dev/internal/durable"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
)

// maxModel is the most bytes of a model file that is looked for in a history.
const maxModel = 1 << 36

// auditCommand returns the commands for those who check afterwards that everything happened as agreed.
func auditCommand(a *app) *cobra.Command {
	group := &cobra.Command{Use: "audit", Short: "Read, copy and judge the history of a federation"}
	group.AddCommand(auditLog(a), auditExport(a), auditVerify(a), auditProve(a), auditCheck(a))
	return group
}

func auditLog(a *app) *cobra.Command {
	var from, to int64
	var raw bool
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Print the log's entries",
		Long: "Log prints what has happened, one entry a line. With --raw each line is printed as it was hashed, JSON, for jq\n" +
			"and for tools that compute the tree themselves. Nothing is judged: that is what audit verify does.",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, c *connection) error {
				point, err := c.Checkpoint(ctx)
				if err != nil {
					return err
				}
				if to < 0 || to > point.Size {
					to = point.Size
				}
				if from < 0 || from > to {
					return usageError(fmt.Sprintf("the log has the lines 0 to %d", point.Size-1), "there is no line %d", from)
				}
				return a.printLog(ctx, c, from, to, raw)
			})
		},
	}
	cmd.Flags().Int64Var(&from, "from", 0, "number of the first line, from 0")
	cmd.Flags().Int64Var(&to, "to", -1, "number of the line after the last (default: the log's end)")
	cmd.Flags().BoolVar(&raw, "raw", false, "print the lines as they were hashed")
	return cmd
}

// logLine is a line of the log in JSON.
type logLine struct {
	Line  int64           `json:"line"`
	Entry json.RawMessage `json:"entry"`
}

func (a *app) printLog(ctx context.Context, c *connection, from, to int64, raw bool) error {
	data := struct {
		Lines []logLine `json:"lines"`
	}{[]logLine{}}
	for text, err := range c.Entries(ctx, from, to) {
		if err != nil {
			return err
		}
		n := from + int64(len(data.Lines))
		if _, err := entry.Decode(text); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		data.Lines = append(data.Lines, logLine{n, slices.Clone(text)})
	}
	return a.emit("audit.log", data, func(w *page) {
		for _, l := range data.Lines {
			if raw {
				w.printf("%s\n", l.Entry)
				continue
			}
			var e struct {
				At   string          `json:"at"`
				Kind string          `json:"kind"`
				Fact json.RawMessage `json:"fact"`
			}
			if json.Unmarshal(l.Entry, &e) == nil {
				w.printf("%6d  %s  %-16s %s\n", l.Line, e.At, e.Kind, name(string(e.Fact)))
			}
		}
	})
}

func auditExport(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "export FOLDER",
		Short: "Copy the whole history, to be judged offline",
		Long: "Export writes the signed manifest, the log and all evidence that was kept into a new folder. What it copies it has\n" +
			"compared with the log's signed checkpoint. Judge the copy with consilium audit verify, as often and as late as you like.",
		Args: oneArgument("folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, c *connection) error {
				point, err := c.Checkpoint(ctx)
				if err != nil {
					return err
				}
				err = audit.Export(ctx, c.Client, c.config.Manifest, point.Cosigned(), point.Checkpoint, args[0], nil)
				if errors.Is(err, fs.ErrExist) {
					return usageError("name a folder that does not exist yet", "%w", err)
				}
				if err != nil {
					return err
				}
				data := struct {
					Folder string       `json:"folder"`
					Lines  int64        `json:"lines"`
					Root   entry.Digest `json:"root"`
				}{args[0], point.Size, point.Root}
				return a.emit("audit.export", data, func(w *page) {
					w.printf("%s holds the %d lines of %s\n", args[0], data.Lines, point.Origin)
					a.say("next: consilium audit verify %s --anchor %s", args[0], entry.Digest(c.config.Manifest.Digest()))
				})
			})
		},
	}
}

func auditVerify(a *app) *cobra.Command {
	var anchor, file string
	cmd := &cobra.Command{
		Use:   "verify FOLDER",
		Short: "Judge a copy of the history, offline",
		Long: "Verify needs no coordinator and no network: the copy, and the digest of the manifest from somebody whom you believe.\n" +
			"It checks every signature and hash, judges every piece of evidence again as of its logged instant, and replays all\n" +
			"rounds by the rules. With --model it also says which round made a model that you hold.",
		Args: oneArgument("folder"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var d entry.Digest
			if anchor == "" {
				return errNoAnchor()
			}
			if err := d.UnmarshalText([]byte(anchor)); err != nil {
				return usageError("--anchor takes the digest that consilium manifest build printed", "anchor: %w", err)
			}
			report, err := audit.Verify(cmd.Context(), args[0], audit.Options{Anchor: d, Verifiers: setup.Verifiers})
			if errors.Is(err, fs.ErrNotExist) {
				return notFoundError("name the folder that consilium audit export made", "%w", err)
			}
			if err != nil {
				return refusedError("the copy, or the anchor, is not the one that you think", "%s: %w", args[0], err)
			}
			held, err := heldModel(report, file)
			if err != nil {
				return err
			}
			data := struct {
				*audit.Report
				Held *audit.Model `json:"held_model,omitempty"`
			}{report, held}
			if err := a.emit("audit.verify", data, func(w *page) { showReport(w, report, held) }); err != nil {
				return err
			}
			if !report.Good() {
				return errSaid{kindRefused}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&anchor, "anchor", "", "digest of the manifest, 64 hex digits")
	cmd.Flags().StringVar(&file, "model", "", "a safetensors file that is said to come from this federation")
	return cmd
}

// heldModel returns the version whose model is in the file, nil if no file was named.
func heldModel(r *audit.Report, file string) (*audit.Model, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFoundError("check the path", "there is no file %s", file)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, err := model.Read(f, maxModel)
	if err != nil {
		return nil, refusedError("is it a safetensors file?", "%s: %w", file, err)
	}
	digest := entry.Digest(m.Digest())
	for _, v := range slices.Backward(r.Models) {
		if v.ID == digest {
			return &v, nil
		}
	}
	return nil, refusedError("list the versions: consilium audit verify FOLDER -o json",
		"no round of this history has made the model in %s (%s)", file, digest.Short())
}

// dropped returns how many models are kept no more.
func dropped(models []audit.Model) int {
	n := 0
	for _, m := range models {
		if !m.Deleted.IsZero() {
			n++
		}
	}
	return n
}

func showReport(w *page, r *audit.Report, held *audit.Model) {
	verdict := "everything is as agreed"
	if !r.Good() {
		verdict = "NOT AS AGREED: " + many(len(r.Findings), "finding")
	}
	w.printf("federation   %s, epoch %d, manifest %s\n", name(r.Federation), r.Epoch, r.Manifest)
	w.printf("log          %d lines, %s to %s\n", r.Lines, clock(r.From), clock(r.To))
	w.printf("root hash    %s\n", r.Root)
	w.printf("log's key    %s\n", name(r.LogKey))
	w.printf("judged       %s of evidence: %s, %s\n",
		many(r.Evidence, "piece"), many(r.Boots, "boot"), many(sum(r.Admissions), "admission"))
	privacy := "none of them with noise"
	if r.Unit != "" {
		privacy = fmt.Sprintf("epsilon %g spent at delta %g for %s", r.Epsilon, r.Delta, whom(r.Unit))
	}
	w.printf("replayed     %s, %s closed with %s, %s, %s\n", many(r.Runs, "run"), many(r.Rounds, "round"),
		many(r.Updates, "update"), many(len(r.Models), "model version"), privacy)
	if r.Masked > 0 {
		w.printf("masked       the updates of %s: between whom, and whose are in the sum, follows by the rules; the masks themselves are in no log\n", many(r.Masked, "closed round"))
	}
	if n := dropped(r.Models); n > 0 {
		w.printf("deleted      %s of them, after their runs had ended, by the coordinator's retention\n", many(n, "model version"))
	}
	for _, root := range r.Simulated {
		w.printf("warning      SIMULATED enclaves under the private root %q: their evidence proves nothing\n", name(root))
	}
	if r.Quorum > 0 {
		w.printf("witnesses    %d of %d have cosigned the checkpoint, %d are needed: %s\n", len(r.Cosigned), r.Witnesses, r.Quorum, names(r.Cosigned))
	}
	for _, f := range r.Former {
		w.printf("             of epoch %d, who have not handed over: %d of %d, %d are needed: %s\n", f.Epoch, len(f.Cosigned), f.Witnesses, f.Quorum, names(f.Cosigned))
	}
	for _, h := range r.Handovers {
		w.printf("handed over  to the witnesses of epoch %d at line %d, by %s\n", h.Epoch, h.Line, names(h.Cosigned))
	}
	if old := r.OldLog; old != nil {
		w.printf("old log      this log takes the place of one that is known up to its line %d, root %s: audit that one by itself\n", old.Lines, old.Root)
	}
	if r.Rollback != "" {
		w.printf("warning      %s: another history may have been signed as well\n", r.Rollback)
	}
	if len(r.NotJudged) > 0 {
		w.printf("not judged   %s\n", strings.Join(escaped(r.NotJudged), "\n             "))
	}
	if held != nil {
		w.printf("your model   %s, of round %d of run %s, by %s; line %d, %s\n", held.ID.Short(), held.Round, name(held.RunName),
			contributors(held.Members, effectsOf(*held)), held.Line, clock(held.At))
	}
	if t := effectsTable(r.Models); t != nil {
		w.printf("\n%s\n\n", t.Render())
	}
	if len(r.Findings) > 0 {
		t := newTable("LINE", "FINDING")
		for _, f := range r.Findings {
			line := "log"
			if f.Line >= 0 {
				line = fmt.Sprint(f.Line)
			}
			t.AppendRow(table.Row{line, name(f.What)})
		}
		w.printf("\n%s\n", t.Render())
	}
	w.printf("verdict      %s\n", verdict)
}

func escaped(all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = name(s)
	}
	return out
}

// many counts things whose plural is regular.
func many(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func sum(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

func auditProve(a *app) *cobra.Command {
	var out string
	var number int64
	cmd := &cobra.Command{
		Use:   "prove --line N --out FILE",
		Short: "Export one entry with the proof that it is in the log, for a third party",
		Long: "Prove writes one line, the proof that it is in the log, and the log's signed checkpoint. Who gets the file learns\n" +
			"nothing of the other lines. It is checked with consilium audit check.",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if number < 0 || out == "" {
				return usageError("number the line with --line, as consilium audit log does, and name a file with --out", "nothing to prove")
			}
			return a.ask(cmd.Context(), func(ctx context.Context, c *connection) error {
				p, point, err := prove(ctx, c, number)
				if err != nil {
					return err
				}
				if err := durable.Replace(out, p.Encode(), 0o644); err != nil {
					return unwritten("--out", err)
				}
				data := struct {
					File   string `json:"file"`
					LogKey string `json:"log_key"`
				}{out, point.Verifier}
				return a.emit("audit.prove", data, func(w *page) {
					w.printf("%s proves line %d\n", out, number)
					a.say("next, whoever gets it: consilium audit check %s --log-key %s", out, point.Verifier)
				})
			})
		},
	}
	cmd.Flags().Int64Var(&number, "line", -1, "number of the line, from 0")
	cmd.Flags().StringVar(&out, "out", "", "file to write")
	return cmd
}

// prove returns a line with its proof, which it has checked as whoever gets it will.
func prove(ctx context.Context, c *connection, number int64) (audit.Line, client.Checkpoint, error) {
	point, err := c.Checkpoint(ctx)
	if err != nil {
		return audit.Line{}, point, err
	}
	if number >= point.Size {
		return audit.Line{}, point, notFoundError("number it as consilium audit log does", "the log has %d lines, no line %d", point.Size, number)
	}
	proof, err := c.Inclusion(ctx, number, point.Size)
	if err != nil {
		return audit.Line{}, point, err
	}
	var text []byte
	for line, err := range c.Entries(ctx, number, number+1) {
		if err != nil {
			return audit.Line{}, point, err
		}
		text = line
	}
	p := audit.NewLine(point.Signed, number, text, proof)
	_, _, err = audit.OpenLine(p.Encode(), point.Verifier)
	return p, point, err
}

func auditCheck(a *app) *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Check an entry that consilium audit prove exported, offline",
		Args:  oneArgument("file"),
		RunE: func(_ *cobra.Command, args []string) error {
			if key == "" {
				return usageError("--log-key takes the log's key, as consilium audit verify prints it", "whose log is it?")
			}
			text, err := readManifestFile(args[0])
			if err != nil {
				return err
			}
			p, point, err := audit.OpenLine(text, key)
			if err != nil {
				return refusedError("ask for another copy, or check the key", "%s: %w", args[0], err)
			}
			data := struct {
				Line  int64           `json:"line"`
				Log   string          `json:"log"`
				Size  int64           `json:"size"`
				Entry json.RawMessage `json:"entry"`
			}{p.Number, point.Origin, point.Size, json.RawMessage(p.Line)}
			return a.emit("audit.check", data, func(w *page) {
				w.printf("%s\n", name(p.Line))
				a.say("this is line %d of the log %s, as of its %d lines", p.Number, name(point.Origin), point.Size)
			})
		},
	}
	cmd.Flags().StringVar(&key, "log-key", "", "verifier key of the log, NAME+HASH+KEY")
	return cmd
}
