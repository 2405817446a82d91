package manifest

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/attest"
)

// intelSet is what sets about TDX and SGX have in common: Intel's platform under the enclave.
type intelSet struct {
	standings  rule[[]string] // what Intel's TCB info may call the platform
	advisories rule[[]string] // which advisories may be open on it
	evaluation rule[uint64]   // least tcbEvaluationDataNumber
	qeSVNMin   uint16         // least ISVSVN of the quoting enclave
	revocation rule[time.Duration]
}

// intelFields are the fields of intelSet.
var intelFields = []string{"tcb_status", "advisories", "tcb_eval_min", "qe", "revocation"}

func (s *set) readIntel(f map[string]cursor) {
	n := &s.intel
	n.standings = ruled(s, f["tcb_status"], func(c cursor) []string {
		// Not Revoked: no manifest can admit a platform whose keys Intel holds to be lost.
		return each(c, func(c cursor) string {
			return c.choice("UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded")
		})
	})
	n.advisories = ruled(s, f["advisories"], readAdvisories)
	n.evaluation = ruled(s, f["tcb_eval_min"], func(c cursor) uint64 { return c.whole(0, math.MaxUint32) })
	n.qeSVNMin = uint16(f["qe"].fields("isv_svn_min")["isv_svn_min"].whole(0, math.MaxUint16))
	n.revocation = ruled(s, f["revocation"], readMaxAge)
}

// readAdvisories reads the advisories that may be open. The list may be empty, which is the strictest: none may.
func readAdvisories(c cursor) []string {
	if c.v != nil && c.v.kind == list && len(c.v.items) == 0 {
		return nil
	}
	return each(c, func(c cursor) string {
		id := c.words(maxName)
		if id != "" && !strings.HasPrefix(id, "INTEL-SA-") {
			c.fault("is %q, want an advisory such as INTEL-SA-00615", id)
		}
		return id
	})
}

// platform returns what the claims, of TDX or SGX, say of Intel's platform.
func platform(c *attest.Claims) *attest.DCAP {
	if c.TDX != nil {
		return &c.TDX.Platform
	}
	return &c.SGX.Platform
}

func intelRevocation(s *set, c *attest.Claims, now time.Time) *attest.Error {
	return fresh(s.intel.revocation, c, now)
}

// intelTCB judges the platform's standing. Without TCB info and QE identity it has none, and then passes only where nothing
// of it is judged.
func intelTCB(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	n, t := &s.intel, &platform(c).TCB
	if t.Status == "Revoked" {
		return attest.Refuse(attest.ClassTCB, "the platform's TCB is Revoked")
	}
	if !t.Checked && !(n.standings.any && n.advisories.any && n.evaluation.any) {
		return attest.Refuse(attest.ClassTCB, "no TCB info and QE identity were at hand")
	}
	if !n.standings.any && !slices.Contains(n.standings.want, t.Status) {
		return attest.Refuse(attest.ClassTCB, "the platform's TCB is %s (platform %s, TDX module %s, quoting enclave %s; open: %s), want one of %s",
			t.Status, t.Platform, cmp.Or(t.Module, "with the platform"), t.QE, strings.Join(t.Advisories, ", "), strings.Join(n.standings.want, ", "))
	}
	for _, id := range t.Advisories {
		if !n.advisories.any && !slices.Contains(n.advisories.want, id) {
			return attest.Refuse(attest.ClassTCB, "the advisory %s is open on the platform, and not in advisories", id)
		}
	}
	if !n.evaluation.any && uint64(t.Evaluation) < n.evaluation.want {
		return attest.Refuse(attest.ClassTCB, "TCB info of the evaluation number %d, want %d at least", t.Evaluation, n.evaluation.want)
	}
	if got := platform(c).QESVN; got < n.qeSVNMin {
		return attest.Refuse(attest.ClassTCB, "the quoting enclave's ISVSVN is %d, want %d at least", got, n.qeSVNMin)
	}
	return nil
}

// differs refuses a field of bytes that a rule asks to be another.
func differs(class attest.Class, name string, got []byte, r rule[[]byte]) *attest.Error {
	if r.any || bytes.Equal(got, r.want) {
		return nil
	}
	return attest.Refuse(class, "%s is %x, want %x", name, got, r.want)
}
