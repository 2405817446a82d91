package audit

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"consilium.dev/internal/ledger"
)

// openCheckpoint returns what a checkpoint says that the log's key has signed, and refuses anything that stands in it and is
// not signed: another signature, or another spelling of this one. Who compares two checkpoints compares all of their bytes.
func openCheckpoint(signed []byte, verifier string) (ledger.Checkpoint, error) {
	c, err := ledger.OpenCheckpoint(signed, verifier)
	if err != nil {
		return c, err
	}
	_, signature, _ := strings.Cut(string(signed), "\n\n")
	text, ok := strings.CutPrefix(signature, "\u2014 "+c.Origin+" ")
	text, newline := strings.CutSuffix(text, "\n")
	if _, err := base64.StdEncoding.Strict().DecodeString(text); err != nil || !ok || !newline || strings.ContainsAny(text, "\r\n") {
		return c, errors.New("the checkpoint holds more than what the log's key has signed")
	}
	return c, nil
}

// spkiOf returns the public key of a C2SP verifier key, NAME+HASH+KEY with an Ed25519 key, as PKIX DER.
func spkiOf(verifier string) ([]byte, error) {
	_, text, _ := strings.Cut(verifier, "+")
	_, text, _ = strings.Cut(text, "+")
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != 1+ed25519.PublicKeySize || b[0] != 1 {
		return nil, errors.New("the log's verifier key is no Ed25519 key")
	}
	spki, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(b[1:]))
	if err != nil {
		return nil, fmt.Errorf("the log's verifier key: %w", err)
	}
	return spki, nil
}
