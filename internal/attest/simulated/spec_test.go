package simulated_test

import (
	"bytes"
	"crypto/sha512"
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/simulated"
)

// TestSNPSpec: what a spec says is what claims say; and what it leaves out is good.
func TestSNPSpec(t *testing.T) {
	tcb := attest.TCB{Bootloader: 9, SNP: 23, Microcode: 72}
	plain := attest.SNP{
		Version: 5, ProductLine: "Genoa", GuestSVN: 1, ABIMajor: 1, ABIMinor: 55, Measurement: simulated.DefaultMeasurement(),
		Platform:   attest.SNPPlatform{TSME: true, ECC: true, RAPLDisabled: true, AliasCheckComplete: true},
		ReportData: binding.ReportData, Current: tcb, Reported: tcb, Committed: tcb, Launch: tcb, SigningKey: "vcek",
		ChipID: [64]byte{7},
	}
	odd := attest.TCB{Bootloader: 1, TEE: 127, SNP: 3, Microcode: 255}
	for _, test := range []struct {
		name string
		spec simulated.SNPSpec
		want func(*attest.SNP)
	}{
		{"nothing", simulated.SNPSpec{}, func(*attest.SNP) {}},
		{"debug", simulated.SNPSpec{Debug: true}, func(c *attest.SNP) { c.Debug = true }},
		{"another measurement", simulated.SNPSpec{Measurement: [48]byte{9}}, func(c *attest.SNP) { c.Measurement = [48]byte{9} }},
		{"another ABI", simulated.SNPSpec{ABIMinor: 51}, func(c *attest.SNP) { c.ABIMajor, c.ABIMinor = 0, 51 }},
		{"one TCB", simulated.SNPSpec{Reported: &odd}, func(c *attest.SNP) { c.Reported, c.Current, c.Committed, c.Launch = odd, odd, odd, odd }},
		{"four TCBs", simulated.SNPSpec{Current: &odd, Committed: &attest.TCB{SNP: 1}, Launch: &attest.TCB{SNP: 2}}, func(c *attest.SNP) {
			c.Current, c.Committed, c.Launch = odd, attest.TCB{SNP: 1}, attest.TCB{SNP: 2}
		}},
		{"masked chip", simulated.SNPSpec{ChipMasked: true}, func(c *attest.SNP) { c.ChipID, c.ChipMasked = [64]byte{}, true }},
		{"bare platform", simulated.SNPSpec{Platform: &attest.SNPPlatform{}}, func(c *attest.SNP) { c.Platform = attest.SNPPlatform{} }},
		{"everything", simulated.SNPSpec{
			HostData: [32]byte{2}, FamilyID: [16]byte{3}, ImageID: [16]byte{4}, IDKeyDigest: [48]byte{5}, AuthorKeyDigest: [48]byte{6},
			AuthorKeyEnabled: true, ABIMajor: 2, ABIMinor: 1, SMTAllowed: true, MigrateMA: true, SingleSocket: true, CXLAllowed: true,
			MemAES256XTS: true, RAPLDisabled: true, CiphertextHiding: true, VMPL: 3, GuestSVN: 8,
			Platform: &attest.SNPPlatform{SMT: true, CiphertextHiding: true, TIO: true, Unknown: 1 << 40},
		}, func(c *attest.SNP) {
			c.HostData, c.FamilyID, c.ImageID = [32]byte{2}, [16]byte{3}, [16]byte{4}
			c.IDKeyDigest, c.AuthorKeyDigest, c.AuthorKeyEnabled = [48]byte{5}, [48]byte{6}, true
			c.ABIMajor, c.ABIMinor, c.SMTAllowed, c.MigrateMA, c.SingleSocket, c.CXLAllowed = 2, 1, true, true, true, true
			c.MemAES256XTS, c.RAPLDisabled, c.CiphertextHiding, c.VMPL, c.GuestSVN = true, true, true, 3, 8
			c.Platform = attest.SNPPlatform{SMT: true, CiphertextHiding: true, TIO: true, Unknown: 1 << 40}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.spec.ChipID = [64]byte{7}
			m, err := roots()["demo"].SNP(test.spec)
			if err != nil {
				t.Fatal(err)
			}
			claims, err := judge(t, m, "demo")
			if err != nil {
				t.Fatal(err)
			}
			want := plain
			test.want(&want)
			want.ReportID = claims.SNP.ReportID // drawn
			if diff := cmp.Diff(&want, claims.SNP); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
	one, two := judged(t, simulated.SNPSpec{}), judged(t, simulated.SNPSpec{})
	if one.ChipID == two.ChipID || one.ReportID == two.ReportID || one.ChipMasked {
		t.Error("two machines have one chip")
	}
}

func judged(t *testing.T, s simulated.SNPSpec) *attest.SNP {
	t.Helper()
	claims, err := judge(t, must(roots()["demo"].SNP(s)), "demo")
	if err != nil {
		t.Fatal(err)
	}
	return claims.SNP
}

func TestSNPSpecRefuses(t *testing.T) {
	for name, tcb := range map[string]attest.TCB{
		"an FMC": {FMC: 1}, "bootloader": {Bootloader: 128}, "tee": {TEE: 128}, "snp": {SNP: 255},
	} {
		for i, s := range []simulated.SNPSpec{{Reported: &tcb}, {Current: &tcb}, {Committed: &tcb}, {Launch: &tcb}} {
			if _, err := roots()["demo"].SNP(s); err == nil || !strings.Contains(err.Error(), "want an FMC of zero but on Turin") {
				t.Errorf("%s in TCB %d: SNP = %v", name, i, err)
			}
		}
	}
}

func TestNitroSpec(t *testing.T) {
	plain := simulated.DefaultPCRs()
	for index := 3; index < 16; index++ {
		plain[index] = make([]byte, 48)
	}
	first := sha512.Sum384([]byte("consilium simulated nitro PCR0"))
	if !bytes.Equal(plain[0], first[:]) {
		t.Errorf("PCR0 is %x by default, want %x", plain[0], first)
	}
	zero, eights := make([]byte, 48), bytes.Repeat([]byte{8}, 48)
	for _, test := range []struct {
		name  string
		spec  simulated.NitroSpec
		pcrs  map[int][]byte // those that are not plain
		debug bool
	}{
		{"nothing", simulated.NitroSpec{}, nil, false},
		{"another image, and PCR8", simulated.NitroSpec{PCRs: map[int][]byte{0: eights, 8: eights, 31: eights}}, map[int][]byte{0: eights, 8: eights, 31: eights}, false},
		{"debug", simulated.NitroSpec{PCRs: map[int][]byte{0: zero, 1: zero, 2: zero}}, map[int][]byte{0: zero, 1: zero, 2: zero}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, err := roots()["demo"].Nitro(test.spec)
			if err != nil {
				t.Fatal(err)
			}
			claims, err := judge(t, m, "demo")
			if err != nil {
				t.Fatal(err)
			}
			want := map[int][]byte{}
			for _, of := range []map[int][]byte{plain, test.pcrs} {
				maps.Copy(want, of)
			}
			if diff := cmp.Diff(want, claims.Nitro.PCRs); diff != "" {
				t.Errorf("PCRs (-want +got):\n%s", diff)
			}
			if claims.Nitro.Debug != test.debug || !claims.Nitro.Timestamp.Equal(now) {
				t.Errorf("claims %+v", claims.Nitro)
			}
			if id := claims.Nitro.ModuleID; len(id) != 39 || !strings.HasPrefix(id, "i-") || id[19:23] != "-enc" {
				t.Errorf("module id %q", id)
			}
		})
	}
	claims, err := judge(t, must(roots()["demo"].Nitro(simulated.NitroSpec{ModuleID: strings.Repeat("m", 256)})), "demo")
	if err != nil || claims.Nitro.ModuleID != strings.Repeat("m", 256) {
		t.Errorf("a module id of 256 bytes: %v", err)
	}
	for name, s := range map[string]simulated.NitroSpec{
		"PCR32": {PCRs: map[int][]byte{32: zero}}, "PCR-1": {PCRs: map[int][]byte{-1: zero}}, "short": {PCRs: map[int][]byte{0: zero[1:]}},
		"long module id": {ModuleID: strings.Repeat("m", 257)},
	} {
		if _, err := roots()["demo"].Nitro(s); err == nil {
			t.Errorf("Nitro took %s", name)
		}
	}
	zero[0] = 1
	m := must(roots()["demo"].Nitro(simulated.NitroSpec{PCRs: map[int][]byte{3: zero}}))
	zero[0] = 2
	if claims, err := judge(t, m, "demo"); err != nil || claims.Nitro.PCRs[3][0] != 1 {
		t.Errorf("a machine changed with its spec: %v", err)
	}
}
