package measure

import "encoding/binary"

// bootEIP is where the first virtual CPU starts: the reset vector.
const bootEIP = 0xffff_fff0

// saveArea returns the VMSA page (AMD 24593, table B-4, "VMSA Layout, State Save Area for SEV-ES") of a virtual CPU that starts
// at eip, as the hypervisor hands it to the firmware: the state after a reset (AMD 24593, section 14.1.3), with what KVM sets.
func saveArea(g *Guest, eip uint32) []byte {
	area := make([]byte, pageBytes)
	cs, ss, tr, rdx := uint16(0x9b), uint16(0x93), uint16(0x8b), uint64(g.CPU)
	if g.VMM == EC2 { // its segments are not marked as used yet, and it does not show the CPU's model
		ss, tr, rdx = 0x92, 0x83, 0
		if eip == bootEIP {
			cs = 0x9a
		}
	}
	segment := func(at int, selector, attributes uint16, base uint64) {
		binary.LittleEndian.PutUint16(area[at:], selector)
		binary.LittleEndian.PutUint16(area[at+2:], attributes)
		binary.LittleEndian.PutUint32(area[at+4:], 0xffff) // limit
		binary.LittleEndian.PutUint64(area[at+8:], base)
	}
	segment(0x00, 0, 0x93, 0)                          // ES
	segment(0x10, 0xf000, cs, uint64(eip)&0xffff_0000) // CS
	segment(0x20, 0, ss, 0)                            // SS
	for _, at := range []int{0x30, 0x40, 0x50} {       // DS, FS, GS
		segment(at, 0, 0x93, 0)
	}
	segment(0x60, 0, 0, 0)    // GDTR
	segment(0x70, 0, 0x82, 0) // LDTR
	segment(0x80, 0, 0, 0)    // IDTR
	segment(0x90, 0, tr, 0)   // TR
	features := g.Features
	if features == 0 {
		features = 1 // SNPActive
	}
	for at, value := range map[int]uint64{
		0x0d0: 0x1000,                // EFER: SVME, by KVM
		0x148: 0x40,                  // CR4: MCE, by KVM
		0x158: 0x10,                  // CR0
		0x160: 0x400,                 // DR7
		0x168: 0xffff_0ff0,           // DR6
		0x170: 0x2,                   // RFLAGS
		0x178: uint64(eip) & 0xffff,  // RIP
		0x268: 0x0007_0406_0007_0406, // G_PAT
		0x310: rdx,                   // RDX
		0x3b0: features,              // SEV_FEATURES
		0x3e8: 0x1,                   // XCR0
	} {
		binary.LittleEndian.PutUint64(area[at:], value)
	}
	return area
}
