package collateral

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob/kms/call"
)

// Where the makers hand collateral out.
const (
	DefaultKDS  = "https://kdsintf.amd.com"
	DefaultPCS  = "https://api.trustedservices.intel.com"
	DefaultRoot = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
)

// pccsRoot is where a PCCS has the list of Intel's root (Intel, "PCCS API", version 4).
const pccsRoot = "/sgx/certification/v4/rootcacrl"

// What fetching is bounded by.
const (
	askTime    = 10 * time.Second // for one piece, all tries
	atOnce     = 4                // questions
	firstPause = time.Minute      // after a piece could not be fetched; doubled for each time
	mostPause  = time.Hour
)

// Service is where collateral is fetched. It is not changed once a cache has it.
type Service struct {
	kds, pcs, root string
	ask            call.Caller
}

// NewService returns a Service with the base addresses of AMD's service, Intel's, and the address of the list of Intel's root; "" is the
// maker's own, and for the last, beside another pcs, the path at which a PCCS has it. dial reaches host:port, by a proxy for
// example; nil dials straight.
func NewService(kds, pcs, root string, dial func(ctx context.Context, address string) (net.Conn, error)) (*Service, error) {
	s := &Service{kds: strings.TrimSuffix(kds, "/"), pcs: strings.TrimSuffix(pcs, "/"), root: root}
	if s.kds == "" {
		s.kds = DefaultKDS
	}
	switch {
	case s.root != "":
	case s.pcs == "" || s.pcs == DefaultPCS:
		s.root = DefaultRoot
	default:
		s.root = s.pcs + pccsRoot
	}
	if s.pcs == "" {
		s.pcs = DefaultPCS
	}
	for _, address := range []string{s.kds, s.pcs, s.root} {
		if err := call.CheckURL(address); err != nil {
			return nil, fmt.Errorf("collateral: %q: %w", address, err)
		}
	}
	transport := &http.Transport{TLSHandshakeTimeout: askTime, MaxIdleConnsPerHost: 1, IdleConnTimeout: askTime, MaxResponseHeaderBytes: maxFile}
	if dial != nil {
		transport.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) }
	}
	s.ask = call.Caller{
		All: askTime, Answer: maxFile,
		Client: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
	return s, nil
}

// Close lets go of connections that wait for another question.
func (s *Service) Close() { s.ask.Client.CloseIdleConnections() }

// chains are the headers in which Intel's service gives the issuers of what it answers, percent-encoded PEM.
var chains = []string{"TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain", "SGX-Enclave-Identity-Issuer-Chain", "SGX-PCK-CRL-Issuer-Chain"}

// get asks for one piece. The answer is not judged yet.
func (s *Service) get(ctx context.Context, at attest.Service, path, name string) (attest.Collateral, error) {
	who, address := "AMD's KDS", s.kds+path
	switch at {
	case attest.PCS:
		who, address = "Intel's PCS", s.pcs+path
	case attest.Root:
		who, address = "the list of Intel's root", s.root
	}
	a, err := s.ask.Do(ctx, who, func(ctx context.Context) (*http.Request, error) {
		return http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	}, func([]byte) string { return "" })
	if err != nil {
		return nil, err
	}
	body := a.Body
	if kindOf(name) == 0 {
		if der, err := hex.DecodeString(string(bytes.TrimSpace(body))); err == nil { // a PCCS gives lists so
			body = der
		}
	}
	all, err := itemsIn(name, body)
	if err != nil {
		return nil, fmt.Errorf("%s gives what is %w", who, err)
	}
	for _, h := range chains {
		if text, err := url.QueryUnescape(a.Header.Get(h)); err == nil && text != "" {
			all = append(all, attest.Item{Kind: attest.KindIssuerChain, Bytes: []byte(text)})
		}
	}
	return all, nil
}

// failure is a piece that could not be fetched.
type failure struct {
	err          error
	since, again time.Time
	pause        time.Duration
}

// UnknownError says that nobody hands a piece out.
type UnknownError struct{ Name string }

func (e *UnknownError) Error() string {
	return e.Name + " is handed out by nobody: it must come with the evidence or be imported"
}

// Fetch asks the services for the newest issue of each of the names, and keeps what they give. It returns the names of those that are new
// here. The error joins what could not be had; what could be is kept.
func (c *Cache) Fetch(ctx context.Context, names []string) ([]string, error) {
	if c.o.Service == nil {
		return nil, errors.New("collateral is not fetched here")
	}
	c.mu.Lock()
	readers := c.readers
	c.mu.Unlock()
	got := make([]attest.Collateral, len(names))
	faults := make([]error, len(names))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, name := range names {
		g.Go(func() error {
			// One that waits for another's question may get the error of a caller that has gone away: then it asks itself.
			for {
				v, err, shared := c.asking.Do(name, func() (any, error) { return c.ask(ctx, readers, name, nil) })
				if shared && errors.Is(err, context.Canceled) && ctx.Err() == nil {
					continue
				}
				got[i], _ = v.(attest.Collateral)
				faults[i] = err
				return nil
			}
		})
	}
	_ = g.Wait() // no question fails the others
	c.recovered(ctx, readers, names, got)
	fresh, err := c.fetchedAll(readers, names, got, faults)
	return fresh, errors.Join(append(faults, err)...)
}

// ask asks for a piece: the newest, or the one of a recovery where its number is not nil (the parameter of Intel's service, version 4).
func (c *Cache) ask(ctx context.Context, readers map[attest.Type]attest.Reader, name string, recovery *big.Int) (attest.Collateral, error) {
	for _, r := range readers {
		if at, path, known := r.Source(name); known {
			if recovery != nil {
				mark := "?"
				if strings.Contains(path, mark) {
					mark = "&"
				}
				path += mark + "tcbEvaluationDataNumber=" + recovery.String()
			}
			all, err := c.o.Service.get(ctx, at, path, name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			return all, nil
		}
	}
	return nil, &UnknownError{name}
}

// recovered asks once more, by its number, for each of Intel's documents of which a higher one was seen than was given now. For about a
// year after a recovery Intel gives those of the one before to whoever names no number (update=standard), and the newest to others: a single
// peer that shows the newest would else leave us, when that has run out, with nothing that we may take.
func (c *Cache) recovered(ctx context.Context, readers map[attest.Type]attest.Reader, names []string, got []attest.Collateral) {
	found := examined(readers, slices.Concat(got...))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, name := range names {
		c.mu.Lock()
		seen := c.numbers[name]
		c.mu.Unlock()
		p, ok := found[name]
		if !ok || !isDocument(kindOf(name)) || seen == nil || p.Number.Cmp(seen) >= 0 {
			continue
		}
		g.Go(func() error {
			if all, err := c.ask(ctx, readers, name, seen); err == nil {
				got[i] = all
			}
			return nil
		})
	}
	_ = g.Wait() // without an answer the lower one is refused
}

// examined returns the newest of the pieces among what came, by name.
func examined(readers map[attest.Type]attest.Reader, all attest.Collateral) map[string]attest.Piece {
	found := map[string]attest.Piece{}
	for _, r := range readers {
		for _, p := range r.Examine(attest.Evidence{Type: r.Type(), Collateral: all}) {
			found[p.Name] = newest(found[p.Name], p)
		}
	}
	return found
}

// fetchedAll judges what was fetched, all together, since TCB info counts only with its QE identity, and keeps it. It notes in faults what was
// not given.
func (c *Cache) fetchedAll(readers map[attest.Type]attest.Reader, names []string, got []attest.Collateral, faults []error) ([]string, error) {
	now := c.o.Now()
	found := examined(readers, slices.Concat(got...))
	var pieces []attest.Piece
	for i, name := range names {
		if faults[i] != nil {
			continue
		}
		p, ok := found[name]
		c.mu.Lock()
		low := c.lower(p)
		c.mu.Unlock()
		switch {
		case low != nil:
			faults[i] = fmt.Errorf("the service: %w", low)
		case !ok:
			faults[i] = fmt.Errorf("%s: the service gives something else, or signed by somebody else, or TCB info and QE identity of two recoveries", name)
		case !holds(p, now):
			faults[i] = fmt.Errorf("%s: the service gives what holds from %s to %s", name, p.From.Format(time.RFC3339), p.Until.Format(time.RFC3339))
		default:
			pieces = append(pieces, p)
		}
	}
	fresh, err := c.keep(pieces)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, name := range names {
		c.note(name, faults[i], now)
	}
	return fresh, err
}

// note remembers whether a name could be fetched, and tells the log when that changes.
func (c *Cache) note(name string, err error, now time.Time) {
	old := c.failed[name]
	if err == nil {
		if old != nil {
			c.o.Log.Info("collateral can be fetched again", zap.String("collateral", name))
		}
		delete(c.failed, name)
		return
	}
	if errors.Is(err, context.Canceled) {
		return
	}
	if old == nil {
		maps.DeleteFunc(c.failed, func(name string, f *failure) bool { return !c.concerns(name) && !now.Before(f.again) })
		if len(c.failed) >= maxPieces {
			return
		}
		old = &failure{since: now, pause: firstPause}
		c.failed[name] = old
		fields := []zap.Field{zap.String("collateral", name), zap.Error(err)}
		if p, ok := c.pieces[name]; ok {
			fields = append(fields, zap.Time("expires", p.Until))
			c.o.Log.Warn("collateral cannot be fetched: what is kept is used for as long as it holds and the manifest lets it", fields...)
		} else {
			c.o.Log.Warn("collateral cannot be fetched, and none is kept", fields...)
		}
	} else {
		old.pause = min(2*old.pause, mostPause)
	}
	old.err, old.again = err, now.Add(old.pause)
}

// want notes names that evidence needed, for Refresh, as far as somebody hands them out.
func (c *Cache) want(names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		if len(c.wanted) < maxPieces && c.source(name) {
			c.wanted[name] = true
		}
	}
}

// concerns reports whether Refresh asks for a name.
func (c *Cache) concerns(name string) bool {
	_, kept := c.pieces[name]
	_, refused := c.refused[name]
	return kept || refused || c.wanted[name]
}

// missing returns those of the names that are handed out by somebody, of which nothing that holds is kept, and that may be asked for now.
func (c *Cache) missing(names []string, at time.Time) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, name := range names {
		if !c.source(name) {
			continue
		}
		if p, ok := c.pieces[name]; ok && holds(p, at) {
			continue
		}
		if f := c.failed[name]; f == nil || !at.Before(f.again) {
			all = append(all, name)
		}
	}
	return all
}

func (c *Cache) source(name string) bool {
	for _, r := range c.readers {
		if _, _, known := r.Source(name); known {
			return true
		}
	}
	return false
}
