package strictyaml_test

import (
	"strings"
	"testing"

	"consilium.dev/internal/strictyaml"
)

func TestLoad(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"good", "name: a\nn: 1\n", ""},
		{"unknown key", "name: a\nnmae: b\n", "line 2"},
		{"doubled key", "name: a\nname: b\n", "line 2"},
		{"two faults", "name: [a]\nn: x\n", "line 2"},
		{"anchor", "name: &x a\n", "line 1: anchors"},
		{"merge", "<<: {name: a}\n", "line 1: anchors"},
		{"two documents", "name: a\n---\nname: b\n", "document"},
		{"empty", "", "document"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var v struct {
				Name string `yaml:"name"`
				N    int    `yaml:"n"`
			}
			err := strictyaml.Load([]byte(test.text), &v)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("Load = %v, want no error", err)
			case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
				t.Errorf("Load = %v, want an error with %q", err, test.want)
			}
		})
	}
}
