package model_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"consilium.dev/internal/model"
)

// tensor is a tensor as testdata/read.py prints it.
type tensor struct {
	Name  string   `json:"name"`
	Shape []int    `json:"shape"`
	Bits  []uint32 `json:"bits"`
}

// TestPython has files read, and written anew, by a script that knows the format from its description only.
func TestPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CONSILIUM_REQUIRE_ALL") != "" {
			t.Fatal("python3 is not installed")
		}
		t.Skip("python3 is not installed")
	}
	chance := rand.New(rand.NewPCG(1, 2))
	large := &model.Model{Layout: model.Layout{{Name: "a/é", Shape: []int{3, 5, 7}}, {Name: "b"}, {Name: "b.語", Shape: []int{40000}}}}
	for range large.Layout.Len() {
		large.Params = append(large.Params, chance.Float32()-0.5)
	}
	edges := &model.Model{
		Layout: model.Layout{{Name: "edges", Shape: []int{2, 3}}},
		Params: []float32{0, float32(math.Copysign(0, -1)), math.MaxFloat32, -math.SmallestNonzeroFloat32, 0x1p-126, 1.0000001},
	}
	for name, m := range map[string]*model.Model{"small": small(), "large": large, "edges": edges} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "model.safetensors")
			if err := os.WriteFile(path, write(t, m), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(python, filepath.Join("testdata", "read.py"), path)
			var said bytes.Buffer
			cmd.Stderr = &said
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("read.py: %v\n%s", err, said.String())
			}
			var got struct {
				Tensors []tensor `json:"tensors"`
				Again   string   `json:"again"`
			}
			if err := json.Unmarshal(out, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got.Tensors, tensors(m)); diff != "" {
				t.Errorf("what the script read differs (-got +want):\n%.2000s", diff)
			}
			digest := m.Digest()
			if want := hex.EncodeToString(digest[:]); got.Again != want {
				t.Errorf("SHA-256 of the file that the script wrote = %s, want the model's digest %s", got.Again, want)
			}
		})
	}
}

// tensors returns a model's tensors by their bits.
func tensors(m *model.Model) []tensor {
	var all []tensor
	for _, l := range m.Layout {
		part, _ := m.Layout.Slice(m.Params, l.Name)
		v := tensor{Name: l.Name, Shape: append([]int{}, l.Shape...)}
		for _, x := range part {
			v.Bits = append(v.Bits, math.Float32bits(x))
		}
		all = append(all, v)
	}
	return all
}
