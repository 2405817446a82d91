package daemon_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"consilium.dev/internal/daemon"
)

// probeVar makes this test's binary a daemon that ends as its value says.
const probeVar = "CONSILIUM_TEST_PROBE"

func TestMain(m *testing.M) {
	if how := os.Getenv(probeVar); how != "" {
		var c config
		os.Exit(daemon.Main("probe", &c, func(ctx context.Context, env daemon.Env) error { return probe(ctx, env, how) }))
	}
	os.Exit(m.Run())
}

// probe says when it is ready, waits until it is asked to end, and then does as it was told.
func probe(ctx context.Context, env daemon.Env, how string) error {
	env.Log.Info("ready")
	if how == "protect" {
		if err := protected(ctx, env); err != nil {
			return err
		}
	}
	<-ctx.Done()
	switch how {
	case "cause":
		return context.Cause(ctx)
	case "error":
		return errors.New("connection reset")
	case "hang":
		env.Log.Info("hanging")
		select {}
	}
	return nil
}

// launch starts a probe and waits until it is ready.
func launch(t *testing.T, how string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "probe.yaml")
	if err := os.WriteFile(path, []byte("tries: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "--config", path)
	cmd.Env = append(os.Environ(), probeVar+"="+how)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	log := bufio.NewReader(stderr)
	wait(t, log, "ready")
	return cmd, log
}

// wait reads a log until a line holds the word, and returns that.
func wait(t *testing.T, log *bufio.Reader, word string) string {
	t.Helper()
	for {
		line, err := log.ReadString('\n')
		if err != nil {
			t.Fatalf("the log ends before %q: %v", word, err)
		}
		if strings.Contains(line, word) {
			return line
		}
	}
}

// TestSignals: SIGINT and SIGTERM end a daemon with 0, whatever run returns then; what went wrong meanwhile is logged.
func TestSignals(t *testing.T) {
	for _, c := range []struct {
		how    string
		signal os.Signal
		want   string
	}{
		{"nil", syscall.SIGTERM, "probe ended"},
		{"nil", os.Interrupt, "probe ended"},
		{"cause", syscall.SIGTERM, "probe ended"},
		{"error", syscall.SIGTERM, "connection reset"},
	} {
		t.Run(c.how+" "+c.signal.String(), func(t *testing.T) {
			t.Parallel()
			cmd, log := launch(t, c.how)
			if err := cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			line, err := log.ReadString('\n')
			if err != nil || !strings.Contains(line, c.want) || strings.Contains(line, "WARN") != (c.how == "error") {
				t.Errorf("logged %q, %v, want a line with %q", line, err, c.want)
			}
			if c.how == "error" {
				wait(t, log, "probe ended")
			}
			if rest, _ := log.ReadString('\n'); rest != "" {
				t.Errorf("logged also %q, want nothing more", rest)
			}
			if err := cmd.Wait(); err != nil {
				t.Errorf("the daemon ended with %v, want exit code 0", err)
			}
		})
	}
}

// TestSecondSignal: a daemon that does not end when it is asked to ends at once when it is asked again.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	cmd, log := launch(t, "hang")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wait(t, log, "hanging")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != daemon.ExitTwice {
		t.Errorf("the daemon ended with %v, want exit code %d", err, daemon.ExitTwice)
	}
}

// TestSignalFlood: neither do signals that come without a pause make it end in another way.
func TestSignalFlood(t *testing.T) {
	t.Parallel()
	cmd, _ := launch(t, "hang")
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != daemon.ExitTwice {
				t.Errorf("the daemon ended with %v, want exit code %d", err, daemon.ExitTwice)
			}
			return
		default:
			_ = cmd.Process.Signal(syscall.SIGTERM)
			runtime.Gosched()
		}
	}
}
