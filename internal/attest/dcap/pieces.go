package dcap

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"slices"

	"consilium.dev/internal/attest"
)

// What Intel's pieces are named, by which its service can be asked for them.
var (
	infoName     = regexp.MustCompile(`^(sgx|tdx)-([0-9a-f]{12})-tcb_info\.json$`)
	identityName = regexp.MustCompile(`^(sgx|tdx)-([0-9a-f]{12})-qe_identity\.json$`)
	pckListName  = regexp.MustCompile(`^intel-(platform|processor)\.crl$`)
)

const rootListName = "intel-root.crl"

// documentNames says how TEEs are written in names, by what Intel calls them and their quoting enclaves.
var documentNames = map[string]string{"SGX": "sgx", "TDX": "tdx", "QE": "sgx", "TD_QE": "tdx"}

func nameOfInfo(id string, fmspc []byte) string {
	return documentNames[id] + "-" + hex.EncodeToString(fmspc) + "-tcb_info.json"
}

// nameOfIdentity names a QE identity, of which there is one for a TEE, by the kind of platform that it is used for: it goes with the TCB
// info of the same number, and Intel does not give out new ones for all kinds at the same instant.
func nameOfIdentity(id string, fmspc []byte) string {
	return documentNames[id] + "-" + hex.EncodeToString(fmspc) + "-qe_identity.json"
}

func nameOfList(authority string) string { return "intel-" + authority + ".crl" }

// Source returns where Intel's service has a piece (Intel SGX and Intel TDX Provisioning Certification Service, version 4: "Get
// Revocation List", "Get TCB Info", "Get Quoting Enclave Identity").
func Source(name string) (attest.Service, string, bool) {
	if m := infoName.FindStringSubmatch(name); m != nil {
		return attest.PCS, "/" + m[1] + "/certification/v4/tcb?fmspc=" + m[2], true
	}
	if m := identityName.FindStringSubmatch(name); m != nil {
		return attest.PCS, "/" + m[1] + "/certification/v4/qe/identity", true
	}
	if m := pckListName.FindStringSubmatch(name); m != nil {
		return attest.PCS, "/sgx/certification/v4/pckcrl?ca=" + m[1] + "&encoding=der", true
	}
	return attest.Root, "", name == rootListName
}

// Needs returns the names of all that e's quote of a TEE could be judged by: both revocation lists, TCB info, QE identity. It judges
// nothing.
func (v *Verifier) Needs(e attest.Evidence, tee TEE) ([]string, error) {
	q, refusal := Parse(e.Body, tee)
	if refusal != nil {
		return nil, refusal
	}
	names, refusal := v.needs(q)
	if refusal != nil {
		return nil, refusal
	}
	return names, nil
}

func (v *Verifier) needs(q *Quote) ([]string, *attest.Error) {
	ders, refusal := strictPEM(q.certificate)
	if refusal != nil {
		return nil, refusal
	}
	leaf, err := x509.ParseCertificate(ders[0])
	if err != nil {
		return nil, attest.Refuse(attest.ClassChain, "the PCK certificate does not parse: %v", err)
	}
	x, refusal := readExtensions(leaf)
	if refusal != nil {
		return nil, refusal
	}
	authority := authorities[leaf.Issuer.CommonName]
	if authority == "" {
		return nil, attest.Refuse(attest.ClassChain, "the PCK certificate's issuer is named %q", leaf.Issuer.CommonName)
	}
	prefix := ""
	for _, root := range v.roots {
		if bytes.Equal(root.Raw, ders[2]) {
			prefix = attest.SimulatedPrefix(root.simulated)
		}
	}
	tee := q.TEE.String()
	return []string{
		prefix + rootListName, prefix + nameOfList(authority),
		prefix + nameOfInfo(tee, x.fmspc[:]), prefix + nameOfIdentity(quoting[q.TEE].id, x.fmspc[:]),
	}, nil
}

// Examine returns the revocation lists, TCB infos and QE identities among e's collateral that a trusted root stands behind, those of the
// other TEE too. Certificates among it, and those in e's quote of a TEE where there is one, are their issuers. TCB info counts with a QE
// identity of its number beside it, and a QE identity with each such TCB info.
func (v *Verifier) Examine(e attest.Evidence, tee TEE) []attest.Piece {
	items, pool := e.Collateral, &collateral{}
	if q, refusal := Parse(e.Body, tee); refusal == nil {
		if chain, refusal := read(attest.Collateral{{Kind: attest.KindIssuerChain, Bytes: q.certificate}}); refusal == nil {
			pool = chain
		}
	}
	var parsed []*collateral
	for _, item := range items {
		c, refusal := read(attest.Collateral{item})
		if refusal != nil {
			c = &collateral{}
		}
		parsed = append(parsed, c)
		for _, cert := range c.certs {
			if len(pool.certs) < maxExamined && !slices.ContainsFunc(pool.certs, cert.Equal) {
				pool.certs = append(pool.certs, cert)
			}
		}
	}
	var pieces []attest.Piece
	for _, root := range v.roots {
		// First what is no issuer under this root is put aside: else a sender of many certificates, each tried for each item, has us
		// check as many signatures as there are pairs.
		e := examination{root: &root, pool: &collateral{}}
		for _, cert := range pool.certs {
			if link(cert, root.Certificate) == nil {
				e.pool.certs = append(e.pool.certs, cert)
			}
		}
		for i, c := range parsed {
			e.item = items[i]
			e.read(c)
		}
		pieces = append(pieces, e.pieces()...)
	}
	return pieces
}

// maxExamined bounds the certificates that are tried as issuers.
const maxExamined = 128

// examination is items that are read apart from a quote, under one root.
type examination struct {
	root *root
	pool *collateral // the issuers, signed by the root
	item attest.Item // that is being read

	lists      []attest.Piece
	infos      []examined
	identities []examined
}

// examined is a document, whose name depends on those beside it.
type examined struct {
	attest.Piece
	id    string
	fmspc []byte // of TCB info
}

// read reads the one thing that is in c, if the root stands behind it.
func (e *examination) read(c *collateral) {
	for _, list := range c.lists {
		e.list(list)
	}
	for _, d := range c.infos {
		i := &tcbInfo{}
		if json.Unmarshal(d.raw, i) == nil && i.Version == tcbInfoVersion && documentNames[i.ID] != "" && len(i.FMSPC) == 6 {
			if p, ok := e.document(&i.envelope, d); ok {
				e.infos = append(e.infos, examined{p, i.ID, i.FMSPC})
			}
		}
	}
	for _, d := range c.identities {
		i := &qeIdentity{}
		if json.Unmarshal(d.raw, i) == nil && i.Version == qeIdentityVersion && documentNames[i.ID] != "" {
			if p, ok := e.document(&i.envelope, d); ok {
				e.identities = append(e.identities, examined{p, i.ID, nil})
			}
		}
	}
}

func (e *examination) list(list *x509.RevocationList) {
	p := attest.Piece{Item: e.item, Number: number(list), From: list.ThisUpdate, Until: list.NextUpdate}
	if bytes.Equal(list.RawIssuer, e.root.RawSubject) && list.CheckSignatureFrom(e.root.Certificate) == nil {
		p.Name = rootListName
		e.lists = append(e.lists, p)
		return
	}
	for _, ca := range e.pool.certs {
		authority := authorities[ca.Subject.CommonName]
		if authority != "" && bytes.Equal(list.RawIssuer, ca.RawSubject) && list.CheckSignatureFrom(ca) == nil {
			p.Name, p.Issuers = nameOfList(authority), [][]byte{ca.Raw}
			e.lists = append(e.lists, p)
			return
		}
	}
}

func (e *examination) document(said *envelope, d document) (attest.Piece, bool) {
	j := &judgement{chain: &chain{root: e.root}, sent: e.pool, held: &collateral{}}
	if j.signed(said, d, "document") != nil {
		return attest.Piece{}, false
	}
	until := said.NextUpdate
	if said.signer.NotAfter.Before(until) {
		until = said.signer.NotAfter
	}
	return attest.Piece{
		Item: e.item, Number: said.number(), From: said.IssueDate, Until: until, Issuers: [][]byte{said.signer.Raw},
	}, true
}

// pieces returns what was read, under its names.
func (e *examination) pieces() []attest.Piece {
	all := e.lists
	for _, info := range e.infos {
		var best *attest.Piece
		for _, identity := range e.identities {
			if documentNames[identity.id] == documentNames[info.id] && identity.Number.Cmp(info.Number) == 0 &&
				(best == nil || identity.From.After(best.From)) {
				p := identity.Piece
				p.Name = nameOfIdentity(identity.id, info.fmspc)
				best = &p
			}
		}
		if best != nil {
			p := info.Piece
			p.Name = nameOfInfo(info.id, info.fmspc)
			all = append(all, p, *best)
		}
	}
	for i := range all {
		all[i].Name = attest.SimulatedPrefix(e.root.simulated) + all[i].Name
	}
	return all
}
