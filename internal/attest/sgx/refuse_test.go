package sgx_test

import (
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

type scene = dcaptest.Scene

// A refusal is something wrong with evidence that is rightly signed, and the class that it must be refused with. Names begin
// with the case's number in the list of what a great verifier must refuse. What concerns the platform is refused by package dcap,
// and tested there.
type refusal struct {
	name  string
	class attest.Class
	spoil func(*scene)
}

func TestRefuses(t *testing.T) {
	for _, r := range formRefusals {
		t.Run(dcaptest.Numbered(r.name), func(t *testing.T) {
			s := dcaptest.NewSGX()
			r.spoil(s)
			claims, err := newVerifier(t).Verify(t.Context(), s.Evidence(), s.Binding, s.Now, s.Held)
			dcaptest.WantClass(t, err, r.class)
			if claims.SGX != nil || claims.Type != 0 {
				t.Errorf("Verify refused and gave claims: %+v", claims)
			}
		})
	}
}

// body returns a spoiler that writes bytes into the report before it is signed.
func body(at int, value ...byte) func(*scene) { return func(s *scene) { copy(s.Body[at:], value) } }

var formRefusals = []refusal{
	{"C79 INIT is 0", attest.ClassParse, body(48, 0x04)},
	{"C79 MODE64BIT is 0", attest.ClassParse, body(48, 0x01)},
	{"C79 reserved byte 20", attest.ClassParse, body(20, 1)},
	{"C79 reserved byte 31", attest.ClassParse, body(31, 1)},
	{"C79 reserved byte 96", attest.ClassParse, body(96, 1)},
	{"C79 reserved byte 127", attest.ClassParse, body(127, 1)},
	{"C79 reserved byte 160", attest.ClassParse, body(160, 1)},
	{"C79 reserved byte 191", attest.ClassParse, body(191, 1)},
	{"C79 reserved byte 262", attest.ClassParse, body(262, 1)},
	{"C79 reserved byte 303", attest.ClassParse, body(303, 1)},
	{"C91 REPORTDATA differs in byte 0", attest.ClassBind, func(s *scene) { s.Binding.ReportData[0] ^= 1 }},
	{"C91 REPORTDATA differs in byte 63", attest.ClassBind, func(s *scene) { s.Binding.ReportData[63] ^= 0x80 }},
	{"C91 REPORTDATA equals in the first 32 only, the rest zero", attest.ClassBind, func(s *scene) { clear(s.Body[352:384]) }},
	{"C91 REPORTDATA equals in the first 32 only", attest.ClassBind, func(s *scene) { clear(s.Binding.ReportData[32:]) }},
	{"C91 REPORTDATA is zero", attest.ClassBind, func(s *scene) { clear(s.Body[320:384]) }},
	{"C87 evidence of another type", attest.ClassParse, func(s *scene) { s.Type = attest.TDX }},
	{"C87 a TDX quote", attest.ClassParse, func(s *scene) { *s = *dcaptest.NewTDX(); s.Type = attest.SGX }},
}

// TestAccepted: what must not be refused, and what the claims then say.
func TestAccepted(t *testing.T) {
	for _, a := range []struct {
		name  string
		make  func(*scene)
		holds func(c attest.Claims) bool
	}{
		{"plain", func(*scene) {}, func(c attest.Claims) bool {
			e := c.SGX
			return c.Type == attest.SGX && c.Simulated == "test" && c.RevocationChecked && e.Platform.TCB.Status == "UpToDate" &&
				e.CPUSVN[0] == 5 && e.Attributes[0] == 5 && e.Attributes[8] == 0xe7 && e.MREnclave[31] == 0xe1 && e.MRSigner[0] == 0x51 &&
				e.ISVProdID == 7 && e.ISVSVN == 3 && e.ConfigSVN == 1 && e.ConfigID[63] == 0xc0 && !e.Debug
		}},
		{"C77 debug", body(48, 0x07), func(c attest.Claims) bool { return c.SGX.Debug }},
		{"every field at its place", func(s *scene) {
			for at, b := range map[int]byte{
				16: 1, 19: 2, 32: 3, 47: 4, 63: 6, 64: 7, 95: 8, 159: 10, 192: 11, 257: 13, 259: 14, 261: 15, 304: 16, 319: 17,
			} {
				s.Body[at] = b
			}
		}, func(c attest.Claims) bool {
			e := c.SGX
			return e.MiscSelect == [4]byte{1, 0, 0, 2} && e.ISVExtProdID[0] == 3 && e.ISVExtProdID[15] == 4 && e.Attributes[15] == 6 &&
				e.MREnclave[0] == 7 && e.MREnclave[31] == 8 && e.MRSigner[31] == 10 && e.ConfigID[0] == 11 &&
				e.ISVProdID == 13<<8|7 && e.ISVSVN == 14<<8|3 && e.ConfigSVN == 15<<8|1 && e.ISVFamilyID[0] == 16 && e.ISVFamilyID[15] == 17
		}},
	} {
		t.Run(a.name, func(t *testing.T) {
			s := dcaptest.NewSGX()
			a.make(s)
			claims, err := newVerifier(t).Verify(t.Context(), s.Evidence(), s.Binding, s.Now, s.Held)
			if err != nil {
				t.Fatal(err)
			}
			if !a.holds(claims) {
				t.Errorf("claims %+v, SGX %+v", claims, claims.SGX)
			}
		})
	}
}
