package coordinator_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/blob"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/storetest"
)

// history is a coordinator's whole log, read as somebody who has its key.
type history struct {
	facts  []entry.Fact
	leaves []tlog.Hash
}

func readHistory(d shelf) (h history, err error) {
	ctx := context.Background()
	key, err := ledger.OpenKey(ctx, d, d.kek, "consilium.dev/four-hospitals")
	if err != nil {
		return h, err
	}
	l, err := ledger.Open(ctx, ledger.Config{Objects: d, Head: d, Sealer: d.kek, Key: key})
	if err != nil {
		return h, err
	}
	for text, err := range l.Entries(ctx, 0) {
		if err != nil {
			return h, err
		}
		e, err := entry.Decode(text)
		if err != nil {
			return h, err
		}
		h.facts, h.leaves = append(h.facts, e.Fact), append(h.leaves, tlog.RecordHash(text))
	}
	return h, nil
}

// shelf is a storage with the key that seals what is on it.
type shelf struct {
	storage
	kek store.Sealer
}

type storage interface {
	store.Objects
	store.Head
}

func (d *disk) shelf() shelf { return shelf{d.Memory, d.kek} }

// copied returns a copy in memory. To read the log there repairs nothing here.
func (d shelf) copied() shelf {
	ctx, c := context.Background(), shelf{storetest.New(), d.kek}
	must := func(err error) {
		if err != nil {
			panic("a sound storage fails: " + err.Error())
		}
	}
	for name, err := range d.List(ctx, "") {
		must(err)
		r, err := d.Get(ctx, name)
		must(err)
		must(c.Put(ctx, store.Named(name), r))
		must(r.Close())
	}
	version, value, err := d.Load(ctx)
	if errors.Is(err, store.ErrNotExist) {
		return c
	}
	must(err)
	for v := range version {
		must(c.Swap(ctx, v, value))
	}
	return c
}

// extends reports why a head, whose write was acknowledged, is not of this history: a line that was durable is there no more.
func (h history) extends(head []byte) error {
	lines := strings.Split(string(head), "\n") // name of a staged object, origin, size, root hash
	if len(lines) < 4 {
		return errors.New("no head of a log")
	}
	size, err := strconv.Atoi(lines[2])
	if err != nil || size > len(h.leaves) {
		return fmt.Errorf("%q lines were acknowledged, %d are there", lines[2], len(h.leaves))
	}
	var stored []tlog.Hash
	at := tlog.HashReaderFunc(func(indexes []int64) (out []tlog.Hash, err error) {
		for _, i := range indexes {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for i, leaf := range h.leaves[:size] {
		more, err := tlog.StoredHashesForRecordHash(int64(i), leaf, at)
		if err != nil {
			return err
		}
		stored = append(stored, more...)
	}
	root, err := tlog.TreeHash(int64(size), at)
	if err == nil && base64.StdEncoding.EncodeToString(root[:]) != lines[3] {
		err = fmt.Errorf("the first %d lines are not those that were acknowledged", size)
	}
	return err
}

// key names what may be in a log only once; "" for a fact that may be there again.
func key(f entry.Fact) string {
	switch f := f.(type) {
	case entry.ManifestAdopted:
		return "adopted"
	case entry.RunCreated:
		return "created " + f.Lead + f.Request
	case entry.Consented:
		return fmt.Sprintln("answered", f.Run, f.Member)
	case entry.Declined:
		return fmt.Sprintln("answered", f.Run, f.Member)
	case entry.RoundOpened:
		return fmt.Sprintln("opened", f.Run, f.Round, f.Try)
	case entry.UpdateAccepted:
		return fmt.Sprintln("accepted", f.Run, f.Round, f.Try, f.Member)
	case entry.RoundClosed:
		return fmt.Sprintln("closed", f.Run, f.Round)
	case entry.Evaluated:
		return fmt.Sprintln("evaluated", f.Run, f.Round, f.Member)
	case entry.RunEnded:
		return "ended " + f.Run
	}
	return ""
}

// twice returns the facts that are there again though they may not be, and those that no sound run has.
func (h history) twice() []string {
	seen, out := map[string]bool{}, []string(nil)
	for _, f := range h.facts {
		if k := key(f); k != "" && seen[k] {
			out = append(out, k+" twice")
		} else {
			seen[k] = true
		}
		switch f := f.(type) {
		case entry.RoundFailed:
			if !f.Spared { // as a try is whose masks have not outlived the coordinator
				out = append(out, fmt.Sprintf("%T %+v", f, f))
			}
		case entry.UpdateRefused, entry.Declined:
			out = append(out, fmt.Sprintf("%T %+v", f, f))
		case entry.RoundClosed:
			members := map[entry.Member]bool{}
			for _, c := range f.Members {
				members[c.Member] = true
			}
			if len(members) != len(f.Members) {
				out = append(out, fmt.Sprintf("round %d sums a member twice: %v", f.Round, f.Members))
			}
		}
	}
	return out
}

// lost returns what the member was told is history and what is not.
func (h history) lost(b *book, m entry.Member) []string {
	has := map[string]bool{}
	for _, f := range h.facts {
		switch f := f.(type) {
		case entry.Consented:
			has[fmt.Sprintln("consented", f.Member, f.Records)] = true
		case entry.UpdateAccepted:
			has[fmt.Sprintln("update accepted", f.Member, f.Round, f.Try, f.Update)] = true
		case entry.Evaluated:
			has[fmt.Sprintln("evaluated", f.Member, f.Round)] = true
		}
	}
	var out []string
	told := func(message string, fields ...string) {
		for _, l := range b.find(message) {
			k := []any{message, m}
			for _, f := range fields {
				k = append(k, l[f])
			}
			if what := fmt.Sprintln(k...); !has[what] {
				out = append(out, what)
			}
		}
	}
	told("consented", "records")
	told("update accepted", "round", "try", "update")
	told("evaluated", "round")
	return out
}

// dropped reports whether a later fact says that what a round made is kept no more.
func (h history) dropped(f entry.Fact, later []entry.Fact) bool {
	run, number := "", 0
	switch f := f.(type) {
	case entry.RunCreated:
		run = f.Run
	case entry.RoundClosed:
		run, number = f.Run, f.Round
	}
	return slices.ContainsFunc(later, func(g entry.Fact) bool {
		d, ok := g.(entry.Dropped)
		return ok && d.Run == run && slices.Contains(d.Rounds, number)
	})
}

// missing reads every blob that a fact names and that was not dropped, whole, and returns what is wrong with one.
func (h history) missing(d shelf) error {
	blobs := blob.New(d, d.kek)
	read := func(ref *entry.Blob) error {
		if ref == nil {
			return nil
		}
		r, err := blobs.Open(context.Background(), *ref)
		if err != nil {
			return err
		}
		defer r.Close() //nolint:errcheck // it is memory
		_, err = io.Copy(io.Discard, r)
		return err
	}
	for i, f := range h.facts {
		var err error
		if h.dropped(f, h.facts[i:]) {
			continue
		}
		switch f := f.(type) {
		case entry.Booted:
			err = read(&f.Evidence)
		case entry.Admitted:
			err = read(&f.Kept)
		case entry.RunCreated:
			err = read(f.Initial)
		case entry.RoundClosed:
			if err = read(&f.Blob); err == nil {
				err = read(f.State)
			}
		}
		if err != nil {
			return fmt.Errorf("%T: %w", f, err)
		}
	}
	return nil
}
