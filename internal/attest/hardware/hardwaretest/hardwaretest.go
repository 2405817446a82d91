// Package hardwaretest has machines for tests that package hardware can ask: what a kernel, a firmware and Gramine show to a program, in
// memory, with whatever evidence a test gives to it. They keep the kernel's rules as the kernel's source has them (Linux,
// drivers/virt/coco): writes are counted, a report is made when it is read after a write, a TDX guest shows fewer attributes.
// Nothing here is hardware, and no test that uses it says that hardware does the same. Only tests import it.
//
//	m := &hardwaretest.Machine{Provider: "tdx_guest", Make: attester.Attest}
//	a, looks, err := hardware.Open(hardware.Options{System: m.System(), ...})
package hardwaretest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/client/linuxabi"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
	"golang.org/x/sys/unix"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/hardware"
)

// Reports is the folder of configfs-tsm's reports.
const Reports = configfsi.TsmPrefix + "/report"

// Machine is one machine. Its fields are set before it is used; what it is asked at one time is its own to order.
type Machine struct {
	// Make stands in for the firmware, and for the host's services: its evidence carries b.
	Make func(ctx context.Context, b attest.Binding) (attest.Evidence, error)
	// Provider is the driver behind configfs-tsm, "sev_guest" or "tdx_guest"; "" has no such folder.
	Provider string
	// Floor is the least privilege level.
	Floor int
	// Table is the host's table of certificates. If it is nil, the certificates of Make's evidence are put into one.
	Table []byte
	// Guest and NSM say that /dev/sev-guest and /dev/nsm are there.
	Guest, NSM bool
	// Files are others that can be read: Gramine's attestation_type, which has its other files, too; an event log; /dev/tdx_guest.
	Files map[string]string
	// Fault is asked before everything that is done, such as "read" of an outblob; what it returns is what the kernel says.
	Fault func(op, name string) error
	// Firmware is what is written beside an error of an ioctl.
	Firmware uint64
	// Answer alters a module's answer, where it is set.
	Answer func(*response.Response)

	mu      sync.Mutex // guards the rest
	reports map[string]*entry
	made    int
	data    [64]byte // in Gramine's user_report_data
}

// entry is a report of configfs-tsm.
type entry struct {
	written, read  int // generations
	in             []byte
	level          int
	outblob, aux   []byte
	outblobIsThere bool
}

// System is what package hardware asks.
func (m *Machine) System() hardware.System {
	return hardware.System{Files: m, Guest: m.openGuest, NSM: m.openNSM}
}

// Left returns the reports that nobody removed.
func (m *Machine) Left() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.reports))
}

// Meddle writes to every report, as another program may.
func (m *Machine) Meddle() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.reports {
		e.written++
	}
}

// said returns what the kernel says to an operation.
func (m *Machine) said(op, name string) error {
	if m.Fault == nil {
		return nil
	}
	if err := m.Fault(op, name); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

func absent(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: unix.ENOENT} }

// MkdirTemp makes a report.
func (m *Machine) MkdirTemp(dir, pattern string) (string, error) {
	if err := m.said("mkdir", dir); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if dir != Reports || m.Provider == "" {
		return "", absent("mkdir", dir)
	}
	if m.reports == nil {
		m.reports = map[string]*entry{}
	}
	m.made++
	name := path.Join(dir, pattern+strconv.Itoa(m.made))
	m.reports[name] = &entry{}
	return name, nil
}

// RemoveAll removes a report.
func (m *Machine) RemoveAll(name string) error {
	if err := m.said("rmdir", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reports[name] == nil {
		return absent("rmdir", name)
	}
	delete(m.reports, name)
	return nil
}

// ReadDir says whether a folder is there.
func (m *Machine) ReadDir(name string) ([]os.DirEntry, error) {
	if err := m.said("readdir", name); err != nil {
		return nil, err
	}
	if name == Reports && m.Provider != "" {
		return nil, nil
	}
	for file := range m.Files {
		if path.Dir(file) == name {
			return nil, nil
		}
	}
	return nil, absent("readdir", name)
}

// WriteFile writes an attribute of a report, or Gramine's report data.
func (m *Machine) WriteFile(name string, text []byte) error {
	if err := m.said("write", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gramine(name, "user_report_data") {
		if len(text) != len(m.data) {
			return &fs.PathError{Op: "write", Path: name, Err: unix.EINVAL}
		}
		copy(m.data[:], text)
		return nil
	}
	e := m.reports[path.Dir(name)]
	switch attribute := path.Base(name); {
	case e != nil && attribute == "inblob":
		e.in = slices.Clone(text)
	case e != nil && attribute == "privlevel" && m.Provider == "sev_guest":
		level, err := strconv.Atoi(string(text))
		if err != nil || level < m.Floor || level > 3 {
			return &fs.PathError{Op: "write", Path: name, Err: unix.EINVAL}
		}
		e.level = level
	default:
		return absent("open", name)
	}
	e.written++
	return nil
}

// gramine reports whether a name is one of Gramine's files, in a folder with an attestation_type.
func (m *Machine) gramine(name, file string) bool {
	_, there := m.Files[path.Join(path.Dir(name), "attestation_type")]
	return there && path.Base(name) == file
}

// ReadFile reads a file, an attribute of a report, or Gramine's quote.
func (m *Machine) ReadFile(name string) ([]byte, error) {
	if err := m.said("read", name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if text, there := m.Files[name]; there {
		return []byte(text), nil
	}
	if m.gramine(name, "quote") {
		e, err := m.Make(context.Background(), attest.Binding{ReportData: m.data})
		return e.Body, err
	}
	e := m.reports[path.Dir(name)]
	if e == nil {
		return nil, absent("open", name)
	}
	switch attribute := path.Base(name); {
	case attribute == "generation":
		return fmt.Appendf(nil, "%d\n", e.written), nil
	case attribute == "provider":
		return []byte(m.Provider + "\n"), nil
	case attribute == "privlevel_floor" && m.Provider == "sev_guest":
		return fmt.Appendf(nil, "%d\n", m.Floor), nil
	case attribute == "outblob":
		err := m.make(e, name)
		return e.outblob, err
	case attribute == "auxblob" && m.Provider == "sev_guest":
		err := m.make(e, name)
		return e.aux, err
	}
	return nil, absent("open", name)
}

// make makes a report, if it was written to since it was made.
func (m *Machine) make(e *entry, name string) error {
	if e.outblobIsThere && e.read == e.written {
		return nil
	}
	if len(e.in) != 64 || e.level < m.Floor {
		return &fs.PathError{Op: "read", Path: name, Err: unix.EINVAL}
	}
	made, err := m.Make(context.Background(), attest.Binding{ReportData: [64]byte(e.in)})
	if err != nil {
		return err
	}
	e.outblob, e.aux, e.outblobIsThere, e.read = made.Body, m.table(made), true, e.written
	return nil
}

// table returns the host's table for evidence.
func (m *Machine) table(e attest.Evidence) []byte {
	if m.Table != nil {
		return m.Table
	}
	return Table(e.Collateral)
}

// Table puts the certificates of keys that sign reports into a table as firmware hands it out (AMD 56421), without the zeros that fill its pages.
func Table(c attest.Collateral) []byte {
	vcek, vlek := []byte{0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd},
		[]byte{0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1}
	var table, certs []byte
	for _, item := range c {
		if bytes.Contains(item.Bytes, []byte("SEV-VLEK")) {
			table = append(table, vlek...)
		} else {
			table = append(table, vcek...)
		}
		table = binary.LittleEndian.AppendUint32(table, uint32(24*(len(c)+1)+len(certs)))
		table = binary.LittleEndian.AppendUint32(table, uint32(len(item.Bytes)))
		certs = append(certs, item.Bytes...)
	}
	if len(c) == 0 {
		return nil
	}
	return slices.Concat(table, make([]byte, 24), certs)
}

type device struct{ m *Machine }

func (m *Machine) openGuest(name string) (hardware.Guest, error) {
	if err := m.said("open", name); err != nil {
		return nil, err
	}
	if !m.Guest {
		return nil, absent("open", name)
	}
	return device{m}, nil
}

func (d device) Close() error { return d.m.said("close", "") }

// Ioctl answers a request for a report.
func (d device) Ioctl(command uintptr, req *linuxabi.SnpUserGuestRequest) error {
	if err := d.m.said("ioctl", strconv.FormatUint(uint64(command&0xff), 10)); err != nil {
		req.FwErr = d.m.Firmware
		return err
	}
	var data linuxabi.SnpReportReqABI
	extended, ok := req.ReqData.(*linuxabi.SnpExtendedReportReq)
	switch {
	case command == linuxabi.IocSnpGetExtendedReport && ok:
		data = extended.Data
	case command == linuxabi.IocSnpGetReport:
		data = *req.ReqData.(*linuxabi.SnpReportReqABI)
	default:
		return unix.ENOTTY
	}
	answer := req.RespData.(*linuxabi.SnpReportRespABI)
	if int(data.Vmpl) < d.m.Floor {
		answer.Status = 0x16 // MSG_REPORT_RSP, invalid parameters
		return answer.Finish(answer)
	}
	made, err := d.m.Make(context.Background(), attest.Binding{ReportData: data.ReportData})
	if err != nil {
		return err
	}
	if extended != nil {
		table := d.m.table(made)
		if len(extended.Certs)%4096 != 0 || len(extended.Certs) > 16<<10 {
			return unix.EINVAL
		}
		if len(table) > len(extended.Certs) {
			req.FwErr = uint64(abi.GuestRequestInvalidLength)
			return unix.EIO
		}
		copy(extended.Certs, table)
	}
	answer.ReportSize = uint32(copy(answer.Data[:], made.Body))
	return nil
}

type session struct{ m *Machine }

func (m *Machine) openNSM(name string) (hardware.NSM, error) {
	if err := m.said("open", name); err != nil {
		return nil, err
	}
	if !m.NSM {
		return nil, absent("open", name)
	}
	return session{m}, nil
}

func (s session) Close() error { return s.m.said("close", "") }

// Send answers a request for a document.
func (s session) Send(r request.Request) (response.Response, error) {
	if err := s.m.said("send", ""); err != nil {
		return response.Response{}, err
	}
	asked, ok := r.(*request.Attestation)
	if !ok {
		return response.Response{Error: response.ECInvalidOperation}, nil
	}
	if len(asked.UserData) > 512 || len(asked.Nonce) > 512 || len(asked.PublicKey) > 1024 {
		return response.Response{Error: response.ECInputTooLarge}, nil
	}
	b := attest.Binding{SPKI: asked.PublicKey}
	copy(b.ReportData[:], asked.UserData)
	copy(b.Nonce[:], asked.Nonce)
	made, err := s.m.Make(context.Background(), b)
	if err != nil {
		return response.Response{}, err
	}
	answer := response.Response{Attestation: &response.Attestation{Document: made.Body}}
	if s.m.Answer != nil {
		s.m.Answer(&answer)
	}
	return answer, nil
}

// Of returns what a machine with simulated evidence of a type is like, at the place where the type has the name that a Look gives it.
func Of(t attest.Type, place string, make func(context.Context, attest.Binding) (attest.Evidence, error)) *Machine {
	m := &Machine{Make: make}
	switch {
	case place == Reports && t == attest.TDX:
		m.Provider = "tdx_guest"
	case place == Reports:
		m.Provider = "sev_guest"
	case strings.HasSuffix(place, "sev-guest"):
		m.Guest = true
	case strings.HasSuffix(place, "nsm"):
		m.NSM = true
	default:
		m.Files = map[string]string{place + "/attestation_type": "dcap"}
	}
	return m
}
