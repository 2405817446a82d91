package transport

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"

	"consilium.dev/internal/attest"
)

// Labels are part of the wire: a hash or signature made for one purpose never fits another.
const (
	labelClient   = "EXPORTER-consilium-att-v1-client"
	labelServer   = "EXPORTER-consilium-att-v1-server"
	labelFinished = "EXPORTER-consilium-att-v1-finished"

	labelReport = "consilium report_data v1"
	labelPerson = "consilium person v1"
	labelLogKey = "consilium log-key v1"
)

// verdictAccept is the only verdict there is: a refusal is an ALERT.
const verdictAccept = 1

// transcript returns th = SHA-256(lp(HELLO_C) lp(HELLO_S)), over the frames' bodies.
func transcript(helloC, helloS []byte) [32]byte {
	return sha256.Sum256(appendLP(appendLP(nil, helloC), helloS))
}

// exported holds the three values that TLS derives for this session and transcript: EKM_C, EKM_S and EKM_F.
type exported struct {
	client, server, finished []byte
}

// export derives the values. It is called after the TLS handshake only: before, crypto/tls panics.
func export(cs tls.ConnectionState, th [32]byte) (e exported, err error) {
	for _, x := range []struct {
		label string
		dst   *[]byte
	}{{labelClient, &e.client}, {labelServer, &e.server}, {labelFinished, &e.finished}} {
		if *x.dst, err = cs.ExportKeyingMaterial(x.label, th[:], 32); err != nil {
			return exported{}, attest.Refuse(attest.ClassTLS, "exporter: %w", err)
		}
	}
	return e, nil
}

// of returns the value of the attester's side.
func (e exported) of(attester side) []byte {
	if attester == clientSide {
		return e.client
	}
	return e.server
}

// reportInput is all that the report data B of one attester is made of.
type reportInput struct {
	side       side // of the attester, as office
	office     attest.Office
	epoch, seq uint64
	ekm        []byte
	th         [32]byte
	attester   party
	verifier   party
	federation string
	manifest   [32]byte
	bundle     []byte // see deviceBundle
}

// party is one end of the session, as the report data names it.
type party struct {
	name  string
	spki  []byte // leaf key, PKIX DER
	nonce [32]byte
}

// preimage returns the bytes whose SHA-512 is B.
func (r reportInput) preimage() []byte {
	who := []byte{byte(r.side), byte(r.office)}
	who = binary.BigEndian.AppendUint64(who, r.epoch)
	who = binary.BigEndian.AppendUint64(who, r.seq)
	a, v := sha256.Sum256(r.attester.spki), sha256.Sum256(r.verifier.spki)
	devices := sha512.Sum384(r.bundle)
	b := appendLP(nil, []byte(labelReport))
	b = appendLP(b, who)
	b = appendLP(b, r.ekm)                   // this session
	b = appendLP(b, r.th[:])                 // both hellos
	b = appendLP(b, a[:])                    // the TLS 1.3 exporter does not cover the client's certificate
	b = appendLP(b, v[:])                    //
	b = appendLP(b, r.verifier.nonce[:])     // freshness that does not rest on TLS alone
	b = appendLP(b, r.attester.nonce[:])     //
	b = appendLP(b, []byte(r.federation))    //
	b = appendLP(b, []byte(r.attester.name)) // no diversion to another genuine enclave
	b = appendLP(b, []byte(r.verifier.name)) //
	b = appendLP(b, r.manifest[:])           // no split view, stale policy dies
	return appendLP(b, devices[:])
}

// deviceSeed returns what devices derive their nonces from: lp(EKM of the attester's side) lp(nonce of the verifier).
func deviceSeed(ekm []byte, verifierNonce [32]byte) []byte {
	return appendLP(appendLP(nil, ekm), verifierNonce[:])
}

// PersonInput returns what a person signs in place of evidence, lp("consilium person v1") lp(b); b is the report data of the session.
func PersonInput(b [64]byte) []byte {
	return appendLP(appendLP(nil, []byte(labelPerson)), b[:])
}

// finished returns the body of FINISHED: HMAC-SHA-256(EKM_F, side th SHA-256(EVIDENCE_S) SHA-256(EVIDENCE_C) verdict).
func finished(ekmF []byte, from side, th [32]byte, evidenceS, evidenceC []byte, verdict byte) []byte {
	s, c := sha256.Sum256(evidenceS), sha256.Sum256(evidenceC)
	mac := hmac.New(sha256.New, ekmF)
	mac.Write([]byte{byte(from)})
	mac.Write(th[:])
	mac.Write(s[:])
	mac.Write(c[:])
	mac.Write([]byte{verdict})
	return mac.Sum(nil)
}

// LogKeyBinding returns the report data of a boot's evidence over the log's signing key, and the preimage that it is the
// SHA-512 of:
//
//	lp("consilium log-key v1") lp(spki) lp(federation) lp(manifest) lp(head)
//
// spki is the key in PKIX DER, manifest the digest, head the digest of the log's head at that boot. Its label keeps it from
// ever fitting a session, and a session's from fitting it.
func LogKeyBinding(spki []byte, federation string, manifest, head [32]byte) (data [64]byte, preimage []byte) {
	b := appendLP(nil, []byte(labelLogKey))
	b = appendLP(b, spki)
	b = appendLP(b, []byte(federation))
	b = appendLP(b, manifest[:])
	b = appendLP(b, head[:])
	return sha512.Sum512(b), b
}
