// Package strictyaml reads the YAML that people write for Consilium: configurations, plans, manifests. What could be read
// in two ways is refused: unknown and doubled keys, several documents, anchors, aliases and merge keys, and where values are
// read too, numbers that versions of YAML take for different ones (010, 0x10, 1_000). All faults of a document are reported at
// once, as [Faults], each with its line. They name keys, never values: one may be a secret that somebody has put in the wrong place.
package strictyaml

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Parse returns the one document in text as a tree without anchors and aliases. What its keys are, and that none stands twice, is
// for the caller to see to.
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

// Load reads the one document in text into v, a pointer to a struct with yaml tags. After an error v may be filled in part.
func Load(text []byte, v any) error {
	tree, err := Parse(text)
	if err != nil {
		return err
	}
	if line := ambiguous(tree); line > 0 {
		return fmt.Errorf("line %d: a number with leading zeros, letters or underscores: write decimal digits alone, or quote what is text", line)
	}
	if err := yaml.Load(text, v, yaml.WithKnownFields()); err != nil {
		return faults(err)
	}
	return nil
}

// aliased returns the line of the first anchor or merge key, 0 if there is none. There is no alias without an anchor before it.
func aliased(n *yaml.Node) int {
	if n.Anchor != "" || n.Tag == "!!merge" {
		return n.Line
	}
	for _, c := range n.Content {
		if line := aliased(c); line > 0 {
			return line
		}
	}
	return 0
}

// ambiguous returns the line of the first number that is decimal in one version of YAML only, 0 if there is none. What is longer
// than any number of ours is text in all of them that matter here: a digest of digits alone.
func ambiguous(n *yaml.Node) int {
	if n.Kind == yaml.ScalarNode && (n.Tag == "!!int" || n.Tag == "!!float") && len(n.Value) < 32 {
		digits := strings.TrimLeft(n.Value, "+-")
		if strings.Contains(digits, "_") || len(digits) > 1 && digits[0] == '0' && !strings.ContainsRune(".eE", rune(digits[1])) {
			return n.Line
		}
	}
	for _, c := range n.Content {
		if line := ambiguous(c); line > 0 {
			return line
		}
	}
	return 0
}

// faults returns all of a document's faults, each with its place.
func faults(err error) error {
	var all *yaml.LoadErrors
	if errors.As(err, &all) {
		var said Faults
		for _, e := range all.Errors {
			said = append(said, fault(e))
		}
		return said
	}
	var one *yaml.LoadError
	if errors.As(err, &one) {
		return Faults{fault(one)}
	}
	return err
}

// fault words one fault for people: our Go types are none of their business, and what stands in a value is none of a log's.
func fault(e *yaml.LoadError) string {
	text, _, _ := strings.Cut(e.Message, " in type ")
	if open := strings.IndexByte(text, '`'); open >= 0 { // the library quotes the beginning of the value
		text = strings.TrimSpace(text[:open]) + text[strings.LastIndexByte(text, '`')+1:]
	}
	if name, ok := strings.CutPrefix(text, "field "); ok {
		if name, ok = strings.CutSuffix(name, " not found"); ok {
			text = fmt.Sprintf("unknown key %q", name)
		}
	} else if both, ok := strings.CutPrefix(text, "cannot construct "); ok {
		if tag, kind, ok := strings.Cut(both, " into "); ok {
			want, got := wanted(kind), found(tag)
			if want == got { // a text of a type of its own
				want = "text"
			}
			text = fmt.Sprintf("want %s, not %s", want, got)
		}
	}
	if e.Mark.Line == 0 { // a fault of the whole: no document, or several
		return strings.TrimPrefix(text, "yaml: ")
	}
	return fmt.Sprintf("line %d, column %d: %s", e.Mark.Line, e.Mark.Column, text)
}

// wanted words a Go type.
func wanted(kind string) string {
	switch {
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		return "a whole number within bounds"
	case strings.HasPrefix(kind, "float"):
		return "a number"
	case kind == "bool":
		return "true or false"
	case kind == "string":
		return "text"
	case strings.HasPrefix(kind, "[]"):
		return "a list"
	case strings.HasSuffix(kind, "(TextUnmarshaler)"):
		return "one value"
	}
	return "keys with values"
}

// found words a YAML tag.
func found(tag string) string {
	words := map[string]string{"!!str": "text", "!!int": "this number", "!!float": "this number", "!!bool": "true or false", "!!seq": "a list", "!!map": "keys with values"}
	return cmp.Or(words[tag], "what stands there")
}
