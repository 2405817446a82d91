package dataset_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"consilium.dev/internal/dataset"
)

// examples is the folder of the records that come with the project.
const examples = "../../examples/hospitals/data"

// heart is the schema of the four hospitals' files.
const heart = `{"missing": "?", "missing_rows": "drop", "columns": [
	{"name": "age", "use": "number"}, {"name": "sex", "use": "number"},
	{"name": "cp", "use": "category", "levels": ["1", "2", "3", "4"]},
	{"name": "trestbps", "use": "number"}, {"name": "chol", "use": "number"}, {"name": "fbs", "use": "number"},
	{"name": "restecg", "use": "category", "levels": ["0", "1", "2"]},
	{"name": "thalach", "use": "number"}, {"name": "exang", "use": "number"}, {"name": "oldpeak", "use": "number"},
	{"name": "other", "use": "ignore", "count": 3}, {"name": "num", "use": "label", "above": 0}]}`

// hospitals are the files with the figures that the data's own page gives.
var hospitals = []struct {
	file, origin, digest    string
	kept                    int
	train, ill, test, illIn int // rows and those with label 1, of both sets
}{
	{"cleveland", "cleveland", "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8", 303, 199, 91, 104, 48},
	{"budapest", "hungarian", "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796", 261, 172, 65, 89, 33},
	{"switzerland", "switzerland", "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314", 46, 30, 30, 16, 15},
	{"longbeach", "va", "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f", 130, 85, 66, 45, 35},
}

// TestHospitals reads the records that come with the project and counts them.
func TestHospitals(t *testing.T) {
	for _, h := range hospitals {
		t.Run(h.file, func(t *testing.T) {
			text := readFile(t, examples, h.file+".data")
			if got := sha256.Sum256(text); hex.EncodeToString(got[:]) != h.digest {
				t.Errorf("SHA-256 of the file = %x, want %s", got, h.digest)
			}
			set, err := dataset.Read(bytes.NewReader(text), h.file, schema(t, heart))
			if err != nil {
				t.Fatal(err)
			}
			parts, err := dataset.ReadSplit(bytes.NewReader(readFile(t, examples, h.file+".split.csv")), h.file+".split.csv")
			if err != nil {
				t.Fatal(err)
			}
			train, test, err := set.Split(parts)
			if err != nil {
				t.Fatal(err)
			}
			got := [5]int{set.Rows(), train.Rows(), ones(train), test.Rows(), ones(test)}
			if want := [5]int{h.kept, h.train, h.ill, h.test, h.illIn}; got != want {
				t.Errorf("kept, for training, of them ill, for testing, of them ill: %v, want %v", got, want)
			}
			if set.Columns() != 13 {
				t.Errorf("%d features, want 13", set.Columns())
			}
		})
	}
}

func ones(s *dataset.Set) int {
	n := 0
	for _, v := range s.Labels {
		n += int(v)
	}
	return n
}

// TestHospitalsOrigin compares the files with their originals, and the splits with the one for all four.
func TestHospitalsOrigin(t *testing.T) {
	dir := os.Getenv("CONSILIUM_DATA")
	if dir == "" {
		t.Skip("CONSILIUM_DATA is not set: the folder with heart-disease/processed.cleveland.data")
	}
	dir = filepath.Join(dir, "heart-disease")
	all := bytes.Split(readFile(t, dir, "split.csv"), []byte("\n"))
	for _, h := range hospitals {
		if !bytes.Equal(readFile(t, examples, h.file+".data"), readFile(t, dir, "processed."+h.origin+".data")) {
			t.Errorf("%s.data differs from processed.%s.data", h.file, h.origin)
		}
		want := []byte("line,set\n")
		for _, line := range all[1:] {
			if f := bytes.Split(bytes.TrimSpace(line), []byte(",")); string(f[0]) == h.origin { // hospital,line,set,label
				want = append(want, string(f[1])+","+string(f[2])+"\n"...)
			}
		}
		if got := readFile(t, examples, h.file+".split.csv"); !bytes.Equal(got, want) {
			t.Errorf("%s.split.csv differs from the rows of %s in split.csv", h.file, h.origin)
		}
	}
}

func readFile(t testing.TB, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
