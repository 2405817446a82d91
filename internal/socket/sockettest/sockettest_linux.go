// Package sockettest finds tests a kernel whose sockets of AF_VSOCK lead from the machine to itself (its module vsock_loopback): this
// machine's, or that of a user-mode Linux, which is a kernel that runs as an ordinary process (Debian's package user-mode-linux).
//
//	func TestMain(m *testing.M) {
//		if sockettest.IsGuest() {
//			sockettest.Boot(m.Run)
//		}
//		os.Exit(m.Run())
//	}
//
//	func TestKernel(t *testing.T) {
//		if !sockettest.Here(t) {
//			return // it has run in a guest
//		}
//		...
//	}
package sockettest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"consilium.dev/internal/socket"
)

// guest is the program of a user-mode Linux.
const guest = "linux.uml"

// folderVariable is set in a guest, to the folder in which the test is to run.
const folderVariable = "CONSILIUM_TEST_GUEST"

// patience bounds how long a guest may take.
const patience = 8 * time.Minute

// IsGuest reports whether this process is the first one of a guest.
func IsGuest() bool { return os.Getpid() == 1 && os.Getenv(folderVariable) != "" }

// Boot is the rest of a guest's life: it makes the guest ready, runs the tests and ends it.
func Boot(run func() int) {
	if err := ready(); err == nil {
		run() // says itself how it went
	} else {
		fmt.Println("making the guest ready:", err)
	}
	fmt.Println("powering off:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

// ready gives the guest its modules, a folder to write to, the files of the kernel, and loopback.
func ready() error {
	for _, name := range []string{"vsock", "vmw_vsock_virtio_transport_common", "vsock_loopback"} {
		if err := load(name); err != nil {
			return fmt.Errorf("loading %s: %w", name, err)
		}
	}
	for folder, kind := range map[string]string{"/proc": "proc", "/mnt": "tmpfs"} {
		if err := unix.Mount(kind, folder, kind, 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", folder, err)
		}
	}
	if err := os.Setenv("TMPDIR", "/mnt"); err != nil {
		return err
	}
	if err := loopback(); err != nil {
		return fmt.Errorf("setting loopback up: %w", err)
	}
	return os.Chdir(os.Getenv(folderVariable))
}

// load loads a module of the guest's kernel.
func load(name string) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	f, err := os.Open(filepath.Join("/usr/lib/uml/modules", unix.ByteSliceToString(u.Release[:]), "kernel/net/vmw_vsock", name+".ko"))
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // it was for asking
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

// Here reports whether the test is to run here. Where this kernel has no way to itself it runs the test in a guest instead, which has
// as many MiB of memory and the variables env beside the usual ones, and reports false; the test fails as it did there. Where there is
// no guest either the test is skipped, or fails under CONSILIUM_REQUIRE_ALL.
func Here(t *testing.T, memory int, env ...string) bool {
	t.Helper()
	why := loops(t.Context())
	switch {
	case why == nil:
		return true
	case IsGuest():
		t.Fatalf("the guest's kernel has no way to itself either: %v", why)
	}
	path, err := exec.LookPath(guest)
	switch {
	case err == nil:
	case os.Getenv("CONSILIUM_REQUIRE_ALL") == "1":
		t.Fatalf("this kernel has no vsock_loopback (%v), and there is no user-mode Linux that has: %v", why, err)
	default:
		t.Skipf("this kernel has no vsock_loopback (%v), and there is no user-mode Linux that has: %v", why, err)
	}
	away(t, path, memory, env, why)
	return false
}

// loops says why AF_VSOCK has no way from this machine to itself.
func loops(ctx context.Context) error {
	lis, err := socket.Listen("vsock:any:29999")
	if err != nil {
		return err
	}
	defer lis.Close()
	c, err := socket.Dial(ctx, "vsock:1:29999") // the kernel gives up after 2 s
	if err != nil {
		return err
	}
	return c.Close()
}

// away runs the test in a guest on this machine's files, which it cannot change. Its program is built anew: the race detector's memory
// does not fit into a user-mode Linux.
func away(t *testing.T, path string, memory int, env []string, why error) {
	t.Helper()
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir()
	self := filepath.Join(scratch, "guest.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", self, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the guest's program: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	args := append([]string{
		fmt.Sprintf("mem=%dM", memory), "rootfstype=hostfs", "rootflags=/", "ro", "con=null", "con0=null,fd:1", "con1=null,fd:1", "quiet",
		"init=" + self, folderVariable + "=" + folder,
	}, env...)
	cmd := exec.CommandContext(ctx, path, append(args, "--", "-test.v", "-test.run=^"+t.Name()+"$")...)
	cmd.Dir = scratch
	cmd.Env = append(os.Environ(), "TMPDIR="+scratch, "HOME="+scratch) // it keeps its memory in one and its control socket in the other
	out, err := cmd.CombinedOutput()
	if !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Fatalf("in a user-mode Linux: %v\n%s", err, out)
	}
	t.Logf("in a user-mode Linux, since this kernel has no vsock_loopback (%v):\n%s", why, out)
}
