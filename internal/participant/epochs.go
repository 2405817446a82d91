package participant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/store"
)

// maxOwn is how long it may take to keep a manifest on the own disk: a handshake waits for it.
const maxOwn = 10 * time.Second

const epochFolder = "epoch/"

// epochs is the chain of manifests that this member has adopted. Each lies sealed on the member's own disk, and is there again
// after a restart, whatever older one the configuration names. It is safe for concurrent use.
type epochs struct {
	blobs   *blob.Blobs
	objects store.Objects
	tray    tray
	log     *zap.Logger

	mu    sync.Mutex // guards what follows
	chain *manifest.Chain
	fresh bool                 // one was adopted since the last dial
	asked []*manifest.Manifest // that wait for the owner, oldest first
	said  chan struct{}        // of one place: the owner has accepted one
}

func newEpochs(b *blob.Blobs, o store.Objects, t tray, log *zap.Logger) *epochs {
	return &epochs{blobs: b, objects: o, tray: t, log: log, said: make(chan struct{}, 1)}
}

// now returns the manifest that holds.
func (e *epochs) now() *manifest.Manifest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.chain.Newest()
}

// limits returns what the manifest that holds allows a run.
func (e *epochs) limits() manifest.Limits {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.chain == nil {
		return manifest.Limits{} // not loaded: the defaults
	}
	return e.chain.Newest().Limits()
}

// mayWitness reports whether the member's word as a witness may count: it is one, or was one in an epoch before. One that was has a word
// until the others have handed over, and knows what a coordinator on an older copy would have to know. Where the epochs before are
// not known here the coordinator is asked.
func (e *epochs) mayWitness(member string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	first := e.chain.Newest()
	for m := first; m != nil; m = e.chain.At(m.Epoch() - 1) {
		if m.IsWitness(member) {
			return true
		}
		first = m
	}
	return first.Epoch() > 1
}

// turned reports whether another manifest holds than when it was last asked.
func (e *epochs) turned() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	fresh := e.fresh
	e.fresh = false
	return fresh
}

// load begins with the configured manifest and goes on with those that an earlier process adopted. Where they do not follow each
// other it refuses: an older manifest must not take the place of a newer one that was adopted, nor another one of its epoch.
func (e *epochs) load(ctx context.Context, configured *manifest.Manifest) error {
	chain, err := adopted(ctx, e.objects, e.blobs.OpenNamed, configured)
	if err != nil {
		return err
	}
	e.chain = chain
	return e.keep(ctx, configured)
}

// Reader is what [Adopted] needs of a member's store: its objects, to read. A [store.Objects] is one.
type Reader interface {
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	List(ctx context.Context, prefix string) iter.Seq2[string, error]
}

// Adopted returns the manifest that the member goes by, as its store has it: the configured one, or the newest that a process of it has
// adopted since. kek opens what is sealed there. It writes nothing, and may be called beside the daemon. Its errors are those with which a
// daemon of that configuration would not start.
func Adopted(ctx context.Context, objects Reader, kek store.Sealer, configured *manifest.Manifest) (*manifest.Manifest, error) {
	chain, err := adopted(ctx, objects, func(ctx context.Context, name string) ([]byte, error) {
		return blob.ReadNamed(ctx, objects, kek, name)
	}, configured)
	if err != nil {
		return nil, err
	}
	return chain.Newest(), nil
}

// adopted returns the chain that begins with the configured manifest and goes on with those that a store keeps. open reads what is named.
func adopted(ctx context.Context, objects Reader, open func(context.Context, string) ([]byte, error), configured *manifest.Manifest) (*manifest.Chain, error) {
	numbers, err := kept(ctx, objects)
	if err != nil {
		return nil, err
	}
	chain := manifest.NewChain(configured)
	for _, n := range numbers {
		if n < configured.Epoch() {
			continue // whoever configured a newer one knew its digest
		}
		text, err := open(ctx, objectOf(n))
		if err != nil {
			return nil, &diskError{fmt.Errorf("the manifest of epoch %d: %w (put it back from a copy, or remove it and configure the manifest that holds)",
				n, err)}
		}
		if chain, err = chain.Extend(text); err != nil {
			return nil, &diskError{fmt.Errorf("the configured manifest is of epoch %d, and epoch %d was adopted, which does not lead on from it; "+
				"configure the manifest of epoch %d, or the one that was configured before: %w", configured.Epoch(), numbers[len(numbers)-1],
				numbers[len(numbers)-1], err)}
		}
	}
	return chain, nil
}

// kept returns the epochs of the manifests in a store, ascending.
func kept(ctx context.Context, objects Reader) ([]uint64, error) {
	var all []uint64
	for name, err := range objects.List(ctx, epochFolder) {
		if err != nil {
			return nil, &diskError{err}
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(name, epochFolder), 10, 64)
		if err != nil || objectOf(n) != name {
			return nil, &diskError{fmt.Errorf("object %s is none of ours", name)}
		}
		all = append(all, n)
	}
	slices.Sort(all)
	return all, nil
}

func objectOf(epoch uint64) string { return epochFolder + strconv.FormatUint(epoch, 10) }

// keep makes a signed manifest durable.
func (e *epochs) keep(ctx context.Context, m *manifest.Manifest) error {
	err := e.blobs.PutNamed(ctx, objectOf(m.Epoch()), m.Envelope())
	if err != nil && !errors.Is(err, store.ErrExist) {
		return &diskError{fmt.Errorf("keeping the manifest of epoch %d: %w", m.Epoch(), err)}
	}
	return nil
}

// adopt takes the newer manifests that a coordinator has sent. They prove themselves.
func (e *epochs) adopt(_ uint64, envelopes [][]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), maxOwn)
	defer cancel()
	e.mu.Lock()
	defer e.mu.Unlock()
	next, err := e.chain.Extend(envelopes...)
	if err != nil {
		return err
	}
	if next.Newest() == e.chain.Newest() {
		return errors.New("none of them is newer") // or a coordinator could have us dial for ever
	}
	if e.tray.folder != "" {
		return e.ask(next)
	}
	return e.take(ctx, next)
}

// take puts the member under the newest manifest of a chain that goes on from ours. mu is held.
func (e *epochs) take(ctx context.Context, next *manifest.Chain) error {
	for _, m := range next.After(e.chain.Newest().Epoch()) {
		if err := e.keep(ctx, m); err != nil { // before it holds: a restart must not fall back
			return err
		}
		e.log.Info("manifest adopted", zap.Uint64("epoch", m.Epoch()), zap.Stringer("manifest", entry.Digest(m.Digest())))
		e.fresh = true
		if err := e.tray.clear(m); err != nil {
			e.log.Warn("a manifest that was adopted still lies before its owner", zap.Uint64("epoch", m.Epoch()), zap.Error(err))
		}
	}
	e.chain = next
	return nil
}

// ask lays the new manifests of a chain before the owner. Its error says that they wait.
func (e *epochs) ask(next *manifest.Chain) error {
	e.asked = next.After(e.chain.Newest().Epoch())
	for _, m := range e.asked {
		path, err := e.tray.offer(m)
		if err != nil {
			return err
		}
		e.log.Warn("a newer manifest waits for its owner: read it, then participant accept DIGEST", zap.Uint64("epoch", m.Epoch()),
			zap.Stringer("manifest", entry.Digest(m.Digest())), zap.String("file", path))
	}
	return fmt.Errorf("epoch %d: %w", next.Newest().Epoch(), errAsk)
}

// accept adopts a manifest that waits for the owner, who has read it, and with it those that it follows. That is durable when it
// returns nil, and may be said again. Only a manifest that the members have signed waits, so it is enough to name it by its digest.
func (e *epochs) accept(digest string) error {
	var d entry.Digest
	if err := d.UnmarshalText([]byte(digest)); err != nil {
		return fmt.Errorf("accept takes the digest of the manifest, as consilium manifest show prints it: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), maxOwn)
	defer cancel()
	e.mu.Lock()
	defer e.mu.Unlock()
	if d == e.chain.Newest().Digest() {
		return nil
	}
	i := slices.IndexFunc(e.asked, func(m *manifest.Manifest) bool { return m.Digest() == d })
	if i < 0 {
		return fmt.Errorf("no manifest of the digest %s waits for its owner: participant status shows those that do; after a start they come with the coordinator's next answer", d)
	}
	var accepted [][]byte
	for _, m := range e.asked[:i+1] {
		accepted = append(accepted, m.Envelope())
	}
	next, err := e.chain.Extend(accepted...)
	if err != nil {
		return err
	}
	if err := e.take(ctx, next); err != nil {
		return err
	}
	e.asked = slices.Clone(e.asked[i+1:])
	select {
	case e.said <- struct{}{}:
	default: // who waits for it has not yet looked
	}
	return nil
}

// waiting returns the manifests that wait for the owner, oldest first.
func (e *epochs) waiting() []Waiting {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []Waiting
	for _, m := range e.asked {
		all = append(all, Waiting{m.Epoch(), m.Digest(), e.tray.path(m)})
	}
	return all
}

// after returns what a coordinator is behind us by.
func (e *epochs) after(epoch uint64) [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.chain.Envelopes(epoch)
}

// begun returns the epochs with which new logs began in place of old ones, oldest first.
func (e *epochs) begun() []beginning {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []beginning
	for _, m := range e.chain.Begun() {
		old, _ := m.OldLog()
		all = append(all, beginning{m.Epoch(), old})
	}
	return all
}

// past returns the policy of an epoch that is over.
func (e *epochs) past(epoch uint64) attest.Policy {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.chain.Policy(epoch)
}
