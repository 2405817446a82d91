package transport

import (
	"context"

	"consilium.dev/internal/attest"
)

// maxChain is the most envelopes of one MANIFESTS frame. A peer that is further behind adopts them and dials again.
const maxChain = 16

// differ goes on, on the dialler's side, after both hellos were exchanged and name different epochs of our federation. It
// always ends the handshake.
func (x *exchange) differ() error {
	if x.theirs.epoch < x.mine.epoch {
		chain, err := x.chain()
		if err != nil {
			return err
		}
		return x.sendChain(chain)
	}
	// From any leaf: the frame proves itself, and the epoch may have changed that leaf's key.
	return x.takeChain()
}

// differOver is differ for the listener, which has not yet sent its hello.
func (x *exchange) differOver(ctx context.Context, helloS []byte) error {
	older := x.theirs.epoch < x.mine.epoch
	var chain []byte
	var err error
	if older {
		chain, err = x.chain()
	} else {
		err = x.endorse() // a listener takes a chain only from a leaf of its own manifest
		if err == nil && x.c.cfg.Newer == nil {
			err = x.newer()
		}
	}
	if err == nil {
		err = x.enroll(ctx) // it may have us send, or check, a mebibyte; also where only an older epoch knows its key
	}
	if err != nil {
		return err
	}
	if err := x.write(appendFrame(nil, frameHelloS, helloS)); err != nil {
		return err
	}
	if older {
		return x.sendChain(chain)
	}
	return x.takeChain()
}

// newer is the refusal of a peer that is ahead of us.
func (x *exchange) newer() error {
	return attest.Refuse(attest.ClassManifest, "the peer is at epoch %d, we are at %d", x.theirs.epoch, x.mine.epoch)
}

// older is the refusal of a peer that is behind.
func (x *exchange) older(why string) error {
	return attest.Refuse(attest.ClassManifest, "the peer is at epoch %d, we are at %d: %s", x.theirs.epoch, x.mine.epoch, why)
}

// chain returns the MANIFESTS body for a peer that is behind: lp(envelope) of each epoch after its own, oldest first, as
// many as one frame takes. Its leaf must be endorsed in some epoch from its own to ours.
func (x *exchange) chain() ([]byte, error) {
	cfg := &x.c.cfg
	err := x.endorse()
	for e := x.mine.epoch; err != nil && cfg.Past != nil && e > x.theirs.epoch; {
		e--
		if p := cfg.Past(e); p != nil {
			err = x.endorsedBy(p)
		}
	}
	if err != nil {
		return nil, err
	}
	if cfg.Chain == nil {
		return nil, x.older("there is no chain to send")
	}
	var body []byte
	for i, envelope := range cfg.Chain(x.theirs.epoch) {
		if i == maxChain || len(body)+4+len(envelope) > maxBody {
			break
		}
		body = appendLP(body, envelope)
	}
	if body == nil {
		return nil, x.older("there is no chain to send")
	}
	return body, nil
}

// sendChain sends MANIFESTS in place of the frame that is due, and no ALERT after it.
func (x *exchange) sendChain(body []byte) error {
	if err := x.write(appendFrame(nil, frameManifests, body)); err != nil {
		return err
	}
	x.silent = true
	return x.older("it was sent the chain of newer manifests")
}

// takeChain reads MANIFESTS and hands them on. Nothing else of the peer is believed.
func (x *exchange) takeChain() error {
	if x.c.cfg.Newer == nil {
		return x.newer()
	}
	body, err := x.read(frameManifests, maxBody)
	if err != nil {
		return err
	}
	envelopes, err := parseChain(body)
	if err != nil {
		return err
	}
	x.taken = true
	if err := x.c.cfg.Newer(x.theirs.epoch, envelopes); err != nil {
		return attest.Refuse(attest.ClassManifest, "adopting epoch %d: %w", x.theirs.epoch, err)
	}
	x.adopted = true
	return attest.Refuse(attest.ClassManifest, "a newer manifest was adopted: dial again")
}

// parseChain reads a MANIFESTS body.
func parseChain(body []byte) ([][]byte, error) {
	c := cursor{rest: body}
	var all [][]byte
	for len(c.rest) > 0 && !c.short && len(all) < maxChain {
		all = append(all, c.lp())
	}
	if c.short || len(c.rest) != 0 || len(all) == 0 {
		return nil, attest.Refuse(attest.ClassParse, "MANIFESTS is not 1 to %d whole envelopes", maxChain)
	}
	return all, nil
}
