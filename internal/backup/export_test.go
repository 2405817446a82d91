package backup

import (
	"context"
	"io"
	"iter"

	"consilium.dev/internal/store/dir"
)

// MakeThrough is Make, which calls between before each call to the store.
func MakeThrough(ctx context.Context, o Options, between func()) (Contents, error) {
	v, err := dir.Look(o.Store)
	if err != nil {
		return Contents{}, err
	}
	defer v.Close()
	return makeFrom(ctx, o, interrupted{v, between})
}

// RecodeContents reads a copy's list and writes it again.
func RecodeContents(text []byte) ([]byte, error) {
	c, objects, err := decodeContents(text)
	if err != nil {
		return nil, err
	}
	return encodeContents(c, objects)
}

type interrupted struct {
	*dir.View
	between func()
}

func (i interrupted) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	i.between()
	return i.View.Get(ctx, name)
}

func (i interrupted) List(ctx context.Context, prefix string) iter.Seq2[string, error] {
	i.between()
	return i.View.List(ctx, prefix)
}

func (i interrupted) Load(ctx context.Context) (uint64, []byte, error) {
	i.between()
	return i.View.Load(ctx)
}
