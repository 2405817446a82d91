package ledger_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
)

// TestFullDisk fills a real file system of 1 MB.
func TestFullDisk(t *testing.T) {
	path := tmpfs(t)
	if path == "" {
		return
	}
	s := newSealer(t)
	d, err := dir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Put(t.Context(), store.Named("room"), bytes.NewReader(make([]byte, 200_000))); err != nil {
		t.Fatal(err)
	}
	l, err := boot(t.Context(), d, d, s)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for err == nil {
		line := fmt.Appendf(bytes.Repeat([]byte("x"), 20_000), "%d", len(want))
		if err = l.Append(t.Context(), line); err == nil {
			want = append(want, string(line))
		}
	}
	if !errors.Is(err, store.ErrFull) || len(want) == 0 {
		t.Fatalf("after %d lines: %v, want ErrFull", len(want), err)
	}
	// If the disk was full after the swap, there is no log to open until the commit can be laid out.
	if _, err := boot(t.Context(), d, d, s); err != nil && !errors.Is(err, store.ErrFull) {
		t.Errorf("Open on a full disk = %v, want ErrFull", err)
	}
	if err := d.Delete(t.Context(), "room"); err != nil {
		t.Fatal(err)
	}
	if l, err = boot(t.Context(), d, d, s); err != nil {
		t.Fatal(err)
	}
	got := read(t, l, 0)
	if len(got) < len(want) || len(got) > len(want)+1 {
		t.Fatalf("%d lines are in the log, %d were acknowledged", len(got), len(want))
	}
	if diff := cmp.Diff(want, got[:len(want)]); diff != "" {
		t.Error("a full disk changed the log")
	}
	appendTo(t, l, numbered(0, 1))
}

// tmpfs mounts a file system of 1 MB for the test, which it runs in a process with mounts of its own: they end with the process,
// however that ends. In the test's first process it returns no path.
func tmpfs(t *testing.T) string {
	t.Helper()
	const inside = "CONSILIUM_TEST_MOUNTS"
	missing := t.Skipf
	if os.Getenv("CONSILIUM_REQUIRE_ALL") == "1" {
		missing = t.Fatalf
	}
	if os.Getenv(inside) == "" {
		c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		c.Env = append(os.Environ(), inside+"=1")
		c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := c.CombinedOutput()
		if errors.Is(err, syscall.EPERM) {
			missing("needs the right to mount a tmpfs: %v", err)
		}
		if err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("in a process of its own: %v\n%s", err, out)
		}
		return ""
	}
	path := t.TempDir()
	if err := syscall.Mount("tmpfs", path, "tmpfs", 0, "size=1m,mode=0700"); err != nil {
		t.Fatalf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", path, err)
		}
	})
	return path
}
