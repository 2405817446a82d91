package participant

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/store"
)

// maxConsents is how many consents are remembered. A run whose consent is forgotten gets nothing more of this member.
const maxConsents = 1000

// consented is what this member agreed to when it consented to a run.
type consented struct {
	Run     string       `json:"run"`
	Lead    string       `json:"lead"`
	Plan    entry.Digest `json:"plan"` // SHA-256 of the plan's JSON, byte for byte as it came
	Records int64        `json:"records"`
	Order   uint64       `json:"order"` // a later consent has a greater one
}

// consents remembers them, sealed on the member's own disk, so that neither a coordinator's word nor a restart puts another plan
// in the place of the one that the owner's policy judged. Nothing that the coordinator says drops one, also not that it names
// the run no more: only newer consents do, when there are too many. It is changed by one goroutine at a time, which others may ask meanwhile
// by match and records.
type consents struct {
	blobs   *blob.Blobs
	objects store.Objects
	most    int    // how many are remembered
	last    uint64 // greatest order

	mu sync.Mutex // guards what follows, where it is changed or another goroutine reads it
	of map[string]consented
}

func newConsents(b *blob.Blobs, o store.Objects, most int) *consents {
	return &consents{blobs: b, objects: o, most: most, of: map[string]consented{}}
}

const consentFolder = "consent/"

// load finds what an earlier process agreed to.
func (c *consents) load(ctx context.Context) error {
	for name, err := range c.objects.List(ctx, consentFolder) {
		if err != nil {
			return &diskError{err}
		}
		text, err := c.blobs.OpenNamed(context.WithoutCancel(ctx), name)
		if err != nil {
			return &diskError{fmt.Errorf("opening the consent %s: %w (put it back from a copy, or remove it: this member is then out of that run)",
				name, err)}
		}
		r, err := decodeConsented(text)
		if err != nil { // that it is of this run, its name says: what is sealed is tied to it
			return &diskError{fmt.Errorf("object %s is no consent of ours (put it back from a copy, or remove it: this member is then out of "+
				"that run)", name)}
		}
		c.note(r)
		c.last = max(c.last, r.Order)
	}
	return nil
}

// put makes a consent durable; it is sent only afterwards. The same one again, after its answer was lost, writes nothing. Once
// begun it is finished, as in keeper: whether the object is there is known.
func (c *consents) put(ctx context.Context, r consented) error {
	ctx = context.WithoutCancel(ctx)
	old, known := c.of[r.Run]
	r.Order = old.Order
	if known && old == r {
		return nil
	}
	if known { // with another number of records: a crash before the next write leaves none, and then nothing is given away
		if err := c.drop(ctx, r.Run); err != nil {
			return err
		}
	}
	r.Order = c.last + 1
	text, err := encodeConsented(r)
	if err != nil {
		return err
	}
	if err := c.blobs.PutNamed(ctx, consentFolder+r.Run, text); err != nil {
		return &diskError{fmt.Errorf("keeping the consent to run %s: %w", r.Run, err)}
	}
	c.note(r)
	c.last = r.Order
	for len(c.of) > c.most {
		oldest := r
		for _, o := range c.of {
			if o.Order < oldest.Order {
				oldest = o
			}
		}
		if err := c.drop(ctx, oldest.Run); err != nil {
			return err
		}
	}
	return nil
}

func (c *consents) drop(ctx context.Context, run string) error {
	if err := c.blobs.DeleteNamed(ctx, consentFolder+run); err != nil {
		return &diskError{fmt.Errorf("dropping the consent to run %s: %w", run, err)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.of, run)
	return nil
}

func (c *consents) note(r consented) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of[r.Run] = r
}

// get returns what was consented to.
func (c *consents) get(run string) (consented, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, ok := c.of[run]
	return r, ok
}

// records returns how many records were declared with the consent to a run, 0 where there is none.
func (c *consents) records(run string) int64 {
	r, _ := c.get(run)
	return r.Records
}

// match reports whether there is a consent to a run. It is an error if it was given to another lead or to another plan.
func (c *consents) match(run, lead string, plan []byte) (bool, error) {
	r, ok := c.get(run)
	switch {
	case !ok:
		return false, nil
	case r.Lead != lead:
		return true, fmt.Errorf("consent: this member consented to run %s for another lead", run)
	case r.Plan != sha256.Sum256(plan):
		return true, fmt.Errorf("consent: this member consented to another plan of run %s", run)
	}
	return true, nil
}

// isRun reports whether a text is a run's id: 16 lower-case hex digits. Names of files are made of it.
func isRun(text string) bool {
	id, err := hex.DecodeString(text)
	return err == nil && len(id) == 8 && hex.EncodeToString(id) == text
}

// A consent's plaintext: "consilium.consent/1\n", then consented as JSON, as encoding/json writes it.
const consentMagic = "consilium.consent/1\n"

func encodeConsented(r consented) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing the consent to run %s: %w", r.Run, err)
	}
	return append([]byte(consentMagic), text...), nil
}

func decodeConsented(text []byte) (consented, error) {
	body, ok := strings.CutPrefix(string(text), consentMagic)
	if !ok {
		return consented{}, errors.New("not a consent")
	}
	var r consented
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		return consented{}, fmt.Errorf("not a consent: %w", err)
	}
	// One consent has one text: what is not written so was written by nobody of ours.
	again, err := encodeConsented(r)
	if err != nil || !bytes.Equal(again, text) || !isRun(r.Run) {
		return consented{}, errors.New("not a consent")
	}
	return r, nil
}
