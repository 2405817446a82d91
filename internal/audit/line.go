package audit

import (
	"bytes"
	"encoding/json"
	"fmt"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
)

const (
	lineSchema = "consilium.line/1"
	// maxProof is the most hashes of a proof: a log of 2^63 lines has no longer one.
	maxProof = 63
)

// Line is one line of a log with all that a third party needs to see that it is in the log, but for the log's key. Who gets it
// learns nothing of the other lines: their hashes are salted.
type Line struct {
	Schema     string   `json:"schema"`     // "consilium.line/1"
	Checkpoint string   `json:"checkpoint"` // the signed note
	Number     int64    `json:"number"`     // of the line, from 0
	Line       string   `json:"line"`       // as it was hashed
	Proof      [][]byte `json:"proof"`      // RFC 6962, section 2.1.1
}

// NewLine returns the line with its proof, for [Line.Encode]. Whether it holds is for [OpenLine] to say.
func NewLine(signed []byte, number int64, line []byte, proof [][32]byte) Line {
	l := Line{Schema: lineSchema, Checkpoint: string(signed), Number: number, Line: string(line), Proof: [][]byte{}}
	for _, h := range proof {
		l.Proof = append(l.Proof, bytes.Clone(h[:]))
	}
	return l
}

// Encode returns the file's content: JSON, indented, with a newline at its end.
func (l Line) Encode() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(l); err != nil {
		panic("audit: a line has no JSON: " + err.Error()) // text, numbers and bytes always have
	}
	return b.Bytes()
}

// OpenLine returns what a line's file shows, once it has shown it: that the log with this verifier key holds that line at that
// number, as of the checkpoint. It accepts what Encode writes and nothing else, so that no two readers see two things in it.
func OpenLine(text []byte, key string) (Line, ledger.Checkpoint, error) {
	var l Line
	if err := json.Unmarshal(text, &l); err != nil {
		return Line{}, ledger.Checkpoint{}, fmt.Errorf("not a line with its proof: %w", err)
	}
	if l.Schema != lineSchema || len(l.Proof) > maxProof || !bytes.Equal(l.Encode(), text) {
		return Line{}, ledger.Checkpoint{}, fmt.Errorf("not a line as %s has it", lineSchema)
	}
	proof := make([][32]byte, len(l.Proof))
	for i, h := range l.Proof {
		if len(h) != 32 {
			return Line{}, ledger.Checkpoint{}, fmt.Errorf("hash %d of the proof has %d bytes, want 32", i, len(h))
		}
		proof[i] = [32]byte(h)
	}
	c, err := openCheckpoint([]byte(l.Checkpoint), key)
	if err != nil {
		return Line{}, ledger.Checkpoint{}, err
	}
	if err := c.CheckInclusion(l.Number, []byte(l.Line), proof); err != nil {
		return Line{}, ledger.Checkpoint{}, err
	}
	if _, err := entry.Decode([]byte(l.Line)); err != nil {
		return Line{}, ledger.Checkpoint{}, fmt.Errorf("line %d: %w", l.Number, err)
	}
	return l, c, nil
}
