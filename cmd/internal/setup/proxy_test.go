package setup_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium.dev/cmd/internal/setup"
)

// TestProxyOpens reads a proxy and its password, and refuses what is incomplete or readable by others, without a secret.
func TestProxyOpens(t *testing.T) {
	folder := t.TempDir()
	for name, mode := range map[string]os.FileMode{"mine": 0o600, "ours": 0o640} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("sesame\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	uri := func(s string) string {
		if name, ok := strings.CutPrefix(s, "file:"); ok {
			return "file:" + filepath.Join(folder, name)
		}
		return s
	}
	for _, test := range []struct {
		p    setup.Proxy
		want string // URL, or what the error says
		good bool
	}{
		{setup.Proxy{URL: "http://proxy:3128"}, "http://proxy:3128", true},
		{setup.Proxy{URL: "http://proxy:3128", User: "ward", Password: "file:mine"}, "http://ward:sesame@proxy:3128", true},
		{setup.Proxy{URL: "http://proxy:3128", User: "ward", Password: "file:ours"}, "proxy: password: key file", false},
		{setup.Proxy{URL: "http://proxy:3128", User: "ward", Password: "sesame"}, "its password as file:PATH", false},
		{setup.Proxy{URL: "http://proxy:3128", Password: "file:mine"}, "want a user", false},
		{setup.Proxy{URL: "http://ward:sesame@proxy:3128"}, "do not belong into it", false},
		{setup.Proxy{URL: "socks5://proxy"}, "want a proxy as http://host:port", false},
		{setup.Proxy{URL: "http://%zz"}, "want http://host:port", false},
		{setup.Proxy{User: "ward", Password: "file:mine"}, "want a proxy as", false},
	} {
		u, err := test.p.Open(uri)
		switch {
		case test.good && (err != nil || u.String() != test.want):
			t.Errorf("%+v: %v, %v, want %s", test.p, u, err, test.want)
		case !test.good && (err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "sesame")):
			t.Errorf("%+v: %v, want an error that says %q and no secret", test.p, err, test.want)
		}
	}
	if u, err := (setup.Proxy{}).Open(uri); u != nil || err != nil {
		t.Errorf("no proxy: %v, %v", u, err)
	}
}
