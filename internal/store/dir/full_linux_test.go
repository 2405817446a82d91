package dir_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"consilium.dev/internal/store"
)

// TestFullDisk fills a real file system of 1 MB.
func TestFullDisk(t *testing.T) {
	path := tmpfs(t)
	if path == "" {
		return
	}
	d := open(t, path)
	put(t, d, "before", "value")
	if err := d.Swap(t.Context(), 0, []byte("head")); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 2<<20)
	if err := d.Put(t.Context(), store.Named("large"), strings.NewReader(large)); !errors.Is(err, store.ErrFull) {
		t.Errorf("Put of 2 MB = %v, want ErrFull", err)
	}
	var err error
	for i := 0; err == nil; i++ {
		err = d.Put(t.Context(), store.Named(fmt.Sprintf("fill/%d", i)), strings.NewReader(large[:4096]))
	}
	if !errors.Is(err, store.ErrFull) {
		t.Errorf("Put = %v, want ErrFull", err)
	}
	if err := d.Swap(t.Context(), 1, []byte("next")); !errors.Is(err, store.ErrFull) {
		t.Errorf("Swap = %v, want ErrFull", err)
	}
	if got := get(t, d, "before"); got != "value" {
		t.Errorf("object holds %q", got)
	}
	if v, value, err := d.Load(t.Context()); v != 1 || string(value) != "head" || err != nil {
		t.Errorf("Load() = %d, %q, %v", v, value, err)
	}
	for _, name := range []string{"fill/0", "fill/1", "fill/2"} {
		if err := d.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	put(t, d, "large", "now there is room, and the name was not taken")
	if err := d.Swap(t.Context(), 1, []byte("next")); err != nil {
		t.Errorf("Swap with room = %v", err)
	}
	left, err := os.ReadDir(path + "/tmp")
	if len(left) != 0 || err != nil {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
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
