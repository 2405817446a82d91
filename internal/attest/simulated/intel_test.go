package simulated_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/simulated"
)

// platform is that of a machine whose spec says nothing of it but which it is.
var platform = attest.DCAP{FMSPC: [6]byte{1: 0x5e, 2: 0xed}, PPID: [16]byte{7}, Instance: [16]byte{8}, CA: "platform", QESVN: 8}

// TestTDXSpec: what a spec says is what claims say; and what it leaves out is good.
func TestTDXSpec(t *testing.T) {
	for _, test := range []struct {
		name string
		spec simulated.TDXSpec
		want func(*attest.TrustDomain)
	}{
		{"nothing", simulated.TDXSpec{}, func(*attest.TrustDomain) {}},
		{"debug", simulated.TDXSpec{TDAttributes: [8]byte{1}}, func(d *attest.TrustDomain) { d.TDAttributes, d.Debug = [8]byte{1}, true }},
		{"everything", simulated.TDXSpec{
			MRTD: [48]byte{1}, RTMR: [4][48]byte{{2}, {3}, {4}, {5}}, MRConfigID: [48]byte{6}, MROwner: [48]byte{7}, MROwnerConfig: [48]byte{8},
			MRServiceTD: [48]byte{9}, MRSEAM: [48]byte{10}, XFAM: [8]byte{11},
		}, func(d *attest.TrustDomain) {
			d.MRTD, d.RTMR, d.MRConfigID, d.MROwner, d.MROwnerConfig = [48]byte{1}, [4][48]byte{{2}, {3}, {4}, {5}}, [48]byte{6}, [48]byte{7}, [48]byte{8}
			d.MRServiceTD, d.MRSEAM, d.XFAM = [48]byte{9}, [48]byte{10}, [8]byte{11}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.spec.PPID, test.spec.Instance = platform.PPID, platform.Instance
			claims, err := judge(t, must(roots()["demo"].TDX(test.spec)), "demo")
			if err != nil {
				t.Fatal(err)
			}
			want := attest.TrustDomain{
				Version: 5, TD15: true, TEETCBSVN: [16]byte{4, 1, 3}, TEETCBSVN2: [16]byte{4, 1, 3}, MRSEAM: claims.TDX.MRSEAM,
				TDAttributes: [8]byte{3: 0x10}, XFAM: [8]byte{0xe7, 2, 6}, MRTD: simulated.DefaultMRTD(), ReportData: binding.ReportData, Platform: platform,
			}
			test.want(&want)
			standing(t, claims, &want.Platform, "UpToDate", "UpToDate", nil)
			if diff := cmp.Diff(&want, claims.TDX); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
}

// standing puts what TCB info must say into want, and checks that lists were at hand.
func standing(t *testing.T, c attest.Claims, want *attest.DCAP, status, module string, advisories []string) {
	t.Helper()
	want.TCB = attest.IntelTCB{
		Checked: true, Status: status, Platform: status, Module: module, QE: "UpToDate", Advisories: advisories, Evaluation: 1, Date: c.CollateralFrom,
	}
	if !c.RevocationChecked || c.CollateralFrom.IsZero() {
		t.Errorf("revocation checked: %t, collateral from %s", c.RevocationChecked, c.CollateralFrom)
	}
}

// TestSGXSpec: likewise.
func TestSGXSpec(t *testing.T) {
	for _, test := range []struct {
		name       string
		spec       simulated.SGXSpec
		status     string
		advisories []string
		want       func(*attest.Enclave)
	}{
		{"nothing", simulated.SGXSpec{}, "UpToDate", nil, func(*attest.Enclave) {}},
		{
			"out of date",
			simulated.SGXSpec{IntelSpec: simulated.IntelSpec{Status: "OutOfDate", Advisories: []string{"INTEL-SA-00615"}}},
			"OutOfDate",
			[]string{"INTEL-SA-00615"},
			func(*attest.Enclave) {},
		},
		{"debug", simulated.SGXSpec{Attributes: [16]byte{7}}, "UpToDate", nil, func(e *attest.Enclave) { e.Attributes, e.Debug = [16]byte{7}, true }},
		{"everything", simulated.SGXSpec{
			MREnclave: [32]byte{1}, MRSigner: [32]byte{2}, ISVProdID: 0x103, ISVSVN: 0x104, ConfigID: [64]byte{5}, ConfigSVN: 0x106, MiscSelect: [4]byte{7},
		}, "UpToDate", nil, func(e *attest.Enclave) {
			e.MREnclave, e.MRSigner, e.ISVProdID, e.ISVSVN, e.ConfigID, e.ConfigSVN = [32]byte{1}, [32]byte{2}, 0x103, 0x104, [64]byte{5}, 0x106
			e.MiscSelect = [4]byte{7}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.spec.PPID, test.spec.Instance = platform.PPID, platform.Instance
			claims, err := judge(t, must(roots()["demo"].SGX(test.spec)), "demo")
			if err != nil {
				t.Fatal(err)
			}
			want := attest.Enclave{
				CPUSVN: [16]byte(slices.Repeat([]byte{5}, 16)), Attributes: [16]byte{0: 5, 8: 0xe7}, MREnclave: simulated.DefaultMREnclave(),
				MRSigner: claims.SGX.MRSigner, ReportData: binding.ReportData, Platform: platform,
			}
			test.want(&want)
			standing(t, claims, &want.Platform, test.status, "", test.advisories)
			if diff := cmp.Diff(&want, claims.SGX); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
	one, two := must(judge(t, must(roots()["demo"].SGX(simulated.SGXSpec{})), "demo")), must(judge(t, must(roots()["demo"].SGX(simulated.SGXSpec{})), "demo"))
	if one.SGX.Platform.PPID == two.SGX.Platform.PPID || one.SGX.Platform.Instance == two.SGX.Platform.Instance {
		t.Error("two machines are one platform")
	}
}

// TestOldRoot: the file of a root that was made before roots had Intel's part is read and written as it is, and makes no machine of
// Intel's.
func TestOldRoot(t *testing.T) {
	var fields map[string]string
	text := string(must(roots()["demo"].Marshal()))
	if err := json.Unmarshal([]byte(text), &fields); err != nil {
		t.Fatal(err)
	}
	for name, value := range fields {
		if strings.HasPrefix(name, "intel") {
			text = strings.Replace(text, ",\n  \""+name+`": "`+value+`"`, "", 1)
		}
	}
	old, err := simulated.ParseRoot([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(must(old.Marshal())); got != text || strings.Contains(text, "intel") {
		t.Errorf("read and written again it is\n%s\nwant\n%s", got, text)
	}
	if n := len(old.Certificates()); n != 3 {
		t.Errorf("%d certificates, want 3", n)
	}
	if _, err := old.TDX(simulated.TDXSpec{}); err == nil || !strings.Contains(err.Error(), "make a new root") {
		t.Errorf("TDX = %v", err)
	}
	if _, err := old.SGX(simulated.SGXSpec{}); err == nil || !strings.Contains(err.Error(), "make a new root") {
		t.Errorf("SGX = %v", err)
	}
	if _, err := old.SNP(simulated.SNPSpec{}); err != nil {
		t.Error(err)
	}
}
