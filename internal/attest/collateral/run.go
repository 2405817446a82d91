package collateral

import (
	"context"
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
	for ctx.Err() == nil {
		_ = c.Refresh(ctx) // told to the log
		select {
		case <-ctx.Done():
		case <-time.After(c.pause()):
		}
	}
}

// wantOwn notes what evidence of our own needs.
func (c *Cache) wantOwn(ctx context.Context, own attest.Attester) {
	e, err := own.Attest(ctx, attest.Binding{})
	if err != nil {
		if ctx.Err() == nil {
			c.o.Log.Warn("no evidence of our own to find collateral for", zap.Error(err))
		}
		return
	}
	c.Want(e)
}

// Want notes what e needs, so that Refresh fetches it. It returns the names.
func (c *Cache) Want(e attest.Evidence) []string {
	c.mu.Lock()
	r, ok := c.readers[e.Type]
	c.mu.Unlock()
	if !ok {
		return nil
	}
	names, err := r.Needs(e)
	if err != nil {
		return nil
	}
	_ = c.missing(names, c.o.Now())
	return names
}

// Refresh fetches once what is kept and wanted, but for what could not be fetched lately and for certificates that still hold long, and
// tells the log what runs out. The error joins what could not be had.
func (c *Cache) Refresh(ctx context.Context) error {
	var err error
	if names := c.due(); c.o.Service != nil && len(names) > 0 {
		_, err = c.Fetch(ctx, names)
	}
	c.warn()
	return err
}

// due returns the names that are to be fetched, ascending.
func (c *Cache) due() []string {
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
	for _, f := range c.failed {
		d = min(d, max(f.again.Sub(now), firstPause/4)+rand.N(firstPause/4))
	}
	return d
}
