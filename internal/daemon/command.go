package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"consilium.dev/internal/strictyaml"
)

// ExitAbsent is the exit code of a command for which no daemon is running.
const ExitAbsent = 4

// Command is something that a daemon's program does for the daemon's administrator instead of being the daemon.
type Command struct {
	Name  string
	Args  string // for people, "RUN"; empty: it takes none
	Short string // for people, in one line
	Flags func(*flag.FlagSet)
	// Run does it and writes its result to stdout. A *ConfigError, also for arguments that make no sense, ends the program with
	// ExitUsage, an *AbsentError with ExitAbsent, any other error with ExitFailed.
	Run func(ctx context.Context, env Env, args []string, stdout io.Writer) error
}

// AbsentError says that the daemon that is spoken to is not running.
type AbsentError struct{ Err error }

func (e *AbsentError) Error() string { return e.Err.Error() }

// Unwrap returns why it is thought so.
func (e *AbsentError) Unwrap() error { return e.Err }

// usage says how a program is called.
func usage(w io.Writer, name string, flags *flag.FlagSet, commands []Command) {
	calls, width := []string{name + " [flags]"}, 0
	for _, c := range commands {
		calls = append(calls, c.call(name))
	}
	for _, call := range calls {
		width = max(width, len(call))
	}
	fmt.Fprintf(w, "usage: %-*s  run the daemon\n", width, calls[0])
	for i, c := range commands {
		fmt.Fprintf(w, "       %-*s  %s\n", width, calls[i+1], c.Short)
	}
	fmt.Fprintln(w, "\nflags:")
	flags.PrintDefaults()
}

// call says how a command of the program of that name is called.
func (c Command) call(name string) string {
	return strings.TrimSpace(fmt.Sprintf("%s %s [flags] %s", name, c.Name, c.Args))
}

// perform runs one command.
func perform(name string, c Command, args []string, stdout, stderr io.Writer, config any) int {
	flags := flag.NewFlagSet(name+" "+c.Name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", name+".yaml", "configuration `file` of the daemon")
	if c.Flags != nil {
		c.Flags(flags)
	}
	flags.Usage = func() {
		fmt.Fprintf(stderr, "usage: %s\n\n%s.\n\nflags:\n", c.call(name), c.Short)
		flags.PrintDefaults()
		fmt.Fprintf(stderr, "\nexit codes: 0 done; 1 the daemon refused, or it could not; 2 the command line or the configuration is wrong; 4 no daemon is running\n")
	}
	var plain []string
	for len(args) > 0 { // flags may stand behind arguments too
		if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
			return ExitOK
		} else if err != nil {
			return ExitUsage
		}
		args = flags.Args()
		if len(args) > 0 {
			plain, args = append(plain, args[0]), args[1:]
		}
	}
	err := load(*path, config)
	if err != nil {
		err = &ConfigError{err}
	} else {
		ctx, stop := untilSignal(context.Background())
		defer stop()
		err = c.Run(ctx, Env{dir: filepath.Dir(*path)}, plain, stdout)
	}
	if err == nil {
		return ExitOK
	}
	fmt.Fprintf(stderr, "%s: %s\n", name, strictyaml.Apart(err))
	var wrong *ConfigError
	var absent *AbsentError
	switch {
	case errors.As(err, &wrong):
		return ExitUsage
	case errors.As(err, &absent):
		return ExitAbsent
	}
	return ExitFailed
}
