package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/socket"
	"consilium.dev/internal/transport"
)

// Sight is what came of looking at a coordinator.
type Sight struct {
	transport.Shown
	Refusal *transport.Refusal // of either side; nil where both have admitted each other
}

// Look attests the coordinator at c.Address once, says nothing more to it, and hangs up. A coordinator that is not admitted is no
// error: it is what was to be found out. An error is ErrUnreachable, or ErrNewer: then it was at a newer epoch of the manifest, which
// c.Newer has adopted. Manifests that it has yet to adopt it is not given.
//
// A coordinator shows its evidence to those only whom its manifest knows. What anybody may see of it is its certificate.
func Look(ctx context.Context, c Config) (Sight, error) {
	var s Sight
	adopted, m := false, c.Manifest
	creds, err := transport.Client(transport.Config{
		Office: attest.Person, Name: c.Person, PeerOffice: attest.Coordinator, PeerName: c.Coordinator,
		Federation: m.Federation(), Epoch: m.Epoch(), Manifest: m.Digest(), RequirePQ: m.PQ(attest.Coordinator),
		Identity: c.Key, Verifiers: c.Verifiers, Policy: m, Now: c.Now,
		Refused: func(r transport.Refusal) { s.Refusal = &r },
		Shown:   func(shown transport.Shown) { s.Shown = shown },
		Newer: func(epoch uint64, envelopes [][]byte) error {
			if c.Newer == nil {
				return errors.New("newer manifests are not taken")
			}
			err := c.Newer(epoch, envelopes)
			adopted = err == nil
			return err
		},
	})
	if err != nil {
		return s, err
	}
	defer creds.Close() //nolint:errcheck // it forgets, and always can
	dial := c.Dial
	if dial == nil {
		dial = socket.Dial
	}
	raw, err := dial(ctx, c.Address)
	if err != nil {
		return s, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	conn, _, err := creds.ClientHandshake(ctx, "", raw)
	if err == nil {
		_ = conn.Close() // nothing was said over it
		return s, nil
	}
	switch {
	case adopted:
		return s, ErrNewer
	case errors.As(err, new(tls.RecordHeaderError)):
		return s, fmt.Errorf("%w: what answers at that address is no coordinator", ErrUnreachable)
	case s.Refusal == nil || s.Refusal.Cut || s.Leaf == nil && !s.Refusal.ByPeer: // there was no coordinator that could be looked at to the end
		return s, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return s, nil
}
