package client

import (
	"context"
	"fmt"

	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// Publish hands the signed manifest of the next epoch to the coordinator. It returns the manifest's epoch and digest, and whether
// this call was the one by which it was adopted. It may be repeated.
func (c *Client) Publish(ctx context.Context, envelope []byte) (epoch uint64, digest entry.Digest, adopted bool, err error) {
	r, err := pb.NewFederationClient(c.conn).Publish(ctx, &pb.PublishRequest{Envelope: envelope})
	if err != nil {
		return 0, entry.Digest{}, false, c.fault("publishing the manifest", err)
	}
	if len(r.Manifest) != len(digest) {
		return 0, entry.Digest{}, false, fmt.Errorf("publishing the manifest: the coordinator answers with a digest of %d bytes", len(r.Manifest))
	}
	return r.Epoch, entry.Digest(r.Manifest), r.Adopted, nil
}

// Manifest returns the signed manifest of an epoch, as the coordinator has it: it is worth what its signatures are worth.
func (c *Client) Manifest(ctx context.Context, epoch uint64) ([]byte, error) {
	r, err := pb.NewFederationClient(c.conn).Manifest(ctx, &pb.ManifestRequest{Epoch: epoch})
	if err != nil {
		return nil, c.fault(fmt.Sprintf("asking for the manifest of epoch %d", epoch), err)
	}
	return r.Envelope, nil
}
