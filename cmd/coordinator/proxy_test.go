package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/tunnel/tunneltest"
)

// TestProxy has longbeach reach the coordinator through nothing but a proxy that asks for a password and alone knows the name: first
// with a wrong password, which it must not try again and again; then with the right one, over a way that is cut in the middle of
// its update. The run ends with all four updates, and nothing that longbeach says holds user or password.
func TestProxy(t *testing.T) {
	const user, password, name = "longbeach-user", "open sesame 42", "council.invalid:7443"
	f := newFederation(t)
	const wide = 60_000
	f.genes(wide)
	proxy := tunneltest.Start(t, tunneltest.Options{User: user, Password: password, Reach: func(address string) (string, bool) {
		return f.where(), address == name
	}})
	config, err := os.ReadFile(f.path("longbeach", "participant.yaml"))
	f.must(err)
	direct := `coordinator: {name: council, address: "` + f.relays["longbeach"].lis.Addr().String() + `"}`
	through := `coordinator: {name: council, address: "` + name + `", proxy: {url: "http://` + proxy.Address() + `", user: ` + user + `, password_file: proxy.password}}`
	text := strings.Replace(string(config), direct, through, 1)
	f.must(os.WriteFile(f.path("longbeach", "participant.yaml"), []byte(text), 0o600))
	secret := func(p *process, password string) {
		t.Helper()
		for _, s := range []string{user, password, base64.StdEncoding.EncodeToString([]byte(user + ":" + password))} {
			if strings.Contains(p.says(), s) {
				t.Errorf("%s says %q", p.name, s)
			}
		}
	}

	council := f.coordinator("coordinator")
	const wrong = "open sesame 43"
	f.must(os.WriteFile(f.path("longbeach", "proxy.password"), []byte(wrong+"\n"), 0o600))
	longbeach := f.participant("longbeach")
	longbeach.log.line(t, "dialling through a proxy", "proxy", proxy.Address(), "setting", "coordinator.proxy")
	longbeach.log.line(t, "no coordinator",
		"reason", "proxy "+proxy.Address()+" (coordinator.proxy) does not accept our user and password: correct them (407)")
	if next := nextTry(t, longbeach); next < 2*time.Minute || proxy.Denied() != 1 {
		t.Errorf("with a wrong password the next try is in %s, after %d, want 2m at least, after one", next, proxy.Denied())
	}
	longbeach.stop()
	secret(longbeach, wrong)

	f.must(os.WriteFile(f.path("longbeach", "proxy.password"), []byte(password+"\n"), 0o600))
	proxy.CutAfter(wide * 2) // half of the update, which takes most of 4 bytes a weight
	longbeach = f.participant("longbeach")
	for _, m := range hospitals {
		if m != "longbeach" {
			f.participant(m)
		}
	}
	run := f.start(plan(t, killed, func(p *entry.Plan) {
		p.Name, p.Rounds = "through a proxy", 1
		p.Schema = []byte(strings.Replace(string(p.Schema), "300000", "60000", 1))
	}))
	f.completed(council, run)
	if n := council.log.count("update accepted", "member", "longbeach"); n != 1 {
		t.Errorf("longbeach's update was accepted %d times, want once", n)
	}
	if proxy.Opened() != 2 || proxy.Passed() < wide*2 {
		t.Errorf("the proxy let %d connections through with %d bytes, want two: one that was cut in the middle, and another", proxy.Opened(), proxy.Passed())
	}
	if n := longbeach.log.count("no coordinator"); n == 0 {
		t.Error("longbeach has not noticed that its way was cut")
	}
	longbeach.stop()
	secret(longbeach, password)
	council.stop()
	secret(council, password)
}

// nextTry returns how long a participant waits that has logged "no coordinator".
func nextTry(t *testing.T, p *process) time.Duration {
	t.Helper()
	for line := range strings.Lines(p.says()) {
		var l struct {
			Next string `json:"next_try"`
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.Next != "" {
			d, err := time.ParseDuration(l.Next)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	return 0
}
