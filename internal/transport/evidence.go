package transport

import (
	"consilium.dev/internal/attest"
)

// An EVIDENCE body is, for each type of the hello, in its order:
//
//	lp(type u8) lp(evidence) lp(collateral)
//
// and collateral is zero or more of lp(kind u8) lp(bytes).

// isDevice reports whether t is evidence of an attached device.
func isDevice(t attest.Type) bool { return t >= 32 && t <= 63 }

// evidenceLimit returns the most bytes that an EVIDENCE body of these types may have: the sum of the caps of its types.
// Devices raise it to a frame's limit. A token, which the specification gives no cap of its own, may have 32 KiB.
func evidenceLimit(types []attest.Type) int {
	n := 0
	for _, t := range types {
		switch {
		case isDevice(t):
			return maxBody
		case t == attest.SEVSNP:
			n += 16 << 10
		case t == attest.Nitro:
			n += 24 << 10
		case t == attest.CCA, t == attest.MAA, t == attest.ITA, t == attest.NRAS:
			n += 32 << 10
		case t == attest.TDX, t == attest.SGX:
			n += 160 << 10
		case t >= attest.AzureSNP && t <= attest.ConfidentialSpace:
			n += 192 << 10
		case t == attest.Signature:
			n += 1 << 10
		}
	}
	return min(n, maxBody)
}

func encodeEvidence(all []attest.Evidence) []byte {
	var b []byte
	for _, e := range all {
		b = appendLP(b, []byte{byte(e.Type)})
		b = appendLP(b, e.Body)
		b = appendLP(b, encodeCollateral(e.Collateral))
	}
	return b
}

func encodeCollateral(c attest.Collateral) []byte {
	var b []byte
	for _, i := range c {
		b = appendLP(b, []byte{byte(i.Kind)})
		b = appendLP(b, i.Bytes)
	}
	return b
}

// parseEvidence reads an EVIDENCE body strictly: exactly the types, in their order, and nothing after.
func parseEvidence(body []byte, types []attest.Type) ([]attest.Evidence, error) {
	c := cursor{rest: body}
	var all []attest.Evidence
	for _, want := range types {
		t := attest.Type(c.fixed(1)[0])
		e := attest.Evidence{Type: want, Body: c.lp()}
		items, err := parseCollateral(c.lp())
		switch {
		case c.short:
			return nil, attest.Refuse(attest.ClassParse, "evidence of type %v is cut off", want)
		case t != want:
			return nil, attest.Refuse(attest.ClassParse, "evidence of type %v where the hello announced %v", t, want)
		case err != nil:
			return nil, err
		}
		e.Collateral = items
		all = append(all, e)
	}
	if len(c.rest) != 0 {
		return nil, attest.Refuse(attest.ClassParse, "%d bytes after the evidence", len(c.rest))
	}
	return all, nil
}

func parseCollateral(b []byte) (attest.Collateral, error) {
	c := cursor{rest: b}
	var items attest.Collateral
	for len(c.rest) > 0 && !c.short {
		i := attest.Item{Kind: attest.Kind(c.fixed(1)[0]), Bytes: c.lp()}
		if c.short {
			break
		}
		if i.Kind < attest.KindCertificate || i.Kind > attest.KindToken {
			return nil, attest.Refuse(attest.ClassParse, "collateral of kind %d, which does not exist", i.Kind)
		}
		items = append(items, i)
	}
	if c.short {
		return nil, attest.Refuse(attest.ClassParse, "collateral is cut off")
	}
	return items, nil
}

// boundKind reports whether evidence covers collateral of this kind, which without it could be exchanged: event logs and
// initdata.
func boundKind(k attest.Kind) bool { return k == attest.KindEventLog || k == attest.KindInitdata }

// deviceBundle returns what the device digest in the report data is taken over: lp(type) lp(evidence) of each device, then
// lp(kind) lp(bytes) of each event log and initdata, in the order of the EVIDENCE frame.
func deviceBundle(all []attest.Evidence) []byte {
	var b []byte
	for _, e := range all {
		if isDevice(e.Type) {
			b = appendLP(b, []byte{byte(e.Type)})
			b = appendLP(b, e.Body)
		}
	}
	for _, e := range all {
		for _, i := range e.Collateral {
			if boundKind(i.Kind) {
				b = appendLP(b, []byte{byte(i.Kind)})
				b = appendLP(b, i.Bytes)
			}
		}
	}
	return b
}
