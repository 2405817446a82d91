package round_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/mask"
	"consilium.dev/internal/round"
)

// TestSparseMasks goes through a try of more members than can all hold shares of each other: 260 of whom 20 announce nothing, 20 share nothing
// and 20 send nothing. The rules say when the masks come off, and then they do, by the shares of those who have shown theirs by then.
func TestSparseMasks(t *testing.T) {
	const n, quorum = 260, 174
	var names []entry.Member
	for i := range n {
		names = append(names, entry.Member(fmt.Sprintf("m%03d", i)))
	}
	s, now := round.New(), start
	veil := round.Veil{}
	view := func() round.View {
		return round.View{Now: now, Veils: func(string, int, int) round.Veil { return veil }, Held: func(_ string, _, _ int, m entry.Member) (entry.Digest, bool) {
			return digest("of " + string(m)), true
		}, Seen: func(entry.Member) round.Sighting { return round.Sighting{Last: now, Connected: true} }}
	}
	decide := func(in round.Input) (all []entry.Fact) {
		t.Helper()
		facts, err := s.Decide(now, in)
		if err != nil {
			t.Fatalf("Decide(%T): %v", in, err)
		}
		for _, f := range facts {
			if err := s.Apply(now, f); err != nil {
				t.Fatalf("Apply(%T): %v", f, err)
			}
		}
		return facts
	}
	tick := func() []entry.Fact {
		v := view()
		return decide(round.Tick{Held: v.Held, Seen: v.Seen, Veils: v.Veils})
	}
	// asked returns who is asked for that, and one of the actions that ask.
	asked := func(stage round.Stage) (who []entry.Member, last round.Mask) {
		for _, a := range s.Todo(view()) {
			if a, ok := a.(round.Mask); ok && a.Stage == stage {
				who, last = append(who, a.Member), a
			}
		}
		return who, last
	}
	decide(round.Adopt{Fact: entry.ManifestAdopted{Federation: "f", Epoch: 1, Manifest: digest("manifest"), Members: names}})
	decide(round.Create{Fact: entry.RunCreated{
		Run: "run", Request: "request", Lead: "ada", Members: names, Initial: &zeros, Model: zeros.Plain, Plan: entry.Plan{
			Name: "p", Trainer: "builtin/logistic", Strategy: entry.Strategy{Name: "fedavg"}, Rounds: 1, Quorum: quorum, Tries: 1,
			Deadline: entry.Duration(time.Minute), MaxAbs: 16, Resolution: 1, Masks: true, Schema: []byte("{}"),
		},
	}, Limits: round.Limits{
		Members: names, Strategies: []string{"fedavg"}, Trainers: []string{"builtin/logistic"}, MaxAbs: 16, RoundsMax: 1, OpenRuns: 1,
	}})
	for _, m := range names {
		decide(round.Consent{Run: "run", Member: m, Records: 1})
	}
	tick()
	if who, _ := asked(round.Announce); len(who) != n {
		t.Fatalf("%d are asked for keys, want %d", len(who), n)
	}
	veil.Announced = names[20:]
	now = now.Add(15 * time.Second)
	who, share := asked(round.Share)
	if len(who) != n-20 || len(share.Among) != n-20 {
		t.Fatalf("%d are asked for shares among %d, want %d", len(who), len(share.Among), n-20)
	}
	// So many are no sparse graph any more. The same with all of them is one.
	veil = round.Veil{Announced: names}
	if _, share = asked(round.Share); len(share.Among) != n {
		t.Fatalf("shares are asked for among %d, want %d", len(share.Among), n)
	}
	veil.Among, veil.Shared = share.Among, names[40:]
	now = now.Add(15 * time.Second)
	if facts := tick(); len(facts) != 1 || len(facts[0].(entry.MasksAgreed).Members) != n-40 {
		t.Fatalf("%+v follows from half of the time, want masks of %d", facts, n-40)
	}
	in := names[60:]
	for _, m := range in {
		decide(round.Offer{Run: "run", Round: 1, Try: 1, Member: m, Update: digest("of " + string(m)), Weight: 1})
	}
	now = now.Add(30 * time.Second)
	if facts := tick(); len(facts) != 1 || !slices.Equal(facts[0].(entry.Unmasking).Members, in) {
		t.Fatalf("%+v follows from the deadline, want that masks come off the sum of %d", facts, len(in))
	}

	// Those who hold no share of one of them show theirs first.
	m := newSparse(t, names, quorum)
	holders, order := m.graph.Holders(100), slices.Clone(in)
	holds := func(m entry.Member) int {
		if slices.ContainsFunc(holders, func(j int) bool { return names[j] == m }) {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(order, func(a, b entry.Member) int { return holds(a) - holds(b) })
	for at, who := range order {
		veil.Shown = append(veil.Shown, who)
		slices.Sort(veil.Shown)
		combine := slices.ContainsFunc(s.Todo(view()), func(a round.Action) bool { _, ok := a.(round.Combine); return ok })
		if enough := at+1 >= quorum && m.fewest(veil.Shown) >= m.graph.Threshold(); combine != enough {
			t.Fatalf("%d have shown their shares, of one member %d, %d are needed: the mean is taken %v", at+1, m.fewest(veil.Shown), m.graph.Threshold(), combine)
		}
		if combine {
			if err := m.unmask(veil.Shown); err != nil {
				t.Errorf("%d have shown their shares, the rules say that they are enough, and %v", at+1, err)
			}
			return
		}
	}
	t.Fatal("all have shown their shares, and no mean is taken")
}

// sparse is the numbers of that try, for a few of its members: updates of one value.
type sparse struct {
	t      *testing.T
	try    mask.Try
	graph  *mask.Graph
	names  []entry.Member
	keys   []*mask.Keys
	shares [][]mask.Shares // of whom, by place of the holder
	sum    []uint64
	want   uint64
}

// status says how far a member comes; for most it is left out of the numbers, which would take seconds.
func (*sparse) status(i int) mask.Status {
	switch {
	case i >= 40 && i < 44:
		return mask.Missing
	case i >= 95 && i < 105:
		return mask.Answered
	}
	return mask.Left
}

// fewest returns how many of these hold a share of the member of which the fewest do, of all who have masks.
func (m *sparse) fewest(shown []entry.Member) int {
	least := len(m.names)
	for i := range m.names[40:] {
		n := 0
		for _, j := range m.graph.Holders(40 + i) {
			if _, ok := slices.BinarySearch(shown, m.names[j]); ok {
				n++
			}
		}
		least = min(least, n)
	}
	return least
}

// newSparse draws all keys, divides the secrets that are shown, and adds up what came.
func newSparse(t *testing.T, names []entry.Member, quorum int) *sparse {
	t.Helper()
	m := &sparse{t: t, try: mask.Try{Manifest: digest("manifest"), Run: "run", Round: 1, Try: 1}, names: names, sum: make([]uint64, 1)}
	var err error
	if m.graph, err = mask.NewGraph(len(names), quorum, m.try.GraphSeed()); err != nil {
		t.Fatal(err)
	}
	chance := rand.NewChaCha8([32]byte{1})
	var none *mask.Keys
	for i := range names {
		k := none
		if m.status(i) != mask.Left || none == nil { // all others have the same, which nobody uses
			if k, err = mask.NewKeys(chance); err != nil {
				t.Fatal(err)
			}
		}
		if m.status(i) == mask.Left {
			none = k
		}
		m.keys = append(m.keys, k)
	}
	for i, k := range m.keys {
		var shares []mask.Shares
		if m.status(i) != mask.Left {
			if shares, err = k.Split(m.graph.Threshold(), len(m.graph.Holders(i)), chance); err != nil {
				t.Fatal(err)
			}
		}
		m.shares = append(m.shares, shares)
		if m.status(i) != mask.Answered {
			continue
		}
		terms := []mask.Term{k.SelfMask()}
		for _, j := range m.graph.Neighbours(i) {
			// Masks with another who answered cancel.
			if m.status(j) != mask.Missing {
				continue
			}
			term, err := k.PairMask(m.try, string(names[i]), string(names[j]), m.keys[j].Public())
			if err != nil {
				t.Fatal(err)
			}
			terms = append(terms, term)
		}
		word := []uint64{uint64(i)}
		mask.Apply(word, 0, terms...)
		m.sum[0], m.want = m.sum[0]+word[0], m.want+uint64(i)
	}
	return m
}

// unmask takes the masks off by what these have shown.
func (m *sparse) unmask(shown []entry.Member) error {
	var all []mask.Member
	for i, name := range m.names {
		one := mask.Member{Name: string(name), Public: m.keys[i].Public(), Status: m.status(i)}
		for _, j := range m.graph.Holders(i) {
			if one.Status == mask.Left || !slices.Contains(shown, m.names[j]) {
				continue
			}
			held := m.shares[i][m.graph.X(i, j)-1]
			if one.Status == mask.Answered {
				one.Shares = append(one.Shares, held.SelfShare())
			} else {
				one.Shares = append(one.Shares, held.MaskShare())
			}
		}
		all = append(all, one)
	}
	terms, err := m.graph.Unmask(m.try, all)
	if err != nil {
		return err
	}
	sum := slices.Clone(m.sum)
	if mask.Apply(sum, 0, terms...); sum[0] != m.want {
		m.t.Errorf("the sum without masks is %d, want %d", sum[0], m.want)
	}
	return nil
}
