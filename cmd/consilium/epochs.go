package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/client"
	"consilium.dev/internal/durable"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
)

// maxTurns is how many times one command dials again because epochs differ: each time who is ahead sends 16 manifests.
const maxTurns = 8

// epochs is the chain of manifests that this person has adopted: the configured one, which is the anchor, and those that lie beside
// it, one file an epoch. Each is checked by the one before it whenever it is read, so the files need no protection.
type epochs struct {
	file string // of the configured manifest

	mu    sync.Mutex // guards what follows
	chain *manifest.Chain
	kept  uint64 // the newest epoch that lies in a file
}

// openEpochs reads the files that lie beside the configured manifest.
func openEpochs(file string, configured *manifest.Manifest) (*epochs, error) {
	e := &epochs{file: file, chain: manifest.NewChain(configured), kept: configured.Epoch()}
	for {
		path := e.path(e.kept + 1)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return e, nil
		}
		text, err := readManifestFile(path)
		if err == nil {
			e.chain, err = e.chain.Extend(text)
		}
		if err == nil && e.chain.Newest().Epoch() != e.kept+1 {
			err = fmt.Errorf("it is not of epoch %d", e.kept+1)
		}
		if err != nil {
			return nil, refusedError("remove it: the coordinator sends newer manifests again", "%s: %w", path, err)
		}
		e.kept++
	}
}

// path returns where the manifest of a later epoch is kept.
func (e *epochs) path(epoch uint64) string {
	base := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(e.file), ".json"), ".dsse")
	return filepath.Join(filepath.Dir(e.file), fmt.Sprintf("%s.epoch-%d.dsse.json", base, epoch))
}

func (e *epochs) now() *manifest.Manifest {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.chain.Newest()
}

// history returns the manifests from the configured one to the one that holds, oldest first.
func (e *epochs) history() []*manifest.Manifest {
	e.mu.Lock()
	defer e.mu.Unlock()
	first := e.chain.Newest()
	for m := first; m != nil; m = e.chain.At(m.Epoch() - 1) {
		first = m
	}
	return append([]*manifest.Manifest{first}, e.chain.After(first.Epoch())...)
}

// adopt takes newer manifests, which prove themselves.
func (e *epochs) adopt(_ uint64, envelopes [][]byte) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	next, err := e.chain.Extend(envelopes...)
	switch {
	case err != nil:
		return err
	case next.Newest() == e.chain.Newest():
		return errors.New("none of them is newer")
	}
	e.chain = next
	return nil
}

// after returns what a coordinator is behind us by.
func (e *epochs) after(epoch uint64) [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.chain.Envelopes(epoch)
}

// past returns the policy of an epoch that is over.
func (e *epochs) past(epoch uint64) attest.Policy {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.chain.Policy(epoch)
}

// keep writes what was adopted into files. Where it cannot, the next command adopts it again, so that is said and no failure.
func (e *epochs) keep(a *app) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.chain.After(e.kept) {
		path := e.path(m.Epoch())
		if err := durable.Replace(path, m.Envelope(), 0o644); err != nil {
			a.say("epoch %d of the manifest holds now, and could not be kept: %v", m.Epoch(), err)
			return
		}
		a.say("epoch %d of the manifest holds now, %s, signed by %s; kept in %s", m.Epoch(), entry.Digest(m.Digest()), strings.Join(m.Signers(), ", "), path)
		e.kept = m.Epoch()
	}
}

// turn goes on under the newest manifest.
func (c *connection) turn(a *app) error {
	c.epochs.keep(a)
	m := c.epochs.now()
	verifiers, err := setup.Verifiers(m)
	if err != nil {
		return refusedError("the manifest's roots are not usable", "epoch %d of the manifest: %w", m.Epoch(), err)
	}
	c.config.Manifest, c.config.Verifiers = m, verifiers
	if err := c.check(); err != nil {
		return err
	}
	return c.dial()
}

// again dials again, after a while in which nobody asked anything. The connection before may have been made anew by itself meanwhile, and have adopted
// a newer manifest: under the older one the coordinator would have nothing newer for us, and we would refuse it.
func (c *connection) again(a *app) error {
	_ = c.Close() // dial does it too: from here on it adopts nothing
	if c.epochs.now().Epoch() != c.config.Manifest.Epoch() {
		return c.turn(a)
	}
	return c.dial()
}

// following makes a call, again and again while it fails for a newer manifest that was adopted.
func (c *connection) following(ctx context.Context, a *app, call func(context.Context, *connection) error) error {
	for n := 0; ; n++ {
		err := call(ctx, c)
		if !errors.Is(err, client.ErrNewer) || n == maxTurns {
			return err
		}
		if err := c.turn(a); err != nil {
			return err
		}
	}
}
