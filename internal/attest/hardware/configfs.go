package hardware

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/report"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/sevsnp"
)

// reports is the folder of configfs-tsm's reports (Linux, Documentation/ABI/testing/configfs-tsm-report).
const reports = configfsi.TsmPrefix + "/report"

// The drivers whose reports we can read, as the attribute "provider" names them: the modules' names.
const (
	providerSNP = "sev_guest"
	providerTDX = "tdx_guest"
)

// tsm makes evidence by configfs-tsm. Each piece is a folder of its own, so that two programs do not get into each other's way; that nobody
// else wrote to it, the kernel's count of writes says ("generation").
type tsm struct {
	files    configfsi.Client
	folder   string
	provider string
}

func openSNPReports(s System, folder string) (source, error) { return openTSM(s, folder, providerSNP) }

func openTDXReports(s System, folder string) (source, error) { return openTSM(s, folder, providerTDX) }

// openTSM makes a report and removes it, to see whose it is.
func openTSM(s System, folder, provider string) (_ source, err error) {
	if _, err := s.Files.ReadDir(folder); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("Linux 6.7 or newer has it, with configfs mounted and the module %s: %w", provider, err)
		}
		return nil, err
	}
	t := &tsm{s.Files, folder, provider}
	k := t.kernel()
	r, err := report.CreateOpenReport(k)
	if err != nil {
		return nil, k.because(err)
	}
	defer func() { err = errors.Join(err, k.because(r.Destroy())) }()
	name, err := r.ReadOption("provider")
	if err != nil {
		return nil, k.because(err)
	}
	if got := strings.TrimSpace(string(name)); got != provider {
		return nil, fmt.Errorf("its provider is %.40q, not %q", got, provider)
	}
	return t, nil
}

// quote makes a report, reads what is in it, and removes it.
func (t *tsm) quote(b attest.Binding) (_ []byte, _ attest.Collateral, err error) {
	k := t.kernel()
	r, err := report.Create(k, &report.Request{InBlob: b.ReportData[:], GetAuxBlob: t.provider == providerSNP})
	if err != nil {
		return nil, nil, k.because(err)
	}
	defer func() { err = errors.Join(err, k.because(r.Destroy())) }()
	if t.provider == providerSNP {
		// A guest above which another layer runs, an SVSM or a paravisor, can have reports of its own privilege level only, and the
		// kernel's default is 0.
		if r.Privilege, err = floor(r); err != nil {
			return nil, nil, k.because(err)
		}
	}
	got, err := r.Get()
	if err != nil {
		return nil, nil, k.because(err)
	}
	if name := strings.TrimSpace(got.Provider); name != t.provider {
		return nil, nil, fmt.Errorf("the provider has become %.40q, it was %q", name, t.provider)
	}
	if len(got.OutBlob) == 0 {
		return nil, nil, errors.New("an empty quote: the host's quoting service refused, or cannot be reached")
	}
	if t.provider != providerSNP {
		return got.OutBlob, nil, nil
	}
	c, err := certificates(got.AuxBlob)
	return got.OutBlob, c, err
}

// floor returns the privilege level to ask for, nil for the kernel's default.
func floor(r *report.OpenReport) (*report.Privilege, error) {
	level, err := r.PrivilegeLevelFloor()
	if err != nil || level == 0 {
		return nil, err
	}
	if level > maxLevel {
		return nil, fmt.Errorf("privlevel_floor is %d, want at most %d", level, maxLevel)
	}
	return &report.Privilege{Level: level}, nil
}

// maxLevel is the highest VMPL.
const maxLevel = 3

// certificates returns the certificates of keys that sign reports, of a table that came with one. The host made the table; one that does
// not parse is its fault, and would have every peer refuse.
func certificates(table []byte) (attest.Collateral, error) {
	if len(bytes.Trim(table, "\x00")) == 0 {
		return nil, nil
	}
	certs, err := sevsnp.Certificates(table)
	if err != nil {
		return nil, fmt.Errorf("the host's table of certificates: %w", err)
	}
	var c attest.Collateral
	for _, cert := range certs {
		c = append(c, attest.Item{Kind: attest.KindCertificate, Bytes: cert.Raw})
	}
	return c, nil
}

// kernel is the library's view of configfs. It keeps the last error of the kernel's: the library's errors do not wrap it.
type kernel struct {
	configfsi.Client
	folder string
	said   error
}

func (t *tsm) kernel() *kernel { return &kernel{Client: t.files, folder: t.folder} }

// at returns where a path of the library's lies.
func (k *kernel) at(name string) string { return k.folder + strings.TrimPrefix(name, reports) }

func (k *kernel) keep(err error) error {
	if err != nil {
		k.said = err
	}
	return err
}

func (k *kernel) MkdirTemp(dir, pattern string) (string, error) {
	name, err := k.Client.MkdirTemp(k.at(dir), "consilium-"+pattern)
	if err != nil {
		return "", k.keep(err)
	}
	return reports + strings.TrimPrefix(name, k.folder), nil
}

func (k *kernel) ReadFile(name string) ([]byte, error) {
	text, err := k.Client.ReadFile(k.at(name))
	return text, k.keep(err)
}

func (k *kernel) WriteFile(name string, text []byte) error {
	return k.keep(k.Client.WriteFile(k.at(name), text))
}

func (k *kernel) RemoveAll(name string) error { return k.keep(k.Client.RemoveAll(k.at(name))) }

// because returns the library's error with what the kernel said.
func (k *kernel) because(err error) error {
	switch {
	case err == nil:
		return nil
	case report.GetGenerationErr(err) != nil:
		return fmt.Errorf("%w: %w", errChanged, err)
	case k.said != nil && !errors.Is(err, k.said):
		return fmt.Errorf("%v: %w", err, k.said)
	}
	return err
}

// ccel is where Linux shows the event log of a TDX guest's firmware, ACPI's table CCEL.
const ccel = "/sys/firmware/acpi/tables/data/CCEL"

// openTDXDevice says why /dev/tdx_guest is not enough.
func openTDXDevice(s System, device string) (source, error) {
	if _, err := s.Files.ReadFile(device); errors.Is(err, fs.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil, err
	}
	return nil, fmt.Errorf("the device gives no quotes, only reports for the same processor: quotes come from %s, Linux 6.7 or newer", reports)
}

// number reads a file with a small number.
func number(files configfsi.Client, name string) (int, error) {
	text, err := files.ReadFile(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}
