package coordinator_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/store/storetest"
	pb "consilium.dev/proto/consilium/v1"
)

// keptFor has a coordinator keep all of a run for so long after its end.
func keptFor(d time.Duration) func(*coordinator.Options) {
	return func(o *coordinator.Options) { o.Retention = d }
}

// TestRetention: a day after a run's end all of its models and states are deleted but the newest, and the log says so; everybody
// is told that they were deleted, when, and what they were. What is lost without such a fact is an error.
func TestRetention(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := w.disks["council"]
		council := w.serve(keptFor(24 * time.Hour))
		all := w.joinAll()
		run := w.completed(w.start(plan(t, adam))).Summary.Run
		for _, p := range all {
			p.stop()
		}
		ada := w.person("ada")
		time.Sleep(23 * time.Hour)
		synctest.Wait()
		if f := only[entry.Dropped](w.facts()); len(f) > 0 {
			t.Fatalf("dropped before the time: %v", f)
		}
		before := stored(t, d, d.kek)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		facts := w.facts()
		f := only[entry.Dropped](facts)
		if len(f) != 1 || f[0].Run != run || !slices.Equal(f[0].Rounds, []int{0, 1, 2}) || time.Duration(f[0].Kept) != 24*time.Hour {
			t.Fatalf("dropped %v, want rounds 0 to 2 of %s", f, run)
		}
		for _, f := range only[entry.RoundClosed](facts) {
			for _, b := range entry.Blobs(f) {
				if f.Round < 3 {
					delete(before, b.Sealed)
				}
			}
		}
		if got := stored(t, d, d.kek); !maps.Equal(got, before) {
			t.Errorf("%d blobs are left, want %d: all but those of rounds 0 to 2", len(got), len(before))
		}
		council.stop()
		w.serve() // also with nothing in its configuration: what is gone is gone
		listed, err := ada.ListModels(t.Context(), &pb.ListModelsRequest{})
		if err != nil || len(listed.Models) != 4 {
			t.Fatalf("ListModels = %v, %v, want 4 versions", listed, err)
		}
		for _, v := range listed.Models {
			gone := time.UnixMicro(v.DroppedUs)
			_, err := ada.download(t.Context(), entry.Digest(v.Model))
			switch {
			case v.Round == 3 && (v.DroppedUs != 0 || err != nil):
				t.Errorf("the newest model: dropped at %s, %v", gone, err)
			case v.Round < 3 && (gone.After(time.Now()) || time.Since(gone) > 2*time.Hour || status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "retention deleted it at "+gone.UTC().Format(time.RFC3339))):
				t.Errorf("the model of round %d: dropped at %s, %v", v.Round, gone, err)
			}
		}
		last := only[entry.RoundClosed](facts)[3].Blob.Sealed.String()
		d.drop("blob/" + last[:2] + "/" + last)
		if _, err := ada.download(t.Context(), entry.Digest(listed.Models[0].Model)); status.Code(err) != codes.Internal {
			t.Errorf("a model that was lost: %v, want an error of the coordinator", err)
		}
	})
}

// TestRetentionWitnessed: where there are witnesses it is looked when they open the log, not ten minutes later.
func TestRetentionWitnessed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fourWitnesses...)
		council := w.serve()
		all := w.joinAll()
		w.completed(w.start(plan(t, adam)))
		council.stop()
		for _, p := range all {
			p.stop()
		}
		time.Sleep(48 * time.Hour)
		w.books["council"] = newBook()
		w.serve(keptFor(24 * time.Hour))
		time.Sleep(15 * time.Second)
		if f := only[entry.Dropped](w.facts()); len(f) > 0 {
			t.Fatalf("dropped before the log was open: %v", f)
		}
		w.joinAll()
		w.books["council"].await(t, "log opened by its witnesses")
		time.Sleep(time.Second)
		synctest.Wait()
		if f := only[entry.Dropped](w.facts()); len(f) != 1 {
			t.Errorf("dropped %v a second after the log was opened, want one run's", f)
		}
	})
}

// TestRetentionCrash kills the coordinator at each call to its storage while it drops, before the call and after it. The next one
// ends with the same: one fact, and none of the blobs; and no blob is gone before the fact is there.
func TestRetentionCrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		council := w.serve()
		all := w.joinAll()
		w.completed(w.start(plan(t, adam)))
		for _, p := range all {
			p.stop()
		}
		council.stop()
		time.Sleep(48 * time.Hour)
		sound, kek := w.disks["council"], w.disks["council"].kek
		points := 0
		for _, effect := range []storetest.Effect{storetest.Before, storetest.After} {
			for n, reached := 1, true; reached; n++ {
				d := copyOf(t, sound)
				w.disks["council"] = d
				dying := &mourned{disk: d, n: n, effect: effect}
				council := w.serve(keptFor(24*time.Hour), func(o *coordinator.Options) { o.Objects, o.Head = dying, dying })
				synctest.Wait()
				_ = council.end() // it thinks that its storage failed it
				reached = d.Calls() >= n && dying.armed
				d.Heal()
				if f := only[entry.Dropped](w.facts()); len(f) == 0 && len(stored(t, d, kek)) < len(stored(t, sound, kek)) {
					t.Errorf("killed %v call %d: a blob is gone that nothing dropped", effect, n)
				}
				w.serve(keptFor(24 * time.Hour)).stopAfter()
				facts := w.facts()
				if f := only[entry.Dropped](facts); len(f) != 1 || len(f[0].Rounds) != 3 {
					t.Errorf("killed %v call %d: dropped %v, want 3 rounds once", effect, n, f)
				}
				if err := (history{facts: facts}).missing(d.shelf()); err != nil {
					t.Errorf("killed %v call %d: %v", effect, n, err)
				}
				want := map[entry.Digest]bool{}
				for i, f := range facts {
					for _, b := range entry.Blobs(f) {
						if _, opened := f.(entry.RoundOpened); !opened && !(history{}).dropped(f, facts[i:]) {
							want[b.Sealed] = true
						}
					}
				}
				if got := stored(t, d, kek); !maps.Equal(got, want) {
					t.Errorf("killed %v call %d: %d blobs are stored, want %d", effect, n, len(got), len(want))
				}
				points++
			}
		}
		if points < 20 {
			t.Errorf("%d points were tried, want more", points)
		}
	})
}

// stopAfter ends a program once it has nothing left to do.
func (p *program) stopAfter() {
	synctest.Wait()
	p.stop()
}

// mourned is storage that fails from the n-th call on that comes after the boot's commit.
type mourned struct {
	*disk
	n      int
	effect storetest.Effect
	swaps  int
	armed  bool
}

func (m *mourned) Swap(ctx context.Context, old uint64, value []byte) error {
	err := m.disk.Swap(ctx, old, value)
	if m.swaps++; m.swaps == 1 && err == nil {
		m.armed = true
		m.FailFrom(m.n, m.effect)
	}
	return err
}
