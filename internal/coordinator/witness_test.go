package coordinator_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store"
	pb "consilium.dev/proto/consilium/v1"
)

// none is what the tests' manifest says of witnesses, for edits.
const none = `{none: true, reason: "a test"}`

// fourWitnesses makes all four hospitals witnesses, three of whom decide.
var fourWitnesses = []string{none, "{quorum: 3, members: [budapest, cleveland, longbeach, switzerland]}"}

// copyOf returns another disk with what is on d.
func copyOf(t testing.TB, d *disk) *disk {
	t.Helper()
	c, ctx := newDisk(t), context.Background()
	c.kek = d.kek
	for name, err := range d.List(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		r, err := d.Get(ctx, name)
		if err == nil {
			err = c.Put(ctx, store.Named(name), r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	version, head, err := d.Load(ctx)
	for v := uint64(0); v < version && err == nil; v++ {
		err = c.Swap(ctx, v, head)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// show returns a run as ada sees it.
func (w *world) show(run string) *pb.ShowReply {
	w.t.Helper()
	v, err := w.person("ada").Show(w.t.Context(), &pb.ShowRequest{Run: run})
	if err != nil {
		w.t.Fatal(err)
	}
	return v
}

// TestWitnesses runs a whole run over a log with witnesses. It has no line before three of the four have shown that they keep none;
// meanwhile people are told for whom it waits.
func TestWitnesses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fourWitnesses...)
		w.serve()
		began := time.Now()
		w.join("switzerland")
		w.join("longbeach")
		_, err := w.person("ada").List(t.Context(), &pb.ListRequest{})
		if s := status.Convert(err); s.Code() != codes.Unavailable ||
			!strings.Contains(s.Message(), "2 of the 3 that are needed have shown what they keep; missing: budapest, cleveland") {
			t.Errorf("before the log is open a lead is told %v", err)
		}
		time.Sleep(30 * time.Minute)
		if all := w.facts(); len(all) != 0 {
			t.Errorf("%d lines were appended before a quorum had shown what it keeps: %T", len(all), all[0])
		}
		w.join("cleveland")
		w.books["council"].await(t, "log opened by its witnesses")
		w.join("budapest")
		v := w.completed(w.start(plan(t, adam)))
		if v.Rollback != "" {
			t.Errorf("a log with witnesses says %q", v.Rollback)
		}
		facts := w.facts()
		if a, ok := facts[0].(entry.ManifestAdopted); !ok || a.Witnesses != "3 of 4: budapest, cleveland, longbeach, switzerland" {
			t.Errorf("the first line is %v", facts[0])
		}
		if b, ok := facts[1].(entry.Booted); !ok || b.Since.Sub(began) > time.Second {
			t.Errorf("the second line is %v", facts[1])
		}
		var who []string
		for _, f := range facts[2:5] {
			if a, ok := f.(entry.Admitted); ok {
				who = append(who, a.Name)
			}
		}
		if fmt.Sprint(who) != "[cleveland longbeach switzerland]" {
			t.Errorf("then follow the admissions of %v, want of those who had shown themselves", who)
		}
		if n := len(only[entry.RoundClosed](facts)); n != 4 {
			t.Errorf("%d rounds are closed, want 4", n)
		}
		if n := len(w.books["council"].find("round released")); n != 4 {
			t.Errorf("%d rounds were released, want 4", n)
		}
	})
}

// TestFewerThanQuorum: with two of the three that are needed a round is closed and nobody sees what came of it, for as long as that
// lasts; whoever looks at the run is told who is missing. A witness that has no part in the run brings it on.
func TestFewerThanQuorum(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fourWitnesses...)
		w.serve()
		all := w.joinAll()
		w.books["council"].await(t, "log opened by its witnesses")
		run := w.start(plan(t, bare, func(p *entry.Plan) { p.Name, p.Rounds, p.Tries = "before", 1, 1 }))
		w.completed(run)
		before, err := w.person("ada").ListModels(t.Context(), &pb.ListModelsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		all["longbeach"].stop()
		all["switzerland"].stop()
		synctest.Wait()
		run = w.start(plan(t, bare, func(p *entry.Plan) { p.Name, p.Rounds, p.Tries = "run", 2, 1 }))
		w.books["council"].await(t, "round closed", "run", run)
		time.Sleep(time.Hour) // many deadlines
		w.checkWithheld(run, before)
		w.join("switzerland")
		v := w.completed(run)
		if n := len(v.Rounds); n != 2 || v.Rounds[0].State != "closed" || v.Rounds[1].State != "closed" {
			t.Errorf("the run has the rounds %v", v.Rounds)
		}
		for _, x := range v.Rounds {
			if len(x.Metrics) != 2 {
				t.Errorf("round %d has the figures of %d members, want 2: its release came late, and their time from then on", x.Round, len(x.Metrics))
			}
		}
		if n := len(only[entry.RoundFailed](w.facts())); n != 0 {
			t.Errorf("%d tries failed while the witnesses were away", n)
		}
	})
}

// checkWithheld looks everywhere for what came of a round that is closed and not released. before are the models of before.
func (w *world) checkWithheld(run string, before *pb.ListModelsReply) {
	t := w.t
	t.Helper()
	var line int64
	var closed entry.RoundClosed
	for i, f := range w.facts() {
		if c, ok := f.(entry.RoundClosed); ok {
			line, closed = int64(i), c
		}
	}
	if closed.Run != run {
		t.Fatalf("no round of run %s is closed", run)
	}
	ada := w.person("ada")
	v := w.show(run)
	if x := v.Rounds[0]; len(v.Rounds) != 1 || x.State != "closing" || x.Model != nil || x.ClosedUs != 0 || v.Summary.State != "training" {
		t.Errorf("run is %s, shown with the rounds %v", v.Summary.State, v.Rounds)
	}
	want := "round 1 is closed and waits for its witnesses: 2 of the 3 that are needed have cosigned; missing: longbeach last seen 1 h ago, switzerland last seen 1 h ago"
	if v.Waiting != want {
		t.Errorf("the run waits: %q, want %q", v.Waiting, want)
	}
	list, err := ada.List(t.Context(), &pb.ListRequest{})
	if err != nil || list.Runs[0].Run != run || list.Runs[0].State != "training" {
		t.Errorf("the list says %v, %v", list, err)
	}
	models, err := ada.ListModels(t.Context(), &pb.ListModelsRequest{})
	if err != nil || len(models.Models) != len(before.Models)+1 { // the model that the run began with
		t.Errorf("there are %d models, %v, want one more than %d", len(models.Models), err, len(before.Models))
	}
	text := closed.Model.String()
	for _, m := range models.Models {
		if m.Run == run && len(m.Members) > 0 {
			t.Error("the model is listed")
		}
	}
	if s, err := ada.ShowModel(t.Context(), &pb.ShowModelRequest{Model: text}); err == nil && s.Model.Run == run {
		t.Error("the model is shown")
	}
	log := pb.NewLogClient(ada.conn)
	point, err := log.Checkpoint(t.Context(), &pb.CheckpointRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var origin string
	var size int64
	if _, err := fmt.Sscan(string(point.Checkpoint), &origin, &size); err != nil || size > line || len(point.Cosignatures) < 3 {
		t.Errorf("the checkpoint is of %d lines with %d cosignatures, %v; line %d is withheld", size, len(point.Cosignatures), err, line)
	}
	for what, call := range map[string]func() error{
		"its line": func() error {
			s, err := log.Entries(t.Context(), &pb.EntriesRequest{From: line, Size: line + 1})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"a proof of its line": func() error {
			_, err := log.Prove(t.Context(), &pb.ProveRequest{Line: line, Size: line + 1})
			return err
		},
		"a proof that it extends": func() error {
			_, err := log.Extends(t.Context(), &pb.ExtendsRequest{Old: line, Size: line + 1})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.OutOfRange {
			t.Errorf("%s: %v, want that it is beyond what may be seen", what, err)
		}
	}
	for _, name := range closed.Members {
		if n := len(w.books[string(name.Member)].find("training", "run", run)); n != 1 {
			t.Errorf("%s trained %d times, want once: the next round has the withheld model as its base", name.Member, n)
		}
	}
}

// TestYesterdaysCopy starts a coordinator on an older copy of its store. Its witnesses have seen more: it appends nothing, ends,
// and says what to do. The newer copy goes on.
func TestYesterdaysCopy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fourWitnesses...)
		council := w.serve()
		w.joinAll()
		w.completed(w.start(plan(t, bare, func(p *entry.Plan) { p.Name = "yesterday" })))
		synctest.Wait()
		council.stop()
		yesterday := copyOf(t, w.disks["council"])
		council = w.serve()
		run := w.start(plan(t, bare, func(p *entry.Plan) { p.Name = "today" }))
		w.completed(run)
		synctest.Wait()
		council.stop()
		today := w.disks["council"]
		w.disks["council"] = yesterday
		old := len(w.facts())
		err := w.serve().wait()
		for _, want := range []string{"storage was rolled back", "restore a newer copy", fmt.Sprintf("this log has %d", old), "has seen "} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("the coordinator on yesterday's copy ended with %v, want %q", err, want)
			}
		}
		if n := len(w.facts()); n != old {
			t.Errorf("yesterday's copy has %d lines, it had %d", n, old)
		}
		w.disks["council"] = today
		w.serve()
		if v := w.show(run); v.Summary.State != "completed" {
			t.Errorf("on today's copy the run is %s", v.Summary.State)
		}
	})
}

// TestTwoStores runs two coordinators on two copies of one store, in whose log a round needs only its updates, with each share of
// the witnesses; afterwards the witnesses change sides, so that each coordinator has its best chance. At most one of the two
// releases the round, and one does where two of the three witnesses were together from the beginning.
func TestTwoStores(t *testing.T) {
	t.Parallel()
	members := []string{"budapest", "cleveland", "longbeach"}
	for share := range 8 {
		t.Run(fmt.Sprintf("%03b", share), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, none, "{quorum: 2, members: [budapest, cleveland, longbeach]}")
				council := w.serve()
				var running []*program
				for _, name := range members {
					running = append(running, w.join(name))
				}
				w.books["council"].await(t, "log opened by its witnesses")
				synctest.Wait()
				for _, p := range running[1:] {
					p.stop()
				}
				run := w.start(plan(t, bare, func(p *entry.Plan) {
					p.Members, p.Quorum, p.Deadline, p.Tries = []entry.Member{"budapest", "cleveland", "longbeach"}, 2, entry.Duration(10*time.Minute), 50
				}))
				synctest.Wait()
				running[0].stop()
				council.stop()
				sides := []*world{w.side(copyOf(t, w.disks["council"])), w.side(copyOf(t, w.disks["council"]))}
				for _, s := range sides {
					s.serve()
				}
				for turn := range 2 {
					running = nil
					for i, name := range members {
						s := sides[(share>>i+turn)%2]
						running = append(running, w.join(name, func(o *participant.Options) { o.Dial = s.line.dial }))
					}
					time.Sleep(2 * time.Hour)
					for _, p := range running {
						p.stop()
					}
				}
				var released []string
				for i, s := range sides {
					if n := len(s.books["council"].find("round released", "run", run, "round", "1")); n > 0 {
						released = append(released, fmt.Sprint("copy ", i))
					}
				}
				if len(released) != 1 {
					t.Errorf("the round was released on %v, want on one copy", released)
				}
			})
		})
	}
}

// side returns the same federation with another coordinator on another disk, reached over another line.
func (w *world) side(d *disk) *world {
	s := *w
	s.line, s.disks, s.books = &line{}, map[string]*disk{"council": d}, map[string]*book{"council": newBook()}
	return &s
}

// TestCosignaturesAreKept restarts the coordinator. The cosignatures that it kept count at once; where they were lost, altered or
// are another log's they are asked for again.
func TestCosignaturesAreKept(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		damage func(d *disk, kept string)
		warned int
	}{
		{"kept", func(*disk, string) {}, 0},
		{"lost", func(d *disk, kept string) { d.drop(kept) }, 0},
		{"altered", func(d *disk, kept string) {
			text := d.read(kept)
			text[len(text)-1] ^= 1
			d.replace(kept, text)
		}, 1},
		{"of another size", func(d *disk, kept string) { d.replace("cosigned/00000000000000000001", d.read(kept)); d.drop(kept) }, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, fourWitnesses...)
				council := w.serve()
				all := w.joinAll()
				run := w.start(plan(t, bare))
				w.completed(run)
				synctest.Wait()
				for _, p := range all {
					p.stop()
				}
				council.stop()
				d := w.disks["council"]
				kept := d.names("cosigned/")
				if len(kept) != 1 {
					t.Fatalf("the store keeps the cosignatures %q, want the newest", kept)
				}
				test.damage(d, kept[0])
				w.serve()
				synctest.Wait()
				const warning = "kept cosignatures do not count, they are asked for again"
				if n := len(w.books["council"].find(warning)); n != test.warned {
					t.Errorf("it warned %d times of cosignatures that do not count, want %d", n, test.warned)
				}
				w.joinAll()
				if v := w.show(run); v.Summary.State != "completed" || v.Rounds[0].State == "closing" && test.name == "kept" {
					t.Errorf("the run is %s, its round %s", v.Summary.State, v.Rounds[0].State)
				}
				time.Sleep(time.Minute)
				if v := w.show(run); v.Rounds[0].State != "closed" {
					t.Errorf("once the witnesses are there the round is %s", v.Rounds[0].State)
				}
				if now := d.names("cosigned/"); len(now) == 0 || now[len(now)-1] <= kept[0] {
					t.Errorf("the store keeps the cosignatures %q, want newer ones", now)
				}
			})
		})
	}
}

// TestCosignedBeyondTheLog puts the log back and leaves the cosignatures: no witness is needed to know it.
func TestCosignedBeyondTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fourWitnesses...)
		council := w.serve()
		all := w.joinAll()
		w.completed(w.start(plan(t, bare, func(p *entry.Plan) { p.Name = "yesterday" })))
		synctest.Wait()
		council.stop()
		yesterday := copyOf(t, w.disks["council"])
		council = w.serve()
		w.completed(w.start(plan(t, bare, func(p *entry.Plan) { p.Name = "today" })))
		synctest.Wait()
		for _, p := range all {
			p.stop()
		}
		council.stop()
		name := w.disks["council"].names("cosigned/")[0]
		yesterday.replace(name, w.disks["council"].read(name))
		w.disks["council"] = yesterday
		if err := w.serve().wait(); err == nil || !strings.Contains(err.Error(), "storage was rolled back") {
			t.Errorf("with cosignatures over more lines than the log has the coordinator ended with %v", err)
		}
	})
}

func (d *disk) names(prefix string) []string {
	var all []string
	for name, err := range d.List(context.Background(), prefix) {
		if err != nil {
			panic(err)
		}
		all = append(all, name)
	}
	return all
}

func (d *disk) read(name string) []byte {
	r, err := d.Get(context.Background(), name)
	if err != nil {
		panic(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		panic(err)
	}
	return text
}

func (d *disk) drop(name string) {
	if err := d.Delete(context.Background(), name); err != nil {
		panic(err)
	}
}

func (d *disk) replace(name string, text []byte) {
	d.drop(name)
	if err := d.Put(context.Background(), store.Named(name), strings.NewReader(string(text))); err != nil {
		panic(err)
	}
}
