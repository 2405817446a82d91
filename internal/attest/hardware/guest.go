package hardware

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/client/linuxabi"
	"golang.org/x/sys/unix"

	"consilium.dev/internal/attest"
)

// maxCertificates is the most that the driver takes for a host's table (Linux, SEV_FW_BLOB_MAX_SIZE): whole pages. The library's client
// asks for the size first, and so has the security processor sign twice; the most at once costs nothing.
const maxCertificates = 16 << 10

// hostBusy is what a driver before Linux 6.3 hands on when the host throttles: it gives the request up. Newer ones ask again by
// themselves. The upper half of the word is the host's, the lower the firmware's (Linux, include/uapi/linux/sev-guest.h).
const hostBusy = 2 << 32

// errThrottled says that the host wants fewer requests.
var errThrottled = errors.New("the host throttles requests to the security processor")

// guest makes evidence by /dev/sev-guest.
type guest struct {
	open   func(device string) (Guest, error)
	device string
	vmpl   uint32
}

// openGuest opens the device and closes it.
func openGuest(s System, device string) (source, error) {
	d, err := s.Guest(device)
	if err != nil {
		return nil, err
	}
	if err := d.Close(); err != nil {
		return nil, err
	}
	level, err := ownLevel(s.Files)
	if err != nil {
		return nil, err
	}
	return &guest{s.Guest, device, level}, nil
}

// ownLevel returns the privilege level at which the guest runs, the lowest that it can have reports of. Linux says it from version 6.11 on;
// before, it ran at 0 only.
func ownLevel(files configfsi.Client) (uint32, error) {
	level, err := number(files, "/sys/devices/system/cpu/sev/vmpl")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err == nil && (level < 0 || level > maxLevel) {
		err = fmt.Errorf("the guest's VMPL is %d, want 0 to %d", level, maxLevel)
	}
	return uint32(level), err
}

// quote asks for a report with the host's table of certificates, and for one without where the table is larger than the driver takes.
func (g *guest) quote(b attest.Binding) (_ []byte, _ attest.Collateral, err error) {
	d, err := g.open(g.device)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	data := linuxabi.SnpReportReqABI{ReportData: b.ReportData, Vmpl: g.vmpl}
	table := make([]byte, maxCertificates)
	extended := &linuxabi.SnpExtendedReportReq{Data: data, Certs: table, CertsLength: maxCertificates}
	raw, err := signed(d, linuxabi.IocSnpGetExtendedReport, extended)
	var firmware *abi.SevFirmwareErr
	if errors.As(err, &firmware) && firmware.Status == abi.GuestRequestInvalidLength {
		table = nil
		raw, err = signed(d, linuxabi.IocSnpGetReport, &data)
	}
	if err != nil {
		return nil, nil, err
	}
	c, err := certificates(table)
	return raw, c, err
}

// signed sends a request and returns the report.
func signed(d Guest, command uintptr, req linuxabi.BinaryConvertible) ([]byte, error) {
	var answer linuxabi.SnpReportRespABI
	r := &linuxabi.SnpUserGuestRequest{ReqData: req, RespData: &answer}
	if err := d.Ioctl(command, r); err != nil {
		// Kernels have left the word as it was, or wild, with other errors than this one.
		if !errors.Is(err, unix.EIO) || r.FwErr == 0 {
			return nil, err
		}
		if r.FwErr == hostBusy {
			return nil, fmt.Errorf("%w: %w", errThrottled, err)
		}
		return nil, fmt.Errorf("%w: %w", err, &abi.SevFirmwareErr{Status: abi.SevFirmwareStatus(r.FwErr)})
	}
	if answer.ReportSize != abi.ReportSize {
		return nil, fmt.Errorf("a report of %d bytes, want %d", answer.ReportSize, abi.ReportSize)
	}
	return answer.Data[:abi.ReportSize], nil
}
