package manifest

import (
	"math"
	"slices"
	"time"

	"consilium.dev/internal/attest"
)

type sgxSet struct {
	enclaves, signers rule[[][]byte]
	prodID            rule[uint64]
	svnMin            uint16
	attributes, mask  []byte
	miscSelect        []byte
	configID          rule[[]byte]
	configSVNMin      uint16
	authorities       []string // which of Intel's certified the platform
	ppids             rule[[][]byte]
}

// Bits of the first byte of an enclave's ATTRIBUTES.
const (
	sgxDebug     = 1 << 1
	sgxProvision = 1 << 4
	sgxEINITKey  = 1 << 5
	sgxForbidden = sgxDebug | sgxProvision | sgxEINITKey
)

// sgxChecks judge a quote of an SGX enclave, in the order of the attested channel's specification.
var sgxChecks = []check{intelRevocation, sgxAttributes, sgxMeasurements, sgxSVNs, intelTCB, sgxAuthority, sgxPlatform}

func (s *set) readSGX(c cursor) {
	f := c.fields(append([]string{
		"type", "simulated?", "mr_enclave", "mr_signer", "prod_id", "isv_svn_min", "attributes", "attributes_mask", "misc_select",
		"config_id", "config_svn_min", "pck_ca", "ppids",
	}, intelFields...)...)
	s.simulated = f["simulated"].name()
	n := &s.sgx
	digest := func(c cursor) []byte { return nonzero(c, 32) }
	n.enclaves = ruled(s, f["mr_enclave"], func(c cursor) [][]byte { return each(c, digest) })
	n.signers = ruled(s, f["mr_signer"], func(c cursor) [][]byte { return each(c, digest) })
	n.prodID = ruled(s, f["prod_id"], func(c cursor) uint64 { return c.whole(0, math.MaxUint16) })
	if n.enclaves.any && (n.signers.any || n.prodID.any) {
		f["mr_enclave"].fault("is not judged: then mr_signer and prod_id must be, or any enclave would do")
	}
	n.svnMin = uint16(f["isv_svn_min"].whole(0, math.MaxUint16))
	s.readAttributes(f["attributes"], f["attributes_mask"])
	n.miscSelect = f["misc_select"].hex(4)
	n.configID = ruled(s, f["config_id"], sized(64))
	n.configSVNMin = uint16(f["config_svn_min"].whole(0, math.MaxUint16))
	n.authorities = each(f["pck_ca"], func(c cursor) string { return c.choice("platform", "processor") })
	n.ppids = ruled(s, f["ppids"], func(c cursor) [][]byte { return each(c, func(c cursor) []byte { return nonzero(c, 16) }) })
	s.readIntel(f)
}

// readAttributes reads what an enclave's flags and XFRM must be where the mask has ones.
func (s *set) readAttributes(value, mask cursor) {
	n := &s.sgx
	n.attributes, n.mask = value.hex(16), mask.hex(16)
	if n.attributes == nil || n.mask == nil {
		return
	}
	if n.attributes[0]&sgxForbidden != 0 {
		value.fault("has DEBUG, PROVISION_KEY or EINITTOKEN_KEY: no manifest can admit such an enclave")
	}
	for i := range n.mask {
		if n.attributes[i]&^n.mask[i] != 0 {
			value.fault("has bits that attributes_mask does not look at")
			break
		}
	}
}

// sgxAttributes refuses debug enclaves and those with Intel's keys whatever the set says.
func sgxAttributes(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	e := c.SGX
	if e.Debug || e.Attributes[0]&sgxForbidden != 0 {
		return attest.Refuse(attest.ClassDebug, "attributes are %x, with DEBUG, PROVISION_KEY or EINITTOKEN_KEY", e.Attributes)
	}
	for i := range e.Attributes {
		if e.Attributes[i]&s.sgx.mask[i] != s.sgx.attributes[i] {
			return attest.Refuse(attest.ClassDebug, "attributes are %x, want %x under the mask %x", e.Attributes, s.sgx.attributes, s.sgx.mask)
		}
	}
	return differs(attest.ClassDebug, "misc_select", e.MiscSelect[:], rule[[]byte]{want: s.sgx.miscSelect})
}

func sgxMeasurements(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	e, n := c.SGX, &s.sgx
	if !n.enclaves.any && !oneOf(n.enclaves.want, e.MREnclave[:]) {
		return attest.Refuse(attest.ClassMeas, "mr_enclave %x is not in the set", e.MREnclave)
	}
	if !n.signers.any && !oneOf(n.signers.want, e.MRSigner[:]) {
		return attest.Refuse(attest.ClassMeas, "mr_signer %x is not in the set", e.MRSigner)
	}
	if !n.prodID.any && uint64(e.ISVProdID) != n.prodID.want {
		return attest.Refuse(attest.ClassMeas, "prod_id is %d, want %d", e.ISVProdID, n.prodID.want)
	}
	if e.ConfigSVN < n.configSVNMin {
		return attest.Refuse(attest.ClassMeas, "config_svn is %d, want %d at least", e.ConfigSVN, n.configSVNMin)
	}
	return differs(attest.ClassMeas, "config_id", e.ConfigID[:], n.configID)
}

func sgxSVNs(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if c.SGX.ISVSVN < s.sgx.svnMin {
		return attest.Refuse(attest.ClassTCB, "isv_svn is %d, want %d at least", c.SGX.ISVSVN, s.sgx.svnMin)
	}
	return nil
}

func sgxAuthority(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if ca := c.SGX.Platform.CA; !slices.Contains(s.sgx.authorities, ca) {
		return attest.Refuse(attest.ClassPlat, "the platform is certified by Intel's %q authority, want one of %q", ca, s.sgx.authorities)
	}
	return nil
}

func sgxPlatform(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if want := s.sgx.ppids; !want.any && !oneOf(want.want, c.SGX.Platform.PPID[:]) {
		return attest.Refuse(attest.ClassInst, "processor %x is not in ppids", c.SGX.Platform.PPID)
	}
	return nil
}
