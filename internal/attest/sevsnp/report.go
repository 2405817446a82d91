package sevsnp

import (
	"encoding/binary"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/proto/sevsnp"

	"consilium.dev/internal/attest"
)

// Where things lie in an ATTESTATION_REPORT (AMD 56860, table "ATTESTATION_REPORT Structure"). Integers are little-endian.
// go-sev-guest reads the fields; the offsets here are of those that must be looked at before, or that it leaves alone.
const (
	offsetAlgorithm = 0x34  // u32: 1 is ECDSA P-384 with SHA-384
	offsetKeyInfo   = 0x48  // u32: bit 0 AUTHOR_KEY_EN, bit 1 MASK_CHIP_KEY, bits 2 to 4 SIGNING_KEY
	offsetFamily    = 0x188 // u8 family, u8 model, u8 stepping; zeros before version 3
	offsetMitLaunch = 0x1F8 // u64, u64: mitigation vectors; reserved before version 5
	endMitCurrent   = 0x208
	signedBytes     = 0x2A0 // what the signature covers
)

// unnamedPlatformBits are the bits of PLATFORM_INFO without a name in attest.SNPPlatform. Bit 6 is reserved.
const unnamedPlatformBits = ^uint64(0b1011_1111)

// policyCXL and others are bits of the guest policy (AMD 56860, table "Guest Policy").
const (
	policySMT              = 1 << 16
	policyMigrateMA        = 1 << 18
	policyDebug            = 1 << 19
	policySingleSocket     = 1 << 20
	policyCXL              = 1 << 21
	policyMemAES256XTS     = 1 << 22
	policyRAPLDisabled     = 1 << 23
	policyCiphertextHiding = 1 << 24
	policyPageSwapDisabled = 1 << 25
)

// A report is an ATTESTATION_REPORT that parsed strictly.
type report struct {
	*sevsnp.Report
	raw    []byte
	signer abi.ReportSigner // VCEK or VLEK
	keys   abi.SignerInfo
	line   string // by CPUID, or, in version 2, which has none, by the certificate

	current, reported, committed, launch attest.TCB // in the form of the line
}

// parse reads a report strictly, up to its product line. The algorithm and the kind of key come first, because the library
// would refuse some of their values as malformed, and a report that nobody signed is not malformed.
func parse(raw []byte) (*report, *attest.Error) {
	if len(raw) != abi.ReportSize {
		return nil, attest.Refuse(attest.ClassParse, "a report of %d bytes, want %d", len(raw), abi.ReportSize)
	}
	version := binary.LittleEndian.Uint32(raw)
	if version < abi.ReportVersion2 || version > abi.ReportVersion5 {
		return nil, attest.Refuse(attest.ClassParse, "report version %d, want 2 to 5", version)
	}
	if a := binary.LittleEndian.Uint32(raw[offsetAlgorithm:]); a != abi.SignEcdsaP384Sha384 {
		return nil, attest.Refuse(attest.ClassSig, "signature algorithm %d, want 1 (ECDSA P-384 with SHA-384)", a)
	}
	signer := abi.ReportSigner(binary.LittleEndian.Uint32(raw[offsetKeyInfo:]) >> 2 & 7)
	if signer != abi.VcekReportSigner && signer != abi.VlekReportSigner {
		return nil, attest.Refuse(attest.ClassSig, "SIGNING_KEY is %d, want 0 (VCEK) or 1 (VLEK)", signer)
	}
	fields, err := abi.ReportToProto(raw)
	if err != nil {
		return nil, attest.Refuse(attest.ClassParse, "%v", err)
	}
	keys, err := abi.ParseSignerInfo(fields.SignerInfo)
	if err != nil {
		return nil, attest.Refuse(attest.ClassParse, "%v", err)
	}
	r := &report{Report: fields, raw: raw, signer: signer, keys: keys}
	return r, r.strict()
}

// strict makes the checks of form that the library leaves out.
func (r *report) strict() *attest.Error {
	if r.Version < abi.ReportVersion5 && !zeros(r.raw[offsetMitLaunch:endMitCurrent]) {
		return attest.Refuse(attest.ClassParse, "reserved bytes %#x to %#x are not zero in version %d",
			offsetMitLaunch, endMitCurrent, r.Version)
	}
	if r.Version < abi.ReportVersion3 {
		return nil // which line's form the TCBs have, its certificate will say
	}
	family, model := r.raw[offsetFamily], r.raw[offsetFamily+1]
	if r.line = lineOf(family, model); r.line == "" {
		return attest.Refuse(attest.ClassPlat, "CPU family %#x, model %#x: no product line with SEV-SNP has it", family, model)
	}
	return r.readTCBs()
}

// readTCBs reads the report's four TCBs in the form of its product line.
func (r *report) readTCBs() *attest.Error {
	for _, of := range []struct {
		name    string
		version uint64
		dst     *attest.TCB
	}{
		{"CURRENT_TCB", r.CurrentTcb, &r.current},
		{"REPORTED_TCB", r.ReportedTcb, &r.reported},
		{"COMMITTED_TCB", r.CommittedTcb, &r.committed},
		{"LAUNCH_TCB", r.LaunchTcb, &r.launch},
	} {
		var reserved uint64
		if *of.dst, reserved = tcb(r.line, of.version); reserved != 0 {
			return attest.Refuse(attest.ClassParse, "%s is %#016x: reserved components are not zero", of.name, of.version)
		}
	}
	return nil
}

// tcb reads a TCB_VERSION (AMD 56860, tables "TCB_VERSION"), and returns what of it is reserved. Its bytes, from the lowest:
//
//	Milan, Genoa   bootloader, TEE, 4 reserved, SNP, microcode
//	Turin          FMC, bootloader, TEE, SNP, 3 reserved, microcode
func tcb(line string, version uint64) (t attest.TCB, reserved uint64) {
	part := func(n int) uint8 { return uint8(version >> (8 * n)) }
	if line == turin {
		return attest.TCB{FMC: part(0), Bootloader: part(1), TEE: part(2), SNP: part(3), Microcode: part(7)}, version & 0x00ffffff_00000000
	}
	return attest.TCB{Bootloader: part(0), TEE: part(1), SNP: part(6), Microcode: part(7)}, version & 0x0000ffff_ffff0000
}

// The product lines, as AMD's key distribution service spells them.
const (
	milan = "Milan"
	genoa = "Genoa"
	turin = "Turin"
)

var lines = []string{milan, genoa, turin}

// lineOf returns the product line of a CPU's family and model (CPUID leaf 1), or "". Bergamo and Siena (models a0 to af)
// have Genoa's keys.
func lineOf(family, model byte) string {
	switch {
	case family == 0x19 && model <= 0x0f:
		return milan
	case family == 0x19 && (model>>4 == 1 || model>>4 == 0xa):
		return genoa
	case family == 0x1a && model <= 0x11:
		return turin
	}
	return ""
}

// claims returns what the report and its certificate say, in the house's words.
func (r *report) claims(e *Endorsement) *attest.SNP {
	s := &attest.SNP{
		Version:          r.Version,
		ProductLine:      r.line,
		VMPL:             r.Vmpl,
		GuestSVN:         r.GuestSvn,
		ABIMajor:         uint8(r.Policy >> 8),
		ABIMinor:         uint8(r.Policy),
		SMTAllowed:       r.Policy&policySMT != 0,
		MigrateMA:        r.Policy&policyMigrateMA != 0,
		Debug:            r.Policy&policyDebug != 0,
		SingleSocket:     r.Policy&policySingleSocket != 0,
		CXLAllowed:       r.Policy&policyCXL != 0,
		MemAES256XTS:     r.Policy&policyMemAES256XTS != 0,
		RAPLDisabled:     r.Policy&policyRAPLDisabled != 0,
		CiphertextHiding: r.Policy&policyCiphertextHiding != 0,
		PageSwapDisabled: r.Policy&policyPageSwapDisabled != 0,
		Platform:         platform(r.PlatformInfo),
		AuthorKeyEnabled: r.keys.AuthorKeyEn,
		Current:          r.current,
		Reported:         r.reported,
		Committed:        r.committed,
		Launch:           r.launch,
		ChipMasked:       r.keys.MaskChipKey || zeros(r.ChipId),
		SigningKey:       e.SigningKey,
		Provider:         e.Provider,

		LaunchMitigations:  r.LaunchMitVector,
		CurrentMitigations: r.CurrentMitVector,
	}
	copy(s.FamilyID[:], r.FamilyId)
	copy(s.ImageID[:], r.ImageId)
	copy(s.ReportData[:], r.ReportData)
	copy(s.Measurement[:], r.Measurement)
	copy(s.HostData[:], r.HostData)
	copy(s.IDKeyDigest[:], r.IdKeyDigest)
	copy(s.AuthorKeyDigest[:], r.AuthorKeyDigest)
	copy(s.ReportID[:], r.ReportId)
	copy(s.ChipID[:], r.ChipId)
	return s
}

// platform reads PLATFORM_INFO (AMD 56860, table "PLATFORM_INFO").
func platform(info uint64) attest.SNPPlatform {
	bit := func(n int) bool { return info>>n&1 != 0 }
	return attest.SNPPlatform{
		SMT: bit(0), TSME: bit(1), ECC: bit(2), RAPLDisabled: bit(3), CiphertextHiding: bit(4), AliasCheckComplete: bit(5),
		TIO: bit(7), Unknown: info & unnamedPlatformBits,
	}
}

func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
