package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The networks of TestNetworks, all of them inside the network that the test's process has for itself:
//
//	here: coordinator, lead, members      router, a NAT                hospital: longbeach
//	wan0 10.77.0.1, lo 10.77.1.1   <---   wan0 10.77.0.2
//	                               wan    lan0 192.168.7.1   <---veth---  lan0 192.168.7.2
//
// Here knows no way to 192.168.7.0: whoever is there is heard only by way of the NAT, and cannot be dialled.
const networks = `
ip link set lo up
ip addr add 10.77.1.1/32 dev lo
ip addr add 10.77.0.1/30 dev wan0
ip link set wan0 up
ip -n router addr add 10.77.0.2/30 dev wan0
ip -n router link set wan0 up
ip -n router route add default via 10.77.0.1
ip link add lan0 netns router type veth peer name lan0 netns hospital
ip -n router addr add 192.168.7.1/24 dev lan0
ip -n router link set lan0 up
ip -n hospital addr add 192.168.7.2/24 dev lan0
ip -n hospital link set lan0 up
ip -n hospital route add default via 192.168.7.1
ip netns exec router nft add table ip nat
ip netns exec router nft add chain ip nat out { type nat hook postrouting priority 100 ; }
ip netns exec router nft add rule ip nat out oifname wan0 masquerade
ip netns exec router nft add table ip wall
ip netns exec router nft add chain ip wall through { type filter hook forward priority 0 ; }
ip netns exec router nft add rule ip wall through ct state invalid drop
ip netns exec router nft add rule ip wall through iifname wan0 ct state new drop
ip netns exec router nft add chain ip wall in { type filter hook input priority 0 ; }
ip netns exec router nft add rule ip wall in iifname wan0 drop
`

// shell runs commands, one a line, whose words hold no spaces.
func shell(t *testing.T, lines string) string {
	t.Helper()
	var said strings.Builder
	for line := range strings.Lines(strings.TrimSpace(lines)) {
		words := strings.Fields(line)
		out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.TrimSpace(line), err, out)
		}
		said.Write(out)
	}
	return said.String()
}

// in calls f on a thread that is in a network that "ip netns add" has made; what f opens belongs there.
func in(t *testing.T, network string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine
		done <- func() error {
			fd, err := unix.Open("/run/netns/"+network, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd) //nolint:errcheck // it was only read
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	if err := <-done; err != nil {
		t.Fatalf("in the network %s: %v", network, err)
	}
}

// kernel sets what the kernel does in a network.
func kernel(t *testing.T, network, setting, value string) {
	t.Helper()
	in(t, network, func() error { return os.WriteFile("/proc/sys/"+setting, []byte(value), 0o644) })
}

// tun makes the device wan0 in the network of the calling thread.
func tun() (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq("wan0")
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "wan0"), nil
}

// The ways of a wan.
const (
	up   = iota // to the coordinator
	down        // back
)

// wan carries packets between two TUN devices, since not every kernel can delay and lose them: late, in their order, and not all.
type wan struct {
	mu      sync.Mutex // guards what follows
	delay   time.Duration
	loss    float64
	chance  *rand.Rand
	carried [2]int64      // bytes, by way
	lost    int           // packets
	limit   [2]int64      // of carried, at which everything is held; 0: none
	open    chan struct{} // closed while nothing is held
	held    *book         // has a line for each time that it holds everything
}

// newWAN joins here with the network router.
func newWAN(t *testing.T) *wan {
	t.Helper()
	w := &wan{chance: rand.New(rand.NewPCG(7, 7)), open: make(chan struct{}), held: newBook()}
	close(w.open)
	here, err := tun()
	if err != nil {
		t.Fatalf("a TUN device: %v", err)
	}
	var there *os.File
	in(t, "router", func() (err error) {
		there, err = tun()
		return err
	})
	over := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { w.move(up, here, there, over, &all) })
	all.Go(func() { w.move(down, there, here, over, &all) })
	t.Cleanup(func() {
		close(over)
		_, _ = here.Close(), there.Close()
		all.Wait()
	})
	return w
}

// move carries packets one way.
func (w *wan) move(way int, to, from *os.File, over chan struct{}, all *sync.WaitGroup) {
	parcels := make(chan parcel, 1<<12) // what does not fit is lost, as on any line
	all.Go(func() {
		for p := range parcels {
			time.Sleep(time.Until(p.due))
			select {
			case <-w.gate(way, len(p.bytes)):
			case <-over:
				continue
			}
			_, _ = to.Write(p.bytes) // a device that is down takes nothing
		}
	})
	defer close(parcels)
	for {
		p := make([]byte, 2<<10)
		n, err := from.Read(p)
		if err != nil {
			return
		}
		w.mu.Lock()
		late, lose := w.delay, w.chance.Float64() < w.loss
		if lose {
			w.lost++
		}
		w.mu.Unlock()
		if lose {
			continue
		}
		select {
		case parcels <- parcel{p[:n], time.Now().Add(late)}:
		default:
		}
	}
}

// gate returns what is closed once n more bytes may pass.
func (w *wan) gate(way, n int) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.carried[way] += int64(n)
	if w.limit[way] > 0 && w.carried[way] > w.limit[way] {
		w.limit[way] = 0
		w.open = make(chan struct{})
		_, _ = fmt.Fprintf(w.held, "{\"msg\": \"held\", \"way\": %d}\n", way)
	}
	return w.open
}

// holdAfter has everything held, both ways, once n more bytes have gone one way.
func (w *wan) holdAfter(way int, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.limit[way] = w.carried[way] + n
	w.held.forget()
}

// release lets go of what is held, and of all that comes.
func (w *wan) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.open)
}

// weather makes each packet late, and loses some.
func (w *wan) weather(delay time.Duration, loss float64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay, w.loss = delay, loss
}

// forgets has the NAT forget every connection, as one does whose table is full or that was restarted, and take no packet of an
// old one for the beginning of a new one. Whoever has one hears nothing of it.
func forgets(t *testing.T) {
	t.Helper()
	kernel(t, "router", "net/netfilter/nf_conntrack_tcp_loose", "0")
	in(t, "router", func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer unix.Close(fd) //nolint:errcheck // it was told all
		// One message that deletes all that it does not restrict: nlmsghdr (length, type, flags, sequence, port), nfgenmsg (family, version, id).
		const deleteConnections = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2 // IPCTNL_MSG_CT_DELETE
		m := binary.NativeEndian.AppendUint32(nil, 20)
		m = binary.NativeEndian.AppendUint16(m, deleteConnections)
		m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
		m = append(m, 1, 0, 0, 0, 0, 0, 0, 0)
		m = append(m, unix.AF_INET, 0, 0, 0)
		if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		reply := make([]byte, 4<<10)
		n, _, err := unix.Recvfrom(fd, reply, 0)
		if err != nil {
			return err
		}
		if n < 20 || binary.NativeEndian.Uint16(reply[4:]) != unix.NLMSG_ERROR {
			return fmt.Errorf("forgetting connections: the kernel answers %x", reply[:n])
		}
		if code := int32(binary.NativeEndian.Uint32(reply[16:])); code != 0 {
			return fmt.Errorf("forgetting connections: %w", unix.Errno(-code))
		}
		return nil
	})
}
