package hardware_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/hf/nsm/response"
	"golang.org/x/sys/unix"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
	"consilium.dev/internal/attest/hardware"
	"consilium.dev/internal/attest/hardware/hardwaretest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/attest/simulated"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// binding is what evidence is asked to carry.
var binding = attest.Binding{ReportData: [64]byte{1, 63: 2}, Nonce: [32]byte{3}, SPKI: []byte("a key")}

func demo(t *testing.T) *simulated.Root {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "simulated", "testdata", "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := simulated.ParseRoot(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// machine returns a machine with evidence of the simulated platform's, at a place.
func machine(t *testing.T, typ attest.Type, place string) *hardwaretest.Machine {
	t.Helper()
	made := map[attest.Type]func() (*simulated.Machine, error){
		attest.SEVSNP: func() (*simulated.Machine, error) { return demo(t).SNP(simulated.SNPSpec{}) },
		attest.TDX:    func() (*simulated.Machine, error) { return demo(t).TDX(simulated.TDXSpec{}) },
		attest.SGX:    func() (*simulated.Machine, error) { return demo(t).SGX(simulated.SGXSpec{}) },
		attest.Nitro:  func() (*simulated.Machine, error) { return demo(t).Nitro(simulated.NitroSpec{}) },
	}
	m, err := made[typ]()
	if err != nil {
		t.Fatal(err)
	}
	return hardwaretest.Of(typ, place, m.Attester(func() time.Time { return now }).Attest)
}

func options(m *hardwaretest.Machine) hardware.Options {
	return hardware.Options{System: m.System(), OpenUnverified: platform.OpenUnverified}
}

func open(t *testing.T, m *hardwaretest.Machine) *hardware.Attester {
	t.Helper()
	a, looks, err := hardware.Open(options(m))
	if err != nil {
		t.Fatalf("Open: %v, %v", looks, err)
	}
	return a
}

// places are where the platforms are.
var places = []struct {
	typ   attest.Type
	place string
}{
	{attest.SGX, "/dev/attestation"},
	{attest.SEVSNP, hardwaretest.Reports},
	{attest.SEVSNP, "/dev/sev-guest"},
	{attest.TDX, hardwaretest.Reports},
	{attest.Nitro, "/dev/nsm"},
}

// judge has evidence judged by the verifier of its type.
func judge(t *testing.T, o platform.Options, e attest.Evidence, b attest.Binding, at time.Time, ours attest.Collateral) attest.Claims {
	t.Helper()
	all, err := platform.Verifiers(o)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(v attest.Verifier) bool { return v.Type() == e.Type })
	c, err := all[i].Verify(t.Context(), e, b, at, ours)
	if err != nil {
		t.Errorf("Verify: %v", err)
	}
	return c
}

// TestAttest: every platform, at every place, makes evidence for whoever asks that its verifier takes, and leaves nothing behind. What a quote of Intel's
// needs beside it does not come from the device.
func TestAttest(t *testing.T) {
	for _, p := range places {
		t.Run(p.typ.String()+strings.ReplaceAll(p.place, "/", "-"), func(t *testing.T) {
			m := machine(t, p.typ, p.place)
			a := open(t, m)
			if want := (hardware.Look{Type: p.typ, Device: p.place}); a.Look() != want || !slices.Equal(a.Types(), []attest.Type{p.typ}) {
				t.Errorf("found %v, of the types %v, want %v", a.Look(), a.Types(), want)
			}
			for i := range 2 {
				b := binding
				b.ReportData[5] = byte(i)
				e, err := a.Attest(t.Context(), b)
				if err != nil {
					t.Fatal(err)
				}
				made, err := m.Make(t.Context(), b)
				if err != nil {
					t.Fatal(err)
				}
				if p.typ != attest.SEVSNP && len(e.Collateral) != 0 {
					t.Errorf("%d pieces of collateral, want none", len(e.Collateral))
				}
				ours := made.Collateral
				if p.typ == attest.SEVSNP {
					ours = nil // what the device gives is enough
				}
				c := judge(t, platform.Options{SimulatedRoots: map[string][][]byte{"demo": demo(t).Certificates()}}, e, b, now, ours)
				if c.Simulated != "demo" {
					t.Errorf("claims of the root %q", c.Simulated)
				}
			}
			if left := m.Left(); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if d, err := a.Devices(t.Context(), nil); d != nil || err != nil || a.Simulated() != "" || a.Covered() != nil || a.EventLog() != nil {
				t.Errorf("devices %v, %v, simulated %q, covered %v, a log of %d bytes", d, err, a.Simulated(), a.Covered(), len(a.EventLog()))
			}
		})
	}
}

// real returns evidence that hardware made, what it is about, and when it was valid.
func real(t *testing.T, typ attest.Type, dir string) (attest.Evidence, attest.Binding, time.Time) {
	t.Helper()
	if typ != attest.SEVSNP {
		v := dcaptest.Load(t, dir, typ)
		return v.Evidence, v.Binding, v.AtTime
	}
	text, err := os.ReadFile(filepath.Join(dir, "vector.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		AtTime time.Time `json:"at_time"`
		Fields struct {
			ReportData string `json:"report_data"`
		} `json:"fields"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	var b attest.Binding
	if _, err := hex.Decode(b.ReportData[:], []byte(v.Fields.ReportData)); err != nil {
		t.Fatal(err)
	}
	e := attest.Evidence{Type: typ}
	if e.Body, err = os.ReadFile(filepath.Join(dir, "report.bin")); err != nil {
		t.Fatal(err)
	}
	return e, b, v.AtTime
}

// TestReal: bytes that hardware made come through as they are: a report with the table that a kernel gave out with it, whose certificates are in
// PEM, and quotes with the zeros behind them.
func TestReal(t *testing.T) {
	for _, test := range []struct {
		typ        attest.Type
		place, dir string
	}{
		{attest.SEVSNP, hardwaretest.Reports, "../sevsnp/testdata/vectors/sevsnp/genoa-v3-certtable-veraison"},
		{attest.SEVSNP, "/dev/sev-guest", "../sevsnp/testdata/vectors/sevsnp/genoa-v3-certtable-veraison"},
		{attest.SEVSNP, hardwaretest.Reports, "../sevsnp/testdata/vectors/sevsnp/milan-vlek-v3-aws-trustee"},
		{attest.SEVSNP, "/dev/sev-guest", "../sevsnp/testdata/vectors/sevsnp/milan-vlek-v3-aws-trustee"},
		{attest.TDX, hardwaretest.Reports, "../tdx/testdata/vectors/tdx/v4-gcp-cos113-gotdxguest"},
		{attest.TDX, hardwaretest.Reports, "../tdx/testdata/vectors/tdx/v5-td15-gotdxguest"},
		{attest.SGX, "/dev/attestation", "../sgx/testdata/vectors/sgx/v3-occlum-trustee"},
	} {
		t.Run(filepath.Base(test.dir)+strings.ReplaceAll(test.place, "/", "-"), func(t *testing.T) {
			want, b, at := real(t, test.typ, test.dir)
			m := hardwaretest.Of(test.typ, test.place, func(context.Context, attest.Binding) (attest.Evidence, error) {
				return attest.Evidence{Body: want.Body}, nil
			})
			if test.typ == attest.SEVSNP {
				var err error
				if m.Table, err = os.ReadFile(filepath.Join(test.dir, "certtable.bin")); errors.Is(err, os.ErrNotExist) {
					var vlek []byte
					vlek, err = os.ReadFile(filepath.Join(test.dir, "vlek.der"))
					m.Table = hardwaretest.Table(attest.Collateral{{Kind: attest.KindCertificate, Bytes: vlek}})
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			a := open(t, m)
			e, err := a.Attest(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(e.Body, want.Body) {
				t.Error("the bytes are not those that the device gave")
			}
			if c := judge(t, platform.Options{}, e, b, at, want.Collateral); c.Simulated != "" || c.Type != test.typ {
				t.Errorf("claims of the type %s, of the root %q", c.Type, c.Simulated)
			}
			// Asked about something else, the same bytes are an error here.
			if _, err := a.Attest(t.Context(), binding); err == nil || !strings.Contains(err.Error(), "not made for what was asked") {
				t.Errorf("Attest with another binding: %v", err)
			}
		})
	}
}

// TestOpen: places are looked at in one order, the first that has a platform is taken, and each says what came of it.
func TestOpen(t *testing.T) {
	all := func() *hardwaretest.Machine {
		m := machine(t, attest.SEVSNP, hardwaretest.Reports)
		m.Guest, m.NSM, m.Files = true, true, map[string]string{"/dev/attestation/attestation_type": "dcap\n", "/dev/tdx_guest": ""}
		return m
	}
	none := []string{
		"sgx, /dev/attestation: absent (",
		"sev-snp, /sys/kernel/config/tsm/report: absent (Linux 6.7 or newer has it, with configfs mounted and the module sev_guest: ",
		"sev-snp, /dev/sev-guest: absent (",
		"tdx, /sys/kernel/config/tsm/report: absent (Linux 6.7 or newer has it, with configfs mounted and the module tdx_guest: ",
		"tdx, /dev/tdx_guest: absent (",
		"nitro, /dev/nsm: absent (",
	}
	with := func(at int, text string) []string {
		looks := slices.Clone(none)
		looks[at] = text
		return looks
	}
	folder := func(provider string) *hardwaretest.Machine { return &hardwaretest.Machine{Provider: provider} }
	failing := func(m *hardwaretest.Machine, at string, what error) *hardwaretest.Machine {
		m.Fault = func(op, name string) error {
			if op+" "+name == at {
				return what
			}
			return nil
		}
		return m
	}
	for _, test := range []struct {
		name    string
		machine *hardwaretest.Machine
		typ     attest.Type
		device  string
		found   int // index of the look that is found; -1: none
		looks   []string
	}{
		{"nothing", &hardwaretest.Machine{}, 0, "", -1, none},
		{"everything", all(), 0, "", 0, []string{
			"sgx, /dev/attestation: found", "sev-snp, /sys/kernel/config/tsm/report: found", "sev-snp, /dev/sev-guest: found",
			`tdx, /sys/kernel/config/tsm/report: its provider is "sev_guest", not "tdx_guest"`,
			"tdx, /dev/tdx_guest: the device gives no quotes, ", "nitro, /dev/nsm: found",
		}},
		{"one type", all(), attest.SEVSNP, "", 0, []string{"sev-snp, /sys/kernel/config/tsm/report: found", "sev-snp, /dev/sev-guest: found"}},
		{"another type than what is there", folder("tdx_guest"), attest.SEVSNP, "", -1, []string{
			`sev-snp, /sys/kernel/config/tsm/report: its provider is "tdx_guest", not "sev_guest"`, "sev-snp, /dev/sev-guest: absent (",
		}},
		{"a device", all(), attest.SEVSNP, "/dev/other", 0, []string{"sev-snp, /dev/other: found"}},
		{"a folder", all(), attest.SEVSNP, hardwaretest.Reports, 0, []string{"sev-snp, /sys/kernel/config/tsm/report: found"}},
		{"a device of a kind with one place", all(), attest.Nitro, "/dev/other", 0, []string{"nitro, /dev/other: found"}},
		{"a device that is absent", &hardwaretest.Machine{}, attest.TDX, "/dev/other", -1, []string{"tdx, /dev/other: absent ("}},
		{"provider unknown", folder("arm_cca_guest"), 0, "", -1, func() []string {
			looks := with(1, `sev-snp, /sys/kernel/config/tsm/report: its provider is "arm_cca_guest", not "sev_guest"`)
			looks[3] = `tdx, /sys/kernel/config/tsm/report: its provider is "arm_cca_guest", not "tdx_guest"`
			return looks
		}()},
		{"no driver", failing(folder("tdx_guest"), "mkdir "+hardwaretest.Reports, unix.ENXIO), attest.TDX, hardwaretest.Reports, -1, []string{
			"tdx, /sys/kernel/config/tsm/report: no driver stands behind it: load the kernel's module",
		}},
		{"no right to make a report", failing(folder("sev_guest"), "mkdir "+hardwaretest.Reports, unix.EACCES), attest.SEVSNP, hardwaretest.Reports, -1, []string{
			"sev-snp, /sys/kernel/config/tsm/report: this user may not use it",
		}},
		{"no right to a device", failing(&hardwaretest.Machine{Guest: true}, "open /dev/sev-guest", unix.EACCES), 0, "", -1, with(2,
			"sev-snp, /dev/sev-guest: this user may not use it: give the daemon's user the right to (open /dev/sev-guest: permission denied)")},
		{"no right to TDX's device", failing(&hardwaretest.Machine{}, "read /dev/tdx_guest", unix.EACCES), 0, "", -1, with(4, "tdx, /dev/tdx_guest: this user may not use it")},
		{"Gramine without attestation", &hardwaretest.Machine{Files: map[string]string{"/dev/attestation/attestation_type": "none"}}, 0, "", -1, with(0,
			`sgx, /dev/attestation: the enclave attests by "none": set sgx.remote_attestation = "dcap"`)},
		{
			"a privilege level that is none", &hardwaretest.Machine{Guest: true, Files: map[string]string{"/sys/devices/system/cpu/sev/vmpl": "4\n"}}, 0, "", -1,
			with(2, "sev-snp, /dev/sev-guest: the guest's VMPL is 4, want 0 to 3"),
		},
		{
			"a privilege level that is no number", &hardwaretest.Machine{Guest: true, Files: map[string]string{"/sys/devices/system/cpu/sev/vmpl": "two"}}, 0, "", -1,
			with(2, "sev-snp, /dev/sev-guest: /sys/devices/system/cpu/sev/vmpl: "),
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := options(test.machine)
			o.Type, o.Device = test.typ, test.device
			a, looks, err := hardware.Open(o)
			if len(looks) != len(test.looks) {
				t.Fatalf("%d looks: %v", len(looks), looks)
			}
			for i, l := range looks {
				if !strings.HasPrefix(l.String(), test.looks[i]) {
					t.Errorf("look %d: %s, want %s", i, l, test.looks[i])
				}
				if test.found < 0 && (err == nil || !strings.Contains(err.Error(), "\n  "+l.String())) {
					t.Errorf("Open: %v, want it to say %s", err, l)
				}
			}
			if test.found >= 0 && (err != nil || a.Look() != looks[test.found]) || test.found < 0 && a != nil {
				t.Errorf("Open: %v, %v", a, err)
			}
			if left := test.machine.Left(); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestPrivilegeLevel: a guest under another layer asks for reports of its own level, which it may have, and not of level 0.
func TestPrivilegeLevel(t *testing.T) {
	for _, place := range []string{hardwaretest.Reports, "/dev/sev-guest"} {
		m := machine(t, attest.SEVSNP, place)
		m.Floor = 2
		if place != hardwaretest.Reports {
			m.Files = map[string]string{"/sys/devices/system/cpu/sev/vmpl": "2\n"}
		}
		if _, err := open(t, m).Attest(t.Context(), binding); err != nil {
			t.Errorf("%s: Attest at VMPL 2: %v", place, err)
		}
	}
	m := machine(t, attest.SEVSNP, hardwaretest.Reports)
	m.Floor = 4
	if _, err := open(t, m).Attest(t.Context(), binding); err == nil || !strings.Contains(err.Error(), "privlevel_floor is 4") {
		t.Errorf("Attest with a floor beyond all levels: %v", err)
	}
	m = machine(t, attest.SEVSNP, "/dev/sev-guest")
	m.Floor = 1 // and nothing says so
	if _, err := open(t, m).Attest(t.Context(), binding); err == nil || !strings.Contains(err.Error(), "invalid parameters") {
		t.Errorf("Attest below the guest's level: %v", err)
	}
}

// outblob reports whether an operation asks for evidence, whatever the platform.
func outblob(op, name string) bool {
	return op == "ioctl" || op == "send" || op == "read" && (strings.HasSuffix(name, "/outblob") || strings.HasSuffix(name, "/quote"))
}

// TestBusy: a device that is busy, a host that throttles and a call that was interrupted are asked again, once a second, until the caller has
// no more time.
func TestBusy(t *testing.T) {
	for _, p := range places {
		for _, said := range []error{unix.EBUSY, unix.EINTR, unix.EAGAIN} {
			t.Run(p.typ.String()+strings.ReplaceAll(p.place, "/", "-")+" "+said.Error(), func(t *testing.T) {
				m := machine(t, p.typ, p.place)
				synctest.Test(t, func(t *testing.T) {
					a := open(t, m)
					asked, times := 0, 3
					m.Fault = func(op, name string) error {
						if outblob(op, name) {
							if asked++; asked <= times {
								return said
							}
						}
						return nil
					}
					start := time.Now()
					if _, err := a.Attest(t.Context(), binding); err != nil || asked != 4 || time.Since(start) != 3*time.Second {
						t.Errorf("Attest: %v, asked %d times in %s", err, asked, time.Since(start))
					}
					asked, times = 0, 1000
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					defer cancel()
					_, err := a.Attest(ctx, binding)
					if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, said) {
						t.Errorf("Attest until its time is over: %v", err)
					}
					asked, start = 0, time.Now()
					if _, err := a.Attest(t.Context(), binding); !errors.Is(err, said) || asked != 60 || time.Since(start) != 59*time.Second {
						t.Errorf("Attest without a deadline: %v, asked %d times in %s", err, asked, time.Since(start))
					}
				})
				if left := m.Left(); len(left) != 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

// TestThrottled: what an old driver hands on when the host throttles is waited for; what it says after that, it says for ever.
func TestThrottled(t *testing.T) {
	m := machine(t, attest.SEVSNP, "/dev/sev-guest")
	synctest.Test(t, func(t *testing.T) {
		a := open(t, m)
		m.Firmware = 2 << 32
		said := []error{unix.EIO, unix.EIO, unix.ENOTTY}
		m.Fault = func(op, _ string) (err error) {
			if op == "ioctl" {
				err, said = said[0], said[1:]
			}
			return err
		}
		_, err := a.Attest(t.Context(), binding)
		if !errors.Is(err, unix.ENOTTY) || !strings.Contains(err.Error(), "must be started again") || len(said) != 0 {
			t.Errorf("Attest: %v, %d answers are left", err, len(said))
		}
	})
}

// TestMeddled: a report to which another program wrote in between is not taken, and made again.
func TestMeddled(t *testing.T) {
	for _, typ := range []attest.Type{attest.SEVSNP, attest.TDX} {
		m := machine(t, typ, hardwaretest.Reports)
		synctest.Test(t, func(t *testing.T) {
			a := open(t, m)
			meddled := 0
			m.Fault = func(op, name string) error {
				if op == "read" && strings.HasSuffix(name, "/outblob") && meddled < 2 {
					meddled++
					m.Meddle()
				}
				return nil
			}
			if _, err := a.Attest(t.Context(), binding); err != nil || meddled != 2 {
				t.Errorf("%s: Attest: %v, after %d writes of others", typ, err, meddled)
			}
			meddled = -1000
			_, err := a.Attest(t.Context(), binding)
			if err == nil || !strings.Contains(err.Error(), "somebody else wrote to our report") {
				t.Errorf("%s: Attest while others write on and on: %v", typ, err)
			}
		})
	}
}

// TestFaults: each thing that a device, a host or a kernel can get wrong is an error that says so, at once, and leaves no report behind.
func TestFaults(t *testing.T) {
	configfs, device := hardwaretest.Reports, "/dev/sev-guest"
	at := func(op, end string, what error) func(*hardwaretest.Machine) {
		return func(m *hardwaretest.Machine) {
			m.Fault = func(o, name string) error {
				if o == op && strings.HasSuffix(name, end) {
					return what
				}
				return nil
			}
		}
	}
	body := func(alter func([]byte) []byte) func(*hardwaretest.Machine) {
		return func(m *hardwaretest.Machine) {
			before := m.Make
			m.Make = func(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
				e, err := before(ctx, b)
				e.Body = alter(e.Body)
				return e, err
			}
		}
	}
	cut := body(func(b []byte) []byte { return b[:len(b)-1] })
	none := body(func([]byte) []byte { return nil })
	other := func(m *hardwaretest.Machine) {
		before := m.Make
		m.Make = func(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
			b.ReportData[0]++
			return before(ctx, b)
		}
	}
	answer := func(alter func(*response.Response)) func(*hardwaretest.Machine) {
		return func(m *hardwaretest.Machine) { m.Answer = alter }
	}
	for _, test := range []struct {
		name  string
		typ   attest.Type
		place string
		spoil func(*hardwaretest.Machine)
		is    error
		want  string
	}{
		{"no report can be made", attest.SEVSNP, configfs, at("mkdir", "", unix.ENOSPC), unix.ENOSPC, ""},
		{"the report data cannot be written", attest.TDX, configfs, at("write", "/inblob", unix.EBADF), unix.EBADF, ""},
		{"the generation cannot be read", attest.TDX, configfs, at("read", "/generation", unix.EBADF), unix.EBADF, ""},
		{"the level's floor cannot be read", attest.SEVSNP, configfs, at("read", "/privlevel_floor", unix.EBADF), unix.EBADF, ""},
		{"the certificates cannot be read", attest.SEVSNP, configfs, at("read", "/auxblob", unix.EBADF), unix.EBADF, ""},
		{"the firmware fails", attest.SEVSNP, configfs, at("read", "/auxblob", unix.EIO), unix.EIO, "the host or the firmware refused"},
		{"the quoting service does not answer", attest.TDX, configfs, at("read", "/outblob", unix.ETIMEDOUT), unix.ETIMEDOUT, "whether its quoting service runs"},
		{"the driver is gone", attest.TDX, configfs, at("read", "/outblob", unix.ENXIO), unix.ENXIO, "no driver stands behind it"},
		{"the report cannot be removed", attest.TDX, configfs, at("rmdir", "", unix.EBADF), unix.EBADF, ""},
		{"another provider since", attest.TDX, configfs, func(m *hardwaretest.Machine) { m.Provider = "sev_guest" }, nil, `the provider has become "sev_guest", it was "tdx_guest"`},
		{"an empty quote", attest.TDX, configfs, none, nil, "an empty quote: the host's quoting service refused"},
		{"a truncated quote", attest.TDX, configfs, cut, nil, "that are no evidence of the type tdx"},
		{"a truncated report", attest.SEVSNP, configfs, cut, nil, "1183 bytes that are no evidence of the type sev-snp"},
		{"a report of something else", attest.SEVSNP, configfs, other, nil, "not made for what was asked"},
		{"a truncated table", attest.SEVSNP, configfs, func(m *hardwaretest.Machine) { m.Table = bytes.Repeat([]byte{1}, 100) }, nil, "the host's table of certificates: PARSE"},

		{"the device is gone", attest.SEVSNP, device, at("open", "sev-guest", unix.ENODEV), unix.ENODEV, "absent"},
		{"the device fails", attest.SEVSNP, device, at("ioctl", "2", unix.EIO), unix.EIO, "the host or the firmware refused"},
		{"the firmware's error is named", attest.SEVSNP, device, func(m *hardwaretest.Machine) {
			at("ioctl", "2", unix.EIO)(m)
			m.Firmware = uint64(abi.GuestRequestInvalidLength) >> 32 << 31
		}, &abi.SevFirmwareErr{}, "unexpected firmware status"},
		{"a wild word beside another error is not believed", attest.SEVSNP, device, func(m *hardwaretest.Machine) {
			at("ioctl", "2", unix.EFAULT)(m)
			m.Firmware = 2 << 32
		}, unix.EFAULT, ""},
		{"the device cannot be closed", attest.SEVSNP, device, at("close", "", unix.EBADF), unix.EBADF, ""},
		{"a truncated report of the device", attest.SEVSNP, device, cut, nil, "a report of 1183 bytes, want 1184"},
		{"a report of the device of something else", attest.SEVSNP, device, other, nil, "not made for what was asked"},
		{"a truncated table of the device", attest.SEVSNP, device, func(m *hardwaretest.Machine) { m.Table = bytes.Repeat([]byte{1}, 100) }, nil, "the host's table of certificates: PARSE"},

		{"Gramine takes no report data", attest.SGX, "/dev/attestation", at("write", "/user_report_data", unix.EACCES), unix.EACCES, "this user may not use it"},
		{"Gramine gives no quote", attest.SGX, "/dev/attestation", at("read", "/quote", unix.EPERM), unix.EPERM, ""},
		{"an empty quote of Gramine's", attest.SGX, "/dev/attestation", none, nil, "AESM service"},
		{"a truncated quote of Gramine's", attest.SGX, "/dev/attestation", cut, nil, "that are no evidence of the type sgx"},
		{"a quote of Gramine's of something else", attest.SGX, "/dev/attestation", other, nil, "not made for what was asked"},

		{"the module is gone", attest.Nitro, "/dev/nsm", at("open", "nsm", unix.ENOENT), unix.ENOENT, "absent"},
		{"the module fails", attest.Nitro, "/dev/nsm", at("send", "", unix.EMSGSIZE), unix.EMSGSIZE, ""},
		{"the session cannot be closed", attest.Nitro, "/dev/nsm", at("close", "", unix.EBADF), unix.EBADF, ""},
		{"the module refuses", attest.Nitro, "/dev/nsm", answer(func(r *response.Response) { r.Error = response.ECInputTooLarge }), nil, `answers "InputTooLarge"`},
		{"the module answers something else", attest.Nitro, "/dev/nsm", answer(func(r *response.Response) { r.Attestation = nil }), nil, "without a document"},
		{"an empty document", attest.Nitro, "/dev/nsm", none, nil, "without a document"},
		{"a truncated document", attest.Nitro, "/dev/nsm", cut, nil, "that are no evidence of the type nitro"},
		{"a document of something else", attest.Nitro, "/dev/nsm", other, nil, "not made for what was asked"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := machine(t, test.typ, test.place)
			synctest.Test(t, func(t *testing.T) {
				a := open(t, m)
				test.spoil(m)
				start := time.Now()
				e, err := a.Attest(t.Context(), binding)
				var firmware *abi.SevFirmwareErr
				is := test.is == nil || errors.Is(err, test.is) || errors.As(test.is, &firmware) && errors.As(err, &firmware)
				if err == nil || e.Body != nil || !is || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.place) {
					t.Errorf("Attest = %d bytes, %v, want an error with %q, %v", len(e.Body), err, test.want, test.is)
				}
				if waited := time.Since(start); waited != 0 {
					t.Errorf("it was asked again, for %s", waited)
				}
			})
			if left := m.Left(); len(left) != 0 && test.name != "the report cannot be removed" {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestTables: a host without certificates, and one with more than the driver takes, give reports without any.
func TestTables(t *testing.T) {
	for _, place := range []string{hardwaretest.Reports, "/dev/sev-guest"} {
		for name, table := range map[string][]byte{"none": {}, "zeros": make([]byte, 4096), "too many": make([]byte, 16<<10+1)} {
			m := machine(t, attest.SEVSNP, place)
			m.Table = table
			e, err := open(t, m).Attest(t.Context(), binding)
			if err != nil || len(e.Collateral) != 0 || len(e.Body) != 1184 {
				t.Errorf("%s, %s: Attest = %d bytes with %d pieces, %v", place, name, len(e.Body), len(e.Collateral), err)
			}
		}
	}
}

// TestNonce: a Nitro document carries nonce and key, too, and those are looked at.
func TestNonce(t *testing.T) {
	for name, alter := range map[string]func(*attest.Binding){
		"nonce": func(b *attest.Binding) { b.Nonce[0]++ },
		"key":   func(b *attest.Binding) { b.SPKI = append(slices.Clone(b.SPKI), 0) },
	} {
		m := machine(t, attest.Nitro, "/dev/nsm")
		before := m.Make
		m.Make = func(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
			alter(&b)
			return before(ctx, b)
		}
		if _, err := open(t, m).Attest(t.Context(), binding); err == nil || !strings.Contains(err.Error(), "not made for what was asked") {
			t.Errorf("a document of another %s: %v", name, err)
		}
	}
	a := open(t, machine(t, attest.Nitro, "/dev/nsm"))
	for _, size := range []int{0, 1025} {
		b := binding
		b.SPKI = make([]byte, size)
		if _, err := a.Attest(t.Context(), b); err == nil || !strings.Contains(err.Error(), "takes 1 to 1024") {
			t.Errorf("Attest with a key of %d bytes: %v", size, err)
		}
	}
}

// TestTurn: a device is asked one thing at a time. Who waits for it waits no longer than he likes.
func TestTurn(t *testing.T) {
	for _, p := range places {
		m := machine(t, p.typ, p.place)
		synctest.Test(t, func(t *testing.T) {
			a := open(t, m)
			asked, most := 0, 0
			release := make(chan struct{})
			m.Fault = func(op, name string) error {
				if outblob(op, name) {
					asked++
					most = max(most, asked)
					<-release
					asked--
				}
				return nil
			}
			done := make(chan error)
			for range 3 {
				go func() {
					_, err := a.Attest(t.Context(), binding)
					done <- err
				}()
			}
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := a.Attest(ctx, binding); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waiting for "+p.place) {
				t.Errorf("%s: Attest while the device is asked: %v", p.place, err)
			}
			close(release)
			for range 3 {
				if err := <-done; err != nil {
					t.Errorf("%s: Attest: %v", p.place, err)
				}
			}
			if most != 1 {
				t.Errorf("%s: %d at a time", p.place, most)
			}
			ended, end := context.WithCancelCause(t.Context())
			end(errors.New("enough"))
			if _, err := a.Attest(ended, binding); err == nil || !strings.Contains(err.Error(), "enough") {
				t.Errorf("%s: Attest after its time: %v", p.place, err)
			}
		})
	}
}

// TestEventLog: the table of a TDX guest's boot is read, and no other platform's.
func TestEventLog(t *testing.T) {
	const ccel = "/sys/firmware/acpi/tables/data/CCEL"
	for typ, want := range map[attest.Type]string{attest.TDX: "a table", attest.SEVSNP: ""} {
		m := machine(t, typ, hardwaretest.Reports)
		m.Files = map[string]string{ccel: "a table"}
		if got := open(t, m).EventLog(); string(got) != want {
			t.Errorf("%s: EventLog = %q, want %q", typ, got, want)
		}
	}
}

// TestLinux asks the real operating system, below another root: files and devices that are not there, Gramine's as plain files, and devices that
// are none.
func TestLinux(t *testing.T) {
	root := t.TempDir()
	o := hardware.Options{System: hardware.Linux(root), OpenUnverified: platform.OpenUnverified}
	if a, looks, err := hardware.Open(o); a != nil || err == nil || len(looks) != 6 {
		t.Fatalf("Open of an empty root: %v, %v, %v", a, looks, err)
	}
	write := func(name string, text []byte) {
		t.Helper()
		path := filepath.Join(root, name)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = os.WriteFile(path, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	quote, b, at := real(t, attest.SGX, "../sgx/testdata/vectors/sgx/v3-occlum-trustee")
	write("/dev/attestation/attestation_type", []byte("dcap"))
	write("/dev/attestation/quote", quote.Body)
	write("/dev/attestation/user_report_data", nil)
	a, _, err := hardware.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	e, err := a.Attest(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	judge(t, platform.Options{}, e, b, at, quote.Collateral)
	if got, err := os.ReadFile(filepath.Join(root, "/dev/attestation/user_report_data")); err != nil || !bytes.Equal(got, b.ReportData[:]) {
		t.Errorf("user_report_data is %x, %v", got, err)
	}
	write("/dev/attestation/quote", make([]byte, 300<<10))
	if _, err := a.Attest(t.Context(), b); err == nil || !strings.Contains(err.Error(), "more than 262144 bytes") {
		t.Errorf("Attest of a quote without end: %v", err)
	}
	// A plain file opens as a device does, and knows no request.
	write("/dev/sev-guest", nil)
	write("/dev/nsm", nil)
	for typ, want := range map[attest.Type]error{attest.SEVSNP: unix.ENOTTY, attest.Nitro: unix.ENOTTY} {
		o.Type = typ
		a, looks, err := hardware.Open(o)
		if err != nil {
			t.Fatal(looks, err)
		}
		if _, err := a.Attest(t.Context(), binding); !errors.Is(err, want) {
			t.Errorf("%s: Attest by a plain file: %v, want %v", typ, err, want)
		}
	}
	// A folder that is not configfs's makes folders, but no reports.
	o.Type = attest.TDX
	if err := os.MkdirAll(filepath.Join(root, hardwaretest.Reports), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, looks, err := hardware.Open(o); err == nil || !strings.Contains(looks[0].String(), "generation") {
		t.Errorf("Open of a plain folder: %v, %v", looks, err)
	}
	if left, err := os.ReadDir(filepath.Join(root, hardwaretest.Reports)); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
