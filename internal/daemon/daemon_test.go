package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"consilium.dev/internal/daemon"
)

// config is what a daemon of these tests is told.
type config struct {
	Listen string `yaml:"listen"`
	Tries  int    `yaml:"tries"`
}

// result is how a start ended.
type result struct {
	code           int
	stdout, stderr string
	ran            bool
	config         config
}

// start runs a daemon within this process, over a configuration file that holds text.
func start(t *testing.T, text string, args []string, run func(context.Context, daemon.Env) error) result {
	t.Helper()
	path := filepath.Join(t.TempDir(), "probe.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var r result
	var stdout, stderr bytes.Buffer
	r.code = daemon.Start("probe", append([]string{"--config", path}, args...), &stdout, &stderr, &r.config, func(ctx context.Context, env daemon.Env) error {
		r.ran = true
		return run(ctx, env)
	})
	r.stdout, r.stderr = stdout.String(), stderr.String()
	return r
}

func nothing(context.Context, daemon.Env) error { return nil }

// TestUsage: what is wrong in flags or configuration is said once, nothing is started, and the exit code is 2.
func TestUsage(t *testing.T) {
	const good = "listen: :1\n"
	for _, c := range []struct {
		name, text string
		args       []string
		want       string
	}{
		{"unknown flag", good, []string{"--verbose"}, "flag provided but not defined: -verbose"},
		{"flag without a value", good, []string{"--config"}, "flag needs an argument: -config"},
		{"argument", good, []string{"start"}, `probe: unexpected argument "start": everything is said in the configuration, see --help`},
		{"unknown format", good, []string{"--log-format", "xml"}, `probe: --log-format "xml": want console or json`},
		{"unknown level", good, []string{"--log-level", "loud"}, `probe: --log-level "loud": want debug, info, warn or error`},
		{"level that hides errors", good, []string{"--log-level", "fatal"}, `probe: --log-level "fatal": want debug`},
		{"no level", good, []string{"--log-level", ""}, `probe: --log-level "": want debug`},
		{"no file", good, []string{"--config", "none.yaml"}, "probe: opening the configuration: open none.yaml: no such file or directory (name it with --config)"},
		{"folder", good, []string{"--config", "."}, "probe: reading the configuration: read .: is a directory"},
		{"unknown key", good + "lisetn: :2\n", nil, `probe.yaml: line 2, column 1: unknown key "lisetn"`},
		{"doubled key", good + "tries: 1\nlisten: :2\n", nil, `probe.yaml: line 3, column 1: `},
		{"alias", "listen: &a x\ntries: *a\n", nil, "probe.yaml: line 1: anchors, aliases and merge keys are not allowed here"},
		{"word for a number", good + "tries: many\n", nil, "probe.yaml: line 2, column 8: want a whole number within bounds, not text"},
		{"several faults", "listen: [a]\ntries: many\n", nil, "probe.yaml:\n  line 1, column 9: want text, not a list\n  line 2, column 8: want a whole number"},
		{"empty file", "", nil, "probe.yaml: no documents in stream"},
		{"two documents", good + "---\n" + good, nil, "probe.yaml: expected single document"},
		{"large file", good + "#" + strings.Repeat("x", 1<<20), nil, "probe.yaml: more than 1048576 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, c.text, c.args, nothing)
			if r.code != daemon.ExitUsage || r.ran {
				t.Errorf("exit code %d, ran %t, want %d without running", r.code, r.ran, daemon.ExitUsage)
			}
			if !strings.Contains(r.stderr, c.want) || r.stdout != "" {
				t.Errorf("said %q and on stderr %q, want only there, with %q", r.stdout, r.stderr, c.want)
			}
			if first, _, _ := strings.Cut(r.stderr, "\n"); strings.HasPrefix(first, "probe: ") && strings.Count(r.stderr, "\n") != 1+strings.Count(c.want, "\n") {
				t.Errorf("said %q, want a line, and one for each of several faults", r.stderr)
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	r := start(t, "", []string{"--help"}, nothing)
	for _, want := range []string{"-config file", "-log-format", "-log-level", "-version", `default "probe.yaml"`} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("--help says %q, want %q in it", r.stderr, want)
		}
	}
	if r.code != daemon.ExitOK || r.ran {
		t.Errorf("--help: exit code %d, ran %t, want 0 without running", r.code, r.ran)
	}
	r = start(t, "", []string{"--version"}, nothing)
	if r.code != daemon.ExitOK || r.ran || r.stdout != "probe "+daemon.Version+"\n" || r.stderr != "" {
		t.Errorf("--version: exit code %d, ran %t, said %q, %q", r.code, r.ran, r.stdout, r.stderr)
	}
}

// TestEnds: how run ends decides the exit code, and an error is logged once.
func TestEnds(t *testing.T) {
	full := errors.New("disk full")
	for _, c := range []struct {
		name string
		err  error
		code int
		want []string // level, message, error of the last line
	}{
		{"well", nil, daemon.ExitOK, []string{"info", "probe ended", ""}},
		{"with an error", full, daemon.ExitFailed, []string{"error", "probe stopped", "disk full"}},
		{"with a canceled call", context.Canceled, daemon.ExitFailed, []string{"error", "probe stopped", "context canceled"}},
		{"with a configuration that cannot be used", &daemon.ConfigError{Err: full}, daemon.ExitUsage, []string{"error", "probe cannot start", "disk full"}},
		{"with one wrapped", fmt.Errorf("keys: %w", &daemon.ConfigError{Err: full}), daemon.ExitUsage, []string{"error", "probe cannot start", "keys: disk full"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, "tries: 3\n", []string{"--log-format=json"}, func(context.Context, daemon.Env) error { return c.err })
			if r.code != c.code || !r.ran || r.config.Tries != 3 {
				t.Errorf("exit code %d, ran %t, read %v, want %d after running with 3 tries", r.code, r.ran, r.config, c.code)
			}
			all := lines(t, r.stderr)
			if len(all) != 1 {
				t.Fatalf("logged %q, want one line", r.stderr)
			}
			got := []string{all[0]["level"], all[0]["msg"], all[0]["error"]}
			if strings.Join(got, "|") != strings.Join(c.want, "|") {
				t.Errorf("logged %q, want %q", got, c.want)
			}
		})
	}
	// Each of several errors has a line of its own; a text with several in it is one.
	several := errors.Join(full, fmt.Errorf("two: %w and %w", full, full))
	r := start(t, "tries: 3\n", []string{"--log-format=json"}, func(context.Context, daemon.Env) error { return &daemon.ConfigError{Err: several} })
	if all := lines(t, r.stderr); len(all) != 2 || all[0]["error"] != "disk full" || all[1]["error"] != "two: disk full and disk full" {
		t.Errorf("two errors are logged as %q, want a line for each", r.stderr)
	}
	if !errors.Is(&daemon.ConfigError{Err: full}, full) {
		t.Error("a ConfigError hides what is wrong")
	}
}

// lines reads a log of JSON lines of text fields.
func lines(t *testing.T, log string) []map[string]string {
	t.Helper()
	var all []map[string]string
	for line := range strings.Lines(log) {
		var m map[string]string
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("line %q of the log: %v", line, err)
		}
		if _, err := time.Parse(time.RFC3339Nano, m["ts"]); err != nil {
			t.Errorf("line %q of the log has no time: %v", line, err)
		}
		all = append(all, m)
	}
	return all
}

// TestLogFormats: one JSON object a line for programs, one line for people, nothing below the level asked for.
func TestLogFormats(t *testing.T) {
	talk := func(_ context.Context, env daemon.Env) error {
		env.Log.Debug("looked", zap.Duration("for", 90*time.Second))
		env.Log.Warn("look here", zap.String("run", "r-1"), zap.Duration("for", 90*time.Second))
		return nil
	}
	all := lines(t, start(t, "{}", []string{"--log-format=json", "--log-level=debug"}, talk).stderr)
	if len(all) != 3 || all[0]["level"] != "debug" || all[1]["run"] != "r-1" || all[1]["for"] != "1m30s" || all[1]["msg"] != "look here" {
		t.Errorf("logged %v, want debug, warn with its fields, and the end", all)
	}
	for _, unwanted := range []string{"caller", "stacktrace"} {
		if _, there := all[1][unwanted]; there {
			t.Errorf("logged %v, want no %s", all[1], unwanted)
		}
	}
	for level, want := range map[string]int{"debug": 3, "info": 2, "warn": 1, "error": 0} {
		if got := lines(t, start(t, "{}", []string{"--log-format=json", "--log-level", level}, talk).stderr); len(got) != want {
			t.Errorf("level %s: logged %v, want %d lines", level, got, want)
		}
	}
	console := start(t, "{}", nil, talk).stderr
	if strings.Count(console, "\n") != 2 || !strings.Contains(console, "\tWARN\tlook here\t{\"run\": \"r-1\", \"for\": \"1m30s\"}\n") {
		t.Errorf("logged %q, want two lines for people", console)
	}
}

// TestSimulated: each line of a simulated enclave says so, the last one too; of a real one none.
func TestSimulated(t *testing.T) {
	for root, want := range map[string]string{"demo root": "demo root", "": ""} {
		r := start(t, "{}", []string{"--log-format=json"}, func(_ context.Context, env daemon.Env) error {
			log := env.Simulated(root)
			log.Info("one")
			log.Named("x").With(zap.String("k", "v")).Warn("two")
			return nil
		})
		for _, m := range lines(t, r.stderr) {
			if got, there := m["simulated"]; got != want || there != (want != "") {
				t.Errorf("root %q: logged %v, want simulated %q", root, m, want)
			}
		}
	}
}

// TestPaths: what the configuration names lies beside it, unless it says where.
func TestPaths(t *testing.T) {
	start(t, "{}", nil, func(_ context.Context, env daemon.Env) error {
		dir := env.Path("x")
		dir = dir[:len(dir)-2]
		if _, err := os.Stat(env.Path("probe.yaml")); err != nil {
			t.Errorf("Path(probe.yaml) is not the configuration: %v", err)
		}
		for in, want := range map[string]string{"": "", "/etc/key": "/etc/key", "a/../b": dir + "/b", "../k": filepath.Dir(dir) + "/k"} {
			if got := env.Path(in); got != want {
				t.Errorf("Path(%q) = %q, want %q", in, got, want)
			}
		}
		for in, want := range map[string]string{
			"": "", "file:": "file:", "file:k.pem": "file:" + dir + "/k.pem", "file:/etc/key": "file:/etc/key", "no scheme": "no scheme",
			"vendor://host/key": "vendor://host/key",
		} {
			if got := env.URI(in); got != want {
				t.Errorf("URI(%q) = %q, want %q", in, got, want)
			}
		}
		return nil
	})
}

// TestSecrets: a value in the wrong place of a configuration is not repeated.
func TestSecrets(t *testing.T) {
	for _, text := range []string{"tries: hunter2\n", "listen: [hunter2]\n", "listen: {hunter2: hunter2}\n", "listen: a\ntries: &hunter2 1\n", "hunter2\n"} {
		r := start(t, text, nil, nothing)
		if r.code != daemon.ExitUsage || strings.Contains(r.stdout+r.stderr, "hunter2") {
			t.Errorf("%q: exit code %d, said %q, want %d and the secret left out", text, r.code, r.stderr, daemon.ExitUsage)
		}
	}
}
