package manifest

import (
	"consilium.dev/internal/attest"
)

// Chain is a manifest and those that followed it, epoch after epoch, as a program that outlives them knows them. It is
// immutable and safe for concurrent use: [Chain.Extend] makes another one.
type Chain struct{ all []*Manifest } // of one federation, epochs ascending without a gap, never empty

// NewChain returns the chain that begins, and ends, with a manifest that was loaded by its anchor.
func NewChain(first *Manifest) *Chain { return &Chain{[]*Manifest{first}} }

// Newest returns the manifest that holds now.
func (c *Chain) Newest() *Manifest { return c.all[len(c.all)-1] }

// At returns the manifest of an epoch, nil for one that the chain does not hold.
func (c *Chain) At(epoch uint64) *Manifest {
	if first := c.all[0].epoch; epoch >= first && epoch-first < uint64(len(c.all)) {
		return c.all[epoch-first]
	}
	return nil
}

// After returns the manifests of the epochs after that one, oldest first; none where the chain begins later than with the epoch
// that follows it, since whoever is at that epoch could not check the first of them.
func (c *Chain) After(epoch uint64) []*Manifest {
	first := c.all[0].epoch
	if epoch >= c.Newest().epoch || epoch+1 < first {
		return nil
	}
	return append([]*Manifest(nil), c.all[epoch+1-first:]...)
}

// Envelopes returns the signed manifests that After returns: what a peer of that epoch is behind by.
func (c *Chain) Envelopes(epoch uint64) [][]byte {
	var all [][]byte
	for _, m := range c.After(epoch) {
		all = append(all, m.Envelope())
	}
	return all
}

// Policy returns the policy of an epoch, nil for one that the chain does not hold.
func (c *Chain) Policy(epoch uint64) attest.Policy {
	if m := c.At(epoch); m != nil {
		return m
	}
	return nil // and not a policy that holds a nil manifest
}

// Begun returns the manifests with which a new log begins in place of an old one, oldest first.
func (c *Chain) Begun() []*Manifest {
	var out []*Manifest
	for _, m := range c.all {
		if _, begins := m.OldLog(); begins {
			out = append(out, m)
		}
	}
	return out
}

// Extend returns a chain with the signed manifests at its end, oldest first: each must be a [Manifest.Successor] of the one
// before it. One of them that does not follow refuses all of them. A manifest that the chain holds already may stand among them
// and changes nothing, so that what was sent may be sent again.
func (c *Chain) Extend(signed ...[]byte) (*Chain, error) {
	out := &Chain{c.all[:len(c.all):len(c.all)]} // capped: two that extend one chain do not share what they add
	for _, one := range signed {
		e, err := openEnvelope(one)
		if err != nil {
			return nil, refused(err)
		}
		if out.holds(Digest(e.payload)) {
			continue
		}
		next, err := out.Newest().Successor(one)
		if err != nil {
			return nil, err
		}
		out.all = append(out.all, next)
	}
	return out, nil
}

func (c *Chain) holds(d [32]byte) bool {
	for _, m := range c.all {
		if m.Digest() == d {
			return true
		}
	}
	return false
}
