package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/audit"
	"consilium.dev/internal/client"
	"consilium.dev/internal/entry"
)

// history returns n closed rounds of two members, of which the last has figures of the first member only.
func history(n int) []client.Round {
	var all []client.Round
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range n {
		x := client.Round{
			Round: i, Try: 1, Kind: "training", State: "closed", Selected: []string{"a", "b"}, Accepted: []string{"a", "b"},
			Model: entry.Digest{1}, Opened: begin, Closed: begin.Add(time.Second), Received: 80,
		}
		if i == 0 {
			x.Kind = "statistics"
		}
		for _, m := range []string{"a", "b"} {
			if i < n-1 || m == "a" {
				x.Figures = append(x.Figures, client.Figures{Member: m, Metrics: []entry.Metric{
					{Set: "train", Name: "loss", Value: 0.5, Count: 10}, {Set: "test", Name: "accuracy", Value: 0.75, Count: 4},
				}})
			}
		}
		all = append(all, x)
	}
	return all
}

func TestThinned(t *testing.T) {
	for _, test := range []struct {
		rounds int
		want   []int
	}{
		{3, []int{0, 1, 2}},
		{12, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
		{51, []int{0, 1, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50}},
		{201, []int{0, 1, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200}},
		{64, []int{0, 1, 10, 20, 30, 40, 50, 60, 63}},
	} {
		var got []int
		for _, x := range thinned(history(test.rounds)) {
			got = append(got, x.Round)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("of %d rounds (-want +got):\n%s", test.rounds, diff)
		}
	}
}

// TestLines shows how a run is told where no terminal is: each thing once, each round when its figures are complete or when
// they will not be waited for any more.
func TestLines(t *testing.T) {
	all := history(4)
	run := func(state string, rounds []client.Round) client.Run {
		r := client.Run{Summary: client.Summary{ID: "1", Name: "heart", State: state, Rounds: 3}, History: rounds}
		if n := len(rounds); n > 0 {
			r.Round = rounds[n-1].Round
		}
		return r
	}
	open := all[1]
	open.State, open.Figures = "open", nil
	failed := all[1]
	failed.State, failed.Accepted, failed.Figures, failed.Try, failed.Closed = "failed", []string{"a"}, nil, 1, time.Time{}
	second := all[1]
	second.Try = 2
	waiting := run("waiting for consent", nil)
	waiting.Waiting = "waiting for a\x1b[2J"

	var out bytes.Buffer
	l := &lines{app: &app{errOut: &out}, said: map[place]bool{}}
	for _, r := range []client.Run{
		waiting, waiting,
		run("training", []client.Round{all[0]}),
		run("training", []client.Round{all[0], open}),
		run("training", []client.Round{all[0], failed, second, all[2]}),
		run("evaluating", []client.Round{all[0], failed, second, all[2], all[3]}), // a's figures are there, b's are not
		run("completed", []client.Round{all[0], failed, second, all[2], all[3]}),
	} {
		l.show(r)
	}
	want := `run heart, round 0 of 3: waiting for consent
waiting for a\x1b[2J
round 0, the columns' means and deviations, closed: 2 of 2 updates, loss 0.5000, accuracy 0.7500, 80 B, 1.00 s
run heart, round 0 of 3: training
round 1 of 3 failed: 1 of 2 updates
round 1 of 3 closed at try 2: 2 of 2 updates, loss 0.5000, accuracy 0.7500, 80 B, 1.00 s
round 2 of 3 closed: 2 of 2 updates, loss 0.5000, accuracy 0.7500, 80 B, 1.00 s
run heart, round 3 of 3: evaluating
round 3 of 3 closed: 2 of 2 updates, loss 0.5000, accuracy 0.7500, 80 B, 1.00 s
run heart, round 3 of 3: completed
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
}

func TestLinesOfALateWatcher(t *testing.T) {
	var out bytes.Buffer
	l := &lines{app: &app{errOut: &out}, said: map[place]bool{}}
	r := client.Run{Summary: client.Summary{Name: "heart", State: "training", Round: 2, Rounds: 5}, History: history(3)[:2]}
	l.show(r)
	r.History = history(4)[:3]
	l.show(r)
	want := "run heart, round 2 of 5: training\nround 2 of 5 closed: 2 of 2 updates, loss 0.5000, accuracy 0.7500, 80 B, 1.00 s\n"
	if out.String() != want {
		t.Errorf("lines = %q, want %q", out.String(), want)
	}
}

// TestManyMembers keeps a table of thirty members readable.
func TestManyMembers(t *testing.T) {
	r := client.Run{History: history(2)}
	for i := range 30 {
		r.History[0].Figures = append(r.History[0].Figures, client.Figures{Member: fmt.Sprintf("member-%02d", i)})
	}
	text := roundsTable(r, false).Render()
	if strings.Contains(text, "MEMBER-07") || !strings.Contains(text, "ALL") {
		t.Errorf("a table of 32 members is\n%s", text)
	}
	widest := slices.Max(widths(text))
	if widest > 100 {
		t.Errorf("it is %d characters wide", widest)
	}
}

func widths(text string) []int {
	var all []int
	for line := range strings.Lines(text) {
		all = append(all, len([]rune(line)))
	}
	return all
}

// TestLate: whose update came late stands beside what a strategy did with updates.
func TestLate(t *testing.T) {
	r := client.Run{History: history(4)}
	r.History[1].Late = []client.Late{{Member: "b", Rounds: 2}}
	r.History[2].Late = []client.Late{{Member: "a", Rounds: 1}, {Member: "b", Rounds: 3}}
	r.History[2].Effects = []client.Effect{{Member: "a", Effect: "clipped"}}
	for i := range 9 {
		r.History[3].Late = append(r.History[3].Late, client.Late{Member: fmt.Sprint("m", i), Rounds: 9 - i})
	}
	text := roundsTable(r, false).Render()
	for _, want := range []string{"STRATEGY", "│ late: b by 2 ", "│ clipped: a; late: a by 1, b by 3 ", "│ late: 9 by up to 9 "} {
		if !strings.Contains(text, want) {
			t.Errorf("rounds with late updates are\n%s\nwant %q", text, want)
		}
	}
}

// TestEffects: what a strategy did with updates is said of rounds, members and runs, and not at all where it did nothing.
func TestEffects(t *testing.T) {
	r := client.Run{History: history(4)}
	if text := roundsTable(r, false).Render(); strings.Contains(text, "STRATEGY") {
		t.Errorf("rounds of a mean are\n%s", text)
	}
	r.History[1].Effects = []client.Effect{{Member: "a", Effect: "clipped"}, {Member: "b", Effect: "left_out"}}
	r.History[3].Effects = []client.Effect{{Member: "a", Effect: "reference"}, {Member: "b", Effect: "left_out"}}
	if text := roundsTable(r, false).Render(); !strings.Contains(text, "│ clipped: a; left out: b ") {
		t.Errorf("rounds of a strategy that judges are\n%s", text)
	}
	all := tallied(r.History)
	for member, want := range map[string]string{"a": "clipped 1 of 3, the reference 1 of 3", "b": "left out 2 of 3", "c": ""} {
		if got := all.of(member); got != want {
			t.Errorf("of %s: %q, want %q", member, got, want)
		}
	}
	if got, want := contributors([]string{"a", "b"}, r.History[1].Effects[1:]), "a, b (left out)"; got != want {
		t.Errorf("contributors are %q, want %q", got, want)
	}
	many := make([]client.Effect, 9)
	for i := range many {
		many[i] = client.Effect{Member: fmt.Sprint("m", i), Effect: "left_out"}
	}
	if got, want := effectsText(many), "left out: 9"; got != want {
		t.Errorf("of nine: %q, want %q", got, want)
	}
	var models []audit.Model
	for i := range 25 {
		models = append(models, audit.Model{Run: fmt.Sprint(i), Round: 1, RunName: "heart", Members: []string{"a"}, Effects: []audit.Effect{{Member: "a", Effect: "clipped"}}})
	}
	if text := effectsTable(models).Render(); strings.Count(text, "clipped 1 of 1") != 20 || !strings.Contains(text, "5 older runs") {
		t.Errorf("25 runs are\n%s", text)
	}
	if effectsTable([]audit.Model{{Run: "1", Round: 1, Members: []string{"a"}}}) != nil {
		t.Error("a run with a mean has a table of what became of its updates")
	}
}
