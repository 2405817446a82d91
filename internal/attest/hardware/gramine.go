package hardware

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-configfs-tsm/configfs/configfsi"

	"consilium.dev/internal/attest"
)

// gramine makes evidence by the files that Gramine shows to a program in an enclave (Gramine, "Attestation and Secret Provisioning").
// They belong to the process, so its own turn is all the order that they need.
type gramine struct {
	files  configfsi.Client
	folder string
}

// openGramine sees which attestation the enclave was built with.
func openGramine(s System, folder string) (source, error) {
	kind, err := s.Files.ReadFile(folder + "/attestation_type")
	if err != nil {
		return nil, err
	}
	if got := strings.TrimSpace(string(kind)); got != "dcap" {
		return nil, fmt.Errorf("the enclave attests by %.40q: set sgx.remote_attestation = \"dcap\" in its Gramine manifest", got)
	}
	return &gramine{s.Files, folder}, nil
}

func (g *gramine) quote(b attest.Binding) ([]byte, attest.Collateral, error) {
	if err := g.files.WriteFile(g.folder+"/user_report_data", b.ReportData[:]); err != nil {
		return nil, nil, err
	}
	quote, err := g.files.ReadFile(g.folder + "/quote")
	if err == nil && len(quote) == 0 {
		err = errors.New("an empty quote: the host's AESM service refused, or cannot be reached")
	}
	return quote, nil, err
}
