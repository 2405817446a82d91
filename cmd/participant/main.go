// Participant is a member's daemon, inside the member's own enclave and beside its data. It dials out only. See
// docs/operating.md for its configuration, and "participant --help" for its flags.
package main

import (
	"context"
	"os"
	"time"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/control"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/participant"
)

// config is participant.yaml.
type config struct {
	setup.Enclave `yaml:",inline"`

	Coordinator struct {
		Name    string `yaml:"name"`    // in the manifest
		Address string `yaml:"address"` // host:port
	} `yaml:"coordinator"`
	Proxy   setup.Proxy `yaml:"proxy"`
	Control string      `yaml:"control"` // Unix socket of the pause, resume, leave and status commands; default: control in the store's folder

	Data   participant.Data   `yaml:"data"`
	Policy participant.Policy `yaml:"policy"`
}

func main() {
	var c config
	os.Exit(daemon.Main("participant", &c, func(ctx context.Context, env daemon.Env) error { return run(ctx, env, c) }, commands(&c)...))
}

func run(ctx context.Context, env daemon.Env, c config) error {
	parts, err := c.Open(ctx, env, attest.Participant)
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	defer parts.Close() //nolint:errcheck // nothing is written by closing
	data := participant.Data{Records: env.Path(c.Data.Records), Split: env.Path(c.Data.Split)}
	if err := data.Check(); err != nil {
		return &daemon.ConfigError{Err: err}
	}
	proxy, err := c.Proxy.Open(env.URI)
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	lis, err := control.Listen(c.control(env)) // the store is ours: nobody else listens there
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	defer lis.Close()
	p, err := participant.New(participant.Options{
		Name: c.Name, Manifest: parts.Manifest, Coordinator: c.Coordinator.Name, Address: c.Coordinator.Address, Proxy: proxy,
		Identity: parts.Identity, Attester: parts.Attester, Verifiers: setup.Verifiers, Objects: parts.Objects, KEK: parts.KEK, Skew: time.Duration(c.Skew),
		Control: lis, Grace: time.Duration(c.Grace), Data: data, Policy: c.Policy, Tray: env.Path("adopt"), Log: env.Simulated(parts.Attester.Simulated()), Version: daemon.Version,
	})
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	defer parts.FollowKEK(ctx, env, func() (setup.Enclave, error) {
		var again config
		err := env.Reread(&again)
		return again.Enclave, err
	})()
	return p.Run(ctx)
}
