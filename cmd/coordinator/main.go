// Coordinator is the control plane and the aggregator of a federation. It belongs inside an enclave that no operator can
// look into. See docs/operating.md for its configuration, and "coordinator --help" for its flags.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"consilium.dev/cmd/internal/route"
	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/socket"
	"consilium.dev/internal/transport"
)

// config is coordinator.yaml. A limit that is left out has its default, see coordinator.Limits.
type config struct {
	setup.Enclave `yaml:",inline"`

	Listen string `yaml:"listen"` // host:port or vsock:CID:PORT

	Collateral route.Collateral `yaml:"collateral"`

	Limits struct {
		Uploads     int64          `yaml:"uploads"`                 // bytes of updates in memory at once
		Memory      int64          `yaml:"memory"`                  // bytes that the process may take; 0: what it can have
		Connections int            `yaml:"connections"`             // open connections
		Unproven    int            `yaml:"connections_per_address"` // of peers without a proven name, from one address
		Handshakes  int            `yaml:"handshakes"`              // at once, with peers without a proven name
		PerAddress  int            `yaml:"handshakes_per_address"`  // of them from one address
		PerSecond   int            `yaml:"handshakes_per_second"`   // that begin
		Streams     uint32         `yaml:"streams"`                 // open calls on one connection
		Message     int            `yaml:"message"`                 // bytes of a message from a peer
		Progress    entry.Duration `yaml:"progress"`                // most that an upload may stand still, or what is sent lie unread
		Resume      entry.Duration `yaml:"resume"`                  // longest that what came of an upload that was cut is kept
		Age         entry.Duration `yaml:"connection_age"`          // of a connection, which then ends; what was under way goes on over the next
		OpenRuns    int            `yaml:"open_runs"`               // runs that have not ended
		Starts      int            `yaml:"starts_per_day"`          // runs that one lead starts
	} `yaml:"limits"`
	Retention struct {
		Intermediate entry.Duration `yaml:"intermediate"` // how long after a run's end the models of all its rounds are kept; 0: for ever
	} `yaml:"retention"`
}

func main() {
	var c config
	os.Exit(daemon.Main("coordinator", &c, func(ctx context.Context, env daemon.Env) error { return run(ctx, env, c) }))
}

func run(ctx context.Context, env daemon.Env, c config) error {
	parts, err := c.Open(ctx, env, attest.Coordinator)
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	defer parts.Close() //nolint:errcheck // nothing is written by closing
	return serve(ctx, env, c, parts)
}

// serve runs the coordinator on what the configuration names.
func serve(ctx context.Context, env daemon.Env, c config, parts *setup.Parts) error {
	lis, err := socket.Listen(c.Listen)
	if err != nil {
		return &daemon.ConfigError{Err: fmt.Errorf("%w (is another coordinator running? \"listen\" names the address)", err)}
	}
	defer lis.Close()
	log := env.Simulated(parts.Attester.Simulated())
	memory := c.Limits.Memory
	if memory == 0 {
		if memory, err = daemon.Room(); err != nil {
			log.Warn("runs are not held to the memory that there is: set limits.memory", zap.Error(err))
		}
	}
	kept, err := c.collateral(env, parts)
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	server, err := coordinator.New(coordinator.Options{
		Name: c.Name, Manifest: parts.Manifest, Identity: parts.Identity, Attester: kept.Attester(parts.Attester), Verifiers: collateral.Judges(kept, setup.Verifiers),
		Objects: parts.Objects, Head: parts.Head, KEK: parts.KEK, Unwraps: parts.Ring.Unwraps, Collateral: func() string { return kept.Show().Words(time.Now()) }, Skew: time.Duration(c.Skew), Log: log, Version: daemon.Version,
		Grace: time.Duration(c.Grace), Retention: time.Duration(c.Retention.Intermediate),
		Limits: coordinator.Limits{
			Uploads: c.Limits.Uploads, Memory: memory, Streams: c.Limits.Streams, Message: c.Limits.Message, Starts: c.Limits.Starts,
			Room: transport.Room{Connections: c.Limits.Connections, PerAddress: c.Limits.Unproven},
			Handshakes: transport.Limits{
				Handshakes: c.Limits.Handshakes, PerAddress: c.Limits.PerAddress, PerSecond: c.Limits.PerSecond,
			},
			Progress: time.Duration(c.Limits.Progress), Resume: time.Duration(c.Limits.Resume), Age: time.Duration(c.Limits.Age), OpenRuns: c.Limits.OpenRuns,
		},
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
	return server.Run(ctx, lis)
}

// collateral opens what evidence is judged by beside itself.
func (c *config) collateral(env daemon.Env, parts *setup.Parts) (*collateral.Cache, error) {
	store, err := c.Folder(env)
	if err != nil {
		return nil, err
	}
	verifiers, err := setup.Verifiers(parts.Manifest)
	if err != nil {
		return nil, err
	}
	out, err := c.WayOut()
	if err != nil {
		return nil, err
	}
	return c.Collateral.Open(store, env.Path, out, verifiers, env.Log, false)
}
