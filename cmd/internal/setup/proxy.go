package setup

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"consilium.dev/internal/keyfile"
	"consilium.dev/internal/transport"
)

// Proxy is the HTTP proxy by way of which a coordinator is dialled. The zero Proxy leaves it to the environment (HTTPS_PROXY).
type Proxy struct {
	URL      string `yaml:"url"`      // http://host:port
	User     string `yaml:"user"`     // if it wants one
	Password string `yaml:"password"` // file:PATH of a file that nobody else may read
}

// Open returns the proxy's URL with its password, nil where there is none. uri makes a file:PATH usable from the current folder.
// Its errors show neither.
func (p Proxy) Open(uri func(string) string) (*url.URL, error) {
	if p == (Proxy{}) {
		return nil, nil
	}
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, errors.New("proxy: url: want http://host:port")
	}
	if err := transport.CheckProxy(u); err != nil {
		return nil, fmt.Errorf("proxy: url: %w", err)
	}
	if u.User != nil {
		return nil, errors.New("proxy: url: user and password do not belong into it: name them as user and password (file:PATH)")
	}
	if p.User == "" && p.Password == "" {
		return u, nil
	}
	path, ok := strings.CutPrefix(uri(p.Password), "file:")
	if !ok || p.User == "" {
		return nil, errors.New("proxy: want a user, and its password as file:PATH")
	}
	text, err := keyfile.Read(path)
	if err != nil {
		return nil, fmt.Errorf("proxy: password: %w", err)
	}
	u.User = url.UserPassword(p.User, strings.TrimRight(string(text), "\r\n"))
	return u, nil
}
