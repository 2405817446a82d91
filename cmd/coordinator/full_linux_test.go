package main

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"consilium.dev/internal/daemon"
	"consilium.dev/internal/entry"
)

// long makes a plan whose run takes a while.
func long(p *entry.Plan) { p.Rounds, p.Strategy = 20, entry.Strategy{Name: "fedadam"} }

// TestFullDisk fills the coordinator's disk in the middle of a run. The coordinator says so and ends; what it has told anybody
// is in its log, and the run goes on once there is room again, to the same model.
func TestFullDisk(t *testing.T) {
	if !ownMounts(t) {
		return
	}
	f := newFederation(t)
	f.must(os.MkdirAll(f.path("council", "store"), 0o700))
	if err := syscall.Mount("tmpfs", f.path("council", "store"), "tmpfs", 0, "size=16m,mode=0700"); err != nil {
		t.Fatalf("mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(f.path("council", "store"), syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	council := f.coordinator("coordinator")
	for _, m := range hospitals {
		f.participant(m)
	}
	want := f.completed(council, f.start(plan(t, long, func(p *entry.Plan) { p.Name = "undisturbed" })))

	run := f.start(plan(t, long, func(p *entry.Plan) { p.Name = "filled" }))
	council.log.line(t, "round closed", "run", run, "round", "3")
	filler := f.path("council", "store", "filler")
	fill(t, filler)
	if code := council.end(); code != daemon.ExitFailed {
		t.Errorf("the coordinator ended with code %d, want %d", code, daemon.ExitFailed)
	}
	if says := council.says(); !strings.Contains(says, "coordinator stopped") || !strings.Contains(says, "storage is full") {
		t.Errorf("the coordinator says %s, want that its storage is full", tail(says))
	}
	l := f.replay()
	accepted := 0
	for _, fact := range l.facts {
		if a, ok := fact.(entry.UpdateAccepted); ok && a.Run == run {
			accepted++
		}
	}
	if told := council.log.count("update accepted", "run", run); accepted < told {
		t.Errorf("%d updates were acknowledged, and %d are in the log", told, accepted)
	}
	if told := council.log.count("round closed", "run", run); len(l.closed(run)) < told || told < 4 {
		t.Errorf("%d rounds were said to be closed, want 4 or more; %d are in the log", told, len(l.closed(run)))
	}
	again := launch(t, "coordinator", self(t, "coordinator", f.path("council", "coordinator.yaml")))
	if code := again.end(); code == daemon.ExitOK || !strings.Contains(again.says(), "storage is full") {
		t.Errorf("started on a full disk the coordinator ended with code %d and says %s", code, tail(again.says()))
	}
	f.must(os.Remove(filler))
	council = f.coordinator("coordinator")
	if got := f.completed(council, run); got != want {
		t.Errorf("the model is %s, the undisturbed one's %s", got, want)
	}
	council.stop()
}

// fill writes a file until there is no room any more.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	block := bytes.Repeat([]byte{1}, 4<<10)
	for err == nil {
		_, err = file.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
}

// ownMounts runs the test in a process with mounts of its own, which end with the process, however that ends. It returns true
// in that process.
func ownMounts(t *testing.T) bool {
	t.Helper()
	if inOwn(t) {
		return true
	}
	own(t, "mounts", &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS})
	return false
}

// ownVariable is set in a process that runs a test by itself, see own.
const ownVariable = "CONSILIUM_TEST_OWN"

// inOwn reports whether this process is the one that own has started for the test.
func inOwn(t *testing.T) bool { return os.Getenv(ownVariable) == t.Name() }

// own runs the test in a process that has something for itself, with the flags that this one has, and returns what it said.
func own(t *testing.T, what string, attr *syscall.SysProcAttr) string {
	t.Helper()
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=0"}
	flag.Visit(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") {
			args = append(args, "-"+f.Name+"="+f.Value.String())
		}
	})
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Env = append(os.Environ(), ownVariable+"="+t.Name())
	c.SysProcAttr = attr
	out, err := c.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		missing(t, "needs the right to have its own %s: %v", what, err)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("in a process of its own: %v\n%s", err, out)
	}
	return string(out)
}

// missing skips the test for want of rights or tools, where that is allowed.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CONSILIUM_REQUIRE_ALL") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
