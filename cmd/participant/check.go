package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/dialect"
	"consilium.dev/internal/preflight"
	"consilium.dev/internal/skew"
)

// check is the command that looks at all that a member needs.
func check(c *config) daemon.Command {
	var output, plan string
	return daemon.Command{
		Name: "check", Short: "Look at all that the daemon needs, without taking part in anything; it may be running or not",
		Flags: func(f *flag.FlagSet) {
			outputFlag(f, &output)
			f.StringVar(&plan, "plan", "", "a lead's plan `file`: also read the records by its schema, and ask the owner's policy about it")
		},
		Run: func(ctx context.Context, env daemon.Env, args []string, stdout io.Writer) error {
			if len(args) > 0 {
				return &daemon.ConfigError{Err: fmt.Errorf("unexpected argument %q", args[0])}
			}
			if err := goodOutput(output); err != nil {
				return &daemon.ConfigError{Err: err}
			}
			list := examine(ctx, env, c, plan)
			if err := show(stdout, output, c.Name, list); err != nil {
				return err
			}
			if n := list.Failed(); n > 0 {
				return fmt.Errorf("%d of %d steps have failed", n, len(list.Steps))
			}
			return nil
		},
	}
}

// examine takes all steps that can be taken.
func examine(ctx context.Context, env daemon.Env, c *config, plan string) *preflight.List {
	list := &preflight.List{}
	x := &examined{c: c, env: env}
	list.Do("settings", x.settings)
	list.Do("memory", x.memory) // before the first key is read
	agreed := list.Do("manifest", x.manifest)
	known := false
	if agreed {
		known = list.Do("identity", x.identity)
	} else {
		list.Omit("not looked at: manifest has failed", "identity")
	}
	machine := list.Do("platform", func() (string, error) { return x.platform(ctx) })
	if machine {
		list.Do("kek", func() (string, error) { return x.kek(ctx) })
	} else {
		list.Omit("not looked at: platform has failed", "kek")
	}
	list.Do("store", x.store)
	list.Do("daemon", func() (string, error) { return x.daemon(ctx) })
	if agreed {
		list.Do("policy", func() (string, error) { return x.policy(ctx) })
	} else {
		list.Omit("not looked at: manifest has failed", "policy")
	}
	list.Do("data", func() (string, error) { return x.data(plan) })
	if !agreed || !known || !machine {
		list.Omit("not looked at: manifest, identity or platform has failed", "collateral", preflight.StepName, preflight.StepTCP, preflight.StepProxy,
			preflight.StepChannel, preflight.StepEpoch, preflight.StepClock)
		return list
	}
	scratch, err := os.MkdirTemp("", "consilium-check-")
	if err != nil {
		list.Do("collateral", func() (string, error) { return "", err })
	} else {
		defer os.RemoveAll(scratch) //nolint:errcheck // what is left of it is the system's to clear
		list.Do("collateral", func() (string, error) { return x.collateral(ctx, scratch) })
	}
	way, err := c.way(env)
	if err != nil {
		list.Do(preflight.StepProxy, func() (string, error) { return "", err })
		list.Omit("not looked at: proxy has failed", preflight.StepName, preflight.StepTCP, preflight.StepChannel, preflight.StepEpoch, preflight.StepClock)
		return list
	}
	limit := time.Duration(c.Skew)
	if limit == 0 {
		limit = skew.Default
	}
	attester, judges := x.parts.Attester, setup.Verifiers
	if x.kept != nil {
		attester, judges = x.kept.Attester(attester), collateral.Judges(x.kept, judges)
	}
	list.Reach(ctx, preflight.Options{
		Name: c.Name, Manifest: x.parts.Manifest, Coordinator: c.Coordinator.Name, Address: c.Coordinator.Address, Tunnel: way,
		Identity: x.parts.Identity, Attester: attester, Verifiers: judges, Skew: limit, Speech: dialect.Own(daemon.Version),
	})
	return list
}

// show prints what was found.
func show(w io.Writer, output, member string, list *preflight.List) error {
	if output == "json" {
		return printJSON(w, "participant.check", struct {
			Name  string           `json:"name"`
			OK    bool             `json:"ok"`
			Steps []preflight.Step `json:"steps"`
		}{member, list.Failed() == 0, list.Steps})
	}
	for _, s := range list.Steps {
		first, rest, _ := strings.Cut(s.Found, "\n")
		var text strings.Builder
		fmt.Fprintf(&text, "%-10s %-8s %6.2f s  %s\n", s.Name, s.State, s.Seconds, first)
		for line := range strings.SplitSeq(rest, "\n") {
			if line != "" {
				fmt.Fprintf(&text, "%30s%s\n", "", strings.TrimSpace(line))
			}
		}
		if s.Do != "" {
			fmt.Fprintf(&text, "%30s%s\n", "-> ", s.Do)
		}
		if _, err := io.WriteString(w, text.String()); err != nil {
			return err
		}
	}
	return nil
}
