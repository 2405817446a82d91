package participant

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/store"
	"consilium.dev/internal/trainer"
)

// carried holds what this member carries from one round of a run to the next, sealed on its own disk: its control variate, or what the encoding
// top-k has left unsent. One belongs to each finished update: what is carried on if a round is closed with that update in it. It is durable
// before the update is kept, and so before anybody is offered it; and which of them holds, the coordinator's log says, by the newest update of
// ours in a closed round. So a crash between any two writes leaves what was carried before and what is after, and the right one is found by its
// name; and of an update that no round was closed with nothing is carried on. It is used by one goroutine at a time.
type carried struct {
	blobs   *blob.Blobs
	objects store.Objects
	have    map[string]map[entry.Digest]bool // by run
}

func newCarried(b *blob.Blobs, o store.Objects) *carried {
	return &carried{blobs: b, objects: o, have: map[string]map[entry.Digest]bool{}}
}

const carriedFolder = "carried/"

func carriedName(run string, update entry.Digest) string {
	return carriedFolder + run + "/" + update.String()
}

// load finds what an earlier process kept.
func (c *carried) load(ctx context.Context) error {
	for name, err := range c.objects.List(ctx, carriedFolder) {
		if err != nil {
			return &diskError{err}
		}
		run, text, _ := strings.Cut(strings.TrimPrefix(name, carriedFolder), "/")
		var update entry.Digest
		if err := update.UnmarshalText([]byte(text)); err != nil || !isRun(run) {
			return &diskError{fmt.Errorf("object %s is none of ours", name)}
		}
		c.note(run, update)
	}
	return nil
}

func (c *carried) note(run string, update entry.Digest) {
	if c.have[run] == nil {
		c.have[run] = map[entry.Digest]bool{}
	}
	c.have[run][update] = true
}

// settle returns what is carried with this member's newest update in a closed round, nothing where there is none, and drops the
// others of the run. It is called when nothing that is kept is to be offered any more.
func (c *carried) settle(ctx context.Context, run string, contributed entry.Digest) (trainer.Carried, error) {
	var own trainer.Carried
	if !contributed.IsZero() {
		if !c.have[run][contributed] {
			return own, fmt.Errorf("%w: what this member carries from its update %s to its next is lost here, and nothing else is taken: put the store back "+
				"from a copy, or leave the run", errNotOurs, contributed.Short())
		}
		name := carriedName(run, contributed)
		text, err := c.blobs.OpenNamed(context.WithoutCancel(ctx), name)
		if err == nil {
			own, err = decodeCarried(text)
		}
		if err != nil {
			return own, &diskError{fmt.Errorf("object %s: %w (put it back from a copy, or remove it: this member is out of the rounds of run %s then)", name, err, run)}
		}
	}
	return own, c.keepOnly(ctx, run, contributed)
}

// keepOnly drops what is carried on with other updates of a run than these.
func (c *carried) keepOnly(ctx context.Context, run string, updates ...entry.Digest) error {
	for update := range c.have[run] {
		if slices.Contains(updates, update) {
			continue
		}
		if err := c.drop(ctx, run, update); err != nil {
			return err
		}
	}
	return nil
}

// put makes durable what is carried on with an update, which nobody has been offered yet.
func (c *carried) put(ctx context.Context, run string, update entry.Digest, own trainer.Carried) error {
	if err := c.blobs.PutNamed(context.WithoutCancel(ctx), carriedName(run, update), encodeCarried(own)); err != nil {
		return &diskError{fmt.Errorf("keeping what is carried on in run %s: %w", run, err)}
	}
	c.note(run, update)
	return nil
}

// alias keeps what is carried on with an update under another name of the same update too, which is offered next, and forgets names that were
// offered before: they were those of tries that have failed. That of contributed, the newest update in a closed round, it keeps.
func (c *carried) alias(ctx context.Context, run string, update, other, contributed entry.Digest) error {
	if c.have[run][other] {
		return nil
	}
	text, err := c.blobs.OpenNamed(context.WithoutCancel(ctx), carriedName(run, update))
	if err == nil {
		err = c.blobs.PutNamed(context.WithoutCancel(ctx), carriedName(run, other), text)
	}
	if err != nil {
		return &diskError{fmt.Errorf("keeping what is carried on in run %s: %w", run, err)}
	}
	c.note(run, other)
	return c.keepOnly(ctx, run, update, other, contributed)
}

func (c *carried) drop(ctx context.Context, run string, update entry.Digest) error {
	if err := c.blobs.DeleteNamed(context.WithoutCancel(ctx), carriedName(run, update)); err != nil {
		return &diskError{err}
	}
	if delete(c.have[run], update); len(c.have[run]) == 0 {
		delete(c.have, run)
	}
	return nil
}

// forget drops those of runs that open does not hold.
func (c *carried) forget(ctx context.Context, open map[string]int) error {
	for run, updates := range c.have {
		if _, ok := open[run]; ok {
			continue
		}
		for update := range updates {
			if err := c.drop(ctx, run, update); err != nil {
				return err
			}
		}
	}
	return nil
}

// The plaintext of what is carried: "consilium.control/1\n", then a control variate's values as float64, little endian; or "consilium.unsent/1\n",
// then what is unsent of each value of an update as float32, little endian. No plan has both.
const (
	controlMagic = "consilium.control/1\n"
	unsentMagic  = "consilium.unsent/1\n"
)

func encodeCarried(own trainer.Carried) []byte {
	if own.Control == nil {
		text := append(make([]byte, 0, len(unsentMagic)+4*len(own.Unsent)), unsentMagic...)
		text = text[:cap(text)]
		model.PutFloats(text[len(unsentMagic):], own.Unsent)
		return text
	}
	text := append(make([]byte, 0, len(controlMagic)+8*len(own.Control)), controlMagic...)
	for _, v := range own.Control {
		text = binary.LittleEndian.AppendUint64(text, math.Float64bits(v))
	}
	return text
}

func decodeCarried(text []byte) (trainer.Carried, error) {
	if body, ok := bytes.CutPrefix(text, []byte(unsentMagic)); ok && len(body) > 0 && len(body)%4 == 0 {
		own := trainer.Carried{Unsent: make([]float32, len(body)/4)}
		model.Floats(own.Unsent, body)
		return own, nil
	}
	body, ok := bytes.CutPrefix(text, []byte(controlMagic))
	if !ok || len(body) == 0 || len(body)%8 != 0 {
		return trainer.Carried{}, errors.New("not what a member carries from one round to the next")
	}
	own := trainer.Carried{Control: make([]float64, len(body)/8)}
	for i := range own.Control {
		own.Control[i] = math.Float64frombits(binary.LittleEndian.Uint64(body[8*i:]))
	}
	return own, nil
}
