package manifest

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/attest"
)

var _ attest.Policy = (*Manifest)(nil)

// Key returns the key that endorses the leaves of the one who holds the office under that name: a member's identity key
// for a participant, a coordinator's identity key, a person's key. Governance keys endorse nothing.
func (m *Manifest) Key(o attest.Office, name string) (ed25519.PublicKey, bool) {
	switch o {
	case attest.Participant:
		one, ok := m.Member(name)
		return one.Identity, ok
	case attest.Coordinator:
		key, ok := m.coordinators[name]
		return slices.Clone(key), ok
	case attest.Person:
		one, ok := m.Person(name)
		return one.Key, ok
	}
	return nil, false
}

// Types returns the sets of evidence types of which a peer in this office must show one. People show a signature; an
// office that the manifest does not know shows nothing that would do.
func (m *Manifest) Types(o attest.Office) [][]attest.Type {
	if o == attest.Person {
		return [][]attest.Type{{attest.Signature}}
	}
	var all [][]attest.Type
	for _, types := range m.offices[o].types {
		all = append(all, slices.Clone(types))
	}
	return all
}

// PQ reports whether a channel to this office must agree on its keys by the hybrid with a post-quantum part. A person's
// channel ends at a coordinator, so what the manifest says of coordinators holds for it. Unknown offices must.
func (m *Manifest) PQ(o attest.Office) bool {
	known, ok := m.offices[enclaveOf(o)]
	return known.pq || !ok
}

// enclaveOf returns the office whose enclave the channel of an office is judged by.
func enclaveOf(o attest.Office) attest.Office {
	if o == attest.Person {
		return attest.Coordinator
	}
	return o
}

// Appraise judges a peer's claims at the instant now. The peer must be named in the manifest, the claims must be of one
// of its office's types, and must match one of the office's reference sets wholly.
//
// Where several sets fail, the error names each with its first reason, and has the class of the one that the claims came
// closest to: whose checks, in the order of the attested channel's specification, went furthest. For a person, whose
// signature the channel itself checks, it holds as long as for a coordinator.
func (m *Manifest) Appraise(p attest.Peer, claims []attest.Claims, now time.Time) (attest.Appraisal, error) {
	if _, known := m.Key(p.Office, p.Name); !known {
		return attest.Appraisal{}, attest.Refuse(attest.ClassManifest, "the manifest names no %s %q", p.Office, p.Name)
	}
	var types []attest.Type
	for _, c := range claims {
		types = append(types, c.Type)
	}
	if !slices.ContainsFunc(m.Types(p.Office), func(of []attest.Type) bool { return slices.Equal(of, types) }) {
		return attest.Appraisal{}, attest.Refuse(attest.ClassPlat, "%s %s shows evidence of the types %v, want one of %v",
			p.Office, p.Name, types, m.Types(p.Office))
	}
	o := m.offices[enclaveOf(p.Office)]
	if p.Office == attest.Person {
		return attest.Appraisal{TTL: o.ttl}, nil
	}
	matched, err := o.match(&claims[0], now)
	if err != nil {
		return attest.Appraisal{}, &attest.Error{Class: err.Class, Err: fmt.Errorf("%s %s: %w", p.Office, p.Name, err.Err)}
	}
	return attest.Appraisal{
		Sets:      []string{matched.name},
		Any:       slices.Clone(matched.any),
		TTL:       o.ttl,
		Simulated: claims[0].Simulated,
	}, nil
}

// TTL returns how long an appraisal of somebody in that office holds.
func (m *Manifest) TTL(o attest.Office) time.Duration { return m.offices[enclaveOf(o)].ttl }

// match returns the first set that the claims match.
func (o *office) match(c *attest.Claims, now time.Time) (*set, *attest.Error) {
	furthest, class := -1, attest.ClassMeas
	var reasons []string
	for _, s := range o.sets {
		if s.typ != c.Type {
			continue
		}
		passed, err := s.judge(c, now)
		if err == nil {
			return s, nil
		}
		if passed > furthest {
			furthest, class = passed, err.Class
		}
		reasons = append(reasons, fmt.Sprintf("%s: %v", s.name, err))
	}
	return nil, &attest.Error{Class: class, Err: errors.New(strings.Join(reasons, "; "))}
}

// A check compares one thing that claims say with a set. Checks stand in lists in the order in which they are made.
type check func(s *set, c *attest.Claims, now time.Time) *attest.Error

// judge returns how many checks the claims passed, and the refusal of the one that they did not.
func (s *set) judge(c *attest.Claims, now time.Time) (passed int, err *attest.Error) {
	parts := 0
	var own []check // of the one part that claims of the set's type have
	for _, part := range []struct {
		of     attest.Type
		there  bool
		checks []check
	}{
		{attest.SEVSNP, c.SNP != nil, snpChecks},
		{attest.TDX, c.TDX != nil, tdxChecks},
		{attest.SGX, c.SGX != nil, sgxChecks},
		{attest.Nitro, c.Nitro != nil, nitroChecks},
	} {
		if !part.there {
			continue
		}
		if parts++; part.of == s.typ {
			own = part.checks
		}
	}
	if parts != 1 || own == nil {
		return 0, attest.Refuse(attest.ClassParse, "claims of the type %s without their one part", c.Type)
	}
	checks := append([]check{theRoot}, own...)
	for passed, one := range checks {
		if err := one(s, c, now); err != nil {
			return passed, err
		}
	}
	return len(checks), nil
}

// theRoot keeps simulated evidence and hardware apart: each set is about one of them.
func theRoot(s *set, c *attest.Claims, _ time.Time) *attest.Error {
	switch {
	case s.simulated == c.Simulated:
		return nil
	case s.simulated == "":
		return attest.Refuse(attest.ClassChain, "simulated evidence of the root %q, want hardware", c.Simulated)
	case c.Simulated == "":
		return attest.Refuse(attest.ClassChain, "evidence of hardware, want the simulated root %q", s.simulated)
	}
	return attest.Refuse(attest.ClassChain, "simulated evidence of the root %q, want the root %q", c.Simulated, s.simulated)
}

// oneOf reports whether got is among the values, which are public: no constant time is needed.
func oneOf(values [][]byte, got []byte) bool {
	return slices.ContainsFunc(values, func(want []byte) bool { return bytes.Equal(want, got) })
}
