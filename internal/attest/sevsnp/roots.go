package sevsnp

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/verify/trust"
)

// An issuer is one intermediate that signs the certificates of one product line's chips (ASK) or of its cloud providers
// (ASVK), with the root (ARK) that signed it.
type issuer struct {
	simulated string // the root's name; "" for AMD's
	line      string
	signer    abi.ReportSigner
	ark, ca   *x509.Certificate
}

// pinned are AMD's certificates as the library embeds them, with the SHA-256 of each certificate's DER as AMD's key
// distribution service hands them out (https://kdsintf.amd.com/vcek/v1/LINE/cert_chain, and /vlek/). A library that came
// with another certificate would not get past them.
var pinned = []struct {
	line   string
	signer abi.ReportSigner
	bundle []byte // PEM: intermediate, root
	ca     string
	ark    string
}{
	{
		milan, abi.VcekReportSigner, trust.AskArkMilanVcekBytes,
		"67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
		"69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
	},
	{
		milan, abi.VlekReportSigner, trust.AskArkMilanVlekBytes,
		"c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
		"69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
	},
	{
		genoa, abi.VcekReportSigner, trust.AskArkGenoaVcekBytes,
		"5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
		"4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
	},
	{
		genoa, abi.VlekReportSigner, trust.AskArkGenoaVlekBytes,
		"197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
		"4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
	},
	{
		turin, abi.VcekReportSigner, trust.AskArkTurinVcekBytes,
		"5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
		"1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
	},
	{
		turin, abi.VlekReportSigner, trust.AskArkTurinVlekBytes,
		"104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
		"1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
	},
}

// manufacturer returns AMD's issuers.
func manufacturer() ([]issuer, error) {
	var issuers []issuer
	for _, p := range pinned {
		rest, certs := p.bundle, []*x509.Certificate(nil)
		for _, want := range []string{p.ca, p.ark} {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				return nil, fmt.Errorf("AMD's %s certificates (%s): a bundle is cut short", p.line, p.signer)
			}
			if got := sha256.Sum256(block.Bytes); hex.EncodeToString(got[:]) != want {
				return nil, fmt.Errorf("AMD's %s certificates (%s): fingerprint %x, want %s", p.line, p.signer, got, want)
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("AMD's %s certificates (%s): %w", p.line, p.signer, err)
			}
			certs = append(certs, cert)
		}
		issuers = append(issuers, issuer{line: p.line, signer: p.signer, ca: certs[0], ark: certs[1]})
	}
	return issuers, nil
}

// simulated appends the simulated roots' issuers to those that are there already. A key may stand under one name only: else
// a manifest could give AMD's chips a simulated name, or the reverse.
func simulated(issuers []issuer, roots map[string][]*x509.Certificate) ([]issuer, error) {
	for _, name := range slices.Sorted(maps.Keys(roots)) {
		certs := roots[name]
		if name == "" || len(certs) < 2 {
			return nil, fmt.Errorf("simulated root %q: want a name, a root and an intermediate", name)
		}
		ark := certs[0]
		line, ok := strings.CutPrefix(ark.Subject.CommonName, "ARK-")
		if !ok || !slices.Contains(lines, line) {
			return nil, fmt.Errorf("simulated root %q: common name %q, want ARK- and one of %s", name, ark.Subject.CommonName, lines)
		}
		if err := signed(ark, ark); err != nil {
			return nil, fmt.Errorf("simulated root %q: not self-signed: %w", name, err)
		}
		for _, other := range issuers {
			if other.simulated != name && (sameKey(other.ark, ark) || sameKey(other.ca, ark)) {
				return nil, fmt.Errorf("simulated root %q: its key is that of another root, %q", name, other.ca.Subject.CommonName)
			}
		}
		for _, ca := range certs[1:] {
			one := issuer{simulated: name, line: line, ark: ark, ca: ca}
			switch ca.Subject.CommonName {
			case "SEV-" + line:
				one.signer = abi.VcekReportSigner
			case "SEV-VLEK-" + line:
				one.signer = abi.VlekReportSigner
			default:
				return nil, fmt.Errorf("simulated root %q: an intermediate's common name %q, want SEV-%s or SEV-VLEK-%s",
					name, ca.Subject.CommonName, line, line)
			}
			if err := signed(ca, ark); err != nil {
				return nil, fmt.Errorf("simulated root %q: %s: %w", name, ca.Subject.CommonName, err)
			}
			if slices.ContainsFunc(issuers, func(i issuer) bool { return sameKey(i.ca, ca) || sameKey(i.ark, ca) }) {
				return nil, fmt.Errorf("simulated root %q: the key of %s is that of another root", name, ca.Subject.CommonName)
			}
			issuers = append(issuers, one)
		}
	}
	return issuers, nil
}

func sameKey(a, b *x509.Certificate) bool {
	return bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo)
}

// signed checks that parent, a certificate authority, signed child in AMD's way and is named as its issuer.
func signed(child, parent *x509.Certificate) error {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("issuer is %q, want %q", child.Issuer, parent.Subject)
	}
	if child.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return fmt.Errorf("certificate signature algorithm is %s, want SHA384-RSAPSS", child.SignatureAlgorithm)
	}
	return child.CheckSignatureFrom(parent) // asks for IsCA and the key usage of parent, too
}
