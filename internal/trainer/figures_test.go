package trainer_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/dataset"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/trainer"
)

// own returns a hospital's records standardised with the mean and deviation of its own training rows.
func own(m member) member {
	d, n := m.train.Columns(), float64(m.train.Rows())
	mean, scale := make([]float64, d), make([]float64, d)
	for j := range d {
		for i := range m.train.Rows() {
			mean[j] += m.train.Row(i)[j] / n
		}
		for i := range m.train.Rows() {
			scale[j] += (m.train.Row(i)[j] - mean[j]) * (m.train.Row(i)[j] - mean[j]) / (n - 1)
		}
		scale[j] = math.Sqrt(scale[j]) + 1e-9
	}
	return member{m.name, scaled(m.train, mean, scale), scaled(m.test, mean, scale)}
}

func scaled(s *dataset.Set, mean, scale []float64) *dataset.Set {
	t := &dataset.Set{Names: s.Names, Features: slices.Clone(s.Features), Labels: s.Labels, Lines: s.Lines}
	for i := range t.Features {
		j := i % s.Columns()
		t.Features[i] = (t.Features[i] - mean[j]) / scale[j]
	}
	return t
}

// pool returns all training rows of the members, and none for testing.
func pool(members []member) *dataset.Set {
	all := &dataset.Set{Names: members[0].train.Names}
	for _, m := range members {
		all.Features = append(all.Features, m.train.Features...)
		all.Labels = append(all.Labels, m.train.Labels...)
	}
	return all
}

// unstandardised is the example's plan for records that are standardised already.
func unstandardised(p entry.Plan) entry.Plan {
	p.Standardize, p.MaxAbs = nil, 64
	return p
}

// ownFederation returns the example's plan and members for records that each hospital has standardised by its own numbers, and the first model.
func ownFederation(t *testing.T) (entry.Plan, []member, *model.Model) {
	t.Helper()
	p, members := federation(t)
	p = unstandardised(p)
	for i, m := range members {
		members[i] = own(m)
	}
	base, err := trainer.Initial(p, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p, members, base
}

// TestHospitalsOwn reproduces the rows of the table whose records are standardised per hospital: FedAvg after 1, 10 and 50
// rounds, each hospital's test patients within one.
func TestHospitalsOwn(t *testing.T) {
	p, members, base := ownFederation(t)
	for _, want := range []struct {
		rounds, right int
		each          [4]int64
		loss          float64
	}{
		{1, 190, [4]int64{81, 68, 12, 29}, 0.614369}, {10, 191, [4]int64{82, 68, 12, 29}, 0.501200}, {50, 186, [4]int64{80, 67, 12, 27}, 0.488125},
	} {
		m := base
		for n := range want.rounds {
			m = trainRound(t, p, members, m, n+1, nil)
		}
		right, _, loss := figures(t, p, members, m)
		if right < int64(want.right)-1 || right > int64(want.right)+1 || math.Abs(loss-want.loss) > 1e-4 {
			t.Errorf("%d rounds: %d right, loss %.6f, want %d within one, %.6f", want.rounds, right, loss, want.right, want.loss)
		}
		for i, h := range members {
			if got, _, _ := figures(t, p, []member{h}, m); got < want.each[i]-1 || got > want.each[i]+1 {
				t.Errorf("%d rounds: %d of %s right, want %d within one", want.rounds, got, h.name, want.each[i])
			}
		}
	}
}

// TestHospitalsEncoded: coarser updates take the same model as near to its goal; the same round gives the same update again.
func TestHospitalsEncoded(t *testing.T) {
	p, members, base := ownFederation(t)
	for _, encoding := range codec.Lossies {
		p.Encoding = string(encoding)
		m := base
		for n := range 10 {
			m = trainRound(t, p, members, m, n+1, nil)
		}
		right, _, loss := figures(t, p, members, m)
		if right < 190 || right > 192 || math.Abs(loss-0.501200) > 1e-3 {
			t.Errorf("%s: 10 rounds: %d right, loss %.6f, want 191 within one, 0.501200 within 0.001", encoding, right, loss)
		}
		one, two := train(t, p, members[0].train, 3, "north"), train(t, p, members[0].train, 3, "north")
		if !slices.Equal(one, two) {
			t.Errorf("%s: the same round gives %v and %v", encoding, one, two)
		}
		coarse := slices.Clone(one)
		encoding.Coarsen(coarse, p.MaxAbs, rand.New(rand.NewPCG(1, 2)))
		if !slices.Equal(one, coarse) {
			t.Errorf("%s: the update is finer than its encoding", encoding)
		}
	}
}

// TestHospitalsTopK: where a member sends two values of fourteen and the others later, the model goes to the goal of those who send all, and where
// it forgets the others it stays behind.
func TestHospitalsTopK(t *testing.T) {
	p, members, base := ownFederation(t)
	train := func(carried map[string]trainer.Carried) (right int64, loss float64) {
		m := base
		for n := range 50 {
			m = trainRound(t, p, members, m, n+1, carried)
		}
		right, _, loss = figures(t, p, members, m)
		return right, loss
	}
	all, goal := train(nil)
	p.Encoding, p.TopK = string(codec.TopK), 0.1
	right, loss := train(map[string]trainer.Carried{})
	forgot, behind := train(nil)
	t.Logf("%d right, loss %.6f; of two values %d and %.6f, and %d and %.6f where the others are forgotten", all, goal, right, loss, forgot, behind)
	if right < all-4 || loss > goal+0.002 || behind < goal+0.01 {
		t.Error("want nearly the figures of all values, and others where what is left out is forgotten")
	}
}

// TestCarryUnsent: an update of the encoding top-k is what is largest of the training's and of what is carried, which stays as it is, and
// what is carried on is the rest; no value is beyond max_abs.
func TestCarryUnsent(t *testing.T) {
	set, p := drawn(40, 3, 2), plan(3, true)
	p.MaxAbs = 0.75
	m := start(t, p)
	whole, err := trainer.Train(t.Context(), p, m, set, 1, "north", nil)
	if err != nil {
		t.Fatal(err)
	}
	p.Encoding, p.TopK = string(codec.TopK), 0.3
	d, err := trainer.Describe(p)
	if err != nil || d.Sent != 2 || !d.Carries() {
		t.Fatalf("%+v, %v, want 2 values of 4 to be sent", d, err)
	}
	before := make([]float32, len(whole))
	before[1], before[2] = 1, -0.125
	carried := trainer.Carried{Unsent: slices.Clone(before)}
	sent, next, err := trainer.TrainCarrying(t.Context(), p, m, carried, set, 1, "north", nil)
	if err != nil || !slices.Equal(carried.Unsent, before) {
		t.Fatalf("%v, and %v is what was carried", err, carried.Unsent)
	}
	if err := (aggregate.Spec{Ranges: d.Training}).Check(sent); err != nil {
		t.Error(err)
	}
	values := 0
	for i, v := range sent {
		if v != 0 {
			values++
		}
		if v+next.Unsent[i] != whole[i]+before[i] {
			t.Errorf("%v of value %d is sent and %v left, of %v and %v of before", v, i, next.Unsent[i], whole[i], before[i])
		}
	}
	if values != 2 || sent[1] != 0.75 {
		t.Errorf("%v is sent, want two values, and max_abs of what is beyond it", sent)
	}
	first, err := trainer.Train(t.Context(), p, m, set, 1, "north", nil)
	if err != nil || slices.Equal(first, sent) || slices.Equal(first, whole) {
		t.Errorf("the first round sends %v, %v", first, err)
	}
	grown := slices.Clone(before)
	grown[0] = float32(math.Inf(1))
	for _, unsent := range [][]float32{before[:3], append(before, 0), {}, grown} {
		if _, _, err := trainer.TrainCarrying(t.Context(), p, m, trainer.Carried{Unsent: unsent}, set, 1, "north", nil); err == nil {
			t.Errorf("%v is taken for what is unsent of %d values", unsent, len(whole))
		}
	}
}

// TestHospitalsPenalised reproduces the rows with a penalty of the squared norm (C = 1, so l2 = 1/rows): on the records
// pooled, and by each hospital alone.
func TestHospitalsPenalised(t *testing.T) {
	p, members := federation(t)
	p = unstandardised(p)
	p.Local = entry.Local{Steps: 10_000, LearningRate: 0.5}
	var owns, globals []member
	mean, scale := make([]float64, len(pooled)), make([]float64, len(pooled))
	for j, c := range pooled {
		mean[j], scale[j] = c.mean, c.sd+1e-9
	}
	for _, m := range members {
		owns = append(owns, own(m))
		globals = append(globals, member{m.name, scaled(m.train, mean, scale), scaled(m.test, mean, scale)})
	}
	for _, c := range []struct {
		name    string
		rows    *dataset.Set
		members []member
		right   int64
		loss    float64 // 0: the table has none
	}{
		{"pooled, own standardising", pool(owns), owns, 184, 0.486747},
		{"pooled, global standardising", pool(globals), globals, 202, 0},
		{"cleveland alone", owns[0].train, owns, 182, 0},
		{"budapest alone", owns[1].train, owns, 173, 0},
		{"switzerland alone", owns[2].train, owns, 131, 0},
		{"longbeach alone", owns[3].train, owns, 144, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := p
			p.Local.L2 = 1 / float64(c.rows.Rows())
			m, err := trainer.Initial(p, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			u, err := trainer.Train(t.Context(), p, m, c.rows, 1, "all", nil)
			if err != nil {
				t.Fatal(err)
			}
			m.Params = u // it began at 0
			right, count, loss := figures(t, p, c.members, m)
			if count != 254 || right < c.right-1 || right > c.right+1 {
				t.Errorf("%d of %d right, want %d of 254 within one", right, count, c.right)
			}
			if c.loss != 0 && math.Abs(loss-c.loss) > 1e-4 {
				t.Errorf("train loss = %.6f, want %.6f", loss, c.loss)
			}
		})
	}
}

// TestHospitalsMinibatch: batches of four, some 486 rows a round as with full batches, come as near as those do.
func TestHospitalsMinibatch(t *testing.T) {
	p, members := federation(t)
	p.Local = entry.Local{Steps: 30, LearningRate: 0.02, Batch: 4}
	mean := round(t, p, members, true, func(m member) ([]float32, error) { return trainer.Statistics(p, m.train) })
	base, err := trainer.Initial(p, mean, 486)
	if err != nil {
		t.Fatal(err)
	}
	for n := range p.Rounds {
		base = trainRound(t, p, members, base, n+1, nil)
	}
	right, count, loss := figures(t, p, members, base)
	if count != 254 || right < 199 || right > 203 || math.Abs(loss-0.418835) > 1e-3 {
		t.Errorf("%d of %d right, train loss %.6f, want nearly 201 of 254 and 0.418835", right, count, loss)
	}
	t.Logf("%d of %d right, train loss %.6f", right, count, loss)
}
