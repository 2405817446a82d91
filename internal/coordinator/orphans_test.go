package coordinator_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

// stored returns the blobs of a disk by the digests of their ciphertexts.
func stored(t testing.TB, o store.Objects, kek store.Sealer) map[entry.Digest]bool {
	t.Helper()
	all := map[entry.Digest]bool{}
	for d, err := range blob.New(o, kek).Stored(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		all[d] = true
	}
	return all
}

// reluctant is storage that deletes so many blobs and then fails, as if the process were killed there.
type reluctant struct {
	store.Objects
	left int
}

func (r *reluctant) Delete(ctx context.Context, name string) error {
	if strings.HasPrefix(name, "blob/") {
		r.left--
	}
	if r.left < 0 {
		return errors.New("the disk has gone")
	}
	return r.Objects.Delete(ctx, name)
}

// TestOrphans: a boot deletes the blobs that no fact names, and nothing else; what it does not get to, the next one deletes.
func TestOrphans(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := w.disks["council"]
		council := w.serve()
		w.joinAll()
		run := w.start(plan(t, adam))
		w.completed(run)
		council.stop()
		named := map[entry.Digest]bool{}
		for _, f := range w.facts() {
			for _, b := range entry.Blobs(f) {
				named[b.Sealed] = true
			}
		}
		for range 5 {
			if _, err := blob.New(d, d.kek).Put(t.Context(), strings.NewReader("nobody names it")); err != nil {
				t.Fatal(err)
			}
		}
		if before := stored(t, d, d.kek); len(before) != len(named)+5 {
			t.Fatalf("%d blobs are stored and %d named, want 5 orphans", len(before), len(named))
		}
		council = w.serve(func(o *coordinator.Options) { o.Objects = &reluctant{d, 2} })
		w.books["council"].await(t, "blobs that nothing needs are left until the next start", "orphans", "3")
		council.stop()
		if after := stored(t, d, d.kek); len(after)-len(named) < 3 {
			t.Errorf("%d blobs are left of %d named and 3 orphans", len(after), len(named))
		}
		council = w.serve()
		w.books["council"].await(t, "blobs deleted that nothing needs", "orphans", "3")
		after := stored(t, d, d.kek)
		for b := range named {
			if !after[b] {
				t.Errorf("blob %s is named by a fact and was deleted", b.Short())
			}
		}
		w.completed(w.start(plan(t, adam, func(p *entry.Plan) { p.Name = "again" })))
		council.stop()
		for _, f := range w.facts() {
			for _, b := range entry.Blobs(f) {
				named[b.Sealed] = true
			}
		}
		for b := range stored(t, d, d.kek) {
			if !named[b] {
				t.Errorf("blob %s is named by nobody and was not deleted", b.Short())
			}
		}
	})
}

// TestOrphansOf: whatever is stored and whatever is named, just what is stored and not named is an orphan. Objects that are no
// blobs are none.
func TestOrphansOf(t *testing.T) {
	kek := newDisk(t).kek
	rapid.Check(t, func(t *rapid.T) {
		disk := storetest.New()
		blobs := blob.New(disk, kek)
		named, want := map[entry.Digest]bool{{1}: true}, map[entry.Digest]bool{}
		for range rapid.IntRange(0, 8).Draw(t, "blobs") {
			ref, err := blobs.Put(context.Background(), strings.NewReader("content"))
			if err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "named") {
				named[ref.Sealed] = true
			} else {
				want[ref.Sealed] = true
			}
		}
		for _, name := range []string{"blob/xx", "manifest/aa", "blob/00/" + strings.Repeat("1", 64)} {
			if err := disk.Put(context.Background(), func() string { return name }, strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
		}
		found, err := coordinator.Orphans(context.Background(), blobs, named)
		if err != nil {
			t.Fatal(err)
		}
		for _, ref := range found {
			if !want[ref.Sealed] {
				t.Fatalf("%s is no orphan", ref.Sealed.Short())
			}
			delete(want, ref.Sealed)
		}
		if len(want) > 0 {
			t.Fatalf("%d orphans were not found", len(want))
		}
	})
}
