package dcap

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"slices"
	"time"

	"consilium.dev/internal/attest"
)

// Limits on collateral. Intel's TCB info has up to 20 KiB, its certificates about 1 KiB, its lists up to 200 KiB in theory and
// 4 KiB so far.
const (
	maxItems    = 64
	maxDocument = 64 << 10
	maxChain    = 16 << 10
	maxList     = 128 << 10
	maxCerts    = 32
)

// A document is TCB info or a QE identity as Intel serves it: one JSON object with a body and a signature over the body's bytes.
type document struct {
	raw       []byte // of the body, as served
	signature []byte
}

// collateral is what of attest.Collateral this package reads.
type collateral struct {
	certs      []*x509.Certificate
	lists      []*x509.RevocationList
	infos      []document
	identities []document
}

// read parses collateral. Kinds that are not Intel's are passed over.
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
		case attest.KindIssuerChain:
			err = c.issuers(item.Bytes)
		case attest.KindCRL:
			err = c.list(item.Bytes)
		case attest.KindTCBInfo:
			c.infos, err = appendDocument(c.infos, "TCB info", "tcbInfo", item.Bytes)
		case attest.KindQEIdentity:
			c.identities, err = appendDocument(c.identities, "QE identity", "enclaveIdentity", item.Bytes)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *collateral) certificate(der []byte) *attest.Error {
	if len(der) > maxChain || len(c.certs) == maxCerts {
		return attest.Refuse(attest.ClassChain, "a certificate of %d bytes, or the %d. one", len(der), len(c.certs)+1)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return attest.Refuse(attest.ClassChain, "a certificate does not parse: %v", err)
	}
	c.certs = append(c.certs, cert)
	return nil
}

// issuers reads a PEM chain.
func (c *collateral) issuers(text []byte) *attest.Error {
	if len(text) > maxChain {
		return attest.Refuse(attest.ClassChain, "an issuer chain of %d bytes, want at most %d", len(text), maxChain)
	}
	for len(bytes.Trim(text, "\r\n\x00 ")) > 0 {
		block, rest := pem.Decode(text)
		if block == nil || block.Type != "CERTIFICATE" {
			return attest.Refuse(attest.ClassChain, "an issuer chain is not certificates in PEM")
		}
		if err := c.certificate(block.Bytes); err != nil {
			return err
		}
		text = rest
	}
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

// appendDocument reads an object of exactly two members: the body under its name, and "signature", r ‖ s in hex.
func appendDocument(all []document, what, name string, text []byte) ([]document, *attest.Error) {
	if len(text) > maxDocument {
		return all, attest.Refuse(attest.ClassParse, "%s of %d bytes, want at most %d", what, len(text), maxDocument)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return all, attest.Refuse(attest.ClassParse, "%s: %v", what, err)
	}
	var encoded string
	err := json.Unmarshal(members["signature"], &encoded)
	signature, err2 := hex.DecodeString(encoded)
	if len(members) != 2 || members[name] == nil || err != nil || err2 != nil || len(signature) != ecdsaBytes {
		return all, attest.Refuse(attest.ClassParse, "%s: want an object of %q and a \"signature\" of %d bytes in hex", what, name, ecdsaBytes)
	}
	return append(all, document{members[name], signature}), nil
}

// envelope is what TCB info and QE identity have in common.
type envelope struct {
	ID         string    `json:"id"`
	Version    int       `json:"version"`
	IssueDate  time.Time `json:"issueDate"`
	NextUpdate time.Time `json:"nextUpdate"`
	Evaluation uint32    `json:"tcbEvaluationDataNumber"`

	signer *x509.Certificate
}

func (e *envelope) common() *envelope { return e }

func (e *envelope) number() *big.Int { return new(big.Int).SetUint64(uint64(e.Evaluation)) }

// A statement is a TCB info or a QE identity whose JSON was read.
type statement interface {
	common() *envelope
	name() string         // of the piece
	about() *attest.Error // refuses one that is of something else than the quote
}

// chosen returns the statement to judge a quote by, and nil if none is at hand. What came with the quote must be one, about it,
// signed and current, and not of an older recovery than any that is held here. Else, of those held that are about it and
// signed under its root, the newest counts; it must be current.
func chosen[S statement](j *judgement, what string, sent, held []document, read func(document) (S, *attest.Error)) (best S, there bool, err *attest.Error) {
	if len(sent) > 1 {
		return best, false, attest.Refuse(attest.ClassParse, "%d pieces of %s came with the quote, want at most 1", len(sent), what)
	}
	for _, d := range held {
		s, err := read(d)
		if err != nil || s.about() != nil || j.signed(s.common(), d, what) != nil {
			continue // of another platform, or of another root
		}
		if !there || newer(s.common(), best.common()) {
			best, there = s, true
		}
	}
	if len(sent) == 0 {
		if !there {
			return best, false, nil
		}
		return best, true, j.current(best, what)
	}
	s, err := read(sent[0])
	if err == nil {
		err = s.about()
	}
	if err == nil {
		err = j.signed(s.common(), sent[0], what)
	}
	if err == nil {
		err = j.current(s, what)
	}
	if err != nil {
		return best, false, err
	}
	if there && s.common().Evaluation < best.common().Evaluation {
		return best, false, attest.Refuse(attest.ClassTime, "the %s that came with the quote has the evaluation number %d, one with %d is held here",
			what, s.common().Evaluation, best.common().Evaluation)
	}
	return s, true, nil
}

func newer(a, b *envelope) bool {
	if a.Evaluation != b.Evaluation {
		return a.Evaluation > b.Evaluation
	}
	return a.IssueDate.After(b.IssueDate)
}

// signed checks that a key of Intel's for such statements signed d, and notes whose it was.
func (j *judgement) signed(e *envelope, d document, what string) *attest.Error {
	refusal := attest.Refuse(attest.ClassChain, "no certificate named %q came with the %s, and none is held here", nameTCBSigning, what)
	var tried []*x509.Certificate
	for _, cert := range slices.Concat(j.sent.certs, j.held.certs) {
		if cert.Subject.CommonName != nameTCBSigning || slices.ContainsFunc(tried, cert.Equal) {
			continue
		}
		tried = append(tried, cert)
		if err := link(cert, j.chain.root.Certificate); err != nil {
			refusal = attest.Refuse(attest.ClassChain, "%s: %v", nameTCBSigning, err)
			continue
		}
		if err := signing(cert, nameTCBSigning); err != nil {
			refusal = err
			continue
		}
		if !signedBy(cert.PublicKey.(*ecdsa.PublicKey), d.raw, d.signature) {
			refusal = attest.Refuse(attest.ClassSig, "the %s is not signed by its issuer's key", what)
			continue
		}
		e.signer = cert
		return nil
	}
	return refusal
}

// current checks that a statement and its signer's certificate hold now, and notes that they are used.
func (j *judgement) current(s statement, what string) *attest.Error {
	e := s.common()
	if err := valid(e.signer, j.now); err != nil {
		return err
	}
	if j.now.Before(e.IssueDate) || j.now.After(e.NextUpdate) {
		return attest.Refuse(attest.ClassTime, "the %s holds from %s to %s, not at %s", what, e.IssueDate.Format(time.RFC3339),
			e.NextUpdate.Format(time.RFC3339), j.now.UTC().Format(time.RFC3339))
	}
	j.used(s.name(), e.IssueDate, e.number())
	j.signers = append(j.signers, e.signer)
	return nil
}
