package socket_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"consilium.dev/internal/socket"
)

// addresses are those that can be dialled, or what is said of those that cannot.
var addresses = map[string]string{
	"vsock:3:8000":                "",
	"vsock:4294967294:4294967294": "",
	"council.example.org:7443":    "",
	"[::1]:1":                     "",
	"127.0.0.1:65535":             "",

	"vsock:any:8000":        "nobody can be dialled at any",
	"vsock:0:8000":          "want vsock:CID:PORT",
	"vsock:3:0":             "want vsock:CID:PORT",
	"vsock:4294967295:1":    "want vsock:CID:PORT",
	"vsock:3:4294967295":    "want vsock:CID:PORT",
	"vsock:18446744073:1":   "want vsock:CID:PORT",
	"vsock:03:8000":         "want vsock:CID:PORT",
	"vsock:+3:8000":         "want vsock:CID:PORT",
	"vsock:-1:8000":         "want vsock:CID:PORT",
	"vsock:0x3:8000":        "want vsock:CID:PORT",
	"vsock:3: 8000":         "want vsock:CID:PORT",
	"vsock:3":               "want vsock:CID:PORT",
	"vsock:3:8000:1":        "want vsock:CID:PORT",
	"vsock::8000":           "want vsock:CID:PORT",
	"vsock://3:8000":        "want vsock:CID:PORT",
	"vsock:Any:8000":        "want vsock:CID:PORT",
	"VSOCK:3:8000":          "want host:port",
	"council.example.org":   "want host:port",
	"council.example.org:0": "want host:port",
	"h:65536":               "want host:port",
	"h:07443":               "want host:port",
	"h:https":               "want host:port",
	":7443":                 "want host:port",
	"":                      "want host:port",
}

// TestCheck: every address has one spelling, and Dial refuses what Check refuses.
func TestCheck(t *testing.T) {
	for address, want := range addresses {
		err := socket.Check(address)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("Check(%q) = %v, want %q", address, err, want)
		}
		if want != "" && socket.IsVsock(address) {
			if _, err := socket.Dial(t.Context(), address); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Dial(%q) = %v, want %q", address, err, want)
			}
			if _, err := socket.Listen(address); address != "vsock:any:8000" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("Listen(%q) = %v, want %q", address, err, want)
			}
		}
	}
}

// FuzzCheck: what can be dialled reads back as it was written, and nothing else passes.
func FuzzCheck(f *testing.F) {
	for address := range addresses {
		f.Add(address)
	}
	f.Fuzz(func(t *testing.T, address string) {
		if socket.Check(address) != nil {
			return
		}
		if !socket.IsVsock(address) {
			if _, _, err := net.SplitHostPort(address); err != nil {
				t.Errorf("Check(%q) passes and package net says %v", address, err)
			}
			return
		}
		a, err := socket.Parse(address)
		if err != nil || a.String() != address || a.CID == 0 || a.CID == socket.Any || a.Port == 0 || a.Port == socket.Any {
			t.Errorf("Check(%q) passes, and it reads as %v, %v", address, a, err)
		}
	})
}

// TestTCP: an address without the word is TCP, at both ends.
func TestTCP(t *testing.T) {
	lis, err := socket.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	c, err := socket.Dial(t.Context(), lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(socket.Conn); !ok {
		t.Errorf("a connection is a %T, whose one way cannot end before the other", c)
	}
	over, end := context.WithCancel(t.Context())
	end()
	if _, err := socket.Dial(over, lis.Addr().String()); !errors.Is(err, context.Canceled) && !strings.Contains(err.Error(), "canceled") {
		t.Errorf("Dial after its context's end: %v", err)
	}
}

// TestSource: an IPv4 address is one source, however it is written, a /64 of IPv6 is one, and what is not TCP is none.
func TestSource(t *testing.T) {
	for address, want := range map[net.Addr]string{
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}:                       "192.0.2.7/32",
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 7).To4(), Port: 2}:                 "192.0.2.7/32",
		&net.TCPAddr{IP: net.ParseIP("2001:db8:0:1:2:3:4:5"), Port: 1}:          "2001:db8:0:1::/64",
		&net.TCPAddr{IP: net.ParseIP("2001:db8:0:1:ffff::"), Zone: "", Port: 1}: "2001:db8:0:1::/64",
	} {
		if got := socket.Source(address); got != netip.MustParsePrefix(want) {
			t.Errorf("Source(%v) = %v, want %s", address, got, want)
		}
	}
	for _, address := range []net.Addr{nil, &net.TCPAddr{}, socket.Addr{CID: 3, Port: 1}, &net.UnixAddr{Name: "x"}} {
		if got := socket.Source(address); got.IsValid() {
			t.Errorf("Source(%v) = %v, want none", address, got)
		}
	}
}
