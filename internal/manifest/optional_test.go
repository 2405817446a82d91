package manifest_test

import (
	"bytes"
	"strings"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/manifest"
)

// optional returns hardware.yaml with more fields in its set snp-new, and more in that set's policy.
func optional(t *testing.T, policy string, fields ...string) string {
	t.Helper()
	head, tail, found := strings.Cut(read(t, "hardware.yaml"), "  snp-new:\n    type: sev-snp\n")
	if !found {
		t.Fatal("hardware.yaml has no set snp-new")
	}
	if policy != "" {
		tail = edited(t, tail, "single_socket: true", "single_socket: true, "+policy)
	}
	for _, field := range fields {
		tail = "    " + field + "\n" + tail
	}
	return head + "  snp-new:\n    type: sev-snp\n" + tail
}

func fromText(t *testing.T, text string) *manifest.Manifest {
	t.Helper()
	payload := build(t, text)
	m, err := manifest.Load(signed(t, payload, "north", "south"), manifest.Anchor{Digest: manifest.Digest(payload)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var (
	providers   = `vlek_providers: ["CN=cc-us-east-2.amazonaws.com", "CN=cloud.example"]`
	authors     = `author_keys: ["` + strings.Repeat("a7", 48) + `"]`
	familyID    = `family_id: "` + strings.Repeat("f1", 16) + `"`
	imageID     = `image_id: "` + strings.Repeat("f2", 16) + `"`
	mitigations = `mitigations: [0, 2, 63]`
	provisional = `provisional: false`
	strictly    = `mem_aes_256_xts: true, rapl_dis: true, ciphertext_hiding: true, page_swap_disable: false`
)

// strict returns claims that match the set snp-new with all of its optional fields.
func strict() attest.Claims {
	c := snp()
	c.SNP.SigningKey, c.SNP.Provider = "vlek", "CN=cloud.example"
	c.SNP.AuthorKeyEnabled, c.SNP.AuthorKeyDigest = true, filled48(0xa7)
	c.SNP.FamilyID, c.SNP.ImageID = [16]byte(bytes.Repeat([]byte{0xf1}, 16)), [16]byte(bytes.Repeat([]byte{0xf2}, 16))
	c.SNP.LaunchMitigations, c.SNP.CurrentMitigations = 1<<63|1<<2|1, 1<<63|1<<2|1<<1|1
	c.SNP.MemAES256XTS, c.SNP.RAPLDisabled, c.SNP.CiphertextHiding = true, true, true
	return c
}

var optionalRefusals = []refusal{
	{"A3 memory not under AES-256-XTS", attest.ClassDebug, func(c *attest.Claims) { c.SNP.MemAES256XTS = false }, "policy.mem_aes_256_xts is false"},
	{"A3 RAPL not asked to be off", attest.ClassDebug, func(c *attest.Claims) { c.SNP.RAPLDisabled = false }, "policy.rapl_dis is false"},
	{"A3 hidden ciphertext not asked for", attest.ClassDebug, func(c *attest.Claims) { c.SNP.CiphertextHiding = false }, "policy.ciphertext_hiding is false"},
	{"A3 page swapping is off", attest.ClassDebug, func(c *attest.Claims) { c.SNP.PageSwapDisabled = true }, "policy.page_swap_disable is true"},
	{"A11 another author key", attest.ClassMeas, func(c *attest.Claims) { c.SNP.AuthorKeyDigest[0] ^= 1 }, "is not in author_keys"},
	{"A11 an author key that is not enabled", attest.ClassMeas, func(c *attest.Claims) { c.SNP.AuthorKeyEnabled = false }, "(enabled false)"},
	{"A13 another family id", attest.ClassMeas, func(c *attest.Claims) { c.SNP.FamilyID[15] ^= 1 }, "family_id is f1"},
	{"A13 another image id", attest.ClassMeas, func(c *attest.Claims) { c.SNP.ImageID = [16]byte{} }, "image_id is 0000"},
	{"A17 current firmware is not committed", attest.ClassTCB, func(c *attest.Claims) { c.SNP.Current.SNP++ }, "can still be rolled back: snp is "},
	{"A30 VCEK where a provider's VLEK is wanted", attest.ClassChain, func(c *attest.Claims) {
		c.SNP.SigningKey, c.SNP.Provider = "vcek", ""
	}, `signed by a "vcek" key`},
	{"A30 another provider's VLEK", attest.ClassChain, func(c *attest.Claims) { c.SNP.Provider = "CN=cc-us-east-1.amazonaws.com" }, `key of "CN=cc-us-east-1`},
	{"A30 VCEK that names a provider", attest.ClassChain, func(c *attest.Claims) { c.SNP.SigningKey = "vcek" }, `signed by a "vcek" key of "CN=cloud`},
	{"A48 mitigation missing at launch", attest.ClassTCB, func(c *attest.Claims) { c.SNP.LaunchMitigations &^= 1 << 2 }, "launch mitigations are 0x8000000000000001, which lacks 0x4"},
	{"A48 mitigation missing now", attest.ClassTCB, func(c *attest.Claims) { c.SNP.CurrentMitigations = 7 }, "which lacks 0x8000000000000000"},
	{"A48 a report of before version 5", attest.ClassTCB, func(c *attest.Claims) {
		c.SNP.LaunchMitigations, c.SNP.CurrentMitigations = 0, 0
	}, "launch mitigations are 0x0"},
}

// optionalRefused has all optional fields asked for, and one of them not met.
func optionalRefused(t *testing.T) {
	m := fromText(t, optional(t, strictly, providers, authors, familyID, imageID, mitigations, provisional))
	if _, err := m.Appraise(north, []attest.Claims{strict()}, now); err != nil {
		t.Fatalf("what meets all optional fields: %v", err)
	}
	for _, r := range optionalRefusals {
		t.Run(numbered(r.name), func(t *testing.T) {
			c := strict()
			r.spoil(&c)
			a, err := m.Appraise(north, []attest.Claims{c}, now)
			wantClass(t, a, err, r.class, r.want)
		})
	}
	// Absent, the ids must be zeros and the key the chip's own.
	plain := hardware(t)
	for _, r := range []refusal{
		{"A13 a family id where the set has none", attest.ClassMeas, func(c *attest.Claims) { c.SNP.FamilyID[0] = 1 }, "family_id is 01"},
		{"A13 an image id where the set has none", attest.ClassMeas, func(c *attest.Claims) { c.SNP.ImageID[0] = 1 }, "image_id is 01"},
		{"A30 VLEK where the set names no provider", attest.ClassChain, func(c *attest.Claims) {
			c.SNP.SigningKey, c.SNP.Provider = "vlek", "CN=cloud.example"
		}, "want the chip's own"},
	} {
		t.Run(numbered(r.name), func(t *testing.T) {
			c := snp()
			r.spoil(&c)
			a, err := plain.Appraise(north, []attest.Claims{c}, now)
			wantClass(t, a, err, r.class, r.want)
		})
	}
}

// TestOptionalAbsent: what an absent field does not ask for, it does not refuse.
func TestOptionalAbsent(t *testing.T) {
	c := snp()
	c.SNP.AuthorKeyEnabled, c.SNP.AuthorKeyDigest = true, filled48(9)
	c.SNP.Current.SNP++
	c.SNP.PageSwapDisabled, c.SNP.MemAES256XTS, c.SNP.LaunchMitigations = true, true, 8
	if _, err := hardware(t).Appraise(north, []attest.Claims{c}, now); err != nil {
		t.Error(err)
	}
	c.SNP.FamilyID, c.SNP.ImageID = [16]byte{1}, [16]byte{2}
	m := fromText(t, optional(t, `rapl_dis: {any: true, reason: "no such firmware"}`, `family_id: {any: true, reason: "of the vendor"}`,
		`image_id: {any: true, reason: "of the vendor"}`, `provisional: true`))
	a, err := m.Appraise(north, []attest.Claims{c}, now)
	if err != nil || len(a.Any) != 3 {
		t.Errorf("Appraise = %v, %v, want three reasons", a.Any, err)
	}
}

func TestOptionalFaults(t *testing.T) {
	for name, test := range map[string]struct{ policy, field, want string }{
		"no provider":            {"", "vlek_providers: []", "vlek_providers: is empty"},
		"a provider of nothing":  {"", `vlek_providers: [""]`, "vlek_providers[0]: has 0 bytes"},
		"providers any":          {"", `vlek_providers: {any: true, reason: "x"}`, "want a list"},
		"author keys of zeros":   {"", `author_keys: ["` + strings.Repeat("00", 48) + `"]`, "author_keys[0]: is all zero"},
		"a short family id":      {"", `family_id: "f1"`, "family_id: want 16 bytes"},
		"mitigation 64":          {"", "mitigations: [64]", "mitigations[0]: is 64"},
		"no mitigation":          {"", "mitigations: []", "mitigations: is empty"},
		"provisional as text":    {"", `provisional: "no"`, "provisional: is text"},
		"a policy bit as number": {"rapl_dis: 1", "", "policy.rapl_dis: is a number"},
		"any without a reason":   {"", "image_id: {any: true}", `field "reason" is missing`},
	} {
		t.Run(name, func(t *testing.T) {
			var fields []string
			if test.field != "" {
				fields = append(fields, test.field)
			}
			_, err := manifest.Build([]byte(optional(t, test.policy, fields...)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Build = %v, want %q", err, test.want)
			}
		})
	}
}
