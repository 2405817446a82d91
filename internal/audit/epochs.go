package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/registry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/transport"
	"consilium.dev/internal/witness"
)

// maxEpochs is the most epochs of a log that is judged.
const maxEpochs = 1 << 16

// manifests reads the chain of the log's manifests: one of them is the anchor's, each names the one before it, and each is signed
// by the threshold of the one before it.
func (a *auditor) manifests(anchor [32]byte) error {
	numbers, err := a.laterEpochs()
	if err != nil {
		return err
	}
	files := []string{manifestFile}
	for _, n := range numbers {
		files = append(files, epochFolder+"/"+epochName(n))
	}
	texts, shown := make([][]byte, len(files)), make([]*manifest.Manifest, len(files))
	anchored := -1
	for i, file := range files {
		if texts[i], err = read(filepath.Join(a.folder, filepath.FromSlash(file)), maxManifest); err != nil {
			return err
		}
		if shown[i], err = manifest.OpenUnverified(texts[i]); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if shown[i].Digest() == anchor {
			anchored = i
		}
	}
	if anchored < 0 && len(files) > 1 {
		return fmt.Errorf("no manifest of this copy is the one that the anchor is of, %x", anchor)
	}
	for i := range anchored {
		if shown[i].Digest() != shown[i+1].Previous() {
			return fmt.Errorf("%s does not follow %s", files[i+1], files[i])
		}
	}
	first := manifest.Anchor{Digest: anchor}
	if anchored > 0 {
		first.Digest = shown[0].Digest() // which the anchor's manifest names, through those between
	}
	if a.manifest, err = manifest.Load(texts[0], first); err != nil {
		return fmt.Errorf("%s: %w", manifestFile, err)
	}
	a.chain = manifest.NewChain(a.manifest)
	for i := range numbers {
		if a.chain, err = a.chain.Extend(texts[i+1]); err != nil {
			return fmt.Errorf("%s: %w", files[i+1], err)
		}
		if got := a.chain.Newest().Epoch(); got != numbers[i] {
			return fmt.Errorf("%s is of epoch %d", files[i+1], got)
		}
	}
	for i, file := range files {
		a.signatures(file, texts[i], a.chain.At(shown[i].Epoch()), i > 0)
	}
	return nil
}

// laterEpochs returns the epochs whose manifests lie in the copy beside the first, ascending. What is none of ours strange finds.
func (a *auditor) laterEpochs() ([]uint64, error) {
	all, err := os.ReadDir(filepath.Join(a.folder, epochFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range all {
		text, _ := strings.CutSuffix(e.Name(), ".dsse.json")
		if n, err := strconv.ParseUint(text, 10, 64); err == nil && epochName(n) == e.Name() {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) > maxEpochs {
		return nil, fmt.Errorf("%s holds the manifests of %d epochs, at most %d are judged", epochFolder, len(numbers), maxEpochs)
	}
	slices.Sort(numbers)
	return numbers, nil
}

// adopts judges that a manifest was adopted, and puts what comes after it under that manifest: whoever had been admitted under the
// one before has to come again.
func (a *auditor) adopts(ctx context.Context, n int64, root [32]byte, at time.Time, f entry.ManifestAdopted) {
	m := a.chain.At(f.Epoch)
	switch {
	case n == 0:
		m = a.manifest
	case f.Manifest == a.manifest.Digest():
		return // it cannot follow itself, which replay says
	}
	if n > 0 { // whatever is wrong with the line, it names these
		a.epochs[epochName(f.Epoch)] = true
		if f.Enclave != nil {
			a.named[filepath.Base(keptPath(a.folder, n))] = true
		}
	}
	if m == nil || !adoptable(m, f, n == 0) {
		a.find(n, "a manifest was adopted that is not the one that this copy is judged by")
		return
	}
	if n > 0 && !a.draws(n, at, m, f) {
		return
	}
	set, err := witness.ParseSet(f.Epoch, f.Witnesses)
	if err != nil {
		a.find(n, "%v", err)
		return
	}
	a.sets.Adopt(n, set)
	clear(a.roots) // a head that lets the witnesses hand over has this line in it
	if err := a.under(m); err != nil {
		a.find(n, "the manifest of epoch %d: %v", f.Epoch, err)
	}
	if strings.HasPrefix(m.Witnesses(), "none") {
		a.report.Rollback = registry.NoProtection
	}
	if n == 0 && f.OldLog != (entry.LogHead{}) {
		a.report.OldLog = &f.OldLog
	}
	a.report.Epochs = append(a.report.Epochs, Epoch{Epoch: f.Epoch, Manifest: f.Manifest, Signers: m.Signers(), Line: n})
	clear(a.admitted)
	a.adopting, a.adopted, a.unproven = true, root, f.Enclave == nil
	if f.Enclave == nil {
		return
	}
	k, err := a.kept(n, f.Enclave.Evidence)
	if err == nil {
		err = a.judgeEnclave(ctx, k, root, at, a.coordinator, *f.Enclave)
	}
	if err != nil {
		a.find(n, "adoption of epoch %d by %s: %v", f.Epoch, a.coordinator, err)
	}
}

// adoptable reports whether a fact says of a manifest what it says itself. Logs that began before epochs followed each other do
// not name the first one's members.
func adoptable(m *manifest.Manifest, f entry.ManifestAdopted, first bool) bool {
	members := limits(m).Members
	return f.Federation == m.Federation() && f.Epoch == m.Epoch() && f.Manifest == m.Digest() && f.Previous == m.Previous() &&
		f.Witnesses == m.Witnesses() && f.OldLog == oldLog(m) && f.Budget == entry.Budget(m.Limits().Privacy) && (slices.Equal(f.Members, members) || first && f.Members == nil)
}

func oldLog(m *manifest.Manifest) entry.LogHead {
	old, _ := m.OldLog()
	return entry.LogHead{Lines: old.Lines, Root: old.Root}
}

// draws finds an adoption from which the rules do not draw what it says was spent, and remembers what they draw beside it. It
// reports whether the manifest is a new one.
func (a *auditor) draws(n int64, at time.Time, m *manifest.Manifest, f entry.ManifestAdopted) bool {
	if a.broken {
		return true
	}
	in := round.Adopt{Fact: f, Limits: limits(m)}
	for _, p := range m.People() {
		if slices.Contains(p.May, "lead") {
			in.Leads = append(in.Leads, p.Name)
		}
	}
	facts, err := a.state.Decide(later(at, a.state.Newest()), in)
	if err != nil || len(facts) == 0 {
		return false // it cannot follow, which replay says
	}
	if !same(facts[0], f) {
		a.find(n, "epoch %d begins with another sum of privacy spent than there was", f.Epoch)
	}
	a.due, a.dueAt, a.dueWhat = facts[1:], at, fmt.Sprintf("more with epoch %d", f.Epoch)
	return true
}

// judgeEnclave judges what the coordinator's own enclave has shown over the log's key, for the manifest that holds.
func (a *auditor) judgeEnclave(ctx context.Context, k entry.Kept, root [32]byte, at time.Time, name string, f entry.Enclave) error {
	if len(k.Nonce) != 32 || [32]byte(k.Nonce) != root {
		return errors.New("its evidence is bound to another history")
	}
	data, _ := transport.LogKeyBinding(a.spki, a.manifest.Federation(), a.manifest.Digest(), root)
	if !bytes.Equal(k.ReportData, data[:]) || !bytes.Equal(k.SPKI, a.spki) {
		return errors.New("its evidence is not over the log's key, for this manifest")
	}
	b := attest.Binding{ReportData: data, Nonce: root, SPKI: a.spki}
	appraisal, claims, err := a.appraise(ctx, k, b, attest.Peer{Office: attest.Coordinator, Name: name}, at)
	if err != nil {
		return err
	}
	if !slices.Equal(f.Types, typesOf(claims)) {
		return errors.New("it shows evidence of other types than the log says")
	}
	return sameAppraisal(appraisal, k, f.Sets, k.Any, f.Simulated)
}

// limits returns what a manifest allows a run. How many are open is the coordinator's own limit, on which no member agreed.
func limits(m *manifest.Manifest) round.Limits {
	l := m.Limits()
	out := round.Limits{
		Strategies: l.Strategies, Trainers: l.Trainers, LeastParticipants: l.LeastParticipants, MaxAbs: l.MaxAbs, RoundsMax: l.RoundsMax,
		OpenRuns: math.MaxInt, Budget: entry.Budget(l.Privacy),
	}
	for _, name := range m.Members() {
		out.Members = append(out.Members, entry.Member(name))
	}
	return out
}
