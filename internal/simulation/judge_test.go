package simulation_test

import (
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/witness"
)

// judge knows everything, and holds what happens against what is promised.
type judge struct {
	world    *world
	updates  map[entry.Digest]*update // all that were ever trained
	judged   map[[32]byte]bool        // root hashes up to closings whose mean was taken again
	shown    map[entry.Digest]bool    // models that somebody was told of
	history  chain                    // the longest that was released
	size     int64                    // of it
	cosigned []cosigned
	wills    map[entry.Member]*will
	words    map[*council]map[entry.Member]saying // that have come to them
	hidden   map[uint64]hidden                    // by the keys whose masks it has
	kinds    map[holding]bool                     // of the shares that were shown: whether they are the self seed's
}

// cosigned is a head that a witness has put its name to.
type cosigned struct {
	by   entry.Member
	head witness.Head
}

func (j *judge) released() int64 { return j.size }

// step looks at what is in the coordinators' memories: no update of a try that has ended.
func (j *judge) step() {
	for _, c := range j.world.councils {
		for _, s := range c.sums {
			if c.audit.open[s.run] != (try{s.round, s.try}) {
				j.world.fail("%s holds updates of round %d, try %d, of %s, which is not open", c.name, s.round, s.try, s.run)
			}
		}
	}
}

// mayAppend checks that a quorum of each set of witnesses had shown a coordinator what they keep when it began to append, and that its
// log begins with that.
func (j *judge) mayAppend(c *council) {
	if c.stood {
		return
	}
	c.stood = true
	for _, set := range c.must {
		stand := 0
		for _, name := range set.Names {
			if head, ok := c.shown[entry.Member(name)]; ok && c.log.begins(head) {
				stand++
			}
		}
		if stand < set.Quorum {
			j.world.fail("%s appends, and %d of the %d witnesses needed have shown that its log is the newest", c.name, stand, set.Quorum)
		}
	}
}

// decide returns the sets of witnesses that have to cosign a head of a log, and how many lines of it need nobody: found out a second
// time, line by line. A set decides from its adoption on until a later one has taken over.
func decide(lines []line) (sets []witness.Set, free int64) {
	for i, l := range lines {
		switch f := l.fact.(type) {
		case entry.ManifestAdopted:
			set, err := witness.ParseSet(f.Epoch, f.Witnesses)
			switch {
			case err != nil:
				panic(err)
			case set.Nobody():
			case len(sets) == 0:
				sets, free = []witness.Set{set}, int64(i)
			case !sets[len(sets)-1].Same(set):
				sets = append(sets, set)
			}
		case entry.HandedOver:
			sets = sets[len(sets)-1:]
		}
	}
	if len(sets) == 0 {
		free = int64(len(lines))
	}
	return sets, free
}

// sees checks a model that somebody is told of: the fact that made it, with the privacy that it cost, is durable, and released
// where there are witnesses.
func (j *judge) sees(c *council, m entry.Digest) {
	if m.IsZero() {
		return
	}
	at, ok := c.audit.models[m]
	_, free := decide(c.log.lines)
	switch {
	case !ok || at >= c.d.log.size():
		j.world.fail("%s shows model %s, which no fact has made", c.name, m.Short())
	case c.audit.closed[m] && at >= max(j.size, free):
		j.world.fail("%s shows model %s of line %d, and %d lines are released", c.name, m.Short(), at, j.size)
	}
	j.shown[m] = true
}

// acknowledged checks that what a member is told is history.
func (j *judge) acknowledged(c *council, in round.Offer) {
	if c.audit.accepted[accepted{in.Run, try{in.Round, in.Try}, in.Member}] != in.Update {
		j.world.fail("%s tells %s that its update was accepted, and no line says so", c.name, in.Member)
	}
}

// cosigns notes what a witness puts its name to.
func (j *judge) cosigns(m *member, log chain, h witness.Head) {
	if !log.begins(h) {
		j.world.fail("%s cosigns what is not of the log that it was shown", m.name)
	}
	j.cosigned = append(j.cosigned, cosigned{m.name, h})
}

// releases checks that a quorum has cosigned what is released, and that it goes on with what was released before, or is a part
// of that: there is one history.
func (j *judge) releases(c *council, h witness.Head) {
	names := map[entry.Member]bool{}
	for _, s := range j.cosigned {
		if s.head == h {
			names[s.by] = true
		}
	}
	sets, _ := decide(c.log.lines[:h.Size])
	for _, set := range c.newest(sets) {
		by := 0
		for _, name := range set.Names {
			if names[entry.Member(name)] {
				by++
			}
		}
		if by < set.Quorum {
			j.world.fail("%s releases %d lines that %d of the %d witnesses needed of epoch %d have cosigned", c.name, h.Size, by, set.Quorum, set.Epoch)
		}
	}
	n := min(h.Size, j.size)
	if c.log.root(n) != j.history.root(n) {
		j.world.fail("%s releases another history: %d lines, and %d were released before", c.name, h.Size, j.size)
	}
	if h.Size > j.size {
		j.history, j.size = c.log.clip(), h.Size
	}
}

// last compares the state with its replay, and the log with what was released.
func (j *judge) last() {
	c := j.world.councils[0]
	if c.log.root(j.size) != j.history.root(j.size) {
		j.world.fail("the last log does not begin with the %d lines that were released", j.size)
	}
	again := round.New()
	for i, l := range c.d.log.lines {
		if err := again.Apply(l.at, l.fact); err != nil {
			j.world.fail("replaying line %d: %v", i, err)
		}
	}
	if got, want := c.state.Runs(), again.Runs(); !reflect.DeepEqual(got, want) && j.world.fault == "" {
		j.world.fail("the state differs from its replay:\n%s", cmp.Diff(got, want))
	}
}

// try names one try of a round.
type try struct{ round, try int }

type accepted struct {
	run string
	try
	member entry.Member
}

// audit holds the promises of one log, written down a second time without the machine.
type audit struct {
	plans    map[string]entry.RunCreated
	weights  map[string]map[entry.Member]int64
	newest   map[string]entry.Digest // model
	last     map[string]int          // closed round
	open     map[string]try
	over     map[string]string // outcome
	accepted map[accepted]entry.Digest
	selected map[string][]entry.Member        // of the open try
	left     map[string]map[entry.Member]bool // by its own word, or since a manifest does not name it
	refused  map[accepted]int
	late     map[accepted]int                // by how many rounds
	counted  map[string]map[entry.Member]int // newest round whose model has an update of the member
	asked    map[accepted]bool               // who was selected for which round; of no try
	models   map[entry.Digest]int64          // lines that made them
	closed   map[entry.Digest]bool           // those of them that a round made
	size     int64
	epoch    int // of the manifest, counted from 1

	// Of the open try.
	masked, unmasking map[string][]entry.Member
	lost              map[string]bool // what was said of its masks
}

func newAudit(w *world) audit {
	return audit{
		plans: map[string]entry.RunCreated{}, weights: map[string]map[entry.Member]int64{}, newest: map[string]entry.Digest{},
		last: map[string]int{}, open: map[string]try{}, over: map[string]string{}, accepted: map[accepted]entry.Digest{},
		selected: map[string][]entry.Member{}, left: map[string]map[entry.Member]bool{}, refused: map[accepted]int{},
		late: map[accepted]int{}, counted: map[string]map[entry.Member]int{}, asked: map[accepted]bool{},
		models: map[entry.Digest]int64{}, closed: map[entry.Digest]bool{},
		masked: map[string][]entry.Member{}, unmasking: map[string][]entry.Member{}, lost: map[string]bool{},
	}
}

func (a *audit) read(c *council, l line) error {
	a.size++
	switch f := l.fact.(type) {
	case entry.ManifestAdopted:
		if want := a.epoch + 1; a.epoch > 0 && int(f.Epoch) != want {
			return fmt.Errorf("epoch %d follows %d", f.Epoch, a.epoch)
		}
		a.epoch = int(f.Epoch)
		for run, members := range a.weights {
			for m := range members {
				if !slices.Contains(f.Members, m) {
					a.left[run][m] = true
				}
			}
		}
	case entry.RunCreated:
		a.plans[f.Run], a.newest[f.Run], a.last[f.Run], a.weights[f.Run] = f, f.Model, -1, map[entry.Member]int64{}
		a.left[f.Run], a.counted[f.Run] = map[entry.Member]bool{}, map[entry.Member]int{}
		if f.Plan.Standardize == nil {
			a.last[f.Run] = 0
			a.made(f.Model, false)
		}
	case entry.Consented:
		a.weights[f.Run][f.Member] = f.Records
	case entry.Left:
		a.left[f.Run][f.Member] = true
	case entry.UpdateRefused:
		a.refused[accepted{f.Run, try{f.Round, f.Try}, f.Member}]++
	case entry.RoundOpened:
		a.selected[f.Run] = nil
		for _, s := range f.Selected {
			if a.left[f.Run][s.Member] {
				return fmt.Errorf("%s is asked, and has left", s.Member)
			}
			a.selected[f.Run] = append(a.selected[f.Run], s.Member)
			a.asked[accepted{f.Run, try{f.Round, 0}, s.Member}] = true
		}
		if a.over[f.Run] != "" || a.open[f.Run] != (try{}) || f.Round != a.last[f.Run]+1 || f.Model != a.newest[f.Run] {
			return fmt.Errorf("opened after round %d", a.last[f.Run])
		}
		a.open[f.Run] = try{f.Round, f.Try}
		a.masked[f.Run], a.unmasking[f.Run], a.lost[f.Run] = nil, nil, false
	case entry.Booted:
		for run := range a.open {
			a.lost[run] = true
		}
	case entry.MasksAgreed:
		return a.agreed(f)
	case entry.Unmasking:
		return a.unmasked(f)
	case entry.UpdateAccepted:
		if !a.hides(f) {
			return fmt.Errorf("accepted of %s, which has no masks, or while they come off, or after they are lost", f.Member)
		}
		key := accepted{f.Run, try{f.Round, f.Try}, f.Member}
		if _, twice := a.accepted[key]; twice || a.open[f.Run] != key.try || a.weights[f.Run][f.Member] != f.Weight {
			return errors.New("accepted twice, out of its try, or with another weight than declared")
		}
		if !slices.Contains(c.charter().limits.Members, f.Member) {
			return errors.New("accepted of somebody whom the manifest does not name")
		}
		if a.left[f.Run][f.Member] {
			return fmt.Errorf("accepted of %s, which has left", f.Member)
		}
		base := f.Round - f.Staleness
		if f.Staleness != 0 && (f.Staleness < 0 || base < 1 || f.Staleness > bufferOf(a.plans[f.Run].Plan, entry.Training).MaxStaleness()) {
			return fmt.Errorf("accepted of %s %d rounds late", f.Member, f.Staleness)
		}
		if n, counts := a.counted[f.Run][f.Member]; counts && base <= n || !a.asked[accepted{f.Run, try{base, 0}, f.Member}] {
			return fmt.Errorf("accepted of %s with the base of round %d, and one of round %d counts, or it was not asked", f.Member, base, n)
		}
		a.accepted[key], a.late[key] = f.Update, f.Staleness
	case entry.RoundFailed:
		delete(a.open, f.Run)
	case entry.RoundClosed:
		return a.close(c, f)
	case entry.RunEnded:
		if a.over[f.Run] != "" {
			return errors.New("ended twice")
		}
		_, free := decide(c.log.lines)
		if m := a.newest[f.Run]; strings.HasPrefix(f.Reason, "it took longer") && a.closed[m] && a.models[m] >= max(c.w.judge.size, free) {
			return errors.New("ended by its longest time while its newest closing is withheld")
		}
		a.over[f.Run] = f.Outcome
		delete(a.open, f.Run)
	}
	return nil
}

// made notes which line has made a model.
func (a *audit) made(m entry.Digest, closed bool) {
	if _, known := a.models[m]; !known {
		a.models[m], a.closed[m] = a.size-1, closed
	}
}

// close holds a closing against the accepted updates: a quorum of them, each once, and their exact mean.
func (a *audit) close(c *council, f entry.RoundClosed) error {
	plan := a.plans[f.Run].Plan
	if a.open[f.Run] != (try{f.Round, f.Try}) || f.Base != a.newest[f.Run] {
		return errors.New("closed out of its try, or from another base")
	}
	if plan.Masks && (a.lost[f.Run] || !slices.EqualFunc(f.Members, a.unmasking[f.Run], func(c entry.Contribution, m entry.Member) bool { return c.Member == m })) {
		return fmt.Errorf("closed with others than masks come off the sum of, %v, or after they are lost", a.unmasking[f.Run])
	}
	goal := max(plan.ReportGoal, bufferOf(plan, f.Kind).Size())
	if len(f.Members) < plan.Quorum || f.Early == entry.ReportGoal && (goal == 0 || len(f.Members) < goal) {
		return fmt.Errorf("closed with %d updates, %d are a quorum", len(f.Members), plan.Quorum)
	}
	for i, m := range f.Members {
		key := accepted{f.Run, try{f.Round, f.Try}, m.Member}
		got, ok := a.accepted[key]
		if !ok || got != m.Update || a.late[key] != m.Staleness || a.weights[f.Run][m.Member] != m.Weight || i > 0 && f.Members[i-1].Member >= m.Member {
			return fmt.Errorf("%s counts twice, with another weight, or with what was not accepted", m.Member)
		}
	}
	root := c.d.log.root(a.size)
	if !c.w.judge.judged[root] {
		if err := c.w.judge.mean(c.d, f, bufferOf(plan, f.Kind)); err != nil {
			return err
		}
		c.w.judge.judged[root] = true
	}
	for _, m := range f.Members {
		if f.Kind == entry.Training {
			a.counted[f.Run][m.Member] = f.Round
		}
	}
	delete(a.open, f.Run)
	a.newest[f.Run], a.last[f.Run] = f.Model, f.Round
	a.made(f.Model, true)
	return nil
}

// mean takes the mean of what was accepted in whole numbers, and compares the model that was made.
func (j *judge) mean(d *disk, f entry.RoundClosed, b aggregate.Buffer) error {
	values, ok := d.models[f.Blob.Plain]
	if !ok || digestOf(values) != f.Model {
		return errors.New("its model is not durable")
	}
	total, sums := int64(0), make([]int64, vector)
	for _, m := range f.Members {
		u := j.updates[m.Update]
		if u == nil {
			return fmt.Errorf("nobody has trained the update of %s", m.Member)
		}
		weight, counted := b.Weigh(m.Weight, m.Staleness)
		total += int64(counted)
		for i, v := range u.values {
			sums[i] += int64(weight) * int64(v*64)
		}
	}
	mean := make([]float64, vector)
	for i, s := range sums {
		mean[i], _ = big.NewRat(s, 64*total).Float64()
	}
	if want := step(f.Kind, d.models[f.Base], mean); !slices.Equal(values, want) {
		return fmt.Errorf("its model is %v, the exact mean gives %v", values, want)
	}
	return nil
}
