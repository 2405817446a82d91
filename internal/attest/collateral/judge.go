package collateral

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"consilium.dev/internal/attest"
)

// inHandshake is the most that somebody waits in a handshake for what is fetched.
const inHandshake = 8 * time.Second

// Verifiers returns the verifiers, of which those that can read collateral judge evidence by what came with it and by what is kept: of each
// piece by the one with the higher number that holds. What is missing is fetched first, if there is a service, and what came and is newer
// than what is kept is kept once evidence was found genuine by it. Claims say what else than what came was used.
//
// It also makes these verifiers those by which the cache reads pieces. The error is of the folder.
func (c *Cache) Verifiers(all []attest.Verifier) ([]attest.Verifier, error) {
	if err := c.trust(all); err != nil {
		return nil, err
	}
	out := slices.Clone(all)
	for i, v := range out {
		if r, ok := v.(attest.Reader); ok {
			out[i] = &verifier{r, c}
		}
	}
	return out, nil
}

// Judges returns a function that makes verifiers as of does, and has them judge as those of [Cache.Verifiers].
func Judges[M any](c *Cache, of func(M) ([]attest.Verifier, error)) func(M) ([]attest.Verifier, error) {
	return func(m M) ([]attest.Verifier, error) {
		all, err := of(m)
		if err != nil {
			return nil, err
		}
		return c.Verifiers(all)
	}
}

type verifier struct {
	attest.Reader
	cache *Cache
}

// Verify is that of attest.Verifier, with what is kept beside c.
func (v *verifier) Verify(ctx context.Context, e attest.Evidence, b attest.Binding, now time.Time, c attest.Collateral) (attest.Claims, error) {
	names, err := v.Needs(e)
	if err != nil { // which the verifier words better
		return v.Reader.Verify(ctx, e, b, now, c)
	}
	sent := v.Examine(e)
	v.cache.demand(ctx, without(names, sent), now)
	judged, ours := v.cache.chosen(names, sent, e.Collateral, now)
	alone := len(ours) == 0 && len(judged) == len(e.Collateral)
	e.Collateral = judged
	claims, err := v.Reader.Verify(ctx, e, b, now, slices.Concat(c, ours))
	if err != nil {
		return attest.Claims{}, err
	}
	if !alone {
		claims.Judged = slices.Concat(judged, ours)
		again := e
		again.Collateral = claims.Judged
		if _, err := v.Reader.Verify(ctx, again, b, now, c); err != nil { // as an auditor will: too many pieces, for example
			return attest.Claims{}, err
		}
	}
	sent = slices.DeleteFunc(sent, func(p attest.Piece) bool { return p.Number == nil || !holdsItem(judged, p.Item) })
	if err := v.cache.learn(sent); err != nil {
		return attest.Claims{}, err
	}
	v.cache.want(names) // not before: whoever made evidence that is refused may have named what he liked
	return claims, nil
}

func holdsItem(all attest.Collateral, item attest.Item) bool {
	return slices.ContainsFunc(all, func(i attest.Item) bool { return bytes.Equal(i.Bytes, item.Bytes) })
}

// without returns the names of which there is no piece.
func without(names []string, pieces []attest.Piece) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return find(pieces, name) != nil })
}

func find(pieces []attest.Piece, name string) *attest.Piece {
	for i := range pieces {
		if pieces[i].Name == name {
			return &pieces[i]
		}
	}
	return nil
}

// demand fetches what is missing, as far as questions that evidence raises may be asked. Without an answer evidence is judged by what there is.
func (c *Cache) demand(ctx context.Context, names []string, at time.Time) {
	names = c.missing(names, at)
	if c.o.Service == nil || len(names) == 0 || !c.share(attest.PeerIn(ctx)).AllowN(c.o.Now(), len(names)) {
		return
	}
	// A caller who goes, or who came when its time was nearly over, is no failure of the service, for which others would have to wait.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), inHandshake)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	_, _ = c.Fetch(asking, names) // told to the log
}

// A peer's evidence may raise so many questions at once, and one more in each pause. What one peer uses up is no other's.
const (
	shareBurst = 16
	sharePause = 10 * time.Second
	maxShares  = 4096 // peers whose shares are remembered
)

// share returns what is left to a peer of its questions.
func (c *Cache) share(p attest.Peer) *rate.Limiter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l, ok := c.shares[p]; ok {
		return l
	}
	now := c.o.Now()
	if len(c.shares) >= maxShares { // a peer has proven its name, so there are no more than the manifest names, in any epoch
		maps.DeleteFunc(c.shares, func(_ attest.Peer, l *rate.Limiter) bool { return l.TokensAt(now) >= shareBurst })
	}
	l := rate.NewLimiter(rate.Every(sharePause), shareBurst)
	if len(c.shares) < maxShares {
		c.shares[p] = l
	}
	return l
}

// chosen returns what of the collateral that was sent evidence is judged by, and what of that which is kept.
func (c *Cache) chosen(names []string, sent []attest.Piece, came attest.Collateral, at time.Time) (theirs, ours attest.Collateral) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look()
	var use []attest.Piece
	theirs = slices.Clone(came)
	documents := true // of Intel's, which are taken as a pair: both kept ones hold, and are newer than what was sent
	for _, name := range names {
		if isDocument(kindOf(name)) && !c.instead(name, sent, at) {
			documents = false
		}
	}
	for _, name := range names {
		document := isDocument(kindOf(name))
		if document && !documents || !document && !c.instead(name, sent, at) {
			continue
		}
		use = append(use, c.pieces[name])
		if p := find(sent, name); p != nil && p.Number != nil {
			theirs = slices.DeleteFunc(theirs, func(i attest.Item) bool { return bytes.Equal(i.Bytes, p.Item.Bytes) })
		}
		if document { // one without its other is none of sent
			theirs = slices.DeleteFunc(theirs, func(i attest.Item) bool { return i.Kind == kindOf(name) })
		}
	}
	return theirs, items(use)
}

func isDocument(k attest.Kind) bool { return k == attest.KindTCBInfo || k == attest.KindQEIdentity }

// instead reports whether the piece that is kept is used instead of what was sent: it holds, and has a higher number.
func (c *Cache) instead(name string, sent []attest.Piece, at time.Time) bool {
	kept, ok := c.pieces[name]
	if !ok || !holds(kept, at) {
		return false
	}
	p := find(sent, name)
	return p == nil || p.Number != nil && kept.Number != nil && kept.Number.Cmp(p.Number) > 0
}

// learn keeps what is newer than what is kept, and refuses what has a lower number than was ever seen.
func (c *Cache) learn(sent []attest.Piece) error {
	_, err := c.keep(sent)
	var refusal *attest.Error
	if errors.As(err, &refusal) {
		return refusal
	}
	if err != nil {
		c.o.Log.Error("collateral that came with evidence could not be kept", zap.Error(err))
	}
	return nil
}

// Endorse returns evidence of our own with what of its collateral is kept, or can be fetched, and did not come with it.
func (c *Cache) Endorse(ctx context.Context, e attest.Evidence) attest.Evidence {
	c.mu.Lock()
	r, ok := c.readers[e.Type]
	c.mu.Unlock()
	if !ok {
		return e
	}
	names, err := r.Needs(e)
	if err != nil {
		return e
	}
	c.want(names)
	now := c.o.Now()
	sent := r.Examine(e)
	c.demand(ctx, without(names, sent), now)
	theirs, ours := c.chosen(names, sent, e.Collateral, now)
	e.Collateral = slices.Concat(theirs, ours)
	return e
}

// Attester returns the attester with collateral put to its evidence as by [Cache.Endorse].
func (c *Cache) Attester(a attest.Attester) attest.Attester { return &attester{a, c} }

type attester struct {
	attest.Attester
	cache *Cache
}

// Attest returns evidence that carries b, with its collateral.
func (a *attester) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	e, err := a.Attester.Attest(ctx, b)
	if err != nil {
		return e, err
	}
	return a.cache.Endorse(ctx, e), nil
}
