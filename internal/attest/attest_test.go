package attest_test

import (
	"errors"
	"fmt"
	"testing"

	"consilium.dev/internal/attest"
)

// Numbers and names stand in hellos, alerts, manifests and logs: they may not change.
func TestTypes(t *testing.T) {
	for number, name := range map[uint8]string{
		1: "sev-snp", 2: "tdx", 3: "sgx", 4: "cca", 5: "nitro", 6: "azure-snp", 7: "azure-tdx", 8: "gcp-snp", 9: "gcp-tdx",
		10: "confidential-space", 32: "nvidia-gpu", 64: "maa", 65: "ita", 66: "nras", 128: "signature",
	} {
		if got := attest.Type(number).String(); got != name {
			t.Errorf("Type(%d).String = %q, want %q", number, got, name)
		}
		if got, ok := attest.ParseType(name); !ok || got != attest.Type(number) {
			t.Errorf("ParseType(%q) = %d, %t, want %d", name, got, ok, number)
		}
	}
	for _, none := range []string{"", "SEV-SNP", "type(0)", "snp"} {
		if got, ok := attest.ParseType(none); ok || got != 0 {
			t.Errorf("ParseType(%q) = %s, %t", none, got, ok)
		}
	}
	if got := attest.Type(0).String(); got != "type(0)" {
		t.Errorf("Type(0).String = %q", got)
	}
}

func TestOffices(t *testing.T) {
	for o, want := range map[attest.Office]string{
		1: "coordinator", 2: "participant", 3: "person", 0: "office(0)", 4: "office(4)",
	} {
		if got := o.String(); got != want {
			t.Errorf("Office(%d).String = %q, want %q", uint8(o), got, want)
		}
	}
}

func TestClasses(t *testing.T) {
	want := []string{
		"CLASS(0)", "TLS", "FRAME", "PARSE", "CHAIN", "TIME", "REVOKED", "SIG", "BIND", "DEBUG", "MEAS", "TCB", "PLAT", "INST", "DEV",
		"TOKEN", "MANIFEST", "STATE", "RATE", "CLASS(19)",
	}
	for number, name := range want {
		if got := attest.Class(number).String(); got != name {
			t.Errorf("Class(%d).String = %q, want %q", number, got, name)
		}
	}
	if attest.ClassTLS != 1 || attest.ClassBind != 8 || attest.ClassRate != 18 {
		t.Error("the classes are not numbered as alerts send them")
	}
}

func TestError(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("peer: %w", attest.Refuse(attest.ClassMeas, "measurement %d: %w", 7, cause))
	var refusal *attest.Error
	if !errors.As(err, &refusal) || refusal.Class != attest.ClassMeas || !errors.Is(err, cause) {
		t.Errorf("%v is no refusal of the class MEAS with its cause", err)
	}
	if got := err.Error(); got != "peer: MEAS: measurement 7: cause" {
		t.Errorf("Error = %q", got)
	}
}

// TestTCBDifferences names what is not the same, and nothing else.
func TestTCBDifferences(t *testing.T) {
	had := attest.TCB{FMC: 1, Bootloader: 3, TEE: 0, SNP: 8, Microcode: 115}
	if got := had.Differences(had, "want"); got != "" {
		t.Errorf("a TCB differs from itself: %q", got)
	}
	want := had
	want.FMC, want.Bootloader, want.TEE, want.SNP, want.Microcode = 2, 4, 1, 9, 116
	if got, words := had.Differences(want, "want"), "fmc is 1, want 2; bootloader is 3, want 4; tee is 0, want 1; snp is 8, want 9; microcode is 115, want 116"; got != words {
		t.Errorf("Differences = %q, want %q", got, words)
	}
	want.FMC, want.TEE, want.SNP, want.Microcode = 1, 0, 8, 115
	if got, words := had.Differences(want, "reported"), "bootloader is 3, reported 4"; got != words {
		t.Errorf("Differences = %q, want %q", got, words)
	}
}
