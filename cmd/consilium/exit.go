package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"consilium.dev/internal/client"
	"consilium.dev/internal/tunnel"
)

// kind is a kind of failure: the code that programs see in JSON and the exit code that scripts see. Both are stable.
type kind struct {
	code  string
	exit  int
	means string
}

var (
	kindFailed      = kind{"failed", 1, "something else went wrong, as the message says: a disk, a bug"}
	kindUsage       = kind{"usage", 2, "the command line or your consilium.yaml is wrong; nothing was done"}
	kindRefused     = kind{"refused", 3, "a manifest, a plan, a key or a file does not pass; nothing was changed"}
	kindNotFound    = kind{"not-found", 4, "there is no such file, run or model"}
	kindUnreachable = kind{"unreachable", 5, "the coordinator, or who hands out collateral, does not answer"}
	kindDenied      = kind{"denied", 6, "the manifest does not let you do that"}
	kindUntrusted   = kind{"untrusted", 7, "the attested channel refused: evidence, a key or the manifest of one side does not pass"}
	kindRunFailed   = kind{"run-failed", 8, "the run that was watched ended without completing"}
	kindWait        = kind{"wait-exceeded", 9, "--timeout has passed; the run goes on"}
	kindInterrupted = kind{"interrupted", 130, "SIGINT or SIGTERM; what the coordinator was asked for may have happened"}
)

// kinds are all of them, in the order of their exit codes.
func kinds() []kind {
	return []kind{
		kindFailed, kindUsage, kindRefused, kindNotFound, kindUnreachable, kindDenied, kindUntrusted, kindRunFailed, kindWait,
		kindInterrupted,
	}
}

// exitCodesTopic is "consilium help exit-codes".
func exitCodesTopic() *cobra.Command {
	var text strings.Builder
	text.WriteString("The exit codes of consilium, and the codes of errors in JSON:\n\n    0  -              done\n")
	for _, k := range kinds() {
		fmt.Fprintf(&text, "  %3d  %-14s %s\n", k.exit, k.code, k.means)
	}
	return &cobra.Command{Use: "exit-codes", Short: "How this program says what went wrong", Long: strings.TrimSpace(text.String())}
}

// fault is an error with its kind and what to do about it.
type fault struct {
	kind kind
	hint string
	err  error
}

func (f *fault) Error() string { return f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

func newFault(k kind, hint, format string, args ...any) error {
	return &fault{kind: k, hint: hint, err: fmt.Errorf(format, args...)}
}

func usageError(hint, format string, args ...any) error {
	return newFault(kindUsage, hint, format, args...)
}

func refusedError(hint, format string, args ...any) error {
	return newFault(kindRefused, hint, format, args...)
}

func notFoundError(hint, format string, args ...any) error {
	return newFault(kindNotFound, hint, format, args...)
}

// unwritten gives an error of writing what a flag names its kind and a hint: most often it names no place where anybody could write.
func unwritten(flag string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return usageError("make the folder first, or name another place with "+flag, "%w", err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return usageError("name a place that you may write to with "+flag, "%w", err)
	case errors.Is(err, syscall.EISDIR), errors.Is(err, fs.ErrExist):
		return usageError("a folder is there: name a file with "+flag, "%w", err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return newFault(kindFailed, "make room, then repeat the command, or name another place with "+flag, "%w", err)
	}
	return newFault(kindFailed, "name another place with "+flag, "%w", err)
}

// errSaid ends a command that has said all there is to say, with the exit code of its kind.
type errSaid struct{ kind kind }

func (e errSaid) Error() string { return e.kind.means }

// errEnded is a daemon that has ended, and has logged why, with its exit code.
type errEnded int

func (e errEnded) Error() string { return fmt.Sprintf("ended with code %d", int(e)) }

// The causes of contexts that end by themselves.
var (
	errNoAnswer = errors.New("no answer for " + patience.String())
	errWaited   = errors.New("--timeout has passed")
)

// within gives ctx an end, and the end a cause. It is no deadline: gRPC tells that to the coordinator and counts it down at both ends,
// whose timers may be a moment ahead of ctx's own, and then a call fails before ctx knows why.
func within(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	end := time.AfterFunc(d, func() { cancel(cause) })
	return ctx, func() {
		end.Stop()
		cancel(nil)
	}
}

// explain gives an error of the client its kind and a hint. ctx is what the call was given.
func explain(ctx context.Context, c *connection, err error) error {
	var known *fault
	var way *tunnel.Error
	cause := context.Cause(ctx)
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(cause, errWaited):
		return newFault(kindWait, "the run goes on: watch it again, or with a longer --timeout", "%w", cause)
	case errors.Is(cause, errNoAnswer) && errors.Is(err, context.Canceled):
		return newFault(kindUnreachable, c.reachHint(), "%w", cause)
	case errors.Is(cause, errNoAnswer):
		return newFault(kindUnreachable, c.reachHint(), "%w: %w", err, cause)
	case errors.Is(cause, context.Canceled):
		return newFault(kindInterrupted, "", "interrupted")
	case errors.Is(err, client.ErrRefused):
		return newFault(kindUntrusted, c.trustHint(), "%w", err)
	case errors.As(err, &way):
		return newFault(kindUnreachable, c.proxyHint(), "%w", err)
	case errors.Is(err, client.ErrUnready):
		return newFault(kindUnreachable, "it runs, at the address that you have: ask again when what it names is there; its log says more", "%w", err)
	case errors.Is(err, client.ErrUnreachable), errors.Is(err, client.ErrStale), errors.Is(err, client.ErrNewer):
		return newFault(kindUnreachable, c.reachHint(), "%w", err)
	case errors.Is(err, client.ErrDenied):
		return newFault(kindDenied, "who may do what stands in the manifest: consilium manifest show "+c.manifestFile, "%w", err)
	case errors.Is(err, client.ErrNotFound):
		return newFault(kindNotFound, "consilium run list and consilium model list show what there is", "%w", err)
	case errors.Is(err, client.ErrVersion):
		return newFault(kindRefused, "use a consilium of the coordinator's version, or the one before or after it", "%w", err)
	case errors.Is(err, client.ErrInvalid):
		return newFault(kindRefused, "", "%w", err)
	}
	return err
}

// faultOf returns what programs are told of an error.
func faultOf(err error) *fault {
	var f *fault
	if errors.As(err, &f) {
		return &fault{kind: f.kind, hint: f.hint, err: err}
	}
	if errors.Is(err, context.Canceled) {
		return &fault{kind: kindInterrupted, err: errors.New("interrupted")}
	}
	return &fault{kind: kindFailed, err: err}
}
