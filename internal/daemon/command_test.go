package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium.dev/internal/daemon"
)

// TestCommands: a command is done instead of running the daemon, with its own flags, before or behind its arguments, and its
// error is its exit code.
func TestCommands(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "probe.yaml")
	if err := os.WriteFile(path, []byte("listen: :1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var loud bool
	end := errors.New("no")
	say := daemon.Command{
		Name: "say", Args: "WORD", Short: "Say a word", Flags: func(f *flag.FlagSet) { f.BoolVar(&loud, "loud", false, "loudly") },
		Run: func(_ context.Context, env daemon.Env, args []string, stdout io.Writer) error {
			switch strings.Join(args, " ") {
			case "usage":
				return &daemon.ConfigError{Err: end}
			case "absent":
				return &daemon.AbsentError{Err: end}
			case "failed":
				return end
			}
			fmt.Fprintln(stdout, args, loud, env.Path("x"))
			return nil
		},
	}
	for _, c := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"say", "a", "--config", path, "b"}, 0, "[a b] false " + filepath.Join(folder, "x") + "\n", ""},
		{[]string{"say", "--loud", "--config", path}, 0, "[] true", ""},
		{[]string{"say", "usage", "--config", path}, daemon.ExitUsage, "", "probe: no\n"},
		{[]string{"say", "absent", "--config", path}, daemon.ExitAbsent, "", "probe: no\n"},
		{[]string{"say", "failed", "--config", path}, daemon.ExitFailed, "", "probe: no\n"},
		{[]string{"say", "--config", path + "x"}, daemon.ExitUsage, "", "opening the configuration"},
		{[]string{"say", "--quiet"}, daemon.ExitUsage, "", "flag provided but not defined"},
		{[]string{"say", "--help"}, 0, "", "usage: probe say [flags] WORD"},
		{[]string{"--help"}, 0, "", "usage: probe [flags]           run the daemon\n       probe say [flags] WORD  Say a word\n"},
		{[]string{"shout", "--config", path}, daemon.ExitUsage, "", `unexpected argument "shout"`},
	} {
		loud = false
		var stdout, stderr bytes.Buffer
		var into config
		code := daemon.Start("probe", c.args, &stdout, &stderr, &into, func(context.Context, daemon.Env) error {
			t.Errorf("%q: the daemon ran", c.args)
			return nil
		}, say)
		if code != c.code || !strings.HasPrefix(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%q: code %d, %q, %q, want %d, %q and %q", c.args, code, stdout.String(), stderr.String(), c.code, c.stdout, c.stderr)
		}
	}
}
