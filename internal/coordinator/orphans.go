package coordinator

import (
	"context"

	"go.uber.org/zap"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
)

// orphans finds blobs that no fact names, or that were dropped: a process ended, or a request was refused, after a blob was stored
// and before the fact that was to name it; or a process ended before it had deleted what it dropped. named holds the ciphertexts'
// digests of those that are needed, all of them.
//
// They are looked for before this process stores anything, and deleted once its own boot is written. Whoever held the log before
// us may still have been at work: a fact of theirs that names one of these would have made our boot's commit fail, and none
// can be written any more afterwards.
func orphans(ctx context.Context, blobs *blob.Blobs, named map[entry.Digest]bool) ([]entry.Blob, error) {
	var found []entry.Blob
	for d, err := range blobs.Stored(ctx) {
		if err != nil {
			return nil, err
		}
		if !named[d] {
			found = append(found, entry.Blob{Sealed: d})
		}
	}
	return found, nil
}

// sweep deletes blobs that nothing needs beside the loop. What it does not get to, the next boot finds again.
func (l *loop) sweep(ctx context.Context, found []entry.Blob) {
	if len(found) == 0 {
		return
	}
	l.workers.Go(func() {
		for i, ref := range found {
			if err := l.blobs.Delete(ctx, ref); err != nil {
				if ctx.Err() == nil {
					l.log.Warn("blobs that nothing needs are left until the next start", zap.Int("orphans", len(found)-i), zap.Error(err))
				}
				return
			}
		}
		l.log.Info("blobs deleted that nothing needs", zap.Int("orphans", len(found)))
	})
}
