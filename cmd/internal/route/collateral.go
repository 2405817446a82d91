package route

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"go.uber.org/zap"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/tunnel"
)

// Collateral is how a configuration has certificates, revocation lists and the like kept and fetched.
type Collateral struct {
	Folder  string `yaml:"folder"`   // absent: collateral in the store's folder
	Fetch   string `yaml:"fetch"`    // "none" (also if absent), or "online"
	KDS     string `yaml:"kds"`      // https://HOST, in place of AMD's service
	PCS     string `yaml:"pcs"`      // https://HOST, in place of Intel's: a PCCS, for example
	RootCRL string `yaml:"root_crl"` // address of the revocation list of Intel's root; absent: Intel's, or a PCCS's own
	Proxy   Proxy  `yaml:"proxy"`    // the way to all of these; absent: the enclave's way out, else as the environment says
}

// Open opens the cache that the configuration describes, beside a store in that folder. out is the enclave's way out, or nil; path makes a path of the configuration usable;
// verifiers are those of the manifest. With existing the folder must be there.
func (c Collateral) Open(store string, path func(string) string, out *tunnel.Tunnel, verifiers []attest.Verifier, log *zap.Logger, existing bool) (*collateral.Cache, error) {
	folder := path(c.Folder)
	if folder == "" {
		folder = filepath.Join(store, "collateral")
	}
	service, err := c.Service(path, out)
	if err != nil {
		return nil, err
	}
	return collateral.Open(collateral.Options{Folder: folder, Existing: existing, Service: service, Log: log}, verifiers)
}

// Service returns where collateral is fetched, nil for nowhere. out is the enclave's way out, or nil.
func (c Collateral) Service(path func(string) string, out *tunnel.Tunnel) (*collateral.Service, error) {
	switch c.Fetch {
	case "", "none":
		if c.KDS != "" || c.PCS != "" || c.RootCRL != "" || c.Proxy != (Proxy{}) {
			return nil, errors.New("collateral: kds, pcs, root_crl and proxy say where to fetch from: they want fetch: online beside them")
		}
		return nil, nil //nolint:nilnil // nothing is fetched
	case "online":
	default:
		return nil, fmt.Errorf("collateral.fetch: %q: want none or online", c.Fetch)
	}
	if _, err := c.Proxy.to("kdsintf.amd.com:443", "collateral", path, out); err != nil { // said at once, not at the first question
		return nil, err
	}
	return collateral.NewService(c.KDS, c.PCS, c.RootCRL, func(ctx context.Context, address string) (net.Conn, error) {
		way, err := c.Proxy.to(address, "collateral", path, out)
		if err != nil {
			return nil, err
		}
		if way == nil {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
		return way.Dial(ctx, address)
	})
}
