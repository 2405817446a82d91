// Package participant is a member's daemon inside its own enclave, beside its data. It dials out only, proves itself and
// verifies the coordinator over the attested channel, asks its owner's policy, trains, offers its update and evaluates.
//
// It is told what is wanted of it, whole and again whenever that changes, and does the first of it that is not done; so a
// lost message delays and never hangs. A finished update is sealed on its own disk before it is offered, and offered again,
// the same bytes, until the round is closed: an absent coordinator or a restart costs no training.
package participant

import (
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/control"
	"consilium.dev/internal/dialect"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/skew"
	"consilium.dev/internal/socket"
	"consilium.dev/internal/store"
	"consilium.dev/internal/transport"
	"consilium.dev/internal/tunnel"
	pb "consilium.dev/proto/consilium/v1"
)

// patience is how long the coordinator may be silent, though it sends a heartbeat every 15 s, before it counts as absent.
const patience = time.Minute

// The waits between two attempts to reach the coordinator. One who was refused for its manifest waits for minutes, since
// each attempt costs both sides a piece of evidence and only people can change the outcome.
const (
	firstWait   = 500 * time.Millisecond
	longestWait = 30 * time.Second
	refusedWait = 2 * time.Minute
)

// A coordinator that was heard is there: it was killed, or its link broke. Where it had stayed for the time of steady the waits begin
// anew, else none is longer than spokenWait. One that speaks and hangs up for ever is so asked every few seconds, and no more often.
const (
	steady     = time.Second
	spokenWait = 4 * time.Second
)

// Options is all that a participant needs. Everything but Dial, Now, Version and Grace is required.
type Options struct {
	Name        string                                                      // of the member, in the manifest
	Manifest    *manifest.Manifest                                          // the anchor; newer ones that were adopted lie in Objects
	Coordinator string                                                      // its name in the manifest
	Address     string                                                      // of the coordinator, host:port or vsock:CID:PORT
	Dial        func(ctx context.Context, address string) (net.Conn, error) // nil: straight there
	Identity    crypto.Signer
	Attester    attest.Attester
	Platform    string                                              // by which it attests, in words, for status; "": not said
	Verifiers   func(*manifest.Manifest) ([]attest.Verifier, error) // for the evidence that a manifest admits
	Objects     store.Objects                                       // on the member's own disk
	KEK         store.Sealer                                        // seals what is kept there
	Unwraps     func() string                                       // who can open the key-encryption key that this rests on, in words; nil: not said
	Collateral  func() collateral.State                             // what of it is kept, for the administrator; nil: not said
	Data        Data
	Policy      Policy
	Tray        string        // folder for newer manifests that wait for their owner, where the policy asks
	Skew        time.Duration // most that the coordinator's clock and ours may differ; 0: skew.Default
	Log         *zap.Logger
	Now         func() time.Time // nil: the clock
	Version     string           // of the program
	Speech      dialect.Speech   // of its calls; zero: what a program of this version speaks
	Control     net.Listener     // where the member's own administrator speaks, as control.Listen makes it; nil: nowhere. Run closes it
	Grace       time.Duration    // how long Run goes on after ctx has ended, to finish the task under way; 0: not at all
}

// Participant follows one coordinator. It is made by New and runs once.
type Participant struct {
	o      Options
	log    *zap.Logger
	kept   *keeper
	own    *carried // from one round to the next
	masks  *masker
	agreed *consents
	memory *memory // of its witness, if it is one
	plans  planCache
	data   *dataCache
	parts  *parts
	last   *version // the model that was fetched last; or nil
	studio studio
	epochs *epochs
	quotes *transport.Quotes // before the own attester
	// attested is the end of the newest connection's appraisals, nil while there is none
	attested atomic.Pointer[time.Time]
	ending   chan struct{} // closed when no further task is taken
	sent     sentLog
	report   *pb.ReportRequest // the last that was worked out, until it is answered; owned by the session's worker
	desk     *desk
	// standing is what the member's own administrator wants
	standing *standing
	known    map[string]bool              // runs that this process saw open and this member takes part in; owned by the session's worker
	spoke    time.Time                    // when the coordinator was first heard over this session; zero: not yet. Owned by its receiver while there is one
	class    atomic.Uint32                // attest.Class of the last refusal by either side
	way      atomic.Pointer[tunnel.Error] // why this session's proxy does not lead to the coordinator; nil if it does
}

// New checks the options. It reads and writes nothing.
func New(o Options) (*Participant, error) {
	switch {
	case o.Manifest == nil || o.Identity == nil || o.Attester == nil || o.Objects == nil || o.KEK == nil || o.Log == nil:
		return nil, errors.New("participant: an option is missing")
	case o.Verifiers == nil:
		return nil, errors.New("participant: no verifiers")
	case o.Coordinator == "":
		return nil, errors.New("participant: no coordinator to dial")
	}
	if err := socket.Check(o.Address); err != nil {
		return nil, fmt.Errorf("participant: the coordinator's address %w", err)
	}
	if _, ok := o.Manifest.Key(attest.Participant, o.Name); !ok {
		return nil, fmt.Errorf("participant: the manifest has no member %q", o.Name)
	}
	if _, ok := o.Manifest.Key(attest.Coordinator, o.Coordinator); !ok {
		return nil, fmt.Errorf("participant: the manifest has no coordinator %q", o.Coordinator)
	}
	if err := o.Policy.check(); err != nil {
		return nil, fmt.Errorf("participant: %w", err)
	}
	if o.Policy.Adopt == adoptAsk && o.Tray == "" {
		return nil, errors.New("participant: the policy asks about newer manifests, and there is no folder to ask in")
	}
	if o.Policy.Adopt == adoptAsk && o.Control == nil {
		return nil, errors.New("participant: the policy asks about newer manifests, and there is no socket over which to answer")
	}
	if o.Skew < 0 {
		return nil, errors.New("participant: skew is negative")
	}
	p := assemble(o)
	p.memory = newMemory(o.Manifest.Federation(), o)
	return p, nil
}

func assemble(o Options) *Participant {
	o.Skew = cmp.Or(o.Skew, skew.Default)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Speech == (dialect.Speech{}) {
		o.Speech = dialect.Own(o.Version)
	}
	sealed := blob.New(o.Objects, o.KEK)
	var asked tray
	if o.Policy.Adopt == adoptAsk {
		asked.folder = o.Tray
	}
	return &Participant{
		o: o, log: o.Log, kept: newKeeper(sealed, o.Objects), own: newCarried(sealed, o.Objects), masks: newMasker(sealed, o.Objects), agreed: newConsents(sealed, o.Objects, maxConsents), plans: planCache{}, known: map[string]bool{}, desk: newDesk(o.Now), standing: newStanding(sealed, o.Objects, o.Now),
		data: &dataCache{files: o.Data}, epochs: newEpochs(sealed, o.Objects, asked, o.Log), ending: make(chan struct{}),
		parts: newParts(sealed, o.Objects), quotes: transport.NewQuotes(),
	}
}

// load finds what an earlier process left on the disk.
func (p *Participant) load(ctx context.Context) error {
	if err := errors.Join(p.kept.load(ctx), p.own.load(ctx), p.masks.load(ctx)); err != nil {
		return err
	}
	if p.memory != nil {
		if err := p.memory.load(ctx); err != nil {
			return err
		}
	}
	if err := errors.Join(p.parts.load(ctx), p.standing.load(ctx)); err != nil {
		return err
	}
	return p.agreed.load(ctx)
}

// Run follows the coordinator until ctx ends; it outlives the coordinator's absence, however long. It returns an error only
// for what waiting cannot cure: an own disk that fails. When ctx ends it takes no further task, and finishes the one under way
// if the grace of its options is enough; an update that is finished is kept, and offered by the next process.
func (p *Participant) Run(ctx context.Context) error {
	if err := errors.Join(p.epochs.load(ctx, p.o.Manifest), p.load(ctx)); err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil // it was asked to end before it had begun: what is wrong besides, the next process finds too
		}
		return err
	}
	for _, name := range p.o.Policy.strangers(p.epochs.now()) {
		p.log.Warn("the policy names a lead whom the manifest lets lead nothing", zap.String("name", name))
	}
	work, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	defer context.AfterFunc(ctx, func() {
		close(p.ending)
		time.AfterFunc(p.o.Grace, cut)
	})()
	p.rest()
	if w := p.standing.wants(); w.Paused {
		p.log.Warn("paused by its administrator", zap.String("reason", w.Reason), zap.Time("since", w.Since))
	}
	listen, hush := context.WithCancel(work)
	var administrator errgroup.Group
	if p.o.Control != nil {
		administrator.Go(func() error {
			return control.Serve(listen, p.o.Control, func(q control.Question) (any, error) { return p.told(listen, q) })
		})
	}
	err := p.stay(ctx, work, p.follow)
	hush()
	return errors.Join(err, p.finish(work), administrator.Wait())
}

// goesOn reports whether further tasks are taken.
func (p *Participant) goesOn() bool {
	select {
	case <-p.ending:
		return false
	default:
		return true
	}
}

// stay follows the coordinator, session after session, until ctx ends; the last one may go on until work ends.
func (p *Participant) stay(ctx, work context.Context, session func(context.Context) error) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = firstWait, longestWait
	for {
		p.class.Store(0)
		p.way.Store(nil)
		p.spoke = time.Time{}
		err := session(work)
		var broken *diskError
		switch {
		case errors.As(err, &broken):
			return err
		case ctx.Err() != nil:
			return nil
		}
		if p.epochs.turned() { // the refusal was no fault of anybody's: dial again at once
			m := p.epochs.now()
			p.log.Info("dialling under the newer manifest", zap.Uint64("epoch", m.Epoch()))
			if key, ok := m.Key(attest.Participant, p.o.Name); !ok || !key.Equal(p.o.Identity.Public()) {
				p.log.Warn("the newer manifest does not give this identity key to this member; it takes no part until one does", zap.Uint64("epoch", m.Epoch()))
			}
			wait.Reset()
			continue
		}
		spoken := !p.spoke.IsZero()
		if spoken && p.o.Now().Sub(p.spoke) >= steady {
			wait.Reset()
		}
		pause := wait.NextBackOff()
		if spoken {
			pause = min(pause, spokenWait/2+rand.N(spokenWait/2))
		}
		var clock *skewError
		way := p.way.Load()
		if way != nil {
			err = way // gRPC hands on its text alone, in its own words
		}
		if attest.Class(p.class.Load()) == attest.ClassManifest || errors.As(err, &clock) || errors.Is(err, dialect.ErrForeign) || way != nil && way.Denied() {
			pause = refusedWait + rand.N(refusedWait)
		}
		p.log.Warn("no coordinator", zap.String("reason", plain(err)), zap.Duration("next_try", pause.Round(time.Millisecond)))
		if err := p.pause(ctx, pause); err != nil {
			return err
		}
	}
}

// plain words why a session ended, in one line and without the names that gRPC gives to everything.
func plain(err error) string {
	var all []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		if i := strings.Index(line, "rpc error: code = "); i >= 0 {
			_, text, _ := strings.Cut(line[i:], " desc = ")
			if quoted, ok := strings.CutPrefix(text, `connection error: desc = "`); ok {
				text = strings.TrimSuffix(quoted, `"`)
			}
			line = line[:i] + text
		}
		if line != "" && !slices.Contains(all, line) {
			all = append(all, line)
		}
	}
	return strings.Join(all, "; ")
}

// pause waits, and keeps what is trained meanwhile. It ends early with ctx.
func (p *Participant) pause(ctx context.Context, d time.Duration) error {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		changed := p.standing.changes()
		p.heed()
		select {
		case <-ctx.Done():
			return nil
		case <-over.C:
			return nil
		case <-p.epochs.said:
			return nil
		case <-changed:
		case <-p.studio.finished():
			if _, err := p.keep(ctx); err != nil && !errors.Is(err, errNotOurs) {
				return err
			}
		}
	}
}

// dialer makes credentials for one session. They do not outlive it, so each session attests anew.
func (p *Participant) dialer() (*dialer, error) {
	m := p.epochs.now()
	verifiers, err := p.o.Verifiers(m)
	if err != nil {
		return nil, err
	}
	creds, err := transport.Client(transport.Config{
		Office: attest.Participant, Name: p.o.Name, PeerOffice: attest.Coordinator, PeerName: p.o.Coordinator,
		Federation: m.Federation(), Epoch: m.Epoch(), Manifest: m.Digest(), RequirePQ: m.PQ(attest.Participant),
		Identity: p.o.Identity, Attester: p.o.Attester, Quotes: p.quotes, Verifiers: verifiers, Policy: m, Now: p.o.Now, Refused: p.refused,
		Newer: p.epochs.adopt, Chain: p.epochs.after, Past: p.epochs.past,
	})
	if err != nil {
		return nil, err
	}
	// The dialler gets the address as it is configured: a name is looked up again for each connection. Whoever made the
	// options has looked at the environment.
	options := append(p.o.Speech.Caller(), grpc.WithContextDialer(p.reach), grpc.WithNoProxy(),
		grpc.WithTransportCredentials(creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(pb.Codec()), grpc.MaxCallRecvMsgSize(4<<20), grpc.MaxCallSendMsgSize(4<<20)),
	)
	options = append(options, transport.DialOptions()...)
	if p.o.Dial != nil {
		options = append(options, grpc.WithConnectParams(slowly))
	}
	return &dialer{p: p, manifest: m, creds: creds, options: options}, nil
}

// slowly is how a coordinator is dialled to whom a proxy may have to find its way first.
var slowly = grpc.ConnectParams{Backoff: grpcbackoff.DefaultConfig, MinConnectTimeout: tunnel.Patience + 20*time.Second}

// reach dials as the options say, and remembers what a proxy has against it.
func (p *Participant) reach(ctx context.Context, address string) (net.Conn, error) {
	if p.o.Dial == nil {
		return socket.Dial(ctx, address)
	}
	conn, err := p.o.Dial(ctx, address)
	var way *tunnel.Error
	errors.As(err, &way)
	p.way.Store(way)
	return conn, err
}

// refused logs why a handshake failed and remembers it for the next wait.
func (p *Participant) refused(r transport.Refusal) {
	if way := (*tunnel.Error)(nil); errors.As(r.Err, &way) { // the proxy has hung up, and nobody has refused anybody
		p.way.Store(way)
		return
	}
	if r.Cut { // why there is no coordinator is logged anyway
		return
	}
	if !r.Sent { // else it may let us in at once
		p.class.Store(uint32(r.Class))
	}
	by := "us"
	if r.ByPeer {
		by = "coordinator"
	}
	p.log.Warn("coordinator refused", zap.String("class", r.Class.String()), zap.String("by", by), zap.String("peer", r.Peer), zap.Error(r.Err))
}
