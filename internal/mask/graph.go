package mask

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"slices"
)

// MaxMembers is the most members for whom there is a graph: beyond it [Degree] would need more than [MaxHolders].
const MaxMembers = 542

// Graph says who shares with whom among members, who are known by their places 0 to n-1, ascending by name. It does not change.
type Graph struct {
	n, degree, threshold int
	order                []int // the members in the ring's order; nil where all are neighbours
	place                []int // where each stands in it
}

// Check reports why n members cannot sum with masks so that any quorum of them is enough. All n hold shares of each member's secrets, and
// the quorum is the threshold. It has to be more than half of them: or a coordinator that tells one half that a member answered, and the
// other that it did not, would get both kinds of shares. And one alone would be its own sum.
func Check(n, quorum int) error {
	switch {
	case n < 2 || n > MaxMembers:
		return fmt.Errorf("masks among %d members, want 2 to %d", n, MaxMembers)
	case quorum < 2 || quorum > n:
		return fmt.Errorf("a quorum of %d of %d members, want 2 to %d", quorum, n, n)
	case n <= MaxHolders && 2*quorum <= n:
		return fmt.Errorf("a quorum of %d of %d members is not more than half: two halves could unmask a member between them; want %d at least", quorum, n, n/2+1)
	case n > MaxHolders && n-quorum > n/3:
		return fmt.Errorf("a quorum of %d of %d members lets more than a third be missing, which sparse masks do not bear; want %d at least", quorum, n, n-n/3)
	}
	return nil
}

// NewGraph returns the graph of n members of whom any quorum shall be enough: all are neighbours where that is up to [MaxHolders], and else
// a ring with the seed's order and the neighbours of [Degree]. The error is that of [Check].
func NewGraph(n, quorum int, seed [32]byte) (*Graph, error) {
	if err := Check(n, quorum); err != nil {
		return nil, err
	}
	if n <= MaxHolders {
		return &Graph{n: n, degree: n - 1, threshold: quorum}, nil
	}
	degree, threshold, err := Degree(n)
	if err != nil {
		return nil, err
	}
	g := &Graph{n: n, degree: degree, threshold: threshold, order: shuffled(n, seed), place: make([]int, n)}
	for at, member := range g.order {
		g.place[member] = at
	}
	return g, nil
}

// Threshold returns how many holders' shares give a secret.
func (g *Graph) Threshold() int { return g.threshold }

// Neighbours returns those with whom member i has masks, ascending.
func (g *Graph) Neighbours(i int) []int {
	return slices.DeleteFunc(g.Holders(i), func(j int) bool { return j == i })
}

// Holders returns those who hold shares of member i's secrets, ascending: its neighbours and itself. The first has the place 1, see
// [Keys.Split].
func (g *Graph) Holders(i int) []int {
	all := make([]int, 0, g.degree+1)
	if g.order == nil {
		for j := range g.n {
			all = append(all, j)
		}
		return all
	}
	for off := -g.degree / 2; off <= g.degree/2; off++ {
		all = append(all, g.order[(g.place[i]+off+g.n)%g.n])
	}
	slices.Sort(all)
	return all
}

// X returns the place at which holder has its share of owner's secrets, or 0 where it has none.
func (g *Graph) X(owner, holder int) byte {
	switch {
	case holder < 0 || holder >= g.n:
		return 0
	case g.order == nil:
		return byte(holder + 1)
	}
	x, found := 1, false
	for off := -g.degree / 2; off <= g.degree/2; off++ {
		j := g.order[(g.place[owner]+off+g.n)%g.n]
		if found = found || j == holder; j < holder {
			x++
		}
	}
	if !found {
		return 0
	}
	return byte(x)
}

// shuffled returns 0 to n-1 in an order that the seed decides (Fisher and Yates, from the end; Knuth, TAOCP vol. 2, algorithm 3.4.2P). A
// number below m is the next word of the seed's mask that is below the largest multiple of m, modulo m.
func shuffled(n int, seed [32]byte) []int {
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	stream := keyStream(seed, 0)
	below := func(m uint64) int {
		for {
			var b [8]byte
			stream.XORKeyStream(b[:], b[:])
			if w := binary.LittleEndian.Uint64(b[:]); w < math.MaxUint64/m*m {
				return int(w % m)
			}
		}
	}
	for i := n - 1; i > 0; i-- {
		j := below(uint64(i) + 1)
		order[i], order[j] = order[j], order[i]
	}
	return order
}

// Degree returns the fewest neighbours that each of n members needs in a ring of random order (Bell et al. 2020, section 3: a Harary graph,
// each a neighbour of those up to degree/2 places away), and the threshold among them and itself, which is just more than half. n is from
// MaxHolders+1 to MaxMembers. What is assumed and what follows:
//
//   - up to a third of the members collude with the coordinator, which asks all holders alike, and up to a third vanish; the order knows
//     nothing of who they are;
//   - with probability 1 - 2^-40 no honest member has a threshold of colluding neighbours, and those who are honest and stay are connected,
//     so that only the sum of all of them is told. The first is a hypergeometric tail for each member; for the second degree/2 in a row
//     would have to collude or vanish, which is never what decides;
//   - with probability 1 - 2^-30 each member keeps a threshold of neighbours who stay, so that the sum is told at all: a hypergeometric
//     tail again.
//
// The tails are computed in whole numbers, so that everybody finds the same.
func Degree(n int) (degree, threshold int, err error) {
	if n > MaxHolders {
		for k := 2; k < min(n, MaxHolders); k += 2 {
			if enough(n, k) {
				return k, k/2 + 1, nil
			}
		}
	}
	return 0, 0, fmt.Errorf("no sparse graph for %d members, only for %d to %d", n, MaxHolders+1, MaxMembers)
}

// enough reports whether k neighbours of n members, with a threshold of k/2+1, keep what [Degree] says.
func enough(n, k int) bool {
	third := n / 3
	all := big.NewInt(int64(n))
	total := new(big.Int).Binomial(int64(n-1), int64(k))
	within := func(ways *big.Int, bits uint) bool { // n times their probability is
		ways.Mul(ways, all)
		return ways.Lsh(ways, bits).Cmp(total) <= 0
	}
	if !within(draws(n-1, third, k, k/2), 30) { // the tail's first term is too much already
		return false
	}

	// n P[k/2 or more of the neighbours vanish] <= 2^-30
	if !within(tail(n-1, third, k, k/2), 30) {
		return false
	}
	// n (P[k/2+1 or more of them collude] + P[k/2 in a row collude or vanish]) <= 2^-40
	collude := tail(n-1, third, k, k/2+1)
	apart := new(big.Int).Binomial(int64(2*third), int64(k/2))
	apart.Mul(apart, total)
	of := new(big.Int).Binomial(int64(n), int64(k/2))
	apart.Add(apart.Div(apart, of), big.NewInt(1)) // rounded up
	return within(collude.Add(collude, apart), 40)
}

// tail returns in how many ways k of n can be drawn so that from or more are among the marked ones.
func tail(n, marked, k, from int) *big.Int {
	sum := new(big.Int)
	for i := from; i <= min(k, marked); i++ {
		sum.Add(sum, draws(n, marked, k, i))
	}
	return sum
}

// draws returns in how many ways k of n can be drawn so that just so many are among the marked ones.
func draws(n, marked, k, just int) *big.Int {
	ways := new(big.Int).Binomial(int64(marked), int64(just))
	return ways.Mul(ways, new(big.Int).Binomial(int64(n-marked), int64(k-just)))
}
