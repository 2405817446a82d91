package participant

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"consilium.dev/internal/durable"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
)

// What a policy may say of newer manifests.
const (
	adoptAuto = "auto" // they are adopted as soon as they come: the members' signatures are enough
	adoptAsk  = "ask"  // they wait until the owner has accepted them, and the member takes no part until then
)

// askEvery is how often it is looked for the owner's answer while a manifest waits for it.
const askEvery = 5 * time.Second

// errAsk is what adopting a manifest fails with that waits for its owner.
var errAsk = errors.New("it waits for the data's owner")

// tray is the folder over which the owner and the program talk about newer manifests, where the policy says so. The program puts
// the signed manifest there, for reading, and the owner puts its digest beside it, in a file whose name AcceptedFile gives.
type tray struct {
	folder string // "" where nobody is asked
}

// offer puts a manifest on the tray, and returns where it lies.
func (t tray) offer(m *manifest.Manifest) (string, error) {
	if err := os.MkdirAll(t.folder, 0o700); err != nil {
		return "", &diskError{err}
	}
	path := t.path(m)
	// A half of it must not lie there after a power failure: the owner judges what lies there.
	if err := durable.Replace(path, m.Envelope(), 0o600); err != nil {
		return "", &diskError{fmt.Errorf("laying the manifest of epoch %d before its owner: %w", m.Epoch(), err)}
	}
	return path, nil
}

func (t tray) path(m *manifest.Manifest) string {
	return filepath.Join(t.folder, fmt.Sprintf("epoch-%d.dsse.json", m.Epoch()))
}

// accepted reports whether the owner has accepted the manifest. An answer about another one of its epoch is none.
func (t tray) accepted(m *manifest.Manifest) bool {
	path := AcceptedFile(t.path(m))
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > 128 {
		return false
	}
	text, err := os.ReadFile(path)
	return err == nil && strings.TrimSpace(string(text)) == entry.Digest(m.Digest()).String()
}

// AcceptedFile returns where the owner's answer to the manifest that lies at path belongs: a file that holds its digest, 64 hex
// digits.
func AcceptedFile(path string) string {
	return strings.TrimSuffix(path, ".dsse.json") + ".accepted"
}

// clear takes a manifest that was adopted, and its answer, off the tray.
func (t tray) clear(m *manifest.Manifest) error {
	var all error
	for _, path := range []string{t.path(m), AcceptedFile(t.path(m))} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = errors.Join(all, err)
		}
	}
	return all
}
