package manifest_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
)

// TestMatch: claims are held against the sets of every office, and against those alone.
func TestMatch(t *testing.T) {
	m := hardware(t)
	old := snp()
	old.SNP.Measurement = filled48(0xa0) // a set of the coordinator's alone
	for name, c := range map[string]attest.Claims{"snp-new": snp(), "snp-old": old, "nitro": nitro()} {
		got, err := m.Match(c, now)
		if diff := cmp.Diff(attest.Appraisal{Sets: []string{name}}, got); err != nil || diff != "" {
			t.Errorf("Match of %s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	bad := snp()
	bad.SNP.Measurement[0] ^= 1
	a, err := m.Match(bad, now)
	wantClass(t, a, err, attest.ClassMeas, "snp-new: MEAS")
	a, err = m.Match(attest.Claims{Type: attest.CCA}, now)
	wantClass(t, a, err, attest.ClassPlat, "no reference set of the type cca")
	simulated, err := loaded(t, "manifest.yaml", "cleveland", "budapest", "longbeach").Match(nitro(), now)
	wantClass(t, simulated, err, attest.ClassChain, "want the simulated root")
}
