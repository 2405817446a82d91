package platform_test

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/hardware"
	"consilium.dev/internal/attest/hardware/hardwaretest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/attest/simulated"
)

// host returns what a machine is opened on.
func host(m *hardwaretest.Machine) platform.Host {
	return platform.Host{Now: func() time.Time { return now }, System: m.System()}
}

// snp and domain return real platforms' machines, with simulated evidence.
func snp(t *testing.T) *hardwaretest.Machine {
	t.Helper()
	m, err := root(t, "demo").SNP(simulated.SNPSpec{})
	if err != nil {
		t.Fatal(err)
	}
	return hardwaretest.Of(attest.SEVSNP, hardwaretest.Reports, m.Attester(time.Now).Attest)
}

func domain(t *testing.T, s simulated.TDXSpec) *hardwaretest.Machine {
	t.Helper()
	m, err := root(t, "demo").TDX(s)
	if err != nil {
		t.Fatal(err)
	}
	return hardwaretest.Of(attest.TDX, hardwaretest.Reports, m.Attester(time.Now).Attest)
}

// TestOpenHardware: a real platform is found, by itself or by name, after it has made evidence for a trial. What is found fails to open if it fails at
// that, and nothing simulated takes its place.
func TestOpenHardware(t *testing.T) {
	for _, uri := range []string{"auto", "sev-snp", "sev-snp:" + hardwaretest.Reports} {
		m, err := platform.Open(t.Context(), uri, host(snp(t)))
		if err != nil {
			t.Fatal(err)
		}
		want := hardware.Look{Type: attest.SEVSNP, Device: hardwaretest.Reports}
		if m.Found != want || !slices.Contains(m.Looks, want) || m.Simulated() != "" || m.NoLog != nil || m.Covered() != nil ||
			m.String() != "sev-snp at /sys/kernel/config/tsm/report" {
			t.Errorf("%s: Open = %s, found %v of %v, simulated %q, no log: %v", uri, m, m.Found, m.Looks, m.Simulated(), m.NoLog)
		}
		b := attest.Binding{ReportData: [64]byte{1}}
		e, err := m.Attest(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verifier(t, platform.Options{}, attest.SEVSNP).Verify(t.Context(), e, b, now, nil); err == nil {
			t.Error("simulated evidence was taken for real")
		}
	}
	for _, test := range []struct{ uri, want string }{
		{"auto", "no platform was found that this machine could attest by:\n  sgx, /dev/attestation: absent ("},
		{"sgx", "\n  sgx, /dev/attestation: absent ("},
		{"nitro:/dev/other", "platform nitro:/dev/other: no platform was found that this machine could attest by:\n  nitro, /dev/other: absent ("},
	} {
		if m, err := platform.Open(t.Context(), test.uri, host(&hardwaretest.Machine{})); m != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Open(%q) where nothing is: %v, %v", test.uri, m, err)
		}
	}
	broken := snp(t)
	broken.Fault = func(op, name string) error {
		if strings.HasSuffix(name, "/outblob") {
			return syscall.EIO
		}
		return nil
	}
	if m, err := platform.Open(t.Context(), "auto", host(broken)); m != nil || !errors.Is(err, syscall.EIO) || !strings.Contains(err.Error(), "sev-snp was found, and fails at a trial") {
		t.Errorf("Open of a platform that fails: %v, %v", m, err)
	}
	busy := snp(t)
	synctest.Test(t, func(t *testing.T) {
		busy.Fault = func(op, name string) error {
			if strings.HasSuffix(name, "/outblob") {
				time.Sleep(trial / 2) // in no time, in a bubble
				return syscall.EBUSY
			}
			return nil
		}
		if m, err := platform.Open(t.Context(), "auto", host(busy)); m != nil || err == nil || !strings.Contains(err.Error(), "it gave no evidence within 1m0s") {
			t.Errorf("Open of a platform that stays busy: %v, %v", m, err)
		}
	})
}

// trial is how long a device may take.
const trial = time.Minute

// TestEventLog: a TDX guest shows the log of its boot where peers would take it, as they would see it in an evidence frame, and says why where they
// would not.
func TestEventLog(t *testing.T) {
	u16, u32 := binary.LittleEndian.AppendUint16, binary.LittleEndian.AppendUint32
	first := append(u32(append([]byte("Spec ID Event03\x00"), make([]byte, 8)...), 1), u16(u16(nil, 0x0c), 48)...)
	log := append(u32(append(u32(u32(nil, 1), 3), make([]byte, 20)...), uint32(len(first))), first...)
	digest := [48]byte{7}
	log = append(append(u16(u32(u32(u32(log, 1), 1), 1), 0x0c), digest[:]...), 1, 0, 0, 0, 0xff) // an event of RTMR0 that ends as unused rests do
	measured := simulated.TDXSpec{}
	measured.RTMR[0] = sha512.Sum384(append(make([]byte, 48), digest[:]...))
	table := string(log) + strings.Repeat("\xff", 200<<10)
	for name, test := range map[string]struct {
		spec  simulated.TDXSpec
		table string
		want  string // of why it is not shown
	}{
		"fits":                    {measured, table, ""},
		"something measured more": {simulated.TDXSpec{}, table, "leads to RTMR0"},
		"no log":                  {measured, "something", "does not parse"},
	} {
		t.Run(name, func(t *testing.T) {
			fake := domain(t, test.spec)
			fake.Files = map[string]string{"/sys/firmware/acpi/tables/data/CCEL": test.table}
			m, err := platform.Open(t.Context(), "tdx", host(fake))
			if err != nil {
				t.Fatal(err)
			}
			if test.want != "" {
				if m.NoLog == nil || !strings.Contains(m.NoLog.Error(), test.want) || m.Covered() != nil {
					t.Errorf("covered %v, no log: %v, want %q", m.Covered(), m.NoLog, test.want)
				}
				return
			}
			if want := (attest.Collateral{{Kind: attest.KindEventLog, Bytes: log}}); m.NoLog != nil || !cmp.Equal(m.Covered(), want) {
				t.Fatalf("covered %d pieces, no log: %v", len(m.Covered()), m.NoLog)
			}
			b := attest.Binding{ReportData: [64]byte{1}}
			e, err := m.Attest(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			e.Collateral = append(e.Collateral, m.Covered()...)
			made, err := fake.Make(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			c, err := verifier(t, platform.Options{SimulatedRoots: map[string][][]byte{"demo": root(t, "demo").Certificates()}}, attest.TDX).
				Verify(t.Context(), e, b, now, made.Collateral)
			if err != nil || !c.TDX.EventLog {
				t.Errorf("Verify: %v, with a log: %v", err, c.TDX)
			}
		})
	}
}
