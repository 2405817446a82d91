package participant

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/store"
	"consilium.dev/internal/trainer"
	pb "consilium.dev/proto/consilium/v1"
)

// Bare returns a participant that can only follow over a connection that is given to it, and needs neither manifest nor keys for that.
// It keeps pieces of all downloads, however small.
func Bare(o Options) *Participant {
	p := assemble(o)
	if o.Manifest != nil {
		p.epochs.chain = manifest.NewChain(o.Manifest)
	}
	p.parts.least = 0
	return p
}

// Memory is what a member's witness keeps.
type Memory struct{ m *memory }

// OpenMemory returns the memory of the witness on o's disk, as a new process finds it.
func OpenMemory(ctx context.Context, federation string, o Options) (Memory, error) {
	m := Memory{newMemory(federation, o)}
	return m, m.m.load(ctx)
}

// Answer answers what a coordinator asks to cosign.
func (m Memory) Answer(ctx context.Context, q *pb.CosignAsked, now time.Time) (*pb.CosignAnswer, error) {
	return m.m.answer(ctx, q, now)
}

// Begin has the witness take note of new logs, the first with that epoch and each of the others with the next.
func (m Memory) Begin(epoch uint64, old ...manifest.OldLog) {
	var all []beginning
	for i, o := range old {
		all = append(all, beginning{epoch + uint64(i), o})
	}
	m.m.begin(all...)
}

// Shown is what the witness says of itself.
func (m Memory) Shown(now time.Time) (*pb.CosignKept, error) { return m.m.shown(now) }

// Kept returns how many lines the witness has seen.
func (m Memory) Kept() int64 { return m.m.kept.head.Size }

// Recode reads a kept checkpoint's plaintext and writes it again.
func Recode(text []byte) ([]byte, error) {
	r, err := decodeRemembered(text)
	return encodeRemembered(r), err
}

// Over loads what was kept and follows over one connection until it breaks.
func (p *Participant) Over(ctx context.Context, conn grpc.ClientConnInterface) error {
	if err := p.load(ctx); err != nil {
		return err
	}
	defer p.studio.stop()
	return p.over(ctx, newStrand(conn, func() {}), nil)
}

// Stay follows, one session after another as they are given to it, until ctx ends.
func (p *Participant) Stay(ctx context.Context, session func(context.Context) error) error {
	return p.stay(ctx, ctx, session)
}

// Standing is what a member's administrator wants.
type Standing struct{ s *standing }

// OpenStanding returns what an earlier process was told, from its disk.
func OpenStanding(ctx context.Context, o store.Objects, kek store.Sealer) (Standing, error) {
	s := Standing{newStanding(blob.New(o, kek), o, time.Now)}
	return s, s.s.load(ctx)
}

// Pause pauses.
func (s Standing) Pause(ctx context.Context, reason string) error { return s.s.pause(ctx, reason) }

// Resume resumes.
func (s Standing) Resume(ctx context.Context) error { return s.s.resume(ctx) }

// Leave leaves a run.
func (s Standing) Leave(ctx context.Context, run, reason string) error {
	_, err := s.s.leave(ctx, run, reason)
	return err
}

// Allows reports whether something of a run may be done.
func (s Standing) Allows(run string) bool { return s.s.allows(run) }

// Reason returns why it is paused, "" where it is not.
func (s Standing) Reason() string { return s.s.wants().Reason }

// DecodeWill reads what an administrator wants and writes it again.
func DecodeWill(text []byte) ([]byte, error) {
	w, err := decodeWill(text)
	if err != nil {
		return nil, err
	}
	return encodeWill(w)
}

// Check is the policy's check at start.
func (p Policy) Check() error { return p.check() }

// Plain words why a session ended.
var Plain = plain

// IsBroken reports whether an error says that the participant's own disk is broken.
func IsBroken(err error) bool {
	_, ok := err.(*diskError)
	return ok
}

// Finished is an update that is kept.
type Finished struct {
	Salt   [32]byte
	Base   entry.Digest
	Weight int64
	Values []float32
}

// Keeper holds finished updates.
type Keeper struct{ k *keeper }

// OpenKeeper returns the keeper of a disk, with what an earlier one kept.
func OpenKeeper(ctx context.Context, o store.Objects, kek store.Sealer) (Keeper, error) {
	k := Keeper{newKeeper(blob.New(o, kek), o)}
	return k, k.k.load(ctx)
}

// Put keeps an update.
func (k Keeper) Put(ctx context.Context, run string, round int, f Finished) error {
	return k.k.put(ctx, key{run, round}, f.finished())
}

// Get returns a kept update.
func (k Keeper) Get(ctx context.Context, run string, round int) (Finished, bool, error) {
	f, ok, err := k.k.get(ctx, key{run, round})
	return Finished{f.salt, f.base, f.weight, f.values}, ok, err
}

// Forget drops the updates of runs that closed does not hold and of rounds up to its value.
func (k Keeper) Forget(ctx context.Context, closed map[string]int) error {
	return k.k.forget(ctx, closed)
}

// Encode returns a kept update's plaintext.
func (f Finished) Encode() []byte {
	return encodeFinished(f.finished())
}

func (f Finished) finished() finished {
	return finished{salt: f.Salt, base: f.Base, weight: f.Weight, values: f.Values}.named()
}

// Decode reads what Encode wrote.
func Decode(text []byte) (Finished, error) {
	f, err := decodeFinished(text)
	return Finished{f.salt, f.base, f.weight, f.values}, err
}

// Consented is what this member agreed to.
type Consented consented

// Encode returns a consent's plaintext.
func (r Consented) Encode() []byte {
	text, err := encodeConsented(consented(r))
	if err != nil {
		panic(err)
	}
	return text
}

// DecodeConsent reads what Encode wrote.
func DecodeConsent(text []byte) (Consented, error) {
	r, err := decodeConsented(text)
	return Consented(r), err
}

// Consents remembers what this member agreed to.
type Consents struct{ c *consents }

// OpenConsents returns the consents on a disk, which remember so many.
func OpenConsents(ctx context.Context, o store.Objects, kek store.Sealer, most int) (Consents, error) {
	c := Consents{newConsents(blob.New(o, kek), o, most)}
	return c, c.c.load(ctx)
}

// Put makes a consent durable.
func (c Consents) Put(ctx context.Context, r Consented) error { return c.c.put(ctx, consented(r)) }

// Has reports whether there is a consent to a run.
func (c Consents) Has(run string) bool {
	_, ok := c.c.of[run]
	return ok
}

// Carried is what a member carries from one round to the next.
type Carried struct{ c *carried }

// ErrNotOurs is what is wrapped by the reason for which a member is out of a round.
var ErrNotOurs = errNotOurs

// OpenCarried returns what is carried on a disk.
func OpenCarried(ctx context.Context, o store.Objects, kek store.Sealer) (Carried, error) {
	c := Carried{newCarried(blob.New(o, kek), o)}
	return c, c.c.load(ctx)
}

// Put keeps what is carried on with an update.
func (c Carried) Put(ctx context.Context, run string, update entry.Digest, own trainer.Carried) error {
	return c.c.put(ctx, run, update, own)
}

// Settle returns what holds, and drops the others.
func (c Carried) Settle(ctx context.Context, run string, contributed entry.Digest) (trainer.Carried, error) {
	return c.c.settle(ctx, run, contributed)
}

// Forget drops those of runs that are not open.
func (c Carried) Forget(ctx context.Context, open map[string]int) error {
	return c.c.forget(ctx, open)
}

// Alias keeps what is carried on with an update under the name that it has under masks.
func (c Carried) Alias(ctx context.Context, run string, update, other, contributed entry.Digest) error {
	return c.c.alias(ctx, run, update, other, contributed)
}

// DecodeCarried reads what is carried and writes it again.
func DecodeCarried(text []byte) ([]byte, error) {
	own, err := decodeCarried(text)
	if err != nil {
		return nil, err
	}
	return encodeCarried(own), nil
}

// Occupy has the participant train for a round as if an earlier session had begun it: until a channel is closed. The other is closed when it is over.
func (p *Participant) Occupy(run string, round int, base entry.Digest, weight int64, values []float32, until <-chan struct{}) (over <-chan struct{}) {
	p.studio.begin(subject{key{run, round}, base, weight}, func(ctx context.Context) (made, error) {
		select {
		case <-until:
			return made{values: values}, nil
		case <-ctx.Done():
			return made{}, ctx.Err()
		}
	})
	return p.studio.now.done
}

// StepsTold returns what is told of a training.
var StepsTold = stepsTold
