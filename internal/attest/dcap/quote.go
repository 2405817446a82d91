package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/big"

	"consilium.dev/internal/attest"
)

// TEE is what kind of thing a quote is about, as its header says it.
type TEE uint32

// The kinds of things that quotes are about.
const (
	SGX TEE = 0x00 // an enclave
	TDX TEE = 0x81 // a trust domain
)

// String returns "SGX" or "TDX", as Intel's TCB info spells them.
func (t TEE) String() string {
	if t == TDX {
		return "TDX"
	}
	return "SGX"
}

// Lengths of a quote's parts, in bytes.
const (
	headerBytes   = 48
	enclaveBytes  = 384 // an SGX report's body
	domainBytes   = 584 // a TD report's body of TDX 1.0
	domain15Bytes = 648 // of TDX 1.5
	ecdsaBytes    = 64  // r ‖ s, or x ‖ y, big-endian
	maxQuote      = 64 << 10
)

// Kinds of attestation keys and of certification data.
const (
	keyECDSA256 = 2 // ECDSA P-256 with SHA-256
	dataChain   = 5 // the PCK certificate's chain, PEM
	dataReport  = 6 // the quoting enclave's report, and certification data of its own
)

// vendor is the id that Intel's quoting enclaves write into a quote.
var vendor = [16]byte{0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07}

// A Quote is a quote that parsed strictly. Nothing of it is believed before Verify took it.
type Quote struct {
	Version uint16
	TEE     TEE
	// Body is what the hardware reports: 384 bytes of an enclave, 584 or 648 bytes of a trust domain. It is part of what
	// Parse was given.
	Body []byte

	signed      []byte // header, body's head in version 5, body
	signature   []byte // over signed, by key
	key         []byte // the attestation key: x ‖ y
	enclave     []byte // report of the quoting enclave that holds the key
	enclaveSig  []byte // over enclave, by the platform's certified key
	authData    []byte
	certificate []byte // PEM chain of the platform's certified key
}

// Parse reads a quote of the TEE strictly. Integers are little-endian (Intel SGX ECDSA QuoteLibReferenceDCAPAPI, appendix A.4;
// Intel TDX DCAP Quoting Library API, appendix A.3):
//
//	header         version u16, key type u16, TEE u32, 4 bytes, vendor [16], user data [20]
//	head           of the body, in version 5: type u16, length u32
//	body           384 bytes (SGX), 584 (TDX 1.0), 648 (TDX 1.5)
//	length         u32, of all below
//	signature      [64], attestation key [64]
//	data           version 3: report, as below. Versions 4 and 5: type u16 = 6, length u32, report
//	report         the quoting enclave's body [384], signature [64], length u16, authentication data,
//	               type u16 = 5, length u32, the PCK certificate's chain in PEM
//	zeros          hosts pad quotes to the size of their buffers
//
// Version 3 is of SGX, 4 and 5 are of TDX.
func Parse(raw []byte, tee TEE) (*Quote, *attest.Error) {
	if len(raw) > maxQuote {
		return nil, attest.Refuse(attest.ClassParse, "a quote of %d bytes, want at most %d", len(raw), maxQuote)
	}
	r := reader{rest: raw}
	q := &Quote{}
	if err := q.header(r.take(headerBytes), tee); err != nil {
		return nil, err
	}
	if err := q.body(&r); err != nil {
		return nil, err
	}
	q.signed = raw[:len(raw)-len(r.rest)]
	data := reader{rest: r.take(int64(r.u32()))}
	if r.short {
		return nil, attest.Refuse(attest.ClassParse, "the signature's data go beyond the quote's end")
	}
	if !zeros(r.rest) {
		return nil, attest.Refuse(attest.ClassParse, "%d bytes behind the quote, and not of zeros", len(r.rest))
	}
	return q, q.signatureData(data)
}

func (q *Quote) header(h []byte, tee TEE) *attest.Error {
	if h == nil {
		return attest.Refuse(attest.ClassParse, "the quote is too short for its header")
	}
	q.Version, q.TEE = binary.LittleEndian.Uint16(h), TEE(binary.LittleEndian.Uint32(h[4:]))
	if tee == SGX && q.Version != 3 || tee == TDX && q.Version != 4 && q.Version != 5 {
		return attest.Refuse(attest.ClassParse, "a quote of the version %d, want 3 for SGX, 4 or 5 for TDX", q.Version)
	}
	if q.TEE != tee {
		return attest.Refuse(attest.ClassParse, "a quote of the TEE type %#x, want %#x (%s)", uint32(q.TEE), uint32(tee), tee)
	}
	if kind := binary.LittleEndian.Uint16(h[2:]); kind != keyECDSA256 {
		class := attest.ClassSig
		if tee == SGX { // the other kinds that SGX has had, EPID's, have quotes of another form
			class = attest.ClassParse
		}
		return attest.Refuse(class, "the attestation key's type is %d, want %d (ECDSA P-256)", kind, keyECDSA256)
	}
	if [16]byte(h[12:]) != vendor {
		return attest.Refuse(attest.ClassParse, "the quoting enclave's vendor is %x, want Intel, %x", h[12:28], vendor)
	}
	if q.Version > 3 && !zeros(h[8:12]) { // in version 3, the SVNs of the quoting enclave and of the PCE
		return attest.Refuse(attest.ClassParse, "reserved bytes 8 to 11 of the header are not zero")
	}
	return nil
}

func (q *Quote) body(r *reader) *attest.Error {
	size := int64(enclaveBytes)
	if q.TEE == TDX {
		size = domainBytes
	}
	if q.Version == 5 {
		kind := r.u16()
		sizes := map[uint16]int64{2: domainBytes, 3: domain15Bytes}
		if size = sizes[kind]; size == 0 || int64(r.u32()) != size {
			return attest.Refuse(attest.ClassParse, "a body of the type %d: want 2 with 584 bytes, or 3 with 648", kind)
		}
	}
	if q.Body = r.take(size); r.short {
		return attest.Refuse(attest.ClassParse, "the quote is too short for its body")
	}
	return nil
}

func (q *Quote) signatureData(r reader) *attest.Error {
	q.signature, q.key = r.take(ecdsaBytes), r.take(ecdsaBytes)
	if q.Version > 3 {
		if kind := r.u16(); kind != dataReport && !r.short {
			return attest.Refuse(attest.ClassParse, "certification data of the type %d, want %d (the quoting enclave's report)", kind, dataReport)
		}
		if n := int64(r.u32()); n != int64(len(r.rest)) && !r.short {
			return attest.Refuse(attest.ClassParse, "certification data of %d bytes, %d are there", n, len(r.rest))
		}
	}
	q.enclave, q.enclaveSig = r.take(enclaveBytes), r.take(ecdsaBytes)
	q.authData = r.take(int64(r.u16()))
	if kind := r.u16(); kind != dataChain && !r.short {
		return attest.Refuse(attest.ClassParse, "certification data of the type %d, want %d (the PCK certificate's chain)", kind, dataChain)
	}
	if q.certificate = r.take(int64(r.u32())); r.short || len(r.rest) != 0 {
		return attest.Refuse(attest.ClassParse, "the lengths in the signature's data do not fit its end")
	}
	return nil
}

// signatures checks what the platform's certified key signed, the quoting enclave's report, and what that enclave's key signed,
// the quote.
func (q *Quote) signatures(pck *ecdsa.PublicKey) *attest.Error {
	if !signedBy(pck, q.enclave, q.enclaveSig) {
		return attest.Refuse(attest.ClassSig, "the quoting enclave's report is not signed by the PCK certificate's key")
	}
	e := Enclave(q.enclave)
	if want := sha256.Sum256(append(q.key[:len(q.key):len(q.key)], q.authData...)); !bytes.Equal(e.ReportData(), append(want[:], make([]byte, 32)...)) {
		return attest.Refuse(attest.ClassChain, "the quoting enclave's report is not about the attestation key")
	}
	if got := hex.EncodeToString(e.MRSigner()); got != quoting[q.TEE].signer {
		return attest.Refuse(attest.ClassChain, "the quoting enclave is signed by %s, want Intel, %s", got, quoting[q.TEE].signer)
	}
	if e.Attributes()[0]&attributeDebug != 0 {
		return attest.Refuse(attest.ClassChain, "the quoting enclave can be debugged")
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.key...))
	if err != nil {
		return attest.Refuse(attest.ClassSig, "the attestation key: %v", err)
	}
	if !signedBy(key, q.signed, q.signature) {
		return attest.Refuse(attest.ClassSig, "the quote is not signed by its attestation key")
	}
	return nil
}

// signedBy reports whether signature, r ‖ s, is the key's over the SHA-256 of message.
func signedBy(key *ecdsa.PublicKey, message, signature []byte) bool {
	digest := sha256.Sum256(message)
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return ecdsa.Verify(key, digest[:], r, s)
}

// reader takes bytes from the front. Once there were too few it gives nothing more, and short says so.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) take(n int64) []byte {
	if r.short || n > int64(len(r.rest)) {
		r.short = true
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func zeros(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
