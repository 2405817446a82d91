package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/control"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/participant"
)

// schema names the form of what --output json prints. Fields are added under it, never renamed or given a new meaning.
const schema = "consilium.participant/1"

// control returns the socket over which the daemon's administrator speaks.
func (c *config) control(env daemon.Env) string {
	if c.Control != "" {
		return env.Path(c.Control)
	}
	_, folder, _ := strings.Cut(env.URI(c.Store), ":")
	return filepath.Join(folder, "control")
}

// commands returns what the member's own administrator can tell the daemon. They speak to it over its socket, which only the
// user that it runs as can open.
func commands(c *config) []daemon.Command {
	var reason, output string
	var all bool
	text := func(f *flag.FlagSet) {
		f.StringVar(&reason, "reason", "", "why, at most 200 bytes: for the log, and where a run is left for the other members too")
	}
	form := func(f *flag.FlagSet) { outputFlag(f, &output) }
	verb := func(name, args, short string, flags func(*flag.FlagSet), question func([]string) (control.Question, error)) daemon.Command {
		return daemon.Command{
			Name: name, Args: args, Short: short, Flags: func(f *flag.FlagSet) { form(f); flags(f) },
			Run: func(ctx context.Context, env daemon.Env, args []string, stdout io.Writer) error {
				q, err := question(args)
				if err == nil {
					err = goodOutput(output)
				}
				if err != nil {
					return &daemon.ConfigError{Err: err}
				}
				q.Verb, q.Reason = name, reason
				return say(ctx, c.control(env), q, output, stdout)
			},
		}
	}
	none := func(args []string) (control.Question, error) {
		if len(args) > 0 {
			return control.Question{}, fmt.Errorf("unexpected argument %q", args[0])
		}
		return control.Question{}, nil
	}
	return []daemon.Command{
		check(c),
		verb("status", "", "Say what the daemon does, and which runs are open", func(*flag.FlagSet) {}, none),
		verb("pause", "", "Stop at once what is done for any run, and take nothing new, until resume", text, none),
		verb("resume", "", "Undo pause", func(*flag.FlagSet) {}, none),
		verb("accept", "DIGEST", "Follow to a newer manifest, and those before it, where the policy says adopt: ask", func(*flag.FlagSet) {}, func(args []string) (control.Question, error) {
			if len(args) != 1 {
				return control.Question{}, errors.New("accept takes the digest of the manifest: read it first, with consilium manifest show FILE; participant status names the file")
			}
			return control.Question{Manifest: args[0]}, nil
		}),
		verb("leave", "[RUN]", "Withdraw from a run for ever, or with --all from all that are open", func(f *flag.FlagSet) {
			text(f)
			f.BoolVar(&all, "all", false, "leave every open run")
		}, func(args []string) (control.Question, error) {
			switch {
			case all && len(args) == 0:
				return control.Question{}, nil
			case all || len(args) != 1 || args[0] == "":
				return control.Question{}, errors.New("leave takes one run's id, or --all; participant status shows the runs")
			}
			return control.Question{Run: args[0]}, nil
		}),
	}
}

// say asks the daemon and prints its answer.
func say(ctx context.Context, socket string, q control.Question, output string, stdout io.Writer) error {
	var before participant.Status // whoever accepts is told when what he named was none that waits
	if q.Verb == "accept" {
		if data, err := control.Ask(ctx, socket, control.Question{Verb: "status"}); err == nil {
			if err := json.Unmarshal(data, &before); err != nil {
				return fmt.Errorf("the daemon's answer: %w", err)
			}
		}
	}
	data, err := control.Ask(ctx, socket, q)
	if errors.Is(err, control.ErrAbsent) {
		return &daemon.AbsentError{Err: fmt.Errorf("%w (a daemon that is not running does nothing for any run; start it, then repeat the command)", err)}
	}
	if err != nil {
		return err
	}
	if w := before.Waits; len(w) > 0 && !slices.ContainsFunc(w, func(w participant.Waiting) bool { return w.Manifest.String() == q.Manifest }) {
		return fmt.Errorf("nothing was accepted: %s goes by epoch %d, and epoch %d waits: read %s, then participant accept %s",
			before.Name, before.Epoch, w[0].Epoch, w[0].File, w[0].Manifest)
	}
	if output == "json" {
		return printJSON(stdout, "participant."+q.Verb, data)
	}
	var s participant.Status
	if err := json.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("the daemon's answer: %w", err)
	}
	_, err = io.WriteString(stdout, words(q.Verb, s))
	return err
}

// printJSON prints the one form of all answers to machines.
func printJSON(w io.Writer, kind string, data any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Schema string `json:"schema"`
		Kind   string `json:"kind"`
		Data   any    `json:"data"`
	}{schema, kind, data})
}

// outputFlag lets a command be told in which form it prints.
func outputFlag(f *flag.FlagSet, output *string) {
	f.StringVar(output, "output", "text", "text or json")
	f.StringVar(output, "o", "text", "short for --output")
}

func goodOutput(output string) error {
	if output != "text" && output != "json" {
		return fmt.Errorf("--output %q: want text or json", output)
	}
	return nil
}

// words says an answer to a person.
func words(verb string, s participant.Status) string {
	switch verb {
	case "pause":
		return fmt.Sprintf("%s is paused; undo it with participant resume\n", s.Name)
	case "resume":
		return fmt.Sprintf("%s goes on\n", s.Name)
	case "accept":
		return fmt.Sprintf("%s goes by epoch %d of the manifest\n", s.Name, s.Epoch)
	case "leave":
		if len(s.Left) == 0 {
			return "no run is open: nothing was left\n"
		}
		return fmt.Sprintf("%s has left %s; the coordinator is told when it is there\n", s.Name, strings.Join(s.Left, ", "))
	}
	var b strings.Builder
	ago := func(t time.Time) string { return max(s.Now.Sub(t), 0).Round(time.Second).String() }
	fmt.Fprintf(&b, "member       %s\n", s.Name)
	if s.Heard.IsZero() {
		b.WriteString("coordinator  not heard since the start\n")
	} else {
		fmt.Fprintf(&b, "coordinator  heard %s ago\n", ago(s.Heard))
	}
	if !s.Attested.IsZero() {
		fmt.Fprintf(&b, "attested     until %s; the next connection is made before\n", s.Attested.UTC().Format(time.RFC3339))
	}
	if s.Quotes > 0 {
		fmt.Fprintf(&b, "quotes       %d wait for this machine's attester, the oldest for %s\n", s.Quotes, time.Duration(s.Oldest*float64(time.Second)).Round(time.Second))
	}
	fmt.Fprintf(&b, "does         %s for %s", s.Doing, ago(s.Since))
	if s.Run != "" {
		fmt.Fprintf(&b, ", round %d of run %s", s.Round, s.Run)
	}
	if s.Of > 1 {
		fmt.Fprintf(&b, ", step %d of %d, the last %s ago", s.Steps, s.Of, ago(s.Progress))
	}
	b.WriteString("\n")
	if s.Reason != "" {
		fmt.Fprintf(&b, "reason       %s\n", s.Reason)
	}
	fmt.Fprintf(&b, "epoch        %d\n", s.Epoch)
	if s.Platform != "" {
		fmt.Fprintf(&b, "platform     %s\n", s.Platform)
	}
	if s.Unwraps != "" {
		fmt.Fprintf(&b, "at rest      sealed under a key that opens for %s\n", s.Unwraps)
	}
	if c := s.Collateral; c != nil && len(c.Pieces) > 0 {
		fmt.Fprintf(&b, "collateral   %s\n", c.Words(s.Now))
		for _, m := range c.Missing {
			fmt.Fprintf(&b, "not fetched  %s since %s: %s\n", m.Name, m.Since.UTC().Format(time.RFC3339), m.Why)
		}
	}
	for _, m := range s.Waits {
		fmt.Fprintf(&b, "waits        epoch %d for its owner: read %s, then participant accept %s\n", m.Epoch, m.File, m.Manifest)
	}
	for _, run := range s.Runs {
		fmt.Fprintf(&b, "open run     %s\n", run)
	}
	for _, run := range s.Left {
		fmt.Fprintf(&b, "left run     %s\n", run)
	}
	return b.String()
}
