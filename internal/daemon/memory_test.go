package daemon_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"consilium.dev/internal/daemon"
)

// TestProtectMemory: what the machine lets us do, and what the setting makes of the rest.
func TestProtectMemory(t *testing.T) {
	denied := errors.New("operation not permitted")
	const heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	const disk = heading + "/dev/sda2                               partition\t8388604\t\t0\t\t-2\n/swap file                              file\t1\t0\t-3\n"
	for _, c := range []struct {
		name, swap string
		m          daemon.Machine
		code       int
		want       []string // in this order in the log
	}{
		{"locked", "refuse", daemon.Machine{Swaps: disk}, daemon.ExitOK, []string{`"core_dumps":"off","swap":"locked"`}},
		{"no swap", "refuse", daemon.Machine{Lock: denied, Swaps: heading}, daemon.ExitOK, []string{`"core_dumps":"off","swap":"none"`}},
		{"refused", "refuse", daemon.Machine{Lock: denied, Swaps: disk}, daemon.ExitUsage, []string{
			"probe cannot start", "swap: keys and plaintext could be written to swap: pages cannot be locked (operation not permitted), and this machine swaps to /dev/sda2, /swap: turn that off",
		}},
		{"warned", "warn", daemon.Machine{Lock: denied, Swaps: disk}, daemon.ExitOK, []string{`"level":"warn"`, "memory may be swapped", "/dev/sda2", `"swap":"possible"`}},
		{"no setting", "", daemon.Machine{Lock: denied, Swaps: disk}, daemon.ExitOK, []string{`"level":"warn"`, "memory may be swapped", `"swap":"possible"`}},
		{"unreadable", "refuse", daemon.Machine{Lock: denied, SwapsErr: denied}, daemon.ExitUsage, []string{"whether this machine swaps cannot be seen: operation not permitted"}},
		{"no list", "refuse", daemon.Machine{Lock: denied, Swaps: "garbage"}, daemon.ExitUsage, []string{"the list of swap areas has no heading"}},
		{"empty list", "refuse", daemon.Machine{Lock: denied}, daemon.ExitUsage, []string{"the list of swap areas has no heading"}},
		{"another system", "", daemon.Machine{NoCores: daemon.ErrElsewhere, Lock: daemon.ErrElsewhere, SwapsErr: daemon.ErrElsewhere}, daemon.ExitOK, []string{
			"core dumps cannot be turned off", "this version does it on Linux only", "memory may be swapped", `"core_dumps":"possible","swap":"possible"`,
		}},
		{"unknown setting", "never", daemon.Machine{}, daemon.ExitUsage, []string{`swap: \"never\": want warn or refuse`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := start(t, "{}", []string{"--log-format=json"}, func(_ context.Context, env daemon.Env) error { return daemon.Protect(env, c.swap, c.m) })
			if r.code != c.code {
				t.Errorf("exit code %d, want %d", r.code, c.code)
			}
			rest := r.stderr
			for _, want := range c.want {
				var found bool
				if _, rest, found = strings.Cut(rest, want); !found {
					t.Fatalf("logged %s, want %q in it, in this order", r.stderr, c.want)
				}
			}
		})
	}
}
