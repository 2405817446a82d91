package measure_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the sample files anew")

// TestSamples: the files that tests of the command line measure are what these tests make.
func TestSamples(t *testing.T) {
	for name, want := range map[string][]byte{
		"guest.fd":  ovmf(2, direct, 0x80b004, 0x80fc00),
		"image.eif": eif(4, part{1, []byte("kernel")}, part{2, []byte("console=ttyS0")}, part{3, []byte("init")}, part{3, []byte("application")}),
	} {
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(path, want, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what is made here (-update writes it): %v", path, err)
		}
	}
}
