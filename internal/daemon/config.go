package daemon

import (
	"fmt"
	"io"
	"os"

	"consilium.dev/internal/strictyaml"
)

// maxConfig is the most bytes that a configuration file may have.
const maxConfig = 1 << 20

// load reads the YAML file at path into config. Unknown and doubled keys, anchors and aliases are errors with their lines.
func load(path string, config any) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening the configuration: %w (name it with --config)", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	if len(text) > maxConfig {
		return fmt.Errorf("%s: more than %d bytes", path, maxConfig)
	}
	if err := strictyaml.Load(text, config); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
