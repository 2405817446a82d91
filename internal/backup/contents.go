package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/store"
)

const (
	contentsFile  = "backup"
	contentsMagic = "consilium.backup/1\n"
	maxContents   = 256 << 20 // bytes of the file: about a million objects
	maxObjects    = 1 << 21
)

// Contents says what a copy holds. Those of a participant's store have no log: Version and what follows up to Root is zero.
type Contents struct {
	Made    time.Time    `json:"made"`             // when, by the clock of the machine that made it
	Version uint64       `json:"version"`          // of the log's head
	Head    entry.Digest `json:"head,omitzero"`    // SHA-256 of the head
	Origin  string       `json:"origin,omitempty"` // the log's name
	Size    int64        `json:"size"`             // lines of the log
	Root    entry.Digest `json:"root,omitzero"`    // its Merkle tree hash
	Key     string       `json:"key,omitempty"`    // URI of the key-encryption key without which nothing of it can be read
	Objects int          `json:"objects"`
	Bytes   int64        `json:"bytes"` // of the objects
	Digest  entry.Digest `json:"digest"`

	Shared int `json:"-"` // objects that were not copied, since an earlier copy has them
}

// encodeContents returns the file that says what is in a copy.
func encodeContents(c Contents, objects map[string]object) ([]byte, error) {
	var list bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(objects)) {
		fmt.Fprintf(&list, "%s %d %s\n", objects[name].digest, objects[name].size, name)
	}
	c.Digest = sha256.Sum256(list.Bytes())
	head, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte(contentsMagic), head, []byte("\n"), list.Bytes()), nil
}

// decodeContents reads what encodeContents wrote, and nothing else.
func decodeContents(text []byte) (Contents, map[string]object, error) {
	body, ok := bytes.CutPrefix(text, []byte(contentsMagic))
	head, list, cut := bytes.Cut(body, []byte("\n"))
	if !ok || !cut {
		return Contents{}, nil, errors.New("is not the list of a copy, or cut off")
	}
	var c Contents
	if err := json.Unmarshal(head, &c); err != nil {
		return Contents{}, nil, fmt.Errorf("is not the list of a copy: %w", err)
	}
	if c.Digest != sha256.Sum256(list) {
		return Contents{}, nil, errors.New("was altered or cut off: its list does not have the digest that it says")
	}
	objects := map[string]object{}
	for line := range bytes.Lines(list) {
		name, o, err := parseLine(string(line))
		if err != nil {
			return Contents{}, nil, err
		}
		if objects[name] = o; len(objects) > maxObjects {
			return Contents{}, nil, fmt.Errorf("lists more than %d objects", maxObjects)
		}
	}
	// One list has one text.
	if again, err := encodeContents(c, objects); err != nil || !bytes.Equal(again, text) || len(objects) != c.Objects {
		return Contents{}, nil, errors.New("is not as this program writes it")
	}
	return c, objects, nil
}

func parseLine(line string) (string, object, error) {
	fields := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	if len(fields) != 3 {
		return "", object{}, fmt.Errorf("line %.200q is none of a list", line)
	}
	d, err := hex.DecodeString(fields[0])
	size, e := strconv.ParseInt(fields[1], 10, 64)
	if err = errors.Join(err, e, store.CheckName(fields[2])); err != nil || len(d) != sha256.Size || size < 0 {
		return "", object{}, fmt.Errorf("line %.200q is none of a list", line)
	}
	return fields[2], object{entry.Digest(d), size}, nil
}

// writeContents makes the file, synced.
func writeContents(path string, c Contents, objects map[string]object) error {
	text, err := encodeContents(c, objects)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func readContents(path string) (Contents, map[string]object, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Contents{}, nil, fmt.Errorf("%s is not there: no copy, or one that was not finished: %w", path, store.ErrNotExist)
	}
	if err != nil {
		return Contents{}, nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxContents+1))
	if err == nil && len(text) > maxContents {
		err = fmt.Errorf("more than %d bytes", maxContents)
	}
	if err != nil {
		return Contents{}, nil, fmt.Errorf("%s: %w", path, err)
	}
	c, objects, err := decodeContents(text)
	if err != nil {
		return Contents{}, nil, fmt.Errorf("%s %w", path, err)
	}
	return c, objects, nil
}
