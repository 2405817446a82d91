package coordinator_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/mask"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/store"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// masque is one try of a masked round in a court, whose three members the test plays.
type masque struct {
	*court
	run    string
	try    mask.Try
	peers  map[string]*peer
	keys   map[string]*mask.Keys
	graph  *mask.Graph
	handed map[string]map[string]mask.Shares // to whom, of whom
	grid   *aggregate.Grid
	heard  map[string]*ear
}

// ear hears what is wanted of a member, as its participant would.
type ear struct {
	mu     sync.Mutex // guards what follows
	wanted *pb.Wanted
}

// asked returns what is wanted of a member for the masks of the run, nil for nothing.
func (m *masque) asked(name string) *pb.MaskAsked {
	synctest.Wait()
	e := m.heard[name]
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.wanted.GetMasks() {
		if a.Run == m.run {
			return a
		}
	}
	return nil
}

// listen has a member follow.
func (m *masque) listen(name string) {
	m.t.Helper()
	stream, err := m.peers[name].Follow(m.t.Context(), &pb.FollowRequest{})
	if err != nil {
		m.t.Fatal(err)
	}
	e := &ear{}
	m.heard[name] = e
	var listening sync.WaitGroup
	listening.Go(func() {
		for {
			w, err := stream.Recv()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.wanted = w
			e.mu.Unlock()
		}
	})
	m.t.Cleanup(listening.Wait)
}

var maskers = []string{"budapest", "cleveland", "longbeach"}

// threefold makes the bare plan one of three members, of whom two are enough, with masks.
func threefold(p *entry.Plan) {
	p.Members = []entry.Member{"budapest", "cleveland", "longbeach"}
	p.Masks, p.Tries = true, 2
}

// newMasque opens a run and returns its first try.
func newMasque(t *testing.T, c *court, change ...func(*entry.Plan)) *masque {
	t.Helper()
	m := &masque{court: c, heard: map[string]*ear{}, peers: map[string]*peer{"budapest": c.budapest, "cleveland": c.cleveland, "longbeach": c.longbeach}}
	for _, name := range maskers {
		m.listen(name)
	}
	synctest.Wait()
	c.runs++
	p := plan(t, append([]func(*entry.Plan){bare, threefold, func(p *entry.Plan) { p.Name = fmt.Sprint("run ", c.runs) }}, change...)...)
	m.run = c.start(p)
	for _, name := range maskers {
		if _, err := m.peers[name].Consent(t.Context(), &pb.ConsentRequest{Run: m.run, Records: records}); err != nil {
			t.Fatal(err)
		}
	}
	c.books["council"].await(t, "round opened", "run", m.run)
	d, err := trainer.Describe(p)
	if err != nil {
		t.Fatal(err)
	}
	if m.grid, err = aggregate.NewGrid(aggregate.Spec{Ranges: d.Training, Weights: []int64{records, records, records}}); err != nil {
		t.Fatal(err)
	}
	m.begin(1)
	return m
}

// begin makes what a try's masks are made of.
func (m *masque) begin(try int) {
	m.t.Helper()
	m.try = mask.Try{Manifest: m.manifest.Digest(), Run: m.run, Round: 1, Try: try}
	m.keys, m.handed = map[string]*mask.Keys{}, map[string]map[string]mask.Shares{}
	var err error
	if m.graph, err = mask.NewGraph(len(maskers), 2, m.try.GraphSeed()); err != nil {
		m.t.Fatal(err)
	}
	for _, name := range maskers {
		if m.keys[name], err = mask.NewKeys(rand.Reader); err != nil {
			m.t.Fatal(err)
		}
	}
}

// says sends one of the calls about masks.
func (m *masque) says(name string, q *pb.MaskRequest) error {
	q.Run, q.Round, q.Try = m.run, 1, int32(m.try.Try)
	_, err := m.peers[name].Mask(m.t.Context(), q)
	return err
}

// must is says for what is to be taken.
func (m *masque) must(name string, q *pb.MaskRequest) {
	m.t.Helper()
	if err := m.says(name, q); err != nil {
		m.t.Fatalf("%s: %v", name, err)
	}
}

// signed returns a member's keys with its signature.
func (m *masque) signed(name string) *pb.MaskRequest {
	public := m.keys[name].Public()
	return &pb.MaskRequest{Keys: &pb.MaskKeys{
		Keys: public.Bytes(), Signature: ed25519.Sign(keyOf("participant/"+name), mask.Announcement(m.try, name, public)),
	}}
}

// divided returns what a member hands the others, and notes it.
func (m *masque) divided(name string) *pb.MaskRequest {
	m.t.Helper()
	at := slices.Index(maskers, name)
	shares, err := m.keys[name].Split(m.graph.Threshold(), len(maskers), rand.Reader)
	if err != nil {
		m.t.Fatal(err)
	}
	q := &pb.MaskRequest{}
	for i, j := range m.graph.Holders(at) {
		to := maskers[j]
		if m.handed[to] == nil {
			m.handed[to] = map[string]mask.Shares{}
		}
		m.handed[to][name] = shares[i]
		if to == name {
			continue
		}
		sealed, err := m.keys[name].Seal(m.try, name, to, m.keys[to].Public(), shares[i], rand.Reader)
		if err != nil {
			m.t.Fatal(err)
		}
		q.Shares = append(q.Shares, &pb.SealedShare{Member: to, Sealed: sealed})
	}
	return q
}

// masked returns a member's update, of these values, under its masks.
func (m *masque) masked(name string, values []float32) []float32 {
	m.t.Helper()
	words := make([]uint64, len(values))
	m.grid.Whole(words, 0, values, records)
	terms := []mask.Term{m.keys[name].SelfMask()}
	for _, other := range maskers {
		if other == name {
			continue
		}
		term, err := m.keys[name].PairMask(m.try, name, other, m.keys[other].Public())
		if err != nil {
			m.t.Fatal(err)
		}
		terms = append(terms, term)
	}
	mask.Apply(words, 0, terms...)
	return halved(words)
}

// halved returns words as an update has them.
func halved(words []uint64) []float32 {
	var out []float32
	for _, w := range words {
		out = append(out, math.Float32frombits(uint32(w)), math.Float32frombits(uint32(w>>32)))
	}
	return out
}

// offers returns an upload of this try.
func (m *masque) offers(values []float32) *upload {
	u := sound(m.run, values...)
	u.head.Try = int32(m.try.Try)
	return u
}

// opened returns what a member shows when those in have answered.
func (m *masque) opened(name string, in ...string) *pb.MaskRequest {
	q := &pb.MaskRequest{}
	for _, of := range maskers {
		share := m.handed[name][of].Mask
		if slices.Contains(in, of) {
			share = m.handed[name][of].Self
		}
		q.Shown = append(q.Shown, &pb.ShownShare{Member: of, Share: share[:]})
	}
	return q
}

// prepare has all announce and share.
func (m *masque) prepare() {
	m.t.Helper()
	for _, name := range maskers {
		m.must(name, m.signed(name))
	}
	for _, name := range maskers {
		m.must(name, m.divided(name))
	}
}

// send has all send updates.
func (m *masque) send() {
	m.t.Helper()
	for i, name := range maskers {
		m.accepted(m.peers[name], m.offers(m.masked(name, steps(i))))
	}
}

// steps are updates whose mean, in a run of these members, is the model that finished wants.
func steps(i int) []float32 {
	values := make([]float32, bareLen)
	for k := range values {
		values[k] = float32(k)/4 - float32(i)
	}
	return values
}

// finished waits for the end of the run, whose model has to be the mean of what these members have sent.
func (m *masque) finished(in ...string) {
	m.t.Helper()
	v := m.completed(m.run)
	got := m.model(final(v)).Params
	for k := range got {
		var want float32
		for _, name := range in {
			want += steps(slices.Index(maskers, name))[k] / float32(len(in))
		}
		if math.Abs(float64(got[k]-want)) > 1e-6 {
			m.t.Errorf("value %d of the model is %v, want %v", k, got[k], want)
		}
	}
	closed := only[entry.RoundClosed](m.ofRun())
	if len(closed) != 1 || len(closed[0].Members) != len(in) {
		m.t.Fatalf("the log has the closings %+v, want one with %d members", closed, len(in))
	}
	for i, c := range closed[0].Members {
		if string(c.Member) != in[i] {
			m.t.Errorf("closed with %s, want %s", c.Member, in[i])
		}
	}
}

// ofRun returns the facts about masks and rounds of this run.
func (m *masque) ofRun() (all []entry.Fact) {
	for _, f := range m.facts() {
		switch f := f.(type) {
		case entry.RoundClosed:
			if f.Run == m.run {
				all = append(all, f)
			}
		case entry.RoundFailed:
			if f.Run == m.run {
				all = append(all, f)
			}
		}
	}
	return all
}

// failed waits for the end of the try and returns its reason.
func (m *masque) failed() string {
	m.t.Helper()
	m.books["council"].await(m.t, "round failed", "run", m.run, "try", fmt.Sprint(m.try.Try))
	all := only[entry.RoundFailed](m.ofRun())
	return all[len(all)-1].Reason
}

// TestMaskedCourt plays a try whose members now and then say what they must not: nothing of it counts, nor does it harm, and what was said
// first is not altered by what is said again.
func TestMaskedCourt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMasque(t, newCourt(t))
		stranger := m.connect(attest.Participant, "switzerland")
		refused := func(what, name string, q *pb.MaskRequest, want codes.Code) {
			t.Helper()
			if err := m.says(name, q); status.Code(err) != want {
				t.Errorf("%s: %v, want %v", what, err, want)
			}
		}
		invalid := func(what, name string, q *pb.MaskRequest) { t.Helper(); refused(what, name, q, codes.InvalidArgument) }
		shut := func(what, name string, q *pb.MaskRequest) {
			t.Helper()
			refused(what, name, q, codes.FailedPrecondition)
		}
		alter := func(q *pb.MaskRequest, change func(*pb.MaskRequest)) *pb.MaskRequest { change(q); return q }
		one, share := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{1}, mask.SealedSize)
		shares := &pb.MaskRequest{Shares: []*pb.SealedShare{{Member: "cleveland", Sealed: share}, {Member: "longbeach", Sealed: share}}}
		shown := &pb.MaskRequest{Shown: []*pb.ShownShare{{Member: "cleveland", Share: one}}}

		// Keys.
		if a := m.asked("budapest"); a == nil || a.Stage != pb.MaskAsked_STAGE_ANNOUNCE || a.Try != 1 || a.Round != 1 {
			t.Errorf("asked for is %v, want keys", a)
		}
		invalid("nothing", "budapest", &pb.MaskRequest{})
		invalid("two things", "budapest", alter(m.signed("budapest"), func(q *pb.MaskRequest) { q.Shares = shares.Shares }))
		invalid("another's keys", "budapest", m.signed("cleveland"))
		invalid("no signature", "budapest", alter(m.signed("budapest"), func(q *pb.MaskRequest) { q.Keys.Signature = nil }))
		invalid("no keys", "budapest", alter(m.signed("budapest"), func(q *pb.MaskRequest) { q.Keys.Keys = nil }))
		invalid("long keys", "budapest", alter(m.signed("budapest"), func(q *pb.MaskRequest) { q.Keys.Keys = append(q.Keys.Keys, 0) }))
		for _, at := range []int{0, 32} {
			invalid("keys of low order", "budapest", alter(m.signed("budapest"), func(q *pb.MaskRequest) {
				clear(q.Keys.Keys[at:][:32])
				public := mask.Public{Seal: [32]byte(q.Keys.Keys), Mask: [32]byte(q.Keys.Keys[32:]), Self: [32]byte(q.Keys.Keys[64:])}
				q.Keys.Signature = ed25519.Sign(keyOf("participant/budapest"), mask.Announcement(m.try, "budapest", public))
			}))
		}
		for what, change := range map[string]func(*mask.Try){
			"for another try": func(t *mask.Try) { t.Try++ }, "for another round": func(t *mask.Try) { t.Round++ },
			"for another run": func(t *mask.Try) { t.Run = "other" }, "under another manifest": func(t *mask.Try) { t.Manifest[5]++ },
		} {
			right := m.try
			change(&m.try)
			q := m.signed("budapest")
			m.try = right
			invalid("keys "+what, "budapest", q)
		}
		shut("shares before keys", "budapest", shares)
		shut("shown before keys", "budapest", shown)
		m.try.Try = 2
		shut("keys of the next try", "budapest", m.signed("budapest"))
		m.try.Try = 1
		if _, err := stranger.Mask(t.Context(), &pb.MaskRequest{Run: m.run, Round: 1, Try: 1, Keys: m.signed("budapest").Keys}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("keys of one who has no part in the run: %v", err)
		}
		if _, err := stranger.Mask(t.Context(), &pb.MaskRequest{Run: "none", Round: -1, Try: 1 << 30, Keys: m.signed("budapest").Keys}); status.Code(err) != codes.NotFound && status.Code(err) != codes.FailedPrecondition {
			t.Errorf("keys for no run: %v", err)
		}
		m.must("budapest", m.signed("budapest"))
		m.must("budapest", m.signed("budapest"))
		first := m.keys["cleveland"]
		m.must("cleveland", m.signed("cleveland"))
		m.keys["cleveland"], _ = mask.NewKeys(rand.Reader)
		m.must("cleveland", m.signed("cleveland")) // and are not counted
		m.keys["cleveland"] = first
		if a := m.asked("longbeach"); a == nil || a.Stage != pb.MaskAsked_STAGE_ANNOUNCE {
			t.Errorf("one is missing, and asked for is %v", a)
		}
		m.must("longbeach", m.signed("longbeach"))

		// Shares.
		a := m.asked("budapest")
		if a == nil || a.Stage != pb.MaskAsked_STAGE_SHARE || len(a.Keys) != 3 || a.Keys[1].Member != "cleveland" ||
			!bytes.Equal(a.Keys[1].Keys, m.signed("cleveland").Keys.Keys) {
			t.Fatalf("asked for is %v, want shares among three, by the keys that cleveland has announced first", a)
		}
		m.must("budapest", m.signed("budapest"))
		invalid("too few shares", "budapest", &pb.MaskRequest{Shares: shares.Shares[:1]})
		invalid("too many shares", "budapest", &pb.MaskRequest{Shares: append(shares.Shares[:2:2], shares.Shares[0])})
		invalid("shares for itself", "cleveland", shares)
		invalid("shares in another order", "budapest", &pb.MaskRequest{Shares: []*pb.SealedShare{shares.Shares[1], shares.Shares[0]}})
		invalid("shares for a stranger", "budapest", &pb.MaskRequest{Shares: []*pb.SealedShare{shares.Shares[0], {Member: "switzerland", Sealed: share}}})
		for _, long := range []int{-1, 1} {
			invalid("shares of another size", "budapest", &pb.MaskRequest{Shares: []*pb.SealedShare{shares.Shares[0], {Member: "longbeach", Sealed: make([]byte, mask.SealedSize+long)}}})
		}
		shut("shown before shares", "budapest", shown)
		early := m.offers(steps(0))
		if reply, err := m.budapest.send(t.Context(), early); err != nil || reply.Reason != "closed" {
			t.Errorf("an update before there are masks: %v, %v", reply, err)
		}
		m.must("budapest", m.divided("budapest"))
		m.must("budapest", shares) // and are not counted
		m.must("cleveland", m.divided("cleveland"))
		m.must("longbeach", m.divided("longbeach"))

		// Updates.
		if a := m.asked("budapest"); a != nil {
			t.Errorf("asked for is %v, want an update and nothing else", a)
		}
		shut("keys too late", "budapest", m.signed("budapest"))
		shut("shares too late", "budapest", shares)
		shut("shown before it is said of whom", "budapest", shown)
		for what, values := range map[string][]float32{
			"4 bytes a value": steps(0), "one value too many": make([]float32, 2*bareLen+2), "half a value": make([]float32, 2*bareLen-1),
		} {
			if reply, err := m.budapest.send(t.Context(), m.offers(values)); err != nil || reply.State != pb.OfferReply_STATE_REFUSED || reply.Reason != "size" {
				t.Errorf("an update of %s: %v, %v, want refused for its size", what, reply, err)
			}
		}
		m.send()

		// Shares of the others.
		a = m.asked("cleveland")
		if a == nil || a.Stage != pb.MaskAsked_STAGE_SHOW || !slices.Equal(a.In, maskers) || len(a.Shares) != 2 || a.Shares[0].Member != "budapest" {
			t.Fatalf("asked for is %v, want shares of all", a)
		}
		at, err := m.keys["cleveland"].Open(m.try, "cleveland", "budapest", m.keys["budapest"].Public(), a.Shares[0].Sealed)
		if err != nil || at != m.handed["cleveland"]["budapest"] {
			t.Errorf("cleveland is handed what budapest has not sealed for it at first: %v", err)
		}
		shut("keys when masks come off", "budapest", m.signed("budapest"))
		shut("shares when masks come off", "budapest", shares)
		invalid("a stranger's share", "budapest", &pb.MaskRequest{Shown: []*pb.ShownShare{{Member: "switzerland", Share: one}}})
		invalid("a short share", "budapest", &pb.MaskRequest{Shown: []*pb.ShownShare{{Member: "cleveland", Share: one[:31]}}})
		invalid("both kinds of shares", "budapest", alter(m.opened("budapest", maskers...), func(q *pb.MaskRequest) { q.Shown = append(q.Shown, m.opened("budapest").Shown...) }))
		m.must("budapest", m.opened("budapest", maskers...))
		m.must("budapest", shown) // and is not counted
		m.must("longbeach", m.opened("longbeach", maskers...))
		m.finished(maskers...)
		shut("shown after all", "cleveland", m.opened("cleveland", maskers...))
		if failed := only[entry.RoundFailed](m.ofRun()); len(failed) > 0 {
			t.Errorf("the log has the failures %+v", failed)
		}
	})
}

// TestWrongShares: one member shows shares that are wrong, or none but a few, before others have shown theirs. The masks come off by the others'.
// Where too many are wrong the try fails, says whose secret they do not give, and nothing else does.
func TestWrongShares(t *testing.T) {
	t.Parallel()
	wrong := func(q *pb.MaskRequest) *pb.MaskRequest {
		for _, s := range q.Shown {
			s.Share[9]++
		}
		return q
	}
	for what, spoil := range map[string]func(*pb.MaskRequest) *pb.MaskRequest{
		"wrong shares": wrong,
		"one share":    func(q *pb.MaskRequest) *pb.MaskRequest { q.Shown = q.Shown[:1]; return q },
		"the other's shares": func(q *pb.MaskRequest) *pb.MaskRequest {
			q.Shown[0].Member, q.Shown[1].Member = q.Shown[1].Member, q.Shown[0].Member
			return q
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newMasque(t, newCourt(t))
				m.prepare()
				m.send()
				m.must("budapest", spoil(m.opened("budapest", maskers...)))
				m.must("cleveland", m.opened("cleveland", maskers...))
				m.books["council"].await(t, "the masks do not come off a sum", "run", m.run)
				if a := m.asked("longbeach"); a == nil || a.Stage != pb.MaskAsked_STAGE_SHOW {
					t.Fatalf("of the last one %v is wanted, want its shares", a)
				}
				m.must("longbeach", m.opened("longbeach", maskers...))
				m.finished(maskers...)
			})
		})
	}
	t.Run("too many", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			m := newMasque(t, newCourt(t))
			other := newMasque(t, m.court)
			other.prepare()
			m.prepare()
			m.send()
			for _, name := range maskers[:2] {
				m.must(name, wrong(m.opened(name, maskers...)))
			}
			m.must("longbeach", m.opened("longbeach", maskers...))
			if got, want := m.failed(), "the masks do not come off the sum by what 3 members have shown: unmasking budapest: shares do not give the secret"; !strings.HasPrefix(got, want) {
				t.Errorf("the try failed for %q, want %q", got, want)
			}
			m.begin(2)
			m.prepare()
			m.send()
			for _, name := range maskers[:2] {
				m.must(name, m.opened(name, maskers...))
				other.accepted(other.peers[name], other.offers(other.masked(name, steps(slices.Index(maskers, name)))))
			}
			m.finished(maskers...)
			// The other run's third member was taken for missing at its deadline.
			time.Sleep(time.Minute)
			for _, name := range maskers[:2] {
				other.must(name, other.opened(name, maskers[:2]...))
			}
			other.finished(maskers[:2]...)
		})
	})
}

// TestGarbage: a member sends no update under its masks but whatever. What is left without the masks is no sum within its bound: the try fails
// for it, and the run goes on with the next one.
func TestGarbage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMasque(t, newCourt(t))
		m.prepare()
		words := make([]uint64, bareLen)
		for i := range words {
			words[i] = 0x7ff4_0000_7fa0_0001 * uint64(i+1) // among them such as are no numbers as float32s
		}
		m.accepted(m.budapest, m.offers(halved(words)))
		for i, name := range maskers[1:] {
			m.accepted(m.peers[name], m.offers(m.masked(name, steps(i+1))))
		}
		for _, name := range maskers[:2] {
			m.must(name, m.opened(name, maskers...))
		}
		if got, want := m.failed(), "without its masks the sum is none: an update was not made as the plan says: "; !strings.HasPrefix(got, want) {
			t.Errorf("the try failed for %q, want %q", got, want)
		}
		m.begin(2)
		m.prepare()
		m.send()
		for _, name := range maskers[1:] {
			m.must(name, m.opened(name, maskers...))
		}
		m.finished(maskers...)
	})
}

// TestUnopened: one member seals for another what does not open, and that one shows what it has. The others' shares are enough.
func TestUnopened(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newMasque(t, newCourt(t))
		for _, name := range maskers {
			m.must(name, m.signed(name))
		}
		for _, name := range maskers {
			q := m.divided(name)
			if name == "budapest" {
				q.Shares[0].Sealed[20]++
			}
			m.must(name, q)
		}
		m.send()
		a := m.asked("cleveland")
		if _, err := m.keys["cleveland"].Open(m.try, "cleveland", "budapest", m.keys["budapest"].Public(), a.Shares[0].Sealed); err == nil {
			t.Fatal("what was altered opens")
		}
		q := m.opened("cleveland", maskers...)
		q.Shown = q.Shown[1:]
		m.must("cleveland", q)
		m.must("longbeach", m.opened("longbeach", maskers...))
		m.must("budapest", m.opened("budapest", maskers...))
		m.finished(maskers...)
	})
}

// TestMaskedLeave: one leaves the run when its shares are handed over. Its masks come off by them, and the model has the bits of a run without
// masks which it leaves as late.
func TestMaskedLeave(t *testing.T) {
	t.Parallel()
	var models [2]entry.Digest
	synctest.Test(t, func(t *testing.T) {
		m := newMasque(t, newCourt(t))
		m.prepare()
		if _, err := m.longbeach.Leave(t.Context(), &pb.LeaveRequest{Run: m.run}); err != nil {
			t.Fatal(err)
		}
		for i, name := range maskers[:2] {
			m.accepted(m.peers[name], m.offers(m.masked(name, steps(i))))
		}
		if a := m.asked("longbeach"); a != nil {
			t.Errorf("of one that has left %v is wanted", a)
		}
		if err := m.says("longbeach", m.opened("longbeach", maskers[:2]...)); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("shares of one that has left: %v", err)
		}
		for _, name := range maskers[:2] {
			m.must(name, m.opened(name, maskers[:2]...))
		}
		m.finished(maskers[:2]...)
		models[0] = final(m.completed(m.run))

		open := newMasque(t, m.court, func(p *entry.Plan) { p.Masks = false })
		if _, err := m.longbeach.Leave(t.Context(), &pb.LeaveRequest{Run: open.run}); err != nil {
			t.Fatal(err)
		}
		for i, name := range maskers[:2] {
			open.accepted(m.peers[name], open.offers(steps(i)))
		}
		open.finished(maskers[:2]...)
		models[1] = final(m.completed(open.run))
	})
	if models[0] != models[1] {
		t.Errorf("with masks the model is %s, without it is %s", models[0], models[1])
	}
}

// dying is a disk whose program ends before an object is there whose name is like that; or, where it is another's that dies, one which waits with
// such an object until that has ended: else the others, who are enough, might have it behind them before the one gets there.
type dying struct {
	*disk
	at    string
	dies  bool
	ended chan struct{} // closed when the one that dies has
}

func (d *dying) Put(ctx context.Context, name func() string, r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	n := name()
	switch there, err := path.Match(d.at, n); {
	case err != nil:
		return err
	case there && d.dies:
		close(d.ended)
		return errKilled
	case there:
		<-d.ended
	}
	return d.disk.Put(ctx, store.Named(n), bytes.NewReader(text))
}

// TestMaskedDropouts: a member's program ends for good at a step of the first masked round. The model has the bits of a run without masks in
// which the same members take part.
func TestMaskedDropouts(t *testing.T) {
	t.Parallel()
	once := func(p *entry.Plan) { p.Rounds, p.Quorum, p.Strategy = 1, 3, entry.Strategy{Name: "fedadam"} }
	model := func(t *testing.T, at string, in int, change ...func(*entry.Plan)) (id entry.Digest) {
		synctest.Test(t, func(t *testing.T) {
			w, ended := newWorld(t), make(chan struct{})
			w.serve()
			for _, name := range hospitals {
				w.join(name, func(o *participant.Options) {
					o.Objects = &dying{w.disks[name], at, name == "cleveland", ended}
				})
			}
			v := w.completed(w.start(plan(t, append([]func(*entry.Plan){once}, change...)...)))
			closed := only[entry.RoundClosed](w.facts())
			if len(closed) != 2 || len(closed[0].Members) != in || len(closed[1].Members) != 3 {
				t.Errorf("the log has the closings %+v, want the first with %d members and the second with 3", closed, in)
			}
			if failed := only[entry.RoundFailed](w.facts()); len(failed) > 0 {
				t.Errorf("the log has the failures %+v", failed)
			}
			id = final(v)
		})
		return id
	}
	without := map[int]entry.Digest{3: model(t, "kept/*/0", 3), 4: model(t, "kept/*/1", 4)} // by how many's statistics are in the sum
	for _, test := range []struct {
		before string
		in     int
	}{{"keys", 3}, {"shares", 3}, {"sent", 3}, {"shown", 4}} {
		t.Run(test.before, func(t *testing.T) {
			t.Parallel()
			if got, want := model(t, "mask/*/0/1/"+test.before, test.in, masked), without[test.in]; got != want {
				t.Errorf("with masks the model is %s, without it is %s", got, want)
			}
		})
	}
}
