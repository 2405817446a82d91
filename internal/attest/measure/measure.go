// Package measure predicts what an enclave's evidence will say was launched: the launch digest of a SEV-SNP guest and the
// registers of a Nitro enclave. With it, members take reference values from files that they built themselves, not from what a
// machine said at its first boot.
//
//	digest, err := measure.SNP(measure.Guest{Firmware: ovmf, Kernel: kernel, VCPUs: 4, CPU: signature, VMM: measure.QEMU})
//	registers, err := measure.EIF(file)
//
// All of it is pure. A prediction that does not meet the evidence is no proof of an attack: the hypervisor's own choices (the
// state in which virtual CPUs start, which features it turns on) are part of what SEV-SNP measures, and differ by its kind and
// version. What is predicted here is said at each field.
package measure

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Kinds of hypervisor, which start virtual CPUs in slightly different states.
const (
	QEMU = "qemu" // QEMU with KVM
	EC2  = "ec2"  // AWS EC2
)

// Guest is what a SEV-SNP guest is launched with.
type Guest struct {
	Firmware []byte // OVMF: whole pages, at most 64 MiB, which end below 4 GiB
	// Kernel, Initrd and Cmdline are those of a direct boot, in which the firmware has their hashes measured. Without Kernel
	// there is none; then the other two must be absent.
	Kernel, Initrd []byte
	Cmdline        string

	VCPUs    int    // 1 to 512
	CPU      uint32 // CPUID leaf 1's EAX of the virtual CPU's model, see Signature; EC2 does not measure it
	VMM      string // QEMU or EC2
	Features uint64 // SEV_FEATURES of the virtual CPUs; 0 means 1, SNP alone
}

// models are the virtual CPUs of QEMU (its builtin_x86_defs): family, model, stepping. All versions of one name have one.
var models = map[string][3]uint32{
	"EPYC": {23, 1, 2}, "EPYC-Rome": {23, 49, 0}, "EPYC-Milan": {25, 1, 1}, "EPYC-Genoa": {25, 17, 0}, "EPYC-Turin": {26, 0, 0},
}

// Signature returns CPUID leaf 1's EAX (AMD 25481) of a virtual CPU of QEMU, such as EPYC-v4 or EPYC-Milan.
func Signature(model string) (uint32, error) {
	name := model
	if base, version, found := cutLast(model, "-v"); found && strings.Trim(version, "0123456789") == "" {
		name = base
	}
	if name == "EPYC-IBPB" {
		name = "EPYC"
	}
	of, ok := models[name]
	if !ok {
		return 0, fmt.Errorf("there is no virtual CPU %q: want one of %s, perhaps with a version such as -v2", model,
			strings.Join(slices.Sorted(maps.Keys(models)), ", "))
	}
	family, extended := of[0], uint32(0)
	if family > 15 {
		family, extended = 15, family-15
	}
	return extended<<20 | of[1]>>4<<16 | family<<8 | of[1]&15<<4 | of[2], nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 && i+len(sep) < len(s) {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// Limits on what is measured, above all that is launched in practice.
const (
	pageBytes   = 4096
	maxFirmware = 64 << 20
	maxVCPUs    = 512
)

// SNP returns the launch digest, MEASUREMENT of a report, of a guest that is launched by VMM in its usual order: the firmware's
// pages, the sections that its metadata names, the state of each virtual CPU.
func SNP(g Guest) ([48]byte, error) {
	if err := g.check(); err != nil {
		return digest{}, err
	}
	f, err := readFirmware(g.Firmware)
	if err != nil {
		return digest{}, err
	}
	var d digest
	base := uint64(1)<<32 - uint64(len(g.Firmware))
	for at := 0; at < len(g.Firmware); at += pageBytes {
		d.page(pageNormal, base+uint64(at), g.Firmware[at:][:pageBytes])
	}
	return d.guest(&g, f)
}

func (g *Guest) check() error {
	switch {
	case len(g.Firmware) == 0 || len(g.Firmware)%pageBytes != 0 || len(g.Firmware) > maxFirmware:
		return fmt.Errorf("firmware of %d bytes: want whole pages of 4096, at most 64 MiB", len(g.Firmware))
	case g.VCPUs < 1 || g.VCPUs > maxVCPUs:
		return fmt.Errorf("%d virtual CPUs: want 1 to %d", g.VCPUs, maxVCPUs)
	case g.VMM != QEMU && g.VMM != EC2:
		return fmt.Errorf("hypervisor %q: want %s or %s", g.VMM, QEMU, EC2)
	case g.Kernel == nil && (g.Initrd != nil || g.Cmdline != ""):
		return fmt.Errorf("an initrd or a command line without a kernel: only a direct boot has them measured")
	}
	return nil
}

// guest goes on from the digest of the firmware's pages.
func (d digest) guest(g *Guest, f *firmware) ([48]byte, error) {
	if g.Kernel != nil && f.hashes() == nil {
		return digest{}, fmt.Errorf("the firmware has no place for the hashes of a kernel: it does not support a measured direct boot")
	}
	for _, s := range f.sections {
		if s.kind == sectionCPUID && g.VMM == EC2 {
			continue // EC2 adds it last
		}
		if err := d.section(s, g, f); err != nil {
			return digest{}, err
		}
	}
	if g.VMM == EC2 {
		for _, s := range f.sections {
			if s.kind == sectionCPUID {
				d.add(pageCPUID, s.gpa, digest{})
			}
		}
	}
	for n := range g.VCPUs {
		start := uint32(bootEIP)
		if n > 0 {
			if start = f.resetEIP; start == 0 {
				return digest{}, fmt.Errorf("the firmware does not say where virtual CPUs beside the first start: it can have one only")
			}
		}
		d.page(pageVMSA, vmsaGPA, saveArea(g, start))
	}
	return d, nil
}

// section adds the pages of a section of the firmware's metadata.
func (d *digest) section(s section, g *Guest, f *firmware) error {
	switch s.kind {
	case sectionMemory, sectionCAA:
		d.zeros(s)
	case sectionSecrets:
		d.add(pageSecrets, s.gpa, digest{})
	case sectionCPUID:
		d.add(pageCPUID, s.gpa, digest{})
	case sectionHashes:
		if g.Kernel == nil {
			d.zeros(s)
			return nil
		}
		page, err := f.hashesPage(g, s)
		if err != nil {
			return err
		}
		d.page(pageNormal, s.gpa, page)
	default:
		return fmt.Errorf("the firmware's metadata has a section of the kind %#x, which is unknown here", s.kind)
	}
	return nil
}

func (d *digest) zeros(s section) {
	for at := uint64(0); at < s.size; at += pageBytes {
		d.add(pageZero, s.gpa+at, digest{})
	}
}

// A digest is a launch digest in the making: GCTX.LD of AMD 56860, section "SNP_LAUNCH_UPDATE", which is zeros at first.
type digest [48]byte

// Kinds of pages (AMD 56860, table "PAGE_TYPE Encodings").
const (
	pageNormal  = 1
	pageVMSA    = 2
	pageZero    = 3
	pageSecrets = 5
	pageCPUID   = 6
)

// vmsaGPA is where the pages of virtual CPUs are measured to lie: all ones, cut to a page in the 48 bits of an address.
const vmsaGPA = 0xffff_ffff_f000

// page adds a page by what it holds.
func (d *digest) page(kind byte, gpa uint64, contents []byte) {
	d.add(kind, gpa, sha512.Sum384(contents))
}

// add makes the digest that of PAGE_INFO (AMD 56860, table "Layout of the PAGE_INFO Structure"):
//
//	0x00  DIGEST_CUR [48]   0x30  CONTENTS [48]   0x60  LENGTH u16, 0x70   0x62  PAGE_TYPE u8
//	0x63  IMI_PAGE and the permissions of VMPL 3, 2 and 1, all zero; 1 reserved   0x68  GPA u64
func (d *digest) add(kind byte, gpa uint64, contents [48]byte) {
	var info [0x70]byte
	copy(info[0x00:], d[:])
	copy(info[0x30:], contents[:])
	binary.LittleEndian.PutUint16(info[0x60:], uint16(len(info)))
	info[0x62] = kind
	binary.LittleEndian.PutUint64(info[0x68:], gpa)
	*d = sha512.Sum384(info[:])
}
