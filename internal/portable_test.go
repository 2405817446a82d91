package internal_test

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// digests are the tests that pin every bit of what an aggregator computes, or hold it to what another way computes, by package.
var digests = map[string][]string{
	"aggregate": {"TestGoldenDigest", "TestGoldenDigestGather", "TestGoldenDigestServer", "TestWholeFenced", "TestFedBuffWeighs"},
	"trainer":   {"TestInitialDigest", "TestScaleDigest"},
}

// TestPortable builds the tests of digests for other processors and runs them: amd64 as every one of them is, amd64 with fused
// multiply-add, arm64, which has it always. All must reach the same bits. The binaries hold no other package's tests, so this
// one does not start itself.
func TestPortable(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		missing(t, "go is not on the PATH")
	}
	for _, c := range []struct{ name, arch, level, qemu string }{
		{"amd64 v1", "amd64", "v1", "qemu-x86_64"},
		{"amd64 v3", "amd64", "v3", "qemu-x86_64"},
		{"arm64", "arm64", "", "qemu-aarch64"},
	} {
		t.Run(c.name, func(t *testing.T) {
			run := emulator(t, c.arch, c.qemu)
			for pkg, tests := range digests {
				file := filepath.Join(t.TempDir(), pkg+".test")
				build := exec.Command(goTool, "test", "-c", "-o", file, "consilium.dev/internal/"+pkg)
				build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+c.arch, "GOAMD64="+c.level)
				if out, err := build.CombinedOutput(); err != nil {
					t.Fatalf("building the tests of %s: %v\n%s", pkg, err, out)
				}
				checkBuild(t, file, c.arch, c.level)
				words := append(slices.Clone(run), file, "-test.run=^("+strings.Join(tests, "|")+")$", "-test.v")
				out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
				if strings.Contains(string(out), "microarchitecture support") { // says Go's runtime before anything else
					t.Skipf("this processor is no amd64 %s", c.level)
				}
				for _, test := range tests {
					if err != nil || !strings.Contains(string(out), "--- PASS: "+test+" ") {
						t.Errorf("%s of %s: %v, want it to pass\n%s", test, pkg, err, out)
					}
				}
			}
		})
	}
}

// missing skips a test for want of something, or fails it where nothing may be wanting.
func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CONSILIUM_REQUIRE_ALL") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// emulator returns the words that stand before a program's name to run it here: none where the processor is its own.
func emulator(t *testing.T, arch, qemu string) []string {
	t.Helper()
	if runtime.GOOS == "linux" && runtime.GOARCH == arch {
		return nil
	}
	for _, name := range []string{qemu, qemu + "-static"} {
		if path, err := exec.LookPath(name); err == nil && runtime.GOOS == "linux" {
			return []string{path, "-cpu", "max"}
		}
	}
	missing(t, qemu+" is not installed, or this is not Linux")
	return nil
}

// checkBuild makes sure that a binary is for the processor that the test speaks of.
func checkBuild(t *testing.T, file, arch, level string) {
	t.Helper()
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range info.Settings {
		got[s.Key] = s.Value
	}
	if got["GOARCH"] != arch || got["GOAMD64"] != level {
		t.Fatalf("binary for %s %s, want %s %s", got["GOARCH"], got["GOAMD64"], arch, level)
	}
}
