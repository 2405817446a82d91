// Consilium is what people use of a federation: it makes keys and configurations, lets members agree on a manifest, starts
// and watches runs, and fetches models.
//
// It prints tables for people, and with -o json one JSON document for programs:
//
//	{"schema": "consilium.cli/1", "kind": "run.list", "data": {...}}
//	{"schema": "consilium.cli/1", "kind": "error", "error": {"code": "not-found", "message": "...", "hint": "..."}}
//
// Data goes to standard output, talk to standard error. Each kind of failure has an exit code of its own, see
// "consilium help exit-codes"; where the connection is configured, see "consilium help config".
package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"consilium.dev/internal/daemon"
)

func main() { os.Exit(run(os.Args[1:])) }

// run carries out one command line and returns the exit code.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	a := &app{
		out: os.Stdout, errOut: &screen{os.Stderr}, rawErr: os.Stderr,
		live: term.IsTerminal(int(os.Stderr.Fd())), output: outputTable,
	}
	if wantsJSON(args) { // also where the flags after it cannot be read
		a.output = outputJSON
	}
	root := rootCommand(a)
	root.SetArgs(args)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	return a.end(root.ExecuteContext(ctx))
}

// rootCommand returns the whole tree of commands.
func rootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "consilium",
		Short: "Train one model over many members' data, which stay where they are",
		Long: "Consilium trains one model over the data of many members: inside enclaves, over attested channels, under a\n" +
			"manifest that the members signed. This is the program that people use; the other two are coordinator and participant.",
		Version:           daemon.Version,
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkOutput() },
	}
	root.PersistentFlags().StringVarP(&a.output, "output", "o", a.output, "table, or json for programs")
	root.PersistentFlags().StringVar(&a.config, "config", "", "your consilium.yaml (see consilium help config)")
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(initCommand(a), manifestCommand(a), runCommand(a), modelCommand(a), statusCommand(a), privacyCommand(a), auditCommand(a), attestCommand(a), collateralCommand(a), backupCommand(a), restoreCommand(a), vsockProxyCommand(),
		versionCommand(a))
	root.AddCommand(exitCodesTopic(), configTopic())
	root.SetHelpCommand(helpCommand(root))
	root.InitDefaultCompletionCmd()
	needVerbs(root)
	return root
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the program's version",
		Args:  noArguments,
		RunE: func(*cobra.Command, []string) error {
			data := struct {
				Version string `json:"version"`
			}{daemon.Version}
			return a.emit("version", data, func(w *page) { w.printf("consilium %s\n", daemon.Version) })
		},
	}
}

// helpCommand is cobra's own, but for a topic that does not exist, on which cobra's would exit with 0.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Explain a command or a topic",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usageError("see consilium --help", "there is no help on %q", strings.Join(args, " "))
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// needVerbs makes every command that only groups others refuse to be called without one of them; cobra would print help and
// exit with 0, so that a typing error in a script would pass for success.
func needVerbs(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		needVerbs(sub)
	}
	if !cmd.HasSubCommands() || cmd.Runnable() {
		return
	}
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		path := cmd.CommandPath()
		if len(args) == 0 {
			return usageError("see "+path+" --help", "%s needs a command: %s", path, strings.Join(verbs(cmd), ", "))
		}
		hint := "see " + path + " --help"
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "did you mean " + path + " " + near[0] + "?"
		}
		return usageError(hint, "%s has no command %q", path, args[0])
	}
}

// verbs returns the names of the commands of a group.
func verbs(cmd *cobra.Command) []string {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}

// flagError words what is wrong with a flag, and guesses what was meant.
func flagError(cmd *cobra.Command, err error) error {
	hint := "see " + cmd.CommandPath() + " --help"
	if name, ok := strings.CutPrefix(err.Error(), "unknown flag: --"); ok {
		if near := nearestFlag(cmd, name); near != "" {
			hint = "did you mean --" + near + "?"
		}
	}
	return usageError(hint, "%w", err)
}

// wantsJSON reports whether the arguments ask for JSON, as far as one can tell without knowing the command.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		switch arg {
		case "-ojson", "-o=json", "--output=json":
			return true
		case "-o", "--output":
			if i+1 < len(args) && args[i+1] == "json" {
				return true
			}
		case "--":
			return false
		}
	}
	return false
}

func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError("see "+cmd.CommandPath()+" --help", "%s takes no argument, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// oneArgument returns a check for exactly one argument, which is called what.
func oneArgument(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError("see "+cmd.CommandPath()+" --help", "%s takes one %s, got %d", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

// oneArgumentAtMost returns a check for one argument or none, which is called what.
func oneArgumentAtMost(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageError("see "+cmd.CommandPath()+" --help", "%s takes one %s, got %d", cmd.CommandPath(), what, len(args))
		}
		return nil
	}
}

// nearestFlag returns the command's flag whose name is at most two edits away from name, "" if none is.
func nearestFlag(cmd *cobra.Command, name string) string {
	best, least := "", 3
	for _, known := range flagNames(cmd) {
		if d := edits(name, known); d < least {
			best, least = known, d
		}
	}
	return best
}

func flagNames(cmd *cobra.Command) []string {
	var names []string
	for line := range strings.Lines(cmd.Flags().FlagUsages() + cmd.InheritedFlags().FlagUsages()) {
		if _, flag, found := strings.Cut(line, "--"); found {
			name, _, _ := strings.Cut(flag, " ")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// edits counts the insertions, deletions and substitutions of bytes that make b of a (Levenshtein's distance).
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
