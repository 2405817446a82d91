package daemon_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"consilium.dev/internal/daemon"
)

// protected is what a probe finds out about itself after it has protected its memory.
func protected(_ context.Context, env daemon.Env) error {
	m, err := daemon.ProtectMemory(daemon.SwapWarn)
	if err != nil {
		return err
	}
	m.Tell(env.Log)
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return err
	}
	var cores unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &cores); err != nil {
		return err
	}
	// Memory that is given back to the system and taken again must work with locked pages too.
	for range 20 {
		b := make([]byte, 32<<20)
		b[len(b)-1] = 1
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, locked, _ := strings.Cut(string(status), "VmLck:")
	locked, _, _ = strings.Cut(locked, " kB")
	fmt.Fprintf(os.Stderr, "dumpable %d cores %d %d locked %s\n", dumpable, cores.Cur, cores.Max, strings.TrimSpace(locked))
	return nil
}

// TestRealMemory: a real process leaves no core when it is killed by a signal that makes one, and where it says that its pages
// are locked, they are.
func TestRealMemory(t *testing.T) {
	cmd, log := launch(t, "protect")
	said := wait(t, log, "memory protected")
	found := wait(t, log, "dumpable")
	if !strings.HasPrefix(found, "dumpable 0 cores 0 0 locked ") || !strings.Contains(said, `"core_dumps": "off"`) {
		t.Errorf("the process says %q and is %q", said, found)
	}
	if strings.Contains(said, `"swap": "locked"`) == strings.HasSuffix(found, "locked 0\n") {
		t.Errorf("the process says %q and is %q", said, found)
	}
	if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.CoreDump() {
		t.Errorf("the process ended with %v, want it without a core", err)
	}
}
