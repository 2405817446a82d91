package manifest

import (
	"bytes"
	"slices"
	"time"

	"consilium.dev/internal/attest"
)

// snpChecks judge a SEV-SNP report, in the order of the attested channel's specification: collateral, guest policy,
// measurement, security versions, platform, instance.
var snpChecks = []check{
	snpRevocation, snpSigningKey, snpDebug, snpPolicy, snpABI, snpVMPL, snpMeasurement, snpHostData, snpIDKey, snpIDs,
	snpGuestSVN, snpTCB, snpMitigations, snpPlatform, snpProductLine, snpChip,
}

// platformBits are the bits of PLATFORM_INFO that a set names.
var platformBits = []struct {
	name string
	of   func(*attest.SNPPlatform) bool
}{
	{"smt", func(p *attest.SNPPlatform) bool { return p.SMT }},
	{"tsme", func(p *attest.SNPPlatform) bool { return p.TSME }},
	{"ecc", func(p *attest.SNPPlatform) bool { return p.ECC }},
	{"rapl_dis", func(p *attest.SNPPlatform) bool { return p.RAPLDisabled }},
	{"ciphertext_hiding", func(p *attest.SNPPlatform) bool { return p.CiphertextHiding }},
	{"alias_check_complete", func(p *attest.SNPPlatform) bool { return p.AliasCheckComplete }},
}

// strictBits are bits of the guest policy with which firmware launches the guest on fewer machines, and never on more. A set
// need not name them.
var strictBits = []struct {
	name string
	of   func(*attest.SNP) bool
}{
	{"mem_aes_256_xts", func(s *attest.SNP) bool { return s.MemAES256XTS }},
	{"rapl_dis", func(s *attest.SNP) bool { return s.RAPLDisabled }},
	{"ciphertext_hiding", func(s *attest.SNP) bool { return s.CiphertextHiding }},
	{"page_swap_disable", func(s *attest.SNP) bool { return s.PageSwapDisabled }},
}

func snpRevocation(s *set, c *attest.Claims, now time.Time) *attest.Error {
	return fresh(s.snp.revocation, c, now)
}

// fresh refuses claims without revocation lists, or with collateral that is too old, where that is judged.
func fresh(want rule[time.Duration], c *attest.Claims, now time.Time) *attest.Error {
	if want.any {
		return nil
	}
	if !c.RevocationChecked || c.CollateralFrom.IsZero() {
		return attest.Refuse(attest.ClassRevoked, "no revocation list was at hand")
	}
	if age := now.Sub(c.CollateralFrom); age < 0 || age > want.want {
		return attest.Refuse(attest.ClassRevoked, "collateral is %s old, want at most %s", age, want.want)
	}
	return nil
}

// snpSigningKey refuses reports signed by a key that a cloud provider holds for many chips, but where the set names the
// provider; then it refuses all others.
func snpSigningKey(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	switch {
	case len(s.snp.providers) == 0 && c.SNP.SigningKey != "vcek":
		return attest.Refuse(attest.ClassChain, "signed by a %q key, want the chip's own (vcek)", c.SNP.SigningKey)
	case len(s.snp.providers) > 0 && (c.SNP.SigningKey != "vlek" || !slices.Contains(s.snp.providers, c.SNP.Provider)):
		return attest.Refuse(attest.ClassChain, "signed by a %q key of %q, want the vlek of one of %q", c.SNP.SigningKey, c.SNP.Provider,
			s.snp.providers)
	}
	return nil
}

func snpDebug(_ *set, c *attest.Claims, _ time.Time) *attest.Error {
	if c.SNP.Debug {
		return attest.Refuse(attest.ClassDebug, "policy.debug is true: the host can read this guest")
	}
	return nil
}

func snpPolicy(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	for _, bit := range []struct {
		name string
		got  bool
		rule[bool]
	}{
		{"migrate_ma", c.SNP.MigrateMA, s.snp.migrateMA},
		{"smt", c.SNP.SMTAllowed, s.snp.smt},
		{"single_socket", c.SNP.SingleSocket, s.snp.singleSocket},
		{"cxl_allow", c.SNP.CXLAllowed, rule[bool]{}}, // no set can allow memory behind CXL
	} {
		if !bit.any && bit.got != bit.want {
			return attest.Refuse(attest.ClassDebug, "policy.%s is %t, want %t", bit.name, bit.got, bit.want)
		}
	}
	for _, bit := range strictBits {
		want, named := s.snp.strict[bit.name]
		if got := bit.of(c.SNP); named && !want.any && got != want.want {
			return attest.Refuse(attest.ClassDebug, "policy.%s is %t, want %t", bit.name, got, want.want)
		}
	}
	return nil
}

func snpABI(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	got, least := [2]uint8{c.SNP.ABIMajor, c.SNP.ABIMinor}, s.snp.abiMin
	if !least.any && bytes.Compare(got[:], least.want[:]) < 0 {
		return attest.Refuse(attest.ClassDebug, "policy asks for ABI %d.%d, want %d.%d at least",
			got[0], got[1], least.want[0], least.want[1])
	}
	return nil
}

func snpVMPL(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if c.SNP.VMPL != s.snp.vmpl {
		return attest.Refuse(attest.ClassDebug, "vmpl is %d, want %d", c.SNP.VMPL, s.snp.vmpl)
	}
	return nil
}

func snpMeasurement(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if !oneOf(s.snp.measurements, c.SNP.Measurement[:]) {
		return attest.Refuse(attest.ClassMeas, "measurement %x is not in the set", c.SNP.Measurement)
	}
	return nil
}

func snpHostData(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if want := s.snp.hostData; !want.any && !bytes.Equal(want.want, c.SNP.HostData[:]) {
		return attest.Refuse(attest.ClassMeas, "host_data is %x, want %x", c.SNP.HostData, want.want)
	}
	return nil
}

func snpIDKey(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if want := s.snp.idKeys; !want.any && !oneOf(want.want, c.SNP.IDKeyDigest[:]) {
		return attest.Refuse(attest.ClassMeas, "the id key's digest %x is not in id_keys", c.SNP.IDKeyDigest)
	}
	if c.SNP.AuthorKeyEnabled && c.SNP.AuthorKeyDigest == [48]byte{} {
		return attest.Refuse(attest.ClassMeas, "an author key is enabled, but its digest is zero")
	}
	if want := s.snp.authorKeys; !want.any && (!c.SNP.AuthorKeyEnabled || !oneOf(want.want, c.SNP.AuthorKeyDigest[:])) {
		return attest.Refuse(attest.ClassMeas, "the author key's digest %x (enabled %t) is not in author_keys", c.SNP.AuthorKeyDigest,
			c.SNP.AuthorKeyEnabled)
	}
	return nil
}

func snpIDs(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if want := s.snp.familyID; !want.any && !bytes.Equal(want.want, c.SNP.FamilyID[:]) {
		return attest.Refuse(attest.ClassMeas, "family_id is %x, want %x", c.SNP.FamilyID, want.want)
	}
	if want := s.snp.imageID; !want.any && !bytes.Equal(want.want, c.SNP.ImageID[:]) {
		return attest.Refuse(attest.ClassMeas, "image_id is %x, want %x", c.SNP.ImageID, want.want)
	}
	return nil
}

func snpGuestSVN(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if c.SNP.GuestSVN < s.snp.guestSVNMin {
		return attest.Refuse(attest.ClassTCB, "guest_svn is %d, want %d at least", c.SNP.GuestSVN, s.snp.guestSVNMin)
	}
	return nil
}

// snpTCB holds each of a report's four TCBs to the floor. Reported alone would not do: firmware that is not committed can
// be rolled back under the guest, and a guest launched under older firmware stays what that firmware made of it.
func snpTCB(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	for _, of := range []struct {
		name string
		got  attest.TCB
	}{
		{"current", c.SNP.Current}, {"reported", c.SNP.Reported}, {"committed", c.SNP.Committed}, {"launch", c.SNP.Launch},
	} {
		if err := s.belowFloor(of.name, of.got, c.SNP.ProductLine); err != nil {
			return err
		}
	}
	if !s.snp.provisional && c.SNP.Current != c.SNP.Committed {
		return attest.Refuse(attest.ClassTCB, "the current TCB is not the committed one, so its firmware can still be rolled back: %s",
			c.SNP.Current.Differences(c.SNP.Committed, "committed"))
	}
	return nil
}

// snpMitigations asks for mitigations that the firmware verified. Each vector must have each bit: one that came after the
// launch protected nothing before.
func snpMitigations(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	for _, of := range []struct {
		name string
		got  uint64
	}{{"launch", c.SNP.LaunchMitigations}, {"current", c.SNP.CurrentMitigations}} {
		if missing := s.snp.mitigations &^ of.got; missing != 0 {
			return attest.Refuse(attest.ClassTCB, "%s mitigations are %#x, which lacks %#x", of.name, of.got, missing)
		}
	}
	return nil
}

// belowFloor refuses a TCB with a component below the floor's. No order over whole TCBs exists.
func (s *set) belowFloor(name string, got attest.TCB, line string) *attest.Error {
	least := s.snp.tcbMin
	if line != "Turin" {
		least.FMC = 0 // only Turin has one
	}
	for i, part := range got.Parts() {
		if want := least.Parts()[i].SVN; part.SVN < want {
			return attest.Refuse(attest.ClassTCB, "%s TCB: %s is %d, want %d at least", name, part.Name, part.SVN, want)
		}
	}
	return nil
}

func snpPlatform(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	for _, bit := range platformBits {
		got, want := bit.of(&c.SNP.Platform), s.snp.platform[bit.name]
		if !want.any && got != want.want {
			return attest.Refuse(attest.ClassPlat, "platform_info.%s is %t, want %t", bit.name, got, want.want)
		}
	}
	if c.SNP.Platform.TIO {
		return attest.Refuse(attest.ClassPlat, "platform_info.tio is true, which no set can allow")
	}
	if c.SNP.Platform.Unknown != 0 {
		return attest.Refuse(attest.ClassPlat, "platform_info has unknown bits %#x", c.SNP.Platform.Unknown)
	}
	return nil
}

func snpProductLine(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if !slices.Contains(s.snp.productLines, c.SNP.ProductLine) {
		return attest.Refuse(attest.ClassPlat, "product line %q, want one of %q", c.SNP.ProductLine, s.snp.productLines)
	}
	return nil
}

func snpChip(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	want := s.snp.chipIDs
	switch {
	case want.any:
		return nil
	case c.SNP.ChipMasked:
		return attest.Refuse(attest.ClassInst, "the chip's id is masked")
	case !oneOf(want.want, c.SNP.ChipID[:]):
		return attest.Refuse(attest.ClassInst, "chip %x is not in chip_ids", c.SNP.ChipID)
	}
	return nil
}
