package nitro

import (
	"bytes"
	"time"

	"github.com/fxamacker/cbor/v2"

	"consilium.dev/internal/attest"
)

// Limits of AWS's specification (Nitro Enclaves attestation process, "COSE and CBOR" and "Attestation document").
const (
	maxPayload     = 16 << 10
	maxEnvelope    = maxPayload + 1<<10
	maxBundle      = 8 // not AWS's: real bundles have four
	maxCertificate = 1 << 10
	maxModuleID    = 256 // not AWS's: real ones have 39
	registerBytes  = 48  // SHA-384
	maxRegister    = 31
)

// header is the protected header {1: -35}, ES384, in its only deterministic encoding, which is the one that the module
// writes.
var header = []byte{0xa1, 0x01, 0x38, 0x22}

// tagSign1 is the CBOR tag of a COSE_Sign1 (RFC 9052, section 2).
const tagSign1 = 18

// strictly decodes what is not signed, or decides how the rest is read; loosely decodes the payload, where the module
// writes maps of indefinite length. Neither takes a key twice.
var (
	strictly = mode(cbor.IndefLengthForbidden)
	loosely  = mode(cbor.IndefLengthAllowed)
)

func mode(indefinite cbor.IndefLengthMode) cbor.DecMode {
	m, err := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       indefinite,
		TagsMd:            cbor.TagsForbidden,
		MaxNestedLevels:   4,
		MaxArrayElements:  16,
		MaxMapPairs:       maxRegister + 1,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		UTF8:              cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode()
	if err != nil {
		panic("nitro: CBOR options contradict each other: " + err.Error())
	}
	return m
}

// envelope is a COSE_Sign1 (RFC 9052, section 4.2).
type envelope struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected cbor.RawMessage
	Payload     []byte
	Signature   []byte
}

// open reads the envelope strictly.
func open(raw []byte) (*envelope, *attest.Error) {
	if len(raw) > maxEnvelope {
		return nil, attest.Refuse(attest.ClassParse, "a document of %d bytes, want at most %d", len(raw), maxEnvelope)
	}
	body := raw
	if len(raw) > 0 && raw[0]>>5 == 6 { // a tag
		var ok bool
		if body, ok = bytes.CutPrefix(raw, []byte{6<<5 | tagSign1}); !ok {
			return nil, attest.Refuse(attest.ClassSig, "a CBOR tag that is not %d, COSE_Sign1", tagSign1)
		}
	}
	var env envelope
	if err := strictly.Unmarshal(body, &env); err != nil {
		return nil, attest.Refuse(attest.ClassParse, "not a COSE_Sign1: %v", err)
	}
	switch {
	case !bytes.Equal(env.Protected, header):
		return nil, attest.Refuse(attest.ClassSig, "the protected header is %x, want %x, ES384 and nothing else", env.Protected, header)
	case !bytes.Equal(env.Unprotected, []byte{5 << 5}): // a map of none
		return nil, attest.Refuse(attest.ClassParse, "the unprotected header is not an empty map")
	case len(env.Payload) == 0 || len(env.Payload) > maxPayload:
		return nil, attest.Refuse(attest.ClassParse, "a payload of %d bytes, want 1 to %d", len(env.Payload), maxPayload)
	case len(env.Signature) != 2*registerBytes: // two coordinates of P-384
		return nil, attest.Refuse(attest.ClassSig, "a signature of %d bytes, want 96", len(env.Signature))
	}
	// The signature does not cover how the envelope is encoded; one document shall have one form.
	if once, err := cbor.Marshal(env); err != nil || !bytes.Equal(once, body) {
		return nil, attest.Refuse(attest.ClassParse, "the envelope is not in its shortest encoding")
	}
	return &env, nil
}

// document is the payload, field by field as AWS documents it. Fields that are null or absent are nil.
type document struct {
	ModuleID    string            `cbor:"module_id"`
	Digest      string            `cbor:"digest"`
	Timestamp   uint64            `cbor:"timestamp"` // milliseconds since 1970
	PCRs        map[uint64][]byte `cbor:"pcrs"`
	Certificate []byte            `cbor:"certificate"`
	CABundle    [][]byte          `cbor:"cabundle"` // the root first
	PublicKey   []byte            `cbor:"public_key"`
	UserData    []byte            `cbor:"user_data"`
	Nonce       []byte            `cbor:"nonce"`
	registers   map[int][]byte    // PCRs, with the keys that claims have
}

// parse reads a payload strictly.
func parse(payload []byte) (*document, *attest.Error) {
	var d document
	if err := loosely.Unmarshal(payload, &d); err != nil {
		return nil, attest.Refuse(attest.ClassParse, "not an attestation document: %v", err)
	}
	if d.ModuleID == "" || len(d.ModuleID) > maxModuleID {
		return nil, attest.Refuse(attest.ClassParse, "a module_id of %d bytes, want 1 to %d", len(d.ModuleID), maxModuleID)
	}
	if d.Digest != "SHA384" {
		return nil, attest.Refuse(attest.ClassParse, "digest is %q, want \"SHA384\"", d.Digest)
	}
	if d.Timestamp == 0 || d.Timestamp > uint64(1<<53) { // beyond which milliseconds are nobody's clock
		return nil, attest.Refuse(attest.ClassParse, "timestamp is %d", d.Timestamp)
	}
	d.registers = make(map[int][]byte, len(d.PCRs))
	for index, value := range d.PCRs {
		if index > maxRegister || len(value) != registerBytes {
			return nil, attest.Refuse(attest.ClassParse, "PCR%d of %d bytes, want PCR0 to PCR%d of %d", index, len(value),
				maxRegister, registerBytes)
		}
		d.registers[int(index)] = value
	}
	for index := range 3 { // without them nobody can tell debug mode
		if d.registers[index] == nil {
			return nil, attest.Refuse(attest.ClassParse, "there is no PCR%d", index)
		}
	}
	return &d, nil
}

// made returns when the module made the document, by its clock.
func (d *document) made() time.Time { return time.UnixMilli(int64(d.Timestamp)).UTC() }

// debug reports whether the enclave runs in debug mode, in which the hypervisor measures nothing.
func (d *document) debug() bool {
	for index := range 3 {
		if !bytes.Equal(d.registers[index], make([]byte, registerBytes)) {
			return false
		}
	}
	return true
}
