package measure

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// Kinds of sections in the firmware's SEV metadata (edk2, OvmfPkg/ResetVector, "OvmfSevMetadata").
const (
	sectionMemory  = 1 // pages that the firmware uses before it validates memory itself: zeros
	sectionSecrets = 2
	sectionCPUID   = 3
	sectionCAA     = 4    // calling area of an SVSM: zeros
	sectionHashes  = 0x10 // the page with the hashes of a direct boot
)

type section struct {
	gpa, size uint64
	kind      uint32
}

// firmware is what a launch needs to know of OVMF.
type firmware struct {
	sections []section
	resetEIP uint32 // where virtual CPUs beside the first start; 0 if it does not say
	table    uint64 // where the table of hashes lies; 0 if it has none
}

// hashes returns the section of the page with the hashes, nil if there is none.
func (f *firmware) hashes() *section {
	i := slices.IndexFunc(f.sections, func(s section) bool { return s.kind == sectionHashes })
	if i < 0 || f.table == 0 {
		return nil
	}
	return &f.sections[i]
}

// guid returns a GUID as it lies in memory: its first three parts are little-endian.
func guid(s string) [16]byte {
	raw, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	if err != nil {
		panic("measure: " + s + " is no GUID")
	}
	slices.Reverse(raw[0:4])
	slices.Reverse(raw[4:6])
	slices.Reverse(raw[6:8])
	return [16]byte(raw)
}

// GUIDs of edk2's table at the end of the firmware (OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm), and of QEMU's table of
// hashes (target/i386/sev.c).
var (
	guidFooter    = guid("96b582de-1fb2-45f7-baea-a366c55a082d")
	guidHashTable = guid("7255371f-3a3b-4b04-927b-1da6efa8d454")
	guidReset     = guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
	guidMetadata  = guid("dc886566-984a-4798-a75e-5585a7bf67cc")

	guidHashes  = guid("9438d606-4f22-4cc9-b479-a793d411fd21")
	guidCmdline = guid("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
	guidInitrd  = guid("44baf731-3a2f-4bd7-9af1-41e29169781d")
	guidKernel  = guid("4de79437-abd2-427f-b835-d5b172d2045b")
)

// readFirmware reads the table of GUIDs at the end of OVMF, from its end: each entry is its data, a u16 length of the whole
// entry, a GUID. The last entry, 32 bytes before the end of the firmware, is the table itself.
func readFirmware(raw []byte) (*firmware, error) {
	const head, behind = 18, 32
	if len(raw) < behind+head {
		return nil, errors.New("the firmware is too short for OVMF's table of GUIDs")
	}
	end := len(raw) - behind - head
	if [16]byte(raw[end+2:]) != guidFooter {
		return nil, errors.New("the firmware does not end in OVMF's table of GUIDs")
	}
	size := int(binary.LittleEndian.Uint16(raw[end:])) - head
	if size < 0 || size > end {
		return nil, errors.New("the firmware's table of GUIDs is longer than the firmware")
	}
	f := &firmware{}
	for table := raw[end-size : end]; len(table) > 0; {
		if len(table) < head {
			return nil, errors.New("the firmware's table of GUIDs has an entry that is cut short")
		}
		length := int(binary.LittleEndian.Uint16(table[len(table)-head:]))
		if length < head || length > len(table) {
			return nil, fmt.Errorf("the firmware's table of GUIDs has an entry of %d bytes in %d", length, len(table))
		}
		data := table[len(table)-length : len(table)-head]
		if err := f.entry([16]byte(table[len(table)-16:]), data, raw); err != nil {
			return nil, err
		}
		table = table[:len(table)-length]
	}
	if f.sections == nil {
		return nil, errors.New("the firmware has no SEV metadata: it was not built for SEV-SNP")
	}
	return f, nil
}

// entry reads one entry of the table. Those of other GUIDs are not about a launch.
func (f *firmware) entry(id [16]byte, data, raw []byte) error {
	if id != guidHashTable && id != guidReset && id != guidMetadata {
		return nil
	}
	if len(data) < 4 {
		return fmt.Errorf("the firmware's table of GUIDs has an entry with %d bytes, want 4", len(data))
	}
	value := binary.LittleEndian.Uint32(data)
	switch id {
	case guidHashTable:
		f.table = uint64(value)
	case guidReset:
		f.resetEIP = value
	case guidMetadata:
		return f.metadata(value, raw)
	}
	return nil
}

// metadata reads the SEV metadata, which lies so many bytes before the end of the firmware: "ASEV", length, version 1 and
// number of sections (u32 each), then for each section its address, its size and its kind (likewise).
func (f *firmware) metadata(before uint32, raw []byte) error {
	const head, each = 16, 12
	if before < head || uint64(before) > uint64(len(raw)) {
		return fmt.Errorf("the firmware's SEV metadata lies %d bytes before its end, of %d", before, len(raw))
	}
	m := raw[len(raw)-int(before):]
	length, version, count := binary.LittleEndian.Uint32(m[4:]), binary.LittleEndian.Uint32(m[8:]), binary.LittleEndian.Uint32(m[12:])
	if string(m[:4]) != "ASEV" || version != 1 || length < head || uint64(length) > uint64(len(m)) || uint64(count)*each != uint64(length)-head {
		return fmt.Errorf("the firmware's SEV metadata has the signature %q, version %d, %d bytes and %d sections", m[:4], version, length, count)
	}
	for at := head; at < int(length); at += each {
		s := section{
			gpa: uint64(binary.LittleEndian.Uint32(m[at:])), size: uint64(binary.LittleEndian.Uint32(m[at+4:])),
			kind: binary.LittleEndian.Uint32(m[at+8:]),
		}
		if s.gpa%pageBytes != 0 || s.size == 0 || s.size%pageBytes != 0 || s.size > maxFirmware {
			return fmt.Errorf("the firmware's SEV metadata has a section of %#x bytes at %#x: want whole pages", s.size, s.gpa)
		}
		f.sections = append(f.sections, s)
	}
	if f.sections == nil {
		return errors.New("the firmware's SEV metadata has no sections")
	}
	return nil
}

// hashesPage returns the page into which QEMU writes the hashes of a direct boot: zeros but for the table, which has a GUID and
// a length for itself and for each of its three hashes, SHA-256, and is padded to 16 bytes.
func (f *firmware) hashesPage(g *Guest, s section) ([]byte, error) {
	const entry = 16 + 2 + sha256.Size
	if s.size != pageBytes || f.table < s.gpa || f.table-s.gpa > pageBytes-(18+3*entry+15)&^15 {
		return nil, fmt.Errorf("the firmware's table of hashes, at %#x, does not lie in its page at %#x", f.table, s.gpa)
	}
	table := binary.LittleEndian.AppendUint16(guidHashes[:], 18+3*entry)
	for _, of := range []struct {
		id       [16]byte
		contents []byte
	}{
		{guidCmdline, append([]byte(g.Cmdline), 0)}, {guidInitrd, g.Initrd}, {guidKernel, g.Kernel},
	} {
		sum := sha256.Sum256(of.contents)
		table = append(table, of.id[:]...)
		table = binary.LittleEndian.AppendUint16(table, entry)
		table = append(table, sum[:]...)
	}
	page := make([]byte, pageBytes)
	copy(page[f.table-s.gpa:], table)
	return page, nil
}
