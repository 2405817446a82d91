package transport

import (
	"encoding/binary"
	"errors"
	"fmt"

	"consilium.dev/internal/attest"
)

// Session is what the report data of a session's evidence were made of, read back from their preimage, so that evidence
// which was kept can be judged again long after its session.
type Session struct {
	Dialled    bool // the attester was the client
	Office     attest.Office
	Epoch      uint64
	Attester   string
	Verifier   string
	Federation string
	Manifest   [32]byte
	SPKI       [32]byte // SHA-256 of the attester's leaf key
	PeerSPKI   [32]byte // SHA-256 of the verifier's
	Nonce      [32]byte // the verifier's
}

// ParsePreimage reads the preimage of a session's report data. It accepts only what this version of the channel hashes: a
// side, an office and names that there are, the sequence number 0, and nothing beyond the last field.
func ParsePreimage(b []byte) (Session, error) {
	c := cursor{rest: b}
	label, who := c.lp(), c.fixed(18)
	c.fixed(32) // exporter value
	c.fixed(32) // transcript
	s := Session{SPKI: [32]byte(c.fixed(32)), PeerSPKI: [32]byte(c.fixed(32))}
	s.Nonce = [32]byte(c.fixed(32))
	c.fixed(32) // the attester's nonce
	s.Federation, s.Attester, s.Verifier = string(c.lp()), string(c.lp()), string(c.lp())
	s.Manifest = [32]byte(c.fixed(32))
	c.fixed(48) // devices
	from := side(who[0])
	s.Dialled, s.Office, s.Epoch = from == clientSide, attest.Office(who[1]), binary.BigEndian.Uint64(who[2:])
	switch {
	case string(label) != labelReport:
		return Session{}, errors.New("transport: not the preimage of a session's report data: its label is another")
	case c.short || len(c.rest) != 0:
		return Session{}, errors.New("transport: preimage of report data: a field is cut off, of the wrong width, or too many")
	case from != clientSide && from != serverSide, s.Office < attest.Coordinator, s.Office > attest.Person:
		return Session{}, fmt.Errorf("transport: preimage of report data: there is no side %d, or no %v", from, s.Office)
	case binary.BigEndian.Uint64(who[10:]) != 0:
		return Session{}, errors.New("transport: preimage of report data: sequence number is not 0")
	case !validName(s.Federation) || !validName(s.Attester) || !validName(s.Verifier):
		return Session{}, errors.New("transport: preimage of report data: a name is not 1 to 63 of a-z, 0-9 and -")
	}
	return s, nil
}
