package entry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// keptSchema names the form of a [Kept]. Fields are added, never renamed or given a new meaning.
const keptSchema = "consilium.evidence/1"

// MaxKept is the most bytes that an encoded [Kept] may have.
const MaxKept = 8 << 20

// Kept is all that somebody needs to judge the evidence of an admission or a boot again, years later: what was shown, what it
// had to be bound to, and what the appraisal said. It rests as JSON in a sealed blob that the fact names.
type Kept struct {
	Schema     string         `json:"schema"`
	Evidence   []KeptEvidence `json:"evidence"`
	Preimage   []byte         `json:"preimage"`    // what the report data are the SHA-512 of
	ReportData []byte         `json:"report_data"` // 64 bytes
	Nonce      []byte         `json:"nonce,omitempty"`
	SPKI       []byte         `json:"spki,omitempty"` // the attester's key, PKIX DER
	Leaf       []byte         `json:"leaf,omitempty"` // the certificate by which an identity key endorsed it, DER
	Sets       []string       `json:"sets"`           // reference sets of the manifest that it matched
	Any        []string       `json:"any,omitempty"`  // fields that were not judged, with reasons
}

// KeptEvidence is one piece of evidence in its platform's own format, with the collateral that it was judged with.
type KeptEvidence struct {
	Type       string           `json:"type"` // as manifests spell it
	Body       []byte           `json:"body"`
	Collateral []KeptCollateral `json:"collateral,omitempty"`
}

// KeptCollateral is one piece of collateral.
type KeptCollateral struct {
	Kind  uint8  `json:"kind"` // as the channel numbers it
	Bytes []byte `json:"bytes"`
}

// Encode returns the JSON of k, with its schema set.
func (k Kept) Encode() []byte {
	k.Schema = keptSchema
	text, err := json.Marshal(k)
	if err != nil {
		panic("entry: kept evidence has no JSON: " + err.Error())
	}
	return text
}

// DecodeKept reads what Encode wrote, and nothing else.
func DecodeKept(text []byte) (Kept, error) {
	var k Kept
	if len(text) > MaxKept {
		return k, fmt.Errorf("kept evidence has %d bytes, at most %d are allowed", len(text), MaxKept)
	}
	if err := unmarshal(text, &k); err != nil {
		return k, fmt.Errorf("kept evidence: %w", err)
	}
	if k.Schema != keptSchema {
		return k, fmt.Errorf("kept evidence has the schema %.64q, want %q", k.Schema, keptSchema)
	}
	if !bytes.Equal(k.Encode(), text) { // a doubled key, or whatever follows
		return k, errors.New("kept evidence holds more than it says")
	}
	return k, nil
}
