package strictyaml_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/strictyaml"
)

// config has a field of every kind that configurations have.
type config struct {
	Name  string            `yaml:"name"`
	N     int               `yaml:"n"`
	X     float64           `yaml:"x"`
	On    bool              `yaml:"on"`
	List  []string          `yaml:"list"`
	Wait  duration          `yaml:"wait"`
	Inner struct{ A int }   `yaml:"inner"`
	Map   map[string]string `yaml:"map"`
	Kind  kind              `yaml:"kind"`
}

type kind string // a text of a type of its own

type duration time.Duration

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = duration(v)
	return err
}

func TestLoad(t *testing.T) {
	text := `# every kind
name: 0123456789012345678901234567890123456789012345678901234567890123
n: -40
x: 1.5e-3
on: true
list: [a, "b: c"]
wait: 90s
inner: {a: 0}
map: {"010": x}
`
	want := config{
		Name: "0123456789012345678901234567890123456789012345678901234567890123", N: -40, X: 1.5e-3, On: true, List: []string{"a", "b: c"},
		Wait: duration(90 * time.Second), Map: map[string]string{"010": "x"},
	}
	var got config
	if err := strictyaml.Load([]byte(text), &got); err != nil {
		t.Fatalf("Load = %v, want no error", err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("what was read (-got +want):\n%s", diff)
	}
}

func TestLoadRefuses(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "name: a\nnmae: b\n", `line 2, column 1: unknown key "nmae"`},
		{"unknown key within", "inner:\n  b: 1\n", `line 2, column 3: unknown key "b"`},
		{"key in capitals", "Name: a\n", `line 1, column 1: unknown key "Name"`},
		{"doubled key", "name: a\nn: 1\nname: b\n", "line 3, column 1: "},
		{"doubled key of a map", "map: {a: x, a: y}\n", "line 1, column 13: "},
		{"two faults", "name: [a]\nn: x\n", "line 1, column 7: want text, not a list; line 2, column 4: want a whole number within bounds, not text"},
		{"text for a number", "x: much\n", "line 1, column 4: want a number, not text"},
		{"fraction for a whole number", "n: 1.5\n", "line 1, column 4: want a whole number within bounds, not this number"},
		{"number too large", "n: 99999999999999999999\n", "line 1, column 4: want a whole number within bounds, not this number"},
		{"number for a truth", "on: 1\n", "line 1, column 5: want true or false, not this number"},
		{"keys for a text of a type", "kind: {a: b}\n", "line 1, column 7: want text, not keys with values"},
		{"list for keys", "inner: [1]\n", "line 1, column 8: want keys with values, not a list"},
		{"keys for a list", "list: {a: b}\n", "line 1, column 7: want a list, not keys with values"},
		{"list for a duration", "wait: [1s]\n", "line 1, column 7: want one value, not a list"},
		{"word for a duration", "wait: long\n", "line 1, column 7: time: invalid duration"},
		{"tag that does not fit", "n: !!int \"abc\"\n", "cannot construct !!str as a !!int"},
		{"octal number", "name: a\nn: 010\n", "line 2: a number with leading zeros, letters or underscores"},
		{"octal number in text", "name: 010\n", "line 1: a number with leading zeros"},
		{"hexadecimal number", "list:\n  - 0x10\n", "line 2: a number with leading zeros"},
		{"new octal number", "n: 0o10\n", "line 1: a number with leading zeros"},
		{"binary number", "n: -0b1\n", "line 1: a number with leading zeros"},
		{"underscores", "n: 1_000\n", "line 1: a number with leading zeros"},
		{"anchor", "name: &x a\n", "line 1: anchors, aliases and merge keys are not allowed here"},
		{"alias", "name: &x a\nlist: [*x]\n", "line 1: anchors"},
		{"merge key", "<<: {name: a}\n", "line 1: anchors"},
		{"two documents", "name: a\n---\nname: b\n", "document"},
		{"empty", "", "document"},
		{"comment alone", "# nothing\n", "document"},
		{"list", "- a\n", "line 1, column 1: want keys with values, not a list"},
		{"text", "a\n", "line 1, column 1: want keys with values, not text"},
		{"no YAML", "name: [a\n", "line "},
		{"tab", "inner:\n\ta: 1\n", "line 2"},
		{"no text", "name: \"\xff\"\n", "UTF-8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var v config
			err := strictyaml.Load([]byte(c.text), &v)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Load = %v, want an error with %q", err, c.want)
			}
			if said := err.Error(); strings.Contains(said, "\n") || strings.Contains(said, "_test.") || strings.Contains(said, "yaml:") {
				t.Errorf("Load = %q, want one line without Go's types", said)
			}
		})
	}
}

// TestLoadKeepsSecrets: a value that stands in the wrong place is not repeated, however short.
func TestLoadKeepsSecrets(t *testing.T) {
	for _, secret := range []string{"hunter2", "hun`ter", "correct horse battery staple", "-----BEGIN PRIVATE KEY-----"} {
		for _, key := range []string{"n", "x", "on", "list", "inner", "map"} {
			var v config
			err := strictyaml.Load([]byte(key+": '"+secret+"'\n"), &v)
			if err == nil || strings.Contains(err.Error(), secret[:3]) || !strings.HasPrefix(err.Error(), "line 1, column ") {
				t.Errorf("Load of a secret under %s = %v, want an error with its place that does not repeat it", key, err)
			}
		}
	}
}

func TestParse(t *testing.T) {
	tree, err := strictyaml.Parse([]byte("a: 010\nb: [1, x]\n"))
	if err != nil {
		t.Fatalf("Parse = %v, want no error", err)
	}
	if n := tree.Content[0].Content[1]; n.Value != "010" || n.Line != 1 {
		t.Errorf("first value = %q in line %d, want it as it stands, in line 1", n.Value, n.Line)
	}
	for text, want := range map[string]string{"a: &x 1\n": "line 1: anchors", "": "document", "{": "line "} {
		if _, err := strictyaml.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want an error with %q", text, err, want)
		}
	}
}

// FuzzLoad: no text makes Load panic, and each fault is one line.
func FuzzLoad(f *testing.F) {
	f.Add("name: a\nn: 1\nlist: [b]\ninner: {a: 2}\n")
	f.Add("<<: *x\n? [a]\n: b\n")
	f.Add("name: !!binary aGk=\nwait: |\n 1s\n")
	f.Fuzz(func(t *testing.T, text string) {
		var v config
		if err := strictyaml.Load([]byte(text), &v); err != nil && err.Error() == "" {
			t.Fatal("Load = an empty error")
		}
	})
}
