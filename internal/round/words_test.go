package round_test

import (
	"fmt"
	"strings"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
)

// since words an instant by the time since the scenario began.
func since(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return "+" + t.Sub(start).String()
}

// name words a digest, "-" for none.
func (s *script) name(d entry.Digest) string {
	if d.IsZero() {
		return "-"
	}
	if name, ok := s.names[d]; ok {
		return name
	}
	return d.Short()
}

func (s *script) blob(b *entry.Blob) string {
	if b == nil {
		return "-"
	}
	return s.name(b.Plain)
}

func early(why entry.Early) string {
	if why == "" {
		return ""
	}
	return ", early: " + string(why)
}

// fact words a fact in one line.
func (s *script) fact(f entry.Fact) string {
	at := func(run string, number, try int) string { return fmt.Sprintf("%s %d.%d", run, number, try) }
	switch f := f.(type) {
	case entry.ManifestAdopted:
		return fmt.Sprintf("adopted epoch %d, manifest %s", f.Epoch, s.name(f.Manifest))
	case entry.HandedOver:
		return fmt.Sprintf("handed over to the witnesses of epoch %d", f.Epoch)
	case entry.Booted:
		return "booted"
	case entry.RunCreated:
		return fmt.Sprintf("created %s by %s for %v", f.Run, f.Lead, f.Members)
	case entry.Consented:
		return fmt.Sprintf("consented %s %s with %d", f.Run, f.Member, f.Records)
	case entry.Declined:
		return fmt.Sprintf("declined %s %s: %s", f.Run, f.Member, f.Rule)
	case entry.Left:
		return strings.TrimSuffix(fmt.Sprintf("left %s %s: %s", f.Run, f.Member, f.Reason), ": ")
	case entry.RoundOpened:
		return fmt.Sprintf("opened %s %s for %v from %s until %s, off by at most %.3g%s", at(f.Run, f.Round, f.Try), f.Kind, f.Selected,
			s.blob(f.Base), since(f.Deadline), f.Bound, early(f.Early))
	case entry.UpdateAccepted:
		text := fmt.Sprintf("accepted %s %s's %s with %d", at(f.Run, f.Round, f.Try), f.Member, s.name(f.Update), f.Weight)
		if f.Staleness > 0 {
			text += fmt.Sprintf(", %d late", f.Staleness)
		}
		return text
	case entry.UpdateRefused:
		return fmt.Sprintf("refused %s %s's %s: %s", at(f.Run, f.Round, f.Try), f.Member, s.name(f.Update), f.Reason)
	case entry.MasksAgreed:
		return fmt.Sprintf("masks of %s agreed upon by %v", at(f.Run, f.Round, f.Try), f.Members)
	case entry.Unmasking:
		return fmt.Sprintf("unmasking %s of %v%s", at(f.Run, f.Round, f.Try), f.Members, early(f.Early))
	case entry.RoundFailed:
		if f.Spared {
			return fmt.Sprintf("spared %s: %s", at(f.Run, f.Round, f.Try), f.Reason)
		}
		return fmt.Sprintf("failed %s: %s", at(f.Run, f.Round, f.Try), f.Reason)
	case entry.RoundClosed:
		return fmt.Sprintf("closed %s %s from %s with %s%s", at(f.Run, f.Round, f.Try), f.Kind, s.name(f.Base), s.name(f.Model), early(f.Early))
	case entry.Evaluated:
		return fmt.Sprintf("evaluated %s %d by %s: %v", f.Run, f.Round, f.Member, f.Metrics)
	case entry.RunEnded:
		return strings.TrimSuffix(fmt.Sprintf("ended %s %s: %s", f.Run, f.Outcome, f.Reason), ": ") + early(f.Early)
	}
	panic(fmt.Sprintf("no words for %T", f))
}

// action words an action in one line.
func (s *script) action(a round.Action) string {
	switch a := a.(type) {
	case round.Invite:
		return fmt.Sprintf("invite %s to %s of %s", a.Member, a.Run, a.Lead)
	case round.Ask:
		text := fmt.Sprintf("ask %s for %s %d.%d %s with %d from %s", a.Member, a.Run, a.Round, a.Try, a.Kind, a.Weight, s.blob(a.Base))
		if !a.Accepted.IsZero() {
			text += ", accepted was " + s.name(a.Accepted)
		}
		if a.Masked != nil {
			text += fmt.Sprintf(", masked among %v of %v", a.Masked, a.Weights)
		}
		return text
	case round.Mask:
		text := fmt.Sprintf("have %s %s for %s %d.%d", a.Member, []string{"", "announce", "share", "show"}[a.Stage], a.Run, a.Round, a.Try)
		if a.Among != nil {
			text += fmt.Sprintf(" among %v", a.Among)
		}
		if a.In != nil {
			text += fmt.Sprintf(" of %v", a.In)
		}
		return text
	case round.Combine:
		return fmt.Sprintf("combine %s %d.%d %s: %s over %s%s", a.Run, a.Round, a.Try, a.Kind, strings.Join(s.updates(a.Members), " "),
			s.blob(a.Base), early(a.Early))
	case round.Evaluate:
		return fmt.Sprintf("evaluate %s %d by %s: %s", a.Run, a.Round, a.Member, s.name(a.Model))
	case round.Wake:
		return "wake at " + since(a.At)
	}
	panic(fmt.Sprintf("no words for %T", a))
}

// show words the view of a run.
func (s *script) show(run string) {
	r, ok := s.state.Run(run)
	if !ok {
		s.printf("no run %s", run)
		return
	}
	s.printf("%s", strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", run, r.State, r.Reason), ": "))
	for _, m := range r.Members {
		text := strings.TrimSuffix(fmt.Sprintf("%s %s %d %s", m.Member, m.State, m.Records, m.Rule), " ")
		if m.Missed > 0 {
			text += fmt.Sprintf(", missed %d", m.Missed)
		}
		s.printf("  %s", text)
	}
	for _, t := range r.Rounds {
		s.printf("  %d.%d %s %s: opened %s, deadline %s, closed %s, %d bytes, model %s%s", t.Round, t.Try, t.Kind, t.State, since(t.Opened),
			since(t.Deadline), since(t.Closed), t.Received, s.name(t.Model), early(t.Early))
		for _, u := range t.Accepted {
			s.printf("    %s sent %s", u.Member, s.name(u.Update))
		}
		for _, e := range t.Evaluated {
			s.printf("    %s found %v", e.Member, e.Metrics)
		}
	}
}
