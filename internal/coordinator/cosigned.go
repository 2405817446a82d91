package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.uber.org/zap"

	"consilium.dev/internal/ledger"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/store"
	"consilium.dev/internal/witness"
)

// cosignedFolder holds one object: the newest cosigned checkpoint. Its name has the size, so that the newest is known.
const cosignedFolder = "cosigned/"

func cosignedName(size int64) string { return fmt.Sprintf("%s%020d", cosignedFolder, size) }

// keep makes a release durable and drops the one before it. One of that size that is there already was of another process.
func (q *quorum) keep(ctx context.Context, r *release) error {
	text, err := r.cosigned.Encode()
	if err != nil {
		return err
	}
	name := cosignedName(r.size)
	err = q.blobs.PutNamed(ctx, name, text)
	if errors.Is(err, store.ErrExist) {
		if err = q.blobs.DeleteNamed(ctx, name); err == nil {
			err = q.blobs.PutNamed(ctx, name, text)
		}
	}
	if last := q.released.Load(); err == nil && last != nil && last.size != r.size {
		err = q.blobs.DeleteNamed(ctx, cosignedName(last.size))
	}
	return err
}

// restore finds the newest cosignatures that were kept. Those that were lost or do not count are asked for again; those that count
// and are over lines that the log does not have say that the log was put back.
func (q *quorum) restore(ctx context.Context, objects store.Objects, v ledger.View, sets *witness.Sets, chain *manifest.Chain) error {
	var names []string
	for name, err := range objects.List(ctx, cosignedFolder) {
		if err != nil {
			return fmt.Errorf("looking for kept cosignatures: %w", err)
		}
		names = append(names, name)
	}
	for _, name := range slices.Backward(names) {
		text, err := q.blobs.OpenNamed(ctx, name)
		var c witness.Cosigned
		if err == nil {
			c, err = witness.DecodeCosigned(text)
		}
		var said ledger.Checkpoint
		if err == nil {
			said, err = ledger.OpenCheckpoint([]byte(c.Checkpoint), v.Verifier())
		}
		if err != nil {
			q.log.Warn("kept cosignatures do not count, they are asked for again", zap.String("object", name), zap.Error(err))
			continue
		}
		deciding := sets.Deciding(said.Size)
		who := signers(c, deciding, chain.At(sets.Epoch(said.Size)))
		if !witness.Decided(deciding, who) {
			q.log.Warn("kept cosignatures do not count, they are asked for again", zap.String("object", name), zap.Int("cosigned", len(who)))
			continue
		}
		if err := q.contained(ctx, said.Head(), v, who[0]); err != nil {
			return err
		}
		q.tally.Restore(said.Head(), deciding, who)
		q.released.Store(&release{said.Size, c})
		return nil
	}
	return nil
}

// contained returns a *witness.ConflictError unless the log begins with what was cosigned.
func (q *quorum) contained(ctx context.Context, cosigned witness.Head, v ledger.View, by string) error {
	conflict := &witness.ConflictError{Witness: by, Seen: cosigned.Size, Size: v.Size()}
	if cosigned.Size > v.Size() {
		return conflict
	}
	root, err := v.RootAt(ctx, cosigned.Size)
	if err == nil && root != cosigned.Root {
		return conflict
	}
	return err
}

// signers returns whose cosignatures of c count, of witnesses in those sets, under the manifest that holds at the head; nobody's where
// that is not known.
func signers(c witness.Cosigned, sets []witness.Set, m *manifest.Manifest) []string {
	if m == nil {
		return nil
	}
	var names []string
	for _, x := range c.Cosignatures {
		by, ok := m.Member(x.Member)
		if !ok || slices.Contains(names, x.Member) || !slices.ContainsFunc(sets, func(s witness.Set) bool { return slices.Contains(s.Names, x.Member) }) {
			continue
		}
		if _, err := x.Check(m.Federation(), by.Identity, witness.Text([]byte(c.Checkpoint))); err == nil {
			names = append(names, x.Member)
		}
	}
	return names
}
