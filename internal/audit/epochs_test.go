package audit_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/audit"
	"consilium.dev/internal/entry"
)

// The lines of testdata/epochs at which epoch 2 is adopted, and what came with it: a try that costs none, and the end of a run.
const (
	adoptedAt = 31
	sparedAt  = 32
	endedAt   = 33
	openedAt  = 34
)

// ofEpoch1 and ofEpoch2 are the digests of its manifests.
const (
	ofEpoch1 = "c3a3a24bc6a97a8ab91cd9fa803f4f831810742271ecf01a9de80688a8d630c8"
	ofEpoch2 = "aae0686eb63033a7c6048eae49cc6d9842bf0fab9cde416d487e58b50a146a98"
)

// by are options with another anchor.
func by(t testing.TB, anchor string) audit.Options {
	t.Helper()
	o := options(t)
	var d entry.Digest
	if err := d.UnmarshalText([]byte(anchor)); err != nil {
		t.Fatal(err)
	}
	o.Anchor = d
	return o
}

// TestEpochs judges a history of two epochs by the anchor of either.
func TestEpochs(t *testing.T) {
	for _, anchor := range []string{ofEpoch1, ofEpoch2} {
		r, err := audit.Verify(t.Context(), filepath.Join("testdata", "epochs"), by(t, anchor))
		if err != nil {
			t.Fatal(err)
		}
		if !r.Good() || len(r.Epochs) != 2 || r.Epoch != 2 || r.Manifest.String() != ofEpoch2 || r.Evidence != 14 {
			t.Errorf("by %s: %+v", anchor, r)
		}
		if len(r.Epochs) == 2 && (r.Epochs[1].Line != adoptedAt || strings.Join(r.Epochs[1].Signers, " ") != "budapest cleveland switzerland") {
			t.Errorf("epoch 2 is %+v", r.Epochs[1])
		}
	}
	if _, err := audit.Verify(t.Context(), filepath.Join("testdata", "epochs"), by(t, anchor)); err == nil ||
		!strings.Contains(err.Error(), "no manifest of this copy is the one that the anchor is of") {
		t.Errorf("by the anchor of another federation: %v", err)
	}
}

// forgeEpochs opens the history of two epochs for forging.
func forgeEpochs(t testing.TB) *history {
	t.Helper()
	f, err := makeForger(origin)
	if err != nil {
		t.Fatal(err)
	}
	text := readFile(t, "keys", "epochs.council.machine.json")
	if f.machines["council"], err = simulated.ParseMachine(text); err != nil {
		t.Fatal(err)
	}
	c := committedIn(t, "epochs")
	m, items := openHistoryBy(t, c, by(t, ofEpoch1).Anchor)
	later, err := m.Successor(readFile(t, "epochs", "epochs", "2.dsse.json"))
	if err != nil {
		t.Fatal(err)
	}
	return &history{forger: f, t: t, m: m, envelope: c.manifest, later: later, items: items}
}

// TestForgedEpochs alters what was written when an epoch was adopted, and signs the history anew.
func TestForgedEpochs(t *testing.T) {
	adopted := func(edit func(*entry.ManifestAdopted)) func(*history) {
		return func(h *history) {
			change(h, adoptedAt, func(f *entry.ManifestAdopted) {
				e := *f.Enclave
				f.Enclave = &e
				edit(f)
			})
		}
	}
	other := `31: a manifest was adopted that is not the one that this copy is judged by`
	rest := `\d+: .*` // what comes after is under another manifest then
	for _, f := range []forgery{
		{"another manifest", adopted(func(f *entry.ManifestAdopted) { f.Manifest[0] ^= 1 }), []string{other, rest}},
		{"fewer members than the manifest names", adopted(func(f *entry.ManifestAdopted) { f.Members = f.Members[1:] }), []string{other, rest}},
		{"no members", adopted(func(f *entry.ManifestAdopted) { f.Members = nil }), []string{other, rest}},
		{"other witnesses", adopted(func(f *entry.ManifestAdopted) { f.Witnesses = "none: because" }), []string{other, rest}},
		{
			"a new log in the middle of one", adopted(func(f *entry.ManifestAdopted) { f.OldLog.Lines = 1 }),
			[]string{other, `31: fact entry.ManifestAdopted cannot follow: .* a new log begins with epoch 2, and this one is there already.*` + replayed, rest},
		},
		{
			"an old log that the members have not named", func(h *history) {
				change(h, 0, func(f *entry.ManifestAdopted) { f.OldLog.Lines = 1 })
			},
			[]string{`0: a manifest was adopted that is not the one that this copy is judged by`, rest},
		},
		{
			"less spent", adopted(func(f *entry.ManifestAdopted) { f.Spent.Epsilon = -1 }),
			[]string{`31: epoch 2 begins with another sum of privacy spent than there was`, `31: fact entry.ManifestAdopted cannot follow: epoch 2 begins with epsilon -1` + replayed},
		},
		{
			"nobody shows that the coordinator passes", func(h *history) {
				change(h, adoptedAt, func(f *entry.ManifestAdopted) { f.Enclave = nil })
				h.items[adoptedAt].kept = nil
			},
			[]string{`34: epoch 2 was adopted, and nobody has shown that the coordinator passes it`},
		},
		{
			"evidence for the epoch before", func(h *history) { h.items[adoptedAt].under = h.m },
			[]string{`31: adoption of epoch 2 by council: its evidence is not over the log's key, for this manifest`},
		},
		{
			"evidence of another set", adopted(func(f *entry.ManifestAdopted) { f.Enclave.Sets = []string{"snp-participant"} }),
			[]string{`31: adoption of epoch 2 by council: it matches other reference sets than the log says`},
		},
		{
			"evidence of another type", adopted(func(f *entry.ManifestAdopted) { f.Enclave.Types = []string{"nitro"} }),
			[]string{`31: adoption of epoch 2 by council: it shows evidence of other types than the log says`},
		},
		{
			"a try that costs one", func(h *history) { change(h, sparedAt, func(f *entry.RoundFailed) { f.Spared = false }) },
			[]string{`32: the rules end more with epoch 2, and here is something else`, `3[23]: the rules do not draw this.*`, `\d+: .*`},
		},
		{
			"a try that goes on", func(h *history) { h.remove(sparedAt) },
			[]string{`32: the rules end more with epoch 2, and here is something else`, `\d+: .*`},
		},
		{
			"a run that goes on", func(h *history) { h.remove(endedAt) },
			[]string{`33: the rules end more with epoch 2, and here is something else`, `\d+: .*`},
		},
		{
			"a run that ends another way", func(h *history) { change(h, endedAt, func(f *entry.RunEnded) { f.Outcome = "cancelled" }) },
			[]string{`33: the rules end more with epoch 2, and here is something else`, `33: .*`},
		},
		{
			"the end a moment later", func(h *history) { h.items[endedAt].At = h.items[endedAt].At.Add(time.Millisecond) },
			[]string{`33: the rules end more with epoch 2, and here is something else`, `33: .*`},
		},
		{
			"an update from before", func(h *history) {
				h.items[openedAt+3], h.items[openedAt+2] = h.items[openedAt+2], h.items[openedAt+3]
				h.items[openedAt+2].At, h.items[openedAt+3].At = h.items[openedAt+3].At, h.items[openedAt+2].At
			},
			[]string{`36: cleveland was not admitted since the coordinator booted.*`},
		},
		{
			"the member that is gone is asked again", func(h *history) {
				change(h, openedAt, func(f *entry.RoundOpened) {
					f.Selected = append([]entry.Share(nil), f.Selected...)
					f.Selected[1].Member, f.Selected[1].Weight = "longbeach", 85
				})
			},
			[]string{`34: the rules do not draw this.*`, `34: fact entry.RoundOpened cannot follow` + replayed, `\d+: .*`},
		},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			h := forgeEpochs(t)
			f.edit(h)
			found := judgedBy(t, h.seal().write(t), by(t, ofEpoch1))
			if len(found) == 0 {
				t.Fatal("judged good")
			}
			checkFound(t, found, f.want)
		})
	}
	if found := judgedBy(t, forgeEpochs(t).seal().write(t), by(t, ofEpoch1)); len(found) > 0 {
		t.Errorf("signed anew and not altered: %q", found)
	}
}

// TestForgedChain puts other manifests in the place of those of a copy.
func TestForgedChain(t *testing.T) {
	const first, second = "manifest.dsse.json", "epochs/2.dsse.json"
	for _, c := range []struct {
		name string
		edit func(t *testing.T, dir string)
		by   string
		want string
	}{
		{"the second is missing", func(t *testing.T, dir string) { remove(t, dir, second) }, ofEpoch1, `31: a manifest was adopted that is not`},
		{"the first in the place of the second", func(t *testing.T, dir string) {
			writeFile(t, readFile(t, "epochs", first), dir, second)
		}, ofEpoch1, `-1: epochs/2.dsse.json does not follow manifest.dsse.json`},
		{"the second in the place of the first", func(t *testing.T, dir string) {
			writeFile(t, readFile(t, "epochs", "epochs", "2.dsse.json"), dir, first)
			remove(t, dir, second)
		}, ofEpoch2, `0: a manifest was adopted that is not`},
		{"another first, by the second's anchor", func(t *testing.T, dir string) {
			writeFile(t, readFile(t, "history", first), dir, first)
		}, ofEpoch2, `-1: epochs/2.dsse.json does not follow manifest.dsse.json`},
		{"too few signatures of the second", func(t *testing.T, dir string) {
			writeFile(t, signatures(t, readFile(t, "epochs", "epochs", "2.dsse.json"), 2), dir, second)
		}, ofEpoch1, `-1: epochs/2.dsse.json: .*needs the signatures of 3 of its 4 members, it has 2`},
		{"too few signatures of the first, by the second's anchor", func(t *testing.T, dir string) {
			writeFile(t, signatures(t, readFile(t, "epochs", first), 2), dir, first)
		}, ofEpoch2, `-1: manifest.dsse.json: .*needs the signatures of 3 of its 4 members, it has 2`},
		{"a name that signed nothing", func(t *testing.T, dir string) {
			writeFile(t, bytes.Replace(readFile(t, "epochs", "epochs", "2.dsse.json"), []byte(`"keyid": "budapest"`), []byte(`"keyid": "longbeach"`), 1), dir, second)
		}, ofEpoch1, `-1: epochs/2.dsse.json shows signatures that are not the signers' own`},
		{"a manifest that no line names", func(t *testing.T, dir string) {
			writeFile(t, readFile(t, "epochs", "epochs", "2.dsse.json"), dir, "epochs/x.dsse.json")
		}, ofEpoch1, `-1: epochs/x.dsse.json is no part of the copy`},
	} {
		t.Run(c.name, func(t *testing.T) {
			copy := committedIn(t, "epochs")
			copy.later = readFile(t, "epochs", "epochs", "2.dsse.json")
			dir := copy.write(t)
			c.edit(t, dir)
			found := judgedBy(t, dir, by(t, c.by))
			if !regexp.MustCompile(`(?m)^` + c.want).MatchString(strings.Join(found, "\n")) {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
}

func remove(t *testing.T, elements ...string) {
	t.Helper()
	if err := os.Remove(filepath.Join(elements...)); err != nil {
		t.Fatal(err)
	}
}

// signatures returns an envelope with the first n of its signatures.
func signatures(t *testing.T, envelope []byte, n int) []byte {
	t.Helper()
	var e struct {
		PayloadType string            `json:"payloadType"`
		Payload     string            `json:"payload"`
		Signatures  []json.RawMessage `json:"signatures"`
	}
	if err := json.Unmarshal(envelope, &e); err != nil {
		t.Fatal(err)
	}
	e.Signatures = e.Signatures[:n]
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
