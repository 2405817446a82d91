package mask_test

import (
	"fmt"
	"math/big"
	"slices"
	"testing"

	"consilium.dev/internal/mask"
)

// TestCheck: who may sum under masks, and why others may not.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		n, quorum int
		want      string
	}{
		{2, 2, ""},
		{3, 2, ""},
		{5, 3, ""},
		{255, 128, ""},
		{256, 171, ""},
		{mask.MaxMembers, mask.MaxMembers, ""},
		{1, 1, "masks among 1 members, want 2 to 542"},
		{543, 500, "masks among 543 members, want 2 to 542"},
		{3, 1, "a quorum of 1 of 3 members, want 2 to 3"},
		{3, 4, "a quorum of 4 of 3 members, want 2 to 3"},
		{4, 2, "a quorum of 2 of 4 members is not more than half: two halves could unmask a member between them; want 3 at least"},
		{255, 127, "a quorum of 127 of 255 members is not more than half: two halves could unmask a member between them; want 128 at least"},
		{256, 170, "a quorum of 170 of 256 members lets more than a third be missing, which sparse masks do not bear; want 171 at least"},
	} {
		err := mask.Check(c.n, c.quorum)
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && got != c.want {
			t.Errorf("Check(%d, %d) = %v, want %s", c.n, c.quorum, err, c.want)
		}
		if _, made := mask.NewGraph(c.n, c.quorum, [32]byte{}); fmt.Sprint(made) != fmt.Sprint(err) {
			t.Errorf("NewGraph(%d, %d) = %v, want %v", c.n, c.quorum, made, err)
		}
	}
}

// TestGraph: who is a neighbour of whom is so both ways, all have as many, a threshold of holders is more than half, and places count them.
func TestGraph(t *testing.T) {
	for _, n := range []int{2, 3, 10, 255, 256, mask.MaxMembers} {
		g, err := mask.NewGraph(n, n, try.GraphSeed())
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			all, holders := g.Neighbours(i), g.Holders(i)
			if !slices.IsSorted(all) || slices.Contains(all, i) || len(slices.Compact(slices.Clone(all))) != len(all) || len(all) != len(g.Neighbours(0)) {
				t.Fatalf("%d members: neighbours of %d are %v", n, i, all)
			}
			if with := append(slices.Clone(all), i); !slices.Equal(holders, slices.Sorted(slices.Values(with))) || 2*g.Threshold() <= len(holders) || len(holders) > mask.MaxHolders {
				t.Fatalf("%d members: holders of %d are %v, threshold %d", n, i, holders, g.Threshold())
			}
			if i%100 > 0 {
				continue
			}
			for j := range n {
				at := slices.Index(holders, j)
				if int(g.X(i, j)) != at+1 || (g.X(i, j) == 0) != (g.X(j, i) == 0) {
					t.Fatalf("%d members: holder %d of %d is at %d and %d, want %d", n, j, i, g.X(i, j), g.X(j, i), at+1)
				}
			}
		}
	}
	one, _ := mask.NewGraph(300, 300, [32]byte{1})
	two, _ := mask.NewGraph(300, 300, [32]byte{2})
	if slices.Equal(one.Neighbours(0), two.Neighbours(0)) {
		t.Error("two seeds give the same graph")
	}
}

// TestOrder: every order of the ring is as likely: over many seeds each member is the neighbour of 0 as often as any other.
func TestOrder(t *testing.T) {
	const n, seeds = 256, 40
	var seen [n]int
	for s := range seeds {
		g, err := mask.NewGraph(n, n, [32]byte{byte(s), byte(s >> 8)})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range g.Neighbours(0) {
			seen[j]++
		}
	}
	for j, times := range seen[1:] { // binomial: mean 24.8, standard deviation 3.1
		if times < 25-18 || times > 25+18 {
			t.Errorf("member %d is a neighbour %d times, want about 25", j+1, times)
		}
	}
}

// TestDegree recomputes the bounds from the probabilities, by drawing one neighbour after the other, and shows that no fewer would do.
func TestDegree(t *testing.T) {
	rounded := func(v float64) *big.Float { return big.NewFloat(v).SetPrec(160) }
	// draws is the probability that k drawn of n have from or more of the marked.
	draws := func(n, marked, k, from int) *big.Float {
		at := []*big.Float{rounded(1)} // by how many were marked so far
		for drawn := range k {
			next := make([]*big.Float, len(at)+1)
			for i := range next {
				next[i] = rounded(0)
			}
			for i, p := range at {
				p.Quo(p, rounded(float64(n-drawn)))
				hit, miss := max(0, marked-i), n-drawn-max(0, marked-i)
				next[i+1].Add(next[i+1], rounded(0).Mul(rounded(float64(hit)), p))
				next[i].Add(next[i], rounded(0).Mul(rounded(float64(miss)), p))
			}
			at = next
		}
		sum := rounded(0)
		for _, p := range at[min(from, len(at)):] {
			sum.Add(sum, p)
		}
		return sum
	}
	keeps := func(n, k int) bool {
		all := rounded(float64(n))
		vanish := draws(n-1, n/3, k, k/2)
		collude := draws(n-1, n/3, k, k/2+1)
		row := draws(n, n/3*2, k/2, k/2)
		collude.Add(collude, row).Mul(collude, all)
		return vanish.Mul(vanish, all).Cmp(rounded(0x1p-30)) <= 0 && collude.Cmp(rounded(0x1p-40)) <= 0
	}
	const n, want = 256, 158
	k, threshold, err := mask.Degree(n)
	if err != nil || k != want || threshold != k/2+1 {
		t.Errorf("Degree(%d) = %d, %d, %v, want %d", n, k, threshold, err, want)
	}
	if !keeps(n, k) || keeps(n, k-2) {
		t.Errorf("%d of %d neighbours keep the bounds: %v; two fewer: %v", k, n, keeps(n, k), keeps(n, k-2))
	}
	for _, n := range []int{-1, 0, 255, mask.MaxMembers + 1} {
		if k, _, err := mask.Degree(n); err == nil {
			t.Errorf("Degree(%d) = %d, want an error", n, k)
		}
	}
	if k, _, err := mask.Degree(mask.MaxMembers); err != nil || k+1 > mask.MaxHolders {
		t.Errorf("Degree(%d) = %d, %v", mask.MaxMembers, k, err)
	}
}
