package route_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium.dev/cmd/internal/route"
	"consilium.dev/internal/strictyaml"
	"consilium.dev/internal/tunnel"
)

// What no error may tell.
const (
	user     = "longbeach-user"
	password = "open-sesame-42"
)

// quiet makes the environment say nothing of proxies.
func quiet(t *testing.T) {
	for _, name := range []string{"https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"} {
		t.Setenv(name, "")
	}
}

// read reads a configuration's coordinator.
func read(text string) (route.Coordinator, error) {
	var c struct {
		Coordinator route.Coordinator `yaml:"coordinator"`
	}
	err := strictyaml.Load([]byte("coordinator:\n  name: council\n  address: council.example.org:7443\n"+text), &c)
	return c.Coordinator, err
}

// out is the enclave's way out where the case's name says that there is one.
func out(t *testing.T, name string) *tunnel.Tunnel {
	t.Helper()
	if !strings.HasPrefix(name, "way out") {
		return nil
	}
	way, err := tunnel.New(tunnel.Options{URL: "vsock:3:8000", Setting: "out"})
	if err != nil {
		t.Fatal(err)
	}
	return way
}

// TestTunnel: the setting wins over the environment, "none" turns it off, and NO_PROXY and loopback are the environment's business.
func TestTunnel(t *testing.T) {
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "proxy.password"), []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := func(p string) string { return filepath.Join(folder, p) }
	const set = "  proxy:\n    url: http://set.example.org:3128\n"
	for _, c := range []struct {
		name, text string
		env        []string // name, value, ...
		address    string   // another than usual
		want       string   // proxy and setting; empty: straight
	}{
		{"way out", "", []string{"HTTPS_PROXY", "http://env:1"}, "", "vsock:3:8000 out"},
		{"way out, for loopback", "", nil, "127.0.0.1:7443", "vsock:3:8000 out"},
		{"way out and set", set, nil, "", "set.example.org:3128 coordinator.proxy"},
		{"way out turned off", "  proxy: none\n", nil, "", ""},
		{"way out and a socket", "", []string{"HTTPS_PROXY", "http://env:1"}, "vsock:16:7443", ""},
		{"socket", "", []string{"HTTPS_PROXY", "http://env:1"}, "vsock:16:7443", ""},
		{"set, at a socket", "  proxy:\n    url: vsock:3:8000\n", nil, "", "vsock:3:8000 coordinator.proxy"},
		{"nothing", "", nil, "", ""},
		{"set", set, nil, "", "set.example.org:3128 coordinator.proxy"},
		{"set, with a password", set + "    user: u\n    password_file: proxy.password\n", nil, "", "set.example.org:3128 coordinator.proxy"},
		{"set and environment", set, []string{"HTTPS_PROXY", "http://env:1"}, "", "set.example.org:3128 coordinator.proxy"},
		{"set, and NO_PROXY", set, []string{"NO_PROXY", "*"}, "", "set.example.org:3128 coordinator.proxy"},
		{"set, for loopback", set, nil, "127.0.0.1:7443", "set.example.org:3128 coordinator.proxy"},
		{"environment", "", []string{"HTTPS_PROXY", "http://u:" + password + "@env:1"}, "", "env:1 HTTPS_PROXY in the environment"},
		{"environment in small letters first", "", []string{"HTTPS_PROXY", "http://env:1", "https_proxy", "small:2"}, "", "small:2 https_proxy in the environment"},
		{"environment without a scheme", "", []string{"HTTPS_PROXY", "env:1"}, "", "env:1 HTTPS_PROXY in the environment"},
		{"environment for other things", "", []string{"HTTP_PROXY", "http://env:1"}, "", ""},
		{"environment, but not for this", "", []string{"HTTPS_PROXY", "http://env:1", "NO_PROXY", ".example.org"}, "", ""},
		{"environment, but not for another", "", []string{"HTTPS_PROXY", "http://env:1", "no_proxy", "example.com"}, "", "env:1 HTTPS_PROXY in the environment"},
		{"environment, for loopback", "", []string{"HTTPS_PROXY", "http://env:1"}, "127.0.0.1:7443", ""},
		{"environment turned off", "  proxy: none\n", []string{"HTTPS_PROXY", "http://env:1"}, "", ""},
		{"environment turned off that cannot be read", "  proxy: none\n", []string{"HTTPS_PROXY", "http://%zz"}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			quiet(t)
			for i := 0; i < len(c.env); i += 2 {
				t.Setenv(c.env[i], c.env[i+1])
			}
			read, err := read(c.text)
			if err != nil {
				t.Fatal(err)
			}
			if c.address != "" {
				read.Address = c.address
			}
			through, err := read.Tunnel(path, out(t, c.name))
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if through != nil {
				got = through.Proxy() + " " + through.Setting()
			}
			if got != c.want {
				t.Errorf("the way is %q, want %q", got, c.want)
			}
		})
	}
}

// TestTunnelFaults: what is wrong is refused at once, with the setting's name, and neither user nor password is told.
func TestTunnelFaults(t *testing.T) {
	folder := t.TempDir()
	for name, f := range map[string]struct {
		text string
		mode os.FileMode
	}{"open": {password, 0o640}, "empty": {"\n", 0o600}, "two": {password + "\n" + password + "\n", 0o600}} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(f.text), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(folder, name), f.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	path := func(p string) string { return filepath.Join(folder, p) }
	with := func(file string) string {
		return "  proxy:\n    url: http://set:1\n    user: " + user + "\n    password_file: " + file + "\n"
	}
	for _, c := range []struct{ name, text, env, address, want string }{
		{"file that others may read", with("open"), "", "", "coordinator.proxy: password: key file " + path("open") + ": mode 0640 lets others than its owner use it"},
		{"no file", with("none"), "", "", "coordinator.proxy: password: key file " + path("none") + ": file does not exist"},
		{"empty file", with("empty"), "", "", "it is empty"},
		{"file of two lines", with("two"), "", "", "want one line"},
		{"no URL", "  proxy:\n    user: " + user + "\n", "", "", "coordinator.proxy: url is not filled in"},
		{"user alone", "  proxy:\n    url: http://set:1\n    user: " + user + "\n", "", "", "coordinator.proxy: a user and a password belong together"},
		{"password in the URL", "  proxy:\n    url: http://" + user + ":" + password + "@set:1\n", "", "", "coordinator.proxy: url: a user or a password does not belong there"},
		{"text", "  proxy: http://" + user + ":" + password + "@set:1\n", "", "", "line 4, column 10: proxy: want none, or url"},
		{"list", "  proxy: [none]\n", "", "", "line 4"},
		{"unknown key", "  proxy:\n    url: http://set:1\n    password: " + password + "\n", "", "", `line 6, column 5: unknown key "password"`},
		{"environment that cannot be read", "", "http://" + user + ":" + password + "@env:x", "", "HTTPS_PROXY in the environment: this is no URL of a proxy; a proxy: setting"},
		{"environment with SOCKS", "", "socks5://" + user + ":" + password + "@env:1", "", "HTTPS_PROXY in the environment: url: this is no HTTP proxy"},
		{"environment with a colon in the user", "", "http://" + user + "%3A:" + password + "@env:1", "", "user: want at most"},
		{"proxy to a socket", "  proxy:\n    url: http://set:1\n", "", "vsock:16:7443", "coordinator.proxy: no proxy leads to vsock:16:7443: leave it out"},
		{"socket of anybody", "", "", "vsock:any:7443", "coordinator.address: \"vsock:any:7443\": nobody can be dialled at any"},
		{"address without a port", "", "", "council.example.org", `coordinator.address: "council.example.org": want host:port`},
		{"address without a number", "", "", "council.example.org:", "want host:port"},
	} {
		t.Run(c.name, func(t *testing.T) {
			quiet(t)
			t.Setenv("HTTPS_PROXY", c.env)
			read, err := read(c.text)
			if err == nil {
				if c.address != "" {
					read.Address = c.address
				}
				_, err = read.Tunnel(path, nil)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("said %v, want %q", err, c.want)
			}
			for _, secret := range []string{user, password} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%q tells %q", err, secret)
				}
			}
		})
	}
}
