package nitro_test

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hf/nitrite"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/nitro"
)

// A refusal is something wrong with a document that is rightly signed, and the class that it must be refused with. Names
// begin with the case's number in the list of what a great verifier must refuse.
type refusal struct {
	name  string
	class attest.Class
	spoil func(*scene)
}

func TestRefuses(t *testing.T) {
	for _, list := range [][]refusal{
		documentRefusals, timeRefusals, chainRefusals(), coseRefusals(), signatureRefusals(), bindingRefusals, cborRefusals(),
	} {
		for _, r := range list {
			t.Run(numbered(r.name), func(t *testing.T) {
				s := newScene()
				r.spoil(s)
				claims, err := s.verify(t)
				wantClass(t, "Verify", err, r.class)
				if claims.Nitro != nil || claims.Type != 0 {
					t.Errorf("Verify refused and gave claims: %+v", claims)
				}
				if err == nil {
					return
				}
				if strings.Contains(err.Error(), "panicked") {
					t.Errorf("Verify = %v: a plain refusal must come before the panic", err)
				}
				// Names are constrained nowhere in AWS's chains; all else must be refused here already.
				if strings.Contains(err.Error(), "by nitrite: ") != strings.Contains(r.name, "name constraints") {
					t.Errorf("Verify = %v: refused in another place than it should be", err)
				}
			})
		}
	}
}

// numbered returns the name of a subtest, NUMBER/WHAT, of a case "D92 what".
func numbered(name string) string {
	number, what, found := strings.Cut(name, " ")
	if n, err := strconv.Atoi(number[1:]); err == nil && found {
		return fmt.Sprintf("%03d/%s", n, what)
	}
	return "other/" + name
}

func zeroBytes(n int) []byte { return bstr(make([]byte, n)) }

var documentRefusals = []refusal{
	{"D95 no PCR0", attest.ClassParse, func(s *scene) { s.pcrs = s.pcrs[1:] }},
	{"D95 no PCR2", attest.ClassParse, func(s *scene) { s.pcrs = slices.Delete(s.pcrs, 2, 3) }},
	{"D95 no registers", attest.ClassParse, func(s *scene) { s.pcrs = nil }},
	{"D95 registers absent", attest.ClassParse, without("pcrs")},
	{"D96 PCR32", attest.ClassParse, register(15, number(32), zeroBytes(48))},
	{"D96 PCR2^63", attest.ClassParse, register(15, number(1<<63), zeroBytes(48))},
	{"D96 PCR-1", attest.ClassParse, register(15, head(1, 0), zeroBytes(48))},
	{"D96 a text for an index", attest.ClassParse, register(15, tstr("15"), zeroBytes(48))},
	{"D96 PCR0 twice", attest.ClassParse, register(15, number(0), zeroBytes(48))},
	{"D96 PCR0 twice, once in a longer form", attest.ClassParse, register(15, []byte{0x18, 0}, zeroBytes(48))},
	{"D96 a register of 32 bytes", attest.ClassParse, register(0, number(0), zeroBytes(32))},
	{"D96 a register of 64 bytes", attest.ClassParse, register(0, number(0), zeroBytes(64))},
	{"D96 a register of 47 bytes", attest.ClassParse, register(15, number(15), zeroBytes(47))},
	{"D96 a register of none", attest.ClassParse, register(15, number(15), zeroBytes(0))},
	{"D96 a register that is null", attest.ClassParse, register(15, number(15), null)},
	{"D96 a register that is a number", attest.ClassParse, register(15, number(15), number(48))},
	{"D96 33 registers", attest.ClassParse, func(s *scene) {
		for i := uint64(16); i < 33; i++ {
			s.pcrs = append(s.pcrs, field{number(i), zeroBytes(48)})
		}
	}},
	{"D96 registers as a list", attest.ClassParse, with("pcrs", list(zeroBytes(48), zeroBytes(48), zeroBytes(48)))},
	{"D97 digest SHA256", attest.ClassParse, with("digest", tstr("SHA256"))},
	{"D97 digest in lower case", attest.ClassParse, with("digest", tstr("sha384"))},
	{"D97 digest empty", attest.ClassParse, with("digest", tstr(""))},
	{"D97 digest absent", attest.ClassParse, without("digest")},
	{"D97 digest as bytes", attest.ClassParse, with("digest", bstr([]byte("SHA384")))},
	{"module_id empty", attest.ClassParse, with("module_id", tstr(""))},
	{"module_id absent", attest.ClassParse, without("module_id")},
	{"module_id of 257 bytes", attest.ClassParse, with("module_id", tstr(strings.Repeat("x", 257)))},
	{"module_id that is not UTF-8", attest.ClassParse, with("module_id", tstr("i-\xff"))},
	{"an unknown field", attest.ClassParse, func(s *scene) { s.document = append(s.document, field{tstr("more"), number(1)}) }},
	{"a field in another case", attest.ClassParse, func(s *scene) { s.document[s.at("nonce")].key = tstr("Nonce") }},
}

// made returns a spoiler that has the document made at t.
func made(t time.Time) func(*scene) { return with("timestamp", number(uint64(t.UnixMilli()))) }

var timeRefusals = []refusal{
	{"D98 certificate expired", attest.ClassTime, func(s *scene) {
		s.leaf.NotBefore, s.leaf.NotAfter = now.Add(-4*time.Hour), now.Add(-time.Second)
		made(now.Add(-3 * time.Hour))(s)
	}},
	{"D98 certificate not yet valid", attest.ClassTime, func(s *scene) { s.leaf.NotBefore = now.Add(time.Second) }},
	{"D98 an authority expired", attest.ClassTime, func(s *scene) {
		s.pki = s.pki.cut(3)
		old := template("instance")
		old.NotAfter, old.MaxPathLenZero = now.Add(-time.Second), true
		s.pki.add(old, ecKey(elliptic.P384(), "old instance"))
	}},
	{"D98 all expired", attest.ClassTime, func(s *scene) { s.now = now.AddDate(2, 0, 0) }},
	{"D98 nothing valid yet", attest.ClassTime, func(s *scene) { s.now = now.AddDate(-2, 0, 0) }},
	{"D98 no instant", attest.ClassTime, func(s *scene) { s.now = time.Time{} }},
	{"D98 made before its certificate", attest.ClassTime, func(s *scene) { made(s.leaf.NotBefore.Add(-61 * time.Second))(s) }},
	{"D98 made after its certificate", attest.ClassTime, func(s *scene) {
		s.leaf.NotBefore, s.leaf.NotAfter = now.Add(-time.Hour), now
		s.now = now
		made(now.Add(61 * time.Second))(s)
	}},
	{"D98 made after now", attest.ClassTime, made(now.Add(time.Minute + time.Millisecond))},
	{"D98 timestamp 0", attest.ClassParse, with("timestamp", number(0))},
	{"D98 timestamp absent", attest.ClassParse, without("timestamp")},
	{"D98 timestamp negative", attest.ClassParse, with("timestamp", head(1, 5))},
	{"D98 timestamp beyond 2^53", attest.ClassParse, with("timestamp", number(1<<53+1))},
	{"D98 timestamp as a fraction", attest.ClassParse, with("timestamp", binary.BigEndian.AppendUint64([]byte{0xfb}, 0x4277000000000000))},
	{"D98 timestamp as text", attest.ClassParse, with("timestamp", tstr("2026-03-01T12:00:00Z"))},
}

// under returns a spoiler that puts an authority in the instance's place, altered by f.
func under(f func(*x509.Certificate)) func(*scene) {
	return func(s *scene) {
		s.pki = s.pki.cut(3)
		next := template("instance")
		next.MaxPathLenZero = true
		f(next)
		s.pki.add(next, ecKey(elliptic.P384(), "altered instance"))
	}
}

// keyed returns a spoiler that gives the document's certificate a key of another kind, and the signature the one length that
// gets as far as the chain.
func keyed(key crypto.Signer) func(*scene) {
	return func(s *scene) { s.key, s.signature = key, func([]byte) []byte { return make([]byte, 96) } }
}

// posing returns an authority's certificate with another one's key: who signs by it says that it was the first.
func posing(p *pki, as, key int) *x509.Certificate {
	c := *p.certs[as]
	c.PublicKey = p.keys[key].Public()
	return &c
}

func chainRefusals() []refusal {
	good, stranger := pkis()["demo"], pkis()["stranger"]
	raw := func(certs ...*x509.Certificate) (all [][]byte) {
		for _, c := range certs {
			all = append(all, c.Raw)
		}
		return all
	}
	again := template("aws.nitro-enclaves")
	again.SerialNumber = big.NewInt(77)
	reissued := certificate(again, again, &good.keys[0].PublicKey, good.keys[0])
	return []refusal{
		{"D99 a stranger's root under AWS's names", attest.ClassChain, func(s *scene) { s.pki = stranger }},
		{"D99 a stranger's authorities under the true root", attest.ClassChain, func(s *scene) {
			s.pki = stranger
			s.bundle = append(raw(good.certs[0]), raw(stranger.certs[1:]...)...)
		}},
		{"D99 the root's key in another certificate", attest.ClassChain, func(s *scene) {
			s.bundle = append(raw(reissued), raw(good.certs[1:]...)...)
		}},
		{"D99 self-signed document certificate", attest.ClassChain, func(s *scene) {
			s.issuer, s.by = s.leaf, ecKey(elliptic.P384(), "document")
		}},
		{"D100 bundle empty", attest.ClassChain, func(s *scene) { s.bundle = [][]byte{} }},
		{"D100 bundle absent", attest.ClassChain, without("cabundle")},
		{"D100 bundle null", attest.ClassChain, with("cabundle", null)},
		{"D100 bundle without its root", attest.ClassChain, func(s *scene) { s.bundle = raw(good.certs[1:]...) }},
		{"D100 bundle reversed", attest.ClassChain, func(s *scene) {
			s.bundle = raw(good.certs...)
			slices.Reverse(s.bundle)
		}},
		{"D100 two authorities exchanged", attest.ClassChain, func(s *scene) {
			s.bundle = raw(good.certs[0], good.certs[2], good.certs[1], good.certs[3])
		}},
		{"D100 an authority left out", attest.ClassChain, func(s *scene) { s.bundle = raw(good.certs[0], good.certs[1], good.certs[3]) }},
		{"D100 an element of no bytes", attest.ClassChain, func(s *scene) { s.bundle = append(raw(good.certs...), nil) }},
		{"D100 an element of 1025 bytes", attest.ClassChain, func(s *scene) { s.bundle = append(raw(good.certs...), make([]byte, 1025)) }},
		{"D100 nine elements", attest.ClassChain, func(s *scene) {
			s.pki = s.pki.cut(1)
			for i := range 8 {
				next := template("authority")
				next.MaxPathLen, next.MaxPathLenZero = 7-i, i == 7
				s.pki.add(next, ecKey(elliptic.P384(), "authority"))
			}
		}},
		{"D100 an element that is no certificate", attest.ClassChain, func(s *scene) { s.bundle = append(raw(good.certs[:3]...), []byte{0x30, 0}) }},
		{"D100 bytes behind an element", attest.ClassChain, func(s *scene) {
			s.bundle = append(raw(good.certs[:3]...), append(slices.Clone(good.certs[3].Raw), 0))
		}},
		{"D100 path length too short", attest.ClassChain, func(s *scene) {
			next := template("below")
			next.MaxPathLenZero = true
			s.pki = s.pki.cut(4) // the instance allows no authority below it
			s.pki.add(next, ecKey(elliptic.P384(), "below"))
		}},
		{"D100 an authority that may not sign certificates", attest.ClassChain, under(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })},
		{"D100 an authority without a key usage", attest.ClassChain, under(func(c *x509.Certificate) { c.KeyUsage = 0 })},
		{"D100 an authority that is none", attest.ClassChain, under(func(c *x509.Certificate) {
			c.IsCA, c.MaxPathLenZero, c.MaxPathLen = false, false, 0
		})},
		{"D100 an authority with an unknown critical extension", attest.ClassChain, under(func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		})},
		{"D100 an authority signed with SHA-256", attest.ClassChain, under(func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA256 })},
		{"D100 an authority on P-256", attest.ClassChain, func(s *scene) {
			s.pki = s.pki.cut(3)
			next := template("instance")
			next.MaxPathLenZero = true
			s.pki.add(next, ecKey(elliptic.P256(), "instance on P-256"))
		}},
		{"D100 the certificate is an authority's", attest.ClassChain, func(s *scene) { s.leaf.IsCA = true }},
		{"D100 the certificate may not sign documents", attest.ClassChain, func(s *scene) { s.leaf.KeyUsage = x509.KeyUsageKeyAgreement }},
		{"D100 the certificate names another issuer", attest.ClassChain, func(s *scene) { s.issuer, s.by = posing(good, 2, 3), good.keys[3] }},
		{"D100 the certificate by another key", attest.ClassChain, func(s *scene) { s.issuer, s.by = posing(good, 3, 2), good.keys[2] }},
		{"D100 the certificate has an unknown critical extension", attest.ClassChain, func(s *scene) {
			s.leaf.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		}},
		{"D100 the certificate's name constraints shut it out", attest.ClassChain, func(s *scene) {
			under(func(c *x509.Certificate) {
				c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"example.org"}, true
			})(s)
			s.leaf.DNSNames = []string{"example.com"}
		}},
		{"D100 certificate absent", attest.ClassChain, without("certificate")},
		{"D100 certificate empty", attest.ClassChain, with("certificate", bstr(nil))},
		{"D100 certificate of 1025 bytes", attest.ClassChain, with("certificate", zeroBytes(1025))},
		{"D100 certificate that is good, but of more than 1024 bytes", attest.ClassChain, func(s *scene) {
			s.leaf.DNSNames = []string{strings.Repeat("a.", 250) + "example"}
			s.leaf.Subject.Locality = []string{strings.Repeat("x", 120)}
		}},
		{"D100 certificate that does not parse", attest.ClassChain, with("certificate", bstr([]byte{0x30, 0}))},
		// nitrite panics on a key on P-521; its chain is in order here.
		{"D100 document key on P-521", attest.ClassChain, keyed(ecKey(elliptic.P521(), "document"))},
		{"D100 document key on P-521, a stranger's", attest.ClassChain, func(s *scene) {
			keyed(ecKey(elliptic.P521(), "document"))(s)
			s.pki = stranger
		}},
		{"D100 document key on P-256", attest.ClassChain, keyed(ecKey(elliptic.P256(), "document"))},
		{"D100 document key of RSA", attest.ClassChain, keyed(must(rsa.GenerateKey(rand.Reader, 2048)))},
		{"D98 expired, and a stranger's: the chain comes first", attest.ClassChain, func(s *scene) {
			s.pki, s.now = stranger, now.AddDate(2, 0, 0)
		}},
	}
}

// sent returns a spoiler that puts the envelope together in another way.
func sent(f func(p, u, payload, sig []byte) []byte) func(*scene) {
	return func(s *scene) { s.envelope = f }
}

// tagged returns a spoiler that puts bytes before the envelope.
func tagged(tag ...byte) func(*scene) {
	return sent(func(p, u, payload, sig []byte) []byte {
		return append(tag, list(bstr(p), u, bstr(payload), bstr(sig))...)
	})
}

func coseRefusals() []refusal {
	alg := func(value []byte) func(*scene) {
		return func(s *scene) { s.protected = mapOf(field{number(1), value}) }
	}
	unprotected := func(b []byte) func(*scene) { return func(s *scene) { s.unprotected = b } }
	return []refusal{
		{"D101 ES256", attest.ClassSig, alg(head(1, 6))},
		{"D101 ES512", attest.ClassSig, alg(head(1, 35))},
		{"D101 ES384 by its name", attest.ClassSig, alg(tstr("ES384"))},
		{"D101 algorithm 0", attest.ClassSig, alg(number(0))},
		{"D101 no protected header", attest.ClassSig, func(s *scene) { s.protected = nil }},
		{"D101 protected header of none", attest.ClassSig, func(s *scene) { s.protected = mapOf() }},
		{"D101 algorithm in the unprotected header", attest.ClassSig, func(s *scene) { s.protected, s.unprotected = nil, mapOf(field{number(1), head(1, 34)}) }},
		{"D101 a second header beside it", attest.ClassSig, func(s *scene) {
			s.protected = mapOf(field{number(1), head(1, 34)}, field{number(4), bstr([]byte("kid"))})
		}},
		{"D101 critical header", attest.ClassSig, func(s *scene) {
			s.protected = mapOf(field{number(1), head(1, 34)}, field{number(2), list(number(1))})
		}},
		{"D101 ES384 in a longer form", attest.ClassSig, func(s *scene) { s.protected = []byte{0xa1, 0x01, 0x39, 0, 34} }},
		{"D101 tag 98, COSE_Sign", attest.ClassSig, tagged(head(6, 98)...)},
		{"D101 tag 17, COSE_Mac0", attest.ClassSig, tagged(head(6, 17)...)},
		{"D101 tag 61, CWT, around tag 18", attest.ClassSig, tagged(append(head(6, 61), head(6, 18)...)...)},
		{"D101 tag 18 twice", attest.ClassParse, tagged(0xd2, 0xd2)},
		{"D101 tag 18 in a longer form", attest.ClassSig, tagged(0xd8, 18)},
		{"D101 tag 55799, self-described CBOR", attest.ClassSig, tagged(head(6, 55799)...)},
		{"D102 unprotected header", attest.ClassParse, unprotected(mapOf(field{number(4), bstr([]byte("kid"))}))},
		{"D102 unprotected header null", attest.ClassParse, unprotected(null)},
		{"D102 unprotected header a list", attest.ClassParse, unprotected(list())},
		{"D102 unprotected header as bytes", attest.ClassParse, unprotected(bstr(mapOf()))},
		{"D103 payload nil", attest.ClassParse, sent(func(p, u, _, sig []byte) []byte { return list(bstr(p), u, null, bstr(sig)) })},
		{"D103 payload empty", attest.ClassParse, func(s *scene) { s.payload = func([]field) []byte { return nil } }},
		{"D103 payload above 16384 bytes, by its user_data", attest.ClassParse, with("user_data", zeroBytes(13_500))},
		{"D103 payload not in bytes", attest.ClassParse, sent(func(p, u, payload, sig []byte) []byte { return list(bstr(p), u, payload, bstr(sig)) })},
		{"D103 payload as text", attest.ClassParse, sent(func(p, u, payload, sig []byte) []byte {
			return list(bstr(p), u, tstr(string(payload)), bstr(sig))
		})},
		{"D103 a document of 20000 bytes", attest.ClassParse, sent(func(_, _, _, _ []byte) []byte { return make([]byte, 20000) })},
	}
}

func signatureRefusals() []refusal {
	order := elliptic.P384().Params().N
	half := func(at int, v *big.Int) func(*scene) {
		return func(s *scene) {
			s.signature = func(sig []byte) []byte { v.FillBytes(sig[at:][:48]); return sig }
		}
	}
	signed := func(f func([]byte) []byte) func(*scene) { return func(s *scene) { s.signature = f } }
	return []refusal{
		{"D104 95 bytes", attest.ClassSig, signed(func(sig []byte) []byte { return sig[:95] })},
		{"D104 97 bytes", attest.ClassSig, signed(func(sig []byte) []byte { return append(sig, 0) })},
		{"D104 a zero before it", attest.ClassSig, signed(func(sig []byte) []byte { return append([]byte{0}, sig...) })},
		{"D104 DER form", attest.ClassSig, signed(derSignature)},
		{"D104 no signature", attest.ClassSig, signed(func([]byte) []byte { return nil })},
		{"D104 r is zero", attest.ClassSig, half(0, new(big.Int))},
		{"D104 s is zero", attest.ClassSig, half(48, new(big.Int))},
		{"D104 r is n", attest.ClassSig, half(0, order)},
		{"D104 s is n", attest.ClassSig, half(48, order)},
		{"D104 halves exchanged", attest.ClassSig, signed(func(sig []byte) []byte { return append(sig[48:96:96], sig[:48]...) })},
		{"D104 by another key than the certificate's", attest.ClassSig, func(s *scene) {
			s.certKey = &ecKey(elliptic.P384(), "another").PublicKey
		}},
		{"D104 by the instance's key", attest.ClassSig, func(s *scene) {
			s.certKey, s.key = s.key.Public(), s.pki.keys[3]
		}},
		{"D104 over another payload", attest.ClassSig, sent(func(p, u, payload, sig []byte) []byte {
			payload = bytes.Replace(payload, bytes.Repeat([]byte("a"), 48), bytes.Repeat([]byte("x"), 48), 1)
			return list(bstr(p), u, bstr(payload), bstr(sig))
		})},
		{"D104 over COSE_Sign's structure", attest.ClassSig, func(s *scene) {
			var payload []byte
			s.payload = func(pairs []field) []byte { payload = mapOf(pairs...); return payload }
			s.signature = func([]byte) []byte {
				digest, hash, size := hashOf(elliptic.P384(), list(tstr("Signature"), bstr(s.protected), bstr(nil), bstr(payload)))
				return rawSignature(must(s.key.Sign(nil, digest, hash)), size)
			}
		}},
	}
}

var bindingRefusals = []refusal{
	{"D105 nonce absent", attest.ClassBind, without("nonce")},
	{"D105 nonce null", attest.ClassBind, with("nonce", null)},
	{"D105 nonce empty", attest.ClassBind, with("nonce", bstr(nil))},
	{"D105 nonce differs in its first bit", attest.ClassBind, func(s *scene) { s.binding.Nonce[0] ^= 0x80 }},
	{"D105 nonce differs in its last bit", attest.ClassBind, func(s *scene) { s.binding.Nonce[31] ^= 1 }},
	{"D105 nonce of 31 bytes", attest.ClassBind, with("nonce", bstr(nonce[:31]))},
	{"D105 nonce with a zero behind", attest.ClassBind, with("nonce", bstr(append(nonce[:32:32], 0)))},
	{"D105 nonce of 513 bytes", attest.ClassBind, with("nonce", zeroBytes(513))},
	{"D105 nonce of 1025 bytes", attest.ClassBind, with("nonce", zeroBytes(1025))},
	{"D105 nonce as text", attest.ClassParse, with("nonce", tstr("nonce"))},
	{"D106 user_data absent", attest.ClassBind, without("user_data")},
	{"D106 user_data null", attest.ClassBind, with("user_data", null)},
	{"D106 user_data differs in its last bit", attest.ClassBind, func(s *scene) { s.binding.ReportData[63] ^= 1 }},
	{"D106 user_data equal in the first 32 bytes", attest.ClassBind, func(s *scene) { clear(s.binding.ReportData[32:]) }},
	{"D106 user_data of the first 63 bytes", attest.ClassBind, with("user_data", bstr(data[:63]))},
	{"D106 user_data with a byte more", attest.ClassBind, with("user_data", bstr(append(data[:64:64], 0)))},
	{"D106 user_data of 1025 bytes", attest.ClassBind, with("user_data", zeroBytes(1025))},
	{"D106 user_data is the nonce", attest.ClassBind, with("user_data", bstr(nonce[:]))},
	{"D107 public_key absent", attest.ClassBind, without("public_key")},
	{"D107 public_key null", attest.ClassBind, with("public_key", null)},
	{"D107 public_key absent, and none wanted", attest.ClassBind, func(s *scene) {
		without("public_key")(s)
		s.binding.SPKI = nil
	}},
	{"D107 public_key empty, and none wanted", attest.ClassBind, func(s *scene) {
		with("public_key", bstr(nil))(s)
		s.binding.SPKI = nil
	}},
	{"D107 another public_key", attest.ClassBind, func(s *scene) { s.binding.SPKI = bytesOf("another public key", 91) }},
	{"D107 public_key cut", attest.ClassBind, with("public_key", bstr(spki[:90]))},
	{"D107 public_key of 1025 bytes", attest.ClassBind, with("public_key", zeroBytes(1025))},
}

func cborRefusals() []refusal {
	payload := func(f func(pairs []field) []byte) func(*scene) { return func(s *scene) { s.payload = f } }
	deep := slices.Concat(bytes.Repeat([]byte{0x81}, 100), number(1))
	return []refusal{
		{"D108 nothing", attest.ClassParse, sent(func(_, _, _, _ []byte) []byte { return nil })},
		{"D108 tag 18 alone", attest.ClassParse, sent(func(_, _, _, _ []byte) []byte { return []byte{0xd2} })},
		{"D108 a map", attest.ClassParse, sent(func(_, _, _, _ []byte) []byte { return mapOf() })},
		{"D108 three parts", attest.ClassParse, sent(func(p, u, payload, _ []byte) []byte { return list(bstr(p), u, bstr(payload)) })},
		{"D108 five parts", attest.ClassParse, sent(func(p, u, payload, sig []byte) []byte {
			return list(bstr(p), u, bstr(payload), bstr(sig), null)
		})},
		{"D108 envelope of indefinite length", attest.ClassParse, sent(func(p, u, payload, sig []byte) []byte {
			return slices.Concat(endless[4], bstr(p), u, bstr(payload), bstr(sig), stop)
		})},
		{"D108 payload's bytes of indefinite length", attest.ClassParse, sent(func(p, u, payload, sig []byte) []byte {
			return list(bstr(p), u, slices.Concat(endless[2], bstr(payload), stop), bstr(sig))
		})},
		{"D108 unprotected header of indefinite length", attest.ClassParse, func(s *scene) { s.unprotected = append(endless[5][:1:1], stop...) }},
		{"D108 bytes behind the envelope", attest.ClassParse, sent(func(p, u, payload, sig []byte) []byte {
			return append(list(bstr(p), u, bstr(payload), bstr(sig)), 0)
		})},
		{"D108 envelope in a longer form", attest.ClassParse, sent(func(p, u, payload, sig []byte) []byte {
			return slices.Concat([]byte{0x98, 4}, bstr(p), u, bstr(payload), bstr(sig))
		})},
		{"D108 protected header in a longer form", attest.ClassParse, sent(func(p, u, payload, sig []byte) []byte {
			return list(append([]byte{0x58, byte(len(p))}, p...), u, bstr(payload), bstr(sig))
		})},
		{"D108 envelope cut short", attest.ClassParse, sent(func(p, u, payload, sig []byte) []byte {
			whole := list(bstr(p), u, bstr(payload), bstr(sig))
			return whole[:len(whole)-1]
		})},
		{"D108 bytes behind the document", attest.ClassParse, payload(func(pairs []field) []byte { return append(mapOf(pairs...), 0) })},
		{"D108 the document cut short", attest.ClassParse, payload(func(pairs []field) []byte {
			whole := mapOf(pairs...)
			return whole[:len(whole)-1]
		})},
		{"D108 the document without its end", attest.ClassParse, payload(func(pairs []field) []byte {
			return slices.Concat(endless[5], mapOf(pairs...)[1:])
		})},
		{"D108 a list for a document", attest.ClassParse, payload(func([]field) []byte { return list(number(1)) })},
		{"D108 null for a document", attest.ClassParse, payload(func([]field) []byte { return null })},
		{"D108 a field twice", attest.ClassParse, func(s *scene) { s.document = append(s.document, s.document[s.at("nonce")]) }},
		{"D108 a field twice, the second in pieces", attest.ClassParse, func(s *scene) {
			s.document = append(s.document, field{slices.Concat(endless[3], tstr("non"), tstr("ce"), stop), bstr(nonce[:])})
		}},
		{"D108 another user_data behind the right one", attest.ClassParse, func(s *scene) {
			s.document = append(s.document, field{tstr("user_data"), zeroBytes(64)})
		}},
		{"D108 a field with a number for its name", attest.ClassParse, func(s *scene) {
			s.document = append(s.document, field{number(1), number(1)})
		}},
		{"D108 deep nesting", attest.ClassParse, with("module_id", deep)},
		{"D108 deep nesting in the unprotected header", attest.ClassParse, func(s *scene) { s.unprotected = deep }},
		{"D108 a length beyond the end", attest.ClassParse, with("module_id", head(3, 1<<40))},
		{"D108 a tag inside", attest.ClassParse, with("module_id", append(head(6, 32), tstr("i-0")...))},
		{"D108 ten thousand registers claimed", attest.ClassParse, with("pcrs", head(5, 10_000))},
		{"D108 the document itself, not signed", attest.ClassParse, sent(func(_, _, payload, _ []byte) []byte { return payload })},
	}
}

// TestOptions: roots that must not be trusted under a name.
func TestOptions(t *testing.T) {
	demo, stranger := pkis()["demo"], pkis()["stranger"]
	key := ecKey(elliptic.P256(), "root")
	small := template("aws.nitro-enclaves")
	onP256 := certificate(&x509.Certificate{
		SerialNumber: small.SerialNumber, Subject: small.Subject, NotBefore: small.NotBefore, NotAfter: small.NotAfter,
		SignatureAlgorithm: x509.ECDSAWithSHA384, BasicConstraintsValid: true, IsCA: true, KeyUsage: small.KeyUsage,
	}, small, &key.PublicKey, key)
	mute := template("mute")
	mute.KeyUsage = x509.KeyUsageCRLSign
	for _, o := range []struct {
		name  string
		roots map[string][]*x509.Certificate
		want  string
	}{
		{"no name", map[string][]*x509.Certificate{"": demo.certs[:1]}, "want a name and one certificate"},
		{"nothing", map[string][]*x509.Certificate{"a": nil}, "0 certificates"},
		{"two certificates", map[string][]*x509.Certificate{"a": demo.certs[:2]}, "2 certificates"},
		{"not self-signed", map[string][]*x509.Certificate{"a": demo.certs[1:2]}, "not self-signed"},
		{"on P-256", map[string][]*x509.Certificate{"a": {onP256}}, "not on P-384"},
		{"may not sign certificates", map[string][]*x509.Certificate{"a": {
			certificate(mute, mute, &demo.keys[0].PublicKey, demo.keys[0]),
		}}, "may not sign"},
		{"one root, two names", map[string][]*x509.Certificate{"a": demo.certs[:1], "b": demo.certs[:1]}, "that of another root"},
		{"AWS's own", map[string][]*x509.Certificate{"a": {awsRoot(t)}}, "that of another root"},
	} {
		t.Run(o.name, func(t *testing.T) {
			_, err := nitro.NewVerifier(nitro.Options{SimulatedRoots: o.roots})
			if err == nil || !strings.Contains(err.Error(), o.want) {
				t.Errorf("NewVerifier = %v, want an error with %q", err, o.want)
			}
		})
	}
	both := map[string][]*x509.Certificate{"demo": demo.certs[:1], "stranger": stranger.certs[:1]}
	s := newScene()
	s.pki = stranger
	claims, err := newVerifier(t, &nitro.Options{SimulatedRoots: both}).Verify(t.Context(), s.evidence(), s.binding, now, nil)
	if err != nil || claims.Simulated != "stranger" {
		t.Errorf("Verify by the second of two roots = %q, %v", claims.Simulated, err)
	}
}

// awsRoot returns AWS's root, out of a real document.
func awsRoot(t *testing.T) *x509.Certificate {
	t.Helper()
	raw := load(t, "testdata/vectors/nitro/evervault-prod/document.cbor")
	from := bytes.Index(raw, []byte("cabundle")) + len("cabundle") + 1 // the list's head
	size := int(binary.BigEndian.Uint16(raw[from+1:]))
	return must(x509.ParseCertificate(raw[from+3:][:size]))
}

// TestNitritePanics shows why a key on P-521 must be refused before nitrite sees it.
func TestNitritePanics(t *testing.T) {
	s := newScene()
	s.key = ecKey(elliptic.P521(), "document")
	defer func() {
		if recover() == nil {
			t.Error("nitrite no longer panics on P-521: the guard in front of it may be looked at again")
		}
	}()
	pool := x509.NewCertPool()
	pool.AddCert(s.pki.certs[0])
	_, err := nitrite.Verify(s.evidence().Body, nitrite.VerifyOptions{Roots: pool, CurrentTime: now})
	t.Logf("nitrite = %v", err)
}
