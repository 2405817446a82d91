package coordinator

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"consilium.dev/internal/aggregate"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/mask"
	"consilium.dev/internal/model"
	"consilium.dev/internal/round"
	"consilium.dev/internal/trainer"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// Methods returns the methods that have a row in the table of who may call what.
func Methods() []string {
	var all []string
	for m := range methods {
		all = append(all, m)
	}
	return all
}

// Clip is what words of peers go through.
var Clip = clip

// Hold is the memory that uploads take.
type Hold struct{ h *hold }

// NewHold returns that many bytes of it, in which what was cut is kept that long, for a federation of so many members.
func NewHold(limit int64, lease time.Duration, members int) Hold {
	return Hold{newHold(limit, lease, func() int { return members })}
}

// Try reserves n bytes for a member's upload, if they are free and within its share.
func (h Hold) Try(m entry.Member, n int64) (release func(), ok bool) { return h.h.tryReserve(m, n) }

// Wait waits for them.
func (h Hold) Wait(ctx context.Context, m entry.Member, n int64) (release func(), err error) {
	return h.h.reserve(ctx, m, n)
}

// Shelve reserves n bytes for an upload, receives 4 of them, and cuts it.
func (h Hold) Shelve(run string, round, try int, n int64) bool {
	release, ok := h.h.tryReserve("member", n)
	if !ok {
		return false
	}
	kept := h.h.keep(upload{attempt{run, round, try}, "member"}, &running{}, &prefix{values: make([]float32, n/4), at: 4, release: release})
	if !kept {
		release()
	}
	return kept
}

// Presence remembers what members say of themselves.
type Presence struct{ p *presence }

// NewPresence knows nobody.
func NewPresence() Presence { return Presence{newPresence(time.Now)} }

// Enter says that a member follows.
func (p Presence) Enter(m entry.Member) { p.p.enter(m) }

// Tell says what it does.
func (p Presence) Tell(m entry.Member, doing string) {
	p.p.tell(m, "instance", activity{doing: doing})
}

// Paused reports whether the rules see it paused.
func (p Presence) Paused(m entry.Member) bool { return p.p.sighting(m).Paused }

// Changed holds a token when the loop is to look again.
func (p Presence) Changed() <-chan struct{} { return p.p.changed }

// ShelveLate is Shelve where the try ends while the upload is under way.
func (h Hold) ShelveLate(run string, round, try int, n int64) {
	a := attempt{run, round, try}
	key, r := upload{a, "member"}, &running{cut: func() {}, done: make(chan struct{})}
	h.h.uploads.of = map[upload]*running{key: r}
	release, ok := h.h.tryReserve("member", n)
	if !ok {
		panic("no memory for it")
	}
	h.h.drop(a)
	if p := (&prefix{values: make([]float32, n/4), at: 4, release: release}); !h.h.keep(key, r, p) {
		release()
	}
	h.h.uploads.end(key, r)
}

// Drop ends a try.
func (h Hold) Drop(run string, round, try int) { h.h.drop(attempt{run, round, try}) }

// Sum opens a try and has so many updates added to it as they come; each has reserved its bytes. It returns their mean when all are in.
func (h Hold) Sum(spec aggregate.Spec, updates [][]float32) ([]float64, error) {
	a := attempt{"run", 1, 1}
	h.h.open(a, &sum{held: map[entry.Member]entry.Digest{}, spec: spec})
	defer h.h.drop(a)
	for i, values := range updates {
		release, ok := h.h.tryReserve("member", 4*int64(len(values)))
		if !ok {
			return nil, errors.New("no memory for it")
		}
		m := entry.Member(fmt.Sprint("member ", i))
		if err := h.h.add(h.h.sums[a], &update{member: m, digest: entry.Digest{byte(i + 1)}, weight: spec.Weights[i], values: values, release: release}); err != nil {
			return nil, err
		}
	}
	s := h.h.sums[a]
	s.pending.Wait()
	mean := make([]float64, spec.Len())
	s.acc.Mean(0, mean)
	h.h.workers.Wait()
	return mean, nil
}

// Receive reserves memory for an update of a try, takes it in chunk by chunk, judges it and has it added, as an upload's handler and the loop do.
func (h Hold) Receive(ctx context.Context, s *Round, m entry.Member, weight int64, chunk func(at int64) []byte) error {
	o := offer{in: round.Offer{Member: m}, size: 4 * int64(s.spec.Len())}
	release, err := h.h.reserve(ctx, m, o.size)
	if err != nil {
		return err
	}
	p, err := newPrefix(o, release)
	if err != nil {
		return err
	}
	for p.at < o.size {
		c := chunk(p.at)
		p.add(c, int64(len(c)))
	}
	if err := s.spec.Check(p.values); err != nil {
		return err
	}
	s.mu.Lock() // the loop is one
	defer s.mu.Unlock()
	s.received++
	return h.h.add(h.h.sums[s.try], &update{member: m, digest: entry.Digest{byte(s.received), byte(s.received >> 8)}, weight: weight, values: p.values, release: p.release})
}

// Round is a try that is open.
type Round struct {
	spec     aggregate.Spec
	try      attempt
	mu       sync.Mutex
	received int
}

// Open opens a try.
func (h Hold) Open(spec aggregate.Spec) *Round {
	r := &Round{spec: spec, try: attempt{"run", 1, 1}}
	h.h.open(r.try, &sum{held: map[entry.Member]entry.Digest{}, spec: spec})
	return r
}

// Combine makes a model of a try, and ends it.
func (h Hold) Combine(ctx context.Context, s *Round, blobs *blob.Blobs, a round.Combine) (round.Combined, error) {
	defer h.h.drop(s.try)
	h.h.sums[s.try].pending.Wait()
	return (&combiner{blobs: blobs}).combine(ctx, a, h.h.sums[s.try])
}

// AddAll adds updates of one weight by all cores.
func AddAll(acc *aggregate.Sum, weight int64, updates ...[]float32) {
	var batch []*update
	for _, values := range updates {
		batch = append(batch, &update{weight: weight, values: values})
	}
	(&sum{acc: acc}).addBatch(batch)
}

// Close ends everything.
func (h Hold) Close() { h.h.close() }

// Free returns how many bytes can be had without throwing anything away.
func (h Hold) Free() int64 {
	var n int64
	for h.h.budget.TryAcquire(1) {
		n++
	}
	h.h.budget.Release(n)
	return n
}

// ErrEpoch is errEpoch.
var ErrEpoch = errEpoch

// DecideAs has the loop decide in for somebody who was appraised under an epoch.
func (c *Coordinator) DecideAs(ctx context.Context, epoch uint64, in round.Input) error {
	return c.epochs.loop.decide(context.WithValue(ctx, peerKey{}, transport.Peer{Epoch: epoch}), in)
}

// Orphans returns the blobs that are stored and not named.
var Orphans = orphans

// Guarded returns a stream of a peer that was appraised under m until expires, as its handler has it.
func Guarded(s grpc.ServerStream, m *manifest.Manifest, now func() time.Time, expires time.Time) grpc.ServerStream {
	g := &guard{manifest: func() *manifest.Manifest { return m }, now: now, progress: time.Hour}
	return &guardedStream{ServerStream: s, guard: g, peer: transport.Peer{Epoch: m.Epoch(), Manifest: m.Digest(), Expires: expires}, ctx: context.Background()}
}

// Combine has what was stored in blobs combined with a sum.
func Combine(ctx context.Context, blobs *blob.Blobs, a round.Combine, spec aggregate.Spec, acc *aggregate.Sum) (round.Combined, error) {
	return CombineBy(ctx, blobs, rand.Reader, a, spec, acc)
}

// CombineBy is Combine with noise of that source of chance.
func CombineBy(ctx context.Context, blobs *blob.Blobs, chance io.Reader, a round.Combine, spec aggregate.Spec, acc *aggregate.Sum) (round.Combined, error) {
	return (&combiner{blobs, chance}).combine(ctx, a, &sum{spec: spec, acc: acc})
}

// Encodings keeps pieces as they were encoded.
type Encodings struct{ e encodings }

// Get returns the piece of a model that begins at a place, as the model encodes it the first time.
func (e *Encodings) Get(model entry.Digest, at int64, encode func() (codec.Scheme, []byte)) (codec.Scheme, []byte) {
	scheme, data, err := e.e.get(piece{model: model, at: at, reads: codec.All}, func() (codec.Scheme, []byte, error) {
		scheme, data := encode()
		return scheme, data, nil
	})
	if err != nil {
		panic(err) // nothing that makes a piece here fails
	}
	return scheme, data
}

// Held returns how many bytes are kept, and Kept how many pieces.
func (e *Encodings) Held() int { return e.e.held }

func (e *Encodings) Kept() int { return len(e.e.of) }

// StartOf starts a run of a plan as its lead does, of a model that no schema describes: its first version is m, and so its updates are as long.
// A boot would find another layout.
func (c *Coordinator) StartOf(ctx context.Context, lead string, p entry.Plan, m *model.Model) (run string, err error) {
	l := c.epochs.loop
	f := entry.RunCreated{Run: newRun(), Request: "of a model", Lead: lead, Manifest: c.epochs.now().Digest(), Members: membersOf(c.epochs.now()), Plan: p}
	ref, err := (&combiner{blobs: c.blobs}).putModel(ctx, m)
	if err != nil {
		return "", err
	}
	f.Initial, f.Model = &ref, ref.Plain
	limits := limitsOf(c.epochs.now())
	limits.OpenRuns, limits.Starts = c.o.Limits.OpenRuns, c.o.Limits.Starts
	return f.Run, l.send(ctx, message{in: round.Create{Fact: f, Limits: limits}, after: func() error {
		s := l.studies[f.Run]
		s.shape = trainer.Description{Layout: m.Layout, Training: []aggregate.Range{{Len: m.Layout.Len(), MaxAbs: p.MaxAbs}}}
		l.studies[f.Run] = s
		return nil
	}})
}

// Veil is what members have said of the masks of one try.
type Veil struct {
	v        *veil
	try      mask.Try
	identity func(string) (ed25519.PublicKey, bool)
}

// NewVeil returns one in which nobody has said anything.
func NewVeil(try mask.Try, identity func(string) (ed25519.PublicKey, bool)) Veil {
	return Veil{newVeil(), try, identity}
}

// Fix says between whom the masks are.
func (v Veil) Fix(among []entry.Member, quorum int) error {
	g, err := mask.NewGraph(len(among), quorum, v.try.GraphSeed())
	v.v.among, v.v.graph = among, g
	return err
}

// Take takes what a member says.
func (v Veil) Take(m entry.Member, q *pb.MaskRequest) error {
	switch {
	case q.Keys != nil:
		return v.v.announce(v.try, m, v.identity, q.Keys)
	case len(q.Shares) > 0:
		return v.v.share(m, q.Shares)
	}
	return v.v.show(m, q.Shown)
}

// Said returns who has announced keys, shared and shown.
func (v Veil) Said() (announced, shared, shown []entry.Member) {
	return slices.Sorted(maps.Keys(v.v.keys)), slices.Sorted(maps.Keys(v.v.shared)), slices.Sorted(maps.Keys(v.v.shown))
}

// Terms returns what takes the masks off a sum of all.
func (v Veil) Terms(in []entry.Contribution) ([]mask.Term, error) {
	return v.v.terms(v.try, v.v.among, in)()
}

// Supplies reads models for downloads, of which Open says how many it is reading for.
type Supplies struct{ s supplies }

// Begin joins the downloads of a model, or of its difference to a base, at a place. It returns what reads, and what ends that.
func (s *Supplies) Begin(ctx context.Context, b *blob.Blobs, model, base entry.Blob, at int64) (read func(dst []byte, at int64) error, end func(), err error) {
	f, err := s.s.begin(ctx, b, content{model, base}, at)
	if err != nil {
		return nil, nil, err
	}
	return func(dst []byte, at int64) error { return f.read(ctx, dst, at) }, f.end, nil
}

// Open returns how many contents are being downloaded.
func (s *Supplies) Open() int { return len(s.s.of) }

// Room counts the bytes of what is wanted of members.
type Room struct{ room }

// Fits reports whether a task has room, and then takes it.
func (r Room) Fits(m entry.Member, task proto.Message) bool { return r.fits(m, task) }

// NewRoom returns an empty one.
func NewRoom() Room { return Room{room{}} }

// Starting is a coordinator whose loop has told no news yet.
type Starting struct{ r *rounds }

// NewStarting returns one that nobody follows.
func NewStarting() Starting {
	l := &loop{now: time.Now, clocks: newClocks(time.Now, time.Hour), ending: make(chan struct{}), done: make(chan struct{})}
	l.wanted.Store(&news{changed: make(chan struct{})})
	return Starting{&rounds{loop: l, presence: newPresence(time.Now)}}
}

// Follow has a member follow.
func (s Starting) Follow(m entry.Member, stream grpc.ServerStreamingServer[pb.Wanted]) error {
	return s.r.Follow(&pb.FollowRequest{}, following{stream, context.WithValue(stream.Context(), peerKey{}, transport.Peer{Name: string(m)})})
}

// Settle tells the first news, of those members.
func (s Starting) Settle(members ...entry.Member) {
	wanted := map[entry.Member]*pb.Wanted{}
	for _, m := range members {
		wanted[m] = &pb.Wanted{Version: "test"}
	}
	s.r.loop.announce(wanted)
}

// Stop ends the calls that would go on for ever.
func (s Starting) Stop() { close(s.r.loop.ending) }

// following is a stream of a peer that was let in.
type following struct {
	grpc.ServerStreamingServer[pb.Wanted]
	ctx context.Context
}

func (f following) Context() context.Context { return f.ctx }

// Releasing words for whom a round waits that is closed and not released, when the word of no witness is missing.
func Releasing(round int) string {
	return (&viewer{}).waiting(sighted{lack: &lack{round: round}})
}
