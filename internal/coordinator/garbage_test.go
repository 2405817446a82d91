package coordinator_test

import (
	"math"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/mask"
	pb "consilium.dev/proto/consilium/v1"
)

// TestGarbageUnderNoise: where a plan asks for noise, a member that sends whatever under its masks finds nothing out. What is left without the masks
// is far from a sum of updates, and if the try failed for that, a vector that is just too large or not, as the others' sum is, would tell of that sum
// without noise. The model is what it is, and within bounds.
func TestGarbageUnderNoise(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &court{world: newWorld(t, withBudgetOf(entry.Record)...)}
		c.serve()
		m := &masque{court: c, heard: map[string]*ear{}, peers: map[string]*peer{}}
		for _, name := range maskers {
			m.peers[name] = c.connect(attest.Participant, name)
			m.listen(name)
		}
		synctest.Wait()
		m.run = c.start(plan(t, bare, threefold, func(p *entry.Plan) {
			p.Quorum, p.MaxAbs, p.Local = 3, 1000, entry.Local{Steps: 1}
			p.Privacy = &entry.Privacy{Unit: entry.Record, ClipNorm: 2, NoiseMultiplier: 1.5, Delta: 1e-5, ExpectedRecords: 500}
		}))
		for _, name := range maskers {
			if _, err := m.peers[name].Consent(t.Context(), &pb.ConsentRequest{Run: m.run, Records: 1}); err != nil {
				t.Fatal(err)
			}
		}
		c.books["council"].await(t, "round opened", "run", m.run)
		m.begin(1)
		var err error
		if m.graph, err = mask.NewGraph(len(maskers), 3, m.try.GraphSeed()); err != nil {
			t.Fatal(err)
		}
		m.prepare()
		for i, name := range maskers {
			words := make([]uint64, bareLen)
			terms := []mask.Term{m.keys[name].SelfMask()}
			for _, other := range maskers {
				if other == name {
					continue
				}
				term, err := m.keys[name].PairMask(m.try, name, other, m.keys[other].Public())
				if err != nil {
					t.Fatal(err)
				}
				terms = append(terms, term)
			}
			for j := range words {
				if i == 0 {
					words[j] = 1<<63 - uint64(j) // the largest sums there are, of both signs
				}
			}
			mask.Apply(words, 0, terms...)
			u := m.offers(halved(words))
			u.head.Weight = 1
			m.accepted(m.peers[name], u)
		}
		for _, name := range maskers {
			m.must(name, m.opened(name, maskers...))
		}
		c.books["council"].await(t, "round closed", "run", m.run)
		closed := only[entry.RoundClosed](c.facts())
		if len(closed) != 1 || len(closed[0].Members) != 3 {
			t.Fatalf("closed: %+v, want the one round, with all three", closed)
		}
		for i, v := range c.model(closed[0].Model).Params {
			if math.Abs(float64(v)) > 3*1000/500+1 {
				t.Errorf("value %d of the model is %v, want within what three members may come to", i, v)
			}
		}
	})
}
