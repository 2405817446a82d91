package participant

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/store"
)

// controls holds this member's own control variates, sealed on its own disk, for runs whose strategy has them. One belongs to each finished
// update: what the variate becomes if a round is closed with that update in it. It is durable before the update is kept, and so before
// anybody is offered it; and which of them holds, the coordinator's log says, by the newest update of ours in a closed round. So a crash
// between any two writes leaves the variate of before and that of after, and the right one is found by its name. It is used by one goroutine
// at a time.
type controls struct {
	blobs   *blob.Blobs
	objects store.Objects
	have    map[string]map[entry.Digest]bool // by run
}

func newControls(b *blob.Blobs, o store.Objects) *controls {
	return &controls{blobs: b, objects: o, have: map[string]map[entry.Digest]bool{}}
}

const controlFolder = "control/"

func controlName(run string, update entry.Digest) string {
	return controlFolder + run + "/" + update.String()
}

// load finds what an earlier process kept.
func (c *controls) load(ctx context.Context) error {
	for name, err := range c.objects.List(ctx, controlFolder) {
		if err != nil {
			return &diskError{err}
		}
		run, text, _ := strings.Cut(strings.TrimPrefix(name, controlFolder), "/")
		var update entry.Digest
		if err := update.UnmarshalText([]byte(text)); err != nil || !isRun(run) {
			return &diskError{fmt.Errorf("object %s is none of ours", name)}
		}
		c.note(run, update)
	}
	return nil
}

func (c *controls) note(run string, update entry.Digest) {
	if c.have[run] == nil {
		c.have[run] = map[entry.Digest]bool{}
	}
	c.have[run][update] = true
}

// settle returns the control variate that goes with this member's newest update in a closed round, nil (0) where there is none, and drops the
// others of the run. It is called when nothing that is kept is to be offered any more.
func (c *controls) settle(ctx context.Context, run string, contributed entry.Digest) ([]float64, error) {
	var own []float64
	if !contributed.IsZero() {
		if !c.have[run][contributed] {
			return nil, fmt.Errorf("%w: the control variate that goes with this member's update %s is lost here, and another one is not taken: put the store back "+
				"from a copy, or leave the run", errNotOurs, contributed.Short())
		}
		name := controlName(run, contributed)
		text, err := c.blobs.OpenNamed(context.WithoutCancel(ctx), name)
		if err == nil {
			own, err = decodeControl(text)
		}
		if err != nil {
			return nil, &diskError{fmt.Errorf("object %s: %w (put it back from a copy, or remove it: this member is out of the rounds of run %s then)", name, err, run)}
		}
	}
	for update := range c.have[run] {
		if update == contributed {
			continue
		}
		if err := c.drop(ctx, run, update); err != nil {
			return nil, err
		}
	}
	return own, nil
}

// put makes the control variate of an update durable, which nobody has been offered yet.
func (c *controls) put(ctx context.Context, run string, update entry.Digest, own []float64) error {
	if err := c.blobs.PutNamed(context.WithoutCancel(ctx), controlName(run, update), encodeControl(own)); err != nil {
		return &diskError{fmt.Errorf("keeping the control variate of run %s: %w", run, err)}
	}
	c.note(run, update)
	return nil
}

func (c *controls) drop(ctx context.Context, run string, update entry.Digest) error {
	if err := c.blobs.DeleteNamed(context.WithoutCancel(ctx), controlName(run, update)); err != nil {
		return &diskError{err}
	}
	if delete(c.have[run], update); len(c.have[run]) == 0 {
		delete(c.have, run)
	}
	return nil
}

// forget drops those of runs that open does not hold.
func (c *controls) forget(ctx context.Context, open map[string]int) error {
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

// A control variate's plaintext: "consilium.control/1\n", then the values as float64, little endian.
const controlMagic = "consilium.control/1\n"

func encodeControl(own []float64) []byte {
	text := append(make([]byte, 0, len(controlMagic)+8*len(own)), controlMagic...)
	for _, v := range own {
		text = binary.LittleEndian.AppendUint64(text, math.Float64bits(v))
	}
	return text
}

func decodeControl(text []byte) ([]float64, error) {
	body, ok := bytes.CutPrefix(text, []byte(controlMagic))
	if !ok || len(body) == 0 || len(body)%8 != 0 {
		return nil, errors.New("not a kept control variate")
	}
	own := make([]float64, len(body)/8)
	for i := range own {
		own[i] = math.Float64frombits(binary.LittleEndian.Uint64(body[8*i:]))
	}
	return own, nil
}
