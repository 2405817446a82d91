package coordinator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"

	"google.golang.org/grpc/stats"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/round"
	"consilium.dev/internal/transport"
)

// admission is a connection's place for "its peer's admission is history".
type admission struct {
	mu   sync.Mutex // held while the fact is written: nobody is served before
	done bool
}

type admissionKey struct{}

// connections gives each connection its admission.
type connections struct{}

func (connections) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context {
	return context.WithValue(ctx, admissionKey{}, &admission{})
}
func (connections) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }
func (connections) HandleRPC(context.Context, stats.RPCStats)                       {}
func (connections) HandleConn(context.Context, stats.ConnStats)                     {}

// admitter makes each admission a fact, with everything that an auditor needs to judge it again kept beside it.
type admitter struct {
	loop  *loop
	blobs *blob.Blobs
}

// entered writes the fact before the connection's first call is served.
func (a *admitter) entered(ctx context.Context, p transport.Peer) error {
	c, ok := ctx.Value(admissionKey{}).(*admission)
	if !ok {
		panic("coordinator: a call without a connection")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done {
		return nil
	}
	kept, err := keep(ctx, a.blobs, keptEvidence{
		Evidence: keptOf(p.Evidence), Preimage: p.Preimage, ReportData: p.Binding[:], Sets: p.Appraisal.Sets, Any: p.Appraisal.Any,
	})
	if err != nil {
		return answer(a.loop.log, fmt.Errorf("keeping the evidence of %s %s: %w", p.Office, p.Name, err))
	}
	f := entry.Admitted{
		Office: p.Office.String(), Name: p.Name, Instance: p.Instance, Sets: p.Appraisal.Sets, Any: p.Appraisal.Any,
		Simulated: p.Appraisal.Simulated, Binding: sha256.Sum256(p.Binding[:]), Kept: kept, Expires: p.Expires.UTC(),
	}
	for _, e := range p.Evidence {
		f.Types = append(f.Types, e.Type.String())
	}
	for _, c := range p.Claims {
		f.Evidence = append(f.Evidence, c.Signed)
	}
	if err := a.loop.decide(ctx, round.Admit{Fact: f}); err != nil {
		return answer(a.loop.log, err)
	}
	c.done = true
	return nil
}

// keptEvidence is what is kept of an admission or a boot, as JSON in a sealed blob. Fields are added, never changed.
type keptEvidence struct {
	Schema     string     `json:"schema"` // "consilium.evidence/1"
	Evidence   []keptItem `json:"evidence"`
	Preimage   []byte     `json:"preimage"`    // what was hashed into the report data
	ReportData []byte     `json:"report_data"` // 64 bytes
	Nonce      []byte     `json:"nonce,omitempty"`
	SPKI       []byte     `json:"spki,omitempty"`
	Sets       []string   `json:"sets"`
	Any        []string   `json:"any,omitempty"`
}

type keptItem struct {
	Type       string           `json:"type"`
	Body       []byte           `json:"body"`
	Collateral []keptCollateral `json:"collateral,omitempty"`
}

type keptCollateral struct {
	Kind  attest.Kind `json:"kind"`
	Bytes []byte      `json:"bytes"`
}

func keptOf(all []attest.Evidence) []keptItem {
	var out []keptItem
	for _, e := range all {
		k := keptItem{Type: e.Type.String(), Body: e.Body}
		for _, c := range e.Collateral {
			k.Collateral = append(k.Collateral, keptCollateral{c.Kind, c.Bytes})
		}
		out = append(out, k)
	}
	return out
}

func keep(ctx context.Context, blobs *blob.Blobs, k keptEvidence) (entry.Blob, error) {
	k.Schema = "consilium.evidence/1"
	text, err := json.Marshal(k)
	if err != nil {
		return entry.Blob{}, err
	}
	return blobs.Put(ctx, bytes.NewReader(text))
}
