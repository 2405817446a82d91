// Package coordinator is the control plane and the aggregator of a federation, in one process inside one enclave. It carries
// out what package round decides: it admits peers over the attested channel, takes their updates, combines them, and writes
// every fact to the log before anybody sees its effect.
//
// One goroutine, the loop, owns the facts and everything derived from them; gRPC's handlers send it inputs and hold no rule.
// Uploads and combinations run beside the loop, own the numbers, and come back as inputs. What a crash erases is the memory
// of updates that were accepted; after a boot the members are asked for the same bytes again, and the sum has the same bits.
package coordinator

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/dialect"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/registry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/skew"
	"consilium.dev/internal/store"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// Options is all that a coordinator needs. Everything but Unwraps, Collateral, Limits, Now, Version and Grace is required.
type Options struct {
	Name      string             // in the manifest
	Manifest  *manifest.Manifest // the anchor: the log ends with it, or holds it, or it is the next
	Identity  crypto.Signer      // the identity key that the manifest gives Name
	Attester  attest.Attester
	Verifiers func(*manifest.Manifest) ([]attest.Verifier, error) // for the evidence that a manifest admits
	Objects   store.Objects
	Head      store.Head
	KEK       store.Sealer // seals blobs, entry bundles and the log's key; without it log and models are lost
	// Who can open the key-encryption key that this rests on, in words, whenever it is asked; nil: nobody is told.
	Unwraps func() string
	// What of revocation lists, TCB info and the like is kept, in words, whenever it is asked; nil: nobody is told.
	Collateral func() string
	Limits     Limits
	Skew       time.Duration // most that a member's clock and ours may differ; 0: skew.Default
	Log        *zap.Logger
	Now        func() time.Time // nil: the clock
	Version    string           // of the program
	Speech     dialect.Speech   // of its answers; zero: what a program of this version speaks
	Grace      time.Duration    // how long Run goes on after ctx has ended, to finish what it holds; 0: not at all
	// How long after a run's end all its models and states are kept, and not only the newest; 0: for ever.
	Retention time.Duration
}

// Limits bounds what peers can make the coordinator spend. A zero field has its default.
type Limits struct {
	Uploads    int64            // bytes of updates in memory at once; default 1 GiB
	Memory     int64            // bytes that the process may take in all: a run that does not fit is refused; 0: nobody knows
	Room       transport.Room   // for connections
	Handshakes transport.Limits // with peers that have not proven their name
	Streams    uint32           // open calls on one connection; default 16
	Message    int              // bytes of one message that a peer sends; default 2 MiB, at least 1.25 and at most 4 MiB
	Progress   time.Duration    // most that an upload may stand still, or what is sent lie unread; default 60 s
	Resume     time.Duration    // longest that what came of an upload that was cut is kept; default 10 min
	Age        time.Duration    // longest life of a connection, give or take a tenth, and a sixth more for calls that are under way; default 1 h, at least 1 min
	OpenRuns   int              // runs that have not ended; default 64
	Starts     int              // runs that one lead starts in 24 hours; default 100
}

// A message holds a chunk, or a manifest of 1 MiB in its envelope, and some more; what is sent is bounded by mostMessage too.
const (
	leastMessage = 5 << 18
	mostMessage  = 4 << 20
)

func (l Limits) withDefaults() Limits {
	l.Uploads = cmp.Or(l.Uploads, 1<<30)
	l.Streams = cmp.Or(l.Streams, 16)
	l.Message = cmp.Or(l.Message, 2<<20)
	l.Progress = cmp.Or(l.Progress, time.Minute)
	l.Resume = cmp.Or(l.Resume, 10*time.Minute)
	l.Age = cmp.Or(l.Age, time.Hour)
	l.OpenRuns = cmp.Or(l.OpenRuns, 64)
	l.Starts = cmp.Or(l.Starts, 100)
	return l
}

func (l Limits) check() error {
	switch {
	case l.Uploads < 0 || l.Memory < 0 || l.Room.Connections < 0 || l.Room.PerAddress < 0 || l.Room.Unread < 0 || l.Progress < 0 || l.Resume < 0 || l.Age < 0 || l.OpenRuns < 0 || l.Starts < 0:
		return errors.New("coordinator: a limit is negative")
	case l.Age != 0 && l.Age < time.Minute:
		return fmt.Errorf("coordinator: the limit of %v for the age of a connection, want %v at least", l.Age, time.Minute)
	case l.Message != 0 && (l.Message < leastMessage || l.Message > mostMessage):
		return fmt.Errorf("coordinator: the limit of %d bytes for a message, want %d to %d", l.Message, leastMessage, mostMessage)
	}
	return nil
}

// Coordinator serves one federation. It is made by New and runs once.
type Coordinator struct {
	o      Options
	epochs *epochs
	blobs  *blob.Blobs
}

// New checks the options. It reads and writes nothing.
func New(o Options) (*Coordinator, error) {
	switch {
	case o.Manifest == nil || o.Identity == nil || o.Attester == nil || o.Objects == nil || o.Head == nil || o.KEK == nil || o.Log == nil:
		return nil, errors.New("coordinator: an option is missing")
	case o.Verifiers == nil:
		return nil, errors.New("coordinator: no verifiers")
	}
	if err := o.Limits.check(); err != nil {
		return nil, err
	}
	o.Limits = o.Limits.withDefaults()
	if o.Skew < 0 {
		return nil, errors.New("coordinator: skew is negative")
	}
	o.Skew = cmp.Or(o.Skew, skew.Default)
	if o.Retention < 0 {
		return nil, errors.New("coordinator: retention is negative")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Speech == (dialect.Speech{}) {
		o.Speech = dialect.Own(o.Version)
	}
	c := &Coordinator{o: o, blobs: blob.New(o.Objects, o.KEK)}
	c.epochs = &epochs{o: &c.o, blobs: c.blobs, quotes: transport.NewQuotes()}
	creds, err := c.epochs.channel(o.Manifest, "", c.refused)
	if err != nil {
		return nil, err
	}
	c.epochs.creds = transport.NewEpochs(creds)
	return c, nil
}

// refused logs a peer that did not get through the channel's handshake. Whoever only looks whether the port is open, and a peer
// that now has the newer manifests, are nobody's trouble.
func (c *Coordinator) refused(r transport.Refusal) {
	switch {
	case r.Mute:
		c.o.Log.Debug("connection closed without a byte", zap.String("peer", r.Peer))
		return
	case r.Sent:
		fields := []zap.Field{zap.String("peer", r.Peer)}
		if r.Name != "" { // else it goes by a key of an older epoch
			fields = append(fields, zap.String("office", r.Office.String()), zap.String("name", r.Name))
		}
		c.o.Log.Info("newer manifests sent", fields...)
		return
	}
	by, office := "us", r.Office.String()
	if r.ByPeer {
		by = "peer"
	}
	if r.Office == 0 { // it had not said yet who it is
		office = "unnamed"
	}
	c.o.Log.Warn("peer refused", zap.String("class", r.Class.String()), zap.String("by", by), zap.String("peer", r.Peer),
		zap.String("office", office), zap.String("name", r.Name), zap.Error(r.Err))
}

// turnedAway returns what logs connections for which there is no room: one in a minute, since a flood would fill the log.
func (c *Coordinator) turnedAway() func(net.Addr, error) {
	say := rate.Sometimes{Interval: time.Minute}
	return func(from net.Addr, why error) {
		say.Do(func() {
			c.o.Log.Warn("connection turned away; others of this minute are not logged", zap.Stringer("peer", from), zap.Error(why))
		})
	}
}

// Run replays the log, writes that it booted, and serves lis until ctx ends or something fails after which memory and log
// might disagree; the next Run of a new Coordinator then goes on where this one stopped. It closes lis, and when it returns
// nothing that it started is left.
//
// When ctx ends it takes no new calls, and lets calls, uploads and combinations that are under way end, for the grace of its
// options at most. What it then still holds is handed back: the members have kept the updates of the open rounds and offer
// them to the next Run.
func (c *Coordinator) Run(ctx context.Context, lis net.Listener) error {
	defer lis.Close()
	life, die := context.WithCancel(context.WithoutCancel(ctx))
	c.epochs.life = life
	defer c.epochs.parting.Wait()
	defer die()
	defer func() { _ = c.epochs.creds.Now().Close() }() // it cuts and forgets, and always can
	l, self, err := c.boot(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // it was asked to end before it served: what a boot has written, the next one goes on from
	}
	if err != nil {
		return err
	}
	server := c.serve(l, self)
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	g, work := errgroup.WithContext(work)
	g.Go(func() error { return l.run(work) })
	g.Go(func() error {
		room := c.o.Limits.Room
		room.Unread = cmp.Or(room.Unread, c.o.Limits.Progress)
		err := server.Serve(transport.Door(lis, room, c.turnedAway()))
		if err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it had begun
			return fmt.Errorf("serving: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		select {
		case <-ctx.Done():
			c.drain(work, l, server)
			cut()
		case <-work.Done():
		}
		<-l.done // what was begun is written before connections are cut
		server.Stop()
		return nil
	})
	c.o.Log.Info("serving", zap.Stringer("address", lis.Addr()), zap.String("federation", c.o.Manifest.Federation()),
		zap.Uint64("epoch", c.epochs.now().Epoch()))
	return g.Wait()
}

// drain lets what is under way end, for the grace of the options at most: first the calls, then the combinations that the last
// of them may have begun.
func (c *Coordinator) drain(ctx context.Context, l *loop, server *grpc.Server) {
	if c.o.Grace <= 0 {
		return
	}
	c.o.Log.Info("ending", zap.Duration("grace", c.o.Grace))
	ctx, cancel := context.WithTimeout(ctx, c.o.Grace)
	defer cancel()
	close(l.ending)
	calls := make(chan struct{})
	go func() {
		defer close(calls)
		server.GracefulStop()
	}()
	select {
	case <-calls:
		l.rest(ctx)
	case <-ctx.Done():
		server.Stop() // which ends GracefulStop too
		<-calls
	}
	if ctx.Err() != nil {
		c.o.Log.Warn("the grace is over before everything had ended; members offer again what was not taken")
	}
}

// boot replays the log and writes who goes on with it, under the newest manifest that the log has adopted or the one that is
// configured to follow it.
func (c *Coordinator) boot(ctx context.Context) (*loop, attest.Appraisal, error) {
	origin := "consilium.dev/" + c.o.Manifest.Federation()
	key, err := ledger.OpenKey(ctx, c.o.Objects, c.o.KEK, origin)
	if err != nil {
		return nil, attest.Appraisal{}, fmt.Errorf("opening the log's key: %w", orRestore(err))
	}
	facts, err := ledger.Open(ctx, ledger.Config{Objects: c.o.Objects, Head: c.o.Head, Sealer: c.o.KEK, Key: key})
	if err != nil {
		return nil, attest.Appraisal{}, fmt.Errorf("opening the log: %w", orRestore(err))
	}
	l := c.loop(facts)
	if err := l.replay(ctx); err != nil {
		return nil, attest.Appraisal{}, orRestore(err)
	}
	found, err := orphans(ctx, c.blobs, l.named)
	if err != nil {
		return nil, attest.Appraisal{}, err
	}
	l.named, l.orphans = nil, found
	if err := l.clocks.behind(l.state.Newest()); err != nil {
		return nil, attest.Appraisal{}, err
	}
	c.epochs.key, c.epochs.loop = key, l
	m, err := c.settle(ctx, l)
	if err != nil {
		return nil, attest.Appraisal{}, fmt.Errorf("taking over the log: %w", err)
	}
	if err := c.electors(ctx, l); err != nil {
		return nil, attest.Appraisal{}, err
	}
	if l.quorum.open {
		self, err := c.takeOver(ctx, l, time.Time{})
		return l, self, err
	}
	// Evidence is judged as of the boot's line, and witnesses may be away for days: it is made anew when they have come. What is
	// made now says whether it would pass at all.
	_, self, err := c.epochs.self(ctx, m)
	if err != nil {
		return nil, attest.Appraisal{}, err
	}
	since := c.o.Now().UTC().Truncate(time.Microsecond)
	l.quorum.takeOver = func(ctx context.Context) error {
		_, err := c.takeOver(ctx, l, since)
		return err
	}
	return l, self, nil
}

// electors finds out whose word the log needs before it may grow: of those who decide over it, and of those who will once the
// manifests are adopted that it is to go on under.
func (c *Coordinator) electors(ctx context.Context, l *loop) (err error) {
	due := c.epochs.due(l.adopted)
	sets, free := l.ahead(due)
	if len(due) > 0 {
		if err := releasable(c.epochs.now(), sets); err != nil {
			return fmt.Errorf("epoch %d: %w", c.epochs.now().Epoch(), err)
		}
	}
	if l.quorum, err = newQuorum(sets, free, c.blobs, c.o.Log); err != nil {
		return err
	}
	if len(sets) > 0 {
		if err := l.quorum.restore(ctx, c.o.Objects, l.facts.View(), &l.sets, c.epochs.chain.Load()); err != nil {
			return err
		}
	}
	l.quorum.withholdAll(l.closings)
	l.closings = nil
	return nil
}

// settle finds the manifest under which this process goes on, and has the channel use it.
func (c *Coordinator) settle(ctx context.Context, l *loop) (*manifest.Manifest, error) {
	e := c.epochs
	if err := e.restore(ctx, l.adopted); err != nil {
		return nil, err
	}
	m := e.now()
	if _, begins := m.OldLog(); begins && len(l.adopted) > 0 && l.adopted[len(l.adopted)-1].Manifest != m.Digest() {
		return nil, fmt.Errorf("%w: a new log begins with epoch %d, and this store holds the log of before: name an empty store, or a manifest without old_log",
			round.ErrOtherLog, m.Epoch())
	}
	if len(l.adopted) == 0 {
		if err := begins(m); err != nil {
			return nil, err
		}
	}
	if key, known := m.Key(attest.Coordinator, c.o.Name); !known || !key.Equal(c.o.Identity.Public()) {
		return nil, fmt.Errorf("the manifest of epoch %d does not give this identity key to a coordinator named %q", m.Epoch(), c.o.Name)
	}
	if m != c.o.Manifest {
		creds, err := e.channel(m, e.creds.Now().Instance(), c.refused)
		if err != nil {
			return nil, err
		}
		_ = e.creds.Turn(creds).Close() // nobody has come over it
	}
	l.epoch, l.members = m.Epoch(), membersOf(m)
	return m, nil
}

// takeOver writes under which manifest this process goes on, if that is a new one, and that it does; since is when the log's
// witnesses began to be waited for, zero where there are none. What is newer still it adopts then as a coordinator that runs does.
func (c *Coordinator) takeOver(ctx context.Context, l *loop, since time.Time) (attest.Appraisal, error) {
	e := c.epochs
	due := e.due(l.adopted)
	m := e.now()
	if len(due) > 0 {
		m = due[0]
	}
	enclave, self, err := e.self(ctx, m)
	if err != nil {
		return attest.Appraisal{}, err
	}
	if err := e.keep(ctx, m); err != nil {
		return attest.Appraisal{}, err
	}
	if sets, _ := l.ahead(due[:min(1, len(due))]); len(sets) == 0 {
		since = time.Time{} // a newer manifest came meanwhile, which names none
	}
	booted := entry.Booted{
		Coordinator: c.o.Name, Instance: e.creds.Now().Instance(), Version: c.o.Version, Types: enclave.Types, Sets: enclave.Sets,
		Simulated: enclave.Simulated, LogKey: e.key.Verifier(), Evidence: enclave.Evidence, Since: since,
	}
	for _, in := range []round.Input{adoption(m), round.Boot{Fact: booted}} {
		if err := l.take(ctx, in); err != nil {
			return attest.Appraisal{}, fmt.Errorf("taking over the log: %w", err)
		}
	}
	for _, m := range due[min(1, len(due)):] {
		if err := e.keep(ctx, m); err != nil {
			return attest.Appraisal{}, err
		}
		in, err := e.proven(ctx, m)
		if err == nil {
			err = l.take(ctx, in)
		}
		if err != nil {
			return attest.Appraisal{}, fmt.Errorf("taking over the log, epoch %d: %w", m.Epoch(), err)
		}
	}
	l.sweep(ctx, l.orphans)
	l.orphans = nil
	return self, nil
}

func (c *Coordinator) loop(facts *ledger.Ledger) *loop {
	l := &loop{
		log: c.o.Log, now: c.o.Now, version: c.o.Version, facts: facts, combine: (&combiner{c.blobs, rand.Reader}).combine, blobs: c.blobs, memory: c.o.Limits.Memory, kept: c.o.Retention,
		presence: newPresence(c.o.Now), clocks: newClocks(c.o.Now, c.o.Skew),
		messages: make(chan message), ending: make(chan struct{}), done: make(chan struct{}), state: round.New(), index: registry.New(),
		hold: newHold(c.o.Limits.Uploads, c.o.Limits.Resume, func() int { return len(c.epochs.now().Members()) }), studies: map[string]study{}, named: map[entry.Digest]bool{}, results: make(chan combined),
		turns: semaphore.NewWeighted(combining), wake: time.NewTimer(time.Hour), closings: map[closing]int64{},
	}
	l.wanted.Store(&news{of: nil, changed: make(chan struct{})})
	l.show()
	return l
}

// orRestore says what to do where the storage does not give back what was written to it. What is damaged is never repaired here:
// whoever can alter a store could have what he likes repaired into it.
func orRestore(err error) error {
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrFull) || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w (nothing is repaired: if the storage has lost or altered this, put that file back from a copy, or the "+
		"whole store with consilium restore, and start again)", err)
}

// serve makes the gRPC server with every service and both guards.
func (c *Coordinator) serve(l *loop, self attest.Appraisal) *grpc.Server {
	m, now := c.epochs.now, c.o.Now
	gate := &guard{manifest: m, now: now, cut: c.cut, progress: c.o.Limits.Progress, log: c.o.Log}
	words := &voice{speech: c.o.Speech, log: c.o.Log}
	doorman := &admitter{loop: l, blobs: c.blobs}
	fetched := &downloads{}
	view := &viewer{unwraps: c.o.Unwraps, presence: l.presence, downloads: fetched, now: now, simulated: self.Simulated, rollback: l.rollback}
	server := grpc.NewServer(append(transport.ServerOptions(),
		grpc.Creds(c.epochs.creds),
		grpc.StatsHandler(connections{}),
		grpc.ForceServerCodecV2(pb.Codec()),
		grpc.ChainUnaryInterceptor(gate.unary(doorman.entered), words.unary),
		grpc.ChainStreamInterceptor(gate.stream(doorman.entered), words.stream),
		grpc.MaxConcurrentStreams(c.o.Limits.Streams),
		grpc.WaitForHandlers(true),    // Stop cuts the connections, which ends them
		grpc.MaxHeaderListSize(8<<10), // the default keeps 16 MiB of headers for each open call
		grpc.MaxRecvMsgSize(c.o.Limits.Message), grpc.MaxSendMsgSize(mostMessage),
		grpc.ConnectionTimeout(20*time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 30 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: time.Minute, Timeout: 20 * time.Second, MaxConnectionAge: c.o.Limits.Age, MaxConnectionAgeGrace: c.o.Limits.Age / 6,
		}),
	)...)
	models := &models{loop: l, manifest: m, blobs: c.blobs, view: view, downloads: fetched, log: c.o.Log}
	pb.RegisterRoundsServer(server, &rounds{
		loop: l, presence: l.presence, records: func() int64 { return m().Limits().Records() }, cut: c.cut, progress: c.o.Limits.Progress, log: c.o.Log,
		identity: func(name string) (ed25519.PublicKey, bool) { return m().Key(attest.Participant, name) },
	})
	pb.RegisterRunsServer(server, &runs{
		loop: l, manifest: m, combiner: &combiner{c.blobs, rand.Reader}, view: view, bounds: c.o.Limits, log: c.o.Log,
	})
	pb.RegisterWitnessesServer(server, &witnesses{
		loop: l, manifest: m, presence: l.presence, cut: c.cut, progress: c.o.Limits.Progress, now: now, log: c.o.Log,
	})
	pb.RegisterBlobsServer(server, models)
	pb.RegisterModelsServer(server, models)
	pb.RegisterFederationServer(server, &federation{epochs: c.epochs, now: now, simulated: self.Simulated, log: c.o.Log})
	pb.RegisterLogServer(server, &history{loop: l, blobs: c.blobs, log: c.o.Log})
	return server
}

// cut closes the peer's connection.
func (c *Coordinator) cut(p transport.Peer) {
	c.epochs.creds.Now().CloseWhere(func(q transport.Peer) bool { return q.Binding == p.Binding })
}
