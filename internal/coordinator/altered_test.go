package coordinator_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/coordinator"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

// lengthy makes a plan of more rounds than will be closed before a test ends it, with an optimiser that has a state.
func lengthy(p *entry.Plan) {
	p.Rounds, p.Quorum, p.Members = 12, 2, []entry.Member{"budapest", "cleveland"}
}

// halted returns a federation whose programs have ended within a round of a run: models, the optimiser's state and everybody's
// evidence are stored, and budapest keeps an update that was accepted.
func halted(t *testing.T) (w *world, run string) {
	w = newWorld(t)
	council, budapest, cleveland := w.serve(), w.join("budapest"), w.join("cleveland")
	run = w.start(plan(t, adam, lengthy))
	w.books["council"].await(t, "round closed", "round", "1")
	cleveland.stop()
	synctest.Wait()
	budapest.stop()
	council.stop()
	for name := range objects(t, w.disks["cleveland"]) {
		if strings.HasPrefix(name, "kept/") { // it may have got so far; now it has to train
			replace(t, w.disks["cleveland"], name, nil)
		}
	}
	return w, run
}

// objects returns what a storage holds.
func objects(t *testing.T, o store.Objects) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for name, err := range o.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		r, err := o.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if all[name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// replace does what an operator of the storage can do to an object; nil takes it away.
func replace(t *testing.T, o store.Objects, name string, text []byte) {
	t.Helper()
	if err := o.Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if text == nil {
		return
	}
	if err := o.Put(t.Context(), store.Named(name), bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
}

// harms are the ways to damage an object: bits flipped at so many places of it, at each byte of a small one, and cut at some.
func harms(good []byte, places int) map[string][]byte {
	all := map[string][]byte{"lengthened": append(bytes.Clone(good), 0), "emptied": {}}
	step := max(1, len(good)/places)
	if len(good) <= 512 && places >= 40 {
		step = 1
	}
	for i, n := 0, 0; i < len(good); i, n = i+step, n+1 {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1 << (i % 8)
		all[fmt.Sprint("flipped at ", i)] = flipped
		if n%8 == 1 {
			all[fmt.Sprint("cut at ", i)] = good[:i:i]
		}
	}
	return all
}

// refuses starts a coordinator that must end at once with an error that names what is damaged and says how to get it back.
func (w *world) refuses(what, name string, change ...func(*coordinator.Options)) {
	w.t.Helper()
	p := w.serve(change...)
	synctest.Wait()
	select {
	case <-p.done:
	default:
		p.stop()
		w.t.Errorf("%s, %s: the coordinator has started", name, what)
		return
	}
	if p.err == nil || !strings.Contains(p.err.Error(), name) || !strings.Contains(p.err.Error(), "consilium restore") {
		w.t.Errorf("%s, %s: the coordinator ended with %q, want the name and how to restore it", name, what, p.err)
	}
}

// TestAlteredStore damages each object of a coordinator's storage, each in many ways, and its head: a coordinator does not start
// on a damaged log, no blob is read that is not what was stored, and each error names the object. Nothing is repaired: with the
// object put back, the run goes on to its end.
func TestAlteredStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, run := halted(t)
		d := w.disks["council"]
		h, err := readHistory(d.shelf())
		if err != nil {
			t.Fatal(err)
		}
		all, blobs := objects(t, d), refs(h.facts)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			for what, harmed := range harms(all[name], 40) {
				replace(t, d, name, harmed)
				if ref, ok := blobs[name]; !ok {
					w.refuses(what, name)
				} else if text, err := blob.New(d, d.kek).ReadAll(t.Context(), ref, 1<<20); err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("%s, %s: ReadAll = %d bytes, %v, want an error with its name", name, what, len(text), err)
				}
				if got := objects(t, d); !bytes.Equal(got[name], harmed) || len(got) != len(all) {
					t.Fatalf("%s, %s: the storage was changed", name, what)
				}
			}
			replace(t, d, name, all[name])
		}
		w.alteredHead()
		w.serve()
		w.join("budapest")
		w.join("cleveland")
		if v := w.persist(plan(t, adam, lengthy)); v.Summary.State != "completed" || v.Summary.Run != run {
			t.Errorf("run %s is %s once everything is put back", v.Summary.Run, v.Summary.State)
		}
	})
}

// refs returns the blobs that facts name, by the names of their objects.
func refs(facts []entry.Fact) map[string]entry.Blob {
	all := map[string]entry.Blob{}
	add := func(ref *entry.Blob) {
		if ref != nil {
			all["blob/"+ref.Sealed.String()[:2]+"/"+ref.Sealed.String()] = *ref
		}
	}
	for _, f := range facts {
		switch f := f.(type) {
		case entry.Booted:
			add(&f.Evidence)
		case entry.Admitted:
			add(&f.Kept)
		case entry.RunCreated:
			add(f.Initial)
		case entry.RoundClosed:
			add(&f.Blob)
			add(f.State)
		}
	}
	return all
}

// alteredHead starts coordinators with damaged heads.
func (w *world) alteredHead() {
	w.t.Helper()
	version, good, err := w.disks["council"].Load(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for what, harmed := range harms(good, 40) {
		head := storetest.New()
		for v := range version {
			if err := head.Swap(w.t.Context(), v, harmed); err != nil {
				w.t.Fatal(err)
			}
		}
		w.refuses(what, "", func(o *coordinator.Options) { o.Head = head })
	}
	w.refuses("lost", "the log's head is missing", func(o *coordinator.Options) { o.Head = storetest.New() })
}

// TestAlteredModel damages what the open round of a run needs, and starts everybody: nothing comes of it, and it is said why. A
// participant trains from no damaged model, and no model is made of a damaged optimiser's state.
func TestAlteredModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := halted(t)
		d := w.disks["council"]
		h, err := readHistory(d.shelf())
		if err != nil {
			t.Fatal(err)
		}
		closed := only[entry.RoundClosed](h.facts)
		last := closed[len(closed)-1]
		for _, what := range []string{"model", "state"} {
			ref := &last.Blob
			if what == "state" {
				ref = last.State
			}
			name := slices.Collect(maps.Keys(refs([]entry.Fact{entry.RunCreated{Initial: ref}})))[0]
			good := objects(t, d)[name]
			harmed := bytes.Clone(good)
			harmed[len(harmed)/2] ^= 4
			replace(t, d, name, harmed)
			council, budapest, cleveland := w.serve(), w.join("budapest"), w.join("cleveland")
			if what == "state" {
				if err := council.wait(); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "consilium restore") {
					t.Errorf("with a damaged state the coordinator ended with %v, want the object's name and how to restore it", err)
				}
			} else {
				l := w.books["council"].await(t, "request failed")
				if !strings.Contains(fmt.Sprint(l["error"]), name) {
					t.Errorf("with a damaged model the coordinator logged %v, want the object's name", l)
				}
				council.stop()
			}
			budapest.stop()
			cleveland.stop()
			if got := len(only[entry.RoundClosed](w.facts())); got != len(closed) {
				t.Errorf("with a damaged %s %d rounds were closed, want no more than the %d before", what, got, len(closed))
			}
			if got := objects(t, d)[name]; !bytes.Equal(got, harmed) {
				t.Errorf("the damaged %s was changed", what)
			}
			replace(t, d, name, good)
		}
		w.serve()
		w.join("budapest")
		w.join("cleveland")
		if v := w.persist(plan(t, adam, lengthy)); v.Summary.State != "completed" {
			t.Errorf("the run is %s once everything is put back", v.Summary.State)
		}
	})
}

// TestAlteredDisk damages what a participant keeps on its own disk: it ends with an error that names the object and says what to
// do, and nothing is offered.
func TestAlteredDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := halted(t)
		d := w.disks["budapest"]
		all := objects(t, d)
		for _, folder := range []string{"consent/", "epoch/", "kept/"} {
			if !slices.ContainsFunc(slices.Collect(maps.Keys(all)), func(name string) bool { return strings.HasPrefix(name, folder) }) {
				t.Fatalf("budapest keeps %q, want something in %s", slices.Sorted(maps.Keys(all)), folder)
			}
		}
		council := w.serve()
		for name, good := range all {
			places := 40
			if strings.HasPrefix(name, "kept/") {
				places = 3 // each takes a session, since it is read when it is asked for
			}
			for what, harmed := range harms(good, places) {
				replace(t, d, name, harmed)
				before := len(w.books["council"].find("update accepted", "member", "budapest"))
				err := w.join("budapest").wait()
				if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "put it back") {
					t.Errorf("%s, %s: the participant ended with %v, want the object's name and what to do", name, what, err)
				}
				if after := len(w.books["council"].find("update accepted", "member", "budapest")); after != before {
					t.Errorf("%s, %s: an update was accepted", name, what)
				}
				if got := objects(t, d); !bytes.Equal(got[name], harmed) || len(got) != len(all) {
					t.Fatalf("%s, %s: the disk was changed", name, what)
				}
			}
			replace(t, d, name, good)
		}
		council.stop()
	})
}
