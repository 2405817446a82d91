package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// Bounds on a document's shape; a manifest is five levels deep.
const (
	maxDepth = 12
	maxItems = 1024 // of one list or one group of fields
)

// kind is what a value is. The zero kind is nothing: null, or a field left empty.
type kind uint8

const (
	nothing kind = iota
	text
	number
	truth
	list
	object
)

var kindNames = [...]string{"nothing", "text", "a number", "true or false", "a list", "a group of fields"}

func (k kind) String() string { return kindNames[k] }

// value is one node of a document, read alike from YAML and from JSON, so that both pass the same rules.
type value struct {
	kind  kind
	line  int     // in YAML, from 1; 0 in JSON
	text  string  // of text, of a number as written, "true" or "false"
	items []value // of a list; of an object, in the order of names
	names []string
}

// field returns the value of an object's field, nil if it has none of that name.
func (v *value) field(name string) *value {
	if i := slices.Index(v.names, name); v.kind == object && i >= 0 {
		return &v.items[i]
	}
	return nil
}

// fromYAML turns a tree from strictyaml into a value. Faults go to f with their lines.
func fromYAML(n *yaml.Node, depth int, f *faults) value {
	v := value{line: n.Line}
	switch {
	case depth > maxDepth:
		f.add(n.Line, "more than %d levels deep", maxDepth)
	case len(n.Content) > 2*maxItems:
		f.add(n.Line, "more than %d items", maxItems)
	case n.Kind == yaml.DocumentNode && len(n.Content) == 1:
		return fromYAML(n.Content[0], depth, f)
	case n.Kind == yaml.SequenceNode:
		v.kind = list
		for _, c := range n.Content {
			v.items = append(v.items, fromYAML(c, depth+1, f))
		}
	case n.Kind == yaml.MappingNode:
		v.kind = object
		for i := 0; i+1 < len(n.Content); i += 2 {
			v.addField(n.Content[i], fromYAML(n.Content[i+1], depth+1, f), f)
		}
	case n.Kind == yaml.ScalarNode:
		v.setScalar(n, f)
	default:
		f.add(n.Line, "not a value, a list or a group of fields")
	}
	return v
}

func (v *value) addField(key *yaml.Node, item value, f *faults) {
	switch {
	case key.Kind != yaml.ScalarNode || key.Tag != "!!str" && key.Tag != "!!int" || !utf8.ValidString(key.Value):
		f.add(key.Line, "a field's name must be plain text")
	case slices.Contains(v.names, key.Value):
		f.add(key.Line, "field %q stands twice", key.Value)
	default:
		v.names = append(v.names, key.Value)
		v.items = append(v.items, item)
	}
}

// setScalar takes over a YAML scalar as far as JSON can say the same: decimal numbers, true and false, text.
func (v *value) setScalar(n *yaml.Node, f *faults) {
	v.text = n.Value
	switch n.Tag {
	case "!!null":
		v.kind = nothing
	case "!!str":
		v.kind = text
		if !utf8.ValidString(n.Value) {
			f.add(n.Line, "text that is not UTF-8")
		}
	case "!!bool":
		v.kind = truth
		if n.Value != "true" && n.Value != "false" {
			f.add(n.Line, "write true or false instead of %q", n.Value)
		}
	case "!!int", "!!float":
		v.kind = number
		if !json.Valid([]byte(n.Value)) {
			f.add(n.Line, "%q is not a decimal number; text that looks like one needs quotes", n.Value)
		}
	default:
		f.add(n.Line, "a value of the type %q is not allowed here; text needs quotes", n.Tag)
	}
}

// fromJSON reads exactly one JSON value. Doubled names and anything after the value are errors.
func fromJSON(b []byte) (value, error) {
	if !utf8.Valid(b) {
		return value{}, errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	v, err := nextJSON(dec, 0)
	if err != nil {
		return value{}, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return value{}, errors.New("something follows the document")
	}
	return v, nil
}

func nextJSON(dec *json.Decoder, depth int) (value, error) {
	if depth > maxDepth {
		return value{}, fmt.Errorf("more than %d levels deep", maxDepth)
	}
	token, err := dec.Token()
	if err != nil {
		return value{}, fmt.Errorf("not JSON: %w", err)
	}
	switch t := token.(type) {
	case json.Delim:
		return nestedJSON(dec, t, depth)
	case string:
		return value{kind: text, text: t}, nil
	case json.Number:
		return value{kind: number, text: t.String()}, nil
	case bool:
		return value{kind: truth, text: strconv.FormatBool(t)}, nil
	}
	return value{}, nil
}

func nestedJSON(dec *json.Decoder, open json.Delim, depth int) (value, error) {
	v := value{kind: list}
	if open == '{' {
		v.kind = object
	}
	for dec.More() {
		if len(v.items) == maxItems {
			return value{}, fmt.Errorf("more than %d items in one list or group", maxItems)
		}
		if v.kind == object {
			token, err := dec.Token()
			if err != nil {
				return value{}, fmt.Errorf("not JSON: %w", err)
			}
			name, _ := token.(string)
			if slices.Contains(v.names, name) {
				return value{}, fmt.Errorf("field %q stands twice", name)
			}
			v.names = append(v.names, name)
		}
		item, err := nextJSON(dec, depth+1)
		if err != nil {
			return value{}, err
		}
		v.items = append(v.items, item)
	}
	if _, err := dec.Token(); err != nil {
		return value{}, fmt.Errorf("not JSON: %w", err)
	}
	return v, nil
}

// appendJSON appends v as JSON, in no canonical form, to dst.
func (v *value) appendJSON(dst []byte) []byte {
	switch v.kind {
	case nothing:
		return append(dst, "null"...)
	case text:
		return appendText(dst, v.text)
	case list, object:
		opening, closing := byte('['), byte(']')
		if v.kind == object {
			opening, closing = '{', '}'
		}
		dst = append(dst, opening)
		for i := range v.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			if v.kind == object {
				dst = append(appendText(dst, v.names[i]), ':')
			}
			dst = v.items[i].appendJSON(dst)
		}
		return append(dst, closing)
	}
	return append(dst, v.text...)
}

func appendText(dst []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic("manifest: a string has no JSON: " + err.Error())
	}
	return append(dst, quoted...)
}
