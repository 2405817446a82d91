package registry_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/registry"
)

// history draws a log that can be: runs, rounds, figures, tags, boots and admissions, with few models, so that they repeat.
func history(t *rapid.T) []entry.Fact {
	log := begun()
	models := rapid.SampledFrom([]string{"m0", "m1", "m2", "m3"})
	newest, number, tags := map[string]string{}, map[string]int{}, map[string]string{}
	var runs, made []string
	for range rapid.IntRange(0, 40).Draw(t, "facts") {
		kind := rapid.IntRange(0, 5).Draw(t, "kind")
		switch {
		case kind == 0 || len(runs) == 0:
			run, initial := fmt.Sprintf("r%d", len(runs)), models.Draw(t, "initial")
			runs, made = append(runs, run), append(made, initial)
			newest[run] = initial
			log = append(log, created(run, initial))
		case kind == 1 || kind == 2:
			run, model := rapid.SampledFrom(runs).Draw(t, "run"), models.Draw(t, "model")
			number[run]++
			log = append(log, closed(run, number[run], newest[run], model, "a", "b"))
			newest[run], made = model, append(made, model)
		case kind == 3:
			run := rapid.SampledFrom(runs).Draw(t, "run")
			log = append(log, evaluated(run, number[run], newest[run], "a"))
		case kind == 4:
			tag, model := rapid.SampledFrom([]string{"champion", "candidate"}).Draw(t, "tag"), rapid.SampledFrom(made).Draw(t, "tagged")
			log = append(log, tagged(tag, tags[tag], model))
			tags[tag] = model
		default:
			log = append(log, entry.Booted{Simulated: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "root")})
		}
	}
	return log
}

// TestFold: the same facts give the same answers, whether they are folded at once or one at a time with questions in between;
// and the answers agree with each other.
func TestFold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := history(t)
		one, two := registry.New(), registry.New()
		for i, f := range log {
			at := start.Add(time.Duration(i) * time.Second)
			if err := one.Apply(int64(i), at, f); err != nil {
				t.Fatalf("fact %d, %+v: %v", i, f, err)
			}
			agree(t, one)
		}
		for i, f := range log {
			if err := two.Apply(int64(i), start.Add(time.Duration(i)*time.Second), f); err != nil {
				t.Fatalf("fact %d, %+v: %v", i, f, err)
			}
		}
		if !reflect.DeepEqual(one, two) {
			t.Fatalf("two folds differ:\n%s", cmp.Diff(one.Versions(), two.Versions()))
		}
	})
}

// agree compares what an index says in different ways.
func agree(t *rapid.T, x *registry.Index) {
	all := x.Versions()
	newest := map[entry.Digest]registry.Version{}
	for i, v := range all {
		if i > 0 && v.Position <= all[i-1].Position {
			t.Fatalf("versions out of order: %d after %d", v.Position, all[i-1].Position)
		}
		newest[v.Model] = v
	}
	for id, want := range newest {
		for _, text := range append(slices.Clone(want.Tags), id.String(), id.String()[:16]) {
			got, err := x.Resolve(text)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("Resolve(%q) = %+v, %v, want %+v", text, got, err, want)
			}
		}
		line := x.Lineage(id)
		if len(line) == 0 || !reflect.DeepEqual(line[0], want) || !line[len(line)-1].Base.IsZero() {
			t.Fatalf("the lineage of %s does not go from it to a first model: %+v", id.Short(), line)
		}
		for i, v := range line[1:] {
			if before := line[i]; v.Model != before.Base || v.Position >= before.Position || v.Run != before.Run || v.Round != before.Round-1 {
				t.Fatalf("%+v is not what %+v was made from", v, before)
			}
		}
	}
}
