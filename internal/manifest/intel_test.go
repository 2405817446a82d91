package manifest_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/manifest"
)

// dcap returns a platform that is up to date.
func dcap() attest.DCAP {
	return attest.DCAP{
		PPID: [16]byte(bytes.Repeat([]byte{0x99}, 16)), Instance: [16]byte(bytes.Repeat([]byte{0x1d}, 16)), CA: "platform", QESVN: 8,
		TCB: attest.IntelTCB{Checked: true, Status: "UpToDate", Platform: "UpToDate", QE: "UpToDate", Evaluation: 18},
	}
}

// tdx returns claims that match the set tdx of testdata/intel.yaml.
func tdx() attest.Claims {
	return attest.Claims{
		Type: attest.TDX, RevocationChecked: true, CollateralFrom: now.Add(-time.Hour),
		TDX: &attest.TrustDomain{
			Version: 5, TD15: true, MRSEAM: filled48(0x5e), TDAttributes: [8]byte{3: 0x10}, XFAM: [8]byte{0xe7, 2, 6},
			MRTD: filled48(0x71), MRConfigID: filled48(0xc1), MROwner: filled48(0xc2), MROwnerConfig: filled48(0xc3),
			RTMR: [4][48]byte{filled48(0xb0), filled48(0xb1), filled48(0xb2)}, EventLog: true, Platform: dcap(),
		},
	}
}

// sgx returns claims that match the set sgx-enclave.
func sgx() attest.Claims {
	return attest.Claims{
		Type: attest.SGX, RevocationChecked: true, CollateralFrom: now.Add(-time.Hour),
		SGX: &attest.Enclave{
			Attributes: [16]byte{0: 5, 8: 0xe7, 15: 1}, MREnclave: [32]byte(bytes.Repeat([]byte{0xe1}, 32)),
			MRSigner: [32]byte(bytes.Repeat([]byte{0x51}, 32)), ISVProdID: 7, ISVSVN: 3,
			ConfigID: [64]byte(bytes.Repeat([]byte{0xc0}, 64)), ConfigSVN: 1, Platform: dcap(),
		},
	}
}

// signedEnclave returns claims that match the set sgx-signer, and no collateral.
func signedEnclave() attest.Claims {
	c := sgx()
	c.SGX.MRSigner, c.SGX.ISVProdID, c.SGX.MREnclave = [32]byte(bytes.Repeat([]byte{0x52}, 32)), 9, [32]byte{1}
	c.SGX.Platform = attest.DCAP{CA: "processor"}
	c.RevocationChecked, c.CollateralFrom = false, time.Time{}
	return c
}

var tdxRefusals = []refusal{
	{"B49 debug", attest.ClassDebug, func(c *attest.Claims) { c.TDX.Debug = true }, "can debug or profile"},
	{"B49 the bit of debug", attest.ClassDebug, func(c *attest.Claims) { c.TDX.TDAttributes[0] = 1 }, "can debug or profile"},
	{"B50 the bit of profiling", attest.ClassDebug, func(c *attest.Claims) { c.TDX.TDAttributes[0] = 1 << 5 }, "can debug or profile"},
	{"B50 SEPT_VE_DISABLE is off", attest.ClassDebug, func(c *attest.Claims) { c.TDX.TDAttributes[3] = 0 }, "td_attributes is 0000000000000000"},
	{"B50 migratable", attest.ClassDebug, func(c *attest.Claims) { c.TDX.TDAttributes[3] |= 0x20 }, "td_attributes is 0000003000000000"},
	{"B50 PERFMON", attest.ClassDebug, func(c *attest.Claims) { c.TDX.TDAttributes[7] = 0x80 }, "td_attributes is 0000001000000080"},
	{"B51 XFAM, first byte", attest.ClassDebug, func(c *attest.Claims) { c.TDX.XFAM[0] = 0xe3 }, "xfam is e3"},
	{"B51 XFAM, last byte", attest.ClassDebug, func(c *attest.Claims) { c.TDX.XFAM[7] = 1 }, "xfam is e7"},
	{"B52 MRTD", attest.ClassMeas, func(c *attest.Claims) { c.TDX.MRTD[47] ^= 1 }, "mr_td 7171"},
	{"B52 MRTD of zeros", attest.ClassMeas, func(c *attest.Claims) { c.TDX.MRTD = [48]byte{} }, "mr_td 0000"},
	{"B52 MRTD where MRSIGNERSEAM stands", attest.ClassMeas, func(c *attest.Claims) {
		c.TDX.MRSignerSEAM, c.TDX.MRTD = c.TDX.MRTD, [48]byte{}
	}, "mr_td 0000"},
	{"B53 RTMR0", attest.ClassMeas, func(c *attest.Claims) { c.TDX.RTMR[0][0] ^= 1 }, "rtmr 0 is b1b0"},
	{"B53 RTMR1", attest.ClassMeas, func(c *attest.Claims) { c.TDX.RTMR[1][47] ^= 1 }, "rtmr 1 is b1b1"},
	{"B53 RTMR2", attest.ClassMeas, func(c *attest.Claims) { c.TDX.RTMR[2] = [48]byte{} }, "rtmr 2 is 0000"},
	{"B53 RTMR3, something measured where nothing was wanted", attest.ClassMeas, func(c *attest.Claims) { c.TDX.RTMR[3][0] = 1 }, "rtmr 3 is 0100"},
	{"B76 registers of a paravisor, which knows the guest's image and does not measure it", attest.ClassMeas, func(c *attest.Claims) {
		c.TDX.RTMR[2], c.TDX.RTMR[3] = [48]byte{0xa2}, [48]byte{} // Azure's, whose first ones are of the layer that a host puts below every guest
	}, "rtmr 2 is a200"},
	{"B54 no event log where one is required", attest.ClassMeas, func(c *attest.Claims) { c.TDX.EventLog = false }, "no event log"},
	{"B55 MRCONFIGID", attest.ClassMeas, func(c *attest.Claims) { c.TDX.MRConfigID[0] ^= 1 }, "mr_config_id is c0c1"},
	{"B55 MROWNER", attest.ClassMeas, func(c *attest.Claims) { c.TDX.MROwner[0] ^= 1 }, "mr_owner is c3c2"},
	{"B55 MROWNERCONFIG", attest.ClassMeas, func(c *attest.Claims) { c.TDX.MROwnerConfig = [48]byte{} }, "mr_owner_config is 0000"},
	{"B56 MRSEAM", attest.ClassPlat, func(c *attest.Claims) { c.TDX.MRSEAM[0] ^= 1 }, "mr_seam 5f5e"},
	{"B57 MRSIGNERSEAM", attest.ClassPlat, func(c *attest.Claims) { c.TDX.MRSignerSEAM[47] = 1 }, "mr_signer_seam is 0000"},
	{"B58 SEAMATTRIBUTES", attest.ClassDebug, func(c *attest.Claims) { c.TDX.SEAMAttributes[7] = 0x80 }, "SEAMATTRIBUTES are 0000"},
	{"B60 MRSERVICETD where none is wanted", attest.ClassMeas, func(c *attest.Claims) { c.TDX.MRServiceTD[0] = 1 }, "mr_service_td is 0100"},
	{"B61 OutOfDate", attest.ClassTCB, func(c *attest.Claims) { c.TDX.Platform.TCB.Status = "OutOfDate" }, "TCB is OutOfDate"},
	{"B61 ConfigurationNeeded", attest.ClassTCB, func(c *attest.Claims) { c.TDX.Platform.TCB.Status = "ConfigurationNeeded" }, "TCB is ConfigurationNeeded"},
	{"B61 Revoked", attest.ClassTCB, func(c *attest.Claims) { c.TDX.Platform.TCB.Status = "Revoked" }, "TCB is Revoked"},
	{"B61 nothing", attest.ClassTCB, func(c *attest.Claims) { c.TDX.Platform.TCB.Status = "" }, "TCB is "},
	{"B61 no TCB info", attest.ClassTCB, func(c *attest.Claims) { c.TDX.Platform.TCB.Checked = false }, "no TCB info"},
	{"B62 an advisory that is not listed", attest.ClassTCB, func(c *attest.Claims) {
		c.TDX.Platform.TCB.Advisories = []string{"INTEL-SA-00615", "INTEL-SA-00657"}
	}, "advisory INTEL-SA-00657"},
	{"B67 TCB info of an earlier recovery than the set's", attest.ClassTCB, func(c *attest.Claims) { c.TDX.Platform.TCB.Evaluation = 17 }, "evaluation number 17, want 18"},
	{"B63 an older quoting enclave than the set's", attest.ClassTCB, func(c *attest.Claims) { c.TDX.Platform.QESVN = 3 }, "ISVSVN is 3, want 4"},
	{"B66 revocation not checked", attest.ClassRevoked, func(c *attest.Claims) { c.RevocationChecked = false }, "no revocation list"},
	{"B66 collateral too old", attest.ClassRevoked, func(c *attest.Claims) { c.CollateralFrom = now.Add(-169 * time.Hour) }, "169h0m0s old"},
	{"B74 platform instance", attest.ClassInst, func(c *attest.Claims) { c.TDX.Platform.Instance[0] ^= 1 }, "instance 1c1d"},
	{"B74 no platform instance", attest.ClassInst, func(c *attest.Claims) { c.TDX.Platform.Instance = [16]byte{} }, "instance 0000"},
	{"B65 simulated", attest.ClassChain, func(c *attest.Claims) { c.Simulated = "demo" }, "want hardware"},
	{"no quote in the claims", attest.ClassParse, func(c *attest.Claims) { c.TDX = nil }, "without their one part"},
	{"two parts in the claims", attest.ClassParse, func(c *attest.Claims) { c.SGX = sgx().SGX }, "without their one part"},
	{"another part in the claims", attest.ClassParse, func(c *attest.Claims) { c.SGX, c.TDX = sgx().SGX, nil }, "without their one part"},
}

var sgxRefusals = []refusal{
	{"C77 debug", attest.ClassDebug, func(c *attest.Claims) { c.SGX.Debug = true }, "with DEBUG"},
	{"C77 the bit of debug", attest.ClassDebug, func(c *attest.Claims) { c.SGX.Attributes[0] |= 2 }, "with DEBUG"},
	{"C78 PROVISION_KEY", attest.ClassDebug, func(c *attest.Claims) { c.SGX.Attributes[0] |= 0x10 }, "PROVISION_KEY"},
	{"C78 EINITTOKEN_KEY", attest.ClassDebug, func(c *attest.Claims) { c.SGX.Attributes[0] |= 0x20 }, "EINITTOKEN_KEY"},
	{"C80 MRENCLAVE", attest.ClassMeas, func(c *attest.Claims) { c.SGX.MREnclave[31] ^= 1 }, "mr_enclave e1e1"},
	{"C81 MRSIGNER", attest.ClassMeas, func(c *attest.Claims) { c.SGX.MRSigner[0] ^= 1 }, "mr_signer 5051"},
	{"C81 MRSIGNER right, ISVPRODID wrong", attest.ClassMeas, func(c *attest.Claims) { c.SGX.ISVProdID = 8 }, "prod_id is 8, want 7"},
	{"C82 ISVSVN", attest.ClassTCB, func(c *attest.Claims) { c.SGX.ISVSVN = 2 }, "isv_svn is 2, want 3"},
	{"C83 CONFIGID", attest.ClassMeas, func(c *attest.Claims) { c.SGX.ConfigID[63] ^= 1 }, "config_id is c0c0"},
	{"C83 CONFIGSVN", attest.ClassMeas, func(c *attest.Claims) { c.SGX.ConfigSVN = 0 }, "config_svn is 0, want 1"},
	{"C84 MISCSELECT", attest.ClassDebug, func(c *attest.Claims) { c.SGX.MiscSelect[0] = 1 }, "misc_select is 01000000"},
	{"C84 XFRM", attest.ClassDebug, func(c *attest.Claims) { c.SGX.Attributes[8] = 3 }, "attributes are 0500"},
	{"C84 flags", attest.ClassDebug, func(c *attest.Claims) { c.SGX.Attributes[0] |= 0x80 }, "attributes are 8500"},
	{"C86 SWHardeningNeeded", attest.ClassTCB, func(c *attest.Claims) { c.SGX.Platform.TCB.Status = "SWHardeningNeeded" }, "want one of UpToDate"},
	{"C86 an advisory where none may be open", attest.ClassTCB, func(c *attest.Claims) {
		c.SGX.Platform.TCB.Advisories = []string{"INTEL-SA-00615"}
	}, "advisory INTEL-SA-00615"},
	{"C86 no TCB info", attest.ClassTCB, func(c *attest.Claims) { c.SGX.Platform.TCB = attest.IntelTCB{} }, "no TCB info"},
	{"C88 certified by the processor's authority", attest.ClassPlat, func(c *attest.Claims) { c.SGX.Platform.CA = "processor" }, `"processor" authority`},
	{"C89 the same enclave, signed by another", attest.ClassMeas, func(c *attest.Claims) { c.SGX.MRSigner = [32]byte{1} }, "mr_signer 0100"},
	{"processor that is not listed", attest.ClassInst, func(c *attest.Claims) { c.SGX.Platform.PPID[15] ^= 1 }, "processor 9999"},
	{"an older quoting enclave than the set's", attest.ClassTCB, func(c *attest.Claims) { c.SGX.Platform.QESVN = 7 }, "ISVSVN is 7, want 8"},
}

// signedRefusals are what a set that judges no measurement refuses nevertheless.
var signedRefusals = []refusal{
	{"C77 debug, of a signer's set", attest.ClassDebug, func(c *attest.Claims) { c.SGX.Debug = true }, "with DEBUG"},
	{"C81 MRSIGNER, of a signer's set", attest.ClassMeas, func(c *attest.Claims) { c.SGX.MRSigner[0] ^= 1 }, "mr_signer 5352"},
	{"C81 ISVPRODID, of a signer's set", attest.ClassMeas, func(c *attest.Claims) { c.SGX.ISVProdID = 7 }, "prod_id is 7, want 9"},
	{"C82 ISVSVN, of a signer's set", attest.ClassTCB, func(c *attest.Claims) { c.SGX.ISVSVN = 2 }, "isv_svn is 2"},
	{"B61 Revoked, where the standing is not judged", attest.ClassTCB, func(c *attest.Claims) {
		c.SGX.Platform.TCB = attest.IntelTCB{Checked: true, Status: "Revoked"}
	}, "TCB is Revoked"},
	{"C88 certified by nobody", attest.ClassPlat, func(c *attest.Claims) { c.SGX.Platform.CA = "" }, `"" authority`},
}

// TestAppraiseIntel: what matches, and that fields which are not judged are counted.
func TestAppraiseIntel(t *testing.T) {
	m := loaded(t, "intel.yaml", "north", "south")
	hardened := tdx()
	hardened.TDX.Platform.TCB.Status, hardened.TDX.Platform.TCB.Advisories = "SWHardeningNeeded", []string{"INTEL-SA-00615"}
	second := tdx()
	second.TDX.MRTD = filled48(0x72)
	for _, test := range []struct {
		name   string
		claims attest.Claims
		want   attest.Appraisal
	}{
		{"TDX", tdx(), attest.Appraisal{Sets: []string{"tdx"}, TTL: time.Hour}},
		{"TDX, its second MRTD", second, attest.Appraisal{Sets: []string{"tdx"}, TTL: time.Hour}},
		{"TDX, another standing and an advisory that are listed", hardened, attest.Appraisal{Sets: []string{"tdx"}, TTL: time.Hour}},
		{"SGX by its enclave", sgx(), attest.Appraisal{Sets: []string{"sgx-enclave"}, TTL: time.Hour}},
		{"SGX by its signer", signedEnclave(), attest.Appraisal{Sets: []string{"sgx-signer"}, TTL: time.Hour, Any: []string{
			"sgx-signer.mr_enclave: the signer's word", "sgx-signer.config_id: not used", "sgx-signer.ppids: a cloud",
			"sgx-signer.tcb_status: judged by hand", "sgx-signer.advisories: judged by hand", "sgx-signer.tcb_eval_min: judged by hand",
			"sgx-signer.revocation: no network",
		}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := m.Appraise(north, []attest.Claims{test.claims}, now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Appraise (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSGXRevocation: a set about SGX asks for revocation lists as one about TDX does. No other set stands beside it here.
func TestSGXRevocation(t *testing.T) {
	m := fromText(t, edited(t, read(t, "intel.yaml"), "coordinator: {types: [[tdx]], sets: [tdx]", "coordinator: {types: [[tdx], [sgx]], sets: [tdx, sgx-enclave]"))
	c := sgx()
	if _, err := m.Appraise(council, []attest.Claims{c}, now); err != nil {
		t.Error(err)
	}
	c.RevocationChecked = false
	a, err := m.Appraise(council, []attest.Claims{c}, now)
	wantClass(t, a, err, attest.ClassRevoked, "no revocation list")
}

// intelTexts are manifests that must not build, each with one thing of intel.yaml changed.
var intelTexts = []struct {
	name     string
	old, new string
	want     string
}{
	{"B53 an empty RTMR", `rtmr: {0: "` + strings.Repeat("b0", 48) + `"`, `rtmr: {0: ""`, "tdx.rtmr.0: want 48 bytes"},
	{"B53 an RTMR that is missing", `, 3: "` + strings.Repeat("00", 48) + `"}`, `}`, `tdx.rtmr: field "3" is missing`},
	{"B53 an RTMR too many", `rtmr: {`, `rtmr: {4: "", `, `unknown field "4" in reference_sets.tdx.rtmr`},
	{"B52 an MRTD of zeros", strings.Repeat("71", 48), strings.Repeat("00", 48), "tdx.mr_td[0]: is all zero"},
	{"B49 debug", `td_attributes: "00`, `td_attributes: "01`, "no manifest can admit one"},
	{"B50 profiling", `td_attributes: "00`, `td_attributes: "20`, "no manifest can admit one"},
	{"B50 attributes that are not judged", `td_attributes: "0000001000000000"`, `td_attributes: {any: true, reason: "x"}`, "tdx.td_attributes: is a group of fields"},
	{"B54 no word on event logs", "event_log: required", "event_log: optional", `is "optional", want one of required`},
	{"B61 Revoked", "tcb_status: [UpToDate, ", "tcb_status: [Revoked, ", `is "Revoked", want one of UpToDate`},
	{"B61 no standing", "tcb_status: [UpToDate, SWHardeningNeeded]", "tcb_status: []", "tcb_status: is empty"},
	{"B62 something else than an advisory", "[INTEL-SA-00615]", "[CVE-2020-1]", `"CVE-2020-1", want an advisory`},
	{"B62 an advisory twice", "[INTEL-SA-00615]", "[INTEL-SA-00615, INTEL-SA-00615]", "stands twice"},
	{"B74 an instance of zeros", strings.Repeat("1d", 16), strings.Repeat("00", 16), "tdx.piids[0]: is all zero"},
	{"a quoting enclave without a floor", "qe: {isv_svn_min: 4}", "qe: {}", `field "isv_svn_min" is missing`},
	{"a floor beyond 65535", "qe: {isv_svn_min: 4}", "qe: {isv_svn_min: 65536}", "want a whole number from 0 to 65535"},
	{"C77 debug", `attributes: "05`, `attributes: "07`, "no manifest can admit such an enclave"},
	{"C78 PROVISION_KEY", `attributes: "05`, `attributes: "15`, "no manifest can admit such an enclave"},
	{"C78 EINITTOKEN_KEY", `attributes: "05`, `attributes: "25`, "no manifest can admit such an enclave"},
	{"C84 attributes of no bytes", `attributes: "0500000000000000e700000000000000"`, `attributes: ""`, "attributes: want 16 bytes"},
	{"C84 a mask of no bytes", `attributes_mask: "ffffffffffffffffff00000000000000"`, `attributes_mask: ""`, "attributes_mask: want 16 bytes"},
	{"C84 attributes outside the mask", `attributes_mask: "ff`, `attributes_mask: "fe`, "bits that attributes_mask does not look at"},
	{"C80 neither enclave nor signer", `mr_signer: ["` + strings.Repeat("52", 32) + `"]`, `mr_signer: {any: true, reason: "x"}`, "or any enclave would do"},
	{"C81 neither enclave nor product", "prod_id: 9", `prod_id: {any: true, reason: "x"}`, "or any enclave would do"},
	{"C88 another authority", "pck_ca: [platform]", "pck_ca: [root]", `is "root", want one of platform, processor`},
}

func intelTextsRefused(t *testing.T) {
	text := read(t, "intel.yaml")
	for _, test := range intelTexts {
		t.Run(test.name, func(t *testing.T) {
			_, err := manifest.Build([]byte(edited(t, text, test.old, test.new)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Build = %v\nwant %q in it", err, test.want)
			}
		})
	}
}
