package tdx_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"slices"
	"testing"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

type scene = dcaptest.Scene

// A refusal is something wrong with evidence that is rightly signed, and the class that it must be refused with. Names begin
// with the case's number in the list of what a great verifier must refuse. What concerns the platform is refused by package dcap,
// and tested there.
type refusal struct {
	name  string
	class attest.Class
	spoil func(*scene)
}

func TestRefuses(t *testing.T) {
	for _, r := range slices.Concat(bindingRefusals, logRefusals) {
		t.Run(dcaptest.Numbered(r.name), func(t *testing.T) {
			s := dcaptest.NewTDX()
			r.spoil(s)
			claims, err := newVerifier(t).Verify(t.Context(), s.Evidence(), s.Binding, s.Now, s.Held)
			dcaptest.WantClass(t, err, r.class)
			if claims.TDX != nil || claims.Type != 0 {
				t.Errorf("Verify refused and gave claims: %+v", claims)
			}
		})
	}
}

var bindingRefusals = []refusal{
	{"B75 REPORTDATA differs in byte 0", attest.ClassBind, func(s *scene) { s.Binding.ReportData[0] ^= 1 }},
	{"B75 REPORTDATA differs in byte 63", attest.ClassBind, func(s *scene) { s.Binding.ReportData[63] ^= 0x80 }},
	{"B75 REPORTDATA has 48 bytes and zeros", attest.ClassBind, func(s *scene) { clear(s.Body[520+48 : 584]) }},
	{"B76 REPORTDATA is a digest of Azure's runtime claims, and zeros", attest.ClassBind, func(s *scene) {
		claims := sha256.Sum256([]byte(`{"keys": [], "user-data": "the session's binding, beside the quote"}`))
		copy(s.Body[520:584], append(claims[:], make([]byte, 32)...))
	}},
	{"B75 REPORTDATA is zero", attest.ClassBind, func(s *scene) { clear(s.Body[520:584]) }},
	{"B70 evidence of another type", attest.ClassParse, func(s *scene) { s.Type = attest.SGX }},
	{"B70 an SGX quote", attest.ClassParse, func(s *scene) { *s = *dcaptest.NewSGX(); s.Type = attest.TDX }},
	{"B61 a platform below every level", attest.ClassTCB, func(s *scene) { s.Body[2] = 0 }},
}

// entry is one event of a log.
type entry struct {
	register, kind uint32
	algorithms     []uint16
	digest         byte // all of it
	data           string
}

// sizes are the lengths of digests: SHA-1, SHA-256, SHA-384.
var sizes = map[uint16]int{4: 20, 0x0B: 32, 0x0C: 48}

// table returns an event log, and the registers that its SHA-384 digests lead to.
func table(algorithms []uint16, entries ...entry) ([]byte, [4][48]byte) {
	u32 := func(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }
	u16 := func(n int) []byte { return binary.LittleEndian.AppendUint16(nil, uint16(n)) }
	spec := slices.Concat([]byte("Spec ID Event03\x00"), u32(0), []byte{0, 2, 0, 2}, u32(len(algorithms)))
	for _, a := range algorithms {
		spec = slices.Concat(spec, u16(int(a)), u16(sizes[a]))
	}
	spec = append(spec, 0)
	log := slices.Concat(u32(1), u32(3), make([]byte, 20), u32(len(spec)), spec)
	var registers [4][48]byte
	for _, e := range entries {
		log = slices.Concat(log, u32(int(e.register)), u32(int(e.kind)), u32(len(e.algorithms)))
		for _, a := range e.algorithms {
			digest := bytes.Repeat([]byte{e.digest}, sizes[a])
			log = slices.Concat(log, u16(int(a)), digest)
			if a == 0x0C && e.kind != 3 && e.register >= 1 && e.register <= 4 {
				r := &registers[e.register-1]
				*r = sha512.Sum384(append(r[:], digest...))
			}
		}
		log = slices.Concat(log, u32(len(e.data)), []byte(e.data))
	}
	return log, registers
}

var (
	both   = []uint16{0x0B, 0x0C}
	events = []entry{
		{1, 1, both, 0xd1, "firmware"},
		{0, 4, both, 0xd2, "what MRTD measured"},
		{1, 4, both, 0xd3, ""},
		{2, 5, both, 0xd4, "kernel"},
		{3, 3, both, 0xd5, "no action"},
		{3, 6, both, 0xd6, "command line"},
		{4, 7, both, 0xd7, "application"},
	}
)

// logged returns a spoiler that sends a log along, of a domain whose registers are those that the events lead to, spoilt.
func logged(f func(log []byte) []byte) func(*scene) {
	return func(s *scene) {
		log, registers := table(both, events...)
		for i, r := range registers {
			copy(s.Body[328+48*i:], r[:])
		}
		s.More = attest.Collateral{{Kind: attest.KindEventLog, Bytes: f(log)}}
	}
}

// instead returns a spoiler that sends another log along than the domain's.
func instead(algorithms []uint16, entries ...entry) func(*scene) {
	return logged(func([]byte) []byte { log, _ := table(algorithms, entries...); return log })
}

// but returns the events with one of them another.
func but(i int, e entry) []entry {
	all := slices.Clone(events)
	all[i] = e
	return all
}

var logRefusals = []refusal{
	{"B54 a log of nothing", attest.ClassMeas, logged(func([]byte) []byte { return nil })},
	{"B54 a log without events", attest.ClassMeas, instead(both)},
	{"B54 an event less", attest.ClassMeas, instead(both, events[:6]...)},
	{"B54 an event more, behind the separator", attest.ClassMeas, instead(both, append(slices.Clone(events), entry{4, 4, both, 0, ""})...)},
	{"B54 two events in another order", attest.ClassMeas, instead(both, append([]entry{events[2]}, append([]entry{events[0]}, events[3:]...)...)...)},
	{"B54 another digest in RTMR0", attest.ClassMeas, instead(both, but(0, entry{1, 1, both, 0xdd, ""})...)},
	{"B54 another digest in RTMR3", attest.ClassMeas, instead(both, but(6, entry{4, 7, both, 0xdd, ""})...)},
	{"B54 an event of another register", attest.ClassMeas, instead(both, but(6, entry{5, 7, both, 0xd7, ""})...)},
	{"B54 a log of SHA-256", attest.ClassMeas, instead([]uint16{0x0B}, entry{1, 1, []uint16{0x0B}, 0xd1, ""})},
	{"B54 an event without SHA-384", attest.ClassMeas, instead(both, but(0, entry{1, 1, []uint16{0x0B}, 0xd1, ""})...)},
	{"B54 an event of an algorithm that the log does not name", attest.ClassMeas, instead(both, but(0, entry{1, 1, []uint16{4, 0x0C}, 0xd1, ""})...)},
	{"B54 an event with more digests than there are algorithms", attest.ClassMeas, instead(both, but(0, entry{1, 1, slices.Repeat(both, 5), 0xd1, ""})...)},
	{"B54 a log without its first event", attest.ClassMeas, logged(func(l []byte) []byte { return l[8+20+4+37:] })},
	{"B54 a first event of another type", attest.ClassMeas, logged(func(l []byte) []byte { l[4] = 4; return l })},
	{"B54 a first event of another signature", attest.ClassMeas, logged(func(l []byte) []byte { l[32+14] = '2'; return l })},
	{"B54 a first event beyond the end", attest.ClassMeas, logged(func(l []byte) []byte { l[31] = 0xff; return l })},
	{"B54 more algorithms than the first event has", attest.ClassMeas, logged(func(l []byte) []byte { l[32+24] = 8; return l })},
	{"B54 more algorithms than 8", attest.ClassMeas, logged(func(l []byte) []byte { l[32+27] = 0xff; return l })},
	{"B54 SHA-384 of 32 bytes", attest.ClassMeas, logged(func(l []byte) []byte { l[32+28+6] = 32; return l })},
	{"B54 the last byte is missing", attest.ClassMeas, logged(func(l []byte) []byte { return l[:len(l)-1] })},
	{"B54 a byte behind the log", attest.ClassMeas, logged(func(l []byte) []byte { return append(l, 0) })},
	{"B54 events behind the table's end", attest.ClassMeas, logged(func(l []byte) []byte {
		return slices.Concat(l, bytes.Repeat([]byte{0xff}, 64), []byte{1})
	})},
	{"B54 more than 128 KiB", attest.ClassMeas, logged(func(l []byte) []byte { return append(l, bytes.Repeat([]byte{0xff}, 128<<10)...) })},
	{"B54 a first event of 10 bytes", attest.ClassMeas, logged(func(l []byte) []byte { l[28] = 10; return l })},
	{"B54 9 algorithms", attest.ClassMeas, instead([]uint16{0x0B, 0x0C, 1, 2, 3, 5, 6, 7, 8}, events...)},
	{"B54 a log that does not parse, where nothing was measured", attest.ClassMeas, func(s *scene) {
		clear(s.Body[328:520])
		s.More = attest.Collateral{{Kind: attest.KindEventLog, Bytes: []byte("log")}}
	}},
	{"B54 two logs", attest.ClassMeas, func(s *scene) {
		logged(func(l []byte) []byte { return l })(s)
		s.More = append(s.More, s.More[0])
	}},
}

// TestCutLog cuts a log at every byte: none of its beginnings passes.
func TestCutLog(t *testing.T) {
	s := dcaptest.NewTDX()
	logged(func(l []byte) []byte { return l })(s)
	s.Info, s.Identity, s.Lists, s.Signer = nil, nil, nil, nil
	e, v := s.Evidence(), newVerifier(t)
	log := s.More[0].Bytes
	if _, err := v.VerifyUnbound(e, s.Now, nil); err != nil {
		t.Fatal(err)
	}
	for n := range log {
		e.Collateral = attest.Collateral{{Kind: attest.KindEventLog, Bytes: log[:n:n]}}
		_, err := v.VerifyUnbound(e, s.Now, nil)
		dcaptest.WantClass(t, err, attest.ClassMeas)
	}
}

// TestAccepted: what must not be refused, and what the claims then say.
func TestAccepted(t *testing.T) {
	for _, a := range []struct {
		name  string
		make  func(*scene)
		holds func(c attest.Claims) bool
	}{
		{"plain", func(*scene) {}, func(c attest.Claims) bool {
			d := c.TDX
			return c.Type == attest.TDX && c.Simulated == "test" && c.RevocationChecked && d.Platform.TCB.Status == "UpToDate" &&
				d.Version == 5 && d.TD15 && d.TEETCBSVN2[0] == 6 && d.TEETCBSVN[0] == 4 && !d.Debug && !d.EventLog &&
				d.MRSEAM[0] == 0x5e && d.MRTD[47] == 0x71 && d.RTMR[0][0] == 0xb0 && d.RTMR[3][47] == 0xb3 && d.TDAttributes[3] == 0x10
		}},
		{"TDX 1.0", (*scene).TDX10, func(c attest.Claims) bool { return c.TDX.Version == 4 && !c.TDX.TD15 }},
		{"TDX 1.0 in version 5", func(s *scene) {
			s.TDX10()
			s.Header[0], s.BodyHead = 5, []byte{2, 0, 0x48, 2, 0, 0}
		}, func(c attest.Claims) bool { return c.TDX.Version == 5 && !c.TDX.TD15 }},
		{"B49 debug", func(s *scene) { s.Body[120] = 1 }, func(c attest.Claims) bool { return c.TDX.Debug }},
		{"every field at its place", func(s *scene) {
			for at, b := range map[int]byte{183: 2, 184: 3, 231: 4, 232: 5, 279: 6, 280: 7, 327: 8, 600: 9, 647: 10, 63: 11, 127: 12, 135: 13} {
				s.Body[at] = b
			}
		}, func(c attest.Claims) bool {
			d := c.TDX
			return d.MRTD[47] == 2 && d.MRConfigID[0] == 3 && d.MRConfigID[47] == 4 && d.MROwner[0] == 5 && d.MROwner[47] == 6 &&
				d.MROwnerConfig[0] == 7 && d.MROwnerConfig[47] == 8 && d.MRServiceTD[0] == 9 && d.MRServiceTD[47] == 10 &&
				d.MRSEAM[47] == 11 && d.TDAttributes[7] == 12 && d.XFAM[7] == 13
		}},
		{"a log", logged(func(l []byte) []byte { return l }), func(c attest.Claims) bool { return c.TDX.EventLog }},
		{"a log in its table", logged(func(l []byte) []byte { return append(l, 0xff) }), func(c attest.Claims) bool { return c.TDX.EventLog }},
		{
			"a log that is held here is of nobody", func(s *scene) { s.Held = attest.Collateral{{Kind: attest.KindEventLog, Bytes: []byte("x")}} },
			func(c attest.Claims) bool { return !c.TDX.EventLog },
		},
	} {
		t.Run(a.name, func(t *testing.T) {
			s := dcaptest.NewTDX()
			a.make(s)
			claims, err := newVerifier(t).Verify(t.Context(), s.Evidence(), s.Binding, s.Now, s.Held)
			if err != nil {
				t.Fatal(err)
			}
			if !a.holds(claims) {
				t.Errorf("claims %+v, TDX %+v", claims, claims.TDX)
			}
		})
	}
}
