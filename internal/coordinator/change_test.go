package coordinator_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/audit"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/registry"
	"consilium.dev/internal/witness"
	pb "consilium.dev/proto/consilium/v1"
)

// What the tests' manifests say of witnesses: three hospitals, or the other two and one of these.
const (
	oldWitnesses = "{quorum: 2, members: [budapest, cleveland, longbeach]}"
	newWitnesses = "{quorum: 2, members: [cleveland, longbeach, switzerland]}"
)

// present waits until all hospitals are connected: of new witnesses a quorum has to be, or a manifest is not published.
func (w *world) present() {
	w.t.Helper()
	for _, m := range hospitals {
		w.books["council"].await(w.t, "admitted", "name", m)
	}
	synctest.Wait()
}

// TestWitnessesChange has others witness the log from an epoch on, while a run trains. Both sets release what comes, until they have
// handed over; then the new ones are enough, after a restart too, and the audit judges each head by those who had to cosign it.
func TestWitnessesChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, none, "{quorum: 2, members: [budapest, cleveland]}")
		council := w.serve()
		all := w.joinAll()
		w.present()
		run := w.start(plan(t, adam, func(p *entry.Plan) { p.Tries = 1 }))
		w.books["council"].await(t, "update accepted", "run", run, "round", "1")
		two := w.realm.next(t, w.manifest, none, "{quorum: 2, members: [longbeach, switzerland]}")
		w.publish(two)
		w.books["council"].await(t, "witnesses have handed over", "epoch", "2")
		for _, m := range []string{"budapest", "cleveland"} {
			w.books[m].await(t, "not a witness, or not any more: others remember the log")
		}
		w.completed(run)
		synctest.Wait()
		facts := w.facts()
		adopted := slices.IndexFunc(facts, func(f entry.Fact) bool { a, ok := f.(entry.ManifestAdopted); return ok && a.Epoch == 2 })
		handed := only[entry.HandedOver](facts)
		if len(handed) != 1 || handed[0].Epoch != 2 || handed[0].Size <= int64(adopted) {
			t.Errorf("epoch 2 was adopted at line %d, and handed over was %+v, want once, after a head with that line", adopted, handed)
		}

		folder := w.export()
		r := w.verify(folder)
		if len(r.Findings) > 0 || len(r.Handovers) != 1 || strings.Join(r.Handovers[0].Cosigned, " ") != "budapest cleveland longbeach switzerland" ||
			strings.Join(r.Cosigned, " ") != "longbeach switzerland" || len(r.Former) > 0 {
			t.Errorf("handed over were %+v, cosigned by %v, former are %v; found %v", r.Handovers, r.Cosigned, r.Former, r.Findings)
		}
		w.handoverAltered(folder, r.Handovers[0].Line)

		// A restart needs the new ones, and no others; one that knows only the old manifest too.
		for _, p := range all {
			p.stop()
		}
		council.stop()
		w.books["council"] = newBook()
		w.serve()
		for _, m := range []string{"budapest", "cleveland"} {
			w.join(m)
		}
		time.Sleep(10 * time.Minute)
		if n := len(w.books["council"].find("log opened by its witnesses")); n > 0 {
			t.Error("the witnesses of before have opened the log")
		}
		for _, m := range []string{"longbeach", "switzerland"} {
			w.join(m)
		}
		w.books["council"].await(t, "log opened by its witnesses")
		w.completed(w.start(plan(t, bare, func(p *entry.Plan) { p.Name = "after" })))
	})
}

// handoverAltered judges copies in which what the witnesses cosigned who handed over is not what it was.
func (w *world) handoverAltered(folder string, line int64) {
	w.t.Helper()
	path := filepath.Join(folder, "kept", fmt.Sprint(line)+".json")
	good, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	for name, text := range map[string][]byte{"cut off": good[:len(good)-1], "another's": append([]byte(" "), good...), "missing": nil} {
		if text == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, text, 0o600)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		// The old ones have then not been shown to hand over, and have not cosigned what came after.
		r := w.verify(folder)
		if len(r.Findings) != 2 || !strings.Contains(r.Findings[0].What, "the witnesses hand over to those of epoch 2: ") ||
			!strings.Contains(r.Findings[1].What, "witnesses of epoch 1 that are needed, who have not handed over, have cosigned the checkpoint") {
			w.t.Errorf("%s: found %v", name, r.Findings)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// TestChangeWaits: while a quorum of the new witnesses, or of the old ones, is away nothing is released, and whoever looks is told who is
// missing of which. A coordinator that starts in the middle waits for both too. A checkpoint of that time needs both.
func TestChangeWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, none, "{quorum: 2, members: [budapest, cleveland]}")
		council := w.serve()
		all := map[string]*program{}
		for _, m := range hospitals[:3] {
			all[m] = w.join(m)
		}
		w.books["council"].await(t, "log opened by its witnesses")
		w.books["council"].await(t, "admitted", "name", "longbeach")
		two := w.realm.next(t, w.manifest, none, "{quorum: 2, members: [longbeach, switzerland]}")
		_, err := pb.NewFederationClient(w.person("cara").conn).Publish(t.Context(), &pb.PublishRequest{Envelope: two.Envelope()})
		want := "before 2 of its witnesses have come, and 1 may; not connected: switzerland"
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), want) {
			t.Errorf("Publish = %v, want %q", err, want)
		}
		w.bring(two, "longbeach", all)
		run := w.start(plan(t, bare, func(p *entry.Plan) { p.Quorum, p.Rounds, p.Tries = 2, 1, 1 }))
		w.books["council"].await(t, "round closed", "run", run)
		time.Sleep(time.Hour)
		want = "round 1 is closed and waits for its witnesses: of the witnesses of epoch 2, 1 of the 2 that are needed have cosigned; missing: switzerland not seen since the coordinator started"
		if v := w.show(run); !strings.HasPrefix(v.Waiting, want) {
			t.Errorf("the run waits: %q, want %q", v.Waiting, want)
		}
		if n := len(w.books["council"].find("round released")); n > 0 {
			t.Errorf("%d rounds were released without a quorum of the new witnesses", n)
		}
		council.stop()
		all["budapest"].stop()
		w.books["council"] = newBook()
		w.serve()
		w.join("switzerland")
		time.Sleep(10 * time.Minute)
		_, err = w.person("ada").List(t.Context(), &pb.ListRequest{})
		want = "of the witnesses of epoch 1, 1 of the 2 that are needed have shown what they keep; missing: budapest"
		if s := status.Convert(err); s.Code() != codes.Unavailable || !strings.HasSuffix(s.Message(), want) {
			t.Errorf("a coordinator that starts in the middle says %v, want %q", err, want)
		}
		w.join("budapest")
		w.completed(run)
		w.books["council"].await(t, "witnesses have handed over", "epoch", "2")
		synctest.Wait()
		if r := w.verify(w.export()); len(r.Findings) > 0 || len(r.Handovers) != 1 || r.Boots != 2 {
			t.Errorf("handed over were %+v; found %v", r.Handovers, r.Findings)
		}
	})
}

// bring has the coordinator learn of a manifest by a member that was told of it before, which nobody can ask to wait.
func (w *world) bring(m *manifest.Manifest, name string, all map[string]*program) {
	w.t.Helper()
	all[name].stop()
	w.manifest = m
	all[name] = w.join(name)
	w.books["council"].await(w.t, "manifest adopted", "epoch", fmt.Sprint(m.Epoch()))
}

// TestWitnessesComeAndGo names witnesses where there were none, and none where there were some, while the coordinator runs.
func TestWitnessesComeAndGo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		one := w.manifest
		w.serve()
		all := w.joinAll()
		w.present()
		v := w.completed(w.start(plan(t, bare, func(p *entry.Plan) { p.Name = "without" })))
		if v.Rollback != registry.NoProtection {
			t.Errorf("without witnesses it says %q", v.Rollback)
		}
		w.publish(w.realm.next(t, one, none, newWitnesses))
		all["longbeach"].stop()
		all["switzerland"].stop()
		if again := w.show(v.Summary.Run); again.Rounds[0].State != "closed" || again.Rollback != "" {
			t.Errorf("what was seen before is %s, and the protection %q", again.Rounds[0].State, again.Rollback)
		}
		if _, err := w.person("ada").ShowModel(t.Context(), &pb.ShowModelRequest{Model: final(v).String()}); err != nil {
			t.Errorf("the model that was seen before: %v", err)
		}
		run := w.start(plan(t, bare, func(p *entry.Plan) { p.Name, p.Quorum = "with", 2 }))
		w.books["council"].await(t, "round closed", "run", run)
		time.Sleep(10 * time.Minute)
		if n := len(w.books["council"].find("round released")); n > 0 {
			t.Errorf("%d rounds were released by one of three witnesses", n)
		}
		w.join("longbeach")
		w.completed(run)
		if n := len(only[entry.HandedOver](w.facts())); n != 0 {
			t.Errorf("nobody was there to hand over, and %d lines say so", n)
		}

		w.publish(w.realm.next(t, w.manifest, "rounds_max: 200", "rounds_max: 199"))
		w.books["council"].await(t, "witnesses have handed over", "epoch", "3")
		v = w.completed(w.start(plan(t, bare, func(p *entry.Plan) { p.Name, p.Quorum = "without again", 2 })))
		if v.Rollback != registry.NoProtection {
			t.Errorf("without witnesses again it says %q", v.Rollback)
		}
		r := w.verify(w.export())
		if len(r.Findings) > 0 || len(r.Handovers) != 1 || r.Rollback != registry.NoProtection || r.Quorum != 0 {
			t.Errorf("handed over were %+v, the protection is %q; found %v", r.Handovers, r.Rollback, r.Findings)
		}
	})
}

// TestChangeRefused: a manifest that leaves too few of the old witnesses among its members could never be released.
func TestChangeRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, none, "{quorum: 2, members: [longbeach, switzerland]}")
		one := w.manifest
		council := w.serve()
		w.joinAll()
		w.present()
		two := w.realm.next(t, one, append(without("longbeach"), none, "{quorum: 2, members: [budapest, cleveland]}", "threshold: 3", "threshold: 2")...)
		_, err := pb.NewFederationClient(w.person("cara").conn).Publish(t.Context(), &pb.PublishRequest{Envelope: two.Envelope()})
		const want = "of the witnesses of epoch 1 it takes 2, and 1 would be left; gone: longbeach"
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), want) {
			t.Errorf("Publish = %v, want %q", err, want)
		}
		council.stop()
		if err := w.serve(func(o *coordinator.Options) { o.Manifest = two }).wait(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("configured, it ends with %v, want %q", err, want)
		}
		if n := len(only[entry.ManifestAdopted](w.facts())); n != 1 {
			t.Errorf("%d manifests were adopted", n)
		}
	})
}

// TestCopyOfBeforeTheChange starts a coordinator on a copy of before the change of the witnesses, with the manifest of before and with
// the new one, among participants who all have followed. The witnesses of both sets have seen more.
func TestCopyOfBeforeTheChange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, none, oldWitnesses)
		one := w.manifest
		council := w.serve()
		w.joinAll()
		w.completed(w.start(plan(t, bare, func(p *entry.Plan) { p.Name = "yesterday" })))
		synctest.Wait()
		council.stop()
		yesterday := copyOf(t, w.disks["council"])
		w.books["council"] = newBook()
		council = w.serve()
		w.present()
		w.publish(w.realm.next(t, one, none, newWitnesses))
		w.books["council"].await(t, "witnesses have handed over")
		run := w.start(plan(t, bare, func(p *entry.Plan) { p.Name = "today" }))
		w.completed(run)
		synctest.Wait()
		council.stop()
		today := w.disks["council"]
		for _, m := range []*manifest.Manifest{one, w.manifest} {
			w.disks["council"] = copyOf(t, yesterday)
			old := len(w.facts())
			err := w.serve(func(o *coordinator.Options) { o.Manifest = m }).wait()
			if err == nil || !strings.Contains(err.Error(), "storage was rolled back") {
				t.Errorf("with the manifest of epoch %d the coordinator on yesterday's copy ended with %v", m.Epoch(), err)
			}
			if n := len(w.facts()); n != old {
				t.Errorf("yesterday's copy has %d lines, it had %d", n, old)
			}
		}
		// An emptied store is the oldest copy. The new witnesses might have seen nothing yet; so it is not theirs to begin another log.
		for m, want := range map[*manifest.Manifest]string{
			one: "keeps a checkpoint of another log", w.manifest: "a log with witnesses begins with the manifest of epoch 1",
		} {
			w.disks["council"] = newDisk(t)
			err := w.serve(func(o *coordinator.Options) { o.Manifest = m }).wait()
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("with the manifest of epoch %d the coordinator on an empty store ended with %v, want %q", m.Epoch(), err, want)
			}
		}
		w.disks["council"] = today
		w.serve()
		if v := w.show(run); v.Summary.State != "completed" {
			t.Errorf("on today's copy the run is %s", v.Summary.State)
		}
	})
}

// TestFirstLogOfALaterEpoch starts a federation's first log when everybody else is an epoch ahead, with other witnesses. It begins with the
// first manifest all the same, and waits for the witnesses of both.
func TestFirstLogOfALaterEpoch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, none, "{quorum: 2, members: [budapest, cleveland]}")
		one := w.manifest
		w.manifest = w.realm.next(t, one, none, "{quorum: 2, members: [longbeach, switzerland]}")
		w.serve(func(o *coordinator.Options) { o.Manifest = one })
		for _, m := range hospitals[1:] {
			w.join(m)
		}
		time.Sleep(time.Hour)
		if n := len(w.facts()); n > 0 {
			t.Errorf("%d lines were written without a quorum of the first witnesses", n)
		}
		w.join("budapest")
		w.books["council"].await(t, "witnesses have handed over", "epoch", "2")
		w.completed(w.start(plan(t, bare)))
		adopted := only[entry.ManifestAdopted](w.facts())
		if len(adopted) != 2 || adopted[0].Epoch != 1 || adopted[0].Enclave != nil || adopted[1].Epoch != 2 || adopted[1].Enclave == nil {
			t.Errorf("adopted were %+v, want epoch 1 with the boot, and epoch 2 with the enclave's evidence", adopted)
		}
		folder := w.export()
		w.manifest = one // its digest is as good an anchor
		if r := w.verify(folder); len(r.Findings) > 0 || len(r.Handovers) != 1 || len(r.Epochs) != 2 {
			t.Errorf("handed over were %+v; found %v", r.Handovers, r.Findings)
		}
	})
}

// TestTwoStoresChange runs two coordinators on two copies of one store around a change of its witnesses: copied before the change, which
// one of them makes; in its middle; or one before it and one after. Each has a share of the members, and afterwards they change
// sides. Whatever is released is one history, and one of the two goes on.
func TestTwoStoresChange(t *testing.T) {
	t.Parallel()
	for _, moment := range []string{"before", "in the middle", "before and after"} {
		for _, share := range []int{0b0011, 0b0110, 0b1001} {
			t.Run(fmt.Sprintf("%s %04b", moment, share), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { twoStores(t, moment, share) })
			})
		}
	}
}

func twoStores(t *testing.T, moment string, share int) {
	w := newWorld(t, none, oldWitnesses)
	one := w.manifest
	two := w.realm.next(t, one, none, newWitnesses)
	council := w.serve()
	running := w.joinAll()
	stop := func() {
		for _, p := range running {
			p.stop()
		}
		clear(running)
	}
	w.present()
	before := copyOf(t, w.disks["council"])
	run := func(p *entry.Plan) {
		p.Members, p.Quorum, p.Deadline, p.Tries = []entry.Member{"budapest", "cleveland", "longbeach", "switzerland"}, 2, entry.Duration(10*time.Minute), 50
	}
	switch moment {
	case "before":
		w.start(plan(t, bare, run))
		synctest.Wait()
		before = copyOf(t, w.disks["council"])
	case "in the middle": // of the new ones one is left
		for _, m := range []string{"longbeach", "cleveland"} {
			running[m].stop()
			delete(running, m)
		}
		w.bring(two, "switzerland", running)
		w.start(plan(t, bare, run))
		time.Sleep(time.Minute)
		if n := len(w.books["council"].find("witnesses have handed over")); n > 0 {
			t.Fatal("the change is over")
		}
		before = copyOf(t, w.disks["council"])
	case "before and after":
		w.publish(two)
		w.books["council"].await(t, "witnesses have handed over")
		w.start(plan(t, bare, run))
	}
	stop()
	council.stop()
	sides := []*world{w.side(copyOf(t, w.disks["council"])), w.side(before)}
	w.manifest = one
	first := one
	if moment == "before" {
		first = two
	}
	sides[0].serve(func(o *coordinator.Options) { o.Manifest = first })
	sides[1].serve(func(o *coordinator.Options) { o.Manifest = one })
	for turn := range 2 {
		for i, name := range hospitals {
			s := sides[(share>>i+turn)%2]
			running[name] = w.join(name, func(o *participant.Options) { o.Dial = s.line.dial })
		}
		time.Sleep(2 * time.Hour)
		stop()
	}
	heads, moved := []witness.Head{}, 0
	for _, s := range sides {
		heads = append(heads, s.releasedHead())
		moved += len(s.books["council"].find("log opened by its witnesses"))
	}
	a, b := sides[0], sides[1]
	if heads[0].Size < heads[1].Size {
		a, b, heads = b, a, []witness.Head{heads[1], heads[0]}
	}
	if root := a.rootAt(heads[1].Size); root != heads[1].Root {
		t.Errorf("two histories are released: of %d and %d lines", heads[0].Size, heads[1].Size)
	}
	if moved == 0 {
		t.Errorf("neither of the two goes on: %v", b.books["council"].find("a witness refuses this log"))
	}
}

func (w *world) view() ledger.View {
	w.t.Helper()
	d, ctx := w.disks["council"], context.Background()
	key, err := ledger.OpenKey(ctx, d, d.kek, "consilium.dev/four-hospitals")
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := ledger.Open(ctx, ledger.Config{Objects: d, Head: d, Sealer: d.kek, Key: key})
	if err != nil {
		w.t.Fatal(err)
	}
	return l.View()
}

// releasedHead returns the head that the coordinator's store keeps the newest cosignatures of.
func (w *world) releasedHead() witness.Head {
	w.t.Helper()
	v, names := w.view(), w.disks["council"].names("cosigned/")
	var size int64
	if _, err := fmt.Sscanf(names[len(names)-1], "cosigned/%d", &size); err != nil {
		w.t.Fatal(err)
	}
	if size > v.Size() {
		w.t.Fatalf("%d lines are released of %d", size, v.Size())
	}
	return witness.Head{Size: size, Root: w.rootAt(size)}
}

func (w *world) rootAt(size int64) [32]byte {
	w.t.Helper()
	root, err := w.view().RootAt(context.Background(), size)
	if err != nil {
		w.t.Fatal(err)
	}
	return root
}

// stolen is the log of a coordinator that is away, as an auditor would be sent it by somebody who holds its store and its key.
type stolen struct {
	log   *ledger.Ledger
	blobs *blob.Blobs
	kept  map[int64]entry.Blob
	chain []*manifest.Manifest
}

func (s stolen) Entries(ctx context.Context, from, size int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for line, err := range s.log.View().Entries(ctx, from) {
			if from == size || !yield(line, err) {
				return
			}
			from++
		}
	}
}

func (s stolen) Kept(ctx context.Context, line int64) ([]byte, error) {
	return s.blobs.ReadAll(ctx, s.kept[line], entry.MaxKept)
}

func (s stolen) Manifest(_ context.Context, epoch uint64) ([]byte, error) {
	return s.chain[epoch-1].Envelope(), nil
}

// TestHandoverForged judges logs whose key somebody else held, and had the witnesses of before hand over though they did not.
func TestHandoverForged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, none, "{quorum: 2, members: [budapest, cleveland]}")
		one := w.manifest
		two := w.realm.next(t, one, none, "{quorum: 2, members: [longbeach, switzerland]}")
		council := w.serve()
		all := map[string]*program{}
		for _, m := range hospitals[:3] {
			all[m] = w.join(m)
		}
		w.books["council"].await(t, "admitted", "name", "longbeach")
		synctest.Wait()
		disk := w.disks["council"]
		early, err := blob.New(disk, disk.kek).OpenNamed(t.Context(), disk.names("cosigned/")[0])
		if err != nil {
			t.Fatal(err)
		}
		released := w.releasedHead().Size
		w.bring(two, "longbeach", all)
		time.Sleep(time.Minute)
		for _, p := range all {
			p.stop()
		}
		council.stop()
		whole := w.disks["council"]
		bare, err := witness.Cosigned{Checkpoint: string(w.view().Checkpoint())}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name     string
			epoch    uint64
			size     int64
			cosigned []byte
			want     string
		}{
			{"by nobody", 2, w.view().Size(), bare, "0 of the 2 witnesses of epoch 1 that are needed have cosigned it"},
			{"over a head of before", 2, released, early, fmt.Sprintf("the head of %d lines that was cosigned is none of this log since", released)},
			{"over another head than it says", 2, w.view().Size(), early, "is none of this log since"},
			{"to another epoch", 3, w.view().Size(), bare, "the rules refuse it"},
			{"with what is no cosignatures", 2, w.view().Size(), []byte("{}"), "cosignatures: "},
		} {
			w.disks["council"] = copyOf(t, whole)
			r := w.forge(entry.HandedOver{Epoch: c.epoch, Size: c.size}, c.cosigned, []*manifest.Manifest{one, two})
			var found []string
			for _, f := range r.Findings {
				found = append(found, f.What)
			}
			if text := strings.Join(found, "\n"); !strings.Contains(text, c.want) || len(r.Handovers) > 0 {
				t.Errorf("%s: handed over were %v, found %s, want %q", c.name, r.Handovers, text, c.want)
			}
		}
	})
}

// forge adds a handover to the log, with those cosignatures kept, and judges a copy.
func (w *world) forge(f entry.HandedOver, cosigned []byte, chain []*manifest.Manifest) *audit.Report {
	w.t.Helper()
	d, ctx := w.disks["council"], context.Background()
	key, err := ledger.OpenKey(ctx, d, d.kek, "consilium.dev/four-hospitals")
	if err != nil {
		w.t.Fatal(err)
	}
	s := stolen{blobs: blob.New(d, d.kek), kept: map[int64]entry.Blob{}, chain: chain}
	if s.log, err = ledger.Open(ctx, ledger.Config{Objects: d, Head: d, Sealer: d.kek, Key: key}); err != nil {
		w.t.Fatal(err)
	}
	if f.Cosigned, err = s.blobs.Put(ctx, bytes.NewReader(cosigned)); err != nil {
		w.t.Fatal(err)
	}
	lines := w.lines()
	if err := s.log.Append(ctx, entry.Encode([16]byte{1}, lines[len(lines)-1].At, f)); err != nil {
		w.t.Fatal(err)
	}
	for n, f := range w.facts() {
		switch f := f.(type) {
		case entry.Admitted:
			s.kept[int64(n)] = f.Kept
		case entry.Booted:
			s.kept[int64(n)] = f.Evidence
		case entry.ManifestAdopted:
			if f.Enclave != nil {
				s.kept[int64(n)] = f.Enclave.Evidence
			}
		case entry.HandedOver:
			s.kept[int64(n)] = f.Cosigned
		}
	}
	folder, v := filepath.Join(w.t.TempDir(), "copy"), s.log.View()
	point, err := ledger.OpenCheckpoint(v.Checkpoint(), v.Verifier())
	if err == nil {
		err = audit.Export(ctx, s, chain[0], witness.Cosigned{Checkpoint: string(v.Checkpoint())}, point, folder, nil)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return w.verify(folder)
}
