package participant

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"consilium.dev/internal/durable"
	"consilium.dev/internal/manifest"
)

// What a policy may say of newer manifests.
const (
	adoptAuto = "auto" // they are adopted as soon as they come: the members' signatures are enough
	adoptAsk  = "ask"  // they wait until the owner has accepted them, and the member takes no part until then
)

// errAsk is what adopting a manifest fails with that waits for its owner.
var errAsk = errors.New("it waits for the data's owner")

// tray is the folder in which newer manifests lie for their owner to read, where the policy says so. Nothing is read from it: whoever
// has the disk could write an answer there. The answer comes over the control socket, and names the digest of what was read.
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

// clear takes a manifest that was adopted off the tray.
func (t tray) clear(m *manifest.Manifest) error {
	if err := os.Remove(t.path(m)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
