package transport

import (
	"context"
	"time"

	"consilium.dev/internal/attest"
)

// Shown is what a peer has shown of itself in one handshake, admitted or not, with all that it takes to judge it again.
type Shown struct {
	Peer     attest.Peer // whom its leaf says
	Instance string      // likewise
	Endorsed bool        // and whom the key that our manifest gives to that name has proven
	Leaf     []byte      // certificate, DER
	Identity []byte      // of the key that endorses it, DER

	Evidence []attest.Evidence // none where it came to none
	Binding  attest.Binding    // what the evidence must carry
	Preimage []byte            // what Binding.ReportData is the SHA-512 of
	Claims   []attest.Claims   // of evidence that is genuine; none where a part of it is not
	At       time.Time         // of which it was judged

	Appraisal attest.Appraisal // zero where it was not admitted
	Expires   time.Time        // likewise
}

// tell tells of what the peer has shown. A peer that is refused for its key or its hello has its evidence taken down beforehand.
func (x *exchange) tell() {
	if x.c.cfg.Shown == nil || x.conn == nil || len(x.state.PeerCertificates) != 2 {
		return
	}
	s := Shown{
		Peer: x.who(), Instance: x.claimed.instance, Endorsed: x.endorsed || x.endorsedBy(x.c.cfg.Policy) == nil,
		Leaf: x.leafCert().Raw, Identity: x.state.PeerCertificates[1].Raw,
	}
	if j := x.judged; j.evidence != nil {
		s.Evidence, s.Binding, s.Preimage, s.Claims, s.At = j.evidence, x.binding(j), j.preimage, j.claims, j.at
		s.Appraisal, s.Expires = j.appraisal, j.expires
	}
	x.c.cfg.Shown(s)
}

// lookOn takes down the evidence of a peer that is refused already, for whoever wants to know who it is. It returns the refusal.
func (x *exchange) lookOn(ctx context.Context, helloC, helloS []byte, refusal error) error {
	if x.c.cfg.Shown == nil || x.claimed.office == attest.Person || len(x.theirs.types) == 0 || x.derive(helloC, helloS) != nil {
		return refusal
	}
	if body, err := x.read(frameEvidence, evidenceLimit(x.theirs.types)); err == nil {
		_, _ = x.judge(ctx, body) // what comes of it tell finds
		x.judged.appraisal, x.judged.expires = attest.Appraisal{}, time.Time{}
	}
	return refusal
}
