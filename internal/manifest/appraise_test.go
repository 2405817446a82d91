package manifest_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/manifest"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// filled returns n bytes of b, as an array.
func filled48(b byte) [48]byte { return [48]byte(bytes.Repeat([]byte{b}, 48)) }

// snp returns claims that match the set snp-new of testdata/hardware.yaml, and no other.
func snp() attest.Claims {
	tcb := attest.TCB{Bootloader: 9, TEE: 1, SNP: 23, Microcode: 72}
	return attest.Claims{
		Type: attest.SEVSNP, RevocationChecked: true, CollateralFrom: now.Add(-time.Hour),
		SNP: &attest.SNP{
			Version: 5, ProductLine: "Genoa", GuestSVN: 2, ABIMajor: 1, ABIMinor: 55, SingleSocket: true,
			Platform:    attest.SNPPlatform{TSME: true, ECC: true, RAPLDisabled: true, CiphertextHiding: true, AliasCheckComplete: true},
			Measurement: filled48(0xa1), HostData: [32]byte(bytes.Repeat([]byte{0x44}, 32)), IDKeyDigest: filled48(0xd1),
			Current: tcb, Reported: tcb, Committed: tcb, Launch: tcb,
			ChipID: [64]byte(bytes.Repeat([]byte{0xe1}, 64)), SigningKey: "vcek",
		},
	}
}

// nitro returns claims that match the set nitro of testdata/hardware.yaml.
func nitro() attest.Claims {
	pcrs := map[int][]byte{15: make([]byte, 48)}
	for index, value := range map[int]byte{0: 0xc0, 1: 0xc1, 2: 0xc2, 3: 0xc3, 4: 0xc4, 8: 0xc8} {
		pcrs[index] = bytes.Repeat([]byte{value}, 48)
	}
	return attest.Claims{Type: attest.Nitro, Nitro: &attest.NitroDocument{
		ModuleID: "i-0123456789abcdef0-enc0123456789abcdef", Timestamp: now.Add(-time.Minute), PCRs: pcrs,
	}}
}

var (
	north   = attest.Peer{Office: attest.Participant, Name: "north"}
	council = attest.Peer{Office: attest.Coordinator, Name: "council"}
)

func hardware(t *testing.T) *manifest.Manifest {
	t.Helper()
	return loaded(t, "hardware.yaml", "north", "south")
}

func wantClass(t *testing.T, a attest.Appraisal, err error, class attest.Class, want string) {
	t.Helper()
	if diff := cmp.Diff(attest.Appraisal{}, a); diff != "" {
		t.Errorf("refused, and gave an appraisal: %s", diff)
	}
	var refusal *attest.Error
	if !errors.As(err, &refusal) || refusal.Class != class || !strings.Contains(err.Error(), want) {
		t.Errorf("Appraise = %v\nwant the class %s and %q in it", err, class, want)
	}
}

func TestAppraise(t *testing.T) {
	all := hardware(t)
	turin := snp()
	turin.SNP.ProductLine, turin.SNP.Current.FMC, turin.SNP.Reported.FMC, turin.SNP.Committed.FMC, turin.SNP.Launch.FMC = "Turin", 3, 3, 4, 3
	old := snp()
	old.SNP.Measurement = filled48(0xa0)
	for _, test := range []struct {
		name   string
		peer   attest.Peer
		claims attest.Claims
		want   attest.Appraisal
	}{
		{"SEV-SNP", north, snp(), attest.Appraisal{Sets: []string{"snp-new"}, TTL: time.Hour}},
		{"Turin", north, turin, attest.Appraisal{Sets: []string{"snp-new"}, TTL: time.Hour}},
		{"Nitro", north, nitro(), attest.Appraisal{Sets: []string{"nitro"}, TTL: time.Hour}},
		{"the coordinator's second set", council, snp(), attest.Appraisal{Sets: []string{"snp-new"}, TTL: 30 * time.Minute}},
		{"the coordinator's first set", council, old, attest.Appraisal{Sets: []string{"snp-old"}, TTL: 30 * time.Minute}},
		{
			"a person, as long as a coordinator",
			attest.Peer{Office: attest.Person, Name: "lead"},
			attest.Claims{Type: attest.Signature},
			attest.Appraisal{TTL: 30 * time.Minute},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := all.Appraise(test.peer, []attest.Claims{test.claims}, now)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Appraise (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAppraiseAny: what a set does not judge is counted, each with its reason, and not judged; all else is.
func TestAppraiseAny(t *testing.T) {
	m := loaded(t, "manifest.yaml", "cleveland", "budapest", "longbeach")
	budapest := attest.Peer{Office: attest.Participant, Name: "budapest"}
	c := snp()
	c.Simulated, c.RevocationChecked, c.CollateralFrom = "demo", false, time.Time{}
	c.SNP.Measurement, c.SNP.HostData, c.SNP.IDKeyDigest = filled48(0xb1), [32]byte{}, filled48(7)
	c.SNP.SingleSocket, c.SNP.Platform.CiphertextHiding, c.SNP.ChipMasked = false, false, true
	n := nitro()
	n.Simulated, n.Nitro.ModuleID = "demo", "anything"
	for _, test := range []struct {
		claims attest.Claims
		want   attest.Appraisal
	}{
		{c, attest.Appraisal{Sets: []string{"snp-participant"}, TTL: time.Hour, Simulated: "demo", Any: []string{
			"snp-participant.policy.single_socket: demonstration",
			"snp-participant.platform_info.ciphertext_hiding: not on this firmware",
			"snp-participant.id_keys: images are not signed",
			"snp-participant.chip_ids: simulated chips",
			"snp-participant.revocation: no CRL in the demonstration",
		}}},
		{n, attest.Appraisal{Sets: []string{"nitro-participant"}, TTL: time.Hour, Simulated: "demo", Any: []string{
			"nitro-participant.modules: simulated modules",
		}}},
	} {
		got, err := m.Appraise(budapest, []attest.Claims{test.claims}, now)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("Appraise (-want +got):\n%s", diff)
		}
		got.Any[0], got.Sets[0] = "x", "x"
		if again, _ := m.Appraise(budapest, []attest.Claims{test.claims}, now); !cmp.Equal(again, test.want) {
			t.Error("the appraisal's lists are the manifest's own")
		}
	}
	c.SNP.HostData[31] = 1
	a, err := m.Appraise(budapest, []attest.Claims{c}, now)
	wantClass(t, a, err, attest.ClassMeas, "host_data is 00")
}

// A refusal is one field of claims that is wrong, and the class that the peer is refused with. Names begin with the number in
// the list of what a great verifier must refuse.
type refusal struct {
	name  string
	class attest.Class
	spoil func(*attest.Claims)
	want  string
}

var snpRefusals = []refusal{
	{"A1 debug", attest.ClassDebug, func(c *attest.Claims) { c.SNP.Debug = true }, "policy.debug is true"},
	{"A2 migration agent", attest.ClassDebug, func(c *attest.Claims) { c.SNP.MigrateMA = true }, "policy.migrate_ma is true"},
	{"A3 SMT allowed", attest.ClassDebug, func(c *attest.Claims) { c.SNP.SMTAllowed = true }, "policy.smt is true"},
	{"A3 several sockets", attest.ClassDebug, func(c *attest.Claims) { c.SNP.SingleSocket = false }, "policy.single_socket is false"},
	{"A3 CXL allowed", attest.ClassDebug, func(c *attest.Claims) { c.SNP.CXLAllowed = true }, "policy.cxl_allow is true"},
	{"A4 ABI minor low", attest.ClassDebug, func(c *attest.Claims) { c.SNP.ABIMinor = 54 }, "ABI 1.54, want 1.55"},
	{"A4 ABI major low, minor high", attest.ClassDebug, func(c *attest.Claims) { c.SNP.ABIMajor, c.SNP.ABIMinor = 0, 255 }, "ABI 0.255"},
	{"A7 VMPL 1", attest.ClassDebug, func(c *attest.Claims) { c.SNP.VMPL = 1 }, "vmpl is 1"},
	{"A7 VMPL 4", attest.ClassDebug, func(c *attest.Claims) { c.SNP.VMPL = 4 }, "vmpl is 4"},
	{"A9 measurement", attest.ClassMeas, func(c *attest.Claims) { c.SNP.Measurement[47] ^= 1 }, "measurement a1a1"},
	{"A9 measurement of zeros", attest.ClassMeas, func(c *attest.Claims) { c.SNP.Measurement = [48]byte{} }, "measurement 0000"},
	{"A9 measurement of another set", attest.ClassMeas, func(c *attest.Claims) { c.SNP.Measurement = filled48(0xa0) }, "measurement a0a0"},
	{"A10 host data", attest.ClassMeas, func(c *attest.Claims) { c.SNP.HostData[0] ^= 1 }, "host_data is 45"},
	{"A10 host data of zeros", attest.ClassMeas, func(c *attest.Claims) { c.SNP.HostData = [32]byte{} }, "host_data is 0000"},
	{"A11 unknown id key", attest.ClassMeas, func(c *attest.Claims) { c.SNP.IDKeyDigest = filled48(0xd3) }, "is not in id_keys"},
	{"A11 no id key", attest.ClassMeas, func(c *attest.Claims) { c.SNP.IDKeyDigest = [48]byte{} }, "is not in id_keys"},
	{"A11 author key enabled without a digest", attest.ClassMeas, func(c *attest.Claims) { c.SNP.AuthorKeyEnabled = true }, "author key"},
	{"A12 guest SVN", attest.ClassTCB, func(c *attest.Claims) { c.SNP.GuestSVN = 1 }, "guest_svn is 1"},
	{"A14 reported bootloader low, all else high", attest.ClassTCB, func(c *attest.Claims) {
		c.SNP.Reported = attest.TCB{Bootloader: 8, TEE: 255, SNP: 255, Microcode: 255}
	}, "reported TCB: bootloader is 8"},
	{"A14 reported TEE", attest.ClassTCB, func(c *attest.Claims) { c.SNP.Reported.TEE = 0 }, "reported TCB: tee is 0"},
	{"A14 reported SNP", attest.ClassTCB, func(c *attest.Claims) { c.SNP.Reported.SNP = 22 }, "reported TCB: snp is 22"},
	{"A14 reported microcode", attest.ClassTCB, func(c *attest.Claims) { c.SNP.Reported.Microcode = 71 }, "reported TCB: microcode is 71"},
	{"A15 committed below the floor, reported not", attest.ClassTCB, func(c *attest.Claims) { c.SNP.Committed.SNP = 22 }, "committed TCB: snp is 22"},
	{"A16 launch below the floor", attest.ClassTCB, func(c *attest.Claims) { c.SNP.Launch.Microcode = 0 }, "launch TCB: microcode is 0"},
	{"A17 current below the floor", attest.ClassTCB, func(c *attest.Claims) { c.SNP.Current.Bootloader = 0 }, "current TCB: bootloader is 0"},
	{"A21 Turin's FMC", attest.ClassTCB, func(c *attest.Claims) { c.SNP.ProductLine = "Turin" }, "current TCB: fmc is 0, want 3"},
	{"A22 masked chip", attest.ClassInst, func(c *attest.Claims) { c.SNP.ChipMasked = true }, "masked"},
	{"A22 chip id of zeros", attest.ClassInst, func(c *attest.Claims) { c.SNP.ChipID = [64]byte{} }, "chip 0000"},
	{"A23 chip that is not listed", attest.ClassInst, func(c *attest.Claims) { c.SNP.ChipID[63] ^= 1 }, "is not in chip_ids"},
	{"A30 VLEK", attest.ClassChain, func(c *attest.Claims) { c.SNP.SigningKey = "vlek" }, `"vlek" key`},
	{"A30 no key named", attest.ClassChain, func(c *attest.Claims) { c.SNP.SigningKey = "" }, `"" key`},
	{"A33 revocation not checked", attest.ClassRevoked, func(c *attest.Claims) { c.RevocationChecked = false }, "no revocation list"},
	{"A33 collateral of no instant", attest.ClassRevoked, func(c *attest.Claims) { c.CollateralFrom = time.Time{} }, "no revocation list"},
	{"A33 collateral too old", attest.ClassRevoked, func(c *attest.Claims) { c.CollateralFrom = now.Add(-168*time.Hour - time.Second) }, "168h0m1s old"},
	{"A32 collateral from the future", attest.ClassRevoked, func(c *attest.Claims) { c.CollateralFrom = now.Add(time.Second) }, "-1s old"},
	{"A43 alias check not complete", attest.ClassPlat, func(c *attest.Claims) { c.SNP.Platform.AliasCheckComplete = false }, "alias_check_complete is false"},
	{"A44 ciphertext not hidden", attest.ClassPlat, func(c *attest.Claims) { c.SNP.Platform.CiphertextHiding = false }, "ciphertext_hiding is false"},
	{"A44 no TSME", attest.ClassPlat, func(c *attest.Claims) { c.SNP.Platform.TSME = false }, "tsme is false"},
	{"A44 no ECC", attest.ClassPlat, func(c *attest.Claims) { c.SNP.Platform.ECC = false }, "ecc is false"},
	{"A44 RAPL enabled", attest.ClassPlat, func(c *attest.Claims) { c.SNP.Platform.RAPLDisabled = false }, "rapl_dis is false"},
	{"A44 SMT enabled", attest.ClassPlat, func(c *attest.Claims) { c.SNP.Platform.SMT = true }, "platform_info.smt is true"},
	{"A45 trusted I/O", attest.ClassPlat, func(c *attest.Claims) { c.SNP.Platform.TIO = true }, "platform_info.tio"},
	{"A45 unknown platform bit", attest.ClassPlat, func(c *attest.Claims) { c.SNP.Platform.Unknown = 1 << 6 }, "unknown bits 0x40"},
	{"A46 product line", attest.ClassPlat, func(c *attest.Claims) { c.SNP.ProductLine = "Milan" }, `product line "Milan"`},
	{"A47 microcode below the floor on all counts", attest.ClassTCB, func(c *attest.Claims) {
		for _, t := range []*attest.TCB{&c.SNP.Current, &c.SNP.Reported, &c.SNP.Committed, &c.SNP.Launch} {
			t.Microcode = 71
		}
	}, "current TCB: microcode is 71"},
	{"simulated", attest.ClassChain, func(c *attest.Claims) { c.Simulated = "demo" }, `simulated evidence of the root "demo", want hardware`},
	{"no report in the claims", attest.ClassParse, func(c *attest.Claims) { c.SNP = nil }, "without their one part"},
	{"two parts in the claims", attest.ClassParse, func(c *attest.Claims) { c.Nitro = nitro().Nitro }, "without their one part"},
}

var nitroRefusals = []refusal{
	{"D92 debug", attest.ClassDebug, func(c *attest.Claims) { c.Nitro.Debug = true }, "a debug enclave"},
	{"D92 PCR0 of zeros", attest.ClassDebug, func(c *attest.Claims) { clear(c.Nitro.PCRs[0]) }, "PCR0 is zero"},
	{"D92 PCR1 of zeros", attest.ClassDebug, func(c *attest.Claims) { clear(c.Nitro.PCRs[1]) }, "PCR1 is zero"},
	{"D92 PCR2 of zeros", attest.ClassDebug, func(c *attest.Claims) { clear(c.Nitro.PCRs[2]) }, "PCR2 is zero"},
	{"D93 PCR0", attest.ClassMeas, func(c *attest.Claims) { c.Nitro.PCRs[0][0] ^= 1 }, "PCR0 is c1c0"},
	{"D93 PCR1", attest.ClassMeas, func(c *attest.Claims) { c.Nitro.PCRs[1][47] ^= 1 }, "PCR1 is c1c1"},
	{"D93 PCR2", attest.ClassMeas, func(c *attest.Claims) { c.Nitro.PCRs[2][9] ^= 1 }, "PCR2 is c2c2"},
	{"D93 PCR8", attest.ClassMeas, func(c *attest.Claims) { c.Nitro.PCRs[8] = c.Nitro.PCRs[0] }, "PCR8 is c0c0"},
	{"D94 PCR3, the role", attest.ClassInst, func(c *attest.Claims) { c.Nitro.PCRs[3][0] ^= 1 }, "PCR3 is c2c3"},
	{"D94 PCR4, the instance", attest.ClassInst, func(c *attest.Claims) { c.Nitro.PCRs[4][0] ^= 1 }, "PCR4 is c5c4"},
	{"D94 module that is not listed", attest.ClassInst, func(c *attest.Claims) { c.Nitro.ModuleID += "0" }, "is not in modules"},
	{"D95 PCR8 absent", attest.ClassMeas, func(c *attest.Claims) { delete(c.Nitro.PCRs, 8) }, "PCR8 is , want c8c8"},
	{"D95 PCR0 absent", attest.ClassMeas, func(c *attest.Claims) { delete(c.Nitro.PCRs, 0) }, "PCR0 is , want c0c0"},
	{"D98 document too old", attest.ClassTime, func(c *attest.Claims) { c.Nitro.Timestamp = now.Add(-5*time.Minute - time.Millisecond) }, "5m0.001s old"},
	{"D98 document from the future", attest.ClassTime, func(c *attest.Claims) { c.Nitro.Timestamp = now.Add(time.Minute + time.Millisecond) }, "-1m0.001s old"},
	{"D99 simulated", attest.ClassChain, func(c *attest.Claims) { c.Simulated = "demo" }, "want hardware"},
	{"no document in the claims", attest.ClassParse, func(c *attest.Claims) { c.Nitro = nil }, "without their one part"},
	{"two parts in the claims", attest.ClassParse, func(c *attest.Claims) { c.SNP = snp().SNP }, "without their one part"},
}

func claimsRefused(t *testing.T) {
	m := hardware(t)
	intel := loaded(t, "intel.yaml", "north", "south")
	for _, kind := range []struct {
		m        *manifest.Manifest
		good     func() attest.Claims
		refusals []refusal
	}{
		{m, snp, snpRefusals}, {m, nitro, nitroRefusals}, {intel, tdx, tdxRefusals}, {intel, sgx, sgxRefusals}, {intel, signedEnclave, signedRefusals},
	} {
		m, good := kind.m, kind.good
		for _, r := range kind.refusals {
			t.Run(numbered(r.name), func(t *testing.T) {
				c := good()
				r.spoil(&c)
				a, err := m.Appraise(north, []attest.Claims{c}, now)
				wantClass(t, a, err, r.class, r.want)
				if err != nil && !strings.Contains(err.Error(), "participant north: ") {
					t.Errorf("Appraise = %v, which does not name the peer", err)
				}
			})
		}
	}
}

// TestNoMixAcrossSets: claims that fit two sets half each fit none.
func TestNoMixAcrossSets(t *testing.T) {
	m := hardware(t)
	both := func(spoil func(*attest.Claims)) (attest.Appraisal, error) {
		c := snp()
		spoil(&c)
		return m.Appraise(council, []attest.Claims{c}, now)
	}
	// The old image on a chip that only the new set lists.
	a, err := both(func(c *attest.Claims) {
		c.SNP.Measurement, c.SNP.ChipID = filled48(0xa0), [64]byte(bytes.Repeat([]byte{0xe2}, 64))
	})
	wantClass(t, a, err, attest.ClassInst, "snp-old: INST: chip e2e2")
	wantClass(t, a, err, attest.ClassInst, "snp-new: MEAS: measurement a0a0")
	// The new image on firmware that only the old set takes.
	a, err = both(func(c *attest.Claims) {
		for _, t := range []*attest.TCB{&c.SNP.Current, &c.SNP.Reported, &c.SNP.Committed, &c.SNP.Launch} {
			t.TEE = 0
		}
	})
	wantClass(t, a, err, attest.ClassTCB, "snp-new: TCB: current TCB: tee is 0")
	// A set of the coordinator's is none of a participant's.
	c := snp()
	c.SNP.Measurement = filled48(0xa0)
	if a, err := m.Appraise(council, []attest.Claims{c}, now); err != nil {
		t.Errorf("Appraise(council) = %v, %v", a, err)
	}
	a, err = m.Appraise(north, []attest.Claims{c}, now)
	wantClass(t, a, err, attest.ClassMeas, "snp-new")
}

// Who the peer is, and what kinds of evidence it shows, come before what the evidence says.
func peersRefused(t *testing.T) {
	m := hardware(t)
	sig := attest.Claims{Type: attest.Signature}
	for _, test := range []struct {
		name   string
		peer   attest.Peer
		claims []attest.Claims
		class  attest.Class
		want   string
	}{
		{"I167 unknown participant", attest.Peer{Office: attest.Participant, Name: "east"}, []attest.Claims{snp()}, attest.ClassManifest, `no participant "east"`},
		{"I167 nobody", attest.Peer{}, []attest.Claims{snp()}, attest.ClassManifest, "the manifest names no"},
		{"I167 a coordinator in a participant's name", attest.Peer{Office: attest.Coordinator, Name: "north"}, []attest.Claims{snp()}, attest.ClassManifest, `no coordinator "north"`},
		{"I167 a person in a member's name", attest.Peer{Office: attest.Person, Name: "north"}, []attest.Claims{sig}, attest.ClassManifest, `no person "north"`},
		{"I167 an office of no name", attest.Peer{Office: 9, Name: "north"}, []attest.Claims{snp()}, attest.ClassManifest, "office(9)"},
		{"I167 a participant with a signature alone", north, []attest.Claims{sig}, attest.ClassPlat, "[signature]"},
		{"I167 a person with evidence", attest.Peer{Office: attest.Person, Name: "lead"}, []attest.Claims{snp()}, attest.ClassPlat, "[sev-snp]"},
		{"no claims", north, nil, attest.ClassPlat, "the types []"},
		{"two platforms at once", north, []attest.Claims{snp(), nitro()}, attest.ClassPlat, "[sev-snp nitro]"},
		{"twice the same", north, []attest.Claims{snp(), snp()}, attest.ClassPlat, "[sev-snp sev-snp]"},
		{"a type that the office does not take", council, []attest.Claims{nitro()}, attest.ClassPlat, "[nitro]"},
		{"a type without a name", north, []attest.Claims{{Type: 99}}, attest.ClassPlat, "type(99)"},
	} {
		t.Run(numbered(test.name), func(t *testing.T) {
			a, err := m.Appraise(test.peer, test.claims, now)
			wantClass(t, a, err, test.class, test.want)
		})
	}
}

// TestSimulatedApart: a set about one simulated root takes neither hardware nor another root.
func TestSimulatedApart(t *testing.T) {
	m := loaded(t, "manifest.yaml", "cleveland", "budapest", "longbeach")
	for root, want := range map[string]string{"": "evidence of hardware, want the simulated root", "other": `of the root "other", want the root "demo"`} {
		c := nitro()
		c.Simulated = root
		a, err := m.Appraise(attest.Peer{Office: attest.Participant, Name: "budapest"}, []attest.Claims{c}, now)
		wantClass(t, a, err, attest.ClassChain, want)
	}
}

// TestEdges: what a floor or a limit names still passes.
func TestEdges(t *testing.T) {
	m := hardware(t)
	c := snp()
	c.CollateralFrom = now.Add(-168 * time.Hour)
	c.SNP.ABIMajor, c.SNP.ABIMinor = 2, 0
	c.SNP.Measurement, c.SNP.IDKeyDigest = filled48(0xa2), filled48(0xd2)
	c.SNP.AuthorKeyEnabled, c.SNP.AuthorKeyDigest = true, filled48(1)
	n := nitro()
	n.Nitro.Timestamp = now.Add(-5 * time.Minute)
	ahead := nitro()
	ahead.Nitro.Timestamp = now.Add(time.Minute)
	for i, claims := range []attest.Claims{c, n, ahead} {
		if _, err := m.Appraise(north, []attest.Claims{claims}, now); err != nil {
			t.Errorf("case %d: %v", i, err)
		}
	}
	// Types of evidence are those that the sets judge, and belong to the caller.
	types := m.Types(attest.Participant)
	types[0] = nil
	if !slices.Equal(m.Types(attest.Participant)[0], []attest.Type{attest.SEVSNP}) {
		t.Error("Types gave its own list away")
	}
}
