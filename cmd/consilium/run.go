package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"consilium.dev/internal/client"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/trainer"
)

// maxPlan is the most bytes that a plan may have.
const maxPlan = 256 << 10

// runCommand returns the commands of a research lead. All of them talk to the coordinator.
func runCommand(a *app) *cobra.Command {
	group := &cobra.Command{Use: "run", Short: "Start runs and look at them"}
	group.AddCommand(runStart(a), runClone(a), runList(a), runShow(a), runWatch(a), runCancel(a))
	return group
}

// startOptions are the flags of run start.
type startOptions struct {
	name, request string
	watch         bool
	timeout       time.Duration
}

func runStart(a *app) *cobra.Command {
	var o startOptions
	cmd := &cobra.Command{
		Use:   "start PLAN.yaml",
		Short: "Ask the members to take part in a run, and start it",
		Long: "Start prints the new run's id. A request that is repeated with the same --request id starts nothing new and prints\n" +
			"the same run's id, so it is safe to repeat when an answer was lost.",
		Example: "  consilium run start plan.yaml --watch\n  consilium run start plan.yaml --request $(date +%F) -o json",
		Args:    oneArgument("plan"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			plan, err := readPlan(args[0], o.name)
			if err != nil {
				return err
			}
			return a.startPlan(cmd.Context(), plan, o)
		},
	}
	o.flags(cmd, "name of the run (default: the plan's)")
	return cmd
}

func (o *startOptions) flags(cmd *cobra.Command, name string) {
	cmd.Flags().StringVar(&o.name, "name", "", name)
	cmd.Flags().StringVar(&o.request, "request", "", "id of this request, 1 to 64 characters (default: drawn)")
	cmd.Flags().BoolVar(&o.watch, "watch", false, "watch the run until it ends, as run watch does")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 0, "with --watch: the longest to wait (default: for ever)")
}

func (o *startOptions) check() error {
	if o.timeout != 0 && !o.watch {
		return usageError("add --watch", "--timeout says how long to watch the run")
	}
	return nil
}

func (a *app) startPlan(ctx context.Context, plan entry.Plan, o startOptions) error {
	if o.request == "" {
		var id [8]byte
		rand.Read(id[:]) //nolint:errcheck // crypto/rand.Read never fails: it ends the program
		o.request = hex.EncodeToString(id[:])
	}
	var started client.Started
	err := a.ask(ctx, func(ctx context.Context, c *connection) (err error) {
		started, err = c.Start(ctx, o.request, plan)
		if errors.Is(err, client.ErrUnreachable) {
			return newFault(kindUnreachable, c.reachHint()+"\nthen repeat the command with --request "+o.request+
				": it cannot start twice", "%w", err)
		}
		return err
	})
	if err != nil {
		return err
	}
	id := started.Run
	if started.Memory > 0 {
		a.say("the coordinator needs %d MiB of memory with it", (started.Memory+1<<20-1)>>20)
	}
	if o.watch {
		a.say("run %s, asked for as request %s", name(id), o.request)
		return a.watch(ctx, id, o.timeout)
	}
	data := struct {
		Run     string `json:"run"`
		Name    string `json:"name"`
		Request string `json:"request"`
	}{id, plan.Name, o.request}
	return a.emit("run.start", data, func(w *page) {
		w.printf("%s\n", name(id))
		a.say("next: consilium run watch %s", name(id))
	})
}

// readPlan reads a plan and gives it another name if one is given.
func readPlan(file, name string) (entry.Plan, error) {
	f, err := os.Open(file)
	if err != nil {
		return entry.Plan{}, notFoundError("check the path", "opening the plan: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPlan+1))
	if err != nil {
		return entry.Plan{}, fmt.Errorf("reading the plan: %w", err)
	}
	plan, err := trainer.ParsePlan(text)
	if err == nil && name != "" {
		plan.Name = name
		err = trainer.CheckPlan(plan)
	}
	if err != nil {
		return entry.Plan{}, refusedError("correct the plan; docs/plans.md has every field, and examples/hospitals/plan.yaml is a whole one", "%s: %w", file, err)
	}
	return plan, nil
}

func runList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all runs, the newest first",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, c *connection) error {
				runs, err := c.Runs(ctx)
				if err != nil {
					return err
				}
				return a.emit("run.list", runs, func(w *page) { showRuns(w, runs) })
			})
		},
	}
}

func showRuns(w *page, all client.List) {
	if len(all.Runs) == 0 {
		w.printf("no runs yet; start one: consilium run start PLAN.yaml\n")
		return
	}
	t := newTable("RUN", "NAME", "LEAD", "STATE", "FOR", "ROUND", "CREATED")
	for _, r := range all.Runs {
		t.AppendRow(table.Row{name(r.ID), name(r.Name), name(r.Lead), name(r.State), age(r.Since, all.Now), fmt.Sprintf("%d of %d", r.Round, r.Rounds), clock(r.Created)})
	}
	w.printf("%s\n", t.Render())
}

func runShow(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "show RUN",
		Short: "Show a run with its members and rounds",
		Long: "RUN is a run's id, the beginning of one (four characters at least), or a name that only one run has. Of many rounds\n" +
			"the table shows about a dozen; JSON holds all of them.",
		Args: oneArgument("run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.ask(cmd.Context(), func(ctx context.Context, c *connection) error {
				r, err := c.Run(ctx, args[0])
				if err != nil {
					return err
				}
				return a.emit("run.show", r, func(w *page) { showRun(w, r, all) })
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "show every round")
	return cmd
}

// showRun prints everything there is to say of a run.
func showRun(w *page, r client.Run, all bool) {
	w.printf("run       %s (%s), of %s, created %s\n", name(r.Name), name(r.ID), name(r.Lead), clock(r.Created))
	var state strings.Builder
	state.WriteString(name(r.State))
	switch lasted := age(r.Since, r.Now); {
	case lasted == "":
	case r.Ended():
		state.WriteString(" " + lasted + " ago")
	default:
		state.WriteString(" for " + lasted)
	}
	for _, more := range []string{r.Reason, r.Waiting} {
		if more != "" {
			state.WriteString(": " + name(more))
		}
	}
	w.printf("state     %s\n", state.String())
	p := r.Plan
	w.printf("plan      %d rounds of %s with %s; %d updates close a round, %s and %d tries at most\n", p.Rounds, name(p.Trainer),
		strategyText(p.Strategy), p.Quorum, time.Duration(p.Deadline), p.Tries)
	if p.ReportGoal > 0 {
		w.printf("          %d updates close a round at once\n", p.ReportGoal)
	}
	if p.MaxTime > 0 {
		w.printf("          %s at most, until %s\n", time.Duration(p.MaxTime), clock(r.Created.Add(time.Duration(p.MaxTime))))
	}
	switch {
	case codec.Lossy(p.Encoding) == codec.TopK:
		w.printf("          of each update the largest values are sent, and the others later: encoding %s, top_k %g\n", name(p.Encoding), p.TopK)
	case p.Encoding != "":
		w.printf("          updates are made coarser before they are sent: encoding %s\n", name(p.Encoding))
	}
	if p.Masks {
		w.printf("          updates are masked: the coordinator sees their sum alone\n")
	}
	showPrivacy(w, r)
	for _, warning := range warnings(r.Simulated, r.Rollback) {
		w.printf("warning   %s\n", warning)
	}
	if r.Unwraps != "" {
		w.printf("at rest   sealed under a key that opens for %s\n", name(r.Unwraps))
	}
	columns, updates := []any{"MEMBER", "ANSWER", "RECORDS", "SEEN", "DOES"}, tallied(r.History)
	if len(updates.effects) > 0 {
		columns = append(columns, "ITS UPDATES")
	}
	members := newTable(columns...)
	for _, m := range r.Members {
		answer := name(m.State)
		if m.Rule != "" {
			answer += ": " + name(m.Rule)
		}
		if m.State == "invited" && !r.Ended() {
			answer += " for " + age(m.Since, r.Now)
		}
		records := count(m.Records)
		if p.Privacy != nil && m.Records > 0 { // each counts as one, and tells nobody how many it has
			records = "-"
		}
		row := table.Row{name(m.Name), answer, records, seen(m, r.Now), does(m, r)}
		if len(updates.effects) > 0 {
			row = append(row, updates.of(m.Name))
		}
		members.AppendRow(row)
	}
	w.tables(members)
	if len(r.History) > 0 {
		w.tables(roundsTable(r, all))
	}
}

// showPrivacy says what a run with noise hides, and what that costs.
func showPrivacy(w *page, r client.Run) {
	p := r.Privacy
	if p == nil || r.Plan.Privacy == nil {
		return
	}
	clip := fmt.Sprintf("clip norm %g", r.Plan.Privacy.ClipNorm)
	if n := len(r.History); r.Plan.Privacy.Adaptive != nil && n > 0 {
		clip = fmt.Sprintf("clip norm %.4g now, %g at first", r.History[n-1].Clip, r.Plan.Privacy.ClipNorm)
	}
	if rate := r.Plan.Privacy.SamplingRate; rate != 0 {
		clip += fmt.Sprintf(", sampling rate %g", rate)
	}
	w.printf("privacy   epsilon %.4g at delta %g until now, for %s (noise multiplier %g, %s; accountant %s)\n", p.Epsilon, p.Delta,
		whom(p.Unit), r.Plan.Privacy.NoiseMultiplier, clip, name(p.Accountant))
	if p.Budget == 0 {
		w.printf("          all runs of the federation: epsilon %.4g at delta %g for %s; the manifest has no budget for that any more\n", p.Spent, p.ForDelta, whom(p.Unit))
		return
	}
	w.printf("          all runs of the federation: epsilon %.4g of %g at delta %g for %s\n", p.Spent, p.Budget, p.ForDelta, whom(p.Unit))
}

// whom says whom an epsilon protects.
func whom(unit string) string {
	if unit == entry.Record {
		return "one record"
	}
	return "a whole " + name(unit)
}

// warnings are what nobody should overlook about a run or a model.
func warnings(simulated, rollback string) []string {
	var all []string
	if simulated != "" {
		all = append(all, fmt.Sprintf("SIMULATED enclaves under the private root %q: nothing is protected from their hosts", name(simulated)))
	}
	if rollback != "" {
		all = append(all, name(rollback))
	}
	return all
}

// seen says when a member was last heard from.
func seen(m client.Member, now time.Time) string {
	switch {
	case m.Connected:
		return "connected"
	case m.Seen.IsZero():
		return "not since the coordinator started"
	}
	return age(m.Seen, now) + " ago"
}

// stalled is how long a trainer may make no step before it is said.
const stalled = 2 * time.Minute

// does says what a member's participant is at, and since when.
func does(m client.Member, r client.Run) string {
	var b strings.Builder
	if a := m.Activity; a != nil {
		b.WriteString(name(a.Doing))
		if a.Run != "" && a.Round > 0 {
			fmt.Fprintf(&b, " round %d", a.Round)
		}
		if a.Run != "" && a.Run != r.ID {
			b.WriteString(" of run " + name(a.Run))
		}
		b.WriteString(" for " + age(a.Since, r.Now))
		if a.Of > 1 {
			fmt.Fprintf(&b, ", step %d of %d", a.Steps, a.Of)
		}
		if !a.Progress.IsZero() && r.Now.Sub(a.Progress) >= stalled {
			b.WriteString(", NO PROGRESS for " + age(a.Progress, r.Now))
		}
	}
	if m.Twice {
		b.WriteString(" (TWO PROGRAMS UNDER THIS NAME)")
	}
	return b.String()
}

// age words how long something has lasted, as people say it; "" where that is not known.
func age(since, now time.Time) string {
	if since.IsZero() || now.IsZero() {
		return ""
	}
	switch d := max(now.Sub(since), 0); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours())/24)
	}
}

// count words a number that is unknown where it is 0.
func count(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// clock words an instant in the local time of whoever reads it.
func clock(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime)
}

// bytesText words a number of bytes.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n)/1000, 0
	for ; v >= 999.95; unit++ {
		v /= 1000
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + " " + units[unit:unit+1] + "B"
}

// strategyText is a strategy with the parameters that its plan gives.
func strategyText(s entry.Strategy) string {
	var params []string
	for _, key := range slices.Sorted(maps.Keys(s.Params)) {
		params = append(params, fmt.Sprintf("%s %s", name(key), name(fmt.Sprint(s.Params[key]))))
	}
	if params == nil {
		return name(s.Name)
	}
	return fmt.Sprintf("%s (%s)", name(s.Name), strings.Join(params, ", "))
}
