package coordinator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/transport"
	pb "consilium.dev/proto/consilium/v1"
)

// admission is a connection's place for "its peer's admission is history".
type admission struct {
	turn chan struct{} // holds a token but while the fact is written: nobody is served before
	done bool          // owned by whoever has the token
}

type admissionKey struct{}

// connections gives each connection its admission.
type connections struct{}

func newAdmission() *admission {
	a := &admission{turn: make(chan struct{}, 1)}
	a.turn <- struct{}{}
	return a
}

func (connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, admissionKey{}, newAdmission())
}
func (connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (connections) HandleRPC(context.Context, stats.RPCStats)                       {}
func (connections) HandleConn(context.Context, stats.ConnStats)                     {}

// admitter makes each admission a fact, with everything that an auditor needs to judge it again kept beside it.
type admitter struct {
	loop  *loop
	blobs *blob.Blobs
}

// patience is how long a person's call waits for the log's witnesses before it is told for whom it waits. Participants have
// nothing better to do.
const patience = 20 * time.Second

// opened waits until the log may grow: before that no admission can be written down, so nobody is served but a witness that shows
// what it keeps, whose admission is the first thing that is written.
func (a *admitter) opened(ctx context.Context, p transport.Peer) error {
	var late <-chan time.Time
	if p.Office == attest.Person {
		t := time.NewTimer(patience)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-a.loop.quorum.opened:
		return nil
	case <-late:
		return answer(a.loop.log, a.loop.waiting(ctx))
	case <-a.loop.ending:
		return answer(a.loop.log, errStopping)
	case <-a.loop.done:
		return answer(a.loop.log, errStopping)
	case <-ctx.Done():
		return answer(a.loop.log, ctx.Err())
	}
}

// entered writes the fact before the connection's first call is served.
func (a *admitter) entered(ctx context.Context, p transport.Peer, method string) error {
	if method != pb.Witnesses_Cosign_FullMethodName || !a.loop.quorum.decides(p.Name) {
		if err := a.opened(ctx, p); err != nil {
			return err
		}
	}
	c, ok := ctx.Value(admissionKey{}).(*admission)
	if !ok {
		panic("coordinator: a call without a connection")
	}
	select {
	case <-c.turn:
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	defer func() { c.turn <- struct{}{} }()
	if c.done {
		return nil
	}
	// A call that its caller gives up must not leave the fact half written, or written and forgotten: then each further call
	// would write it again, and a peer could fill the log over one connection.
	ctx = context.WithValue(context.WithoutCancel(ctx), peerKey{}, p)
	leaf := p.State.PeerCertificates[0]
	kept, err := a.blobs.Put(ctx, bytes.NewReader(entry.Kept{
		Evidence: keptOf(p.Evidence), Preimage: p.Preimage, ReportData: p.Binding[:], SPKI: leaf.RawSubjectPublicKeyInfo, Leaf: leaf.Raw,
		Sets: p.Appraisal.Sets, Any: p.Appraisal.Any,
	}.Encode()))
	if err != nil {
		return answer(a.loop.log, fmt.Errorf("keeping the evidence of %s %s: %w", p.Office, p.Name, err))
	}
	f := entry.Admitted{
		Office: p.Office.String(), Name: p.Name, Instance: p.Instance, Sets: p.Appraisal.Sets, Any: p.Appraisal.Any,
		Simulated: p.Appraisal.Simulated, Binding: sha256.Sum256(p.Binding[:]), Kept: kept,
		Issued: p.Issued.UTC().Truncate(time.Microsecond), Expires: p.Expires.UTC(),
	}
	for _, e := range p.Evidence {
		f.Types = append(f.Types, e.Type.String())
	}
	for _, c := range p.Claims {
		f.Evidence = append(f.Evidence, c.Signed)
		for _, n := range c.Numbers {
			f.Numbers = append(f.Numbers, entry.Number(n))
		}
	}
	if err := a.loop.decide(ctx, round.Admit{Fact: f}); err != nil {
		return answer(a.loop.log, err)
	}
	c.done = true
	return nil
}

// keptOf returns evidence in the form in which it is kept.
func keptOf(all []attest.Evidence) []entry.KeptEvidence {
	var out []entry.KeptEvidence
	for _, e := range all {
		k := entry.KeptEvidence{Type: e.Type.String(), Body: e.Body}
		for _, c := range e.Collateral {
			k.Collateral = append(k.Collateral, entry.KeptCollateral{Kind: uint8(c.Kind), Bytes: c.Bytes})
		}
		out = append(out, k)
	}
	return out
}
