package manifest_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"consilium.dev/internal/attest"
)

// TestRefuses has every refusal of this package under the number of its case in the list of what a great verifier must refuse.
func TestRefuses(t *testing.T) {
	claimsRefused(t)
	optionalRefused(t)
	peersRefused(t)
	for _, of := range []struct {
		name    string
		class   attest.Class // of all of them, as wantManifest asks
		refused func(*testing.T)
	}{
		{"I168 texts", attest.ClassManifest, textsRefused},
		{"I168 texts of Intel's platforms", attest.ClassManifest, intelTextsRefused},
		{"I168 signatures and anchors", attest.ClassManifest, loadRefused},
		{"I168 envelopes", attest.ClassManifest, envelopesRefused},
		{"I168 payloads", attest.ClassManifest, payloadsRefused},
		{"I168 successors", attest.ClassManifest, successorsRefused},
		{"I168 chains", attest.ClassManifest, chainsRefused},
	} {
		t.Run(numbered(of.name), of.refused)
	}
}

// numbered returns the name of a subtest, NUMBER/WHAT, of a case "A5 what".
func numbered(name string) string {
	number, what, found := strings.Cut(name, " ")
	if n, err := strconv.Atoi(number[1:]); err == nil && found {
		return fmt.Sprintf("%03d/%s", n, what)
	}
	return "other/" + name
}
