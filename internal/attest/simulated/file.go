package simulated

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-sev-guest/abi"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap"
	"consilium.dev/internal/attest/nitro"
	"consilium.dev/internal/attest/sevsnp"
)

// maxFile is the most bytes of a root's or a machine's file.
const maxFile = 64 << 10

// The kinds of file, which also say the version of their layout.
const (
	formatRoot  = "consilium.simulated-root/1"
	formatSNP   = "consilium.simulated-sev-snp/1"
	formatTDX   = "consilium.simulated-tdx/1"
	formatSGX   = "consilium.simulated-sgx/1"
	formatNitro = "consilium.simulated-nitro/1"
)

// rootFile is a root's file: JSON, binary values in base64, certificates as DER, keys as PKCS #8.
type rootFile struct {
	Format   string `json:"format"`
	Name     string `json:"name"`
	Line     string `json:"product_line"`
	ARK      []byte `json:"ark"`
	ASK      []byte `json:"ask"`
	ASKKey   []byte `json:"ask_key"`
	Nitro    []byte `json:"nitro"`
	NitroKey []byte `json:"nitro_key"`
	intelFile
}

// intelFile is Intel's part of a root's file. Roots that were made before roots had it have none of its fields.
type intelFile struct {
	Intel        []byte `json:"intel,omitempty"`
	IntelCA      []byte `json:"intel_ca,omitempty"`
	IntelCAKey   []byte `json:"intel_ca_key,omitempty"`
	IntelTCB     []byte `json:"intel_tcb,omitempty"`
	IntelTCBKey  []byte `json:"intel_tcb_key,omitempty"`
	IntelRootCRL []byte `json:"intel_root_crl,omitempty"`
	IntelCACRL   []byte `json:"intel_ca_crl,omitempty"`
}

// machineFile is a machine's file, likewise. Of the fields after Key, a machine of one format has only its own.
type machineFile struct {
	Format   string         `json:"format"`
	Root     string         `json:"root"`
	Key      []byte         `json:"key"`
	Report   []byte         `json:"report,omitempty"`
	VCEK     []byte         `json:"vcek,omitempty"`
	Quote    []byte         `json:"quote,omitempty"`
	Items    []itemFile     `json:"collateral,omitempty"`
	ModuleID string         `json:"module_id,omitempty"`
	PCRs     map[int][]byte `json:"pcrs,omitempty"`
	Bundle   [][]byte       `json:"bundle,omitempty"`
}

// itemFile is one piece of collateral.
type itemFile struct {
	Kind  attest.Kind `json:"kind"`
	Bytes []byte      `json:"bytes"`
}

// Marshal returns the root's file, for ParseRoot. It holds private keys: with it, machines can be made that everyone who
// trusts the root believes.
func (r *Root) Marshal() ([]byte, error) {
	askKey, err := x509.MarshalPKCS8PrivateKey(r.askKey)
	if err != nil {
		return nil, fmt.Errorf("writing a simulated root: %w", err)
	}
	nitroKey, err := x509.MarshalPKCS8PrivateKey(r.nitroKey)
	if err != nil {
		return nil, fmt.Errorf("writing a simulated root: %w", err)
	}
	of, err := r.intel.file()
	if err != nil {
		return nil, fmt.Errorf("writing a simulated root: %w", err)
	}
	return write(rootFile{
		intelFile: of, Format: formatRoot, Name: r.name, Line: r.line, ARK: r.ark.Raw, ASK: r.ask.Raw, ASKKey: askKey, Nitro: r.nitro.Raw,
		NitroKey: nitroKey,
	})
}

// ParseRoot reads a root's file. It refuses one that verifiers would refuse to trust: whose certificates are not each other's,
// or are a manufacturer's.
func ParseRoot(text []byte) (*Root, error) {
	var f rootFile
	if err := read(text, &f); err != nil {
		return nil, fmt.Errorf("a simulated root: %w", err)
	}
	if f.Format != formatRoot {
		return nil, fmt.Errorf("a simulated root: format is %q, want %q", f.Format, formatRoot)
	}
	if err := valid(f.Name, f.Line); err != nil {
		return nil, err
	}
	r := &Root{name: f.Name, line: f.Line}
	certs, err := certificates(f.ARK, f.ASK, f.Nitro)
	if err != nil {
		return nil, fmt.Errorf("the simulated root %q: %w", f.Name, err)
	}
	r.ark, r.ask, r.nitro = certs[0], certs[1], certs[2]
	if r.askKey, err = keyOf[*rsa.PrivateKey](f.ASKKey, r.ask.PublicKey, nil); err != nil {
		return nil, fmt.Errorf("the simulated root %q: ask_key: %w", f.Name, err)
	}
	if r.nitroKey, err = keyOf[*ecdsa.PrivateKey](f.NitroKey, r.nitro.PublicKey, elliptic.P384()); err != nil {
		return nil, fmt.Errorf("the simulated root %q: nitro_key: %w", f.Name, err)
	}
	if f.intelFile.there() {
		if r.intel, err = f.intelFile.parse(); err != nil {
			return nil, fmt.Errorf("the simulated root %q: %w", f.Name, err)
		}
	}
	if err := r.trusted(); err != nil {
		return nil, err
	}
	return r, nil
}

// there reports whether the file has anything of Intel's part.
func (f *intelFile) there() bool {
	return len(slices.Concat(f.Intel, f.IntelCA, f.IntelCAKey, f.IntelTCB, f.IntelTCBKey, f.IntelRootCRL, f.IntelCACRL)) > 0
}

// file returns the part's fields, none where there is no part.
func (r *intelRoot) file() (f intelFile, err error) {
	if r == nil {
		return f, nil
	}
	f = intelFile{Intel: r.root.Raw, IntelCA: r.ca.Raw, IntelTCB: r.signer.Raw, IntelRootCRL: r.lists[0], IntelCACRL: r.lists[1]}
	if f.IntelCAKey, err = x509.MarshalPKCS8PrivateKey(r.caKey); err != nil {
		return f, err
	}
	f.IntelTCBKey, err = x509.MarshalPKCS8PrivateKey(r.signerKey)
	return f, err
}

// parse reads Intel's part, whose certificates and lists must be each other's.
func (f *intelFile) parse() (*intelRoot, error) {
	certs, err := certificates(f.Intel, f.IntelCA, f.IntelTCB)
	if err != nil {
		return nil, fmt.Errorf("intel: %w", err)
	}
	r := &intelRoot{root: certs[0], ca: certs[1], signer: certs[2], lists: [][]byte{f.IntelRootCRL, f.IntelCACRL}}
	if r.caKey, err = keyOf[*ecdsa.PrivateKey](f.IntelCAKey, r.ca.PublicKey, elliptic.P256()); err != nil {
		return nil, fmt.Errorf("intel_ca_key: %w", err)
	}
	if r.signerKey, err = keyOf[*ecdsa.PrivateKey](f.IntelTCBKey, r.signer.PublicKey, elliptic.P256()); err != nil {
		return nil, fmt.Errorf("intel_tcb_key: %w", err)
	}
	for _, below := range certs[1:] {
		if err := below.CheckSignatureFrom(r.root); err != nil {
			return nil, fmt.Errorf("%s: %w", below.Subject.CommonName, err)
		}
	}
	for i, by := range certs[:2] {
		list, err := x509.ParseRevocationList(r.lists[i])
		if err == nil {
			err = list.CheckSignatureFrom(by)
		}
		if err != nil {
			return nil, fmt.Errorf("the revocation list of %s: %w", by.Subject.CommonName, err)
		}
	}
	return r, nil
}

// trusted asks the verifiers whether they would trust the root.
func (r *Root) trusted() error {
	amd := map[string][]*x509.Certificate{r.name: {r.ark, r.ask}}
	if _, err := sevsnp.NewVerifier(sevsnp.Options{SimulatedRoots: amd}); err != nil {
		return err
	}
	aws := map[string][]*x509.Certificate{r.name: {r.nitro}}
	if _, err := nitro.NewVerifier(nitro.Options{SimulatedRoots: aws}); err != nil {
		return err
	}
	if r.intel == nil {
		return nil
	}
	_, err := dcap.NewVerifier(dcap.Options{SimulatedRoots: map[string]*x509.Certificate{r.name: r.intel.root}})
	return err
}

// Marshal returns the machine's file, for ParseMachine. It holds a private key: who reads it can be the machine.
func (m *Machine) Marshal() ([]byte, error) {
	f := machineFile{Root: m.root}
	var key *ecdsa.PrivateKey
	switch {
	case m.snp != nil:
		f.Format, key, f.Report, f.VCEK = formatSNP, m.snp.key, m.snp.template, m.snp.vcek.Raw
	case m.intel != nil:
		f.Format, key, f.Quote = formatTDX, m.intel.key, m.intel.quote
		if m.intel.typ == attest.SGX {
			f.Format = formatSGX
		}
		for _, item := range m.intel.collateral {
			f.Items = append(f.Items, itemFile(item))
		}
	default:
		f.Format, key, f.ModuleID, f.PCRs = formatNitro, m.nitro.key, m.nitro.module, m.nitro.pcrs
		for _, c := range m.nitro.bundle {
			f.Bundle = append(f.Bundle, c.Raw)
		}
	}
	var err error
	if f.Key, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		return nil, fmt.Errorf("writing a simulated machine: %w", err)
	}
	return write(f)
}

// ParseMachine reads a machine's file. It checks the form only: what a file says of its machine is whatever its maker wanted,
// and the verifiers judge it.
func ParseMachine(text []byte) (*Machine, error) {
	var f machineFile
	if err := read(text, &f); err != nil {
		return nil, fmt.Errorf("a simulated machine: %w", err)
	}
	if err := valid(f.Root, "Genoa"); err != nil {
		return nil, err
	}
	m := &Machine{root: f.Root}
	var err error
	switch f.Format {
	case formatSNP:
		m.snp, err = f.snp()
	case formatTDX:
		m.intel, err = f.intel(attest.TDX, dcap.TDX)
	case formatSGX:
		m.intel, err = f.intel(attest.SGX, dcap.SGX)
	case formatNitro:
		m.nitro, err = f.nitro()
	default:
		err = fmt.Errorf("format is %q, want %q, %q, %q or %q", f.Format, formatSNP, formatTDX, formatSGX, formatNitro)
	}
	if err != nil {
		return nil, fmt.Errorf("a simulated machine: %w", err)
	}
	return m, nil
}

func (f *machineFile) snp() (*snpMachine, error) {
	if f.ModuleID != "" || f.PCRs != nil || f.Bundle != nil || f.Quote != nil || f.Items != nil {
		return nil, errors.New("fields of another machine in the file of a SEV-SNP machine")
	}
	if len(f.Report) != abi.ReportSize {
		return nil, fmt.Errorf("report has %d bytes, want %d", len(f.Report), abi.ReportSize)
	}
	certs, err := certificates(f.VCEK)
	if err != nil {
		return nil, fmt.Errorf("vcek: %w", err)
	}
	key, err := keyOf[*ecdsa.PrivateKey](f.Key, certs[0].PublicKey, elliptic.P384())
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return &snpMachine{template: f.Report, vcek: certs[0], key: key}, nil
}

func (f *machineFile) nitro() (*nitroMachine, error) {
	if f.Report != nil || f.VCEK != nil || f.Quote != nil || f.Items != nil {
		return nil, errors.New("fields of another machine in the file of a Nitro machine")
	}
	if f.ModuleID == "" || len(f.ModuleID) > 256 || len(f.PCRs) == 0 || len(f.Bundle) == 0 {
		return nil, errors.New("module_id, pcrs or bundle is missing")
	}
	certs, err := certificates(f.Bundle...)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	key, err := keyOf[*ecdsa.PrivateKey](f.Key, certs[len(certs)-1].PublicKey, elliptic.P384())
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return &nitroMachine{root: f.Root, module: f.ModuleID, pcrs: f.PCRs, bundle: certs, key: key}, nil
}

func (f *machineFile) intel(typ attest.Type, tee dcap.TEE) (*intelMachine, error) {
	if f.Report != nil || f.VCEK != nil || f.ModuleID != "" || f.PCRs != nil || f.Bundle != nil {
		return nil, fmt.Errorf("fields of another machine in the file of a machine of the type %s", typ)
	}
	q, refusal := dcap.Parse(f.Quote, tee)
	if refusal != nil {
		return nil, fmt.Errorf("quote: %w", refusal)
	}
	m := &intelMachine{typ: typ, quote: f.Quote}
	signed, _ := m.layout()
	if want := signed - quoteHeader - domainHead; typ == attest.TDX && len(q.Body) != want {
		return nil, fmt.Errorf("quote: a body of %d bytes, want %d", len(q.Body), want)
	}
	public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, f.Quote[signed+4+64:][:64]...))
	if err != nil {
		return nil, fmt.Errorf("quote: %w", err)
	}
	if m.key, err = keyOf[*ecdsa.PrivateKey](f.Key, public, elliptic.P256()); err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	for _, item := range f.Items {
		m.collateral = append(m.collateral, attest.Item(item))
	}
	return m, nil
}

func certificates(ders ...[]byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for i, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", i, err)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// keyOf reads a private key, which must be of K's kind, on the curve if it is on one, and public's.
func keyOf[K crypto.Signer](pkcs8 []byte, public crypto.PublicKey, curve elliptic.Curve) (K, error) {
	var none K
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return none, err
	}
	key, ok := parsed.(K)
	if !ok {
		return none, fmt.Errorf("a %T, want a %T", parsed, none)
	}
	if on, ok := any(key).(*ecdsa.PrivateKey); ok && on.Curve != curve {
		return none, fmt.Errorf("on the curve %s, want %s", on.Curve.Params().Name, curve.Params().Name)
	}
	whose, ok := public.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !whose.Equal(key.Public()) {
		return none, errors.New("not the key of the certificate or quote that it stands beside")
	}
	// The parser passes over the public half that an elliptic key's private half is written with.
	if again, err := x509.MarshalPKCS8PrivateKey(key); err != nil || !bytes.Equal(again, pkcs8) {
		return none, errors.New("not written as a key is")
	}
	return key, nil
}

func write(file any) ([]byte, error) {
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing a simulated platform's file: %w", err)
	}
	return append(text, '\n'), nil
}

// read decodes a file. It must be just as Marshal wrote it: a doubled field, another spelling of a name or of base64 would
// mean that somebody's editor, or a failing disk, was at it.
func read(text []byte, file any) error {
	if len(text) > maxFile {
		return fmt.Errorf("%d bytes, want at most %d", len(text), maxFile)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(file); err != nil {
		return err
	}
	again, err := write(file)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, text) {
		return errors.New("the file is not as it was written: make it anew")
	}
	return nil
}
