package main

import (
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/keyfile"
)

const protectsNothing = "A simulated machine protects nothing: who can read its file can sign whatever he likes with it. It is for\n" +
	"demonstrations and development, and counts only where a manifest names its root."

func initRoot(a *app) *cobra.Command {
	var called, line string
	cmd := &cobra.Command{
		Use:   "simulated-root DIR --name NAME",
		Short: "Make a private root of trust for simulated machines",
		Long: "Simulated-root makes DIR/root.json and prints its certificates for manifest.yaml, under roots. It stands in for AMD,\n" +
			"Intel and AWS. It takes some seconds.\n\n" + protectsNothing,
		Args: oneArgument("folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkName(called); err != nil {
				return err
			}
			f, err := newFolder(args[0], rootFile)
			if err != nil {
				return err
			}
			root, err := simulated.NewRoot(called, line, time.Now())
			if err != nil {
				return usageError("see consilium init simulated-root --help", "%w", err)
			}
			text, err := root.Marshal()
			if err != nil {
				return err
			}
			if err := keyfile.Create(f.path(rootFile), text); err != nil {
				return err
			}
			data := made{Name: called, Files: f.files, Certificates: root.Certificates()}
			return a.emitMade("simulated-root", data, data.reference(),
				"next: standard output has the value of "+called+" for manifest.yaml, under roots")
		},
	}
	cmd.Flags().StringVar(&called, "name", "", "name of the root in the manifest")
	cmd.Flags().StringVar(&line, "product-line", "Genoa", "AMD product line of its SEV-SNP machines: Milan, Genoa or Turin")
	return cmd
}

// machineOptions are the flags of init simulated-machine.
type machineOptions struct{ root, typ, measure string }

func initMachine(a *app) *cobra.Command {
	var o machineOptions
	cmd := &cobra.Command{
		Use:   "simulated-machine DIR --root ROOT.json --type sev-snp|tdx|sgx|nitro",
		Short: "Make a simulated machine with one enclave",
		Long: "Simulated-machine makes DIR/machine.json and prints what its evidence will show, for a reference set of manifest.yaml:\n" +
			"a launch measurement (sev-snp), MRTD (tdx), MRENCLAVE (sgx) or the PCRs 0 to 2 (nitro). With --measure the measurement,\n" +
			"or PCR0, is the SHA-384 of that file, as if the machine had launched it; MRENCLAVE is its first 32 bytes.\n\n" + protectsNothing,
		Args: oneArgument("folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := newFolder(args[0], machineFile)
			if err != nil {
				return err
			}
			machine, data, err := newMachine(o)
			if err != nil {
				return err
			}
			text, err := machine.Marshal()
			if err != nil {
				return err
			}
			if err := keyfile.Create(f.path(machineFile), text); err != nil {
				return err
			}
			data.Files = f.files
			return a.emitMade("simulated-machine", data, data.reference(),
				"next: standard output has what belongs into a reference set of manifest.yaml, under "+data.field())
		},
	}
	cmd.Flags().StringVar(&o.root, "root", "", "file of the root that vouches for it, which init simulated-root made")
	cmd.Flags().StringVar(&o.typ, "type", "", "sev-snp, tdx, sgx or nitro")
	cmd.Flags().StringVar(&o.measure, "measure", "", "file that it is to have launched (default: one that no file has)")
	return cmd
}

// newMachine makes the machine that the flags describe, and what is to be said of it.
func newMachine(o machineOptions) (*simulated.Machine, made, error) {
	if o.root == "" || o.typ == "" {
		return nil, made{}, usageError("see consilium init simulated-machine --help", "name --root and --type")
	}
	text, err := keyfile.Read(o.root)
	if err != nil {
		return nil, made{}, notFoundError("make one: consilium init simulated-root", "reading the root: %w", err)
	}
	root, err := simulated.ParseRoot(text)
	if err != nil {
		return nil, made{}, refusedError("name what consilium init simulated-root made", "%s: %w", o.root, err)
	}
	var measured []byte
	if o.measure != "" {
		if measured, err = fileSum(o.measure); err != nil {
			return nil, made{}, err
		}
	}
	switch o.typ {
	case attest.SEVSNP.String():
		m := simulated.DefaultMeasurement()
		copy(m[:], measured)
		machine, err := root.SNP(simulated.SNPSpec{Measurement: m})
		return machine, made{Measurement: hex.EncodeToString(m[:])}, err
	case attest.TDX.String():
		m := simulated.DefaultMRTD()
		copy(m[:], measured)
		machine, err := root.TDX(simulated.TDXSpec{MRTD: m})
		return machine, made{MRTD: hex.EncodeToString(m[:])}, err
	case attest.SGX.String():
		m := simulated.DefaultMREnclave()
		copy(m[:], measured)
		machine, err := root.SGX(simulated.SGXSpec{MREnclave: m})
		return machine, made{MREnclave: hex.EncodeToString(m[:])}, err
	case attest.Nitro.String():
		pcrs := simulated.DefaultPCRs()
		if measured != nil {
			pcrs[0] = measured
		}
		data := made{PCRs: map[string]string{}}
		for i, value := range pcrs {
			data.PCRs[fmt.Sprint(i)] = hex.EncodeToString(value)
		}
		machine, err := root.Nitro(simulated.NitroSpec{PCRs: pcrs})
		return machine, data, err
	}
	return nil, made{}, usageError("say --type sev-snp, tdx, sgx or nitro", "there is no simulated machine of the type %q", o.typ)
}

// fileSum returns the SHA-384 of a file.
func fileSum(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, notFoundError("check the path", "measuring: %w", err)
	}
	defer f.Close()
	sum := sha512.New384()
	if _, err := io.Copy(sum, f); err != nil {
		return nil, errors.Join(errors.New("measuring "+path), err)
	}
	return sum.Sum(nil), nil
}

// reference returns a root's certificates or what a machine's evidence shows, as manifests spell it.
func (d made) reference() string {
	if measured := d.Measurement + d.MRTD + d.MREnclave; measured != "" { // a machine has one of them
		return fmt.Sprintf("[%q]", measured)
	}
	if d.Certificates != nil {
		var quoted []string
		for _, der := range d.Certificates {
			quoted = append(quoted, `"`+base64.StdEncoding.EncodeToString(der)+`"`)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	}
	return fmt.Sprintf("{0: %q, 1: %q, 2: %q}", d.PCRs["0"], d.PCRs["1"], d.PCRs["2"])
}

// field returns the field of a reference set that holds it.
func (d made) field() string {
	switch {
	case d.Measurement != "":
		return "measurements"
	case d.MRTD != "":
		return "mr_td"
	case d.MREnclave != "":
		return "mr_enclave"
	}
	return "pcrs"
}
