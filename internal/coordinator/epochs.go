package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/round"
	"consilium.dev/internal/store"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// farewell is how long the connection over which an epoch was published outlives the one before: the answer goes over it.
const farewell = 2 * time.Second

// errUnfit is what a newer manifest is refused with that would leave the federation without this coordinator.
var errUnfit = errors.New("this coordinator cannot go on under it")

// errEpoch is what a peer gets whose words were under way when its epoch ended.
var errEpoch = errors.New("appraised under another manifest: dial again")

// epochs is the chain of manifests that the coordinator has adopted, and how it adopts one more. What is adopted the log says;
// the signed manifests lie beside it, sealed, under their digests.
type epochs struct {
	o     *Options
	blobs *blob.Blobs
	creds *transport.Epochs
	chain atomic.Pointer[manifest.Chain] // changed by the loop only, once it runs
	key   *ledger.Key                    // of the log
	loop  *loop

	quotes *transport.Quotes // before our own attester, under every epoch

	adopting sync.Mutex      // one epoch at a time
	life     context.Context // of Run
	parting  sync.WaitGroup  // connections of epochs that are over
}

// now returns the manifest that holds.
func (e *epochs) now() *manifest.Manifest { return e.chain.Load().Newest() }

// channel returns the credentials of an epoch.
func (e *epochs) channel(m *manifest.Manifest, instance string, refused func(transport.Refusal)) (*transport.Credentials, error) {
	verifiers, err := e.o.Verifiers(m)
	if err != nil {
		return nil, err
	}
	return transport.Server(transport.Config{
		Office: attest.Coordinator, Name: e.o.Name, Instance: instance, Federation: m.Federation(), Epoch: m.Epoch(), Manifest: m.Digest(),
		RequirePQ: m.PQ(attest.Coordinator), Identity: e.o.Identity, Attester: e.o.Attester, Quotes: e.quotes, Verifiers: verifiers, Policy: m, Now: e.o.Now,
		Limits: e.o.Limits.Handshakes, Refused: refused, Newer: e.newer, Chain: e.after, Past: e.past,
	})
}

// newer adopts what a peer is ahead of us by.
func (e *epochs) newer(_ uint64, envelopes [][]byte) error {
	if e.loop == nil {
		return errStopping // no connection is taken before
	}
	adopted, err := e.adopt(e.life, [64]byte{}, envelopes...)
	if err == nil && !adopted {
		err = errors.New("none of them is newer")
	}
	return err
}

// after returns what a peer is behind us by.
func (e *epochs) after(epoch uint64) [][]byte {
	return e.chain.Load().Envelopes(epoch)
}

// past returns the policy of an epoch that is over.
func (e *epochs) past(epoch uint64) attest.Policy {
	return e.chain.Load().Policy(epoch)
}

// objectOf names the object in which a signed manifest rests.
func objectOf(d entry.Digest) string { return "manifest/" + d.String() }

// keep makes a signed manifest durable. The fact that adopts it comes after.
func (e *epochs) keep(ctx context.Context, m *manifest.Manifest) error {
	err := e.blobs.PutNamed(ctx, objectOf(m.Digest()), m.Envelope())
	if err != nil && !errors.Is(err, store.ErrExist) {
		return fmt.Errorf("keeping the manifest of epoch %d: %w", m.Epoch(), err)
	}
	return nil
}

// restore makes the chain of the manifests that the log has adopted, and puts the configured one at its end where that is the
// next. The configured one is the anchor: a log that does not hold it, and does not end where it begins, belongs to another
// federation, or to a manifest that this program was not told of.
func (e *epochs) restore(ctx context.Context, adopted []entry.ManifestAdopted) error {
	configured := e.o.Manifest
	var chain *manifest.Chain
	for _, f := range adopted {
		envelope, err := e.blobs.OpenNamed(ctx, objectOf(f.Manifest))
		switch {
		case f.Manifest == configured.Digest() && (err == nil || errors.Is(err, store.ErrNotExist)):
			envelope = configured.Envelope()
		case errors.Is(err, store.ErrNotExist) && chain == nil:
			continue // the log began before manifests were kept beside it
		case err != nil: // a damaged one also where the configuration has the same: it is needed when that names a later one
			return fmt.Errorf("the manifest of epoch %d: %w", f.Epoch, orRestore(err))
		}
		if chain == nil {
			var m *manifest.Manifest
			if m, err = manifest.Load(envelope, manifest.Anchor{Digest: f.Manifest}); err == nil {
				chain = manifest.NewChain(m)
			}
		} else {
			chain, err = chain.Extend(envelope)
		}
		if err != nil {
			return fmt.Errorf("the manifest of epoch %d: %w", f.Epoch, err)
		}
		if m := chain.Newest(); m.Digest() != f.Manifest {
			return fmt.Errorf("the manifest of epoch %d beside the log is %x, the log has adopted %s", f.Epoch, m.Digest(), f.Manifest)
		}
	}
	switch {
	case chain == nil && len(adopted) > 0:
		return fmt.Errorf("%w: none of its manifests lies beside it; start once with the one that it is under, of epoch %d and digest %s, then publish the next",
			round.ErrOtherLog, adopted[len(adopted)-1].Epoch, adopted[len(adopted)-1].Manifest)
	case chain == nil:
		chain = manifest.NewChain(configured)
	}
	if m := chain.At(configured.Epoch()); m == nil || m.Digest() != configured.Digest() {
		next, err := chain.Extend(configured.Envelope())
		if err != nil {
			return fmt.Errorf("%w: the configured manifest is none that it has adopted, nor the next: %w", round.ErrOtherLog, err)
		}
		chain = next
	}
	e.chain.Store(chain)
	return nil
}

// due returns the manifests that the log has yet to adopt, oldest first. A new log adopts all that are known here: it is to wait for the
// witnesses of each, who would know if it were not the first.
func (e *epochs) due(adopted []entry.ManifestAdopted) []*manifest.Manifest {
	chain := e.chain.Load()
	if n := len(adopted); n > 0 {
		return chain.After(adopted[n-1].Epoch)
	}
	first := chain.Newest()
	for m := first; m != nil; m = chain.At(m.Epoch() - 1) {
		first = m
	}
	return append([]*manifest.Manifest{first}, chain.After(first.Epoch())...)
}

// begins returns an error for a manifest that a new log must not begin with. The witnesses of an epoch that follows another may never
// have seen the log of that one, which others then have witnessed: from an emptied store they would let a second history begin.
func begins(m *manifest.Manifest) error {
	if _, again := m.OldLog(); again || m.Epoch() == 1 || witnessesOf(m).Nobody() {
		return nil
	}
	return fmt.Errorf("a log with witnesses begins with the manifest of epoch 1, or of one whose old_log names the head of the log before, and epoch %d is neither: "+
		"if the store was emptied or is another one, put it back; to begin, configure the manifest of the epoch that the log begins with, and publish the later ones", m.Epoch())
}

// proven returns the adoption of a manifest with evidence that the own enclave passes it, bound to the log as it is.
func (e *epochs) proven(ctx context.Context, m *manifest.Manifest) (round.Input, error) {
	enclave, _, err := e.self(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnfit, err)
	}
	in := adoption(m)
	in.Fact.Enclave = &enclave
	return in, nil
}

// adoption returns what is decided on when a manifest is adopted.
func adoption(m *manifest.Manifest) round.Adopt {
	in := round.Adopt{
		Fact: entry.ManifestAdopted{
			Federation: m.Federation(), Epoch: m.Epoch(), Manifest: m.Digest(), Previous: m.Previous(), Witnesses: m.Witnesses(),
			Members: membersOf(m), OldLog: oldLogOf(m), Budget: budgetOf(m),
		},
		Limits: limitsOf(m),
	}
	for _, p := range m.People() {
		if slices.Contains(p.May, "lead") {
			in.Leads = append(in.Leads, p.Name)
		}
	}
	return in
}

// oldLogOf returns the head of the log that a new one takes the place of, zero where the log goes on.
func oldLogOf(m *manifest.Manifest) entry.LogHead {
	old, _ := m.OldLog()
	return entry.LogHead{Lines: old.Lines, Root: old.Root}
}

// membersOf returns the members' names, ascending.
func membersOf(m *manifest.Manifest) []entry.Member {
	var all []entry.Member
	for _, name := range m.Members() {
		all = append(all, entry.Member(name))
	}
	return all
}

// limitsOf returns what a manifest allows a run. How many may be open it does not say.
func limitsOf(m *manifest.Manifest) round.Limits {
	l := m.Limits()
	return round.Limits{
		Members: membersOf(m), Strategies: l.Strategies, Trainers: l.Trainers, LeastParticipants: l.LeastParticipants, MaxAbs: l.MaxAbs,
		RoundsMax: l.RoundsMax, Budget: budgetOf(m),
	}
}

// budgetOf returns a manifest's budget of privacy, zero where it sets none.
func budgetOf(m *manifest.Manifest) entry.Budget { return entry.Budget(m.Limits().Privacy) }

// adopt puts the federation under newer manifests, oldest first. What is adopted already is no error. When it returns nil the
// newest is history, and all connections of the epochs before are cut, but the one of spared, which ends a moment later.
func (e *epochs) adopt(ctx context.Context, spared [64]byte, signed ...[]byte) (adopted bool, err error) {
	e.adopting.Lock()
	defer e.adopting.Unlock()
	chain := e.chain.Load()
	next, err := chain.Extend(signed...)
	if err != nil {
		return false, err
	}
	for _, m := range next.After(chain.Newest().Epoch()) {
		if chain, err = chain.Extend(m.Envelope()); err != nil {
			return adopted, err
		}
		if err := e.turn(ctx, chain, spared); err != nil {
			return adopted, err
		}
		adopted = true
	}
	return adopted, nil
}

// turn puts the federation under the newest manifest of a chain.
func (e *epochs) turn(ctx context.Context, chain *manifest.Chain, spared [64]byte) error {
	m := chain.Newest()
	if key, known := m.Key(attest.Coordinator, e.o.Name); !known || !key.Equal(e.o.Identity.Public()) {
		return fmt.Errorf("%w: epoch %d does not give the key %s is running with to a coordinator of that name", errUnfit, m.Epoch(), e.o.Name)
	}
	if _, begins := m.OldLog(); begins {
		return fmt.Errorf("%w: a new log begins with epoch %d, and this coordinator has the log of before: start one that has an empty store and that manifest", errUnfit, m.Epoch())
	}
	if err := releasable(m, *e.loop.quorum.deciding.Load()); err != nil {
		return fmt.Errorf("%w: epoch %d: %w", errUnfit, m.Epoch(), err)
	}
	before := e.creds.Now()
	creds, err := e.channel(m, before.Instance(), before.Refused())
	if err != nil {
		return fmt.Errorf("%w: %w", errUnfit, err)
	}
	if err := e.keep(ctx, m); err != nil {
		return err
	}
	// Its evidence is bound to the head that it is written over, so it is made where nothing else is written meanwhile.
	err = e.loop.send(context.WithoutCancel(ctx), message{
		draw: func(ctx context.Context) (round.Input, error) { return e.proven(ctx, m) },
		gated: func(ctx context.Context) error { // it is written down when the log opens; those whom that takes may all be at this epoch
			if _, _, err := e.self(ctx, m); err != nil {
				return &refused{fmt.Errorf("%w: %w", errUnfit, err)}
			}
			return nil
		},
		after: func() error {
			e.chain.Store(chain)
			e.loop.epoch, e.loop.members = m.Epoch(), membersOf(m)
			e.loop.clocks.only(e.loop.members)
			if e.loop.gated() { // before anybody can come as a witness of the new epoch
				if err := e.loop.await(e.due(e.loop.adopted)); err != nil {
					return err
				}
			}
			e.creds.Turn(creds)
			e.part(before, spared)
			return nil
		},
	})
	if err != nil {
		return errors.Join(err, creds.Close())
	}
	return nil
}

// part cuts the connections of an epoch that is over.
func (e *epochs) part(creds *transport.Credentials, spared [64]byte) {
	creds.CloseWhere(func(p transport.Peer) bool { return p.Binding != spared })
	e.parting.Go(func() {
		select {
		case <-time.After(farewell):
		case <-e.life.Done():
		}
		_ = creds.Close() // it cuts and forgets, and always can
	})
}

// reachable returns an error for a manifest with other witnesses of whom too few are connected. Adopted, nothing would be released
// until they come, and no later epoch could take that back. Of one who is no member yet nothing can be known. Whether the manifest may be
// adopted at all adopt finds out.
func (e *epochs) reachable(envelope []byte) error {
	next, err := e.chain.Load().Extend(envelope)
	if err != nil {
		return nil
	}
	set := witnessesOf(next.Newest())
	if slices.ContainsFunc(*e.loop.quorum.deciding.Load(), set.Same) {
		return nil
	}
	var away []string
	for _, name := range set.Names {
		if _, known := e.now().Member(name); known && !e.loop.presence.sighting(entry.Member(name)).Connected {
			away = append(away, name)
		}
	}
	if there := len(set.Names) - len(away); there < set.Quorum {
		return fmt.Errorf("%w: epoch %d: nothing would be released before %d of its witnesses have come, and %d may; not connected: %s; "+
			"publish it when they are", errUnfit, set.Epoch, set.Quorum, there, strings.Join(away, ", "))
	}
	return nil
}

// self has our own enclave make evidence over the log's key, for a manifest and the log as it is, and judges it as a peer would: a
// coordinator whose evidence its members would refuse says so before it asks them. Only the loop, or a boot, may ask.
func (e *epochs) self(ctx context.Context, m *manifest.Manifest) (entry.Enclave, attest.Appraisal, error) {
	head := e.loop.facts.RootHash()
	data, preimage := transport.LogKeyBinding(e.key.SPKI(), m.Federation(), m.Digest(), head)
	b := attest.Binding{ReportData: data, Nonce: head, SPKI: e.key.SPKI()}
	release, err := e.quotes.Ahead(ctx)
	if err != nil {
		return entry.Enclave{}, attest.Appraisal{}, fmt.Errorf("waiting for the own enclave: %w", err)
	}
	shown, err := e.o.Attester.Attest(ctx, b)
	release()
	if err != nil {
		return entry.Enclave{}, attest.Appraisal{}, fmt.Errorf("asking the own enclave for evidence: %w", err)
	}
	shown.Collateral = append(shown.Collateral, e.o.Attester.Covered()...)
	a, err := e.appraise(ctx, m, shown, b)
	if err != nil {
		return entry.Enclave{}, attest.Appraisal{}, fmt.Errorf("the own enclave does not pass the manifest of epoch %d, every member would refuse it: %w", m.Epoch(), err)
	}
	kept, err := e.blobs.Put(ctx, bytes.NewReader(entry.Kept{
		Evidence: keptOf([]attest.Evidence{shown}), Preimage: preimage, ReportData: data[:], Nonce: head[:], SPKI: e.key.SPKI(),
		Sets: a.Sets, Any: a.Any,
	}.Encode()))
	if err != nil {
		return entry.Enclave{}, attest.Appraisal{}, fmt.Errorf("keeping the own evidence: %w", err)
	}
	return entry.Enclave{Types: []string{shown.Type.String()}, Sets: a.Sets, Simulated: a.Simulated, Evidence: kept}, a, nil
}

func (e *epochs) appraise(ctx context.Context, m *manifest.Manifest, shown attest.Evidence, b attest.Binding) (attest.Appraisal, error) {
	verifiers, err := e.o.Verifiers(m)
	if err != nil {
		return attest.Appraisal{}, err
	}
	for _, v := range verifiers {
		if v.Type() != shown.Type {
			continue
		}
		claims, err := v.Verify(ctx, shown, b, e.o.Now(), nil)
		if err != nil {
			return attest.Appraisal{}, err
		}
		p := attest.Peer{Office: attest.Coordinator, Name: e.o.Name}
		return m.Appraise(p, []attest.Claims{claims}, e.o.Now())
	}
	return attest.Appraisal{}, fmt.Errorf("no verifier for %s", shown.Type)
}

// federation answers about the chain of manifests.
type federation struct {
	pb.UnimplementedFederationServer
	epochs    *epochs
	now       func() time.Time
	simulated string // private root of our own enclave
	log       *zap.Logger
}

// Status says how we are. Of whom waits for a quote it says how many there are.
func (f *federation) Status(context.Context, *pb.StatusRequest) (*pb.StatusReply, error) {
	m, queue := f.epochs.now(), f.epochs.quotes.Queue()
	d := m.Digest()
	collateral := ""
	if say := f.epochs.o.Collateral; say != nil {
		collateral = say()
	}
	return &pb.StatusReply{
		Coordinator: f.epochs.o.Name, Version: f.epochs.o.Version, Epoch: m.Epoch(), Manifest: d[:], Simulated: f.simulated,
		NowUs: f.now().UnixMicro(), QuotesWaiting: uint32(min(queue.Waiting, math.MaxUint32)), QuotesOldestUs: queue.Oldest.Microseconds(), Collateral: collateral,
	}, nil
}

func (f *federation) Publish(ctx context.Context, q *pb.PublishRequest) (*pb.PublishReply, error) {
	by := caller(ctx)
	if err := f.epochs.reachable(q.Envelope); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	adopted, err := f.epochs.adopt(ctx, by.Binding, q.Envelope)
	var refusal *attest.Error
	switch {
	case errors.Is(err, errUnfit):
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	case errors.As(err, &refusal) && refusal.Class == attest.ClassManifest:
		return nil, status.Error(codes.InvalidArgument, err.Error())
	case err != nil:
		return nil, answer(f.log, err)
	}
	m, err := manifest.OpenUnverified(q.Envelope) // which is in the chain now, whatever its signatures
	if err != nil {
		return nil, answer(f.log, err)
	}
	if adopted {
		f.log.Info("manifest published", zap.Uint64("epoch", m.Epoch()), zap.String("by", by.Name))
	}
	d := m.Digest()
	return &pb.PublishReply{Epoch: m.Epoch(), Manifest: d[:], Adopted: adopted}, nil
}

func (f *federation) Manifest(_ context.Context, q *pb.ManifestRequest) (*pb.ManifestReply, error) {
	m := f.epochs.chain.Load().At(q.Epoch)
	if m == nil {
		return nil, status.Errorf(codes.NotFound, "no manifest of epoch %d is known here", q.Epoch)
	}
	return &pb.ManifestReply{Envelope: m.Envelope(), Clock: f.now().UnixMicro()}, nil
}
