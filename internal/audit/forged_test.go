package audit_test

import (
	"crypto/ed25519"
	"regexp"
	"testing"
	"time"

	"consilium.dev/internal/entry"
)

// forgery is one thing that is wrong in a history that is otherwise good and rightly signed. Each of want must be found, as
// "LINE: WHAT" from its beginning, and nothing else.
type forgery struct {
	name string
	edit func(*history)
	want []string
}

// replayed is what is found where a fact cannot follow: the rest is not replayed.
const replayed = `.*; nothing after it can be replayed`

// checkForgeries forges the first lines of the history, so many.
func checkForgeries(t *testing.T, lines int, all []forgery) {
	for _, f := range all {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			h := forge(t)
			h.items = h.items[:lines]
			f.edit(h)
			found := judged(t, h.seal().write(t))
			if len(found) == 0 {
				t.Fatal("judged good")
			}
			checkFound(t, found, f.want)
		})
	}
}

// checkFound compares what was found with what had to be.
func checkFound(t *testing.T, found, want []string) {
	t.Helper()
	met := make([]bool, len(want))
	for _, got := range found {
		expected := false
		for i, w := range want {
			if regexp.MustCompile(`(?s)\A(?:` + w + `)`).MatchString(got) {
				expected, met[i] = true, true
			}
		}
		if !expected {
			t.Errorf("found besides: %s", got)
		}
	}
	for i, w := range want {
		if !met[i] {
			t.Errorf("not found: %s\nfound: %q", w, found)
		}
	}
}

func TestForgedAdmissions(t *testing.T) {
	gone := `\d+: cleveland was not admitted since the coordinator booted`
	cleveland := func(edit func(*entry.Admitted, *entry.Kept)) func(*history) {
		return func(h *history) { h.admission(31, edit) }
	}
	session := func(fields map[int][]byte) func(*history) { return func(h *history) { h.session(31, fields) } }
	lead := func(edit func(*entry.Admitted, *entry.Kept)) func(*history) {
		return func(h *history) { h.admission(59, edit) } // the last line: nobody needs it
	}
	checkForgeries(t, 60, []forgery{
		{"never admitted", func(h *history) { h.remove(31) }, []string{gone}},
		{"a session with the process before", func(h *history) {
			expires := h.items[31].Fact.(entry.Admitted).Expires
			h.items[31].Fact, h.items[31].kept = h.items[3].Fact, h.items[3].kept
			h.session(31, map[int][]byte{fieldExporter: make([]byte, 32)})
			h.admission(31, func(f *entry.Admitted, _ *entry.Kept) { f.Expires = expires })
		}, []string{`31: admission of participant cleveland: its session was with the process that booted at line 1`, gone}},
		{"a session admitted twice", func(h *history) {
			again := h.items[3]
			h.insert(32, again)
			h.admission(32, func(f *entry.Admitted, _ *entry.Kept) { f.Expires = h.items[32].At.Add(time.Hour) })
		}, []string{`32: admission of participant cleveland: its session was admitted at line 3 already`}},
		{
			"another session's evidence", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Binding[0] ^= 1 }),
			[]string{`31: .* bound to another session than the log names`, gone},
		},
		{
			"another member's evidence", cleveland(func(f *entry.Admitted, k *entry.Kept) { f.Name = "budapest" }),
			[]string{`31: admission of participant budapest: its session was of another peer`, gone},
		},
		{
			"evidence for another name", session(map[int][]byte{fieldAttester: []byte("budapest")}),
			[]string{`31: .* its session was of another peer`, gone},
		},
		{
			"evidence for another federation", session(map[int][]byte{fieldFederation: []byte("five-hospitals")}),
			[]string{`31: .* its session was of another peer`, gone},
		},
		{
			"evidence under another manifest", session(map[int][]byte{fieldManifest: make([]byte, 32)}),
			[]string{`31: .* its session was of another peer`, gone},
		},
		{
			"evidence of another epoch", session(map[int][]byte{fieldWho: {1, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0}}),
			[]string{`31: .* its session was of another peer`, gone},
		},
		{
			"evidence of the other side", session(map[int][]byte{fieldWho: {2, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}}),
			[]string{`31: .* its session was of another peer`, gone},
		},
		{"a coordinator admitted", func(h *history) {
			h.session(31, map[int][]byte{fieldWho: {1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}})
			h.admission(31, func(f *entry.Admitted, _ *entry.Kept) { f.Office = "coordinator" })
		}, []string{`31: .* its session was of another peer`, gone}},
		{
			"a session with another coordinator", session(map[int][]byte{fieldVerifier: []byte("senate")}),
			[]string{`31: .* its session was with senate, and council had booted`, gone},
		},
		{
			"a preimage that is none", session(map[int][]byte{fieldNonce: make([]byte, 32), 0: []byte("consilium log-key v1")}),
			[]string{`31: .* its label is another`, gone},
		},
		{
			"a preimage that was not hashed", cleveland(func(_ *entry.Admitted, k *entry.Kept) { k.Preimage = append(k.Preimage, 0) }),
			[]string{`31: .* are not the hash of their preimage`, gone},
		},
		{"evidence that does not carry its session", func(h *history) {
			old := h.items[31].kept.Evidence
			h.session(31, map[int][]byte{fieldExporter: make([]byte, 32)})
			h.items[31].kept.Evidence = old
		}, []string{`31: .* BIND: `, gone}},
		{
			"numbers that it was not judged by", cleveland(func(f *entry.Admitted, _ *entry.Kept) {
				f.Numbers = []entry.Number{{Name: "sev-snp-Genoa.crl", Number: "6"}}
			}),
			[]string{`31: .* the log names other numbers of revocation lists and the like than those that it was judged by`, gone},
		},
		{"evidence altered", cleveland(func(_ *entry.Admitted, k *entry.Kept) {
			k.Evidence[0].Body = append([]byte(nil), k.Evidence[0].Body...)
			k.Evidence[0].Body[0x90] ^= 1
		}), []string{`31: .* SIG: `, gone}},
		{
			"evidence of a type that nobody judges", cleveland(func(_ *entry.Admitted, k *entry.Kept) { k.Evidence[0].Type = "cca" }),
			[]string{`31: .* nothing here judges evidence of the type "cca"`, gone},
		},
		{
			"evidence twice", cleveland(func(_ *entry.Admitted, k *entry.Kept) { k.Evidence = append(k.Evidence, k.Evidence[0]) }),
			[]string{`31: .* PLAT: `, gone},
		},
		{"no evidence", cleveland(func(_ *entry.Admitted, k *entry.Kept) { k.Evidence = nil }), []string{`31: .* PLAT: `, gone}},
		{
			"a person's signature for a machine", cleveland(func(_ *entry.Admitted, k *entry.Kept) { k.Evidence[0].Type = "signature" }),
			[]string{`31: .* nothing here judges evidence of the type "signature"`, gone},
		},
		{"no leaf", cleveland(func(_ *entry.Admitted, k *entry.Kept) { k.Leaf = nil }), []string{`31: .* PARSE: leaf`, gone}},
		{
			"a leaf endorsed by another member", func(h *history) { h.leaf(31, "switzerland", time.Hour) },
			[]string{`31: .* SIG: the identity key .* has not signed this leaf`, gone},
		},
		{
			"a leaf of another process", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Instance = "00000000000000000000000000000000" }),
			[]string{`31: .* was endorsed for somebody else`, gone},
		},
		{
			"a leaf of another session", session(map[int][]byte{fieldSPKI: make([]byte, 32)}),
			[]string{`31: .* was endorsed for somebody else`, gone},
		},
		{"a leaf that had expired", func(h *history) { h.leaf(31, "cleveland", -time.Hour) }, []string{`31: .* TIME: leaf`, gone}},
		{
			"longer than the leaf", func(h *history) { h.leaf(31, "cleveland", time.Minute) },
			[]string{`31: .* made to last longer than its key`, gone},
		},
		{
			"longer than the manifest lets it", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Expires = f.Expires.Add(2 * time.Minute) }),
			[]string{`31: .* made to last longer than the manifest lets it`, gone},
		},
		{
			"expired", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Expires = f.Expires.Add(-time.Hour - 2*time.Minute) }),
			[]string{`31: .* its appraisal had ended before`, gone},
		},
		{"judged after it was admitted", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Issued = f.Expires.Add(-time.Minute) }), []string{
			`31: .* said to have been judged after it was admitted`, gone,
		}},
		{"judged before the boot", cleveland(func(f *entry.Admitted, _ *entry.Kept) {
			f.Issued, f.Expires = f.Expires.Add(-63*time.Minute), f.Expires.Add(-3*time.Minute)
		}), []string{`31: .* said to have been judged before the coordinator had booted`, gone}},
		{"judged long before it was admitted", func(h *history) {
			for n := 31; n < len(h.items); n++ {
				h.items[n].At = h.items[n].At.Add(3 * time.Minute)
			}
			h.items = h.items[:32]
			h.admission(31, func(f *entry.Admitted, _ *entry.Kept) {
				f.Issued, f.Expires = h.items[31].At.Add(-2*time.Minute), h.items[31].At.Add(time.Hour)
			})
		}, []string{`31: .* made to last longer than the manifest lets it`}},
		{
			"a simulated root hidden", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Simulated = "" }),
			[]string{`31: .* matches other reference sets than the log says`, gone},
		},
		{
			"other sets", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Sets = []string{"nitro-participant"} }),
			[]string{`31: .* matches other reference sets than the log says`, gone},
		},
		{
			"other sets kept", cleveland(func(_ *entry.Admitted, k *entry.Kept) { k.Sets = nil }),
			[]string{`31: .* matches other reference sets than the log says`, gone},
		},
		{
			"a field said to be judged", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Any = f.Any[1:] }),
			[]string{`31: .* other fields of the reference sets were left unjudged`, gone},
		},
		{
			"a field kept as judged", cleveland(func(_ *entry.Admitted, k *entry.Kept) { k.Any = nil }),
			[]string{`31: .* other fields of the reference sets were left unjudged`, gone},
		},
		{
			"other types", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Types = []string{"nitro"} }),
			[]string{`31: .* the log names other evidence`, gone},
		},
		{
			"other evidence named", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Evidence = []entry.Digest{{1}} }),
			[]string{`31: .* the log names other evidence`, gone},
		},
		{
			"more evidence named", cleveland(func(f *entry.Admitted, _ *entry.Kept) { f.Evidence = append(f.Evidence, entry.Digest{}) }),
			[]string{`31: .* the log names other evidence`, gone},
		},
		{"a size that is not that of what was kept", func(h *history) {
			h.admission(31, func(f *entry.Admitted, _ *entry.Kept) { f.Kept.Size++ })
			h.items[31].raw = true
		}, []string{`31: .* not what the log names`, gone}},

		{"a person's signature by another key", lead(func(_ *entry.Admitted, k *entry.Kept) {
			k.Evidence[0].Body = ed25519.Sign(ed25519.NewKeyFromSeed(make([]byte, 32)), k.ReportData)
		}), []string{`59: admission of person lead: the signature is not of the key that the manifest gives this person`}},
		{"a person with collateral", lead(func(_ *entry.Admitted, k *entry.Kept) {
			k.Evidence[0].Collateral = []entry.KeptCollateral{{Kind: 1, Bytes: []byte{1}}}
		}), []string{`59: .* the signature is not of the key`}},
		{
			"a person without a signature", lead(func(_ *entry.Admitted, k *entry.Kept) { k.Evidence = nil }),
			[]string{`59: .* the signature is not of the key`},
		},
		{
			"a stranger", lead(func(f *entry.Admitted, _ *entry.Kept) { f.Name = "mallory" }),
			[]string{`59: admission of person mallory: its session was of another peer`},
		},
		{
			"a person longer than the manifest lets it", lead(func(f *entry.Admitted, _ *entry.Kept) { f.Expires = f.Expires.Add(2 * time.Minute) }),
			[]string{`59: .* made to last longer than the manifest lets it`},
		},
		{
			"a person said to be an enclave", lead(func(f *entry.Admitted, _ *entry.Kept) { f.Sets, f.Simulated = []string{"snp-participant"}, "demo" }),
			[]string{`59: .* matches other reference sets than the log says`},
		},
		{
			"a person's evidence named", lead(func(f *entry.Admitted, _ *entry.Kept) { f.Evidence = []entry.Digest{{1}} }),
			[]string{`59: .* the log names other evidence`},
		},
	})
}
