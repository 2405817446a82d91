package mask

import "fmt"

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
	Shares []Share // of the self seed of one that answered, of the mask key of one that is missing
}

// Unmask returns the terms which, applied to the sum of the vectors that came, leave the sum of what was masked. members are all of the
// graph, ascending by name. It returns an error, which wraps [ErrShares], where a secret has too few shares or wrong ones; no terms then.
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
	for _, s := range m.Shares {
		if int(s.X) > g.degree+1 {
			return nil, fmt.Errorf("%w: one is at %d, of %d holders", ErrShares, s.X, g.degree+1)
		}
	}
	secret, err := CombineSecret(g.threshold, m.Shares)
	if err != nil {
		return nil, err
	}
	if m.Status == Answered {
		self, err := m.Public.SelfSeed(secret)
		return []Term{self.Negated()}, err
	}
	if err := m.Public.MaskKey(secret); err != nil {
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
