package participant_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
	pb "consilium.dev/proto/consilium/v1"
)

// TestNoConsent has a coordinator ask for what this member never consented to, or consented to otherwise: after it left the run
// out for a while, and after a restart of the member too. Nothing is given away.
func TestNoConsent(t *testing.T) {
	another := func(t *testing.T) []byte { return plan(t, func(p *entry.Plan) { p.Seed++; p.Name = "another" }) }
	training := func(q *pb.Train, round int32) { q.Kind, q.Round = "training", round }
	tests := map[string]struct {
		spoil func(*testing.T, *pb.Train)
		says  string
	}{
		"never invited":            {func(_ *testing.T, q *pb.Train) { q.Run = "ffffffffffffffff" }, "no consent to it on its disk"},
		"another plan":             {func(t *testing.T, q *pb.Train) { q.Plan = another(t) }, "another plan"},
		"the same plan, spaced":    {func(_ *testing.T, q *pb.Train) { q.Plan = append([]byte(" "), q.Plan...) }, "another plan"},
		"another lead":             {func(_ *testing.T, q *pb.Train) { q.Lead = "eve" }, "for another lead"},
		"statistics later":         {func(_ *testing.T, q *pb.Train) { q.Round = 1 }, `no round 1 of the kind \"statistics\"`},
		"statistics far away":      {func(_ *testing.T, q *pb.Train) { q.Round = 60000 }, `no round 60000 of the kind \"statistics\"`},
		"training before all":      {func(_ *testing.T, q *pb.Train) { training(q, 0) }, `no round 0 of the kind \"training\"`},
		"training beyond all":      {func(_ *testing.T, q *pb.Train) { training(q, 51) }, `no round 51 of the kind \"training\"`},
		"unknown kind":             {func(_ *testing.T, q *pb.Train) { q.Kind, q.Round = "theft", 1 }, `no round 1 of the kind \"theft\"`},
		"statistics not asked":     {func(t *testing.T, q *pb.Train) { q.Run, q.Plan = runA, plan(t, unscaled) }, "no round 0"},
		"weight that was not so":   {func(_ *testing.T, q *pb.Train) { q.Weight = 198 }, "this member declared 199 records, not 198"},
		"last round, without base": {func(_ *testing.T, q *pb.Train) { training(q, 50) }, "the announced model cannot be this run's"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMember(t)
				m.query = func(*pb.QueryRequest) *pb.QueryReply {
					t.Error("an update was offered")
					return &pb.QueryReply{State: pb.QueryReply_STATE_CLOSED}
				}
				end := m.follow()
				m.agree(run, plan(t))
				m.agree(runA, plan(t, unscaled))
				q := statistics(t)
				test.spoil(t, q)
				asks := &pb.Wanted{Train: []*pb.Train{q}, Progress: []*pb.Progress{{Run: run, Closed: -1}, {Run: q.Run, Closed: -1}}}
				m.wants(&pb.Wanted{}) // no run is named
				m.wants(asks)
				if text := m.book.take(); !strings.Contains(text, "out of this round") || !strings.Contains(text, test.says) {
					t.Errorf("the log says %s, want %q", text, test.says)
				}
				_ = end()
				m.follow()
				m.wants(asks)
				if text := m.book.take(); !strings.Contains(text, "out of this round") || !strings.Contains(text, test.says) {
					t.Errorf("after a restart the log says %s, want %q", text, test.says)
				}
			})
		})
	}
}

// TestConsentLasts leaves a run out, restarts the member, and asks for just what it consented to: it takes part.
func TestConsentLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMember(t)
		m.query = func(*pb.QueryRequest) *pb.QueryReply { return &pb.QueryReply{State: pb.QueryReply_STATE_HELD} }
		end := m.follow()
		m.agree(run, plan(t))
		m.wants(&pb.Wanted{})
		_ = end()
		m.follow()
		m.wants(&pb.Wanted{Train: []*pb.Train{statistics(t)}, Progress: []*pb.Progress{{Run: run, Closed: -1}}})
		if text := m.book.take(); !strings.Contains(text, "update accepted") {
			t.Errorf("the log says %s, want an accepted update", text)
		}
	})
}

// TestInvitedAgain repeats an invitation in a session of its own, as after a lost answer: the same one is answered alike, another
// plan or another lead of the same run is declined, and a number of records that has changed is declared anew.
func TestInvitedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMember(t)
		m.rules.Leads = []string{"ada", "ben"}
		again := func(lead string, plan []byte) *pb.ConsentRequest {
			t.Helper()
			end := m.follow()
			m.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: run, Lead: lead, Plan: plan}}})
			_ = end()
			return <-m.consents
		}
		for range 2 {
			if q := again("ada", plan(t)); q.Records != 199 || q.Declined != "" {
				t.Fatalf("answer %v, want 199 records", q)
			}
		}
		if q := again("ada", plan(t, func(p *entry.Plan) { p.Seed++ })); q.Records != 0 || !strings.HasPrefix(q.Declined, "consent: ") {
			t.Errorf("answer to another plan: %v, want a refusal", q)
		}
		if q := again("ben", plan(t)); q.Records != 0 || !strings.HasPrefix(q.Declined, "consent: ") {
			t.Errorf("answer for another lead: %v, want a refusal", q)
		}
		m.data = few(t, 12, 0)
		if q := again("ada", plan(t)); q.Records != 12 || q.Declined != "" {
			t.Errorf("answer with other data: %v, want 12 records", q)
		}
		m.data = few(t, 12, 0)
		if q := again("ada", plan(t)); q.Records != 12 || q.Declined != "" {
			t.Errorf("answer with the same data again: %v, want 12 records", q)
		}
	})
}

// TestConsentNotDurable fails each call to the disk while a member consents: the coordinator learns of no consent that is not
// there after a restart.
func TestConsentNotDurable(t *testing.T) {
	for _, effect := range []storetest.Effect{storetest.Before, storetest.After} {
		synctest.Test(t, func(t *testing.T) {
			m := newMember(t)
			end := m.follow()
			m.wants(&pb.Wanted{})
			m.disk.FailFrom(1, effect)
			m.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: run, Lead: "ada", Plan: plan(t)}}})
			if err := end(); !participant.IsBroken(err) {
				t.Errorf("the session ended with %v, want the disk's fault", err)
			}
			if len(m.consents) != 0 {
				t.Errorf("consented before it was durable: %v", <-m.consents)
			}
			m.disk.Heal()
			m.follow()
			m.agree(run, plan(t))
		})
	}
}

// TestInvitedNowhere invites to runs whose ids could name other files.
func TestInvitedNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMember(t)
		m.follow()
		for _, name := range []string{"", "../kept/x", "00112233445566FF", "00112233445566", strings.Repeat("ab", 99)} {
			m.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: name, Lead: "ada", Plan: plan(t)}}})
			if q := <-m.consents; q.Records != 0 || q.Declined != "run: it has no id" {
				t.Errorf("run %q: answer %v, want a refusal", name, q)
			}
		}
		for object := range m.disk.List(t.Context(), "") {
			t.Errorf("object %s is there", object)
		}
	})
}

// TestConsentsBounded keeps the newest ten, over restarts, and not by their names.
func TestConsentsBounded(t *testing.T) {
	disk := storetest.New()
	b := agreements(t, disk)
	name := func(i int) string { return fmt.Sprintf("%016x", 5000-i) }
	for i := range 12 {
		if i == 6 {
			b = agreements(t, disk)
		}
		if err := b.Put(t.Context(), participant.Consented{Run: name(i), Lead: "ada", Records: 30}); err != nil {
			t.Fatal(err)
		}
	}
	for _, b := range []participant.Consents{b, agreements(t, disk)} {
		for i, want := range map[int]bool{0: false, 1: false, 2: true, 5: true, 6: true, 11: true} {
			if got := b.Has(name(i)); got != want {
				t.Errorf("consent %d is kept: %v, want %v", i, got, want)
			}
		}
	}
}

func agreements(t testing.TB, disk store.Objects) participant.Consents {
	t.Helper()
	b, err := participant.OpenConsents(t.Context(), disk, newSealer(t, 1), 10)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestConsentsStrange finds what is none of ours where consents are kept: not sealed, under another key, or of another name.
func TestConsentsStrange(t *testing.T) {
	disk := storetest.New()
	if err := disk.Put(t.Context(), store.Named("consent/"+runA), bytes.NewReader(nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := participant.OpenConsents(t.Context(), disk, newSealer(t, 1), 10); !participant.IsBroken(err) {
		t.Errorf("an empty object: %v, want an error", err)
	}
	disk = storetest.New()
	if err := agreements(t, disk).Put(t.Context(), participant.Consented{Run: runA, Lead: "ada", Records: 30}); err != nil {
		t.Fatal(err)
	}
	if _, err := participant.OpenConsents(t.Context(), disk, newSealer(t, 2), 10); !participant.IsBroken(err) {
		t.Errorf("another key: %v, want an error", err)
	}
	moved := storetest.New()
	r, err := disk.Get(t.Context(), "consent/"+runA)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close() //nolint:errcheck // it is memory
	if err := moved.Put(t.Context(), store.Named("consent/"+runB), r); err != nil {
		t.Fatal(err)
	}
	if _, err := participant.OpenConsents(t.Context(), moved, newSealer(t, 1), 10); !participant.IsBroken(err) {
		t.Errorf("another run's consent: %v, want an error", err)
	}
}

func FuzzDecodeConsent(f *testing.F) {
	good := participant.Consented{Run: runA, Lead: "ada", Plan: [32]byte{1}, Records: 30, Order: 7}.Encode()
	f.Add(good)
	f.Add(append(bytes.Clone(good), ' '))
	f.Add(bytes.Replace(good, []byte(runA), []byte("../../x"), 1))
	f.Add([]byte("consilium.consent/2\n{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := participant.DecodeConsent(text)
		if err == nil && !bytes.Equal(got.Encode(), text) {
			t.Errorf("%q is read as something that is written as %q", text, got.Encode())
		}
	})
}

// few returns data of a few rows to train and to test on.
func few(t *testing.T, train, test int) participant.Data {
	t.Helper()
	folder := t.TempDir()
	d := participant.Data{Records: filepath.Join(folder, "r.csv"), Split: filepath.Join(folder, "s.csv")}
	var split strings.Builder
	split.WriteString("line,set\n")
	for i := range train + test {
		set := "train"
		if i >= train {
			set = "test"
		}
		fmt.Fprintf(&split, "%d,%s\n", i+1, set)
	}
	rows := strings.Repeat("63,1,1,145,233,1,2,150,0,2.3,3,0,6,0\n", train+test)
	for path, text := range map[string]string{d.Records: rows, d.Split: split.String()} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// TestLeastRecords takes no part with fewer rows than the owner wants, and gives away no figures of fewer.
func TestLeastRecords(t *testing.T) {
	tests := []struct {
		name        string
		train, test int
		least       int
		consents    bool
		sets        string // of which figures are given
	}{
		{"as many as by default", 10, 10, 0, true, "train test test"},
		{"one below the default", 9, 10, 0, false, ""},
		{"few to test on", 10, 9, 0, true, "train"},
		{"none to test on", 10, 0, 0, true, "train"},
		{"owner wants more", 30, 16, 31, false, ""},
		{"owner wants just as many", 30, 16, 30, true, "train"},
		{"owner wants one", 1, 1, 1, true, "train test test"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, file := base(t)
				m := newMember(t)
				m.data, m.rules.LeastRecords = few(t, test.train, test.test), test.least
				m.fetch = serve(nil, &pb.Chunk{Size: uint32(len(file)), Data: file})
				m.follow()
				m.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: run, Lead: "ada", Plan: plan(t, unscaled)}}})
				q := <-m.consents
				if got := q.Declined == "" && q.Records == int64(test.train); got != test.consents {
					t.Fatalf("answer %v, want consent: %v", q, test.consents)
				}
				if !test.consents && !strings.HasPrefix(q.Declined, "least_records: fewer than ") {
					t.Errorf("declined %q, want the rule least_records", q.Declined)
				}
				m.wants(&pb.Wanted{Evaluate: []*pb.Evaluate{evaluation(t, base)}, Progress: []*pb.Progress{{Run: run}}})
				if len(m.reports) == 0 {
					if test.sets != "" {
						t.Errorf("no figures, want those of %s; the log says %s", test.sets, m.book.take())
					}
					return
				}
				var sets []string
				for _, f := range (<-m.reports).Metrics {
					sets = append(sets, f.Set)
				}
				if got := strings.Join(sets, " "); got != test.sets {
					t.Errorf("figures of %q, want %q", got, test.sets)
				}
			})
		})
	}
}

// TestPolicyLater changes the owner's policy after consent: nothing that it does not allow is given away any more.
func TestPolicyLater(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*participant.Policy)
		says   string
	}{
		"leads":         {func(p *participant.Policy) { p.Leads = []string{"ben"} }, "leads: "},
		"least_records": {func(p *participant.Policy) { p.LeastRecords = 200 }, "least_records"},
		"schemas":       {func(p *participant.Policy) { p.Schemas = []entry.Digest{{1}} }, "schemas: "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, _ := base(t)
				m := newMember(t)
				end := m.follow()
				m.agree(run, plan(t, unscaled))
				_ = end()
				test.change(&m.rules)
				m.follow()
				d := base.Digest()
				q := &pb.Train{
					Run: run, Lead: "ada", Round: 1, Try: 1, Kind: "training", Weight: 199, Plan: plan(t, unscaled), Model: d[:], BaseSize: base.Size(),
				}
				m.wants(&pb.Wanted{
					Train: []*pb.Train{q}, Evaluate: []*pb.Evaluate{evaluation(t, base)}, Progress: []*pb.Progress{{Run: run}},
				})
				text := m.book.take()
				for _, want := range []string{"out of this round", "not evaluated"} {
					if !strings.Contains(text, want) || strings.Count(text, "the owner's policy refuses it: "+test.says) != 2 {
						t.Errorf("the log says %s, want %q for the rule %q", text, want, test.says)
					}
				}
			})
		})
	}
}

// TestSchemas pins a schema, as an owner does with the digest that a refusal or a consent has logged.
func TestSchemas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		other := func(p *entry.Plan) { p.Schema = bytes.Replace(p.Schema, []byte(`"above":0`), []byte(`"above":1`), 1) }
		if bytes.Equal(plan(t), plan(t, other)) {
			t.Fatal("the other schema is the same")
		}
		m := newMember(t)
		m.rules.Schemas = []entry.Digest{{1}}
		end := m.follow()
		m.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: run, Lead: "ada", Plan: plan(t)}}})
		text, _ := strings.CutPrefix((<-m.consents).Declined, "schemas: ")
		text, ok := strings.CutSuffix(text, " is not on the owner's list")
		var d entry.Digest
		if err := d.UnmarshalText([]byte(text)); err != nil || !ok {
			t.Fatalf("declined with %q, want the schema's digest", text)
		}
		if log := m.book.take(); !strings.Contains(log, `"schema":"`+text+`"`) {
			t.Errorf("the owner's log says %s, want the schema %s", log, text)
		}
		_ = end()
		m.rules.Schemas = append(m.rules.Schemas, d)
		m.follow()
		m.agree(run, plan(t))
		m.wants(&pb.Wanted{Invitations: []*pb.Invitation{{Run: runA, Lead: "ada", Plan: plan(t, other)}}})
		if q := <-m.consents; q.Records != 0 || !strings.HasPrefix(q.Declined, "schemas: ") || strings.Contains(q.Declined, text) {
			t.Errorf("answer to another schema: %v, want a refusal with its digest", q)
		}
	})
}
