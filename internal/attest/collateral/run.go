package collateral

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"

	"consilium.dev/internal/attest"
)

// every is how often all that is kept is fetched anew, give or take a quarter: programs that were started together do not ask together.
const every = 12 * time.Hour

// Run keeps collateral fresh until ctx ends: what is kept, what evidence needed, and what evidence of own needs, which is asked for one
// piece of evidence for that; nil asks for none. Without a service it only tells what runs out. It returns when nothing of it is under way.
func (c *Cache) Run(ctx context.Context, own attest.Attester) {
	if own != nil {
		c.wantOwn(ctx, own)
	}
	var next time.Time
	for ctx.Err() == nil {
		if now := c.o.Now(); !now.Before(next) {
			_ = c.Refresh(ctx) // told to the log
			next = now.Add(c.pause())
		}
		select {
		case <-ctx.Done():
		case <-time.After(looking):
			c.mu.Lock()
			c.look()
			c.catchUp()
			c.mu.Unlock()
			c.warn() // of what somebody has brought on a stick, too
			c.supply(ctx)
		}
	}
}

// supply fetches what genuine evidence lacked: questions that evidence raises are few, and somebody may have used them up with evidence
// that is none.
func (c *Cache) supply(ctx context.Context) {
	c.mu.Lock()
	wanted := slices.Sorted(maps.Keys(c.wanted))
	c.mu.Unlock()
	if names := c.missing(wanted, c.o.Now()); c.o.Service != nil && len(names) > 0 {
		_, _ = c.Fetch(ctx, names) // told to the log
	}
}

// looking is how often Run looks for what others have put into the folder, for what evidence lacked, and whether it is time to fetch.
const looking = time.Minute

// Start has Run go on in the background. The function that it returns ends that, and waits until it has ended.
func (c *Cache) Start(ctx context.Context, own attest.Attester) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.Run(ctx, own)
	}()
	return func() {
		cancel()
		<-done
		if c.o.Service != nil {
			c.o.Service.Close()
		}
	}
}

// follow reads the folder where it has changed: somebody imported something, or another process has seen more.
func (c *Cache) follow() error {
	if c.stamp().Equal(c.changed) {
		return nil
	}
	return c.read()
}

// look follows the folder, and tells the log where that fails.
func (c *Cache) look() {
	if err := c.follow(); err != nil {
		c.o.Log.Error("what is new in the folder of collateral cannot be read", zap.Error(err))
	}
}

// catchUp writes numbers that could not be written when they were seen.
func (c *Cache) catchUp() {
	if !c.behind {
		return
	}
	if err := c.writeNumbers(); err != nil {
		c.o.Log.Error("the highest numbers of collateral cannot be written: after a restart older ones would pass", zap.Error(err))
		return
	}
	c.changed = c.stamp()
	c.o.Log.Info("the highest numbers of collateral are written")
}

// wantOwn notes what evidence of our own needs.
func (c *Cache) wantOwn(ctx context.Context, own attest.Attester) {
	c.mu.Lock()
	needs := slices.ContainsFunc(own.Types(), func(t attest.Type) bool { return c.readers[t] != nil })
	c.mu.Unlock()
	if !needs { // a Nitro enclave does not attest for nobody's key, and would be told of as one that cannot
		return
	}
	e, err := own.Attest(ctx, attest.Binding{})
	if err != nil {
		if ctx.Err() == nil {
			c.o.Log.Warn("no evidence of our own to find collateral for", zap.Error(err))
		}
		return
	}
	if _, err := c.Want(e); err != nil && !errors.Is(err, ErrNone) {
		c.o.Log.Warn("evidence of our own does not say what collateral it needs", zap.Error(err))
	}
}

// ErrNone is the error for evidence of a type that needs no collateral.
var ErrNone = errors.New("such evidence needs no collateral")

// Want notes what e needs, so that Refresh fetches it. It returns the names. The error is ErrNone, or e does not parse.
func (c *Cache) Want(e attest.Evidence) ([]string, error) {
	c.mu.Lock()
	r, ok := c.readers[e.Type]
	c.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("%s: %w", e.Type, ErrNone)
	}
	names, err := r.Needs(e)
	if err != nil {
		return nil, err
	}
	c.want(names)
	return names, nil
}

// Refresh fetches once what is kept and wanted, but for what could not be fetched lately and for certificates that still hold long, and
// tells the log what runs out. The error joins what could not be had.
func (c *Cache) Refresh(ctx context.Context) error {
	var err error
	if names := c.Due(); c.o.Service != nil && len(names) > 0 {
		_, err = c.Fetch(ctx, names)
	}
	c.warn()
	return err
}

// Due returns the names that Refresh would fetch now, ascending.
func (c *Cache) Due() []string {
	now := c.o.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	names := maps.Clone(c.wanted)
	for name := range c.pieces {
		names[name] = true
	}
	for name := range c.refused {
		names[name] = true
	}
	for name := range names {
		p, kept := c.pieces[name]
		f := c.failed[name]
		if !c.source(name) || kept && p.Number == nil && !ending(p, now) || f != nil && now.Before(f.again) {
			delete(names, name)
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// warn tells the log, once for each issue, what runs out.
func (c *Cache) warn() {
	now := c.o.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, p := range c.pieces {
		if !ending(p, now) || c.warned[name].Equal(p.Until) {
			continue
		}
		c.warned[name] = p.Until
		if now.After(p.Until) {
			c.o.Log.Warn("collateral has run out: fetch it, or import a newer one", zap.String("collateral", name), zap.Time("expires", p.Until))
		} else {
			c.o.Log.Warn("collateral runs out: fetch it, or import a newer one", zap.String("collateral", name), zap.Time("expires", p.Until))
		}
	}
}

// pause returns how long to wait before the next refresh: less where something that could not be fetched is due before.
func (c *Cache) pause() time.Duration {
	d := every - every/4 + rand.N(every/2)
	now := c.o.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, f := range c.failed {
		if !c.concerns(name) {
			continue
		}
		d = min(d, max(f.again.Sub(now), firstPause/4)+rand.N(firstPause/4))
	}
	return d
}
