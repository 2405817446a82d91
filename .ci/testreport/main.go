// Testreport runs Go tests and says at the end what they came to: the failures again, every skipped test with its reason,
// and as the last line
//
//	N passed, N failed, N skipped
//
// It exits with 1 where anything failed. With CONSILIUM_REQUIRE_ALL=1 a skip is a failure too, unless its reason is that one of
// the CONSILIUM_ folders is not set, or .ci/skips expects it. Tests run under the race detector where that can be built.
//
//	testreport [-skips FILE] PACKAGE...
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	skips := flag.String("skips", ".ci/skips", "`file` of tests that may skip on any machine")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, os.Stdout, *skips, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// run runs the tests of the packages and reports whether all went well.
func run(ctx context.Context, out io.Writer, skips string, packages []string) (bool, error) {
	r := newReport(out, os.Getenv("CONSILIUM_REQUIRE_ALL") == "1")
	if err := r.expect(skips); err != nil {
		return false, err
	}
	args := []string{"test", "-json", "-timeout", "9m"}
	cmd := exec.CommandContext(ctx, "go", args...)
	if why := raceless(ctx); why == "" {
		fmt.Fprintln(out, "race detector: on")
		cmd.Args = append(cmd.Args, "-race")
		// A program under the race detector sleeps for a second before it exits, in case goroutines that nobody waited for race meanwhile. Here
		// every goroutine has an owner that waits, and the tests start hundreds of programs.
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED=1", "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	} else {
		fmt.Fprintln(out, "race detector: off,", why)
	}
	cmd.Args = append(cmd.Args, packages...)
	// The tests are ended as a terminal would end them, so that they can end what they started.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Stderr = out
	events, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	if err := cmd.Start(); err != nil {
		return false, err
	}
	readErr := r.read(events)
	waitErr := cmd.Wait()
	if readErr != nil {
		return false, readErr
	}
	return r.summarize(waitErr), nil
}

// raceless returns why the race detector cannot be used, "" where it can: it needs cgo, and cgo a C compiler that works. The
// only sure way to know is to build a program with it and to run that.
func raceless(ctx context.Context) string {
	dir, err := os.MkdirTemp("", "race")
	if err != nil {
		return err.Error()
	}
	defer os.RemoveAll(dir)
	file, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "race")
	if err := os.WriteFile(file, []byte("package main\n\nimport _ \"net\"\n\nfunc main() {}\n"), 0o600); err != nil {
		return err.Error()
	}
	build := exec.CommandContext(ctx, "go", "build", "-race", "-o", program, file)
	build.Env = append(build.Environ(), "CGO_ENABLED=1")
	if said, err := build.CombinedOutput(); err != nil {
		return "since it cannot be built here: " + reason(string(said))
	}
	if err := exec.CommandContext(ctx, program).Run(); err != nil {
		return "since a program built with it does not run here: " + err.Error()
	}
	return ""
}

// reason returns the line of a build's output that says most: the first that is not a headline.
func reason(said string) string {
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return "it says nothing"
}
