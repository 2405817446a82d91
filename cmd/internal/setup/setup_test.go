package setup_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/hardware/hardwaretest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/attest/simulated"
)

// TestTell: the log says which platform was found, for each other place why not, and that an event log does not fit.
func TestTell(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "internal", "attest", "simulated", "testdata", "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := simulated.ParseRoot(text)
	if err != nil {
		t.Fatal(err)
	}
	domain, err := root.TDX(simulated.TDXSpec{})
	if err != nil {
		t.Fatal(err)
	}
	fake := hardwaretest.Of(attest.TDX, hardwaretest.Reports, domain.Attester(time.Now).Attest)
	fake.Files = map[string]string{"/sys/firmware/acpi/tables/data/CCEL": "no log", "/dev/tdx_guest": ""}
	m, err := platform.Open(t.Context(), "tdx", platform.Host{Now: time.Now, System: fake.System()})
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.InfoLevel)
	setup.Tell(zap.New(core), m)
	var got []string
	for _, l := range logs.All() {
		fields := l.ContextMap()
		var line strings.Builder
		line.WriteString(l.Level.String() + " " + l.Message)
		for _, key := range []string{"platform", "device", "error"} {
			if v, ok := fields[key].(string); ok {
				line.WriteString(" | " + v)
			}
		}
		got = append(got, line.String())
	}
	want := []string{
		"info platform found | tdx | /sys/kernel/config/tsm/report",
		"info platform not found | tdx | /dev/tdx_guest | the device gives no quotes, only reports for the same processor: quotes come from /sys/kernel/config/tsm/report, Linux 6.7 or newer",
		"warn the event log of the guest's boot is not shown | peers would refuse it: MEAS: the event log does not parse as one with SHA-384 digests",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("logged (-want +got):\n%s", diff)
	}
	// More than one platform: the first is used, and the log says that there are others.
	fake.NSM = true
	if m, err = platform.Open(t.Context(), "auto", platform.Host{Now: time.Now, System: fake.System()}); err != nil {
		t.Fatal(err)
	}
	setup.Tell(zap.New(core), m)
	others := logs.FilterMessage("platform found and not used, since another comes first").All()
	if len(others) != 1 || others[0].ContextMap()["platform"] != "nitro" {
		t.Errorf("others found: %v", others)
	}
}
