package transport

import (
	"encoding/binary"
	"fmt"
	"slices"

	"consilium.dev/internal/attest"
)

const version = 1

// side is which end of the connection speaks.
type side uint8

const (
	clientSide side = 1
	serverSide side = 2
)

// other returns the opposite side.
func (s side) other() side { return clientSide + serverSide - s }

// hello is the body of HELLO_C and HELLO_S. All fields are lp, in this order:
//
//	version    u16, 1
//	side       u8, 1 client, 2 server
//	office     u8
//	nonce      32 bytes
//	federation
//	manifest   32 bytes, digest
//	epoch      u64
//	own name
//	peer name
//	types      u8 each, ascending
type hello struct {
	side       side
	office     attest.Office
	nonce      [32]byte
	federation string
	manifest   [32]byte
	epoch      uint64
	own, peer  string
	types      []attest.Type
}

func (h hello) encode() []byte {
	b := appendLP(nil, binary.BigEndian.AppendUint16(nil, version))
	b = appendLP(b, []byte{byte(h.side)})
	b = appendLP(b, []byte{byte(h.office)})
	b = appendLP(b, h.nonce[:])
	b = appendLP(b, []byte(h.federation))
	b = appendLP(b, h.manifest[:])
	b = appendLP(b, binary.BigEndian.AppendUint64(nil, h.epoch))
	b = appendLP(b, []byte(h.own))
	b = appendLP(b, []byte(h.peer))
	types := make([]byte, len(h.types))
	for i, t := range h.types {
		types[i] = byte(t)
	}
	return appendLP(b, types)
}

// parseHello reads a hello strictly: every field, exact widths, nothing after. What it accepts, encode gives back.
func parseHello(body []byte) (hello, error) {
	c := cursor{rest: body}
	v := binary.BigEndian.Uint16(c.fixed(2))
	h := hello{side: side(c.fixed(1)[0]), office: attest.Office(c.fixed(1)[0])}
	copy(h.nonce[:], c.fixed(32))
	h.federation = string(c.lp())
	copy(h.manifest[:], c.fixed(32))
	h.epoch = binary.BigEndian.Uint64(c.fixed(8))
	h.own, h.peer = string(c.lp()), string(c.lp())
	for _, t := range c.lp() {
		h.types = append(h.types, attest.Type(t))
	}
	switch {
	case c.short:
		return hello{}, attest.Refuse(attest.ClassParse, "hello: a field is cut off or of the wrong width")
	case len(c.rest) != 0:
		return hello{}, attest.Refuse(attest.ClassParse, "hello: %d bytes after the last field", len(c.rest))
	case v != version:
		return hello{}, attest.Refuse(attest.ClassParse, "hello: version %d, want %d", v, version)
	case !validName(h.federation) || !validName(h.own) || !validName(h.peer):
		return hello{}, attest.Refuse(attest.ClassParse, "hello: a name is not 1 to 63 of a-z, 0-9 and -")
	}
	if err := checkTypes(h.types); err != nil {
		return hello{}, attest.Refuse(attest.ClassParse, "hello: %w", err)
	}
	return h, nil
}

// checkTypes refuses a list of evidence types that is empty or not strictly ascending.
func checkTypes(types []attest.Type) error {
	if len(types) == 0 {
		return fmt.Errorf("no evidence types")
	}
	for i, t := range types {
		if t == 0 || i > 0 && t <= types[i-1] {
			return fmt.Errorf("evidence types %v are not ascending", types)
		}
	}
	return nil
}

// allowedTypes refuses what a peer wants to show, unless it is one of the sets that the manifest allows its office. People
// show a signature and nothing else; nobody else may.
func allowedTypes(p attest.Policy, o attest.Office, types []attest.Type) error {
	if o == attest.Person {
		if slices.Equal(types, []attest.Type{attest.Signature}) {
			return nil
		}
		return attest.Refuse(attest.ClassPlat, "a person shows %v, want a signature and nothing else", types)
	}
	if slices.Contains(types, attest.Signature) {
		return attest.Refuse(attest.ClassPlat, "a %v shows a signature in place of evidence", o)
	}
	for _, set := range p.Types(o) {
		if slices.Equal(types, set) {
			return nil
		}
	}
	return attest.Refuse(attest.ClassPlat, "evidence types %v are no set that the manifest allows a %v", types, o)
}
