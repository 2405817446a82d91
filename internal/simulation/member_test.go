package simulation_test

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/round"
	"consilium.dev/internal/witness"
)

// member is a participant with its own disk. It may be a witness too.
type member struct {
	w         *world
	name      entry.Member
	up        bool
	records   int64
	forgetful bool // its memory as a witness may be rolled back

	calls int // that it has made

	// On its disk.
	kept   []*update
	masks  map[maskTry]*maskRecord
	paused bool           // by its administrator
	left   []string       // runs, by its administrator
	head   witness.Head   // newest that it has cosigned
	heads  []witness.Head // all of them: what the disk once was
}

// update is what a member has trained.
type update struct {
	run    string
	round  int
	base   entry.Digest
	weight int64
	values []float32
	digest entry.Digest

	garbage bool // masked, it is no update
}

// digestOf names a model.
func digestOf(values []float32) entry.Digest {
	text := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(text[4*i:], math.Float32bits(v))
	}
	return sha256.Sum256(text)
}

// call connects to a coordinator, if there is one, says what this member does and which runs it has left, and shows what this witness
// keeps.
func (m *member) call() {
	c := m.w.reach(string(m.name))
	if !m.up || c == nil {
		return
	}
	kept := m.head
	m.calls++
	t := saying{number: m.calls, follows: true, paused: m.paused}
	m.w.send(string(m.name), c.name, func() {
		c.show(m, kept)
		c.tell(m, t)
	})
	for _, run := range m.left {
		m.say(c, round.Leave{Run: run, Member: m.name})
	}
}

// hear does what is wanted of this member. It hears of it again while it is wanted.
func (m *member) hear(c *council, actions []round.Action) {
	if !m.up {
		return
	}
	for _, a := range actions {
		if asked, ok := a.(asked); ok && asked.Stage == round.Show && !slices.Contains(m.left, asked.Run) {
			m.mask(c, asked) // its update is in the sum already, and others wait for it
			continue
		}
		if !m.obeys(runOf(a)) {
			continue
		}
		switch a := a.(type) {
		case asked:
			m.mask(c, a)
		case round.Invite:
			m.w.judge.gives(m, a.Run)
			if m.w.bad(50) {
				m.say(c, round.Decline{Run: a.Run, Member: m.name, Rule: "rule"})
			} else {
				m.say(c, round.Consent{Run: a.Run, Member: m.name, Records: m.records})
			}
		case round.Ask:
			m.train(c, a)
		case round.Evaluate:
			m.w.judge.gives(m, a.Run)
			m.say(c, round.Evaluation{Run: a.Run, Round: a.Round, Member: m.name, Model: a.Model})
		}
		if m.w.bad(10) {
			m.crash()
			return
		}
	}
}

func (m *member) say(c *council, in round.Input) {
	m.w.send(string(m.name), c.name, func() { c.answered(m, in) })
}

// crash ends the member's process; what it keeps is on its disk.
func (m *member) crash() {
	m.w.note("member ends")
	m.w.hurt(memberDied)
	m.up = false
	if m.w.fault == forgetsWill {
		m.paused, m.left = false, nil
	}
	m.calls++
	gone := saying{number: m.calls}
	for _, c := range m.w.councils { // its connection ends with it, though a link that is dead tells nobody
		m.w.send(string(m.name), c.name, func() { c.tell(m, gone) })
	}
	m.w.after(m.w.upTo(longestStorm/8), func() { m.up = true })
}

// train offers what it has kept, or trains anew and keeps that first; now and then it lies.
func (m *member) train(c *council, a round.Ask) {
	m.w.judge.gives(m, a.Run)
	u := m.of(a)
	if u == nil {
		if !a.Accepted.IsZero() {
			return // what was accepted is lost here, and it sits this try out
		}
		u = m.compute(a)
		if m.w.bad(10) {
			m.crash() // before it was durable
			return
		}
		m.kept = append(m.kept, u)
		if m.w.bad(10) {
			m.crash() // before it was offered
			return
		}
	} else if !a.Accepted.IsZero() && a.Accepted != u.digest {
		return
	}
	if a.Masked != nil && !m.hides(a, u) {
		return
	}
	in := round.Offer{Run: a.Run, Round: a.Round, Try: a.Try, Member: m.name, Update: u.digest, Weight: a.Weight, Bytes: 1}
	if bufferOf(a.Plan, a.Kind).Size() > 0 {
		if m.w.bad(300) {
			return // it trains on
		}
		in.Source = round.Source{Base: u.round, Model: u.base}
	}
	honest := in
	sound := u
	switch {
	case m.w.bad(20):
		u = m.compute(a) // another one than is kept
		in.Update = u.digest
	case a.Masked != nil && m.w.bad(60):
		u = m.compute(a)
		u.garbage, in.Update = true, u.digest
	case m.w.bad(20):
		in.Update[0]++
	case m.w.bad(20):
		in.Weight++
	case m.w.bad(20):
		in.Round++
	case in.Base > 0 && m.w.bad(20):
		in.Base += m.w.chance.IntN(5) - 2
	case m.w.bad(20):
		u = m.compute(a)
		u.values[0] = float32(math.NaN())
	}
	if in != honest || u != sound {
		m.w.hurt(lied)
	}
	m.w.send(string(m.name), c.name, func() { c.offered(m, in, u) })
}

// of returns what was kept for a round, if it is of the same base and weight.
func (m *member) of(a round.Ask) *update {
	late := bufferOf(a.Plan, a.Kind).MaxStaleness()
	i := slices.IndexFunc(m.kept, func(u *update) bool { return u.run == a.Run && u.round == a.Round })
	for n := 1; i < 0 && n <= late; n++ { // what it began for an earlier round
		i = slices.IndexFunc(m.kept, func(u *update) bool { return u.run == a.Run && u.round >= 1 && u.round == a.Round-n })
	}
	if i < 0 {
		return nil
	}
	u := m.kept[i]
	if u.round < a.Round {
		if u.digest == a.Contributed || u.weight != a.Weight {
			m.kept = slices.Delete(m.kept, i, i+1)
			return m.of(a)
		}
		return u
	}
	if u.base != a.Model || u.weight != a.Weight {
		m.kept = slices.Delete(m.kept, i, i+1)
		return nil
	}
	return u
}

// drop forgets an older update that is refused for good: it trains anew.
func (m *member) drop(in round.Offer) {
	m.kept = slices.DeleteFunc(m.kept, func(u *update) bool { return m.up && u.digest == in.Update && u.round < in.Round })
}

// compute trains: values are multiples of 1/64, so that their mean can be taken exactly in another way.
func (m *member) compute(a round.Ask) *update {
	u := &update{run: a.Run, round: a.Round, base: a.Model, weight: a.Weight}
	for range vector {
		u.values = append(u.values, float32(m.w.chance.IntN(2001)-1000)/64)
	}
	var salt [32]byte
	binary.LittleEndian.PutUint64(salt[:], m.w.chance.Uint64())
	u.digest = model.UpdateDigest(salt, u.values)
	m.w.judge.updates[u.digest] = &update{values: slices.Clone(u.values), weight: u.weight}
	return u
}

// asked answers as a witness: what it has cosigned is on its disk before anybody hears of it.
func (m *member) asked(c *council, log chain, o witness.Offer) {
	if !m.up {
		return
	}
	next, err := witness.Judge(m.head, o)
	if m.w.fault == cosignsForks {
		next, err = o.Next, nil
	}
	if err != nil {
		var stale *witness.StaleError
		if !errors.As(err, &stale) {
			m.w.note("witness refuses", o.Next.Size)
		}
		m.w.send(string(m.name), c.name, func() { c.refused(m, o, err) })
		return
	}
	if m.w.bad(10) {
		m.crash()
		return
	}
	if m.w.fault != cosignsFirst || !m.w.bad(300) {
		m.head, m.heads = next, append(m.heads, next)
	}
	m.w.judge.cosigns(m, log, next)
	m.w.send(string(m.name), c.name, func() { c.cosigned(m, next) })
	if m.w.bad(10) {
		m.crash()
	}
}
