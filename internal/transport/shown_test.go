package transport_test

import (
	"crypto/sha512"
	"net"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/transport"
)

// TestShown has a lead look at coordinators, good and bad: what each showed is told once, with what it is to be judged by, and the
// class of the refusal is what it is without.
func TestShown(t *testing.T) {
	tests := []struct {
		name     string
		change   func(*ends)
		want     attest.Class
		endorsed bool
		evidence bool
		claims   bool
	}{
		{"admitted", func(*ends) {}, 0, true, true, true},
		{"another measurement", func(e *ends) {
			p := newPolicy()
			p.refuse = attest.Refuse(attest.ClassMeas, "another program")
			e.client.Policy = p
		}, attest.ClassMeas, true, true, true},
		{"evidence of another session", func(e *ends) {
			e.server.Attester = &machine{t: attest.SEVSNP, spoil: func(e *attest.Evidence) { e.Body[20] ^= 1 }}
		}, attest.ClassBind, true, true, false},
		{"a key that is not the manifest's", func(e *ends) { e.server.Identity = seeded("coordinator/impostor") }, attest.ClassManifest, false, true, true},
		{"no evidence", func(e *ends) {
			e.server.Attester = &machine{t: attest.SEVSNP, fail: attest.Refuse(attest.ClassPlat, "the device is gone")}
		}, attest.ClassPlat, true, false, false},
		{"another manifest", func(e *ends) { e.server.Manifest[0] ^= 1 }, attest.ClassManifest, true, false, false},
		{"a stranger looks", func(e *ends) { e.client.Identity = seeded("person/eve") }, attest.ClassManifest, true, false, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				look := func(shown func(transport.Shown)) (outcome, attest.Class) {
					e := newEnds(attest.Person, "ada")
					test.change(e)
					e.client.Shown = shown
					a, b := net.Pipe()
					s, c := shake(makeServer(t, e.server), makeClient(t, e.client), a, b)
					s.close()
					c.close()
					return c, classOf(c.err)
				}
				var all []transport.Shown
				c, class := look(func(s transport.Shown) { all = append(all, s) })
				if class != test.want {
					t.Errorf("refused with %v (%v), want %v", class, c.err, test.want)
				}
				if _, plain := look(nil); plain != class {
					t.Errorf("without a look the class is %v, with it %v", plain, class)
				}
				if len(all) != 1 {
					t.Fatalf("told %d times, want once", len(all))
				}
				s := all[0]
				if s.Peer != (attest.Peer{Office: attest.Coordinator, Name: "council"}) || s.Leaf == nil || s.Identity == nil || len(s.Instance) != 32 {
					t.Errorf("shown by %+v, instance %q", s.Peer, s.Instance)
				}
				if s.Endorsed != test.endorsed || (len(s.Evidence) == 1) != test.evidence || (len(s.Claims) == 1) != test.claims {
					t.Errorf("endorsed %v, %d pieces of evidence, %d claims", s.Endorsed, len(s.Evidence), len(s.Claims))
				}
				if test.evidence && (s.Binding.ReportData != sha512.Sum512(s.Preimage) || s.At.IsZero() || s.Binding.SPKI == nil) {
					t.Errorf("what the evidence must carry is %x, of the preimage %x", s.Binding.ReportData, s.Preimage)
				}
				admitted := test.want == 0
				if (s.Appraisal.Sets != nil) != admitted || s.Expires.IsZero() == admitted {
					t.Errorf("appraisal %+v until %v, want one: %v", s.Appraisal, s.Expires, admitted)
				}
				if admitted && (s.Binding.ReportData != c.peer.Binding || !s.Expires.Equal(c.peer.Expires)) {
					t.Error("what was shown is not what the connection says")
				}
			})
		})
	}
}
