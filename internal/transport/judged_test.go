package transport_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/attest"
)

// holding is a verifier that judges by a list of its own instead of what comes with evidence.
type holding struct {
	attest.Verifier
	list attest.Collateral
	of   func(attest.Peer) // is told whose evidence is judged
}

func (h holding) Verify(ctx context.Context, e attest.Evidence, b attest.Binding, now time.Time, c attest.Collateral) (attest.Claims, error) {
	h.of(attest.PeerIn(ctx))
	claims, err := h.Verifier.Verify(ctx, e, b, now, c)
	claims.Judged = append(append(attest.Collateral{}, e.Collateral...), h.list...)
	return claims, err
}

// TestJudgedBy: a peer's evidence goes on with the collateral that it was judged by, whoever had it, so that it can be judged again. Claims have
// no second copy of it.
func TestJudgedBy(t *testing.T) {
	r := aRealm(t)
	m := r.manifestOf(t)
	list := attest.Collateral{{Kind: attest.KindCRL, Bytes: []byte("a list of our own")}}
	synctest.Test(t, func(t *testing.T) {
		var of []attest.Peer
		e := r.realEnds(t, m, attest.Participant, "north")
		for i, v := range e.server.Verifiers {
			e.server.Verifiers[i] = holding{v, list, func(p attest.Peer) { of = append(of, p) }}
		}
		a, b := net.Pipe()
		s, c := shake(makeServer(t, e.server), makeClient(t, e.client), a, b)
		if s.err != nil || c.err != nil {
			t.Fatalf("server: %v\nclient: %v", s.err, c.err)
		}
		defer s.close()
		defer c.close()
		got := s.peer.Evidence[0].Collateral
		if len(got) < 2 || !cmp.Equal(got[len(got)-1:], list) || got[0].Kind != attest.KindCertificate {
			t.Errorf("the evidence is kept with %d pieces, the last %q", len(got), got[len(got)-1].Bytes)
		}
		if want := []attest.Peer{{Office: attest.Participant, Name: "north"}}; !cmp.Equal(of, want) {
			t.Errorf("evidence was judged for %v, want %v", of, want)
		}
		if s.peer.Claims[0].Judged != nil {
			t.Error("the claims hold the collateral once more")
		}
		if n := len(c.peer.Evidence[0].Collateral); n != 1 {
			t.Errorf("the coordinator's evidence came with %d pieces, want its certificate alone", n)
		}
	})
}
