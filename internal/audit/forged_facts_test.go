package audit_test

import (
	"slices"
	"testing"
	"time"

	"consilium.dev/internal/audit"
	"consilium.dev/internal/entry"
)

// at returns an edit of the fact at a line.
func at[F entry.Fact](n int, edit func(*F)) func(*history) {
	return func(h *history) { change(h, n, edit) }
}

func TestForgedBoots(t *testing.T) {
	// evidence leaves what the forger makes of the boot's evidence as it is.
	evidenceAt := func(at int, make func(h *history, k *entry.Kept)) func(*history) {
		return func(h *history) {
			sealed := h.seal()
			for n := range h.items { // with the references of the sealed history
				l, err := entry.Decode(sealed.lines[n])
				if err != nil {
					t.Fatal(err)
				}
				h.items[n].Line, h.items[n].raw = l, true
			}
			make(h, h.items[at].kept)
			change(h, at, func(f *entry.Booted) { f.Evidence = h.refer(item{}, f.Evidence, h.items[at].kept.Encode()) })
		}
	}
	evidence := func(make func(h *history, k *entry.Kept)) func(*history) { return evidenceAt(25, make) }
	checkForgeries(t, 45, []forgery{
		{
			"no manifest", func(h *history) { h.remove(0) },
			[]string{`0: the first line adopts no manifest`, `1: the second line is not the boot of a coordinator`},
		},
		{
			"somebody before the boot", func(h *history) { h.items[1], h.items[2] = h.items[2], h.items[1] },
			[]string{`-1: the log does not begin with a manifest and the boot of a coordinator`},
		},
		{
			"another manifest", at(0, func(f *entry.ManifestAdopted) { f.Manifest[0] ^= 1 }),
			[]string{`0: a manifest was adopted that is not the one that this copy is judged by`},
		},
		{"another epoch", at(0, func(f *entry.ManifestAdopted) { f.Epoch = 2 }), []string{`0: a manifest was adopted`}},
		{"another federation", at(0, func(f *entry.ManifestAdopted) { f.Federation = "x" }), []string{`0: a manifest was adopted`}},
		{"another past", at(0, func(f *entry.ManifestAdopted) { f.Previous[0] = 1 }), []string{`0: a manifest was adopted`}},
		{"witnesses said to be there", at(0, func(f *entry.ManifestAdopted) { f.Witnesses = "" }), []string{`0: a manifest was adopted`}},
		{"adopted again", func(h *history) { h.insert(30, item{Line: h.items[0].Line}) }, []string{`30: fact entry.ManifestAdopted cannot follow` + replayed}},
		{
			"another coordinator", at(25, func(f *entry.Booted) { f.Coordinator = "senate" }),
			[]string{
				`25: boot of senate: MANIFEST: `, `\d+: admission of .* its session was with council, and senate had booted`,
				`\d+: .* was not admitted since the coordinator booted`,
			},
		},
		{
			"a wait for witnesses that there are none of", at(25, func(f *entry.Booted) { f.Since = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }),
			[]string{`25: it is said to have waited since 2026-01-01T00:00:00Z for witnesses, and there are none`},
		},
		{"the same process twice", func(h *history) {
			change(h, 25, func(f *entry.Booted) { f.Instance = h.items[1].Fact.(entry.Booted).Instance })
		}, []string{`25: boot of council: it is the process that booted at line 1`}},
		{"an instance that is none", at(25, func(f *entry.Booted) { f.Instance = "x" }), []string{`25: .* its instance is not 32 hex digits`}},
		{"a simulated root hidden", at(25, func(f *entry.Booted) { f.Simulated = "" }), []string{`25: .* matches other reference sets`}},
		{"other sets", at(25, func(f *entry.Booted) { f.Sets = []string{"snp-participant"} }), []string{`25: .* matches other reference sets`}},
		{"other types", at(25, func(f *entry.Booted) { f.Types = []string{"nitro"} }), []string{`25: .* evidence of other types than the log says`}},
		{"a log's key of its own", func(h *history) {
			evidence(func(*history, *entry.Kept) {})(h)
			change(h, 25, func(f *entry.Booted) { f.LogKey += "x" })
		}, []string{`25: boot of council: it signed the log with another key than those before it`}},
		{
			"evidence over another history", evidence(func(h *history, k *entry.Kept) { h.attest(h.m, k, [32]byte{1}, h.items[25].At, "council") }),
			[]string{`25: .* its evidence is bound to another history`},
		},
		{"evidence over the history but one line", evidence(func(h *history, k *entry.Kept) {
			short := &history{forger: h.forger, t: h.t, m: h.m, envelope: h.envelope, items: h.items[:24]}
			h.attest(h.m, k, short.root(), h.items[25].At, "council")
		}), []string{`25: .* its evidence is bound to another history`}},
		{
			"evidence over another beginning", evidenceAt(1, func(h *history, k *entry.Kept) { h.attest(h.m, k, [32]byte{1}, h.items[1].At, "council") }),
			[]string{`1: .* its evidence is bound to another history`, `25: .* its evidence is bound to another history`},
		},
		{"evidence over another key", evidence(func(h *history, k *entry.Kept) {
			shared := h.forger // by all tests
			other := *shared
			other.spki = h.items[31].kept.SPKI
			h.forger = &other
			h.attest(h.m, k, [32]byte(k.Nonce), h.items[25].At, "council")
			h.forger = shared
		}), []string{`25: .* its evidence is not over the log's key, for this manifest`}},
		{"evidence of a participant's program", evidence(func(h *history, k *entry.Kept) {
			h.attest(h.m, k, [32]byte(k.Nonce), h.items[25].At, "cleveland")
		}), []string{`25: .* MEAS: `}},
		{"evidence of a type that a coordinator may not show", evidence(func(h *history, k *entry.Kept) {
			h.attest(h.m, k, [32]byte(k.Nonce), h.items[25].At, "switzerland")
		}), []string{`25: .* PLAT: `}},
		{"no nonce", evidence(func(_ *history, k *entry.Kept) { k.Nonce = nil }), []string{`25: .* its evidence is bound to another history`}},
	})
}

// TestOtherLog judges a history that is signed as that of another federation.
func TestOtherLog(t *testing.T) {
	h := forge(t)
	other, err := makeForger("consilium.dev/five-hospitals")
	if err != nil {
		t.Fatal(err)
	}
	h.forger = other
	want := []string{`-1: checkpoint is of the log "consilium.dev/five-hospitals", want "consilium.dev/four-hospitals"`}
	if found := judged(t, h.seal().write(t)); !slices.Equal(found, want) {
		t.Errorf("found %q, want %q", found, want)
	}
}

func TestForgedFacts(t *testing.T) {
	plan := func(edit func(*entry.Plan)) func(*history) { // of a run that came to nothing
		return at(83, func(f *entry.RunCreated) { edit(&f.Plan) })
	}
	refused := `83: the rules refuse it: the federation's rules do not allow the plan`
	unsound := `83: no coordinator takes such a plan`
	checkForgeries(t, 115, []forgery{
		{
			"a run of somebody who may not lead", at(83, func(f *entry.RunCreated) { f.Lead = "mallory" }),
			[]string{`83: mallory may not lead a run`, `83: mallory was not admitted since`},
		},
		{"a run of somebody who was not there", func(h *history) { h.remove(6) }, []string{`6: lead was not admitted since`}},
		{"a run under another manifest", at(83, func(f *entry.RunCreated) { f.Manifest[0] ^= 1 }), []string{`83: the run names another manifest`}},
		{"more rounds than may be", plan(func(p *entry.Plan) { p.Rounds = 201 }), []string{refused}},
		{"larger values than may be", plan(func(p *entry.Plan) { p.MaxAbs = 1 << 21 }), []string{refused}},
		{"larger squares than may be", plan(func(p *entry.Plan) { p.Standardize = &entry.Standardize{MaxAbs: 1 << 21} }), []string{refused}},
		{"fewer members than may be", plan(func(p *entry.Plan) { p.Quorum = 2 }), []string{refused, `85: the rules do not draw this`}},
		{"another strategy", plan(func(p *entry.Plan) { p.Strategy.Name = "fedbest" }), []string{refused, unsound}},
		{"another trainer", plan(func(p *entry.Plan) { p.Trainer = "builtin/cox" }), []string{refused, unsound}},
		{"a plan that nobody runs", plan(func(p *entry.Plan) { p.Local.Steps = 0 }), []string{unsound}},
		{"a schema that means nothing", plan(func(p *entry.Plan) { p.Schema = []byte(`{}`) }), []string{unsound}},
		{
			"others asked than the plan says", at(60, func(f *entry.RunCreated) { f.Plan.Members = nil }),
			[]string{`60: others were asked to take part than the plan says`},
		},
		{"a model beside the round that makes one", at(83, func(f *entry.RunCreated) {
			f.Initial, f.Model = &entry.Blob{Plain: entry.Digest{1}}, entry.Digest{1}
		}), []string{`83: the run begins with a model, and the plan with a round that makes one`}},
		{"another model to begin with", func(h *history) {
			d := entry.Digest{1}
			change(h, 60, func(f *entry.RunCreated) { f.Model, f.Initial = d, &entry.Blob{Plain: d} })
			change(h, 64, func(f *entry.RoundOpened) { f.Model, f.Base = d, &entry.Blob{Plain: d} })
			change(h, 69, func(f *entry.RoundClosed) { f.Base = d })
		}, []string{`60: the run begins with another model than its plan`}},
		{"the same request twice", func(h *history) {
			run := h.items[83].Fact.(entry.RunCreated)
			run.Run = "0123456789abcdef"
			h.insert(85, item{Line: entry.Line{Fact: run}})
		}, []string{`85: the rules draw another fact`, `85: .*` + replayed}},

		{"a second consent", func(h *history) { h.insert(12, item{Line: h.items[8].Line}) }, []string{`12: the rules draw another fact`, `12: .*` + replayed}},
		{"a stranger's consent", at(61, func(f *entry.Consented) { f.Member = "longbeach" }), []string{`61: the rules refuse it: not asked to take part`, `61: .*` + replayed}},
		{"no records", at(61, func(f *entry.Consented) { f.Records = 0 }), []string{`61: the rules refuse it: another weight`, `64: `}},
		{"a decline after a consent", func(h *history) {
			h.insert(12, item{Line: entry.Line{Fact: entry.Declined{Run: h.run(7), Member: "cleveland", Rule: "leads"}}})
		}, []string{`12: the rules draw another fact`, `12: .*` + replayed}},
		{"a decline of somebody who was not there", func(h *history) {
			h.remove(28) // longbeach, after the boot
		}, []string{`\d+: longbeach was not admitted since the coordinator booted`}},
		{"a decline long after its member's appraisal", func(h *history) {
			for n := 83; n < len(h.items); n++ {
				h.items[n].At = h.items[n].At.Add(2 * time.Hour)
			}
			h.items = h.items[:85]
		}, []string{`83: the appraisal of lead had ended at 2026-11-24T16:49`, `84: the appraisal of longbeach had ended at 2026-11-24T16:49`}},

		{"opened with fewer", at(12, func(f *entry.RoundOpened) { f.Selected = f.Selected[:3] }), []string{`12: the rules do not draw this`, `12: .*` + replayed}},
		{"opened with another bound", at(12, func(f *entry.RoundOpened) { f.Bound /= 2 }), []string{`12: the rules do not draw this`}},
		{"opened with more time", at(12, func(f *entry.RoundOpened) { f.Deadline = f.Deadline.Add(time.Second) }), []string{`12: the rules do not draw this`}},
		{"opened before all had answered", func(h *history) {
			h.items[11], h.items[12] = h.items[12], h.items[11]
			h.items[11].At, h.items[12].At = h.items[12].At, h.items[11].At
			change(h, 11, func(f *entry.RoundOpened) {
				f.Deadline = h.items[11].At.Add(10 * time.Minute)
				f.Selected = slices.DeleteFunc(slices.Clone(f.Selected), func(s entry.Share) bool { return s.Member == "longbeach" })
			})
		}, []string{`11: the rules do not draw this`, `11: .*` + replayed}},

		{"a second update", func(h *history) {
			h.insert(14, item{Line: h.items[13].Line})
			change(h, 14, func(f *entry.UpdateAccepted) { f.Update[0] ^= 1 })
		}, []string{`14: the rules refuse it: another update of the same member`, `14: .*` + replayed}},
		{
			"the same update twice", func(h *history) { h.insert(14, item{Line: h.items[13].Line}) },
			[]string{`14: the rules draw another fact`, `14: .*` + replayed},
		},
		{"another weight", at(13, func(f *entry.UpdateAccepted) { f.Weight++ }), []string{`13: the rules refuse it: another weight`, `13: .*` + replayed}},
		{"an update that came late", at(13, func(f *entry.UpdateAccepted) { f.Staleness = 1 }), []string{`13: the rules refuse it: trained from a model`, `13: .*` + replayed}},
		{"an update that came early", at(13, func(f *entry.UpdateAccepted) { f.Staleness = -1 }), []string{`13: the rules refuse it: trained from a model of a round that has not`, `13: .*` + replayed}},
		{"a contribution that is later than its update", at(17, func(f *entry.RoundClosed) {
			f.Members = slices.Clone(f.Members)
			f.Members[0].Staleness = 1
		}), []string{`17: the model is not of all`, `17: .*` + replayed}},
		{"another try", at(13, func(f *entry.UpdateAccepted) { f.Try = 2 }), []string{`13: the rules refuse it: not open`, `13: .*` + replayed}},
		{
			"an update of somebody who takes no part", at(66, func(f *entry.UpdateAccepted) { f.Member = "longbeach" }),
			[]string{`66: the rules refuse it: not asked`, `66: .*` + replayed},
		},
		{
			"an update of an unadmitted member", at(13, func(f *entry.UpdateAccepted) { f.Member = "mallory" }),
			[]string{`13: mallory was not admitted`, `13: the rules refuse it: not asked`, `13: .*` + replayed},
		},
		{
			"an update after its round", func(h *history) { h.items[16].Fact, h.items[17].Fact = h.items[17].Fact, h.items[16].Fact },
			[]string{`16: the model is not of all`, `16: .*` + replayed, `\d+: `},
		},
		{"a refusal of somebody who takes no part", func(h *history) {
			h.insert(67, item{Line: entry.Line{Fact: entry.UpdateRefused{Run: h.run(60), Round: 1, Try: 1, Member: "longbeach", Reason: "value"}}})
		}, []string{`67: the rules refuse it: not asked`, `67: .*` + replayed}},
		{"a refusal of an unadmitted member", func(h *history) {
			h.insert(26, item{Line: entry.Line{Fact: entry.UpdateRefused{Run: h.run(7), Round: 1, Try: 1, Member: "longbeach", Reason: "value"}}})
		}, []string{`26: longbeach was not admitted`}},

		{
			"below the quorum", at(17, func(f *entry.RoundClosed) { f.Members = f.Members[:3] }),
			[]string{`17: 3 members made the model, the plan and the manifest want 4`, `17: the model is not of all updates`, `17: .*` + replayed},
		},
		{
			"another weight in the model", at(17, func(f *entry.RoundClosed) { f.Members = weighed(f.Members) }),
			[]string{`17: the model is not of all updates`, `17: .*` + replayed},
		},
		{"another base", at(33, func(f *entry.RoundClosed) { f.Base[0] ^= 1 }), []string{`33: .*` + replayed}},
		{"another kind", at(33, func(f *entry.RoundClosed) { f.Kind = entry.Statistics }), []string{`33: .*` + replayed}},
		{"no model", at(33, func(f *entry.RoundClosed) { f.Model = entry.Digest{} }), []string{`33: the model lies under another digest`, `33: .*` + replayed}},
		{
			"a model that lies elsewhere", at(53, func(f *entry.RoundClosed) { f.Blob.Plain[0] ^= 1 }),
			[]string{`53: the model lies under another digest than its own`},
		},
		{"privacy spent", at(33, func(f *entry.RoundClosed) { f.Spent.Epsilon = 0.5 }), []string{`33: privacy was spent for which`}},
		{"privacy lost", at(33, func(f *entry.RoundClosed) { f.Spent.Delta = 1e-9 }), []string{`33: privacy was spent for which`}},
		{"privacy won back", at(33, func(f *entry.RoundClosed) { f.Spent.Epsilon = -0.5 }), []string{`33: privacy was spent for which`}},
		{"no optimiser's state", at(77, func(f *entry.RoundClosed) { f.State = nil }), []string{`77: the optimiser's state is missing`}},
		{"a state of nothing", at(33, func(f *entry.RoundClosed) { f.State = &entry.Blob{} }), []string{`33: the optimiser's state is missing, or`}},

		{
			"figures of another model", at(35, func(f *entry.Evaluated) { f.Model[0] ^= 1 }),
			[]string{`35: the rules refuse it: not the model of that round`, `35: .*` + replayed},
		},
		{"figures of somebody who was not there", func(h *history) {
			h.items[28], h.items[29] = h.items[29], h.items[28]
			h.items[28].At, h.items[29].At = h.items[29].At, h.items[28].At
		}, []string{`28: longbeach was not admitted since`}},
		{"figures twice", func(h *history) { h.insert(36, item{Line: h.items[35].Line}) }, []string{`36: the rules draw another fact`, `36: .*` + replayed}},
		{
			"figures of no kind", at(35, func(f *entry.Evaluated) { f.Metrics = []entry.Metric{{Set: "all", Name: "loss", Better: "min"}} }),
			[]string{`35: the rules refuse it: figures of a form`},
		},

		{"failed though all was there", func(h *history) { h.fail(17) }, []string{`17: the rules do not draw this`, `\d+: `}},
		{"failed before the deadline", func(h *history) {
			h.items[107].At = h.items[106].At
			h.items = h.items[:108]
		}, []string{`107: the rules do not draw this`}},
		{"the last failure without an end", func(h *history) { h.remove(113) }, []string{`113: the rules end the run with the failure of its last try`}},
		{
			"another end", at(113, func(f *entry.RunEnded) { f.Outcome = "completed" }),
			[]string{`113: the rules end the run`, `113: the rules do not draw this`, `113: .*` + replayed},
		},
		{"an end at another instant", func(h *history) {
			for n := 113; n < len(h.items); n++ {
				h.items[n].At = h.items[n].At.Add(time.Microsecond)
			}
		}, []string{`113: the rules end the run`, `113: the rules do not draw this`}},
		{"broken off in a commit", func(h *history) { h.items = h.items[:113] }, []string{`-1: the log breaks off in the middle of a commit`}},
		{
			"ended too early", func(h *history) { h.items[54].Fact, h.items[58].Fact = h.items[58].Fact, h.items[54].Fact },
			[]string{`54: the rules do not draw this`, `\d+: `},
		},
		{"ended early where nobody was missing", at(58, func(f *entry.RunEnded) { f.Early = entry.Absent }), []string{`58: the rules do not draw this`}},
		{"left by a stranger", func(h *history) {
			h.insert(58, item{Line: entry.Line{Fact: entry.Left{Run: h.run(7), Member: "mallory"}}})
		}, []string{`58: mallory was not admitted`, `58: the rules refuse it`, `58: .*` + replayed}},
		{"cancelled by nobody", at(58, func(f *entry.RunEnded) { f.Outcome = "cancelled" }), []string{`58: the run was cancelled, and it is not said by whom`}},
		{
			"cancelled by a stranger", at(58, func(f *entry.RunEnded) { f.Outcome, f.Reason = "cancelled", "by mallory: no" }),
			[]string{`58: mallory may not lead a run`, `58: mallory was not admitted`},
		},
		{"cancelled by somebody who was not there", func(h *history) {
			h.items = h.items[:31]
			h.remove(26)
			h.items[29].Fact = entry.RunEnded{Run: h.run(7), Outcome: "cancelled", Reason: "by lead"}
		}, []string{`29: lead was not admitted since`}},
		{"cancelled after its end", func(h *history) {
			h.insert(59, item{Line: entry.Line{Fact: entry.RunEnded{Run: h.run(7), Outcome: "cancelled", Reason: "by lead"}}})
		}, []string{`59: .*` + replayed}},
		{"ended as nothing", at(58, func(f *entry.RunEnded) { f.Outcome = "lost" }), []string{`58: the rules do not draw this`, `58: .*` + replayed}},
		{"ended for want of members who may come", func(h *history) { h.remove(84) }, []string{`84: the rules do not draw this`}},

		{"time goes back", func(h *history) { h.items[40].At = h.items[38].At }, []string{`40: .*is before the newest one` + replayed}},
		{"a tag", func(h *history) {
			h.insert(114, item{Line: entry.Line{Fact: entry.TagMoved{Tag: "champion", Model: h.items[53].Fact.(entry.RoundClosed).Model, By: "lead"}}})
		}, []string{`114: no program of this version writes down a entry.TagMoved`}},
	})
}

// TestDropped: what the coordinator's retention deletes is held against the rule, and the report says which models are gone.
func TestDropped(t *testing.T) {
	drop := func(h *history, kept time.Duration, rounds ...int) {
		h.insert(114, item{Line: entry.Line{Fact: entry.Dropped{Run: h.run(7), Rounds: rounds, Kept: entry.Duration(kept)}}})
	}
	t.Run("in time", func(t *testing.T) {
		h := forge(t)
		drop(h, 5*time.Second, 0, 1, 2)
		report, err := audit.Verify(t.Context(), h.seal().write(t), options(t))
		if err != nil || !report.Good() {
			t.Fatalf("Verify = %v, found %v", err, report.Findings)
		}
		for _, m := range report.Models {
			if gone := m.Run == h.run(7) && m.Round < 3; gone != m.Deleted.Equal(h.items[114].At) || !gone && !m.Deleted.IsZero() {
				t.Errorf("the model of round %d of run %s was deleted at %v", m.Round, m.Run, m.Deleted)
			}
		}
	})
	checkForgeries(t, 115, []forgery{
		{"too early", func(h *history) { drop(h, 7*time.Second, 0, 1, 2) }, []string{`114: the rules draw another fact`}},
		{"at once", func(h *history) { drop(h, 0, 0, 1, 2) }, []string{`114: blobs are dropped as soon as their run ends`, `114: .*` + replayed}},
		{"the newest", func(h *history) { drop(h, 5*time.Second, 0, 1, 2, 3) }, []string{`114: the rules draw another fact`, `114: .*its model is the newest of the run` + replayed}},
	})
}

// TestLostUpdates judges what may come of a boot in the middle of a round: updates from before it may be offered again or not.
func TestLostUpdates(t *testing.T) {
	good := func(name string, edit func(*history)) {
		t.Run(name, func(t *testing.T) {
			h := forge(t)
			edit(h)
			if found := judged(t, h.seal().write(t)); len(found) != 0 {
				t.Errorf("found in what may be: %q", found)
			}
		})
	}
	late := func(h *history) { // the log ends at the renewed deadline of the round
		h.items = h.items[:34]
		h.items[33].At = h.items[25].At.Add(10 * time.Minute)
	}
	good("failed", func(h *history) {
		h.fail(33)
		late(h)
	})
	good("failed, in other words", func(h *history) {
		h.fail(33)
		late(h)
		change(h, 33, func(f *entry.RoundFailed) { f.Reason = "somebody was missing" })
	})
	good("cancelled", func(h *history) {
		late(h)
		h.items[33].Fact = entry.RunEnded{Run: h.run(7), Outcome: "cancelled", Reason: "by lead: no more of this"}
	})
	good("closed without one at the deadline", func(h *history) {
		change(h, 7, func(f *entry.RunCreated) { f.Plan.Quorum = 3 })
		h.reopen()
		late(h)
		change(h, 33, func(f *entry.RoundClosed) {
			f.Members = slices.DeleteFunc(slices.Clone(f.Members), func(c entry.Contribution) bool { return c.Member == "cleveland" })
		})
	})
}

// TestForgedQuorum opens a run that needs three of four, and leaves out what it may not.
func TestForgedQuorum(t *testing.T) {
	three := func(edit func(*history)) func(*history) {
		return func(h *history) {
			change(h, 7, func(f *entry.RunCreated) { f.Plan.Quorum = 3 })
			h.reopen()
			edit(h)
		}
	}
	without := func(n int, m entry.Member) func(*history) {
		return at(n, func(f *entry.RoundClosed) {
			f.Members = slices.DeleteFunc(slices.Clone(f.Members), func(c entry.Contribution) bool { return c.Member == m })
		})
	}
	checkForgeries(t, 34, []forgery{
		{"left out", three(without(17, "cleveland")), []string{`17: the model is not of all updates that were held`}},
		{"left out at the deadline", three(func(h *history) {
			without(17, "cleveland")(h)
			h.items = h.items[:18]
			h.items[17].At = h.items[12].At.Add(10 * time.Minute)
		}), []string{`17: the model is not of all updates that were held`}},
		{"closed too early", three(func(h *history) { without(17, "cleveland")(h); h.remove(16) }), []string{`16: the model is not of all updates that were held, or the round was closed too early`}},
		{
			"closed early for a goal that there is not", three(at(17, func(f *entry.RoundClosed) { f.Early = entry.ReportGoal })),
			[]string{`17: .*closed early for a reason that its plan does not know; nothing after`},
		},
		{"left out as absent", three(func(h *history) {
			without(17, "cleveland")(h)
			at(17, func(f *entry.RoundClosed) { f.Early = entry.Absent })(h)
		}), []string{`17: the model is not of all updates that were held`}},
		{"left out after a boot", three(without(33, "longbeach")), []string{`33: the model is not of all updates that were held`}},
		{"failed with enough at the deadline", three(func(h *history) {
			h.fail(17)
			h.items = h.items[:18]
			h.items[17].At = h.items[12].At.Add(10 * time.Minute)
		}), []string{`17: the rules do not draw this`}},
		{"not waited for after a boot", three(without(33, "cleveland")), []string{`33: the model is not of all updates that were held, or the round was closed too early`}},
	})
}
