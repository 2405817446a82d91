package simulated

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"time"

	"github.com/fxamacker/cbor/v2"

	"consilium.dev/internal/attest"
)

// NitroSpec says what a simulated Nitro enclave is like. The zero NitroSpec is a good one, as the fields' defaults say.
type NitroSpec struct {
	// PCRs are the registers, 48 bytes each, 0 to 31. Default of 0, 1 and 2: as DefaultPCRs says; of 3 to 15: zeros.
	// PCRs 0 to 2 of zeros are an enclave in debug mode.
	PCRs     map[int][]byte
	ModuleID string // default: random, in AWS's form
}

// DefaultPCRs returns the registers 0, 1 and 2 of an enclave whose spec names none: SHA-384 of "consilium simulated nitro
// PCR0" and so on.
func DefaultPCRs() map[int][]byte {
	pcrs := map[int][]byte{}
	for index := range 3 {
		digest := sha512.Sum384(fmt.Appendf(nil, "consilium simulated nitro PCR%d", index))
		pcrs[index] = digest[:]
	}
	return pcrs
}

// nitroMachine is an enclave and the part of its host that signs for it.
type nitroMachine struct {
	root   string
	module string
	pcrs   map[int][]byte
	bundle []*x509.Certificate // root, region, zone, instance, as AWS has them
	key    *ecdsa.PrivateKey   // the instance's
}

// Nitro makes a machine with one enclave.
func (r *Root) Nitro(s NitroSpec) (*Machine, error) {
	m := &nitroMachine{root: r.name, module: s.ModuleID, pcrs: DefaultPCRs(), bundle: []*x509.Certificate{r.nitro}, key: r.nitroKey}
	for index := 3; index < 16; index++ {
		m.pcrs[index] = make([]byte, sha512.Size384)
	}
	for index, value := range s.PCRs {
		if index < 0 || index > 31 || len(value) != sha512.Size384 {
			return nil, fmt.Errorf("PCR%d of %d bytes: want PCR0 to PCR31 of %d", index, len(value), sha512.Size384)
		}
		m.pcrs[index] = append([]byte(nil), value...)
	}
	if m.module == "" {
		var chance [18]byte
		rand.Read(chance[:]) // cannot fail
		digits := hex.EncodeToString(chance[:])
		m.module = "i-" + digits[:17] + "-enc" + digits[17:33]
	}
	if len(m.module) > 256 {
		return nil, fmt.Errorf("a module id of %d bytes: want at most 256", len(m.module))
	}
	for _, name := range []string{"region", "zone", "instance"} {
		if err := m.descend(r.name, name+".simulated.aws.nitro-enclaves"); err != nil {
			return nil, err
		}
	}
	return &Machine{root: r.name, nitro: m}, nil
}

// descend makes the next authority below the bundle's last, down to the instance, which is the fourth.
func (m *nitroMachine) descend(root, name string) error {
	above := m.bundle[len(m.bundle)-1]
	next := aws(root, name, above.NotBefore)
	next.IsCA, next.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	next.MaxPathLen = 3 - len(m.bundle)
	next.MaxPathLenZero = next.MaxPathLen == 0
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making the key of %s: %w", name, err)
	}
	cert, err := sign(next, above, &key.PublicKey, m.key)
	if err != nil {
		return err
	}
	m.bundle, m.key = append(m.bundle, cert), key
	return nil
}

// How a document's own certificate stands to the instant at which it is made: as with AWS.
const (
	leafBefore   = 3 * time.Second
	leafLifetime = 3 * time.Hour
)

// document is the payload of an attestation document, with AWS's names in AWS's order.
type document struct {
	ModuleID    string         `cbor:"module_id"`
	Digest      string         `cbor:"digest"`
	Timestamp   uint64         `cbor:"timestamp"`
	PCRs        map[int][]byte `cbor:"pcrs"`
	Certificate []byte         `cbor:"certificate"`
	CABundle    [][]byte       `cbor:"cabundle"`
	PublicKey   []byte         `cbor:"public_key"`
	UserData    []byte         `cbor:"user_data"`
	Nonce       []byte         `cbor:"nonce"`
}

// attest returns a document that carries b, made at the instant now.
func (m *nitroMachine) attest(b attest.Binding, now time.Time) (attest.Evidence, error) {
	if len(b.SPKI) < 1 || len(b.SPKI) > 1024 {
		return attest.Evidence{}, fmt.Errorf("a public key of %d bytes: a Nitro document takes 1 to 1024", len(b.SPKI))
	}
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("making a document's key: %w", err)
	}
	instance := m.bundle[len(m.bundle)-1]
	leaf := aws(m.root, m.module[:min(len(m.module), 64)], now.Add(-leafBefore))
	leaf.NotAfter, leaf.KeyUsage = now.Add(leafLifetime), x509.KeyUsageDigitalSignature
	cert, err := sign(leaf, instance, &key.PublicKey, m.key)
	if err != nil {
		return attest.Evidence{}, err
	}
	d := document{
		ModuleID: m.module, Digest: "SHA384", Timestamp: uint64(now.UnixMilli()), PCRs: maps.Clone(m.pcrs),
		Certificate: cert.Raw, PublicKey: b.SPKI, UserData: b.ReportData[:], Nonce: b.Nonce[:],
	}
	for _, c := range m.bundle {
		d.CABundle = append(d.CABundle, c.Raw)
	}
	body, err := cose(d, key)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("signing a simulated document: %w", err)
	}
	return attest.Evidence{Type: attest.Nitro, Body: body}, nil
}

// cose signs a document as a COSE_Sign1, without a tag, by ES384 (RFC 9052, sections 4.2 and 4.4).
func cose(d document, key *ecdsa.PrivateKey) ([]byte, error) {
	payload, err := cbor.Marshal(d)
	if err != nil {
		return nil, err
	}
	protected := []byte{0xa1, 0x01, 0x38, 0x22} // {1: -35}
	signed, err := cbor.Marshal([]any{"Signature1", protected, []byte{}, payload})
	if err != nil {
		return nil, err
	}
	digest := sha512.Sum384(signed)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	signature := make([]byte, 96)
	r.FillBytes(signature[:48])
	s.FillBytes(signature[48:])
	return cbor.Marshal([]any{protected, map[int]int{}, payload, signature})
}
