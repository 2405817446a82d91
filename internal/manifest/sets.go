package manifest

import (
	"bytes"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"consilium.dev/internal/attest"
)

const maxCollateralAge = 366 * 24 * time.Hour

// rule is what a field of a reference set asks. The zero rule asks for the zero value; it never passes unread.
type rule[T any] struct {
	any  bool // not judged; the set's list of reasons says why
	want T
}

// set is one enclave as the members know it. Evidence must match one set wholly.
type set struct {
	name      string
	typ       attest.Type
	simulated string   // name of the one private root whose evidence this set is about; "" on hardware
	any       []string // "set.field: reason"
	snp       snpSet
	nitro     nitroSet
	intel     intelSet // of TDX and SGX
	tdx       tdxSet
	sgx       sgxSet
}

type snpSet struct {
	productLines []string
	measurements [][]byte

	migrateMA, smt, singleSocket rule[bool] // guest policy
	abiMin                       rule[[2]uint8]
	vmpl                         uint32
	tcbMin                       attest.TCB

	strict map[string]rule[bool] // bits of the guest policy that only make it stricter, under the names in strictBits

	provisional bool   // firmware that is not committed will do, at the floor
	mitigations uint64 // bits that both mitigation vectors must have

	platform map[string]rule[bool] // PLATFORM_INFO, under the names in platformBits

	hostData    rule[[]byte]
	guestSVNMin uint32
	idKeys      rule[[][]byte]
	authorKeys  rule[[][]byte]
	familyID    rule[[]byte]
	imageID     rule[[]byte]
	providers   []string // whose VLEK signs; empty: the chip's own key does
	chipIDs     rule[[][]byte]
	revocation  rule[time.Duration] // how old collateral may be
}

type nitroSet struct {
	pcrs    map[int][]byte
	maxAge  time.Duration
	modules rule[[]string]
}

func (m *Manifest) readSets(c cursor) {
	m.sets = map[string]*set{}
	names, values := c.entries()
	for i, v := range values {
		v.checkName(names[i])
		m.sets[names[i]] = readSet(names[i], v)
	}
	used := map[string]bool{}
	for i, v := range values {
		root := m.sets[names[i]].simulated
		if root == "" {
			continue
		}
		if used[root] = true; m.roots[root] == nil {
			v.fault("there is no root %q", root)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.roots)) {
		if !used[name] {
			c.fault("no set is about evidence of the root %q", name)
		}
	}
}

func readSet(name string, c cursor) *set {
	s := &set{name: name}
	if !c.is(object) {
		return s
	}
	kind := c.v.field("type")
	if kind == nil {
		c.fault("field %q is missing", "type")
		return s
	}
	switch s.typ = evidenceType(c.at(kind, "type")); s.typ {
	case attest.SEVSNP:
		s.readSNP(c)
	case attest.Nitro:
		s.readNitro(c)
	case attest.TDX:
		s.readTDX(c)
	case attest.SGX:
		s.readSGX(c)
	}
	return s
}

func (s *set) readSNP(c cursor) {
	f := c.fields("type", "simulated?", "product_lines", "measurements", "policy", "vmpl", "tcb_min", "platform_info",
		"host_data", "guest_svn_min", "id_keys", "chip_ids", "revocation",
		"author_keys?", "family_id?", "image_id?", "vlek_providers?", "provisional?", "mitigations?")
	s.simulated = f["simulated"].name()
	n := &s.snp
	n.productLines = each(f["product_lines"], func(c cursor) string { return c.choice("Milan", "Genoa", "Turin") })
	n.measurements = each(f["measurements"], measurement)
	s.readPolicy(f["policy"])
	n.vmpl = uint32(f["vmpl"].whole(0, 3))
	n.tcbMin = readTCB(f["tcb_min"], n.productLines)
	s.readPlatform(f["platform_info"])
	n.hostData = ruled(s, f["host_data"], func(c cursor) []byte { return c.hex(32) })
	n.guestSVNMin = uint32(f["guest_svn_min"].whole(0, math.MaxUint32))
	n.idKeys = ruled(s, f["id_keys"], func(c cursor) [][]byte { return each(c, sized(48)) })
	s.readOptional(f)
	n.chipIDs = ruled(s, f["chip_ids"], func(c cursor) [][]byte { return each(c, chipID) })
	n.revocation = ruled(s, f["revocation"], readMaxAge)
}

// readMaxAge reads how old collateral may be.
func readMaxAge(c cursor) time.Duration {
	return c.fields("max_age")["max_age"].duration(maxCollateralAge)
}

// readOptional reads the fields that a set may leave out. What is absent is as strict as it was before the field was there:
// ids of zeros and the chip's own key. Of author keys, uncommitted firmware and mitigations nothing more is asked then.
func (s *set) readOptional(f map[string]cursor) {
	n := &s.snp
	id := func(c cursor) rule[[]byte] {
		if c.v == nil {
			return rule[[]byte]{want: make([]byte, 16)}
		}
		return ruled(s, c, sized(16))
	}
	n.familyID, n.imageID = id(f["family_id"]), id(f["image_id"])
	n.authorKeys = rule[[][]byte]{any: f["author_keys"].v == nil}
	if !n.authorKeys.any {
		n.authorKeys = rule[[][]byte]{want: each(f["author_keys"], measurement)}
	}
	n.providers = each(f["vlek_providers"], func(c cursor) string { return c.words(maxReason) })
	n.provisional = f["provisional"].v == nil || f["provisional"].truth()
	for _, bit := range each(f["mitigations"], func(c cursor) uint64 { return c.whole(0, 63) }) {
		n.mitigations |= 1 << bit
	}
}

func (s *set) readPolicy(c cursor) {
	names := []string{"debug", "migrate_ma", "smt", "abi_min", "single_socket"}
	for _, bit := range strictBits {
		names = append(names, bit.name+"?")
	}
	f := c.fields(names...)
	s.snp.strict = map[string]rule[bool]{}
	for _, bit := range strictBits {
		if f[bit.name].v != nil {
			s.snp.strict[bit.name] = ruled(s, f[bit.name], cursor.truth)
		}
	}
	f["debug"].mustBe(false, "a debug enclave hides nothing, no manifest can admit one")
	s.snp.migrateMA = ruled(s, f["migrate_ma"], cursor.truth)
	s.snp.smt = ruled(s, f["smt"], cursor.truth)
	s.snp.abiMin = ruled(s, f["abi_min"], readABI)
	s.snp.singleSocket = ruled(s, f["single_socket"], cursor.truth)
}

func (s *set) readPlatform(c cursor) {
	var names []string
	for _, bit := range platformBits {
		names = append(names, bit.name)
	}
	s.snp.platform = map[string]rule[bool]{}
	f := c.fields(names...)
	for _, name := range names {
		s.snp.platform[name] = ruled(s, f[name], cursor.truth)
	}
}

// readABI reads a firmware ABI version, major and minor.
func readABI(c cursor) [2]uint8 {
	left, right, _ := strings.Cut(c.words(7), ".")
	major, err := strconv.ParseUint(left, 10, 8)
	minor, err2 := strconv.ParseUint(right, 10, 8)
	if err != nil || err2 != nil {
		c.fault("want a version such as 1.55")
	}
	return [2]uint8{uint8(major), uint8(minor)}
}

// readTCB reads the least TCB. Only Turin has an FMC, so only a set about Turin names one, and must.
func readTCB(c cursor, lines []string) attest.TCB {
	names := []string{"bootloader", "tee", "snp", "microcode"}
	for _, line := range lines {
		if line == "Turin" {
			names = append(names, "fmc")
		}
	}
	f := c.fields(names...)
	read := func(name string) uint8 { return uint8(f[name].whole(0, math.MaxUint8)) }
	return attest.TCB{
		FMC: read("fmc"), Bootloader: read("bootloader"), TEE: read("tee"), SNP: read("snp"),
		Microcode: read("microcode"),
	}
}

func (s *set) readNitro(c cursor) {
	f := c.fields("type", "simulated?", "pcrs", "max_age", "modules")
	s.simulated = f["simulated"].name()
	s.nitro.pcrs = readPCRs(f["pcrs"])
	s.nitro.maxAge = f["max_age"].duration(maxTTL)
	s.nitro.modules = ruled(s, f["modules"], func(c cursor) []string {
		return each(c, func(c cursor) string { return c.words(maxReason) })
	})
}

// readPCRs reads platform configuration registers by index. The first three are the enclave's image, kernel and
// application; zeros there mean debug mode.
func readPCRs(c cursor) map[int][]byte {
	pcrs := map[int][]byte{}
	names, values := c.entries()
	for i, v := range values {
		index, err := strconv.Atoi(names[i])
		if err != nil || index < 0 || index > 31 || strconv.Itoa(index) != names[i] {
			v.fault("want an index from 0 to 31")
			continue
		}
		read := sized(48)
		if index <= 2 {
			read = measurement
		}
		pcrs[index] = read(v)
	}
	for index := range 3 {
		if _, ok := pcrs[index]; !ok && c.v != nil {
			c.fault("index %d is missing", index)
		}
	}
	return pcrs
}

// ruled reads a field that may be {any: true, reason: ...}, which is noted in the set.
func ruled[T any](s *set, c cursor, read func(cursor) T) rule[T] {
	if c.v == nil || c.v.kind != object || c.v.field("any") == nil {
		return rule[T]{want: read(c)}
	}
	f := c.fields("any", "reason")
	f["any"].mustBe(true, "leave it out and write the value")
	s.any = append(s.any, strings.TrimPrefix(c.path, "reference_sets.")+": "+f["reason"].words(maxReason))
	return rule[T]{any: true}
}

// sized returns a reader of n bytes in hex.
func sized(n int) func(cursor) []byte { return func(c cursor) []byte { return c.hex(n) } }

// measurement reads 48 bytes that are not all zero, since zeros are what is not measured.
func measurement(c cursor) []byte { return nonzero(c, 48) }

// chipID reads 64 bytes that are not all zero, since zeros are what a masked chip shows.
func chipID(c cursor) []byte { return nonzero(c, 64) }

func nonzero(c cursor, n int) []byte {
	b := c.hex(n)
	if b != nil && bytes.Equal(b, make([]byte, n)) {
		c.fault("is all zero, which measures nothing")
	}
	return b
}
