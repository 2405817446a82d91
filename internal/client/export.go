package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"google.golang.org/grpc"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/codec"
	"consilium.dev/internal/entry"
	pb "consilium.dev/proto/consilium/v1"
)

// How long a download may stand still before its line is given up, how long the coordinator may be away before the download is,
// and the waits between two tries.
const (
	stillness   = time.Minute
	absence     = 5 * time.Minute
	firstWait   = 500 * time.Millisecond
	longestWait = 30 * time.Second
)

var errStill = errors.New("the download has stood still for " + stillness.String())

// File is where a model is exported to: an *os.File, or what is like one.
type File interface {
	io.ReadWriteSeeker
	Truncate(size int64) error
}

// Export makes f a model version's safetensors, exactly the bytes whose SHA-256 is its id. It goes on behind what f holds already,
// as it does when the line breaks or the coordinator restarts, for as long as something comes within five minutes; no time limits
// the whole. Where what f held proves wrong, it begins anew. An error means that f is not the model: it is its beginning, for
// another Export to go on with, or empty.
func (c *Client) Export(ctx context.Context, m Model, f File) error {
	e := &export{c: c, m: m, f: f, doing: "fetching model " + m.ID.Short()}
	if err := e.begin(); err != nil {
		return err
	}
	held := e.at > 0
	err := e.whole(ctx)
	if held && errors.Is(err, errAnother) {
		if err = e.anew(); err == nil {
			err = e.whole(ctx)
		}
	}
	if errors.Is(err, errAnother) {
		return errors.Join(err, e.anew())
	}
	return err
}

// errAnother says that a file that is whole is not the model.
var errAnother = errors.New("what came has another digest")

// export is one model on its way into a file.
type export struct {
	c     *Client
	m     Model
	f     File
	doing string
	sum   hash.Hash // of what f holds
	at    int64     // bytes that f holds
}

// begin finds out what f holds.
func (e *export) begin() error {
	if _, err := e.f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("reading what is there of model %s: %w", e.m.ID.Short(), err)
	}
	e.sum = sha256.New()
	var err error
	if e.at, err = io.Copy(e.sum, e.f); err != nil {
		return fmt.Errorf("reading what is there of model %s: %w", e.m.ID.Short(), err)
	}
	if e.at > e.m.Size {
		return e.anew()
	}
	return nil
}

// anew empties f.
func (e *export) anew() error {
	e.sum, e.at = sha256.New(), 0
	_, err := e.f.Seek(0, io.SeekStart)
	if err == nil {
		err = e.f.Truncate(0)
	}
	if err != nil {
		return fmt.Errorf("emptying the file of model %s: %w", e.m.ID.Short(), err)
	}
	return nil
}

// whole downloads until f is whole, over as many lines as it takes.
func (e *export) whole(ctx context.Context) error {
	wait := firstWait
	last := time.Now() // that something came
	for {
		before := e.at
		err := e.line(ctx)
		if e.at > before {
			wait, last = firstWait, time.Now()
		}
		if err == nil || ctx.Err() != nil || !e.c.passes(err) || time.Since(last) > absence {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", e.doing, ctx.Err())
		case <-time.After(wait):
		}
		wait = min(2*wait, longestWait)
		e.c.refused.Store(nil)
		e.c.conn.ResetConnectBackoff()
	}
}

// passes reports whether what went wrong may be over in a moment: a line that broke, also in the middle of a handshake, and a
// coordinator that is away.
func (c *Client) passes(err error) bool {
	if errors.Is(err, ErrUnreachable) || errors.Is(err, ErrStale) || errors.Is(err, errStill) {
		return true
	}
	r := c.refused.Load()
	return errors.Is(err, ErrRefused) && r != nil && !r.ByPeer && (r.Class == attest.ClassFrame || r.Class == attest.ClassRate)
}

// line downloads over one line, from where f ends to the end of the model.
func (e *export) line(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	still := time.AfterFunc(stillness, func() { cancel(errStill) })
	defer still.Stop()
	stream, err := e.c.blobs.Fetch(ctx, &pb.FetchRequest{Model: e.m.ID[:], Offset: e.at, Schemes: uint32(codec.All)})
	if err != nil {
		return e.c.fault(e.doing, err)
	}
	if err := e.take(stream, func() { still.Reset(stillness) }); err != nil {
		if errors.Is(context.Cause(ctx), errStill) {
			return fmt.Errorf("%s: %w: %w", e.doing, ErrUnreachable, errStill)
		}
		return err
	}
	if got := entry.Digest(e.sum.Sum(nil)); got != e.m.ID {
		return fmt.Errorf("%s: %w: %s", e.doing, errAnother, got.Short())
	}
	return nil
}

// take appends what comes to f; next is called after each chunk.
func (e *export) take(stream grpc.ServerStreamingClient[pb.Chunk], next func()) error {
	for part, err := range e.c.download(stream, e.doing, e.at, e.m.Size) {
		if err != nil {
			return err
		}
		if _, err := e.f.Write(part); err != nil {
			return fmt.Errorf("writing model %s: %w", e.m.ID.Short(), err)
		}
		e.sum.Write(part)
		e.at += int64(len(part))
		next()
	}
	return nil
}
