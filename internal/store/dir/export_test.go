package dir

import "context"

// LinkHead is the second half of Swap: what is left to do for a writer that looked at the head and then slept.
func (d *Dir) LinkHead(ctx context.Context, version uint64, value []byte) error {
	return d.link(ctx, version, value)
}
