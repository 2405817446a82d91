package participant

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/model"
	"consilium.dev/internal/store"
)

// diskError says that the participant's own disk failed it. Waiting does not cure it.
type diskError struct{ err error }

func (e *diskError) Error() string { return "own storage: " + e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }

// finished is an update that is kept until its round is closed.
type finished struct {
	salt   [32]byte
	base   entry.Digest // of the model it was trained from
	weight int64
	values []float32
	name   entry.Digest // UpdateDigest of salt and values

	round int // whose base that is, where it may be offered for a later one; it is not kept: see key
}

// named returns f with its digest, which takes as long as to read all of it.
func (f finished) named() finished {
	f.name = model.UpdateDigest(f.salt, f.values)
	return f
}

func (f finished) digest() entry.Digest { return f.name }

// orTrain says what to do about a kept update that is not what was kept.
const orTrain = "put it back from a copy, or remove it: it is trained anew, or this member is out of one try if it was accepted before"

// key names a round of a run.
type key struct {
	run   string
	round int
}

// keeper holds finished updates, sealed on the member's own disk. It is used by one goroutine at a time.
type keeper struct {
	blobs   *blob.Blobs
	objects store.Objects
	have    map[key]bool
}

func newKeeper(b *blob.Blobs, o store.Objects) *keeper {
	return &keeper{blobs: b, objects: o, have: map[key]bool{}}
}

func (k key) name() string { return "kept/" + k.run + "/" + strconv.Itoa(k.round) }

// load finds what an earlier process kept.
func (k *keeper) load(ctx context.Context) error {
	for name, err := range k.objects.List(ctx, "kept/") {
		if err != nil {
			return &diskError{err}
		}
		parts := strings.Split(name, "/")
		if len(parts) != 3 {
			return &diskError{fmt.Errorf("object %s is none of ours", name)}
		}
		n, err := strconv.Atoi(parts[2])
		if err != nil {
			return &diskError{fmt.Errorf("object %s is none of ours", name)}
		}
		k.have[key{parts[1], n}] = true
	}
	return nil
}

// get returns the update that was kept for a round.
func (k *keeper) get(ctx context.Context, at key) (finished, bool, error) {
	if !k.have[at] {
		return finished{}, false, nil
	}
	text, err := k.blobs.OpenNamed(context.WithoutCancel(ctx), at.name())
	if err != nil {
		return finished{}, false, &diskError{fmt.Errorf("opening the kept update of round %d of run %s: %w (%s)", at.round, at.run, err, orTrain)}
	}
	f, err := decodeFinished(text)
	if err != nil {
		return finished{}, false, &diskError{fmt.Errorf("object %s: %w (%s)", at.name(), err, orTrain)}
	}
	return f, true, nil
}

// of returns the rounds of a run of whose updates one is kept, the newest first.
func (k *keeper) of(run string) []key {
	var all []key
	for at := range k.have {
		if at.run == run {
			all = append(all, at)
		}
	}
	slices.SortFunc(all, func(a, b key) int { return b.round - a.round })
	return all
}

// put makes an update durable. It is offered only afterwards. Once begun it is finished, like drop: whether the object is there
// is known, though nobody may want it any more.
func (k *keeper) put(ctx context.Context, at key, f finished) error {
	if err := k.blobs.PutNamed(context.WithoutCancel(ctx), at.name(), encodeFinished(f)); err != nil {
		return &diskError{fmt.Errorf("keeping the update of round %d of run %s: %w", at.round, at.run, err)}
	}
	k.have[at] = true
	return nil
}

// drop forgets one update.
func (k *keeper) drop(ctx context.Context, at key) error {
	if err := k.blobs.DeleteNamed(context.WithoutCancel(ctx), at.name()); err != nil {
		return &diskError{err}
	}
	delete(k.have, at)
	return nil
}

// forget drops the updates of runs that closed does not hold and of rounds up to its value.
func (k *keeper) forget(ctx context.Context, closed map[string]int) error {
	for at := range k.have {
		if last, open := closed[at.run]; open && at.round > last {
			continue
		}
		if err := k.drop(ctx, at); err != nil {
			return err
		}
	}
	return nil
}

// A kept update's plaintext: "consilium.update/1\n", salt (32 bytes), digest of the base (32), weight (8, big-endian),
// then the values as float32, little endian.
const finishedMagic = "consilium.update/1\n"

func encodeFinished(f finished) []byte {
	text := make([]byte, 0, len(finishedMagic)+72+4*len(f.values))
	text = append(text, finishedMagic...)
	text = append(text, f.salt[:]...)
	text = append(text, f.base[:]...)
	text = binary.BigEndian.AppendUint64(text, uint64(f.weight))
	n := len(text)
	text = text[:n+4*len(f.values)]
	model.PutFloats(text[n:], f.values)
	return text
}

func decodeFinished(text []byte) (finished, error) {
	body, ok := strings.CutPrefix(string(text[:min(len(text), len(finishedMagic))]), finishedMagic)
	if !ok || body != "" || len(text) < len(finishedMagic)+72 || (len(text)-len(finishedMagic)-72)%4 != 0 {
		return finished{}, errors.New("not a kept update")
	}
	text = text[len(finishedMagic):]
	f := finished{
		salt: [32]byte(text[:32]), base: entry.Digest(text[32:64]), weight: int64(binary.BigEndian.Uint64(text[64:72])),
		values: make([]float32, (len(text)-72)/4),
	}
	model.Floats(f.values, text[72:])
	return f.named(), nil
}
