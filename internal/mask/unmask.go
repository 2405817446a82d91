package mask

import (
	"fmt"
	"slices"
)

// Status says how far a member of a try came.
type Status int

// The statuses.
const (
	Left     Status = iota // it sealed no shares for its neighbours: nobody has masks with it
	Missing                // it did, and then its vector did not come
	Answered               // its vector is in the sum
)

// Member is what the coordinator knows of one member once the holders were asked.
type Member struct {
	Name   string
	Public Public
	Status Status
	// Shares are of the self seed of one that answered, of the mask key of one that is missing. Who showed a share says its X: that is
	// [Graph.X] of the member and the holder, whatever the holder says.
	Shares []Share
}

// Unmask returns the terms which, applied to the sum of the vectors that came, leave the sum of what was masked. members are all of the
// graph, ascending by name. It returns an error, which wraps [ErrShares], where a secret has too few shares or wrong ones; no terms then.
// One holder's wrong share among more than the threshold does no harm.
func (g *Graph) Unmask(t Try, members []Member) ([]Term, error) {
	if len(members) != g.n {
		return nil, fmt.Errorf("unmasking %d members of a graph of %d", len(members), g.n)
	}
	var terms []Term
	for i, m := range members {
		if i > 0 && m.Name <= members[i-1].Name {
			return nil, fmt.Errorf("unmasking members that are not in the order of their names: %s after %s", m.Name, members[i-1].Name)
		}
		if m.Status == Left {
			continue
		}
		more, err := g.unmask(t, members, i)
		if err != nil {
			return nil, fmt.Errorf("unmasking %s: %w", m.Name, err)
		}
		terms = append(terms, more...)
	}
	return terms, nil
}

// unmask returns the terms for one member that has masks.
func (g *Graph) unmask(t Try, members []Member, i int) ([]Term, error) {
	m := members[i]
	xs := make([]byte, len(m.Shares))
	for k, s := range m.Shares {
		xs[k] = s.X
		if int(s.X) > g.degree+1 {
			return nil, fmt.Errorf("%w: one is at %d, of %d holders", ErrShares, s.X, g.degree+1)
		}
	}
	if err := checkPlaces(xs); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrShares, err)
	}
	if m.Status == Answered {
		seed, err := g.recover(m.Shares, m.Public.checkSelf)
		if err != nil {
			return nil, err
		}
		return []Term{Term{Seed: Seed(seed)}.Negated()}, nil
	}
	secret, err := g.recover(m.Shares, m.Public.checkMask)
	if err != nil {
		return nil, err
	}
	key := secret.private()
	var terms []Term
	for _, j := range g.Neighbours(i) {
		if members[j].Status != Answered {
			continue
		}
		// What the missing one would have added is what cancels that which its neighbour did.
		term, err := between(t, m.Name, key, members[j].Name, members[j].Public)
		if err != nil {
			return nil, err
		}
		terms = append(terms, term)
	}
	return terms, nil
}

// recover returns the secret that passes check. It tries a threshold of shares after the other, each beginning one further on: the one
// that begins behind a single wrong share has not got it.
func (g *Graph) recover(shares []Share, check func(Secret) error) (Secret, error) {
	if len(shares) <= g.threshold {
		s, err := combineSecret(g.threshold, shares)
		if err == nil {
			err = check(s)
		}
		return s, err
	}
	around := slices.Concat(shares, shares)
	var last error
	for first := range shares {
		s, err := combineSecret(g.threshold, around[first:first+g.threshold])
		if err != nil {
			return Secret{}, err
		}
		if last = check(s); last == nil {
			return s, nil
		}
	}
	return Secret{}, last
}
