package participant

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/store"
)

const (
	partsFolder = "part/"
	// partLen is how many bytes of a download lie in one object. Together with the channel's window it is less than 1 MiB: that
	// is the most that has to be sent again after this process was killed.
	partLen = 256 << 10
	// leastParts is the least download that is written to the disk; a smaller one is sent again whole after a restart.
	leastParts = 1 << 20
)

// errParts marks a download that is not the model which was announced: its parts are thrown away.
var errParts = errors.New("what came of the download is not sound")

// parts keeps what has come of one download of a model, so that it goes on where a link or a process broke it: whole pieces sealed
// on the member's own disk, the rest in memory. Nothing that it holds is believed before the whole has the model's digest. It is
// used by one goroutine at a time.
type parts struct {
	blobs   *blob.Blobs
	objects store.Objects
	id      entry.Digest // of the model; zero where there is nothing
	size    int64        // of the model
	least   int64        // size from which on pieces are written to the disk
	saved   int          // pieces on the disk, from the first on
	tail    []byte       // what came behind them
}

func newParts(b *blob.Blobs, o store.Objects) *parts {
	return &parts{blobs: b, objects: o, least: leastParts}
}

func (p *parts) name(n int) string { return partsFolder + p.id.String() + "/" + strconv.Itoa(n) }

// at returns how many bytes have come.
func (p *parts) at() int64 { return int64(p.saved)*partLen + int64(len(p.tail)) }

// load finds what an earlier process left. Pieces of more than one model, or with a gap, are left-overs of a crash; they are
// thrown away.
func (p *parts) load(ctx context.Context) error {
	var all []string
	have := map[int]bool{}
	for name, err := range p.objects.List(ctx, partsFolder) {
		if err != nil {
			return &diskError{err}
		}
		id, n, err := parsePart(name)
		if err != nil {
			return &diskError{err}
		}
		all = append(all, name)
		if p.id.IsZero() {
			p.id = id
		}
		if p.id == id {
			have[n] = true
		}
	}
	for have[p.saved] {
		p.saved++
	}
	if p.saved == len(all) {
		return nil
	}
	*p = parts{blobs: p.blobs, objects: p.objects, least: p.least}
	return p.remove(ctx, all)
}

func parsePart(name string) (entry.Digest, int, error) {
	id, n, _ := strings.Cut(strings.TrimPrefix(name, partsFolder), "/")
	d, err := hex.DecodeString(id)
	i, err2 := strconv.Atoi(n)
	if err != nil || err2 != nil || len(d) != len(entry.Digest{}) || i < 0 || strconv.Itoa(i) != n {
		return entry.Digest{}, 0, fmt.Errorf("object %s is none of ours", name)
	}
	return entry.Digest(d), i, nil
}

// begin makes the download one of this model, and throws away what came of another.
func (p *parts) begin(ctx context.Context, id entry.Digest, size int64) error {
	if p.id != id || p.at() > size {
		if err := p.drop(ctx); err != nil {
			return err
		}
	}
	p.id, p.size = id, size
	return nil
}

// add takes the next bytes of the download.
func (p *parts) add(ctx context.Context, text []byte) error {
	p.tail = append(p.tail, text...)
	for p.size >= p.least && len(p.tail) >= partLen {
		// Once begun it is finished: whether the object is there is known.
		if err := p.blobs.PutNamed(context.WithoutCancel(ctx), p.name(p.saved), p.tail[:partLen]); err != nil {
			return &diskError{fmt.Errorf("keeping a piece of a download: %w", err)}
		}
		p.saved++
		p.tail = slices.Clone(p.tail[partLen:])
	}
	return nil
}

// open returns a reader of what has come. Its error is errParts where a piece does not open.
func (p *parts) open(ctx context.Context) io.Reader {
	return &partReader{ctx: ctx, p: p}
}

// drop forgets the download.
func (p *parts) drop(ctx context.Context) error {
	var all []string
	for n := range p.saved {
		all = append(all, p.name(n))
	}
	*p = parts{blobs: p.blobs, objects: p.objects, least: p.least}
	return p.remove(ctx, all)
}

// remove removes objects, the last first: what a crash leaves is from the first piece on.
func (p *parts) remove(ctx context.Context, all []string) error {
	for _, name := range slices.Backward(all) {
		if err := p.blobs.DeleteNamed(context.WithoutCancel(ctx), name); err != nil {
			return &diskError{err}
		}
	}
	return nil
}

// forget drops the download of a model that is not among those that are wanted.
func (p *parts) forget(ctx context.Context, wanted [][]byte) error {
	if p.id.IsZero() || slices.ContainsFunc(wanted, func(id []byte) bool { return bytes.Equal(id, p.id[:]) }) {
		return nil
	}
	return p.drop(ctx)
}

// partReader reads the pieces on the disk, then the tail as it is when they are read.
type partReader struct {
	ctx  context.Context
	p    *parts
	next int
	rest bytes.Reader
}

func (r *partReader) Read(dst []byte) (int, error) {
	for r.rest.Len() == 0 {
		switch {
		case r.next < r.p.saved:
			text, err := r.p.blobs.OpenNamed(r.ctx, r.p.name(r.next))
			if r.ctx.Err() != nil {
				return 0, r.ctx.Err()
			}
			if err == nil && len(text) != partLen {
				err = fmt.Errorf("it has %d bytes", len(text))
			}
			if err != nil {
				return 0, fmt.Errorf("%w: piece %d: %w", errParts, r.next, err)
			}
			r.rest.Reset(text)
		case r.next == r.p.saved:
			r.rest.Reset(bytes.Clone(r.p.tail))
		default:
			return 0, io.EOF
		}
		r.next++
	}
	return r.rest.Read(dst)
}
