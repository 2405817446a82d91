package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/registry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/witness"
)

// maxFindings ends an audit: what is wrong with a log that has more of them is clear.
const maxFindings = 100

// Options is what an auditor brings along.
type Options struct {
	// Anchor is the digest of the manifest of any epoch of the log, from somebody whom the auditor believes. Those before it are
	// named by it, one after the other, and those after it are signed by the threshold of the one before them.
	Anchor [32]byte
	// Verifiers returns the verifiers under a manifest, with its simulated roots.
	Verifiers func(*manifest.Manifest) ([]attest.Verifier, error)
}

// Finding is something that is not as agreed.
type Finding struct {
	Line int64  `json:"line"` // of the log, from 0; -1 for the log as a whole
	What string `json:"what"`
}

// Report is what an audit found. The history is as agreed if and only if Findings is empty. Its JSON names are stable.
type Report struct {
	Federation string         `json:"federation"`
	Epoch      uint64         `json:"epoch"`    // the last one
	Manifest   entry.Digest   `json:"manifest"` // of it
	Epochs     []Epoch        `json:"epochs"`
	LogKey     string         `json:"log_key"`
	OldLog     *entry.LogHead `json:"old_log,omitempty"` // of which this log takes the place, as the members have agreed: what became of it after that head, no audit of this log tells
	Root       entry.Digest   `json:"root"`
	Lines      int64          `json:"lines"`
	From       time.Time      `json:"from,omitzero"`
	To         time.Time      `json:"to,omitzero"`
	Boots      int            `json:"boots"`
	Admissions map[string]int `json:"admissions"` // by "OFFICE NAME"
	Evidence   int            `json:"evidence"`   // pieces judged again, signatures of people included
	Runs       int            `json:"runs"`
	Rounds     int            `json:"rounds"`           // closed
	Updates    int            `json:"updates"`          // that closed rounds are made of
	Masked     int            `json:"masked,omitempty"` // of the closed rounds: those whose updates were masked, as the plan asked
	Models     []Model        `json:"models"`
	Epsilon    float64        `json:"epsilon"`         // spent in all, for Delta and one Unit
	Delta      float64        `json:"delta,omitempty"` // 0 where no round had noise
	Unit       string         `json:"unit,omitempty"`  // whom epsilon protects: entry.Participant or entry.Record
	Simulated  []string       `json:"simulated,omitempty"`
	Rollback   string         `json:"rollback,omitempty"`
	Quorum     int            `json:"quorum,omitempty"`     // of the manifest's witnesses; 0 where it names none
	Witnesses  int            `json:"witnesses,omitempty"`  // how many it names
	Cosigned   []string       `json:"cosigned,omitempty"`   // which of them have cosigned the checkpoint, ascending
	Former     []Former       `json:"former,omitempty"`     // witnesses of epochs before, who had not handed over yet
	Handovers  []Handover     `json:"handovers,omitempty"`  // from one set of witnesses to the next
	NotJudged  []string       `json:"not_judged,omitempty"` // fields of reference sets that the manifest leaves open, with reasons
	Findings   []Finding      `json:"findings"`
}

// Epoch is an epoch of the manifest in a report.
type Epoch struct {
	Epoch    uint64       `json:"epoch"`
	Manifest entry.Digest `json:"manifest"`
	Signers  []string     `json:"signers"`
	Line     int64        `json:"line"` // that adopted it
}

// Former is a set of witnesses whose quorum a checkpoint needs too, because a newer one has not taken over yet.
type Former struct {
	Epoch     uint64   `json:"epoch"`
	Quorum    int      `json:"quorum"`
	Witnesses int      `json:"witnesses"`
	Cosigned  []string `json:"cosigned"`
}

// Handover is a line from which on the newest witnesses decide alone.
type Handover struct {
	Epoch    uint64   `json:"epoch"` // that held
	Line     int64    `json:"line"`
	Lines    int64    `json:"lines"` // of the head that all of them had cosigned
	Cosigned []string `json:"cosigned"`
}

// Model is a model version in a report.
type Model struct {
	ID      entry.Digest `json:"id"`
	Base    entry.Digest `json:"base,omitzero"`
	Run     string       `json:"run"`
	RunName string       `json:"run_name"`
	Round   int          `json:"round"`
	Members []string     `json:"members"`
	Effects []Effect     `json:"effects,omitempty"` // of those among Members with whose updates the strategy did something else than to add them
	Line    int64        `json:"line"`              // of its commit
	At      time.Time    `json:"at"`
	Deleted time.Time    `json:"deleted,omitzero"` // from the coordinator's store, since its retention had run out
}

// Effect is what a strategy did with a member's update, as the coordinator has written it down. Updates are forgotten, so no audit can reckon
// it again.
type Effect struct {
	Member string       `json:"member"`
	Effect entry.Effect `json:"effect"`
}

// Good reports whether everything is as agreed.
func (r *Report) Good() bool { return len(r.Findings) == 0 }

// Verify judges the copy in folder. Its error says why the copy cannot be judged at all; what was found to be wrong with a
// history that can be stands in the report.
func Verify(ctx context.Context, folder string, o Options) (*Report, error) {
	a := &auditor{
		folder: folder, state: round.New(), index: registry.New(), admitted: map[who]time.Time{}, open: map[string]bool{},
		simulated: map[string]bool{}, named: map[string]bool{}, sessions: map[entry.Digest]int64{}, instances: map[string]int64{},
		leaves: map[[32]byte]int64{}, numbers: map[string][]seen{}, roots: map[int64][32]byte{}, fresh: map[part]entry.Digest{}, epochs: map[string]bool{}, judges: o.Verifiers,
		report: &Report{Admissions: map[string]int{}, Epochs: []Epoch{}, Models: []Model{}, Findings: []Finding{}},
	}
	if err := a.begin(o); err != nil {
		return nil, err
	}
	for line, err := range lines(folder) {
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			a.find(a.tree.Size(), "%v", err)
		case a.tree.Size() == a.signed.Size:
			a.find(a.tree.Size(), "the checkpoint signs for no line from here on")
			a.more = true
		default:
			a.line(ctx, line)
		}
		if a.more || len(a.report.Findings) >= maxFindings {
			break
		}
	}
	a.end()
	return a.report, nil
}

// who is somebody who may be admitted.
type who struct {
	office attest.Office
	name   string
}

// part is a member's part in a try.
type part struct {
	run        string
	round, try int
	member     entry.Member
}

// auditor reads a history once, from its beginning.
type auditor struct {
	folder     string
	checkpoint string // signed
	chain      *manifest.Chain
	judges     func(*manifest.Manifest) ([]attest.Verifier, error)
	manifest   *manifest.Manifest // that holds
	verifiers  []attest.Verifier  // under it
	signed     ledger.Checkpoint
	spki       []byte // of the log's key
	report     *Report

	tree    ledger.Tree
	state   *round.State
	index   *registry.Index
	broken  bool         // a fact did not follow: what comes after cannot be replayed
	more    bool         // there are more lines than were signed for
	due     []entry.Fact // that must be the next lines, at the instant dueAt: one commit wrote all of them
	dueAt   time.Time
	dueWhat string // in words

	// Since the last boot.
	boot        int64 // its line
	bootedAt    time.Time
	coordinator string // who booted
	admitted    map[who]time.Time
	fresh       map[part]entry.Digest // updates accepted since

	// Since the last manifest was adopted.
	adopting bool     // nothing but what follows from it has come
	adopted  [32]byte // root hash of the lines before it
	unproven bool     // nobody has shown that the coordinator passes it

	sets  witness.Sets
	roots map[int64][32]byte // root hashes by number of lines, while the witnesses change

	named     map[string]bool        // files in kept that lines name
	epochs    map[string]bool        // files of manifests that lines name
	sessions  map[entry.Digest]int64 // line of each admission, by binding
	instances map[string]int64       // line of each boot, by instance
	leaves    map[[32]byte]int64     // boot in which the coordinator had that leaf key
	numbers   map[string][]seen      // signed numbers by what they are of
	open      map[string]bool        // fields not judged
	simulated map[string]bool
}

// seen is a number that an admission was judged by, with the line and the instant of the first that was.
type seen struct {
	number *big.Int
	line   int64
	judged time.Time
}

// begin loads what everything else is judged by.
func (a *auditor) begin(o Options) error {
	if err := a.manifests(o.Anchor); err != nil {
		return err
	}
	if err := a.under(a.manifest); err != nil {
		return err
	}
	m := a.manifest
	a.report.Federation = m.Federation()
	signed, err := read(filepath.Join(a.folder, checkpointFile), maxCheckpoint)
	if err != nil {
		return fmt.Errorf("without its checkpoint a copy is not whole: %w", err)
	}
	// The key is in every boot's fact; which of them is right the boots' evidence says.
	key, err := a.firstKey()
	if err != nil {
		return err
	}
	if a.signed, err = openCheckpoint(signed, key); err != nil {
		return fmt.Errorf("%s: %w", checkpointFile, err)
	}
	if want := "consilium.dev/" + m.Federation(); a.signed.Origin != want {
		return fmt.Errorf("%s is of the log %q, want %q", checkpointFile, a.signed.Origin, want)
	}
	if a.spki, err = spkiOf(key); err != nil {
		return err
	}
	a.report.LogKey = key
	a.checkpoint = string(signed)
	return nil
}

// under makes m the manifest that holds.
func (a *auditor) under(m *manifest.Manifest) (err error) {
	a.manifest, a.report.Epoch, a.report.Manifest = m, m.Epoch(), m.Digest()
	a.verifiers, err = a.judges(m)
	return err
}

// signatures finds signatures under a manifest that are of no member, or of another than they say. The manifest stands without
// them; who reads the names in the file is not to be misled by them. Signatures by keys of the epoch before stand behind the members';
// they are judged where the copy holds the manifest that has these keys.
func (a *auditor) signatures(file string, envelope []byte, m *manifest.Manifest, judged bool) {
	signers := m.Signers()
	var e struct {
		Signatures []struct {
			KeyID string `json:"keyid"`
		} `json:"signatures"`
	}
	err := json.Unmarshal(envelope, &e)
	want := signers
	for _, former := range m.FormerSigners() {
		want = append(want, manifest.FormerKey(former, m.Epoch()-1))
	}
	var names []string
	for _, s := range e.Signatures {
		if !judged && strings.HasSuffix(s.KeyID, manifest.FormerKey("", m.Epoch()-1)) {
			continue
		}
		names = append(names, s.KeyID)
	}
	if err != nil || !slices.Equal(names, want) {
		a.find(-1, "%s shows signatures that are not the signers' own: signed have %s", file, strings.Join(want, ", "))
	}
}

// firstKey returns the log's verifier key as the first boot names it. A log begins with a manifest and a boot.
func (a *auditor) firstKey() (string, error) {
	n := 0
	for text, err := range lines(a.folder) {
		if err != nil {
			return "", err
		}
		l, err := entry.Decode(text)
		if err != nil {
			return "", fmt.Errorf("line %d: %w", n, err)
		}
		if f, ok := l.Fact.(entry.Booted); ok {
			return f.LogKey, nil
		}
		if n++; n == 2 {
			break
		}
	}
	return "", errors.New("the log does not begin with a manifest and the boot of a coordinator")
}

func (a *auditor) find(line int64, format string, args ...any) {
	a.report.Findings = append(a.report.Findings, Finding{line, fmt.Sprintf(format, args...)})
}

// line judges one line after all before it.
func (a *auditor) line(ctx context.Context, text []byte) {
	n, root := a.tree.Size(), a.tree.RootHash()
	if err := a.tree.Add(text); err != nil {
		a.find(n, "%v", err)
		return
	}
	l, err := entry.Decode(text)
	if err != nil {
		a.find(n, "%v", err)
		a.broken = true
		return
	}
	if a.report.From.IsZero() {
		a.report.From = l.At
	}
	a.report.To = l.At
	owed := a.inTurn(n, l)
	a.fact(ctx, n, root, l)
	if a.sets.Changing() {
		a.roots[a.tree.Size()] = a.tree.RootHash()
	}
	if _, adopts := l.Fact.(entry.ManifestAdopted); !adopts && !owed {
		a.adopting = false
	}
	if a.broken {
		return
	}
	if err := errors.Join(a.state.Apply(l.At, l.Fact), a.index.Apply(n, l.At, l.Fact)); err != nil {
		a.find(n, "%v; nothing after it can be replayed", err)
		a.broken = true
	}
}

// inTurn finds a line that cannot stand where it stands, and reports whether it is one that was due.
func (a *auditor) inTurn(n int64, l entry.Line) (owed bool) {
	_, adopted := l.Fact.(entry.ManifestAdopted)
	_, booted := l.Fact.(entry.Booted)
	switch {
	case n == 0 && !adopted:
		a.find(n, "the first line adopts no manifest")
	case n == 1 && !booted:
		a.find(n, "the second line is not the boot of a coordinator")
	case len(a.due) > 0 && same(a.due[0], l.Fact) && a.dueAt.Equal(l.At):
		return true
	case len(a.due) > 0:
		a.find(n, "the rules end %s, and here is something else", a.dueWhat)
		a.due = nil
	case a.unproven && !booted:
		a.find(n, "epoch %d was adopted, and nobody has shown that the coordinator passes it", a.manifest.Epoch())
		a.unproven = false
	}
	return false
}

// fact judges a fact before it is applied; root is the root hash of the lines before it.
func (a *auditor) fact(ctx context.Context, n int64, root [32]byte, l entry.Line) {
	switch f := l.Fact.(type) {
	case entry.ManifestAdopted:
		a.adopts(ctx, n, root, l.At, f)
	case entry.HandedOver:
		a.handedOver(n, f)
		a.follows(n, l.At, round.HandOver{Fact: f}, f)
	case entry.Booted:
		a.booted(ctx, n, root, l.At, f)
	case entry.Admitted:
		a.entered(ctx, n, l.At, f)
	case entry.RunCreated:
		a.report.Runs++
		a.created(n, l.At, f)
	case entry.Consented:
		a.present(n, l.At, f.Member)
		a.follows(n, l.At, round.Consent{
			Run: f.Run, Member: f.Member, Records: f.Records,
			Most: a.manifest.Limits().RecordsMax, // coordinators of before there was a default took more
		}, f)
	case entry.Declined:
		a.present(n, l.At, f.Member)
		a.follows(n, l.At, round.Decline{Run: f.Run, Member: f.Member, Rule: f.Rule}, f)
	case entry.Left:
		a.present(n, l.At, f.Member)
		a.follows(n, l.At, round.Leave{Run: f.Run, Member: f.Member, Reason: f.Reason}, f)
	case entry.RoundOpened, entry.MasksAgreed, entry.Unmasking, entry.RoundFailed, entry.RunEnded:
		a.passes(n, l.At, f)
	case entry.UpdateAccepted:
		a.present(n, l.At, f.Member)
		a.follows(n, l.At, round.Offer{
			Run: f.Run, Round: f.Round, Try: f.Try, Member: f.Member, Update: f.Update, Weight: f.Weight, Bytes: f.Bytes, Resent: f.Resent,
			Source: round.Source{Base: f.Round - f.Staleness},
		}, f)
		a.fresh[part{f.Run, f.Round, f.Try, f.Member}] = f.Update
	case entry.UpdateRefused:
		a.present(n, l.At, f.Member)
		a.follows(n, l.At, round.Reject{
			Run: f.Run, Round: f.Round, Try: f.Try, Member: f.Member, Update: f.Update, Reason: f.Reason,
		}, f)
	case entry.RoundClosed:
		a.closed(n, l.At, f)
	case entry.Dropped:
		if f.Kept > 0 {
			a.follows(n, l.At, round.Retire{Kept: time.Duration(f.Kept), Run: f.Run}, f)
		} else {
			a.find(n, "blobs are dropped as soon as their run ends")
		}
	case entry.Evaluated:
		a.present(n, l.At, f.Member)
		a.follows(n, l.At, round.Evaluation{Run: f.Run, Round: f.Round, Member: f.Member, Model: f.Model, Metrics: f.Metrics}, f)
	default:
		a.find(n, "no program of this version writes down a %T", f)
	}
}

// end judges the log as a whole.
func (a *auditor) end() {
	r := a.report
	r.Lines, r.Root = a.tree.Size(), a.tree.RootHash()
	switch {
	case len(r.Findings) >= maxFindings:
		a.find(-1, "the audit ended here: what comes after was not read")
	case r.Lines != a.signed.Size || r.Root != a.signed.Root:
		a.find(-1, "the %d lines are not the %d that the checkpoint signs for: some were altered, lost or added", r.Lines, a.signed.Size)
	case len(a.due) > 0:
		a.find(-1, "the log breaks off in the middle of a commit")
	}
	if len(r.Findings) < maxFindings {
		a.cosigned()
		a.strange()
	}
	for _, v := range a.index.Versions() {
		m := Model{ID: v.Model, Base: v.Base, Run: v.Run, RunName: v.RunName, Round: v.Round, Members: []string{}, Line: v.Position, At: v.Created, Deleted: v.Dropped}
		for _, c := range v.Members {
			m.Members = append(m.Members, string(c.Member))
			if c.Effect != "" {
				m.Effects = append(m.Effects, Effect{string(c.Member), c.Effect})
			}
		}
		r.Models = append(r.Models, m)
	}
	r.Simulated, r.NotJudged = slices.Sorted(maps.Keys(a.simulated)), slices.Sorted(maps.Keys(a.open))
}
