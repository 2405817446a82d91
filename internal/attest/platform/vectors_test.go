package platform_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"consilium.dev/internal/attest/platform"
)

// judgedBelow are the platforms whose vectors a verifier's own package judges, in a test of this name.
var judgedBelow = map[string]string{"sevsnp": "sevsnp", "azure-vtpm": "sevsnp", "nitro": "nitro", "tdx": "tdx", "sgx": "sgx"}

// TestVectors names, one by one, the vectors of platforms that nothing here can judge yet, so that no report of this test
// reads as if they had been.
func TestVectors(t *testing.T) {
	folder := os.Getenv("CONSILIUM_VECTORS")
	if folder == "" {
		t.Skip("CONSILIUM_VECTORS names no folder of attestation evidence")
	}
	var supported strings.Builder
	verifiers, err := platform.Verifiers(platform.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range verifiers {
		supported.WriteString(" " + v.Type().String())
	}
	paths, err := filepath.Glob(filepath.Join(folder, "*", "*", "vector.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s holds no vectors: %v", folder, err)
	}
	for _, path := range paths {
		dir := filepath.Dir(path)
		name := filepath.Base(filepath.Dir(dir))
		if judgedBelow[name] != "" {
			continue
		}
		t.Run(name+"/"+filepath.Base(dir), func(t *testing.T) {
			t.Skipf("the platform %s is not supported yet; supported are:%s", name, supported.String())
		})
	}
}
