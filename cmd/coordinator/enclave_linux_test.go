package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/socket/sockettest"
)

// ways are the addresses of a coordinator and a participant in enclaves, and of the proxy on the host that they share.
type ways struct {
	listen  string // of the coordinator
	connect string // of the proxy, for enclaves
	straight,
	out string // where the enclaves dial them, if that is another address
}

// TestEnclave runs a whole round through the proxy of an enclave's host: the coordinator is reached by nothing else, and one participant
// has no other way out. The addresses are of TCP here, and of AF_VSOCK in TestEnclaveKernel.
func TestEnclave(t *testing.T) { behind(t, ways{listen: "127.0.0.1:0", connect: "127.0.0.1:0"}) }

// TestEnclaveKernel is TestEnclave over AF_VSOCK.
func TestEnclaveKernel(t *testing.T) {
	var env []string
	if !sockettest.IsGuest() {
		for _, build := range []func() (string, error){building, buildingPeople} {
			path, err := build()
			if err != nil {
				t.Fatal(err)
			}
			env = []string{programsVariable + "=" + filepath.Dir(path)}
		}
	}
	if sockettest.Here(t, 2048, env...) {
		behind(t, ways{listen: "vsock:any:7443", connect: "vsock:any:8000", straight: "vsock:1:7443", out: "vsock:1:8000"})
	}
}

// behind has three members reach a coordinator through the host's port, or straight by its socket, and switzerland through the host's
// way out. The coordinator is restarted and the proxy too, and the run ends with all four updates.
func behind(t *testing.T, w ways) {
	f := newFederation(t)
	f.listen(w.listen)
	council := f.coordinator("coordinator")
	straight := f.where()
	if w.straight != "" {
		straight = w.straight
	}
	host := freeAddress(t) // where the host is reached by everybody
	config := func(allow string) {
		f.must(os.WriteFile(f.path("vsock-proxy.yaml"), fmt.Appendf(nil, "connect: {listen: %q, allow: [%q]}\nforward: [{listen: %q, to: %q}]\ngrace: 2s\n",
			w.connect, allow, host, straight), 0o600))
	}
	config("192.0.2.1:7443")
	proxy, out := f.proxy()
	if w.out != "" {
		out = w.out
	}
	f.mu.Lock()
	f.address = host
	f.mu.Unlock()
	const file = "participant.yaml"
	f.edit("switzerland", file, f.relays["switzerland"].lis.Addr().String(), host)
	f.edit("switzerland", file, "platform:", "out: "+url(out)+"\nplatform:")
	if w.straight != "" { // one that is on the same host as the coordinator
		f.edit("longbeach", file, f.relays["longbeach"].lis.Addr().String(), w.straight)
	}

	switzerland := f.participant("switzerland")
	switzerland.log.line(t, "dialling through a proxy", "proxy", out, "setting", "out")
	switzerland.log.line(t, "no coordinator",
		"reason", "proxy "+out+" (out) does not let us go to "+host+": ask whoever runs it to allow CONNECT to that host and port (403)")
	proxy.log.line(t, "not carried", "to", host, "status", "403")
	proxy.stop() // and comes again, with another list
	config(host)
	if w.out == "" { // at the port at which it was
		w.connect = out
		config(host)
	}
	proxy, _ = f.proxy()

	for _, m := range hospitals {
		if m != "switzerland" {
			f.participant(m)
		}
	}
	f.completed(council, f.start(plan(t, func(p *entry.Plan) { p.Name, p.Rounds = "behind a proxy", 1 })))
	for _, m := range hospitals {
		if n := council.log.count("update accepted", "member", m); n == 0 {
			t.Errorf("no update of %s was accepted", m)
		}
	}
	proxy.stop() // while four connections go through it
	for _, secret := range []string{"federation", "heart", "council"} {
		if strings.Contains(proxy.says(), secret) {
			t.Errorf("the proxy says %q, of what only passes", secret)
		}
	}
	council.stop()
}

// url returns the URL of a proxy at an address.
func url(address string) string {
	if strings.HasPrefix(address, "vsock:") {
		return address
	}
	return "http://" + address
}

// freeAddress returns an address of loopback at which nobody listened a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

// proxy starts the proxy of the federation's host, and returns where it listens for enclaves.
func (f *federation) proxy() (*process, string) {
	f.t.Helper()
	binary, err := buildingPeople()
	f.must(err)
	p := launch(f.t, "vsock-proxy", exec.Command(binary, "vsock-proxy", "--config", f.path("vsock-proxy.yaml"), "--log-format", "json"))
	const message, asked = "listening", "what is listed"
	p.log.line(f.t, message, "to", asked)
	p.log.await(f.t, "the proxy's other listener", func() bool { return p.log.count(message) == 2 })
	return p, fmt.Sprint(p.log.lines(message, "to", asked)[0]["address"])
}
