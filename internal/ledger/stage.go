package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"consilium.dev/internal/store"
)

const (
	stageMagic  = "consilium.stage/1\n"
	stagePrefix = "stage/"
	maxSize     = 1 << 40   // entries of a log
	maxObject   = 512 << 20 // bytes of an object that is read
)

// stage is all that a commit adds to the log: the tiles, then the sealed bundles, that are new or wider when a tree of size
// old grows to size. As an object it is
//
//	18 bytes   "consilium.stage/1\n"
//	8 bytes    old, big-endian
//	8 bytes    size, big-endian
//	           for each tile (lower levels first, each from left to right), then for each bundle from left to right:
//	4 bytes    n, big-endian
//	n bytes    the tile or the sealed bundle
//
// and is called stage/VERSION-DIGEST: the version of the head that names it, 20 digits, and the SHA-256 of its bytes.
type stage struct {
	old, size int64
	parts     [][]byte
}

// places returns where the parts of a stage lie.
func places(old, size int64) []tlog.Tile {
	return append(tlog.NewTiles(tileHeight, old, size), bundlesOf(old, size)...)
}

func (s stage) encode() []byte {
	text := binary.BigEndian.AppendUint64([]byte(stageMagic), uint64(s.old))
	text = binary.BigEndian.AppendUint64(text, uint64(s.size))
	for _, p := range s.parts {
		text = binary.BigEndian.AppendUint32(text, uint32(len(p)))
		text = append(text, p...)
	}
	return text
}

func decodeStage(text []byte) (stage, error) {
	const fixed = len(stageMagic) + 16
	if len(text) < fixed || string(text[:len(stageMagic)]) != stageMagic {
		return stage{}, errors.New("is not a staged commit")
	}
	old, size := binary.BigEndian.Uint64(text[fixed-16:]), binary.BigEndian.Uint64(text[fixed-8:])
	if old >= size || size > maxSize || size-old > maxLines {
		return stage{}, fmt.Errorf("grows the log from %d to %d entries", old, size)
	}
	s, rest := stage{old: int64(old), size: int64(size)}, text[fixed:]
	for _, at := range places(s.old, s.size) {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
			return stage{}, fmt.Errorf("ends before %s does", path(at))
		}
		n := binary.BigEndian.Uint32(rest)
		s.parts = append(s.parts, rest[4:4+n:4+n])
		rest = rest[4+n:]
	}
	if len(rest) > 0 {
		return stage{}, fmt.Errorf("has %d bytes after its end", len(rest))
	}
	return s, nil
}

func stageName(version uint64, text []byte) string {
	return fmt.Sprintf("%s%020d-%x", stagePrefix, version, sha256.Sum256(text))
}

// parseStageName returns the version in a staged object's name.
func parseStageName(name string) (uint64, error) {
	number, digest, _ := strings.Cut(strings.TrimPrefix(name, stagePrefix), "-")
	version, err := strconv.ParseUint(number, 10, 64)
	sum, e := hex.DecodeString(digest)
	if err != nil || e != nil || len(sum) != sha256.Size || fmt.Sprintf("%s%020d-%x", stagePrefix, version, sum) != name {
		return 0, fmt.Errorf("%.120q is no name of a staged commit", name)
	}
	return version, nil
}

// readStage reads the staged object that the head of the given version names.
func readStage(ctx context.Context, objects Getter, name string, version uint64) (stage, error) {
	text, err := readObject(ctx, objects, name)
	if err != nil {
		return stage{}, err
	}
	if stageName(version, text) != name {
		return stage{}, fmt.Errorf("object %s is not what a head of version %d names: altered, cut off, or of another version",
			name, version)
	}
	s, err := decodeStage(text)
	if err != nil {
		return stage{}, fmt.Errorf("object %s %w", name, err)
	}
	return s, nil
}

// layOut puts the parts of a commit, which the head of the given version names, where readers look for them, and then deletes
// what nobody needs any more. It may be repeated, also by a coordinator that was left behind long ago.
func (s stage) layOut(ctx context.Context, objects store.Objects, name string, version uint64) error {
	for i, at := range places(s.old, s.size) {
		if err := putSame(ctx, objects, path(at), s.parts[i]); err != nil {
			return err
		}
	}
	for _, at := range superseded(s.old, s.size) {
		if err := objects.Delete(ctx, path(at)); err != nil {
			return err
		}
	}
	// What was staged for this version or an earlier one, by whomever, is laid out or can never become the head. What is staged
	// for a later one may be another coordinator's next head.
	for other, err := range objects.List(ctx, stagePrefix) {
		if err != nil {
			return err
		}
		if v, err := parseStageName(other); err == nil && v <= version && other != name {
			if err := objects.Delete(ctx, other); err != nil {
				return err
			}
		}
	}
	return nil
}

// putSame stores an object that may be there already, with the same bytes.
func putSame(ctx context.Context, objects store.Objects, name string, text []byte) error {
	err := objects.Put(ctx, store.Named(name), bytes.NewReader(text))
	if !errors.Is(err, store.ErrExist) {
		return err
	}
	there, err := readObject(ctx, objects, name)
	if err == nil && !bytes.Equal(there, text) {
		err = fmt.Errorf("object %s was altered or cut off: it is not what was committed", name)
	}
	return err
}

// readObject returns an object of bounded size; its errors name it.
func readObject(ctx context.Context, objects Getter, name string) ([]byte, error) {
	r, err := objects.Get(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxObject+1))
	if err == nil && len(text) > maxObject {
		err = fmt.Errorf("more than %d bytes", maxObject)
	}
	if err != nil {
		return nil, fmt.Errorf("object %s: %w", name, err)
	}
	return text, nil
}

// refuseIfLog returns an error if there are tiles: then what is missing was lost, and making it anew would begin a second log.
func refuseIfLog(ctx context.Context, objects store.Objects, missing string) error {
	for name, err := range objects.List(ctx, "tile/") {
		if err != nil {
			return fmt.Errorf("looking for a log: %w", err)
		}
		return fmt.Errorf("%s is missing, but object %s of a log is there: the storage lost it or was rolled back, restore it",
			missing, name)
	}
	return nil
}
