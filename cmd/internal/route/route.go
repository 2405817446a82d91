// Package route reads how the programs that dial somebody reach him, the coordinator or a service that hands out collateral: straight, or
// through the HTTP proxy that their configuration, an enclave's way out or the environment names.
package route

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"go.yaml.in/yaml/v4"
	"golang.org/x/net/http/httpproxy"

	"consilium.dev/internal/keyfile"
	"consilium.dev/internal/socket"
	"consilium.dev/internal/tunnel"
)

// Coordinator is whom a configuration names to be dialled, and how.
type Coordinator struct {
	Name    string `yaml:"name"`    // in the manifest
	Address string `yaml:"address"` // host:port, or vsock:CID:PORT, which is dialled straight
	Proxy   Proxy  `yaml:"proxy"`   // the way there; absent: the enclave's way out, else as the environment says
}

// Proxy is an HTTP proxy that leads to a coordinator, or the word "none", with which there is none whatever the environment says.
type Proxy struct {
	URL          string `yaml:"url"`           // http://HOST:PORT, https:// for TLS to the proxy itself, or vsock:CID:PORT
	User         string `yaml:"user"`          // absent: the proxy asks for none
	PasswordFile string `yaml:"password_file"` // of one line, mode 0600; read anew for each connection

	None bool `yaml:"-"`
}

// UnmarshalYAML reads "none", or the keys of a Proxy and no others.
func (p *Proxy) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Value != "none" { // which is not quoted: somebody may have put a URL with a password there
			return fmt.Errorf("line %d, column %d: proxy: want none, or url with user and password_file where the proxy asks for them", n.Line, n.Column)
		}
		*p = Proxy{None: true}
		return nil
	}
	type keys Proxy // without this method
	return n.Load((*keys)(p), yaml.WithKnownFields())
}

// variables are where an environment may say which proxy leads to what is spoken to over TLS, the first that is set.
var variables = []string{"https_proxy", "HTTPS_PROXY"}

// Tunnel returns the way through the proxy that is to be used, nil where none is: the setting's, else out, which is the enclave's way out
// or nil, else the environment's (HTTPS_PROXY, but for what NO_PROXY names and for loopback addresses). path makes a path of the
// configuration usable.
func (c Coordinator) Tunnel(path func(string) string, out *tunnel.Tunnel) (*tunnel.Tunnel, error) {
	if err := socket.Check(c.Address); err != nil {
		return nil, fmt.Errorf("coordinator.address: %w", err)
	}
	return c.Proxy.to(c.Address, "coordinator", path, out)
}

// to returns the way to an address, as Tunnel does, where the proxy is a setting of owner.
func (p Proxy) to(address, owner string, path func(string) string, out *tunnel.Tunnel) (*tunnel.Tunnel, error) {
	setting := owner + ".proxy"
	switch {
	case socket.IsVsock(address):
		if !p.None && p != (Proxy{}) {
			return nil, fmt.Errorf("%s: no proxy leads to %s: leave it out", setting, address)
		}
		return nil, nil
	case p.None:
		return nil, nil
	case p != Proxy{}:
		if p.URL == "" {
			return nil, errors.New(setting + ": url is not filled in; none turns the environment's proxy off")
		}
		o := tunnel.Options{URL: p.URL, User: p.User, Setting: setting}
		if p.PasswordFile != "" {
			name := path(p.PasswordFile)
			o.Password = func() (string, error) { return readPassword(name) }
		}
		return tunnel.New(o)
	case out != nil:
		return out, nil
	}
	return environment(address, owner)
}

// readPassword reads a file of one line.
func readPassword(name string) (string, error) {
	text, err := keyfile.Read(name)
	if err != nil {
		return "", err
	}
	line := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if line == "" {
		return "", fmt.Errorf("key file %s: it is empty", name)
	}
	return line, nil
}

// environment returns the way that the environment says.
func environment(address, owner string) (*tunnel.Tunnel, error) {
	variable, text := "", ""
	for _, name := range variables {
		if text = os.Getenv(name); text != "" {
			variable = name
			break
		}
	}
	setting := variable + " in the environment"
	wrong := func(what string) (*tunnel.Tunnel, error) {
		return nil, fmt.Errorf("%s: %s; a proxy: setting of the %s, or none there, takes its place", setting, what, owner)
	}
	if text == "" {
		return nil, nil
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil { // whose text has the password in it
		return wrong("this is no URL of a proxy")
	}
	rules := httpproxy.Config{HTTPSProxy: "http://there.invalid", NoProxy: cmp.Or(os.Getenv("no_proxy"), os.Getenv("NO_PROXY"))}
	if used, err := rules.ProxyFunc()(&url.URL{Scheme: "https", Host: address}); err != nil || used == nil {
		return nil, err
	}
	o := tunnel.Options{User: u.User.Username(), Setting: setting}
	if password, _ := u.User.Password(); o.User != "" {
		o.Password = func() (string, error) { return password, nil }
	}
	u.User = nil
	o.URL = u.String()
	t, err := tunnel.New(o)
	if err != nil {
		return nil, fmt.Errorf("%w; a proxy: setting of the %s, or none there, takes its place", err, owner)
	}
	return t, nil
}
