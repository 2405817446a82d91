package dcap_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"slices"
	"testing"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/dcap"
	"consilium.dev/internal/attest/dcap/dcaptest"
)

type scene = dcaptest.Scene

var now = dcaptest.Now

// A refusal is something wrong with evidence that is rightly signed, and the class that it must be refused with. Names begin
// with the case's number in the list of what a great verifier must refuse.
type refusal struct {
	name  string
	class attest.Class
	spoil func(*scene)
}

func TestRefuses(t *testing.T) {
	for _, kind := range []struct {
		name  string
		scene func() *scene
		lists [][]refusal
	}{
		{"TDX", dcaptest.NewTDX, [][]refusal{tdxForm, bothForm, keyRefusals, chainRefusals, tcbRefusals, tdxModule, bothTCB, listRefusals()}},
		{"SGX", dcaptest.NewSGX, [][]refusal{sgxForm, bothForm, keyRefusals, chainRefusals, bothTCB, listRefusals()}},
	} {
		for _, r := range slices.Concat(kind.lists...) {
			t.Run(dcaptest.Numbered(r.name)+", "+kind.name, func(t *testing.T) {
				s := kind.scene()
				r.spoil(s)
				verdict, err := verify(t, s)
				if err == nil || err.Class != r.class {
					t.Errorf("Verify: %v, want the class %s", err, r.class)
				}
				if verdict.Signed != [32]byte{} || verdict.Platform.PPID != [16]byte{} {
					t.Errorf("Verify refused and gave a verdict: %+v", verdict)
				}
			})
		}
	}
}

// verify judges the scene by a verifier that trusts dcaptest's root as "test".
func verify(t testing.TB, s *scene) (dcap.Verdict, *attest.Error) {
	t.Helper()
	tee := dcap.TDX
	if s.Type == attest.SGX {
		tee = dcap.SGX
	}
	q, err := dcap.Parse(s.Quote(), tee)
	if err != nil {
		return dcap.Verdict{}, err
	}
	return newVerifier(t).Verify(q, s.Collateral(), s.Held, s.Now)
}

func newVerifier(t testing.TB) *dcap.Verifier {
	t.Helper()
	v, err := dcap.NewVerifier(dcap.Options{SimulatedRoots: map[string]*x509.Certificate{"test": dcaptest.Trusted().Root.Certificate}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// header returns a spoiler that writes bytes into the header before it is signed.
func header(at int, value ...byte) func(*scene) { return func(s *scene) { copy(s.Header[at:], value) } }

// body does so with the body.
func body(at int, value ...byte) func(*scene) { return func(s *scene) { copy(s.Body[at:], value) } }

// enclave does so with the quoting enclave's report.
func enclave(at int, value ...byte) func(*scene) { return func(s *scene) { copy(s.QE[at:], value) } }

// written returns a spoiler of the whole quote.
func written(f func([]byte) []byte) func(*scene) { return func(s *scene) { s.Written = f } }

// layout returns a spoiler of the signature's data, whose length is then right.
func layout(f func([]byte) []byte) func(*scene) { return func(s *scene) { s.Layout = f } }

// inData returns a spoiler that writes bytes into the signature's data, at an offset from the quoting enclave's report.
func inData(at int, value ...byte) func(*scene) {
	return func(s *scene) {
		from := 128
		if s.Header[0] > 3 {
			from += 6
		}
		s.Layout = func(data []byte) []byte { copy(data[from+at:], value); return data }
	}
}

const afterAuth = 384 + 64 + 2 + len("authentication") // where the certification data's type stands

var tdxForm = []refusal{
	{"B70 an SGX quote's TEE type", attest.ClassParse, header(4, 0)},
	{"B70 another TEE type", attest.ClassParse, header(4, 0x82)},
	{"B70 a high byte of the TEE type", attest.ClassParse, header(7, 1)},
	{"B70 version 3", attest.ClassParse, header(0, 3)},
	{"B70 version 6", attest.ClassParse, header(0, 6)},
	{"B70 version 261", attest.ClassParse, header(0, 5, 1)},
	{"B70 version 6 in version 4's form", attest.ClassParse, func(s *scene) { s.TDX10(); s.Header[0] = 6 }},
	{"B70 version 260 in version 4's form", attest.ClassParse, func(s *scene) { s.TDX10(); s.Header[1] = 1 }},
	{"B70 body type 4 of no bytes", attest.ClassParse, func(s *scene) { s.BodyHead, s.Body = []byte{4, 0, 0, 0, 0, 0}, nil }},
	{"B70 body type 1, an enclave", attest.ClassParse, func(s *scene) { s.BodyHead[0] = 1 }},
	{"B70 body type 4", attest.ClassParse, func(s *scene) { s.BodyHead[0] = 4 }},
	{"B70 body type 2 of 648 bytes", attest.ClassParse, func(s *scene) { s.BodyHead[0] = 2 }},
	{"B70 body type 3 of 584 bytes", attest.ClassParse, func(s *scene) { binary.LittleEndian.PutUint32(s.BodyHead[2:], 584) }},
	{"B70 a body's length with its high byte set", attest.ClassParse, func(s *scene) { s.BodyHead[5] = 0xff }},
	{"B71 version 4 with 648 bytes", attest.ClassParse, func(s *scene) { s.Header[0], s.BodyHead = 4, nil }},
	{"B70 reserved bytes of the header", attest.ClassParse, header(11, 1)},
	{"B72 another kind of attestation key, P-384", attest.ClassSig, header(2, 3)},
	{"B72 EPID", attest.ClassSig, header(2, 0)},
	{"B73 certification data of the type 5 outside", attest.ClassParse, layout(func(d []byte) []byte { d[128] = 5; return d })},
	{"B73 certification data of another length outside", attest.ClassParse, layout(func(d []byte) []byte { d[130]++; return d })},
	{"B73 certification data of the type 6 inside 6", attest.ClassParse, inData(afterAuth, 6)},
}

var sgxForm = []refusal{
	{"C87 EPID, version 2", attest.ClassParse, header(0, 2)},
	{"C87 version 4", attest.ClassParse, header(0, 4)},
	{"C87 attestation key type 0, EPID", attest.ClassParse, header(2, 0)},
	{"C87 attestation key type 3", attest.ClassParse, header(2, 3)},
	{"C87 a TEE type where version 3 has zeros", attest.ClassParse, header(4, 0x81)},
}

var bothForm = []refusal{
	{"nothing", attest.ClassParse, written(func([]byte) []byte { return nil })},
	{"47 bytes", attest.ClassParse, written(func(q []byte) []byte { return q[:47] })},
	{"a header alone", attest.ClassParse, written(func(q []byte) []byte { return q[:48] })},
	{"a body that is cut", attest.ClassParse, written(func(q []byte) []byte { return q[:300] })},
	{"one byte short", attest.ClassParse, written(func(q []byte) []byte { return q[:len(q)-1] })},
	{"another vendor", attest.ClassParse, header(12, 0)},
	{"more than 64 KiB", attest.ClassParse, written(func(q []byte) []byte { return append(q, make([]byte, 64<<10)...) })},
	{"B71 a byte behind the quote", attest.ClassParse, written(func(q []byte) []byte { return append(q, 1) })},
	{"B71 a byte behind padding", attest.ClassParse, written(func(q []byte) []byte { return append(q, append(make([]byte, 70), 1)...) })},
	{"B71 a byte behind the certificates", attest.ClassParse, layout(func(d []byte) []byte { return append(d, 0) })},
	{"B71 authentication data beyond the end", attest.ClassParse, inData(384+64, 0xff, 0xff)},
	{"B71 authentication data shorter than they are", attest.ClassParse, inData(384+64, 3, 0)},
	{"B71 certificates beyond the end", attest.ClassParse, inData(afterAuth+2, 0xff, 0xff, 0xff, 0xff)},
	{"B71 no certificates", attest.ClassParse, func(s *scene) {
		s.Chain = func([][]byte) []byte { return nil }
		s.Layout = func(d []byte) []byte { return d[:len(d)-6] }
	}},
	{"B73 certificates of no bytes", attest.ClassParse, func(s *scene) { s.Chain = func([][]byte) []byte { return nil } }},
	{"B73 certificates that are not PEM", attest.ClassParse, func(s *scene) { s.Chain = func(c [][]byte) []byte { return c[0] } }},
	{"B73 certification data of the type 1", attest.ClassParse, inData(afterAuth, 1)},
	{"B73 certification data of the type 2", attest.ClassParse, inData(afterAuth, 2)},
	{"B73 certification data of the type 3", attest.ClassParse, inData(afterAuth, 3)},
	{"B73 certification data of the type 4", attest.ClassParse, inData(afterAuth, 4)},
	{"B73 text before the certificates", attest.ClassParse, chain(func(p []byte) []byte { return append([]byte("\n"), p...) })},
	{"B73 text between the certificates", attest.ClassParse, chain(func(p []byte) []byte { return bytes.Replace(p, []byte("-----\n-----"), []byte("-----\n\n-----"), 1) })},
	{"B73 text behind the certificates", attest.ClassParse, chain(func(p []byte) []byte { return append(p, ' ') })},
	{"B73 two zeros behind the certificates", attest.ClassParse, chain(func(p []byte) []byte { return append(p, 0, 0) })},
	{"B73 lines ended by CR LF", attest.ClassParse, chain(func(p []byte) []byte { return bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n")) })},
	{"B73 another byte where a line ends", attest.ClassParse, chain(func(p []byte) []byte { p[len("-----BEGIN CERTIFICATE-----\n")+64] = ' '; return p })},
	{"B73 a line of 63 letters", attest.ClassParse, chain(func(p []byte) []byte {
		at := len("-----BEGIN CERTIFICATE-----\n") + 63
		p[at], p[at+1] = p[at+1], p[at]
		return p
	})},
	{"B73 a letter that is none of base64's", attest.ClassParse, chain(func(p []byte) []byte { p[40] = '*'; return p })},
	{"B73 bits behind the last byte", attest.ClassParse, func(s *scene) {
		s.Chain = func(c [][]byte) []byte {
			for c[0] = append(c[0], 0); len(c[0])%3 != 1; { // one byte over, of zero: AA==
				c[0] = append(c[0], 0)
			}
			return bytes.Replace(dcaptest.PEM(c...), []byte("A==\n"), []byte("B==\n"), 1)
		}
	}},
	{"B73 an empty certificate", attest.ClassParse, func(s *scene) { s.Chain = func(c [][]byte) []byte { return dcaptest.PEM(nil, c[1], c[2]) } }},
	{"B73 a header in a certificate", attest.ClassParse, chain(func(p []byte) []byte {
		return bytes.Replace(p, []byte("CERTIFICATE-----\n"), []byte("CERTIFICATE-----\nA: b\n\n"), 1)
	})},
	{"B73 a key among the certificates", attest.ClassParse, chain(func(p []byte) []byte { return bytes.ReplaceAll(p, []byte("CERTIFICATE"), []byte("PRIVATE KEY")) })},
	{"65 pieces of collateral", attest.ClassParse, func(s *scene) { s.More = slices.Repeat(attest.Collateral{{Kind: attest.KindToken}}, 65) }},
	{"65 pieces of collateral held", attest.ClassParse, func(s *scene) { s.Held = slices.Repeat(attest.Collateral{{Kind: attest.KindToken}}, 65) }},
}

// chain returns a spoiler of the chain's text.
func chain(f func([]byte) []byte) func(*scene) {
	return func(s *scene) { s.Chain = func(certs [][]byte) []byte { return f(dcaptest.PEM(certs...)) } }
}

// keyRefusals are about what the quoting enclave signed, and who it is.
var keyRefusals = []refusal{
	{"B64 attestation key of another enclave", attest.ClassChain, func(s *scene) { s.Unbound = func(d []byte) { d[0] ^= 1 } }},
	{"B64 other authentication data", attest.ClassChain, inData(384+64+2, 'A')},
	{"B64 something behind the digest", attest.ClassChain, func(s *scene) { s.Unbound = func(d []byte) { d[63] = 1 } }},
	{"B72 a key that is on no curve", attest.ClassSig, func(s *scene) { s.KeyBytes = func(xy []byte) []byte { return bytes.Repeat([]byte{1}, 64) } }},
	{"B72 a key of zeros", attest.ClassSig, func(s *scene) { s.KeyBytes = func(xy []byte) []byte { return make([]byte, 64) } }},
	{"B72 signed by another attestation key", attest.ClassSig, func(s *scene) {
		other := dcaptest.NewKey(elliptic.P256())
		s.KeyBytes = func([]byte) []byte { b, _ := other.PublicKey.Bytes(); return b[1:] }
	}},
	{"B72 r is zero", attest.ClassSig, layout(func(d []byte) []byte { clear(d[:32]); return d })},
	{"B72 s is zero", attest.ClassSig, layout(func(d []byte) []byte { clear(d[32:64]); return d })},
	{"B72 s is n", attest.ClassSig, layout(func(d []byte) []byte { elliptic.P256().Params().N.FillBytes(d[32:64]); return d })},
	{"the body changed after signing", attest.ClassSig, written(func(q []byte) []byte { q[120] ^= 1; return q })},
	{"the header's user data changed after signing", attest.ClassSig, written(func(q []byte) []byte { q[30] ^= 1; return q })},
	{"C85 report of the quoting enclave changed after signing", attest.ClassSig, inData(100, 1)},
	{"C85 report of the quoting enclave signed by another platform", attest.ClassSig, func(s *scene) { s.CertKey = &dcaptest.NewKey(elliptic.P256()).PublicKey }},
	{"B63 a quoting enclave of another signer", attest.ClassChain, enclave(128, 0)},
	{"B63 another signer, and no identity at hand", attest.ClassChain, func(s *scene) { s.QE[159] ^= 1; s.Identity = nil }},
	{"B63 a quoting enclave that can be debugged", attest.ClassChain, enclave(48, 0x17)},
	{"B63 the same, and no identity at hand", attest.ClassChain, func(s *scene) { s.QE[48] = 0x17; s.Identity = nil }},
}

// leaf returns a spoiler of the PCK certificate's template.
func leaf(f func(*x509.Certificate)) func(*scene) { return func(s *scene) { f(s.Leaf) } }

// with returns a spoiler that replaces an element of the SGX extension.
func with(e dcaptest.Element) func(*scene) { return func(s *scene) { s.With(e) } }

// without returns a spoiler that drops one.
func without(id ...int) func(*scene) { return func(s *scene) { s.Without(id...) } }

// authority returns a PKI's authority made anew under the trusted root, spoilt.
func authority(name string, f func(*x509.Certificate)) *dcaptest.Authority {
	t := dcaptest.Template(name, 9)
	t.IsCA, t.MaxPathLenZero, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	f(t)
	return dcaptest.Certify(t, dcaptest.Trusted().Root, nil)
}

var chainRefusals = []refusal{
	{"B65 a look-alike of the root", attest.ClassChain, func(s *scene) {
		p := dcaptest.Stranger()
		s.Issuer, s.Root = p.Platform, p.Root
	}},
	{"B65 a look-alike's chain with the right root at its end", attest.ClassChain, func(s *scene) { s.Issuer = dcaptest.Stranger().Platform }},
	{"B65 the right chain with a look-alike at its end", attest.ClassChain, func(s *scene) { s.Root = dcaptest.Stranger().Root }},
	{"B65 PCK certificate that names another issuer", attest.ClassChain, func(s *scene) { s.Issuer = as(s.Issuer, dcaptest.Trusted().Processor) }},
	{"B65 PCK certificate by the root itself", attest.ClassChain, func(s *scene) { s.Issuer = dcaptest.Trusted().Root }},
	{"B65 PCK certificate by the signer of TCB info", attest.ClassChain, func(s *scene) { s.Issuer = dcaptest.Trusted().TCBSigning }},
	{"B65 an intermediate of another name", attest.ClassChain, func(s *scene) { s.Issuer = authority("Intel SGX PCK Other CA", func(*x509.Certificate) {}) }},
	{"B65 an intermediate that is no authority", attest.ClassChain, func(s *scene) {
		s.Issuer = authority("Intel SGX PCK Platform CA", func(c *x509.Certificate) { c.IsCA, c.MaxPathLenZero = false, false })
	}},
	{"B65 an intermediate that may not sign certificates", attest.ClassChain, func(s *scene) {
		s.Issuer = authority("Intel SGX PCK Platform CA", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
	}},
	{"B65 an intermediate signed by SHA-384", attest.ClassChain, func(s *scene) {
		s.Issuer = authority("Intel SGX PCK Platform CA", func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 })
	}},
	{"B65 PCK certificate signed by SHA-512", attest.ClassChain, leaf(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA512 })},
	{"B65 certificates in another order", attest.ClassChain, func(s *scene) {
		s.Chain = func(c [][]byte) []byte { return dcaptest.PEM(c[2], c[1], c[0]) }
	}},
	{"B65 no root", attest.ClassChain, func(s *scene) { s.Chain = func(c [][]byte) []byte { return dcaptest.PEM(c[:2]...) } }},
	{"B65 four certificates", attest.ClassParse, func(s *scene) { s.Chain = func(c [][]byte) []byte { return dcaptest.PEM(c[0], c[1], c[2], c[2]) } }},
	{"B65 a certificate that is none", attest.ClassChain, func(s *scene) {
		s.Chain = func(c [][]byte) []byte { return dcaptest.PEM([]byte{0x30, 0}, c[1], c[2]) }
	}},
	{"PCK certificate of another name", attest.ClassChain, leaf(func(c *x509.Certificate) { c.Subject.CommonName = "Intel SGX TCB Signing" })},
	{"PCK certificate that is an authority", attest.ClassChain, leaf(func(c *x509.Certificate) { c.IsCA = true })},
	{"PCK certificate whose key is not for signatures", attest.ClassChain, leaf(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })},
	{"PCK certificate with an unknown critical extension", attest.ClassChain, leaf(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
	})},
	{"PCK certificate on P-384", attest.ClassChain, func(s *scene) { s.CertKey = &dcaptest.NewKey(elliptic.P384()).PublicKey }},
	{"PCK certificate with an RSA key", attest.ClassChain, func(s *scene) { s.CertKey = rsaKey() }},
	{"PCK certificate that has expired", attest.ClassTime, leaf(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) })},
	{"PCK certificate from the future", attest.ClassTime, leaf(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) })},
	{"intermediate that has expired", attest.ClassTime, func(s *scene) {
		s.Issuer = authority("Intel SGX PCK Platform CA", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) })
	}},
	{"two SGX extensions", attest.ClassChain, leaf(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: dcaptest.OID(), Value: []byte{0x30, 0}}}
	})},
	{"no SGX extension", attest.ClassChain, func(s *scene) { s.Extended = func([]byte) []byte { return nil } }},
	{"SGX extension with a byte behind it", attest.ClassChain, func(s *scene) { s.Extended = func(x []byte) []byte { return append(x, 0) } }},
	{"SGX extension that is cut", attest.ClassChain, func(s *scene) { s.Extended = func(x []byte) []byte { return x[:len(x)-1] } }},
	{"SGX extension with an element of the number 0", attest.ClassChain, func(s *scene) { s.Elements = append(s.Elements, dcaptest.ElementOf(1, 0)) }},
	{"SGX extension with an element of a longer number", attest.ClassChain, func(s *scene) {
		s.Without(7)
		s.Elements = append(s.Elements, dcaptest.ElementOf(1, 7, 1))
	}},
	{"SGX extension with an element of somebody else's", attest.ClassChain, func(s *scene) {
		foreign := dcaptest.ElementOf(make([]byte, 16), 6)
		foreign.ID = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 14, 1, 7}
		s.Elements[6] = foreign
	}},
	{"SGX extension with a PPID of another class", attest.ClassChain, with(dcaptest.ElementOf(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, Bytes: make([]byte, 16)}, 1))},
	{"SGX extension with a PPID in pieces", attest.ClassChain, with(dcaptest.ElementOf(asn1.RawValue{Tag: 4, IsCompound: true, Bytes: make([]byte, 16)}, 1))},
	{"SGX extension without a PPID", attest.ClassChain, without(1)},
	{"SGX extension without a TCB", attest.ClassChain, without(2)},
	{"SGX extension without a PCE id", attest.ClassChain, without(3)},
	{"SGX extension without an FMSPC", attest.ClassChain, without(4)},
	{"SGX extension without a type", attest.ClassChain, without(5)},
	{"SGX extension with an FMSPC of 5 bytes", attest.ClassChain, with(dcaptest.ElementOf(make([]byte, 5), 4))},
	{"SGX extension with an instance of text", attest.ClassChain, with(dcaptest.ElementOf("instance", 6))},
	{"SGX extension with an instance of 16 letters", attest.ClassChain, with(dcaptest.ElementOf("0123456789abcdef", 6))},
	{"SGX extension with an element twice", attest.ClassChain, func(s *scene) { s.Elements = append(s.Elements, s.Elements[0]) }},
	{"SGX extension with an unknown element", attest.ClassChain, func(s *scene) { s.Elements = append(s.Elements, dcaptest.ElementOf(1, 8)) }},
	{"SGX extension with a component of 256", attest.ClassChain, with(dcaptest.TCBElement(1, 256))},
	{"SGX extension with a component of -1", attest.ClassChain, with(dcaptest.TCBElement(16, -1))},
	{"SGX extension with a component of text", attest.ClassChain, with(dcaptest.TCBElement(2, "1"))},
	{"SGX extension with a PCESVN of 65536", attest.ClassChain, with(dcaptest.TCBElement(17, 65536))},
	{"SGX extension with a CPUSVN of 15 bytes", attest.ClassChain, with(dcaptest.TCBElement(18, make([]byte, 15)))},
	{"SGX extension with an empty TCB", attest.ClassChain, with(dcaptest.ElementOf([]dcaptest.Element{}, 2))},
}

func rsaKey() *rsa.PublicKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return &key.PublicKey
}

// tcbRefusals are of TDX's TCB info.
var tcbRefusals = []refusal{
	{"B69 TCB info of SGX", attest.ClassChain, info("id", "SGX")},
	{"B69 QE identity of SGX", attest.ClassChain, identity("id", "QE")},
	{"B59 a component of TDX's below every level", attest.ClassTCB, body(2, 1)},
	{"B59 levels without TDX's components", attest.ClassTCB, levels(func(l dcaptest.Object) { delete(l["tcb"].(dcaptest.Object), "tdxtcbcomponents") })},
	{"B59 levels with 15 of TDX's components", attest.ClassTCB, levels(func(l dcaptest.Object) {
		tcb := l["tcb"].(dcaptest.Object)
		tcb["tdxtcbcomponents"] = tcb["tdxtcbcomponents"].([]any)[:15]
	})},
}

// info returns a spoiler of the TCB info before it is signed.
func info(name string, value any) func(*scene) { return func(s *scene) { s.Info[name] = value } }

// identity does so with the QE identity.
func identity(name string, value any) func(*scene) {
	return func(s *scene) { s.Identity[name] = value }
}

// levels returns a spoiler of each level of the TCB info.
func levels(f func(dcaptest.Object)) func(*scene) {
	return func(s *scene) {
		for _, l := range s.Info["tcbLevels"].([]any) {
			f(l.(dcaptest.Object))
		}
	}
}

// module returns a spoiler of what the TCB info says of the TDX module of the scene.
func module(name string, value any) func(*scene) {
	return func(s *scene) { s.Info["tdxModuleIdentities"].([]any)[1].(dcaptest.Object)[name] = value }
}

var tdxModule = []refusal{
	{"B59 a TDX module of a version that has no identity", attest.ClassTCB, body(1, 2)},
	{"B59 a TDX module below every level", attest.ClassTCB, body(0, 1)},
	{"B59 TCB info without modules", attest.ClassTCB, info("tdxModuleIdentities", nil)},
	{"B59 a TDX module of another signer", attest.ClassTCB, body(64, 1)},
	{"B59 a TDX module with attributes", attest.ClassTCB, body(119, 0x80)},
	{"B59 a module's identity with a short mask", attest.ClassTCB, module("attributesMask", "FF")},
	{"B59 TDX 1.0, a module of another signer", attest.ClassTCB, func(s *scene) { s.TDX10(); s.Body[64] = 1 }},
	{"B59 TDX 1.0, a module with attributes", attest.ClassTCB, func(s *scene) { s.TDX10(); s.Body[112] = 1 }},
	{"B59 TDX 1.0, a module below every level", attest.ClassTCB, func(s *scene) { s.TDX10(); s.Body[0] = 3 }},
	{"B61 a module's level of an unknown status", attest.ClassTCB, module("tcbLevels", []any{dcaptest.SVNLevel("Fine", 0)})},
	{"B61 a module's level of a platform's status", attest.ClassTCB, module("tcbLevels", []any{dcaptest.SVNLevel("SWHardeningNeeded", 0)})},
}

func at(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }

var bothTCB = []refusal{
	{"B59 a component of the processor's below every level", attest.ClassTCB, with(dcaptest.TCBElement(16, 3))},
	{"B59 one component low where all others are high", attest.ClassTCB, func(s *scene) {
		s.With(dcaptest.TCBElement(1, 0))
		s.Info["tcbLevels"] = []any{dcaptest.Level("UpToDate", 1, 1, 1)}
	}},
	{"B59 the PCE below every level", attest.ClassTCB, with(dcaptest.TCBElement(17, 10))},
	{"B59 no levels", attest.ClassTCB, info("tcbLevels", []any{})},
	{"B59 levels with 15 components", attest.ClassTCB, levels(func(l dcaptest.Object) {
		tcb := l["tcb"].(dcaptest.Object)
		tcb["sgxtcbcomponents"] = tcb["sgxtcbcomponents"].([]any)[:15]
	})},
	{"B61 a level of an unknown status", attest.ClassTCB, info("tcbLevels", []any{dcaptest.Level("Fine", 1, 1, 1)})},
	{"B61 a quoting enclave of an unknown status", attest.ClassTCB, identity("tcbLevels", []any{dcaptest.SVNLevel("", 0)})},
	{"B63 ISVPRODID", attest.ClassChain, enclave(256, 3)},
	{"B63 high byte of ISVPRODID", attest.ClassChain, enclave(257, 1)},
	{"B63 MISCSELECT", attest.ClassChain, enclave(16, 1)},
	{"B63 flags", attest.ClassChain, enclave(48, 0x35)},
	{"B63 last byte of the flags", attest.ClassChain, enclave(55, 1)},
	{"B63 an identity of another signer", attest.ClassChain, identity("mrsigner", "00")},
	{"B63 an identity with a short mask", attest.ClassChain, identity("attributesMask", "FB")},
	{"B63 an identity without attributes", attest.ClassChain, identity("attributes", "")},
	{"B63 ISVSVN below every level", attest.ClassChain, enclave(258, 0)},
	{"C85 ISVSVN that is revoked", attest.ClassChain, enclave(258, 1)},
	{"B67 TCB info that has expired", attest.ClassTime, info("nextUpdate", at(-time.Second))},
	{"B67 TCB info from the future", attest.ClassTime, info("issueDate", at(time.Second))},
	{"B67 TCB info without an end", attest.ClassTime, func(s *scene) { delete(s.Info, "nextUpdate") }},
	{"B67 QE identity that has expired", attest.ClassTime, identity("nextUpdate", at(-time.Second))},
	{"B67 QE identity from the future", attest.ClassTime, identity("issueDate", at(time.Second))},
	{"B67 TCB info that has expired, held", attest.ClassTime, func(s *scene) {
		s.Info["nextUpdate"] = at(-time.Second)
		s.Held = attest.Collateral{s.InfoItem()}
		s.Info = nil
	}},
	{"B67 TCB info with a lower number than that which is held", attest.ClassTime, func(s *scene) {
		s.Info["tcbEvaluationDataNumber"] = 19
		s.Held = attest.Collateral{s.InfoItem()}
		s.Info["tcbEvaluationDataNumber"] = 18
	}},
	{"B67 the same, where that which is held has expired", attest.ClassTime, func(s *scene) {
		later := s.Info["nextUpdate"]
		s.Info["tcbEvaluationDataNumber"], s.Info["nextUpdate"] = 19, at(-time.Second)
		s.Held = attest.Collateral{s.InfoItem()}
		s.Info["tcbEvaluationDataNumber"], s.Info["nextUpdate"] = 18, later
	}},
	{"B67 QE identity with a lower number than that which is held", attest.ClassTime, func(s *scene) {
		s.Identity["tcbEvaluationDataNumber"] = 19
		s.Held = attest.Collateral{s.IdentityItem()}
		s.Identity["tcbEvaluationDataNumber"] = 18
	}},
	{"B67 the signer's certificate has expired", attest.ClassTime, signer(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) })},
	{"C90 TCB info and QE identity of two recoveries", attest.ClassTime, info("tcbEvaluationDataNumber", 19)},
	{"C90 QE identity of a later recovery", attest.ClassTime, identity("tcbEvaluationDataNumber", 19)},
	{"B68 TCB info of another FMSPC", attest.ClassChain, info("fmspc", "00906ED50000")},
	{"B68 TCB info of another PCE", attest.ClassChain, info("pceId", "0001")},
	{"B68 PCK certificate of another FMSPC", attest.ClassChain, with(dcaptest.ElementOf(make([]byte, 6), 4))},
	{"B68 PCK certificate of another PCE", attest.ClassChain, with(dcaptest.ElementOf([]byte{1, 0}, 3))},
	{"B69 TCB info of nothing", attest.ClassChain, info("id", "")},
	{"TCB info of version 2", attest.ClassParse, info("version", 2)},
	{"TCB info of type 1", attest.ClassParse, info("tcbType", 1)},
	{"QE identity of version 1", attest.ClassParse, identity("version", 1)},
	{"TCB info whose levels are text", attest.ClassParse, info("tcbLevels", "none")},
	{"TCB info whose FMSPC is not hex", attest.ClassParse, info("fmspc", "x")},
	{"QE identity whose mask is a number", attest.ClassParse, identity("attributesMask", 1)},
	{"TCB info with a component of 256", attest.ClassParse, info("tcbLevels", []any{dcaptest.Level("UpToDate", 256, 1, 1)})},
	{"TCB info that is not JSON", attest.ClassParse, func(s *scene) { s.InfoText = func([]byte) []byte { return []byte("{") } }},
	{"TCB info with a third member", attest.ClassParse, func(s *scene) {
		s.InfoText = func(b []byte) []byte { return bytes.Replace(b, []byte("{"), []byte(`{"a":1,`), 1) }
	}},
	{"TCB info with a short signature", attest.ClassParse, func(s *scene) { s.InfoText = func(b []byte) []byte { return append(b[:len(b)-4:len(b)-4], `"}`...) } }},
	{"TCB info of another name", attest.ClassParse, func(s *scene) {
		s.InfoText = func(b []byte) []byte { return bytes.Replace(b, []byte("tcbInfo"), []byte("TCBInfo"), 1) }
	}},
	{"TCB info of more than 64 KiB", attest.ClassParse, func(s *scene) {
		s.InfoText = func(b []byte) []byte { return append(b, bytes.Repeat([]byte(" "), 64<<10)...) }
	}},
	{"two TCB infos", attest.ClassParse, func(s *scene) { s.More = attest.Collateral{s.InfoItem()} }},
	{"two QE identities", attest.ClassParse, func(s *scene) { s.More = attest.Collateral{s.IdentityItem()} }},
	{"B65 TCB info changed after signing", attest.ClassSig, func(s *scene) {
		s.InfoText = func(b []byte) []byte { return bytes.Replace(b, []byte("OutOfDate"), []byte("UpToDate"), 1) }
	}},
	{"B65 TCB info with other spaces after signing", attest.ClassSig, func(s *scene) {
		s.InfoText = func(b []byte) []byte { return bytes.Replace(b, []byte(`"id":`), []byte(`"id": `), 1) }
	}},
	{"B65 QE identity changed after signing", attest.ClassSig, func(s *scene) {
		s.IdentityText = func(b []byte) []byte { return bytes.Replace(b, []byte(`:2`), []byte(`:1`), 1) }
	}},
	{"B65 TCB info signed by another key", attest.ClassSig, func(s *scene) { s.InfoBy = dcaptest.Stranger().TCBSigning }},
	{"B65 TCB info signed by the platform's authority", attest.ClassChain, func(s *scene) { s.InfoBy, s.Signer = s.Issuer, s.Issuer }},
	{"B65 TCB info of a look-alike", attest.ClassChain, func(s *scene) {
		s.InfoBy, s.IdentityBy, s.Signer = dcaptest.Stranger().TCBSigning, dcaptest.Stranger().TCBSigning, dcaptest.Stranger().TCBSigning
	}},
	{"B65 no certificate of the signer of TCB info", attest.ClassChain, func(s *scene) { s.Signer = nil }},
	{"B65 TCB info signed by an authority of the signer's name", attest.ClassChain, func(s *scene) {
		s.InfoBy = authority("Intel SGX TCB Signing", func(*x509.Certificate) {})
		s.Signer = s.InfoBy
	}},
	{"B65 an issuer chain that is not PEM", attest.ClassChain, func(s *scene) { s.More = attest.Collateral{{Kind: attest.KindIssuerChain, Bytes: []byte("MII")}} }},
	{"B65 an issuer chain of more than 16 KiB", attest.ClassChain, func(s *scene) {
		s.More = attest.Collateral{{Kind: attest.KindIssuerChain, Bytes: bytes.Repeat([]byte("\n"), 16<<10+1)}}
	}},
	{"B65 a certificate that does not parse", attest.ClassChain, func(s *scene) { s.More = attest.Collateral{{Kind: attest.KindCertificate, Bytes: []byte{0x30, 0}}} }},
	{"B65 a certificate of more than 16 KiB", attest.ClassChain, func(s *scene) {
		big := dcaptest.Template("Intel SGX TCB Signing", 9)
		big.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 16<<10)}}
		s.More = attest.Collateral{{Kind: attest.KindCertificate, Bytes: dcaptest.Certify(big, dcaptest.Trusted().Root, nil).Raw}}
	}},
	{"B65 a key in an issuer chain", attest.ClassChain, func(s *scene) {
		s.More = attest.Collateral{{Kind: attest.KindIssuerChain, Bytes: bytes.ReplaceAll(dcaptest.PEM(s.Root.Raw), []byte("CERTIFICATE"), []byte("PRIVATE KEY"))}}
	}},
	{"B65 an issuer chain of something else in PEM", attest.ClassChain, func(s *scene) {
		s.More = attest.Collateral{{Kind: attest.KindIssuerChain, Bytes: dcaptest.PEM([]byte{0x30, 0})}}
	}},
	{"33 certificates", attest.ClassChain, func(s *scene) {
		s.More = slices.Repeat(attest.Collateral{{Kind: attest.KindCertificate, Bytes: s.Root.Raw}}, 31)
	}},
}

// signer returns a spoiler that has another certificate of the trusted root sign TCB info and QE identity.
func signer(f func(*x509.Certificate)) func(*scene) {
	return func(s *scene) {
		t := dcaptest.Template("Intel SGX TCB Signing", 9)
		f(t)
		a := dcaptest.Certify(t, dcaptest.Trusted().Root, nil)
		s.InfoBy, s.IdentityBy, s.Signer = a, a, a
	}
}

// as returns an authority that signs under the name of another.
func as(by, name *dcaptest.Authority) *dcaptest.Authority {
	c := *by.Certificate
	c.RawSubject, c.Subject, c.KeyUsage = name.RawSubject, name.Subject, x509.KeyUsageCRLSign
	return &dcaptest.Authority{Certificate: &c, Key: by.Key}
}

// listRefusals are revocation lists.
func listRefusals() []refusal {
	p, stranger := dcaptest.Trusted(), dcaptest.Stranger()
	old := func(l *x509.RevocationList) { l.NextUpdate = now.Add(-time.Minute) }
	var list []refusal
	for _, one := range []struct {
		name string
		crl  attest.Item
	}{
		{"B66 PCK certificate on its list", dcaptest.List(p.Platform, dcaptest.Revoking(dcaptest.LeafSerial))},
		{"B66 intermediate on the root's list", dcaptest.List(p.Root, dcaptest.Revoking(2))},
		{"B66 root on its own list", dcaptest.List(p.Root, dcaptest.Revoking(1))},
		{"B66 signer of TCB info on the root's list", dcaptest.List(p.Root, dcaptest.Revoking(4))},
		{"B66 PCK certificate on a list that has expired", dcaptest.List(p.Platform, dcaptest.Revoking(dcaptest.LeafSerial), old)},
	} {
		list = append(list,
			refusal{one.name + ", sent", attest.ClassRevoked, func(s *scene) { s.More = attest.Collateral{one.crl} }},
			refusal{one.name + ", held", attest.ClassRevoked, func(s *scene) { s.Held = attest.Collateral{one.crl} }})
	}
	for _, one := range []struct {
		name string
		crl  attest.Item
	}{
		{"expired", dcaptest.List(p.Root, old)},
		{"expired, the intermediate's", dcaptest.List(p.Platform, old)},
		{"from the future", dcaptest.List(p.Root, func(l *x509.RevocationList) { l.ThisUpdate = now.Add(time.Minute) })},
		{"without an end", dcaptest.WithoutNextUpdate(dcaptest.List(p.Root), p.Root)},
		{"by another key", dcaptest.List(stranger.Root)},
		{"by another key, the intermediate's", dcaptest.List(stranger.Platform)},
		{"signed by the intermediate under the root's name", dcaptest.List(as(p.Platform, p.Root))},
		{"of the other intermediate", dcaptest.List(p.Processor)},
		{"with a critical extension", dcaptest.List(p.Root, func(l *x509.RevocationList) {
			l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 4}}} // a delta
		})},
		{"that does not parse", attest.Item{Kind: attest.KindCRL, Bytes: []byte{0x30, 0}}},
		{"of more than 128 KiB", dcaptest.List(p.Root, func(l *x509.RevocationList) {
			for serial := range int64(6000) {
				l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{
					SerialNumber: big.NewInt(1<<60 + serial), RevocationTime: now.AddDate(0, -1, 0),
				})
			}
		})},
	} {
		list = append(list, refusal{"B66 list " + one.name, attest.ClassRevoked, func(s *scene) { s.More = attest.Collateral{one.crl} }})
	}
	newer := func(l *x509.RevocationList) { l.Number = big.NewInt(6) }
	return append(list,
		refusal{"B66 root's list with a lower number than that which is held", attest.ClassRevoked, func(s *scene) {
			s.Held = attest.Collateral{dcaptest.List(p.Root, newer)}
		}},
		refusal{"B66 root's list without a number, where one is held", attest.ClassRevoked, func(s *scene) {
			s.Held = attest.Collateral{s.Lists[0]}
			s.Lists[0] = dcaptest.WithoutNumber(s.Lists[0], p.Root)
		}},
		refusal{"B66 intermediate's list with a lower number than that which is held, though expired", attest.ClassRevoked, func(s *scene) {
			s.Held = attest.Collateral{dcaptest.List(p.Platform, newer, old)}
		}})
}

// TestOptions: what may not stand as a simulated root.
func TestOptions(t *testing.T) {
	p := dcaptest.Trusted()
	self := func(curve elliptic.Curve) *x509.Certificate {
		t := dcaptest.Template("Intel SGX Root CA", 1)
		t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign
		key := dcaptest.NewKey(curve)
		der, _ := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
		cert, _ := x509.ParseCertificate(der)
		return cert
	}
	for _, o := range []struct {
		name  string
		roots map[string]*x509.Certificate
	}{
		{"no name", map[string]*x509.Certificate{"": p.Root.Certificate}},
		{"no certificate", map[string]*x509.Certificate{"a": nil}},
		{"an intermediate", map[string]*x509.Certificate{"a": p.Platform.Certificate}},
		{"no authority", map[string]*x509.Certificate{"a": p.TCBSigning.Certificate}},
		{"on P-384", map[string]*x509.Certificate{"a": self(elliptic.P384())}},
		{"one root, two names", map[string]*x509.Certificate{"a": p.Root.Certificate, "b": p.Root.Certificate}},
		{"Intel's own", map[string]*x509.Certificate{"a": intel(t)}},
	} {
		t.Run(o.name, func(t *testing.T) {
			if _, err := dcap.NewVerifier(dcap.Options{SimulatedRoots: o.roots}); err == nil {
				t.Error("NewVerifier accepted")
			}
		})
	}
	if _, err := dcap.NewVerifier(dcap.Options{SimulatedRoots: map[string]*x509.Certificate{"a": self(elliptic.P256()), "b": p.Root.Certificate}}); err != nil {
		t.Errorf("NewVerifier of two roots: %v", err)
	}
}

// TestRootsApart: what chains to a private root is nothing to a verifier that does not know it.
func TestRootsApart(t *testing.T) {
	q, err := dcap.Parse(dcaptest.NewTDX().Quote(), dcap.TDX)
	if err != nil {
		t.Fatal(err)
	}
	v, fault := dcap.NewVerifier(dcap.Options{})
	if fault != nil {
		t.Fatal(fault)
	}
	if _, err := v.Verify(q, nil, nil, now); err == nil || err.Class != attest.ClassChain {
		t.Errorf("Verify: %v, want the class CHAIN", err)
	}
}
