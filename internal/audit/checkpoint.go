package audit

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"consilium.dev/internal/ledger"
	"consilium.dev/internal/witness"
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

// cosigned counts the witnesses that have cosigned the checkpoint, each with a key that its member's identity key endorsed for that
// instant. Where the newest manifest names witnesses, a quorum of them must have.
func (a *auditor) cosigned() {
	m, r, checkpoint := a.manifest, a.report, a.checkpoint
	names, quorum := m.Quorum()
	r.Quorum, r.Witnesses = quorum, len(names)
	if quorum == 0 {
		return
	}
	text, err := read(filepath.Join(a.folder, cosignedFile), witness.MaxCosigned)
	var c witness.Cosigned
	if err == nil {
		c, err = witness.DecodeCosigned(text)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		a.find(-1, "%s: %v", cosignedFile, err)
	case c.Checkpoint != checkpoint:
		a.find(-1, "%s is about another checkpoint than the copy's", cosignedFile)
		c.Cosignatures = nil
	}
	for _, x := range c.Cosignatures {
		if err := a.witnessed(x, witness.Text([]byte(checkpoint))); err != nil {
			a.find(-1, "%s: %v", cosignedFile, err)
		}
	}
	slices.Sort(r.Cosigned)
	if len(r.Cosigned) < quorum {
		a.find(-1, "%d of the %d witnesses that are needed have cosigned the checkpoint: there may be another history", len(r.Cosigned), quorum)
	}
}

func (a *auditor) witnessed(c witness.Cosignature, text []byte) error {
	m, ok := a.manifest.Member(c.Member)
	switch {
	case !ok || !a.manifest.IsWitness(c.Member):
		return fmt.Errorf("%.64q is no witness of this federation", c.Member)
	case slices.Contains(a.report.Cosigned, c.Member):
		return fmt.Errorf("%s stands there twice", c.Member)
	}
	if _, err := c.Check(a.manifest.Federation(), m.Identity, text); err != nil {
		return fmt.Errorf("%s: %w", c.Member, err)
	}
	a.report.Cosigned = append(a.report.Cosigned, c.Member)
	return nil
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
