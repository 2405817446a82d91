package manifest

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"consilium.dev/internal/attest"
)

// maxSkew is how far a document's timestamp may lie ahead of our clock: two machines' clocks differ.
const maxSkew = time.Minute

// nitroChecks judge an AWS Nitro Enclaves attestation document: freshness, debug mode, measurements, instance.
var nitroChecks = []check{nitroAge, nitroDebug, nitroPCRs, nitroModule}

func nitroAge(s *set, c *attest.Claims, now time.Time) *attest.Error {
	if age := now.Sub(c.Nitro.Timestamp); age < -maxSkew || age > s.nitro.maxAge {
		return attest.Refuse(attest.ClassTime, "the document is %s old, want at most %s", age, s.nitro.maxAge)
	}
	return nil
}

// nitroDebug refuses debug mode, in which the hypervisor reports zeros for what it measured, in any of the three
// registers that every enclave has.
func nitroDebug(_ *set, c *attest.Claims, _ time.Time) *attest.Error {
	zeros := make([]byte, 48)
	for index := range 3 {
		if c.Nitro.Debug || bytes.Equal(c.Nitro.PCRs[index], zeros) {
			return attest.Refuse(attest.ClassDebug, "PCR%d is zero: a debug enclave", index)
		}
	}
	return nil
}

func nitroPCRs(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	for _, index := range slices.Sorted(maps.Keys(s.nitro.pcrs)) {
		want, got := s.nitro.pcrs[index], c.Nitro.PCRs[index]
		if bytes.Equal(got, want) {
			continue
		}
		class := attest.ClassMeas
		if index == 3 || index == 4 {
			class = attest.ClassInst // the role and the id of the parent instance
		}
		return attest.Refuse(class, "PCR%d is %x, want %x", index, got, want)
	}
	return nil
}

func nitroModule(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if want := s.nitro.modules; !want.any && !slices.Contains(want.want, c.Nitro.ModuleID) {
		return attest.Refuse(attest.ClassInst, "module %q is not in modules", c.Nitro.ModuleID)
	}
	return nil
}
