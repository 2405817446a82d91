package transport

import (
	"context"
	"fmt"
	"io"

	"consilium.dev/internal/attest"
)

// hello returns ours, to the peer of that name.
func (x *exchange) hello(peer string) (hello, error) {
	cfg := &x.c.cfg
	h := hello{
		side: x.side, office: cfg.Office, federation: cfg.Federation, manifest: cfg.Manifest, epoch: cfg.Epoch,
		own: cfg.Name, peer: peer, types: cfg.types(),
	}
	if _, err := io.ReadFull(cfg.Rand, h.nonce[:]); err != nil {
		return hello{}, fmt.Errorf("nonce: %w", err)
	}
	return h, nil
}

// dial is the exchange as the client sees it.
func (x *exchange) dial(ctx context.Context) (Peer, error) {
	var err error
	if x.mine, err = x.hello(x.c.cfg.PeerName); err != nil {
		return Peer{}, err
	}
	// C->S HELLO_C, S->C HELLO_S
	helloC := x.mine.encode()
	if err := x.write(appendFrame(nil, frameHelloC, helloC)); err != nil {
		return Peer{}, err
	}
	helloS, err := x.read(frameHelloS, maxHello)
	if err != nil {
		return Peer{}, err
	}
	if err := x.meet(helloS); err != nil {
		return Peer{}, err
	}
	if x.theirs.epoch != x.mine.epoch {
		return Peer{}, x.differ()
	}
	if err := x.equal(); err != nil {
		return Peer{}, x.lookOn(ctx, helloC, helloS, err)
	}
	if err := x.derive(helloC, helloS); err != nil {
		return Peer{}, err
	}
	// S->C EVIDENCE_S, judged before we show anything about our own machine
	evidenceS, err := x.read(frameEvidence, evidenceLimit(x.theirs.types))
	if err != nil {
		return Peer{}, err
	}
	judged, err := x.judge(ctx, evidenceS)
	if err != nil {
		return Peer{}, err
	}
	// C->S EVIDENCE_C, FINISHED_C: in one go, since the listener reads both before it may write
	evidenceC, err := x.attest(ctx)
	if err != nil {
		return Peer{}, err
	}
	mac := finished(x.ekm.finished, clientSide, x.th, evidenceS, evidenceC, verdictAccept)
	if err := x.write(appendFrame(appendFrame(nil, frameEvidence, evidenceC), frameFinished, mac)); err != nil {
		return Peer{}, err
	}
	// S->C FINISHED_S
	mac, err = x.readFinished()
	if err != nil {
		return Peer{}, err
	}
	if err := x.checkFinished(mac, evidenceS, evidenceC); err != nil {
		return Peer{}, err
	}
	return x.peer(judged), nil
}

// listen is the exchange as the server sees it. It leaves FINISHED_S to be sent.
func (x *exchange) listen(ctx context.Context) (Peer, error) {
	// C->S HELLO_C; nothing else is read before the leaf's endorsement was checked
	helloC, err := x.read(frameHelloC, maxHello)
	if err != nil {
		return Peer{}, err
	}
	if x.mine, err = x.hello(x.claimed.name); err != nil {
		return Peer{}, err
	}
	if err := x.meet(helloC); err != nil {
		return Peer{}, err
	}
	helloS := x.mine.encode()
	if x.theirs.epoch != x.mine.epoch {
		return Peer{}, x.differOver(ctx, helloS)
	}
	if err := x.equal(); err != nil {
		return Peer{}, err
	}
	// A quote is dear: only a name that was proven may cause one, and not too often.
	if err := x.enroll(ctx); err != nil {
		return Peer{}, err
	}
	if err := x.derive(helloC, helloS); err != nil {
		return Peer{}, err
	}
	// S->C HELLO_S, EVIDENCE_S
	if err := x.write(appendFrame(nil, frameHelloS, helloS)); err != nil {
		return Peer{}, err
	}
	evidenceS, err := x.attest(ctx)
	if err != nil {
		return Peer{}, err
	}
	if err := x.write(appendFrame(nil, frameEvidence, evidenceS)); err != nil {
		return Peer{}, err
	}
	// C->S EVIDENCE_C, FINISHED_C
	evidenceC, err := x.read(frameEvidence, evidenceLimit(x.theirs.types))
	if err != nil {
		return Peer{}, err
	}
	mac, err := x.readFinished()
	if err != nil {
		return Peer{}, err
	}
	judged, err := x.judge(ctx, evidenceC)
	if err != nil {
		return Peer{}, err
	}
	if err := x.checkFinished(mac, evidenceS, evidenceC); err != nil {
		return Peer{}, err
	}
	x.finish = finished(x.ekm.finished, serverSide, x.th, evidenceS, evidenceC, verdictAccept)
	return x.peer(judged), nil
}

// meet reads the peer's hello and judges what does not hang on the epoch.
func (x *exchange) meet(body []byte) (err error) {
	if x.theirs, err = parseHello(body); err != nil {
		return err
	}
	switch {
	case x.theirs.side != x.side.other():
		return attest.Refuse(attest.ClassBind, "hello of side %d, want %d", x.theirs.side, x.side.other())
	case x.theirs.nonce == x.mine.nonce:
		return attest.Refuse(attest.ClassBind, "the peer's nonce is ours")
	case x.theirs.federation != x.mine.federation:
		return attest.Refuse(attest.ClassManifest, "federation %q, ours is %q", x.theirs.federation, x.mine.federation)
	}
	return nil
}

// equal holds the peer's hello, of our epoch, against what the manifest says it must be: steps 2 and 3, and the types of 5.
func (x *exchange) equal() error {
	h, m := x.theirs, x.mine
	if h.manifest != m.manifest {
		return attest.Refuse(attest.ClassManifest, "manifest %x at epoch %d, ours is %x", h.manifest, h.epoch, m.manifest)
	}
	if err := x.endorse(); err != nil {
		return err
	}
	switch {
	case h.office != x.claimed.office || h.own != x.claimed.name:
		return attest.Refuse(attest.ClassManifest, "hello of the %v %q, but the leaf is of the %v %q",
			h.office, h.own, x.claimed.office, x.claimed.name)
	case h.peer != m.own:
		return attest.Refuse(attest.ClassManifest, "hello to %q, but we are %q", h.peer, m.own)
	}
	return allowedTypes(x.c.cfg.Policy, h.office, h.types)
}
