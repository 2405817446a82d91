package nitro

import (
	"crypto/sha256"
	"time"

	"consilium.dev/internal/attest"
)

// Fields are what a document may carry for whoever asked for it; nil where it must be absent.
type Fields struct{ Nonce, UserData, PublicKey []byte }

// VerifyFields judges as Verify does, but by fields of any length, of which some may be absent: real documents that can be
// published were made for other protocols than ours, and fit no Binding.
func (v *Verifier) VerifyFields(raw []byte, f Fields, now time.Time) (attest.Claims, error) {
	claims, doc, err := v.genuine(raw, now)
	if err != nil {
		return attest.Claims{}, err
	}
	for _, field := range []struct {
		name      string
		got, want []byte
	}{
		{"nonce", doc.Nonce, f.Nonce}, {"user_data", doc.UserData, f.UserData}, {"public_key", doc.PublicKey, f.PublicKey},
	} {
		if field.want == nil && field.got == nil {
			continue
		}
		if err := equal(field.name, field.got, field.want); err != nil {
			return attest.Claims{}, err
		}
	}
	return claims, nil
}

// PublicKey returns the document's public_key: collections of real documents tell its length only.
func PublicKey(raw []byte) []byte {
	env, err := open(raw)
	if err != nil {
		return nil
	}
	doc, err := parse(env.Payload)
	if err != nil {
		return nil
	}
	return doc.PublicKey
}

// Genuine judges everything but the binding.
func (v *Verifier) Genuine(raw []byte, now time.Time) (attest.Claims, error) {
	claims, _, err := v.genuine(raw, now)
	if err != nil {
		return attest.Claims{}, err
	}
	return claims, nil
}

// Made returns when a document says it was made, and the digest of its payload, without judging it.
func Made(raw []byte) (time.Time, [32]byte, error) {
	env, err := open(raw)
	if err != nil {
		return time.Time{}, [32]byte{}, err
	}
	doc, err := parse(env.Payload)
	if err != nil {
		return time.Time{}, [32]byte{}, err
	}
	return doc.made(), sha256.Sum256(env.Payload), nil
}
