package main

import (
	"net"
	"os"
	"regexp"
	"strings"
	"testing"

	"consilium.dev/internal/daemon"
)

// refused starts a coordinator that must end at once as one that cannot start, and say these words. It returns all that was said.
func (f *federation) refused(words ...string) string {
	f.t.Helper()
	p := launch(f.t, "coordinator", self(f.t, "coordinator", f.path("council", "coordinator.yaml")))
	if code := p.end(); code != daemon.ExitUsage {
		f.t.Errorf("the coordinator ended with code %d, want %d", code, daemon.ExitUsage)
	}
	for _, w := range append(words, "coordinator cannot start") {
		if !strings.Contains(p.says(), w) {
			f.t.Errorf("the coordinator says %s, want %q", p.says(), w)
		}
	}
	return p.says()
}

// TestPortInUse starts a coordinator where another program listens.
func TestPortInUse(t *testing.T) {
	f := newFederation(t)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	f.listen(lis.Addr().String())
	f.refused(lis.Addr().String(), "address already in use", "is another coordinator running?")
}

// TestSecondCoordinator starts a coordinator on the storage of one that is running, which goes on as if nothing had happened.
func TestSecondCoordinator(t *testing.T) {
	f := newFederation(t)
	first := f.coordinator("coordinator")
	f.refused(f.path("council", "store"), "is in use by another process")
	lead := f.lead()
	defer lead.Close()
	if _, err := lead.Runs(t.Context()); err != nil {
		t.Errorf("the first coordinator: %v", err)
	}
	first.stop()
	f.coordinator("coordinator").stop()
}

// TestNoPlatform starts a coordinator on a machine that has not the platform of its configuration: what was looked at has a line each.
func TestNoPlatform(t *testing.T) {
	f := newFederation(t)
	name := f.path("council", "coordinator.yaml")
	text, err := os.ReadFile(name)
	f.must(err)
	f.must(os.WriteFile(name, regexp.MustCompile(`(?m)^platform: .*$`).ReplaceAll(text, []byte("platform: sev-snp")), 0o600))
	says := f.refused("platform sev-snp: no platform was found that this machine could attest by; Platforms in docs/operating.md says what to do")
	if n := strings.Count(says, "platform not found"); n != 2 || strings.Contains(says, `\n`) {
		t.Errorf("%d lines of what was looked at, want 2, and no line with line ends in it: %s", n, says)
	}
}
