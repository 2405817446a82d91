package aws

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
)

// A CMS EnvelopedData (RFC 5652, section 6), as KMS makes it for a recipient: one KeyTransRecipientInfo with RSAES-OAEP (RFC 3560,
// RFC 8017; SHA-256 and MGF1 with SHA-256), and AES-256-CBC (RFC 3565) over the content. It comes in BER: lengths may be
// indefinite, and the content in pieces.
//
//	ContentInfo ::= SEQUENCE { OID envelopedData, [0] SEQUENCE {
//	    version, SET OF { SEQUENCE { version, [0] subjectKeyIdentifier, SEQUENCE { OID rsaesOaep, ... }, OCTET STRING key } },
//	    SEQUENCE { OID data, SEQUENCE { OID aes256-CBC, OCTET STRING iv }, [0] IMPLICIT OCTET STRING content } } }
//
// AES-CBC authenticates nothing. What comes out is a data key, and what that opens is authenticated.

// The DER of the object identifiers' contents.
var (
	oidEnveloped = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03}
	oidData      = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01}
	oidOAEP      = []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07}
	oidAES256CBC = []byte{0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a}
)

const (
	tagOctets   = 0x04
	tagOID      = 0x06
	tagSequence = 0x30
	tagSet      = 0x31
	tagZero     = 0xa0 // [0], constructed
	tagZeroFlat = 0x80 // [0], primitive

	maxDepth    = 12
	maxEnvelope = 64 << 10
)

var errBER = errors.New("is no CMS EnvelopedData")

// element is one of BER.
type element struct {
	tag  byte
	body []byte    // of a primitive one
	sub  []element // of a constructed one
}

// parse reads one element and returns what follows it.
func parse(b []byte, depth int) (element, []byte, error) {
	if depth > maxDepth || len(b) < 2 || b[0]&0x1f == 0x1f {
		return element{}, nil, errBER
	}
	e := element{tag: b[0]}
	constructed := b[0]&0x20 != 0
	n, rest := int(b[1]), b[2:]
	switch {
	case n == 0x80: // indefinite: up to two zero bytes
		if !constructed {
			return element{}, nil, errBER
		}
		for {
			if bytes.HasPrefix(rest, []byte{0, 0}) {
				return e, rest[2:], nil
			}
			var sub element
			var err error
			if sub, rest, err = parse(rest, depth+1); err != nil {
				return element{}, nil, err
			}
			e.sub = append(e.sub, sub)
		}
	case n > 0x80:
		size := n & 0x7f
		if size > 3 || len(rest) < size {
			return element{}, nil, errBER
		}
		n = 0
		for _, c := range rest[:size] {
			n = n<<8 | int(c)
		}
		rest = rest[size:]
	}
	if n > len(rest) {
		return element{}, nil, errBER
	}
	body, rest := rest[:n], rest[n:]
	if !constructed {
		e.body = body
		return e, rest, nil
	}
	for len(body) > 0 {
		var sub element
		var err error
		if sub, body, err = parse(body, depth+1); err != nil {
			return element{}, nil, err
		}
		e.sub = append(e.sub, sub)
	}
	return e, rest, nil
}

// want returns the i-th part of e, which must be of that tag.
func (e element) want(i int, tag byte) (element, error) {
	if i >= len(e.sub) || e.sub[i].tag != tag {
		return element{}, errBER
	}
	return e.sub[i], nil
}

// path follows parts within parts: index and tag, in turns.
func (e element) path(steps ...int) (element, error) {
	var err error
	for i := 0; i+1 < len(steps) && err == nil; i += 2 {
		e, err = e.want(steps[i], byte(steps[i+1]))
	}
	return e, err
}

// octets returns the content of an octet string, whole or in pieces.
func (e element) octets() []byte {
	if e.tag&0x20 == 0 {
		return e.body
	}
	var all []byte
	for _, s := range e.sub {
		all = append(all, s.octets()...)
	}
	return all
}

// enveloped is what is taken of an envelope.
type enveloped struct{ key, iv, content []byte }

func parseEnvelope(text []byte) (enveloped, error) {
	if len(text) > maxEnvelope {
		return enveloped{}, errBER
	}
	top, rest, err := parse(text, 0)
	if err != nil || len(rest) > 0 || top.tag != tagSequence {
		return enveloped{}, errBER
	}
	kind, err1 := top.path(0, tagOID)
	data, err2 := top.path(1, tagZero, 0, tagSequence)
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(kind.body, oidEnveloped) {
		return enveloped{}, errBER
	}
	set, err := data.want(1, tagSet)
	if err != nil || len(set.sub) != 1 {
		return enveloped{}, errBER
	}
	info, err1 := set.want(0, tagSequence)
	algorithm, err2 := info.path(2, tagSequence, 0, tagOID)
	key, err3 := info.want(3, tagOctets)
	content, err4 := data.want(2, tagSequence)
	if err := errors.Join(err1, err2, err3, err4); err != nil || !bytes.Equal(algorithm.body, oidOAEP) {
		return enveloped{}, errBER
	}
	kind, err1 = content.want(0, tagOID)
	algorithm, err2 = content.path(1, tagSequence, 0, tagOID)
	iv, err3 := content.path(1, tagSequence, 1, tagOctets)
	if err := errors.Join(err1, err2, err3); err != nil || !bytes.Equal(kind.body, oidData) || !bytes.Equal(algorithm.body, oidAES256CBC) {
		return enveloped{}, errBER
	}
	if len(content.sub) != 3 || content.sub[2].tag != tagZero && content.sub[2].tag != tagZeroFlat {
		return enveloped{}, errBER
	}
	return enveloped{key.body, iv.body, content.sub[2].octets()}, nil
}

// openEnvelope returns what is in an envelope for the holder of an RSA key.
func openEnvelope(private *rsa.PrivateKey, text []byte) ([]byte, error) {
	e, err := parseEnvelope(text)
	if err != nil {
		return nil, err
	}
	key, err := rsa.DecryptOAEP(sha256.New(), nil, private, e.key, nil)
	if err != nil || len(key) != 32 {
		return nil, errors.New("was not made for this recipient")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("opening it: %w", err)
	}
	n := len(e.content)
	if len(e.iv) != aes.BlockSize || n == 0 || n%aes.BlockSize != 0 {
		return nil, errBER
	}
	out := make([]byte, n)
	cipher.NewCBCDecrypter(block, e.iv).CryptBlocks(out, e.content)
	// Padding after RFC 5652, section 6.3. Nobody can ask us twice with other bytes: each answer has an RSA key of its own.
	pad := int(out[n-1])
	if pad < 1 || pad > aes.BlockSize || !bytes.Equal(out[n-pad:], bytes.Repeat([]byte{byte(pad)}, pad)) {
		return nil, errors.New("was altered")
	}
	return out[:n-pad], nil
}
