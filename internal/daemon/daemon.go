// Package daemon is what Consilium's long-running programs do alike: read flags and a strict YAML configuration, make
// the logger, turn SIGINT and SIGTERM into the end of a context, and turn an error into one log line and an exit code.
//
//	func main() {
//		var c config
//		os.Exit(daemon.Main("coordinator", &c, func(ctx context.Context, env daemon.Env) error { ... }))
//	}
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"consilium.dev/internal/strictyaml"
)

// Version is the program's version, as peers and logs see it.
const Version = "0.1.0"

// The exit codes of a daemon, as docs/operating.md lists them.
const (
	ExitOK     = 0
	ExitFailed = 1 // it ran and stopped for the reason it logged
	ExitUsage  = 2 // flags or configuration are wrong; nothing was started
	ExitTwice  = 3 // it was told a second time to end, and ended at once
)

// Env is what a daemon's run function is given.
type Env struct {
	Log *zap.Logger

	dir  string
	path string       // of the configuration file
	last **zap.Logger // the log that has the last word
}

// Path returns p as the configuration means it: relative to the folder that the configuration file is in.
func (e Env) Path(p string) string {
	if p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(e.dir, p)
}

// Reread reads the configuration file again, into another struct of the same type.
func (e Env) Reread(config any) error { return load(e.path, config) }

// Hangups returns a channel that gets a value after SIGHUP, and a function that ends that. Signals that arrive before the last one
// was taken count as one.
func Hangups() (<-chan os.Signal, func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP)
	return signals, func() { signal.Stop(signals) }
}

// URI returns "scheme:path" with its path made relative to the configuration's folder, as Path does.
func (e Env) URI(uri string) string {
	scheme, path, ok := strings.Cut(uri, ":")
	if !ok {
		return uri
	}
	return scheme + ":" + e.Path(path)
}

// Simulated returns the log for a daemon whose enclave is simulated under the private root of that name: each of its lines
// says so. On hardware, where root is "", it is Log itself.
func (e Env) Simulated(root string) *zap.Logger {
	if root == "" {
		return e.Log
	}
	log := e.Log.With(zap.String("simulated", root))
	if e.last != nil { // an Env that was not made by Main has none
		*e.last = log // how the daemon ends is said in it too
	}
	return log
}

// ConfigError says that the configuration cannot be used. Main turns it into [ExitUsage].
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns what is wrong.
func (e *ConfigError) Unwrap() error { return e.Err }

// Main reads the flags and the configuration file into config (a pointer to a struct with yaml tags), runs run until it
// returns or SIGINT or SIGTERM arrives and it then returns, and gives the exit code, which is [ExitOK] after a signal
// whatever run returns. An error is logged once, here. A second signal ends the process at once, with [ExitTwice]. Where the
// first argument is the name of one of the commands, that is done instead.
func Main(name string, config any, run func(context.Context, Env) error, commands ...Command) int {
	return start(name, os.Args[1:], os.Stdout, os.Stderr, config, run, commands...)
}

// Verb is [Main] for a daemon that is a verb of another program: args is what stands behind the verb.
func Verb(name string, args []string, config any, run func(context.Context, Env) error) int {
	return start(name, args, os.Stdout, os.Stderr, config, run)
}

func start(
	name string, args []string, stdout, stderr io.Writer, config any, run func(context.Context, Env) error, commands ...Command,
) int {
	for _, c := range commands {
		if len(args) > 0 && args[0] == c.Name {
			return perform(name, c, args[1:], stdout, stderr, config)
		}
	}
	// An own flag set: libraries register flags on the global one.
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("config", name+".yaml", "configuration `file`")
	format := flags.String("log-format", "console", "console or json")
	level := flags.String("log-level", "info", "debug, info, warn or error")
	flags.Usage = func() { usage(stderr, name, flags, commands) }
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return ExitOK
	} else if err != nil {
		return ExitUsage
	}
	if *version {
		fmt.Fprintln(stdout, name, Version)
		return ExitOK
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "%s: unexpected argument %q: everything is said in the configuration, see --help\n", name, flags.Arg(0))
		return ExitUsage
	}
	log, err := logger(*format, *level, stderr)
	if err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return ExitUsage
	}
	if err := load(*path, config); err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", name, strictyaml.Apart(err))
		return ExitUsage
	}
	ctx, stop := untilSignal(context.Background())
	defer stop()
	err = run(ctx, Env{Log: log, dir: filepath.Dir(*path), path: *path, last: &log})
	var usage *ConfigError
	switch {
	case errors.As(err, &usage):
		each(err, func(err error) { log.Error(name+" cannot start", zap.Error(err)) })
		return ExitUsage
	case err != nil && ctx.Err() == nil:
		each(err, func(err error) { log.Error(name+" stopped", zap.Error(err)) })
		return ExitFailed
	case err != nil && !errors.Is(err, context.Canceled): // it was asked to end, and did
		each(err, func(err error) { log.Warn(name+" did not end in order", zap.Error(err)) })
	}
	log.Info(name + " ended")
	return ExitOK
}

// each calls f for every error that [errors.Join] has put into err, or for err alone: a line of a log is one fault.
func each(err error, f func(error)) {
	if c, ok := err.(*ConfigError); ok {
		each(c.Err, f)
		return
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		f(err)
		return
	}
	all := joined.Unwrap()
	if again := errors.Join(all...); again == nil || again.Error() != err.Error() { // a text with several errors in it
		f(err)
		return
	}
	for _, one := range all {
		each(one, f)
	}
}

// untilSignal returns a context that SIGINT and SIGTERM end. The signals stay with us afterwards too: a process that gives them
// back to the runtime and then gets several at once may end on a fault instead, since the runtime's handler lets each of them
// interrupt the one before, on one small stack.
func untilSignal(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals, over := make(chan os.Signal, 2), make(chan struct{})
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	var watch sync.WaitGroup
	watch.Go(func() {
		for range 2 {
			select {
			case <-over:
				return
			case <-signals:
				if ctx.Err() != nil {
					os.Exit(ExitTwice)
				}
				cancel()
			}
		}
	})
	return ctx, func() {
		signal.Stop(signals)
		close(over)
		watch.Wait()
		cancel()
	}
}

// logger writes lines to w: for people, or one JSON object each.
func logger(format, level string, w io.Writer) (*zap.Logger, error) {
	l, ok := map[string]zapcore.Level{
		"debug": zapcore.DebugLevel, "info": zapcore.InfoLevel, "warn": zapcore.WarnLevel, "error": zapcore.ErrorLevel,
	}[level]
	if !ok {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", level)
	}
	c := zap.NewProductionEncoderConfig()
	c.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	c.EncodeDuration = zapcore.StringDurationEncoder
	var encoder zapcore.Encoder
	switch format {
	case "json":
		encoder = zapcore.NewJSONEncoder(c)
	case "console":
		c.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		c.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(c)
	default:
		return nil, fmt.Errorf("--log-format %q: want console or json", format)
	}
	return zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), l)), nil
}
