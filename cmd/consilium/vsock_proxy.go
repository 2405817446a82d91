package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"consilium.dev/internal/daemon"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/porter"
	"consilium.dev/internal/socket"
)

// proxyConfig is vsock-proxy.yaml. A limit that is left out has its default, see porter.Limits.
type proxyConfig struct {
	Connect struct {
		Listen string   `yaml:"listen"` // vsock:any:PORT, or host:port
		Allow  []string `yaml:"allow"`  // host:port
	} `yaml:"connect"`
	Forward []struct {
		Listen string `yaml:"listen"` // host:port or vsock:any:PORT
		To     string `yaml:"to"`     // host:port or vsock:CID:PORT
	} `yaml:"forward"`
	Limits struct {
		Connections int            `yaml:"connections"`
		PerAddress  int            `yaml:"connections_per_address"`
		Idle        entry.Duration `yaml:"idle"`
	} `yaml:"limits"`
	Grace entry.Duration `yaml:"grace"` // how long connections go on after SIGINT or SIGTERM; default proxyGrace
}

// proxyGrace is as long as the daemons'.
const proxyGrace = 8 * time.Second

func vsockProxyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "vsock-proxy",
		Short: "Carry an enclave's bytes, on its host: out to what is listed, and in to the enclave",
		Long: "The program beside a Nitro enclave, which has no network but a socket to its host. It is a daemon, with the flags and exit\n" +
			"codes of one, and reads vsock-proxy.yaml: see \"On AWS Nitro\" in docs/operating.md.",
		DisableFlagParsing: true, // they are the daemon's
		RunE: func(_ *cobra.Command, args []string) error {
			var c proxyConfig
			code := daemon.Verb("vsock-proxy", args, &c, func(ctx context.Context, env daemon.Env) error { return carry(ctx, env, c) })
			if code != daemon.ExitOK {
				return errEnded(code)
			}
			return nil
		},
	}
}

// carry listens where the configuration says, and carries until ctx ends.
func carry(ctx context.Context, env daemon.Env, c proxyConfig) (err error) {
	o := porter.Options{
		Allow: c.Connect.Allow, Grace: time.Duration(c.Grace), Log: env.Log,
		Limits: porter.Limits{Connections: c.Limits.Connections, PerAddress: c.Limits.PerAddress, Idle: time.Duration(c.Limits.Idle)},
	}
	if c.Grace == 0 {
		o.Grace = proxyGrace
	}
	var open []net.Listener
	defer func() {
		for _, lis := range open {
			_ = lis.Close() // Run has, where it ran
		}
	}()
	listen := func(key, address string) (net.Listener, error) {
		lis, err := socket.Listen(address)
		if err != nil {
			return nil, &daemon.ConfigError{Err: fmt.Errorf("%s: %w", key, err)}
		}
		open = append(open, lis)
		return lis, nil
	}
	if c.Connect.Listen != "" {
		if o.Connect, err = listen("connect.listen", c.Connect.Listen); err != nil {
			return err
		}
	}
	for _, f := range c.Forward {
		if f.Listen == "" {
			return &daemon.ConfigError{Err: errors.New("forward.listen: is not filled in")}
		}
		lis, err := listen("forward.listen", f.Listen)
		if err != nil {
			return err
		}
		o.Forward = append(o.Forward, porter.Forward{Listener: lis, To: f.To})
	}
	p, err := porter.New(o)
	if err != nil {
		return &daemon.ConfigError{Err: err}
	}
	return p.Run(ctx)
}
