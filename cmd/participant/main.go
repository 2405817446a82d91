// Participant is a member's daemon, inside the member's own enclave and beside its data. It dials out only. See
// docs/operating.md for its configuration, and "participant --help" for its flags.
package main

import (
	"context"
	"net"
	"os"
	"time"

	"go.uber.org/zap"

	"consilium.dev/cmd/internal/route"
	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/control"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/tunnel"
)

// config is participant.yaml.
type config struct {
	setup.Enclave `yaml:",inline"`

	Coordinator route.Coordinator `yaml:"coordinator"`
	Control     string            `yaml:"control"` // Unix socket of the status, pause, resume, accept and leave commands; default: control in the store's folder

	Collateral route.Collateral `yaml:"collateral"`

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
	lis, err := control.Listen(c.control(env)) // the store is ours: nobody else listens there
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	defer lis.Close()
	way, err := c.way(env)
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	log := env.Simulated(parts.Attester.Simulated())
	var dial func(context.Context, string) (net.Conn, error)
	if way != nil {
		dial = way.Dial
		log.Info("dialling through a proxy", zap.String("proxy", way.Proxy()), zap.String("setting", way.Setting()))
	}
	kept, err := c.collateral(env, parts.Manifest, false)
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	p, err := participant.New(participant.Options{
		Name: c.Name, Manifest: parts.Manifest, Coordinator: c.Coordinator.Name, Address: c.Coordinator.Address, Dial: dial,
		Identity: parts.Identity, Attester: kept.Attester(parts.Attester), Platform: parts.Platform, Verifiers: collateral.Judges(kept, setup.Verifiers), Objects: parts.Objects, KEK: parts.KEK, Unwraps: parts.Ring.Unwraps, Skew: time.Duration(c.Skew),
		Control: lis, Grace: time.Duration(c.Grace), Collateral: kept.Show, Data: data, Policy: c.Policy, Tray: env.Path("adopt"), Log: log, Version: daemon.Version,
	})
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	defer parts.FollowKEK(ctx, env, func() (setup.Enclave, error) {
		var again config
		err := env.Reread(&again)
		return again.Enclave, err
	})()
	defer kept.Start(ctx, parts.Attester)()
	return p.Run(ctx)
}

// collateral opens what evidence is judged by beside itself, whose folder must be there if existing says so.
func (c *config) collateral(env daemon.Env, m *manifest.Manifest, existing bool) (*collateral.Cache, error) {
	store, err := c.Folder(env)
	if err != nil {
		return nil, err
	}
	verifiers, err := setup.Verifiers(m)
	if err != nil {
		return nil, err
	}
	out, err := c.WayOut()
	if err != nil {
		return nil, err
	}
	return c.Collateral.Open(store, env.Path, out, verifiers, env.Log, existing)
}

// way returns the proxy through which the coordinator is dialled, nil for straight there.
func (c *config) way(env daemon.Env) (*tunnel.Tunnel, error) {
	out, err := c.WayOut()
	if err != nil {
		return nil, err
	}
	return c.Coordinator.Tunnel(env.Path, out)
}
