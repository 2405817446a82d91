package tdx

import (
	"crypto/sha512"
	"encoding/binary"
	"slices"

	"consilium.dev/internal/attest"
)

// Limits on an event log. A cloud's guest has about 20 KiB and 100 events at boot.
const (
	maxLog        = 128 << 10
	maxAlgorithms = 8
)

// What an event log is made of (TCG PC Client Platform Firmware Profile, section 10; UEFI specification, section 38.4, for
// confidential computing: register 0 is MRTD, 1 to 4 are RTMR0 to RTMR3).
const (
	eventNoAction   = 3
	algorithmSHA384 = 0x000C
	registerOfRTMR0 = 1
	specHeadBytes   = 16 + 4 + 4 // signature, platform class, version and widths
	legacyHeadBytes = 4 + 4 + 20 // register, type, SHA-1 digest
	specSignature   = "Spec ID Event03\x00"
)

// replay judges the event log among the collateral, if there is one: the extensions that it tells must lead to the registers
// that the quote has, all four. It reports whether there was a log.
//
//	first event    register u32, type u32 = 3, digest [20], length u32, data: which algorithms, and how long their digests are
//	others         register u32, type u32, count u32, count * (algorithm u16, digest), length u32, data
//
// A log whose events have no SHA-384 digest cannot tell RTMRs. Events of type 3 extend nothing; those of register 0 are of MRTD,
// which the quote has signed.
func replay(items attest.Collateral, want *[4][48]byte) (bool, *attest.Error) {
	var log []byte
	found := 0
	for _, item := range items {
		if item.Kind == attest.KindEventLog {
			log = item.Bytes
			found++
		}
	}
	if found == 0 {
		return false, nil
	}
	if found > 1 || len(log) > maxLog {
		return false, attest.Refuse(attest.ClassMeas, "%d event logs of %d bytes, want one of at most %d", found, len(log), maxLog)
	}
	if _, err := leads(log, want); err != nil {
		return false, err
	}
	return true, nil
}

// EventLog returns the log in the table that a guest's firmware filled, without the table's unused rest, if it leads to the registers of
// the guest's quote; else it says why a peer would refuse it. Of the quote nothing but the form is judged. The error is an *attest.Error.
func EventLog(table, quote []byte) ([]byte, error) {
	c, err := OpenUnverified(quote)
	if err != nil {
		return nil, err
	}
	end, refusal := leads(table, &c.TDX.RTMR)
	if refusal == nil && end > maxLog {
		refusal = attest.Refuse(attest.ClassMeas, "an event log of %d bytes, want at most %d", end, maxLog)
	}
	if refusal != nil {
		return nil, refusal
	}
	return table[:end], nil
}

// leads checks that a log's extensions lead to the registers, and returns where the events end.
func leads(log []byte, want *[4][48]byte) (end int, _ *attest.Error) {
	got, end, ok := registers(log)
	if !ok {
		return 0, attest.Refuse(attest.ClassMeas, "the event log does not parse as one with SHA-384 digests")
	}
	for i := range got {
		if got[i] != want[i] {
			return 0, attest.Refuse(attest.ClassMeas, "the event log leads to RTMR%d = %x, the quote has %x", i, got[i], want[i])
		}
	}
	return end, nil
}

// registers replays a log's extensions. The events end where the rest is nothing but 0xFF.
func registers(log []byte) (rtmrs [4][48]byte, end int, ok bool) {
	sizes, rest, ok := algorithms(log)
	if !ok {
		return rtmrs, 0, false
	}
	for len(rest) > 0 {
		register, kind, digest, after, ok := event(rest, sizes)
		if !ok {
			// the table's unused rest
			return rtmrs, len(log) - len(rest), slices.IndexFunc(rest, func(b byte) bool { return b != 0xFF }) < 0
		}
		rest = after
		if kind == eventNoAction || register == 0 {
			continue
		}
		if register > registerOfRTMR0+3 || digest == nil {
			return rtmrs, 0, false
		}
		r := &rtmrs[register-registerOfRTMR0]
		*r = sha512.Sum384(append(r[:], digest...))
	}
	return rtmrs, len(log), true
}

// algorithms reads the first event: how long digests are, by algorithm.
func algorithms(log []byte) (sizes map[uint16]int, rest []byte, ok bool) {
	if len(log) < legacyHeadBytes+4 || binary.LittleEndian.Uint32(log[4:]) != eventNoAction {
		return nil, nil, false
	}
	n := binary.LittleEndian.Uint32(log[legacyHeadBytes:])
	rest = log[legacyHeadBytes+4:]
	if uint64(n) > uint64(len(rest)) || n < specHeadBytes+4 {
		return nil, nil, false
	}
	data, rest := rest[:n], rest[n:]
	count := binary.LittleEndian.Uint32(data[specHeadBytes:])
	if string(data[:16]) != specSignature || count == 0 || count > maxAlgorithms || len(data) < specHeadBytes+4+4*int(count) {
		return nil, nil, false
	}
	sizes = map[uint16]int{}
	for i := range int(count) {
		at := data[specHeadBytes+4+4*i:]
		sizes[binary.LittleEndian.Uint16(at)] = int(binary.LittleEndian.Uint16(at[2:]))
	}
	return sizes, rest, sizes[algorithmSHA384] == sha512.Size384
}

// event reads one event; digest is nil where it has none of SHA-384.
func event(b []byte, sizes map[uint16]int) (register, kind uint32, digest, rest []byte, ok bool) {
	if len(b) < 12 {
		return 0, 0, nil, nil, false
	}
	register, kind = binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	count := binary.LittleEndian.Uint32(b[8:])
	b = b[12:]
	if count > maxAlgorithms { // so is the unused rest of a table that firmware reserved
		return 0, 0, nil, nil, false
	}
	for range count {
		if len(b) < 2 {
			return 0, 0, nil, nil, false
		}
		algorithm := binary.LittleEndian.Uint16(b)
		size, known := sizes[algorithm]
		if b = b[2:]; !known || len(b) < size {
			return 0, 0, nil, nil, false
		}
		if algorithm == algorithmSHA384 {
			digest = b[:size]
		}
		b = b[size:]
	}
	if len(b) < 4 {
		return 0, 0, nil, nil, false
	}
	n := binary.LittleEndian.Uint32(b)
	if b = b[4:]; uint64(n) > uint64(len(b)) {
		return 0, 0, nil, nil, false
	}
	return register, kind, digest, b[n:], true
}
