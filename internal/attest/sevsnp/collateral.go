package sevsnp

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"slices"

	"consilium.dev/internal/attest"
)

// Limits on collateral. A certificate of AMD's has about 1350 bytes, a firmware's table of three 6.5 KiB, a list about 1 KiB.
const (
	maxItems       = 16
	maxCertificate = 8 << 10
	maxTable       = 64 << 10
	maxEntries     = 16
	maxList        = 64 << 10
)

// The GUIDs of the keys that sign reports in a certificate table (AMD 56421, GHCB specification, "SNP Extended Guest
// Request"), as their 16 bytes lie in memory.
var (
	guidVCEK = [16]byte{0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd}
	guidVLEK = [16]byte{0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1}
)

// collateral is what of attest.Collateral this package reads.
type collateral struct {
	certs []*x509.Certificate
	lists []*x509.RevocationList
}

// read parses collateral. Kinds that are not SEV-SNP's are passed over.
func read(items attest.Collateral) (*collateral, *attest.Error) {
	c := &collateral{}
	if len(items) > maxItems {
		return nil, attest.Refuse(attest.ClassParse, "%d pieces of collateral, want at most %d", len(items), maxItems)
	}
	for _, item := range items {
		var err *attest.Error
		switch item.Kind {
		case attest.KindCertificate:
			err = c.certificate(item.Bytes)
		case attest.KindCertTable:
			err = c.table(item.Bytes)
		case attest.KindCRL:
			err = c.list(item.Bytes)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *collateral) certificate(der []byte) *attest.Error {
	if len(der) > maxCertificate {
		return attest.Refuse(attest.ClassChain, "a certificate of %d bytes, want at most %d", len(der), maxCertificate)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return attest.Refuse(attest.ClassChain, "a certificate does not parse: %v", err)
	}
	c.certs = append(c.certs, cert)
	return nil
}

func (c *collateral) list(der []byte) *attest.Error {
	if len(der) > maxList {
		return attest.Refuse(attest.ClassRevoked, "a revocation list of %d bytes, want at most %d", len(der), maxList)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return attest.Refuse(attest.ClassRevoked, "a revocation list does not parse: %v", err)
	}
	c.lists = append(c.lists, list)
	return nil
}

// table reads the certificates of keys that sign reports from a certificate table:
//
//	entry * n      GUID [16], offset u32, length u32 (little-endian; offsets from the table's start)
//	entry          all zero: the end of the entries
//	certificates   DER or, from some hosts, PEM
//
// Entries of intermediates and roots are not looked at. The library's reader of such tables adds offset and length in 32
// bits without a look at the carry, so this one stands in its place.
func (c *collateral) table(raw []byte) *attest.Error {
	if len(raw) > maxTable {
		return attest.Refuse(attest.ClassParse, "a certificate table of %d bytes, want at most %d", len(raw), maxTable)
	}
	entries, err := entriesOf(raw)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.guid != guidVCEK && e.guid != guidVLEK || e.from == e.to {
			continue
		}
		der := raw[e.from:e.to]
		if block, rest := pem.Decode(der); block != nil && block.Type == "CERTIFICATE" && len(bytes.TrimSpace(rest)) == 0 {
			der = block.Bytes
		}
		if err := c.certificate(der); err != nil {
			return err
		}
	}
	return nil
}

// Certificates returns the certificates of keys that sign reports, VCEKs and VLEKs, in a table that firmware hands out with a report.
// Nothing but their form is judged. The error is an *attest.Error.
func Certificates(table []byte) ([]*x509.Certificate, error) {
	c := &collateral{}
	if err := c.table(table); err != nil {
		return nil, err
	}
	return c.certs, nil
}

type entry struct {
	guid     [16]byte
	from, to uint64
}

// entriesOf reads a table's entries, whose ranges must lie behind the entries and not overlap.
func entriesOf(raw []byte) ([]entry, *attest.Error) {
	const size = 24
	var entries []entry
	rest := raw
	for {
		if len(rest) < size || len(entries) > maxEntries {
			return nil, attest.Refuse(attest.ClassParse, "a certificate table of %d bytes does not end its entries (at most %d)",
				len(raw), maxEntries)
		}
		head := rest[:size]
		rest = rest[size:]
		if zeros(head) {
			break
		}
		from := uint64(binary.LittleEndian.Uint32(head[16:]))
		entries = append(entries, entry{[16]byte(head), from, from + uint64(binary.LittleEndian.Uint32(head[20:]))})
	}
	end := uint64(len(raw) - len(rest))
	for _, e := range slices.SortedFunc(slices.Values(entries), func(a, b entry) int { return cmp.Compare(a.from, b.from) }) {
		if e.from < end || e.to > uint64(len(raw)) {
			return nil, attest.Refuse(attest.ClassParse, "a certificate table's entry covers the bytes %d to %d, want %d to %d",
				e.from, e.to, end, len(raw))
		}
		end = e.to
	}
	return entries, nil
}
