package round

import (
	"fmt"
	"slices"
	"time"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/mask"
)

// Masks. Under a plan with masks a try goes through stages: those selected announce keys; those who have hand each other shares of what their
// masks are made of; from the fact that this is so on they train and send, masked; and when no more updates are waited for, the fact that
// says whose are in the sum comes before anybody is asked for the shares that take the masks off. What was announced, handed over and
// shown lies in memory, as updates do: a boot ends the try, and in the next one all is drawn anew.

// Stage is what a member is asked for, about the masks of a try.
type Stage int

// The stages in which something is asked for.
const (
	Announce Stage = iota + 1 // its public keys
	Share                     // a share for each of the others
	Show                      // of each of the others, one of the two kinds of shares that it was handed
)

// Veil is what memory knows of the masks of one try. All lists are ascending.
type Veil struct {
	Announced []entry.Member // whose keys are there
	Among     []entry.Member // who was asked first to share, and so between whom the masks are; nil while nobody was
	Shared    []entry.Member // of these, who has
	Shown     []entry.Member // who has shown what it was handed
	Wrong     int            // so many had shown it when the masks did not come off by that, 0 for never
	Why       string         // in words, where they did not
}

// Veils says what is known of the masks of a try. A nil Veils knows nothing.
type Veils func(run string, round, try int) Veil

func (v Veils) of(t *try) Veil {
	if v == nil {
		return Veil{}
	}
	return v(t.fact.Run, t.fact.Round, t.fact.Try)
}

type (
	// Mask asks a member for what the masks of a try need of it. Among does not change once it was asked for with [Share]: the caller
	// gives it back as Veil.Among.
	Mask struct {
		Run        string
		Lead       string
		Round, Try int
		Stage      Stage
		Member     entry.Member
		Among      []entry.Member // from Share on; the masks are between those of them who shared
		In         []entry.Member // in Show: whose updates are in the sum; the others who share masks have sent none
		Plan       entry.Plan
	}
	// Veiled asks whether a member may answer a Mask. No fact follows.
	Veiled struct {
		Run        string
		Round, Try int
		Stage      Stage
		Member     entry.Member
	}
	// Spoil ends a try of which nothing can be made: what is left when its masks have come off is no sum of updates, or its model has values that
	// are not finite. Only who combines can see that.
	Spoil struct {
		Run        string
		Round, Try int
		Reason     string
	}
)

func (Mask) action()  {}
func (Veiled) input() {}
func (Spoil) input()  {}

// CheckMasks reports why no rounds with masks can be made of a plan for so many members; 0 members: not yet known.
func CheckMasks(p entry.Plan, members int) error {
	if !p.Masks {
		return nil
	}
	if members > 0 {
		if err := mask.Check(members, p.Quorum); err != nil {
			return fmt.Errorf("masks: %w", err)
		}
	}
	if p.Privacy != nil && !p.PerRecord() {
		return fmt.Errorf("masks in a run with privacy of unit %s, whose updates are clipped where they are added up; unit %s would do", p.Privacy.Unit, entry.Record)
	}
	if p.Encoding != "" {
		return fmt.Errorf("masks with the encoding %.32s: a masked update has no fewer bytes for it", p.Encoding)
	}
	if s, err := aggregate.NewStrategy(p.Strategy.Name, p.Strategy.Params); err == nil && (s.Gathers() || s.Clips() || s.Member() != "") {
		return fmt.Errorf("masks with strategy %s, which has to see each update by itself", s.Name())
	}
	return nil
}

// stage returns what members are asked for now, 0 where it is their updates or where nothing is masked.
func (r *run) stage(t *try, v Veil) Stage {
	switch {
	case !r.fact.Plan.Masks:
		return 0
	case t.unmasking != nil:
		return Show
	case t.masked != nil:
		return 0
	case v.Among != nil:
		return Share
	}
	return Announce
}

// Where a try's masks are not complete, whoever is missing is waited for until a part of the try's time has passed: a quarter for the keys, half
// for the shares. The rest is for the updates.
func (t *try) until(stage Stage) time.Time {
	return t.opened.Add(t.fact.Deadline.Sub(t.opened) * time.Duration(stage) / 4)
}

// gathered reports whether those who are there are all that is waited for, of the members who are asked.
func (s *State) gathered(now time.Time, r *run, asked, there []entry.Member, until time.Time, seen Seen) bool {
	missing := r.missing(asked, there)
	return len(there) >= r.fact.Plan.Quorum && (len(missing) == 0 || !now.Before(until) || s.allAway(now, r, missing, seen))
}

// missing returns who of those asked is not there and has not left the run.
func (r *run) missing(asked, there []entry.Member) []entry.Member {
	var out []entry.Member
	for _, m := range asked {
		if !slices.Contains(there, m) && r.member(m).State != left {
			out = append(out, m)
		}
	}
	return out
}

// selected returns who was asked for an update.
func (t *try) selected() []entry.Member {
	var out []entry.Member
	for _, share := range t.fact.Selected {
		out = append(out, share.Member)
	}
	return out
}

// veil returns what is wanted of the members about the masks of an open try, and when something follows from time alone. It is nothing
// while their updates are waited for.
func (s *State) veil(now time.Time, r *run, t *try, v Veil, seen Seen) (out []Action, wake []time.Time) {
	stage := r.stage(t, v)
	var asked, among, in []entry.Member
	switch stage {
	case Announce:
		asked = r.missing(t.selected(), v.Announced)
		wake = []time.Time{t.until(stage), s.lapse(now, r, asked, seen), t.deadline}
		if s.gathered(now, r, t.selected(), v.Announced, t.until(stage), seen) {
			stage, among, asked = Share, v.Announced, v.Announced
		}
	case Share:
		among, asked = v.Among, r.missing(v.Among, v.Shared)
		wake = []time.Time{t.until(stage), s.lapse(now, r, asked, seen), t.deadline}
	case Show:
		among, in, asked = v.Among, t.unmasking, r.missing(t.unmasking, v.Shown)
		wake = []time.Time{t.deadline}
	}
	f := t.fact
	for _, m := range asked {
		out = append(out, Mask{
			Run: f.Run, Lead: r.fact.Lead, Round: f.Round, Try: f.Try, Stage: stage, Member: m, Among: among, In: in, Plan: r.fact.Plan,
		})
	}
	for i, at := range wake { // what has passed brought what it could
		if !at.After(now) {
			wake[i] = time.Time{}
		}
	}
	return out, wake
}

// unveiled reports whether so many have shown what they hold that the masks come off a try's sum, as far as is known: where they did not by
// what some had shown, as shares were wrong, more have to have.
func (s *State) unveiled(r *run, t *try, v Veil) bool {
	if t.unmasking == nil || len(v.Shown) < r.fact.Plan.Quorum || len(v.Shown) <= v.Wrong {
		return false
	}
	if len(v.Among) <= mask.MaxHolders {
		return true // each holds shares of all
	}
	g, err := mask.NewGraph(len(v.Among), r.fact.Plan.Quorum, s.maskTry(t).GraphSeed())
	if err != nil {
		return false // it was asked for with these members, so there is one
	}
	for i, m := range v.Among {
		if !slices.Contains(t.masked, m) {
			continue
		}
		shown := 0
		for _, j := range g.Holders(i) {
			if slices.Contains(v.Shown, v.Among[j]) {
				shown++
			}
		}
		if shown < g.Threshold() {
			return false
		}
	}
	return true
}

// hopeless reports whether too few of those whose updates are in the sum are left who could show what they hold.
func (r *run) hopeless(t *try, v Veil) bool {
	missing := len(r.missing(t.unmasking, v.Shown))
	return missing == 0 || len(v.Shown)+missing < r.fact.Plan.Quorum
}

// maskTry names a try as its masks do.
func (s *State) maskTry(t *try) mask.Try {
	return mask.Try{Manifest: s.manifest.Manifest, Run: t.fact.Run, Round: t.fact.Round, Try: t.fact.Try}
}

// masks returns the facts that lead from one stage of a try's masks to the next, or that end it.
func (s *State) masks(now time.Time, r *run, t *try, held Held, seen Seen, v Veil) []entry.Fact {
	f, late, quorum := t.fact, !now.Before(t.deadline), r.fact.Plan.Quorum
	switch stage := r.stage(t, v); {
	case !r.fact.Plan.Masks:
		return nil
	case t.lost:
		return facts(entry.RoundFailed{
			Run: f.Run, Round: f.Round, Try: f.Try, Reason: "the coordinator was started again, and the masks were in memory", Spared: true,
		})
	case stage == Announce && late:
		return r.fails(t, fmt.Sprintf("%d of the %d members needed had announced the keys of their masks at the deadline; missing: %s",
			len(v.Announced), quorum, listed(r.missing(t.selected(), v.Announced))))
	case stage == Share && s.gathered(now, r, v.Among, v.Shared, t.until(stage), seen):
		return facts(entry.MasksAgreed{Run: f.Run, Round: f.Round, Try: f.Try, Members: v.Shared})
	case stage == Share && late:
		return r.fails(t, fmt.Sprintf("%d of the %d members needed had shared what their masks are made of at the deadline; missing: %s",
			len(v.Shared), quorum, listed(r.missing(v.Among, v.Shared))))
	case stage == Show && !s.unveiled(r, t, v) && (late || r.hopeless(t, v)):
		missing := listed(r.missing(t.unmasking, v.Shown))
		if v.Wrong > 0 {
			return r.fails(t, fmt.Sprintf("the masks do not come off the sum by what %d members have shown: %s; missing: %s", v.Wrong, v.Why, missing))
		}
		if !late {
			return r.fails(t, fmt.Sprintf("%d of the %d members needed have shown the shares that take the masks off the sum, and of the others too many have left: %s",
				len(v.Shown), quorum, listed(r.who(left))))
		}
		return r.fails(t, fmt.Sprintf("%d of the %d members needed have shown the shares that take the masks off the sum, in one more deadline; missing: %s",
			len(v.Shown), quorum, missing))
	case stage != 0:
		return nil
	}
	p := r.progress(t, held)
	early, ready := s.ready(now, r, t, p, seen)
	if !ready {
		return nil
	}
	u := entry.Unmasking{Run: f.Run, Round: f.Round, Try: f.Try, Early: early}
	for _, c := range p.held {
		u.Members = append(u.Members, c.Member)
	}
	return facts(u)
}

// veiledInput judges who answers a Mask: somebody who is asked, in a stage that is not over.
func (s *State) veiledInput(in Veiled) error {
	t, err := s.try(in.Run, in.Round, in.Try)
	if err != nil {
		return err
	}
	r := s.byID[in.Run]
	_, asked := t.share(in.Member)
	open := r.fact.Plan.Masks && !t.lost
	switch in.Stage {
	case Announce, Share:
		open = open && t.masked == nil
	case Show:
		asked = asked && slices.Contains(t.unmasking, in.Member)
	default:
		open = false
	}
	switch {
	case !open:
		return fmt.Errorf("%w: the masks of %s are not at that stage", ErrClosed, t)
	case !asked || r.member(in.Member).State == left:
		return fmt.Errorf("%w: %s, in %s", ErrStranger, in.Member, t)
	}
	return nil
}

// spoil ends a try by the word of who combines.
func (s *State) spoil(in Spoil) ([]entry.Fact, error) {
	t, err := s.try(in.Run, in.Round, in.Try)
	if err != nil {
		return nil, err
	}
	r := s.byID[in.Run]
	if !r.combinable(t) {
		panic("round: nothing is made of a try that cannot be combined")
	}
	out := r.fails(t, in.Reason)
	f := out[0].(entry.RoundFailed)
	f.Unmade = true
	out[0] = f
	return out, nil
}

// combinable reports whether a model may be being made of an open try: enough updates are there, and their masks are coming off if they have any.
func (r *run) combinable(t *try) bool {
	return len(t.accepted) >= r.fact.Plan.Quorum && (!r.fact.Plan.Masks || t.unmasking != nil)
}

func (s *State) masksAgreed(f entry.MasksAgreed) error {
	t, err := s.try(f.Run, f.Round, f.Try)
	if err != nil {
		return err
	}
	r := s.byID[f.Run]
	if !r.fact.Plan.Masks || t.masked != nil || t.lost || len(f.Members) < r.fact.Plan.Quorum {
		return fmt.Errorf("masks of %s are agreed upon that has none, or has them already, or by fewer than a quorum", t)
	}
	for i, m := range f.Members {
		if _, ok := t.share(m); !ok || i > 0 && f.Members[i-1] >= m {
			return fmt.Errorf("masks of %s are agreed upon with %s, who was not selected, or out of order", t, m)
		}
	}
	t.masked = f.Members
	return nil
}

func (s *State) unmasking(at time.Time, f entry.Unmasking) error {
	t, err := s.try(f.Run, f.Round, f.Try)
	if err != nil {
		return err
	}
	r := s.byID[f.Run]
	if t.masked == nil || t.unmasking != nil || t.lost || len(f.Members) < r.fact.Plan.Quorum {
		return fmt.Errorf("%s is unmasked before there are masks, twice, or for fewer than a quorum", t)
	}
	var members []entry.Contribution
	for i, m := range f.Members {
		if _, ok := t.of(m); !ok || i > 0 && f.Members[i-1] >= m {
			return fmt.Errorf("%s is unmasked with %s, whose update was not accepted, or out of order", t, m)
		}
		members = append(members, entry.Contribution{Member: m})
	}
	if !r.early(t, f.Early, members) {
		return fmt.Errorf("%s is unmasked early for a reason that its plan does not know", t)
	}
	t.unmasking, t.early = f.Members, f.Early
	t.deadline = at.Add(time.Duration(r.fact.Plan.Deadline))
	return nil
}

// masks reports whether a member's update may be in a try: where there are masks, they are agreed upon with it, and do not come off yet.
func (r *run) masks(t *try, m entry.Member) bool {
	return !r.fact.Plan.Masks || t.unmasking == nil && slices.Contains(t.masked, m)
}

// unmasked reports whether a try's sum is one of these members, where it was masked. What a boot has lost nobody can have unmasked.
func (r *run) unmasked(t *try, members []entry.Contribution, early entry.Early) bool {
	return !r.fact.Plan.Masks || !t.lost && early == t.early && slices.EqualFunc(members, t.unmasking, func(c entry.Contribution, m entry.Member) bool { return c.Member == m })
}
