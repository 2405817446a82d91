package manifest

import (
	"fmt"
	"time"

	"consilium.dev/internal/attest"
)

type tdxSet struct {
	mrTD                                    [][]byte
	rtmr                                    [4]rule[[]byte]
	configID, owner, ownerConfig, serviceTD rule[[]byte]
	mrSEAM                                  rule[[][]byte]
	signerSEAM                              []byte
	attributes, xfam                        []byte
	eventLog                                rule[bool]
	instances                               rule[[][]byte]
}

// tdxChecks judge a quote of a trust domain, in the order of the attested channel's specification.
var tdxChecks = []check{intelRevocation, tdxDebug, tdxAttributes, tdxMeasurements, intelTCB, tdxModule, tdxInstance}

func (s *set) readTDX(c cursor) {
	f := c.fields(append([]string{
		"type", "simulated?", "mr_td", "rtmr", "mr_config_id", "mr_owner", "mr_owner_config", "mr_service_td", "mr_seam", "mr_signer_seam",
		"td_attributes", "xfam", "event_log", "piids",
	}, intelFields...)...)
	s.simulated = f["simulated"].name()
	n := &s.tdx
	n.mrTD = each(f["mr_td"], measurement)
	registers := f["rtmr"].fields("0", "1", "2", "3")
	for i := range n.rtmr {
		n.rtmr[i] = ruled(s, registers[fmt.Sprint(i)], sized(48))
	}
	n.configID = ruled(s, f["mr_config_id"], sized(48))
	n.owner = ruled(s, f["mr_owner"], sized(48))
	n.ownerConfig = ruled(s, f["mr_owner_config"], sized(48))
	n.serviceTD = ruled(s, f["mr_service_td"], sized(48))
	n.mrSEAM = ruled(s, f["mr_seam"], func(c cursor) [][]byte { return each(c, measurement) })
	n.signerSEAM = f["mr_signer_seam"].hex(48)
	n.attributes = f["td_attributes"].hex(8)
	if n.attributes != nil && n.attributes[0] != 0 {
		f["td_attributes"].fault("has bits of its first byte: a domain that the host can debug or profile hides nothing, no manifest can admit one")
	}
	n.xfam = f["xfam"].hex(8)
	n.eventLog = ruled(s, f["event_log"], func(c cursor) bool { return c.choice("required") != "" })
	n.instances = ruled(s, f["piids"], func(c cursor) [][]byte { return each(c, func(c cursor) []byte { return nonzero(c, 16) }) })
	s.readIntel(f)
}

// tdxDebug refuses the domains and modules that the host can look into, whatever the set says.
func tdxDebug(_ *set, c *attest.Claims, _ time.Time) *attest.Error {
	if c.TDX.Debug || c.TDX.TDAttributes[0] != 0 {
		return attest.Refuse(attest.ClassDebug, "td_attributes are %x: the host can debug or profile this domain", c.TDX.TDAttributes)
	}
	if c.TDX.SEAMAttributes != [8]byte{} {
		return attest.Refuse(attest.ClassDebug, "SEAMATTRIBUTES are %x, want none: the TDX module is a debug one", c.TDX.SEAMAttributes)
	}
	return nil
}

func tdxAttributes(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if err := differs(attest.ClassDebug, "td_attributes", c.TDX.TDAttributes[:], rule[[]byte]{want: s.tdx.attributes}); err != nil {
		return err
	}
	return differs(attest.ClassDebug, "xfam", c.TDX.XFAM[:], rule[[]byte]{want: s.tdx.xfam})
}

func tdxMeasurements(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	d, n := c.TDX, &s.tdx
	if !oneOf(n.mrTD, d.MRTD[:]) {
		return attest.Refuse(attest.ClassMeas, "mr_td %x is not in the set", d.MRTD)
	}
	for i := range d.RTMR {
		if err := differs(attest.ClassMeas, fmt.Sprintf("rtmr %d", i), d.RTMR[i][:], n.rtmr[i]); err != nil {
			return err
		}
	}
	if !n.eventLog.any && !d.EventLog {
		return attest.Refuse(attest.ClassMeas, "no event log came with the quote")
	}
	for _, field := range []struct {
		name string
		got  [48]byte
		rule[[]byte]
	}{
		{"mr_config_id", d.MRConfigID, n.configID},
		{"mr_owner", d.MROwner, n.owner},
		{"mr_owner_config", d.MROwnerConfig, n.ownerConfig},
		{"mr_service_td", d.MRServiceTD, n.serviceTD},
	} {
		if err := differs(attest.ClassMeas, field.name, field.got[:], field.rule); err != nil {
			return err
		}
	}
	return nil
}

func tdxModule(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if err := differs(attest.ClassPlat, "mr_signer_seam", c.TDX.MRSignerSEAM[:], rule[[]byte]{want: s.tdx.signerSEAM}); err != nil {
		return err
	}
	if want := s.tdx.mrSEAM; !want.any && !oneOf(want.want, c.TDX.MRSEAM[:]) {
		return attest.Refuse(attest.ClassPlat, "mr_seam %x is not in the set", c.TDX.MRSEAM)
	}
	return nil
}

func tdxInstance(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	if want := s.tdx.instances; !want.any && !oneOf(want.want, c.TDX.Platform.Instance[:]) {
		return attest.Refuse(attest.ClassInst, "platform instance %x is not in piids", c.TDX.Platform.Instance)
	}
	return nil
}
