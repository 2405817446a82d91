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
	Nonce      [32]byte // the verifier's
}

// ParsePreimage reads the preimage of a session's report data. It accepts only what this version of the channel hashes.
func ParsePreimage(b []byte) (Session, error) {
	var s Session
	fields := make([][]byte, 0, 13)
	for len(b) > 0 {
		if len(b) < 4 || uint64(len(b)-4) < uint64(binary.BigEndian.Uint32(b)) || len(fields) == cap(fields) {
			return s, errors.New("preimage of the report data does not divide into its fields")
		}
		n := binary.BigEndian.Uint32(b)
		fields = append(fields, b[4:4+n])
		b = b[4+n:]
	}
	sizes := [...]int{len(labelReport), 18, 32, 32, 32, 32, 32, 32, -1, -1, -1, 32, 48}
	if len(fields) != len(sizes) {
		return s, fmt.Errorf("preimage of the report data has %d fields, want %d", len(fields), len(sizes))
	}
	for i, want := range sizes {
		if want >= 0 && len(fields[i]) != want {
			return s, fmt.Errorf("field %d of the report data's preimage has %d bytes, want %d", i, len(fields[i]), want)
		}
	}
	if string(fields[0]) != labelReport {
		return s, errors.New("preimage is not that of a session's report data")
	}
	who := fields[1]
	s.Dialled, s.Office, s.Epoch = side(who[0]) == clientSide, attest.Office(who[1]), binary.BigEndian.Uint64(who[2:])
	s.SPKI, s.Nonce = [32]byte(fields[4]), [32]byte(fields[6])
	s.Federation, s.Attester, s.Verifier = string(fields[8]), string(fields[9]), string(fields[10])
	s.Manifest = [32]byte(fields[11])
	return s, nil
}
