package measure_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"consilium.dev/internal/attest/measure"
)

func digest(t testing.TB, s string) [48]byte {
	t.Helper()
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != 48 {
		t.Fatalf("%q is no digest: %v", s, err)
	}
	return [48]byte(raw)
}

// plain are the sections of OVMF; direct those of its build for direct boots (AmdSev), with the page of hashes among them.
var (
	plain = []measure.Section{
		{0x800000, 0x9000, 1}, {0x80a000, 0x3000, 1}, {0x80d000, 0x1000, 2}, {0x80e000, 0x1000, 3}, {0x80f000, 0x11000, 1},
	}
	direct = []measure.Section{
		{0x800000, 0x9000, 1}, {0x80a000, 0x3000, 1}, {0x80d000, 0x1000, 2}, {0x80e000, 0x1000, 3}, {0x80f000, 0x1000, 0x10}, {0x810000, 0x10000, 1},
	}
)

// TestKnown predicts launch digests that others publish: github.com/virtee/sev-snp-measure (tests/test_guest.py) and
// sev-snp-measure-go (guest/guest_test.go), Apache License 2.0. They start from digests of firmware, since theirs is not
// published whole; the sections of the second were found by what its digests say.
func TestKnown(t *testing.T) {
	const (
		ovmf1  = "a58211791a556a630a4319dc9e2ea96cc0e9784dd9f20a4fadf81b26c98d163fcdcb6703884bbbb80d7b1de45b3d84d0"
		ovmf2  = "2027a27bb9f7acfd280e4c7bd68a73973b94bf0756e5b282e004b9395f597b8d0eb4defa7d8f6549375aa4d2b146f0f3"
		amdSev = "edcf6d1c57ce868a167c990f58c8667c698269ef9e0803246419eea914186343054d557e1f17acd93b032c106bc70d25"
		other  = "cab7e085874b3acfdbe2d96dcaa3125111f00c35c6fc9708464c2ae74bfdb048a198cb9a9ccae0b3e5e1a33f5f249819"
	)
	epyc, err := measure.Signature("EPYC-v4")
	if err != nil {
		t.Fatal(err)
	}
	empty := []byte{}
	for _, k := range []struct {
		name, firmware string
		sections       []measure.Section
		guest          measure.Guest
		want           string
	}{
		{
			"EC2, two CPUs", ovmf1, plain,
			measure.Guest{VCPUs: 2, VMM: measure.EC2},
			"4c6e33087d08fa770259484dddbef367086a15c3e2cf10038dc97229d39c942671c2e22b300178f8de594a3f2fa59303",
		},
		{
			"EC2, two CPUs, another firmware", ovmf2, plain,
			measure.Guest{VCPUs: 2, VMM: measure.EC2},
			"c2c84b9364fc9f0f54b04534768c860c6e0e386ad98b96e8b98eca46ac8971d05c531ba48373f054c880cfd1f4a0a84e",
		},
		{
			"EC2, direct boot", amdSev, direct,
			measure.Guest{Kernel: empty, Initrd: empty, VCPUs: 1, CPU: epyc, VMM: measure.EC2},
			"760b6e51039d2d6c1fc6d38ca5c387967d158e0294883e4522c36f89bd61bfc9cdb975cd1ceedffbe1b23b1daf4e3f42",
		},
		{
			"QEMU, direct boot with a command line", amdSev, direct,
			measure.Guest{Kernel: empty, Initrd: empty, Cmdline: "console=ttyS0 loglevel=7", VCPUs: 1, CPU: epyc, VMM: measure.QEMU},
			"f07864303ad8243132029e8110b92805c78d1135a15da75f67abb9a711d78740347f24ee76f603e650ec4adf3611cc1e",
		},
		{
			"QEMU, without a kernel", amdSev, direct,
			measure.Guest{VCPUs: 1, CPU: epyc, VMM: measure.QEMU},
			"e5e6be5a8fa6256f0245666bb237e2d028b7928148ce78d51b8a64dc9506c377709a5b5d7ab75554593bced304fcff93",
		},
		{
			"QEMU, four CPUs", amdSev, direct,
			measure.Guest{Kernel: empty, VCPUs: 4, CPU: epyc, VMM: measure.QEMU},
			"1c784beb8c49aa604b7fd57fbc73b36ec53a3f5fb48a2b895ad6cc2ea15d18ee7cc15e3e57c792766b45f944c3e81cfe",
		},
		{
			"QEMU, another firmware's digest", other, direct,
			measure.Guest{Kernel: empty, VCPUs: 1, CPU: epyc, VMM: measure.QEMU},
			"db06fb267824b1ccb56edbe2a9c2ce88841bca5090dc6dac91d9cd30f3c2c0bf42daccb30d55d6625bfbf0dae5c50c6d",
		},
	} {
		t.Run(k.name, func(t *testing.T) {
			got, err := measure.From(digest(t, k.firmware), k.sections, 0x80b004, 0x80fc00, k.guest)
			if err != nil || got != digest(t, k.want) {
				t.Errorf("launch digest %x, %v, want %s", got, err, k.want)
			}
		})
	}
}

// ovmf returns firmware of so many pages with a table of GUIDs at its end that says all of what a launch asks for.
func ovmf(pages int, sections []measure.Section, resetEIP, table uint32) []byte {
	raw := make([]byte, 4096*pages)
	for i := range raw {
		raw[i] = byte(i * 7)
	}
	metadata := binary.LittleEndian.AppendUint32([]byte("ASEV"), uint32(16+12*len(sections)))
	metadata = binary.LittleEndian.AppendUint32(metadata, 1)
	metadata = binary.LittleEndian.AppendUint32(metadata, uint32(len(sections)))
	for _, s := range sections {
		for _, n := range []uint32{uint32(s.GPA), uint32(s.Size), s.Kind} {
			metadata = binary.LittleEndian.AppendUint32(metadata, n)
		}
	}
	const before = 1024
	copy(raw[len(raw)-before:], metadata)
	u32 := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	entries := slices.Concat(
		tableEntry("de8265574b7947ba9ec9c2a7b1e9c3a1", []byte("a stranger's")),
		tableEntry("1f3755723b3a044b927b1da6efa8d454", u32(table), make([]byte, 4)),
		tableEntry("de71f7007e1acb4f890e68c77e2fb44e", u32(resetEIP)),
		tableEntry("666588dc4a989847a75e5585a7bf67cc", u32(before)),
	)
	entries = append(entries, binary.LittleEndian.AppendUint16(nil, uint16(len(entries)+18))...)
	entries = append(entries, unhex("de82b596b21ff745baeaa366c55a082d")...)
	copy(raw[len(raw)-32-len(entries):], entries)
	return raw
}

func unhex(s string) []byte {
	raw, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return raw
}

// tableEntry returns an entry of the table; id is the GUID as it lies in memory.
func tableEntry(id string, data ...[]byte) []byte {
	raw := slices.Concat(data...)
	raw = binary.LittleEndian.AppendUint16(raw, uint16(len(raw)+18))
	return append(raw, unhex(id)...)
}

// TestFirmware: a whole firmware gives what its pages, one by one, and its sections give.
func TestFirmware(t *testing.T) {
	raw := ovmf(3, direct, 0x80b004, 0x80fc00)
	guest := measure.Guest{
		Firmware: raw, Kernel: []byte("kernel"), Initrd: []byte("initrd"), Cmdline: "quiet", VCPUs: 2, CPU: 0xa00f11, VMM: measure.QEMU,
	}
	got, err := measure.SNP(guest)
	if err != nil {
		t.Fatal(err)
	}
	var pages [48]byte
	for i := range 3 {
		contents := sha512.Sum384(raw[4096*i:][:4096])
		info := slices.Concat(pages[:], contents[:], []byte{0x70, 0, 1, 0, 0, 0, 0, 0})
		pages = sha512.Sum384(binary.LittleEndian.AppendUint64(info, 1<<32-3*4096+4096*uint64(i)))
	}
	want, err := measure.From(pages, direct, 0x80b004, 0x80fc00, guest)
	if err != nil || got != want {
		t.Errorf("SNP = %x, want %x, %v", got, want, err)
	}
	// Whatever is measured changes the digest.
	for name, change := range map[string]func(*measure.Guest){
		"firmware":     func(g *measure.Guest) { g.Firmware = slices.Clone(raw); g.Firmware[5] ^= 1 },
		"kernel":       func(g *measure.Guest) { g.Kernel = []byte("kernex") },
		"no kernel":    func(g *measure.Guest) { g.Kernel, g.Initrd, g.Cmdline = nil, nil, "" },
		"initrd":       func(g *measure.Guest) { g.Initrd = nil },
		"command line": func(g *measure.Guest) { g.Cmdline += " " },
		"CPUs":         func(g *measure.Guest) { g.VCPUs = 3 },
		"CPU":          func(g *measure.Guest) { g.CPU++ },
		"hypervisor":   func(g *measure.Guest) { g.VMM = measure.EC2 },
		"features":     func(g *measure.Guest) { g.Features = 0x21 },
	} {
		g := guest
		change(&g)
		if other, err := measure.SNP(g); err != nil || other == got {
			t.Errorf("%s changed: the digest is the same, or %v", name, err)
		}
	}
	one := guest
	one.Features = 1
	if same, err := measure.SNP(one); err != nil || same != got {
		t.Errorf("features 1 and the default differ: %x, %v", same, err)
	}
}

func TestSNPRefuses(t *testing.T) {
	good := func() measure.Guest {
		return measure.Guest{Firmware: ovmf(2, direct, 0x80b004, 0x80fc00), Kernel: []byte("k"), VCPUs: 2, VMM: measure.QEMU}
	}
	with := func(sections []measure.Section, resetEIP, table uint32) func(*measure.Guest) {
		return func(g *measure.Guest) { g.Firmware = ovmf(2, sections, resetEIP, table) }
	}
	at := func(back int, value ...byte) func(*measure.Guest) {
		return func(g *measure.Guest) { copy(g.Firmware[len(g.Firmware)-back:], value) }
	}
	for _, test := range []struct {
		name  string
		spoil func(*measure.Guest)
		want  string
	}{
		{"no firmware", func(g *measure.Guest) { g.Firmware = nil }, "firmware of 0 bytes"},
		{"half a page", func(g *measure.Guest) { g.Firmware = g.Firmware[:6000] }, "whole pages"},
		{"no table", func(g *measure.Guest) { g.Firmware = make([]byte, 8192) }, "does not end in OVMF's table"},
		{"a table that is too long", at(50, 0xff, 0xff), "longer than the firmware"},
		{"a table shorter than its head", at(50, 17, 0), "longer than the firmware"},
		{"an entry cut short", at(50, 18+9, 0), "cut short"},
		{"an entry of nothing", at(50+18, 0, 0), "an entry of 0 bytes"},
		{"an entry beyond the table", at(50+18, 0xff, 0x0f), "an entry of 4095 bytes"},
		{"no metadata", at(50+16, 1), "has no SEV metadata"},
		{"metadata of another signature", at(1024, 'X'), `signature "XSEV"`},
		{"metadata of version 2", at(1024-8, 2), "version 2"},
		{"metadata with another number of sections", at(1024-12, 7), "and 7 sections"},
		{"metadata beyond the end", at(50+22, 0, 0, 1), "65536 bytes before its end"},
		{"no sections", with(nil, 1, 0), "has no sections"},
		{"a section of half a page", with([]measure.Section{{0x800000, 0x800, 1}}, 1, 0), "want whole pages"},
		{"a section between pages", with([]measure.Section{{0x800010, 0x1000, 1}}, 1, 0), "want whole pages"},
		{"a section of 4 GiB", with([]measure.Section{{0x800000, 0xfffff000, 1}}, 1, 0), "want whole pages"},
		{"a section of an unknown kind", with([]measure.Section{{0x800000, 0x1000, 9}, {0x80f000, 0x1000, 0x10}}, 1, 0x80f000), "kind 0x9"},
		{"a kernel without a place for its hashes", with(plain, 0x80b004, 0x80fc00), "does not support a measured direct boot"},
		{"a page of hashes without their table", with(direct, 0x80b004, 0), "does not support a measured direct boot"},
		{"a table of hashes in another page", with(direct, 0x80b004, 0x810000), "does not lie in its page"},
		{"a table of hashes over its page's end", with(direct, 0x80b004, 0x80ff60), "does not lie in its page"},
		{"a second CPU that starts nowhere", with(direct, 0, 0x80fc00), "can have one only"},
		{"no CPU", func(g *measure.Guest) { g.VCPUs = 0 }, "0 virtual CPUs"},
		{"too many CPUs", func(g *measure.Guest) { g.VCPUs = 513 }, "513 virtual CPUs"},
		{"another hypervisor", func(g *measure.Guest) { g.VMM = "xen" }, `hypervisor "xen"`},
		{"no hypervisor", func(g *measure.Guest) { g.VMM = "" }, `hypervisor ""`},
		{"a command line without a kernel", func(g *measure.Guest) { g.Kernel, g.Cmdline = nil, "quiet" }, "without a kernel"},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := good()
			test.spoil(&g)
			got, err := measure.SNP(g)
			if err == nil || !strings.Contains(err.Error(), test.want) || got != [48]byte{} {
				t.Errorf("SNP = %x, %v, want an error with %q", got, err, test.want)
			}
		})
	}
}

func TestSignature(t *testing.T) {
	for name, want := range map[string]uint32{
		"EPYC": 0x800f12, "EPYC-v4": 0x800f12, "EPYC-IBPB": 0x800f12, "EPYC-Rome-v2": 0x830f10, "EPYC-Milan": 0xa00f11,
		"EPYC-Milan-v2": 0xa00f11, "EPYC-Genoa-v1": 0xa10f10, "EPYC-Turin": 0xb00f00,
	} {
		if got, err := measure.Signature(name); err != nil || got != want {
			t.Errorf("Signature(%s) = %#x, %v, want %#x", name, got, err, want)
		}
	}
	for _, name := range []string{"", "EPYC-", "EPYC-v", "EPYC-vx", "epyc", "EPYC-Naples", "-v1"} {
		if got, err := measure.Signature(name); err == nil {
			t.Errorf("Signature(%q) = %#x, want an error", name, got)
		}
	}
}

// TestInstance: PCR4 of real documents is that of the instance which their module ids name.
func TestInstance(t *testing.T) {
	paths, err := filepath.Glob("../nitro/testdata/vectors/nitro/*/vector.json")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var v struct {
			Fields struct {
				Module string            `json:"module_id"`
				PCRs   map[string]string `json:"pcrs"`
			} `json:"fields"`
		}
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatal(err)
		}
		id, _, _ := strings.Cut(v.Fields.Module, "-enc")
		if got, want := measure.Instance(id), digest(t, v.Fields.PCRs["4"]); got != want {
			t.Errorf("%s: Instance(%s) = %x, PCR4 is %x", path, id, got, want)
		}
	}
	if measure.Role("arn:aws:iam::123456789012:role/a") == measure.Role("arn:aws:iam::123456789012:role/b") {
		t.Error("two roles have one register")
	}
}

// FuzzSNP: no firmware makes it panic, and what changes the firmware changes the digest.
func FuzzSNP(f *testing.F) {
	good := ovmf(1, direct, 0x80b004, 0x80fc00)
	f.Add(good[4096-1024:], "quiet")
	f.Add([]byte("ASEV"), "")
	f.Fuzz(func(t *testing.T, tail []byte, cmdline string) {
		raw := slices.Clone(good)
		copy(raw[max(0, len(raw)-len(tail)):], tail)
		g := measure.Guest{Firmware: raw, Kernel: []byte("k"), Cmdline: cmdline, VCPUs: 1, VMM: measure.QEMU}
		got, err := measure.SNP(g)
		if err != nil {
			return
		}
		raw = slices.Clone(raw)
		raw[0] ^= 1
		g.Firmware = raw
		if other, err := measure.SNP(g); err != nil || bytes.Equal(other[:], got[:]) {
			t.Errorf("another first byte gives %x, %v", other, err)
		}
	})
}
