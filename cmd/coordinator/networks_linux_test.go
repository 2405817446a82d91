package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"consilium.dev/internal/entry"
)

var forgetful = flag.Bool("forgetful", false, "TestNetworks has the NAT forget its connections too, which a participant notices after a minute")

// TestNetworks has longbeach alone in a hospital's network, behind a NAT, and reach the coordinator by its name, over a line that loses
// packets and takes 4 Mbit/s. The line is parted in the middle of an upload, and heals; then the coordinator is killed in the middle
// of a download and comes back at another address under the same name. The model is that of the same run in good weather.
func TestNetworks(t *testing.T) {
	inside, said := ownNetwork(t)
	if !inside {
		for line := range strings.Lines(said) {
			if strings.HasPrefix(line, "networks: ") {
				fmt.Print(line)
			}
		}
		return
	}
	shell(t, "ip netns add router\nip netns add hospital")
	w := newWAN(t)
	shell(t, networks)
	kernel(t, "router", "net/ipv4/ip_forward", "1")
	f := newFederation(t)
	f.genes(width)
	f.listen("10.77.0.1:0")
	council := f.coordinator("coordinator")
	_, port, err := net.SplitHostPort(f.where())
	f.must(err)
	const name = "council.test"
	f.edit("longbeach", "participant.yaml", f.relays["longbeach"].lis.Addr().String(), net.JoinHostPort(name, port))
	f.names(name, "10.77.0.1")
	f.must(syscall.Mount(f.path("hosts"), "/etc/hosts", "", syscall.MS_BIND, ""))

	members := map[string]*process{}
	for _, m := range hospitals {
		if m != "longbeach" {
			members[m] = f.participant(m)
		}
	}
	longbeach := launch(t, "longbeach", exec.Command("ip", "netns", "exec", "hospital", f.binary, "--config", f.path("longbeach", "participant.yaml"), "--log-format", "json"))
	members["longbeach"] = longbeach
	want := f.completed(council, f.start(plan(t, heavy("in good weather"))))

	const middle = 400_000 // of an update, of which 800 KB or more are carried, and of a model likewise; less than that by a window
	w.weather(20*time.Millisecond, 0.01)
	const slow = " dev wan0 root tbf rate 4mbit burst 16k latency 400ms\n"
	shell(t, "tc qdisc add"+slow+"ip netns exec router tc qdisc add"+slow)
	w.holdAfter(up, middle)
	run := f.start(plan(t, heavy("in bad weather")))
	w.held.line(t, "held")
	part := "ip netns exec router nft add rule ip wall through drop\n"
	shell(t, part)
	w.release()
	time.Sleep(3 * time.Second) // nothing passes and nobody is told: that is nothing one could wait for
	if n := council.log.count("round closed", "run", run); n != 0 {
		t.Errorf("%d rounds were closed while a member that must be in them was parted from them", n)
	}
	w.holdAfter(down, middle) // of the second round's base: the first is all zeros
	shell(t, "ip netns exec router nft flush chain ip wall through")
	w.held.line(t, "held")
	council.kill()
	w.release()
	f.names(name, "10.77.1.1")
	f.listen(net.JoinHostPort("10.77.1.1", port))
	council = f.coordinator("coordinator")
	if got := f.completed(council, run); got != want {
		t.Errorf("the model in bad weather is %s, in good weather %s", got, want)
	}
	// How much of the download is not sent again is TestLinks' business: here a packet that was lost may hold up all that came behind
	// it, and a coordinator that is killed does not send it again.
	for _, network := range []string{"", "ip netns exec router "} {
		if said := shell(t, network+"tc -s qdisc show dev wan0"); !strings.Contains(said, "qdisc tbf") || strings.Contains(said, "overlimits 0 ") {
			t.Errorf("4 Mbit/s have held nothing back: %s", said)
		}
	}
	faults := "a partition that healed, a coordinator killed in mid-download and moved"
	if *forgetful {
		faults += ", a NAT that forgot its connections"
		w.holdAfter(up, middle)
		run = f.start(plan(t, heavy("behind a NAT that forgets")))
		w.held.line(t, "held")
		forgets(t)
		w.release()
		council.log.line(t, "upload goes on", "run", run, "member", "longbeach")
		if got := f.completed(council, run); got != want {
			t.Errorf("the model behind a NAT that forgets is %s, want %s", got, want)
		}
		for _, l := range council.log.lines("upload goes on", "run", run, "member", "longbeach") {
			if l["offset"].(float64) <= 0 || l["resent"].(float64) > 1<<20 {
				t.Errorf("the upload goes on: %v, want it behind what had come, with 1 MiB sent twice at most", l)
			}
		}
		if longbeach.log.count("no coordinator") == 0 {
			t.Error("longbeach has not noticed that its connection is forgotten")
		}
	}
	longbeach.log.line(t, "run ended", "run", run)
	sent, _ := f.twice(run, "longbeach")
	w.mu.Lock()
	fmt.Printf("networks: behind a NAT, 40 ms, 4 Mbit/s, %d packets lost (1 %%): %s; in the last run %d bytes of updates sent twice; the model is the same\n", w.lost, faults, sent)
	w.mu.Unlock()
	for _, p := range members {
		p.stop()
	}
	council.stop()
}

// heavy makes a plan of two rounds whose updates, and whose second base, do not become small on the line.
func heavy(name string) func(*entry.Plan) {
	return func(p *entry.Plan) {
		killed(p)
		p.Rounds, p.Name, p.Strategy = 2, name, entry.Strategy{Name: "fedavg"}
	}
}

// names makes a name lead to an address, for whoever looks it up from now on.
func (f *federation) names(name, address string) {
	f.t.Helper()
	f.must(os.WriteFile(f.path("hosts"), fmt.Appendf(nil, "127.0.0.1 localhost\n%s %s\n", address, name), 0o644))
}

// ownNetwork runs the test in a process with a network, mounts and processes of its own, which all end with it. It returns true in
// that process, and what it said in the other.
func ownNetwork(t *testing.T) (inside bool, said string) {
	t.Helper()
	if !inOwn(t) {
		for _, tool := range []string{"ip", "tc", "nft"} {
			if _, err := exec.LookPath(tool); err != nil {
				missing(t, "needs %s (Debian: iproute2, nftables): %v", tool, err)
			}
		}
		device, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
		if err != nil {
			missing(t, "needs TUN devices: %v", err)
		}
		_ = device.Close()
		return false, own(t, "networks", &syscall.SysProcAttr{
			Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL,
		})
	}
	if err := syscall.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil { // where ip has names of networks
		t.Fatal(err)
	}
	return true, ""
}
