package measure

import (
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/fxamacker/cbor/v2"
)

// Limits and constants of the enclave image format (github.com/aws/aws-nitro-enclaves-image-format, "defs"), versions 2 to 4.
const (
	eifHeader   = 548
	eifSections = 32
	eifPart     = 12 // a section's header: u16 kind, u16 flags, u64 length (big-endian, as all of it)

	eifKernel    = 1
	eifCmdline   = 2
	eifRamdisk   = 3
	eifSignature = 4
	eifMetadata  = 5
)

// EIF returns the registers that the hypervisor gives to an enclave of an image file (AWS, "Where to get an enclave's
// measurements"):
//
//	PCR0  the image: kernel, command line, all ramdisks
//	PCR1  kernel, command line and first ramdisk, which start the enclave
//	PCR2  the other ramdisks, the application
//	PCR8  the certificate that signed the image; absent where it is not signed
//
// The signature itself is not checked: Nitro refuses to start an image whose signature is wrong.
func EIF(image []byte) (map[int][48]byte, error) {
	if len(image) < eifHeader || string(image[:4]) != ".eif" {
		return nil, errors.New("not an enclave image file: it does not begin with .eif and a header of 548 bytes")
	}
	version, count := binary.BigEndian.Uint16(image[4:]), int(binary.BigEndian.Uint16(image[26:]))
	if version < 2 || version > 4 || count == 0 || count > eifSections {
		return nil, fmt.Errorf("an enclave image of version %d with %d sections, want version 2 to 4 and 1 to %d", version, count, eifSections)
	}
	// The checksum covers everything but itself, the last field of the header.
	sum := crc32.Update(crc32.ChecksumIEEE(image[:eifHeader-4]), crc32.IEEETable, image[eifHeader:])
	if want := binary.BigEndian.Uint32(image[eifHeader-4:]); sum != want {
		return nil, fmt.Errorf("the enclave image is damaged: its checksum is %#08x, its header says %#08x", sum, want)
	}
	all, start, application := sha512.New384(), sha512.New384(), sha512.New384() // writing to them cannot fail
	var certificate []byte
	hasKernel, ramdisks, signed := false, 0, false
	at := eifHeader
	for n := range count {
		kind, body, err := eifSection(image, at, n)
		if err != nil {
			return nil, err
		}
		at += eifPart + len(body)
		switch kind {
		case eifKernel, eifCmdline:
			hasKernel = hasKernel || kind == eifKernel
			all.Write(body)
			start.Write(body)
		case eifRamdisk:
			all.Write(body)
			if ramdisks++; ramdisks == 1 {
				start.Write(body)
			} else {
				application.Write(body)
			}
		case eifSignature:
			if signed {
				return nil, errors.New("the enclave image has two signatures")
			}
			signed = true
			if certificate, err = eifCertificate(body); err != nil {
				return nil, err
			}
		case eifMetadata: // not measured
		default:
			return nil, fmt.Errorf("section %d of the enclave image has the kind %d, which is unknown here", n, kind)
		}
	}
	if at != len(image) || !hasKernel || ramdisks == 0 {
		return nil, fmt.Errorf("the enclave image has %d bytes behind its sections, %d ramdisks, a kernel: %t", len(image)-at, ramdisks, hasKernel)
	}
	registers := map[int][48]byte{0: extended(all.Sum(nil)), 1: extended(start.Sum(nil)), 2: extended(application.Sum(nil))}
	if signed {
		sum := sha512.Sum384(certificate)
		registers[8] = extended(sum[:])
	}
	return registers, nil
}

// eifSection returns the section at an offset, which must be where the header says that section n lies, and as long.
func eifSection(image []byte, at, n int) (kind uint16, body []byte, err error) {
	if len(image)-at < eifPart {
		return 0, nil, fmt.Errorf("the enclave image ends before its section %d", n)
	}
	size := binary.BigEndian.Uint64(image[at+4:])
	if size > uint64(len(image)-at-eifPart) {
		return 0, nil, fmt.Errorf("section %d of the enclave image has %d bytes, which is beyond its end", n, size)
	}
	offset, length := binary.BigEndian.Uint64(image[28+8*n:]), binary.BigEndian.Uint64(image[28+8*(eifSections+n):])
	if offset != uint64(at) || length != size {
		return 0, nil, fmt.Errorf("section %d of the enclave image has %d bytes at %d, its header says %d at %d", n, size, at, length, offset)
	}
	return binary.BigEndian.Uint16(image[at:]), image[at+eifPart:][:size], nil
}

// eifCertificate returns the certificate, as DER, of the one signature of an image.
func eifCertificate(body []byte) ([]byte, error) {
	var signatures []struct {
		Certificate []byte `cbor:"signing_certificate"`
		Signature   []byte `cbor:"signature"`
	}
	if err := cbor.Unmarshal(body, &signatures); err != nil {
		return nil, fmt.Errorf("the enclave image's signature: %w", err)
	}
	if len(signatures) != 1 {
		return nil, fmt.Errorf("the enclave image has %d signatures in their section, want one, that of PCR0", len(signatures))
	}
	block, rest := pem.Decode(signatures[0].Certificate)
	for block != nil && block.Type != "CERTIFICATE" { // the first that is one is measured, whatever stands around it
		block, rest = pem.Decode(rest)
	}
	if block == nil {
		return nil, errors.New("the enclave image's signature has no certificate in PEM")
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("the enclave image's certificate: %w", err)
	}
	return block.Bytes, nil
}

// Role returns PCR3 of an enclave whose parent instance has the IAM role, by its ARN; Instance returns PCR4, by the parent
// instance's id (AWS, "Using cryptographic attestation with AWS KMS").
func Role(arn string) [48]byte { return extended([]byte(arn)) }

// Instance returns PCR4: see Role.
func Instance(id string) [48]byte { return extended([]byte(id)) }

// extended returns a register that was zeros and was extended once.
func extended(value []byte) [48]byte { return sha512.Sum384(slices.Concat(make([]byte, 48), value)) }
