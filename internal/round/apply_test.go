package round_test

import (
	"slices"
	"testing"
	"time"

	"consilium.dev/internal/entry"
)

// TestApplyPossible: the logs from which the impossible facts are taken go through.
func TestApplyPossible(t *testing.T) {
	log := append(untilEnded(), entry.Admitted{}, entry.TagMoved{}, entry.Booted{})
	s := folded(t, log)
	if got := s.Newest(); !got.Equal(start) {
		t.Errorf("Newest() = %s, want %s", got, start)
	}
	if err := s.Apply(start.Add(time.Second), entry.Booted{}); err != nil {
		t.Fatal(err)
	}
	if got, want := s.Newest(), start.Add(time.Second); !got.Equal(want) {
		t.Errorf("Newest() = %s, want %s", got, want)
	}
	if r, ok := s.Run("run"); !ok || r.State != "completed" {
		t.Errorf("the run is %q, want completed", r.State)
	}
	if err := s.Apply(start.Add(time.Second-time.Microsecond), entry.Booted{}); err == nil {
		t.Error("a fact before the newest one was applied")
	}
}

// impossible is a fact that cannot follow a log.
type impossible struct {
	name string
	log  []entry.Fact
	fact entry.Fact
}

func TestApplyImpossible(t *testing.T) {
	var all []impossible
	all = append(all, impossibleBeginnings()...)
	all = append(all, impossibleAnswers()...)
	all = append(all, impossibleOpenings()...)
	all = append(all, impossibleUpdates()...)
	all = append(all, impossibleLate()...)
	all = append(all, impossibleEnds()...)
	all = append(all, impossibleUnmasked()...)
	all = append(all, impossibleDrops()...)
	for _, c := range all {
		t.Run(c.name, func(t *testing.T) {
			s := folded(t, c.log)
			if err := s.Apply(start.Add(time.Hour), c.fact); err == nil {
				t.Errorf("Apply(%+v) went through", c.fact)
			}
			mustEqual(t, "a fact that was refused", s, folded(t, c.log))
		})
	}
}

func impossibleBeginnings() []impossible {
	adoption := func(change func(*entry.ManifestAdopted)) entry.Fact {
		next := entry.ManifestAdopted{Federation: "f", Epoch: 4, Manifest: entry.Digest{4}, Previous: entry.Digest{3}}
		return with(next, change)
	}
	run := func(change func(*entry.RunCreated)) entry.Fact {
		f := created()
		f.Run, f.Request = "another", "another"
		return with(f, change)
	}
	log := untilCreated()
	return []impossible{
		{"no fact", log, nil},
		{"adopted at epoch 0", nil, with(adopted, func(f *entry.ManifestAdopted) { f.Epoch = 0 })},
		{"adopted again", log, adopted},
		{"adopted of another federation", log, adoption(func(f *entry.ManifestAdopted) { f.Federation = "g" })},
		{"adopted over an epoch", log, adoption(func(f *entry.ManifestAdopted) { f.Epoch = 5 })},
		{"adopted with a new log", log, adoption(func(f *entry.ManifestAdopted) { f.OldLog.Lines = 1 })},
		{"adopted over another manifest", log, adoption(func(f *entry.ManifestAdopted) { f.Previous = entry.Digest{2} })},
		{"handed over before anything was adopted", nil, entry.HandedOver{Size: 1}},
		{"handed over to another epoch", log, entry.HandedOver{Epoch: 4, Size: 1}},
		{"run created twice", log, run(func(f *entry.RunCreated) { f.Run = "run" })},
		{"request used twice", log, run(func(f *entry.RunCreated) { f.Request = "request" })},
		{"no quorum", log, run(func(f *entry.RunCreated) { f.Plan.Quorum = 0 })},
		{"more quorum than members", log, run(func(f *entry.RunCreated) { f.Plan.Quorum = 4 })},
		{"members out of order", log, run(func(f *entry.RunCreated) { f.Members = []entry.Member{"b", "a", "c"} })},
		{"a member twice", log, run(func(f *entry.RunCreated) { f.Members = []entry.Member{"a", "b", "b"} })},
		{"no rounds", log, run(func(f *entry.RunCreated) { f.Plan.Rounds = 0 })},
		{"no tries", log, run(func(f *entry.RunCreated) { f.Plan.Tries = 0 })},
		{"no time", log, run(func(f *entry.RunCreated) { f.Plan.Deadline = 0 })},
		{"fewer updates than the strategy needs", log, run(func(f *entry.RunCreated) { f.Plan.Strategy.Name = "krum" })},
		{"a reference that is not asked", log, run(func(f *entry.RunCreated) {
			f.Plan.Strategy = entry.Strategy{Name: "fltrust", Params: map[string]any{"reference": "z"}}
		})},
		{"no model", log, run(func(f *entry.RunCreated) { f.Initial, f.Model = nil, entry.Digest{} })},
		{"a model without its blob", log, run(func(f *entry.RunCreated) {
			f.Plan.Standardize, f.Initial = &entry.Standardize{MaxAbs: 1}, nil
		})},
		{"a model without its digest", log, run(func(f *entry.RunCreated) { f.Model = entry.Digest{} })},
	}
}

func impossibleAnswers() []impossible {
	return []impossible{
		{"consent to no run", untilCreated(), entry.Consented{Run: "nowhere", Member: "a", Records: 1}},
		{"consent of a stranger", untilCreated(), consented("d", 1)},
		{"consent twice", untilConsented(), consented("a", 100)},
		{"consent after declining", append(untilCreated(), entry.Declined{Run: "run", Member: "a"}), consented("a", 100)},
		{"consent to what has ended", untilEnded(), consented("a", 100)},
		{"no run declined", untilCreated(), entry.Declined{Run: "nowhere", Member: "a"}},
		{"declined by a stranger", untilCreated(), entry.Declined{Run: "run", Member: "d"}},
		{"declined twice", append(untilCreated(), entry.Declined{Run: "run", Member: "a"}), entry.Declined{Run: "run", Member: "a"}},
		{"no run left", untilCreated(), departed("nowhere", "a")},
		{"left by a stranger", untilCreated(), departed("run", "d")},
		{"left twice", append(untilCreated(), departed("run", "a")), departed("run", "a")},
		{"left after declining", append(untilCreated(), entry.Declined{Run: "run", Member: "a"}), departed("run", "a")},
		{"consent after leaving", append(untilCreated(), departed("run", "a")), consented("a", 100)},
		{"declined after consent", untilConsented(), entry.Declined{Run: "run", Member: "a"}},
	}
}

func impossibleOpenings() []impossible {
	open := func(change func(*entry.RoundOpened)) entry.Fact { return with(opened(), change) }
	second := func(change func(*entry.RoundOpened)) entry.Fact {
		f := opened()
		f.Round, f.Base, f.Model, f.Deadline = 2, &first, digest("first"), start.Add(2*time.Hour)
		return with(f, change)
	}
	later := func(change func(*entry.RoundOpened)) entry.Fact {
		f := opened()
		f.Deadline = start.Add(2 * time.Hour)
		return with(f, change)
	}
	log := untilConsented()
	one := append(untilCreated(), consented("a", 100))
	stats := []entry.Fact{adopted, with(created(), func(f *entry.RunCreated) {
		f.Plan.Standardize, f.Initial, f.Model = &entry.Standardize{MaxAbs: 1}, nil, entry.Digest{}
	}), consented("a", 100), consented("b", 200), consented("c", 300)}
	return []impossible{
		{"opened in no run", log, later(func(f *entry.RoundOpened) { f.Run = "nowhere" })},
		{"opened twice", untilOpened(), later(func(*entry.RoundOpened) {})},
		{"opened for a second try beside the first", untilOpened(), later(func(f *entry.RoundOpened) { f.Try = 2 })},
		{"opened over a round", log, later(func(f *entry.RoundOpened) { f.Round = 2 })},
		{"opened over a try", log, later(func(f *entry.RoundOpened) { f.Try = 2 })},
		{"statistics that the plan has not", log, later(func(f *entry.RoundOpened) {
			f.Round, f.Kind, f.Base, f.Model = 0, entry.Statistics, nil, entry.Digest{}
		})},
		{"training before the statistics", stats, later(func(f *entry.RoundOpened) { f.Base, f.Model = nil, entry.Digest{} })},
		{"another kind", log, later(func(f *entry.RoundOpened) { f.Kind = entry.Statistics })},
		{"no base", log, later(func(f *entry.RoundOpened) { f.Base = nil })},
		{"another base", log, later(func(f *entry.RoundOpened) { f.Base = &first })},
		{"a base in the statistics", stats, later(func(f *entry.RoundOpened) { f.Round, f.Kind, f.Model = 0, entry.Statistics, entry.Digest{} })},
		{"another model", log, later(func(f *entry.RoundOpened) { f.Model = digest("first") })},
		{"the base of the round before", untilClosed(), second(func(f *entry.RoundOpened) { f.Base, f.Model = &zeros, digest("zeros") })},
		{"one too few selected", log, later(func(f *entry.RoundOpened) { f.Selected = f.Selected[:2] })},
		{"another weight", log, later(func(f *entry.RoundOpened) { f.Selected[1].Weight++ })},
		{"fewer than a quorum", one, later(func(f *entry.RoundOpened) { f.Selected = f.Selected[:1] })},
		{"no time for it", log, open(func(f *entry.RoundOpened) { f.Deadline = start.Add(time.Hour) })},
		{"opened after the last round", untilFinished(), later(func(f *entry.RoundOpened) {
			f.Round, f.Base, f.Model = 3, &first, digest("second")
		})},
		{"opened early for the report goal", log, later(func(f *entry.RoundOpened) { f.Early = entry.ReportGoal })},
		{"opened early after the first try", untilClosed(), second(func(f *entry.RoundOpened) { f.Early = entry.Absent })},
		{"opened with who has left", append(log, departed("run", "c")), later(func(*entry.RoundOpened) {})},
		{"opened in what has ended", append(log, entry.RunEnded{Run: "run", Outcome: "cancelled"}), later(func(*entry.RoundOpened) {})},
	}
}

func impossibleUpdates() []impossible {
	accept := func(change func(*entry.UpdateAccepted)) entry.Fact { return with(accepted("c", 300), change) }
	refuse := func(change func(*entry.UpdateRefused)) entry.Fact { return with(refused("a"), change) }
	log := untilOpened()
	return []impossible{
		{"accepted in no run", log, accept(func(f *entry.UpdateAccepted) { f.Run = "nowhere" })},
		{"accepted before the opening", untilConsented(), accepted("c", 300)},
		{"accepted in another round", log, accept(func(f *entry.UpdateAccepted) { f.Round = 2 })},
		{"accepted in another try", log, accept(func(f *entry.UpdateAccepted) { f.Try = 2 })},
		{"accepted of a stranger", log, accept(func(f *entry.UpdateAccepted) { f.Member = "d" })},
		{"accepted of a stranger without a weight", log, accept(func(f *entry.UpdateAccepted) { f.Member, f.Weight = "d", 0 })},
		{"accepted with another weight", log, accept(func(f *entry.UpdateAccepted) { f.Weight = 100 })},
		{"accepted twice", untilSent(), accepted("a", 100)},
		{"accepted of whom nothing is taken any more", untilSent(), accepted("c", 300)},
		{"accepted after the closing", untilClosed(), accepted("c", 300)},
		{"refused in no run", log, refuse(func(f *entry.UpdateRefused) { f.Run = "nowhere" })},
		{"refused of a stranger", log, refused("d")},
		{"refused in another try", log, refuse(func(f *entry.UpdateRefused) { f.Try = 2 })},
		{"refused a ninth time", untilSent(), refused("c")},
		{"figures in no run", untilClosed(), with(evaluated("b"), func(f *entry.Evaluated) { f.Run = "nowhere" })},
		{"figures of a stranger", untilClosed(), evaluated("d")},
		{
			"figures of who declined", append([]entry.Fact{
				adopted, created(),
				entry.Declined{Run: "run", Member: "c"},
				consented("a", 100), consented("b", 200),
				with(opened(), func(f *entry.RoundOpened) { f.Selected = f.Selected[:2] }), accepted("a", 100), accepted("b", 200),
			}, closed()),
			evaluated("c"),
		},
		{"accepted of who has left", append(log, departed("run", "c")), accepted("c", 300)},
		{"refused of who has left", append(log, departed("run", "c")), refused("c")},
		{"figures of who has left", append(untilClosed(), departed("run", "b")), evaluated("b")},
		{"figures of another model", untilClosed(), with(evaluated("b"), func(f *entry.Evaluated) { f.Model = digest("zeros") })},
		{"figures of an open round", untilSent(), evaluated("b")},
		{"figures of a round that there is not", untilClosed(), with(evaluated("b"), func(f *entry.Evaluated) { f.Round = 2 })},
		{"figures twice", untilClosed(), evaluated("a")},
		{"figures after the end", untilEnded(), evaluated("b")},
	}
}

func impossibleEnds() []impossible {
	closing := func(change func(*entry.RoundClosed)) entry.Fact { return with(closed(), change) }
	fail := func(run string, number, try int) entry.Fact {
		return entry.RoundFailed{Run: run, Round: number, Try: try, Reason: "r"}
	}
	log := untilSent()
	return []impossible{
		{"failed in no run", log, fail("nowhere", 1, 1)},
		{"failed before the opening", untilConsented(), fail("run", 1, 1)},
		{"failed in another round", log, fail("run", 2, 1)},
		{"failed in another try", log, fail("run", 1, 2)},
		{"failed after the closing", untilClosed(), fail("run", 1, 1)},
		{"closed in no run", log, closing(func(f *entry.RoundClosed) { f.Run = "nowhere" })},
		{"closed before the opening", untilConsented(), closed()},
		{"closed in another try", log, closing(func(f *entry.RoundClosed) { f.Try = 2 })},
		{"closed twice", untilClosed(), closed()},
		{"closed as another kind", log, closing(func(f *entry.RoundClosed) { f.Kind = entry.Statistics })},
		{"closed over another base", log, closing(func(f *entry.RoundClosed) { f.Base = digest("first") })},
		{"closed without a model", log, closing(func(f *entry.RoundClosed) { f.Model = entry.Digest{} })},
		{"closed below the quorum", log, closing(func(f *entry.RoundClosed) { f.Members = f.Members[:1] })},
		{"closed with an effect that a mean has not", log, closing(func(f *entry.RoundClosed) { f.Members[0].Effect = "clipped" })},
		{"closed with nobody", log, closing(func(f *entry.RoundClosed) { f.Members = nil })},
		{"closed with what was not accepted", log, closing(func(f *entry.RoundClosed) {
			f.Members = append(f.Members, entry.Contribution{Member: "c", Weight: 300, Update: digest("c")})
		})},
		{"closed with nothing of somebody", log, closing(func(f *entry.RoundClosed) {
			f.Members = append(f.Members, entry.Contribution{Member: "c"})
		})},
		{"closed with another update", log, closing(func(f *entry.RoundClosed) { f.Members[1].Update = digest("a") })},
		{"closed with another weight", log, closing(func(f *entry.RoundClosed) { f.Members[1].Weight++ })},
		{"closed with a member twice", log, closing(func(f *entry.RoundClosed) { f.Members[1] = f.Members[0] })},
		{"closed out of order", log, closing(func(f *entry.RoundClosed) {
			f.Members[0], f.Members[1] = f.Members[1], f.Members[0]
		})},
		{"closed early without a report goal", log, closing(func(f *entry.RoundClosed) { f.Early = entry.ReportGoal })},
		{"closed early below the report goal", aimed(log), closing(func(f *entry.RoundClosed) { f.Early = entry.ReportGoal })},
		{"closed early for no reason known", log, closing(func(f *entry.RoundClosed) { f.Early = "bored" })},
		{"failed early", log, entry.RunEnded{Run: "run", Outcome: "failed", Early: entry.Absent}},
		{"completed early for the report goal", untilFinished(), entry.RunEnded{Run: "run", Outcome: "completed", Early: entry.ReportGoal}},
		{"no run ended", log, entry.RunEnded{Run: "nowhere", Outcome: "failed"}},
		{"ended twice", untilEnded(), entry.RunEnded{Run: "run", Outcome: "failed"}},
		{"completed before the last round", untilClosed(), entry.RunEnded{Run: "run", Outcome: "completed"}},
		{"ended as nothing known", log, entry.RunEnded{Run: "run", Outcome: "paused"}},
		{"ended as nothing", log, entry.RunEnded{Run: "run"}},
	}
}

// untilUnmasking ends with the masks of two updates coming off their sum.
func untilUnmasking() []entry.Fact {
	log := []entry.Fact{adopted, entry.Booted{}, with(created(), func(f *entry.RunCreated) { f.Plan.Masks = true })}
	log = append(log, untilOpened()[3:]...)
	log = append(log, entry.MasksAgreed{Run: "run", Round: 1, Try: 1, Members: []entry.Member{"a", "b", "c"}}, accepted("a", 100), accepted("b", 200))
	return append(log, entry.Unmasking{Run: "run", Round: 1, Try: 1, Members: []entry.Member{"a", "b"}})
}

func impossibleUnmasked() []impossible {
	log := untilUnmasking()
	return []impossible{
		{"closed before its masks come off", log[:len(log)-1], closed()},
		{"closed with masks that went with a boot", append(log, entry.Booted{}), closed()},
	}
}

// TestUnmaskedPossible: the log from which the impossible facts are taken goes through.
func TestUnmaskedPossible(t *testing.T) { folded(t, append(untilUnmasking(), closed())) }

func departed(run string, m entry.Member) entry.Left { return entry.Left{Run: run, Member: m} }

// aimed returns a log whose run has a report goal of three.
func aimed(log []entry.Fact) []entry.Fact {
	log = slices.Clone(log)
	for i, f := range log {
		if c, ok := f.(entry.RunCreated); ok {
			c.Plan.ReportGoal = 3
			log[i] = c
		}
	}
	return log
}

// TestSpared: a try costs nothing only where a manifest was adopted at the very instant of its failure.
func TestSpared(t *testing.T) {
	s := folded(t, untilOpened())
	f := entry.RoundFailed{Run: "run", Round: 1, Try: 1, Reason: "whatever", Spared: true}
	if err := s.Apply(start.Add(time.Second), f); err == nil {
		t.Error("a second after the manifest was adopted a try still costs nothing")
	}
	mustEqual(t, "a refused failure", s, folded(t, untilOpened()))
	if err := s.Apply(start, f); err != nil {
		t.Errorf("at the instant of the adoption: %v", err)
	}
}
