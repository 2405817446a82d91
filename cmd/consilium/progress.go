package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"consilium.dev/internal/client"
	"consilium.dev/internal/entry"
)

// progress shows a run that is under way on standard error.
type progress interface {
	show(client.Run)
	note(string) // something that is no news of the run
	end(done bool)
}

// progress returns a bar where standard error is a terminal, lines elsewhere.
func (a *app) progress() progress {
	if a.live {
		return newBar(a)
	}
	return &lines{app: a, said: map[place]bool{}}
}

// place names one try of a round.
type place struct{ round, try int }

// lines says each thing once, in one line: the state, each round with its figures, each round that failed.
type lines struct {
	app     *app
	state   string
	waiting string
	waited  time.Time // when it was said
	said    map[place]bool
}

func (l *lines) note(text string) { l.app.say("%s", name(text)) }

func (l *lines) end(bool) {}

func (l *lines) show(r client.Run) {
	first := l.state == "" // what is over at the first look is history, which run show shows
	for i, x := range r.History {
		if at := (place{x.Round, x.Try}); x.State != "open" && !l.said[at] && (r.Ended() || complete(r, i)) {
			l.said[at] = true
			if !first {
				l.app.say("%s", roundLine(r, x))
			}
		}
	}
	if r.State != l.state {
		l.state = r.State
		l.app.say("run %s, round %d of %d: %s", name(r.Name), r.Round, r.Rounds, name(r.State))
	}
	consent := r.State == "waiting for consent"
	switch {
	case r.Waiting == "" || r.Waiting == l.waiting || !consent && (r.Ended() || !slow(r)):
	case consent && l.waiting == "", r.Now.Sub(l.waited) >= time.Minute: // it names ages, which change by themselves
		l.waiting, l.waited = r.Waiting, r.Now
		l.app.say("%s", name(r.Waiting))
	}
}

// complete reports whether no more figures of the i-th entry of a run's history are to be waited for: it failed, all who
// gave an update have reported, or a later round has been closed already.
func complete(r client.Run, i int) bool {
	x := r.History[i]
	if x.State == "failed" || len(x.Figures) >= len(x.Accepted) {
		return true
	}
	for _, later := range r.History[i+1:] {
		if later.State == "closed" && later.Round > x.Round {
			return true
		}
	}
	return false
}

// roundLine words a round that is over.
func roundLine(r client.Run, x client.Round) string {
	var b strings.Builder
	if x.Kind == string(entry.Statistics) {
		fmt.Fprintf(&b, "round %d, the columns' means and deviations, %s", x.Round, name(x.State))
	} else {
		fmt.Fprintf(&b, "round %d of %d %s", x.Round, r.Rounds, name(x.State))
	}
	if x.Try > 1 {
		fmt.Fprintf(&b, " at try %d", x.Try)
	}
	fmt.Fprintf(&b, ": %d of %d updates", len(x.Accepted), len(x.Selected))
	switch entry.Early(x.Early) {
	case entry.ReportGoal:
		b.WriteString(", which is the report goal")
	case entry.Absent:
		b.WriteString(", the others absent")
	}
	if effects := effectsText(x.Effects); effects != "" {
		b.WriteString(", " + effects)
	}
	b.WriteString(figures(x))
	if !x.Closed.IsZero() {
		fmt.Fprintf(&b, ", %s, %.2f s", bytesText(x.Received), x.Closed.Sub(x.Opened).Seconds())
	}
	return b.String()
}

func figures(x client.Round) string {
	var b strings.Builder
	if loss := over(x.Figures, "train", "loss", "%.4f"); loss != "" {
		b.WriteString(", loss " + loss)
	}
	if accuracy := over(x.Figures, "test", "accuracy", "%.4f"); accuracy != "" {
		b.WriteString(", accuracy " + accuracy)
	}
	return b.String()
}

// bar draws one bar: rounds that are closed, of all.
type bar struct {
	drawing *mpb.Progress
	bar     *mpb.Bar
	title   atomic.Pointer[string] // before the bar
	text    atomic.Pointer[string] // after it
}

func newBar(a *app) *bar {
	b := &bar{}
	b.title.Store(new(string))
	b.text.Store(new(string))
	read := func(p *atomic.Pointer[string]) decor.Decorator {
		return decor.Any(func(decor.Statistics) string { return *p.Load() })
	}
	b.drawing = mpb.New(mpb.WithOutput(a.rawErr))
	b.bar = b.drawing.New(1, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.BarWidth(32), mpb.PrependDecorators(read(&b.title)), mpb.AppendDecorators(read(&b.text)))
	b.bar.EnableTriggerComplete()
	return b
}

func (b *bar) note(text string) {
	text = " " + name(text)
	b.text.Store(&text)
}

func (b *bar) show(r client.Run) {
	closed, latest := 0, ""
	for _, x := range r.History {
		if x.State != "closed" {
			continue
		}
		closed = max(closed, x.Round)
		if f := figures(x); f != "" {
			latest = f
		}
	}
	title := fmt.Sprintf("%s: %s ", name(r.Name), name(r.State))
	text := fmt.Sprintf(" %d of %d%s", closed, r.Rounds, latest)
	if r.Waiting != "" && (r.State == "waiting for consent" || !r.Ended() && slow(r)) {
		text += ", " + name(r.Waiting)
	}
	b.title.Store(&title)
	b.text.Store(&text)
	b.bar.SetTotal(int64(max(r.Rounds, 1)), false)
	b.bar.SetCurrent(int64(closed))
}

// slowRound is how long a round may last before the bar says for whom it waits.
const slowRound = 10 * time.Second

// slow reports whether the open round has lasted so long that a person wants to know whom it waits for.
func slow(r client.Run) bool {
	n := len(r.History)
	return n > 0 && r.Now.Sub(r.History[n-1].Opened) > slowRound
}

// end draws the bar for the last time; one that is not done stays as it is.
func (b *bar) end(done bool) {
	if done {
		b.bar.SetTotal(-1, true)
	} else {
		b.bar.Abort(false)
	}
	b.drawing.Wait()
}
