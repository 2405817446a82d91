package dcap

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math"
	"slices"

	"consilium.dev/internal/attest"
)

// oidSGX is the extension in which a PCK certificate says what platform it is of (PCK Certificate Profile, section 1.3.5).
var oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

// extensions is what a PCK certificate says about its platform.
type extensions struct {
	ppid       [16]byte
	components [16]uint8 // SVNs of the TCB's parts, as TCB info counts them
	pceSVN     uint16
	cpuSVN     [16]byte
	pceID      [2]byte
	fmspc      [6]byte
	instance   [16]byte // zero where there is none
}

// part is one element of the extension: SEQUENCE { OBJECT IDENTIFIER, value }.
type part struct {
	ID    asn1.ObjectIdentifier
	Value asn1.RawValue
}

// readExtensions reads the SGX extension. Every element that Intel makes mandatory must be there, each once:
//
//	.1 PPID [16]   .2 TCB   .3 PCE-ID [2]   .4 FMSPC [6]   .5 SGX type   .6 platform instance id [16], optional   .7 configuration, optional
func readExtensions(cert *x509.Certificate) (extensions, *attest.Error) {
	var x extensions
	at := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSGX) }) // one at most: x509 refuses doubled ones
	if at < 0 {
		return x, attest.Refuse(attest.ClassChain, "the PCK certificate has no SGX extension")
	}
	parts, err := partsOf(cert.Extensions[at].Value, oidSGX, 7)
	if err == nil {
		err = x.read(parts)
	}
	if err != nil {
		return x, attest.Refuse(attest.ClassChain, "the PCK certificate's SGX extension: %v", err)
	}
	return x, nil
}

func (x *extensions) read(parts map[int]asn1.RawValue) error {
	for number, dst := range map[int][]byte{1: x.ppid[:], 3: x.pceID[:], 4: x.fmspc[:], 6: x.instance[:]} {
		v, there := parts[number]
		if !there && number == 6 {
			continue
		}
		if err := octets(v, dst); err != nil {
			return fmt.Errorf("element %d: %w", number, err)
		}
	}
	if _, there := parts[5]; !there {
		return errors.New("element 5 is missing")
	}
	tcb, err := partsOf(parts[2].FullBytes, append(oidSGX[:len(oidSGX):len(oidSGX)], 2), 18)
	if err != nil {
		return fmt.Errorf("its TCB: %w", err)
	}
	for i := range x.components {
		svn, err := integer(tcb[i+1], math.MaxUint8)
		if err != nil {
			return fmt.Errorf("component %d of its TCB: %w", i+1, err)
		}
		x.components[i] = uint8(svn)
	}
	svn, err := integer(tcb[17], math.MaxUint16)
	if err != nil {
		return fmt.Errorf("PCESVN: %w", err)
	}
	x.pceSVN = uint16(svn)
	if err := octets(tcb[18], x.cpuSVN[:]); err != nil {
		return fmt.Errorf("CPUSVN: %w", err)
	}
	return nil
}

// partsOf reads a sequence of elements whose identifiers are prefix and a number from 1 to last.
func partsOf(der []byte, prefix asn1.ObjectIdentifier, last int) (map[int]asn1.RawValue, error) {
	var list []part
	if rest, err := asn1.Unmarshal(der, &list); err != nil || len(rest) != 0 {
		return nil, errors.New("not a sequence of identified elements")
	}
	parts := map[int]asn1.RawValue{}
	for _, p := range list {
		n := len(prefix)
		if len(p.ID) != n+1 || !p.ID[:n].Equal(prefix) || p.ID[n] < 1 || p.ID[n] > last {
			return nil, fmt.Errorf("unknown element %s", p.ID)
		}
		if _, twice := parts[p.ID[n]]; twice {
			return nil, fmt.Errorf("element %s stands twice", p.ID)
		}
		parts[p.ID[n]] = p.Value
	}
	return parts, nil
}

// octets fills dst from an OCTET STRING of its length.
func octets(v asn1.RawValue, dst []byte) error {
	if v.Class != asn1.ClassUniversal || v.Tag != asn1.TagOctetString || v.IsCompound || len(v.Bytes) != len(dst) {
		return fmt.Errorf("want an octet string of %d bytes", len(dst))
	}
	copy(dst, v.Bytes)
	return nil
}

func integer(v asn1.RawValue, most int) (int, error) {
	var n int
	if rest, err := asn1.Unmarshal(v.FullBytes, &n); err != nil || len(rest) != 0 || n < 0 || n > most {
		return 0, fmt.Errorf("want an integer from 0 to %d", most)
	}
	return n, nil
}
