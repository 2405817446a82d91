package dcap

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/attest"
)

// Standings of a TCB, as Intel spells them, from good to bad.
const (
	upToDate               = "UpToDate"
	hardeningNeeded        = "SWHardeningNeeded"
	configurationNeeded    = "ConfigurationNeeded"
	configurationAndHarden = "ConfigurationAndSWHardeningNeeded"
	outOfDate              = "OutOfDate"
	outOfDateConfiguration = "OutOfDateConfigurationNeeded"
	revoked                = "Revoked"
)

// The versions of Intel's documents that are read here.
const (
	tcbInfoVersion    = 3
	qeIdentityVersion = 2
)

// moduleVersion is where TEE_TCB_SVN has the TDX module's version; its SVN stands before it. From version 1 on both are judged by
// the module's own identity, and the platform's levels from the component behind them on.
const moduleVersion = 1

var standings = []string{
	upToDate, hardeningNeeded, configurationNeeded, configurationAndHarden, outOfDate, outOfDateConfiguration, revoked,
}

// hexBytes is bytes that JSON has as hex, in any case.
type hexBytes []byte

// UnmarshalJSON reads a string of hex.
func (h *hexBytes) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	b, err := hex.DecodeString(s)
	*h = b
	return err
}

// tcbInfo is Intel's list of the TCB levels of one kind of platform (Intel PCS API version 4, "TCB Info V3").
type tcbInfo struct {
	envelope
	FMSPC   hexBytes       `json:"fmspc"`
	PCEID   hexBytes       `json:"pceId"`
	Type    int            `json:"tcbType"`
	Module  moduleIdentity `json:"tdxModule"`
	Modules []struct {
		moduleIdentity
		ID     string     `json:"id"` // "TDX_" and the version in two hex digits
		Levels []tcbLevel `json:"tcbLevels"`
	} `json:"tdxModuleIdentities"`
	Levels []tcbLevel `json:"tcbLevels"`

	of *judgement
}

// moduleIdentity is what a TDX module must be.
type moduleIdentity struct {
	MRSigner   hexBytes `json:"mrsigner"`
	Attributes hexBytes `json:"attributes"`
	Mask       hexBytes `json:"attributesMask"`
}

// A tcbLevel is the least that a TCB must be for a standing. Levels stand from the highest to the lowest.
type tcbLevel struct {
	TCB struct {
		SGX    []component `json:"sgxtcbcomponents"`
		PCESVN uint16      `json:"pcesvn"`
		TDX    []component `json:"tdxtcbcomponents"`
		ISVSVN uint16      `json:"isvsvn"` // of levels of a TDX module and of a quoting enclave
	} `json:"tcb"`
	Date       time.Time `json:"tcbDate"`
	Status     string    `json:"tcbStatus"`
	Advisories []string  `json:"advisoryIDs"`
}

type component struct {
	SVN uint8 `json:"svn"`
}

// qeIdentity is what Intel's quoting enclave of a TEE must be (Intel PCS API version 4, "Enclave Identity V2").
type qeIdentity struct {
	envelope
	MiscSelect     hexBytes   `json:"miscselect"`
	MiscSelectMask hexBytes   `json:"miscselectMask"`
	Attributes     hexBytes   `json:"attributes"`
	AttributesMask hexBytes   `json:"attributesMask"`
	MRSigner       hexBytes   `json:"mrsigner"`
	ISVProdID      uint16     `json:"isvprodid"`
	Levels         []tcbLevel `json:"tcbLevels"`

	of *judgement
}

// quoting says, for each TEE, what its QE identity is called, and the key that Intel signs its quoting enclaves with
// (MRSIGNER). The key is held here as well, so that a quote of another enclave never passes for want of an identity.
var quoting = map[TEE]struct{ id, signer string }{
	SGX: {"QE", "8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff"},
	TDX: {"TD_QE", "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5"},
}

// tcbInfo returns the TCB info for the quote's platform, nil if none is at hand.
func (j *judgement) tcbInfo() (*tcbInfo, *attest.Error) {
	read := func(d document) (*tcbInfo, *attest.Error) {
		i := &tcbInfo{of: j}
		if err := json.Unmarshal(d.raw, i); err != nil {
			return nil, attest.Refuse(attest.ClassParse, "TCB info: %v", err)
		}
		return i, nil
	}
	info, there, err := chosen(j, "TCB info", j.sent.infos, j.held.infos, read)
	if !there {
		return nil, err
	}
	return info, err
}

// qeIdentity returns the identity of the quote's kind of quoting enclave, nil if none is at hand.
func (j *judgement) qeIdentity() (*qeIdentity, *attest.Error) {
	read := func(d document) (*qeIdentity, *attest.Error) {
		i := &qeIdentity{of: j}
		if err := json.Unmarshal(d.raw, i); err != nil {
			return nil, attest.Refuse(attest.ClassParse, "QE identity: %v", err)
		}
		return i, nil
	}
	identity, there, err := chosen(j, "QE identity", j.sent.identities, j.held.identities, read)
	if !there {
		return nil, err
	}
	return identity, err
}

func (i *tcbInfo) name() string { return nameOfInfo(i.ID, i.FMSPC) }

func (i *tcbInfo) about() *attest.Error {
	p := &i.of.chain.platform
	switch {
	case i.ID != i.of.q.TEE.String():
		return attest.Refuse(attest.ClassChain, "TCB info is of %q, the quote of %s", i.ID, i.of.q.TEE)
	case i.Version != tcbInfoVersion || i.Type != 0:
		return attest.Refuse(attest.ClassParse, "TCB info has the version %d and the type %d, want %d and 0", i.Version, i.Type, tcbInfoVersion)
	case !bytes.Equal(i.FMSPC, p.fmspc[:]) || !bytes.Equal(i.PCEID, p.pceID[:]):
		return attest.Refuse(attest.ClassChain, "TCB info is of the FMSPC %x and the PCE %x, the PCK certificate of %x and %x",
			[]byte(i.FMSPC), []byte(i.PCEID), p.fmspc, p.pceID)
	}
	return nil
}

func (i *qeIdentity) name() string { return nameOfIdentity(i.ID, i.of.chain.platform.fmspc[:]) }

func (i *qeIdentity) about() *attest.Error {
	if want := quoting[i.of.q.TEE].id; i.ID != want {
		return attest.Refuse(attest.ClassChain, "QE identity is of %q, want %q", i.ID, want)
	}
	if i.Version != qeIdentityVersion {
		return attest.Refuse(attest.ClassParse, "QE identity has the version %d, want %d", i.Version, qeIdentityVersion)
	}
	return nil
}

// judge checks that e is the enclave that the identity describes, and returns its level.
func (i *qeIdentity) judge(e Enclave) (*tcbLevel, *attest.Error) {
	for _, field := range []struct {
		name            string
		got, want, mask []byte
	}{
		{"MISCSELECT", e.MiscSelect(), i.MiscSelect, i.MiscSelectMask},
		{"ATTRIBUTES", e.Attributes(), i.Attributes, i.AttributesMask},
		{"MRSIGNER", e.MRSigner(), i.MRSigner, bytes.Repeat([]byte{0xff}, 32)},
	} {
		if !masked(field.got, field.want, field.mask) {
			return nil, attest.Refuse(attest.ClassChain, "the quoting enclave's %s is %x, its identity wants %x under the mask %x",
				field.name, field.got, field.want, field.mask)
		}
	}
	if e.ISVProdID() != i.ISVProdID {
		return nil, attest.Refuse(attest.ClassChain, "the quoting enclave's ISVPRODID is %d, want %d", e.ISVProdID(), i.ISVProdID)
	}
	level := bySVN(i.Levels, e.ISVSVN())
	if level == nil || level.Status == revoked {
		return nil, attest.Refuse(attest.ClassChain, "the quoting enclave's ISVSVN, %d, is revoked or below every level", e.ISVSVN())
	}
	return level, nil
}

// masked reports whether got is want wherever mask has ones. Lengths that differ never match.
func masked(got, want, mask []byte) bool {
	if len(want) != len(got) || len(mask) != len(got) {
		return false
	}
	for i := range got {
		if got[i]&mask[i] != want[i] {
			return false
		}
	}
	return true
}

// bySVN returns the first level that the version reaches.
func bySVN(levels []tcbLevel, svn uint16) *tcbLevel {
	for i := range levels {
		if svn >= levels[i].TCB.ISVSVN {
			return &levels[i]
		}
	}
	return nil
}

// judge returns the first level that the platform reaches, and the TDX module's own if it has one (Intel PCS API version 4,
// "Get TDX TCB Info", the determination of a TCB level's status).
func (i *tcbInfo) judge(q *Quote, p *extensions) (platform, module *tcbLevel, err *attest.Error) {
	var svn []byte
	first := 0
	if q.TEE == TDX {
		svn = q.Body[:16] // TEE_TCB_SVN
		if svn[moduleVersion] > 0 {
			first = moduleVersion + 1
		}
		if module, err = i.module(q, svn); err != nil {
			return nil, nil, err
		}
	}
	for n := range i.Levels {
		l := &i.Levels[n]
		if l.reached(p, svn, first) {
			return l, module, nil
		}
	}
	return nil, nil, attest.Refuse(attest.ClassTCB, "the platform's TCB (components %d, PCESVN %d, TDX %d) is below every level of the TCB info",
		p.components, p.pceSVN, svn)
}

// reached reports whether a platform has all of what a level asks: each component of the processor's TCB, the PCE's version,
// and, where svn is not nil, each component of TDX's from the given one on.
func (l *tcbLevel) reached(p *extensions, svn []byte, first int) bool {
	if len(l.TCB.SGX) != len(p.components) || svn != nil && len(l.TCB.TDX) != len(svn) || p.pceSVN < l.TCB.PCESVN {
		return false
	}
	for n, c := range l.TCB.SGX {
		if p.components[n] < c.SVN {
			return false
		}
	}
	for n := first; n < len(svn); n++ {
		if svn[n] < l.TCB.TDX[n].SVN {
			return false
		}
	}
	return true
}

// module checks that the TDX module is one that the TCB info knows, and returns its level where it has its own levels.
func (i *tcbInfo) module(q *Quote, svn []byte) (*tcbLevel, *attest.Error) {
	signer, attributes := q.Body[64:112], q.Body[112:120] // as package tdx reads them
	if svn[moduleVersion] == 0 {
		if !i.Module.is(signer, attributes) {
			return nil, attest.Refuse(attest.ClassTCB, "the TDX module (MRSIGNERSEAM %x, SEAMATTRIBUTES %x) is not the TCB info's", signer, attributes)
		}
		return nil, nil
	}
	id := fmt.Sprintf("TDX_%02X", svn[moduleVersion])
	for n := range i.Modules {
		m := &i.Modules[n]
		if m.ID != id {
			continue
		}
		if !m.is(signer, attributes) {
			return nil, attest.Refuse(attest.ClassTCB, "the TDX module (MRSIGNERSEAM %x, SEAMATTRIBUTES %x) is not the TCB info's %s", signer, attributes, id)
		}
		if level := bySVN(m.Levels, uint16(svn[0])); level != nil {
			return level, nil
		}
		return nil, attest.Refuse(attest.ClassTCB, "the TDX module's SVN, %d, is below every level of %s", svn[0], id)
	}
	return nil, attest.Refuse(attest.ClassTCB, "the TCB info knows no TDX module %s", id)
}

func (m *moduleIdentity) is(signer, attributes []byte) bool {
	return bytes.Equal(m.MRSigner, signer) && masked(attributes, m.Attributes, m.Mask)
}

// converge says what a platform's standing is, together with its TDX module's (nil where it has none of its own) and its quoting
// enclave's, as Intel's quote verification library does: an old part makes the whole out of date, a revoked one revoked.
func converge(platform, module, qe *tcbLevel) (attest.IntelTCB, *attest.Error) {
	t := attest.IntelTCB{Checked: true, Status: platform.Status, Platform: platform.Status, QE: qe.Status, Date: platform.Date}
	if !slices.Contains(standings, platform.Status) {
		return attest.IntelTCB{}, attest.Refuse(attest.ClassTCB, "a TCB level's status is %q, which is unknown here", platform.Status)
	}
	parts := []*tcbLevel{platform, qe}
	if module != nil {
		t.Module = module.Status
		parts = append(parts, module)
	}
	for _, part := range parts {
		t.Advisories = append(t.Advisories, part.Advisories...)
	}
	for _, part := range parts[1:] {
		switch part.Status {
		case upToDate:
		case outOfDate:
			t.Status = older(t.Status)
		case revoked:
			t.Status = revoked
		default:
			return attest.IntelTCB{}, attest.Refuse(attest.ClassTCB, "the status of a module or of a quoting enclave is %q, which is unknown here", part.Status)
		}
	}
	slices.Sort(t.Advisories)
	t.Advisories = slices.Compact(t.Advisories)
	return t, nil
}

// older returns the standing of a platform that has the one given but for an old part.
func older(status string) string {
	switch status {
	case upToDate, hardeningNeeded:
		return outOfDate
	case configurationNeeded, configurationAndHarden:
		return outOfDateConfiguration
	}
	return status
}
