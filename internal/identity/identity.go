// Package identity makes and opens the Ed25519 keys by which members, coordinators and people are known: governance keys,
// identity keys and people's keys of the manifest. A key is named by a URI, so that a configuration need not change its form
// when a key moves from a file into a key store.
//
// Its file form is PEM, "PRIVATE KEY" (PKCS #8, RFC 8410), mode 0600. Its public form in a manifest is base64 of PKIX DER.
package identity

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"consilium.dev/internal/keyfile"
)

const pemType = "PRIVATE KEY"

// Create makes a key, writes it to path and returns its public half. A file that is there already is left as it is, and the
// error is fs.ErrExist.
func Create(path string) (ed25519.PublicKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	defer clear(private)
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	defer clear(der)
	text := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})
	defer clear(text)
	return public, keyfile.Create(path, text)
}

// Open returns the key that uri names. Its Public is an ed25519.PublicKey. The schemes are:
//
//	file:PATH    the PEM file at PATH, which nobody but its owner may read
//
// A missing file is fs.ErrNotExist. No error repeats what stands in the file.
func Open(uri string) (crypto.Signer, error) {
	path, ok := strings.CutPrefix(uri, "file:")
	if !ok || path == "" {
		return nil, errors.New("key: want file:PATH") // not repeated: somebody may have put the key itself there
	}
	text, err := keyfile.Read(path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	key, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return key, nil
}

func parse(text []byte) (ed25519.PrivateKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != pemType || len(block.Headers) > 0 ||
		!bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN")) || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("want one PEM block %q, without headers, and nothing else", pemType)
	}
	defer clear(block.Bytes)
	found, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the PEM block holds no PKCS #8 key") // the cause could quote the key
	}
	key, ok := found.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a key of the kind %T, want Ed25519", found)
	}
	return key, nil
}

// Text returns a public key as manifests spell it: base64 of its PKIX DER.
func Text(key ed25519.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic("identity: an Ed25519 key has no PKIX form: " + err.Error())
	}
	return base64.StdEncoding.EncodeToString(der)
}
