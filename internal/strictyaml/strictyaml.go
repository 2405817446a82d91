// Package strictyaml reads the YAML that people write for Consilium: configurations, plans, manifests. What could be read
// in two ways is refused: unknown and doubled keys, several documents, anchors, aliases and merge keys. All faults of a
// document are reported at once, each with its line.
package strictyaml

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Parse returns the one document in text as a tree without anchors and aliases.
func Parse(text []byte) (*yaml.Node, error) {
	var tree yaml.Node
	if err := yaml.Load(text, &tree); err != nil {
		return nil, faults(err)
	}
	if line := aliased(&tree); line > 0 {
		return nil, fmt.Errorf("line %d: anchors, aliases and merge keys are not allowed here", line)
	}
	return &tree, nil
}

// Load reads the one document in text into v, a pointer to a struct with yaml tags.
func Load(text []byte, v any) error {
	if _, err := Parse(text); err != nil {
		return err
	}
	if err := yaml.Load(text, v, yaml.WithKnownFields()); err != nil {
		return faults(err)
	}
	return nil
}

// aliased returns the line of the first anchor, alias or merge key, 0 if there is none.
func aliased(n *yaml.Node) int {
	if n.Kind == yaml.AliasNode || n.Anchor != "" || n.Tag == "!!merge" {
		return n.Line
	}
	for _, c := range n.Content {
		if line := aliased(c); line > 0 {
			return line
		}
	}
	return 0
}

// faults joins all of a document's faults in one line, each with its place.
func faults(err error) error {
	var all *yaml.LoadErrors
	if errors.As(err, &all) {
		var said []string
		for _, e := range all.Errors {
			said = append(said, fault(e))
		}
		return errors.New(strings.Join(said, "; "))
	}
	var one *yaml.LoadError
	if errors.As(err, &one) {
		return errors.New(fault(one))
	}
	return err
}

// fault words one fault for people: our Go types are none of their business.
func fault(e *yaml.LoadError) string {
	text, _, _ := strings.Cut(e.Message, " in type ")
	if name, ok := strings.CutPrefix(text, "field "); ok {
		if name, ok = strings.CutSuffix(name, " not found"); ok {
			text = fmt.Sprintf("unknown key %q", name)
		}
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Mark.Line, e.Mark.Column, text)
}
