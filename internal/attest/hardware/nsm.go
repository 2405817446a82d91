package hardware

import (
	"errors"
	"fmt"

	"github.com/hf/nsm"
	"github.com/hf/nsm/request"
	"golang.org/x/sys/unix"

	"consilium.dev/internal/attest"
)

// maxKey is the longest public key that a module takes (AWS, Nitro Secure Module API).
const maxKey = 1024

// module makes evidence by a Nitro Security Module.
type module struct {
	open   func(device string) (NSM, error)
	device string
}

// openNSM opens a session and closes it.
func openNSM(s System, device string) (source, error) {
	session, err := s.NSM(device)
	if err != nil {
		return nil, err
	}
	return &module{s.NSM, device}, session.Close()
}

func (m *module) quote(b attest.Binding) (_ []byte, _ attest.Collateral, err error) {
	if len(b.SPKI) < 1 || len(b.SPKI) > maxKey {
		return nil, nil, fmt.Errorf("a public key of %d bytes: a Nitro document takes 1 to %d", len(b.SPKI), maxKey)
	}
	session, err := m.open(m.device)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, session.Close()) }()
	answer, err := session.Send(&request.Attestation{UserData: b.ReportData[:], Nonce: b.Nonce[:], PublicKey: b.SPKI})
	var ioctl *nsm.ErrorIoctlFailed
	switch {
	case errors.As(err, &ioctl):
		return nil, nil, fmt.Errorf("%w: %w", err, unix.Errno(ioctl.Errno))
	case err != nil:
		return nil, nil, err
	case answer.Error != "":
		return nil, nil, fmt.Errorf("the security module answers %.40q", string(answer.Error))
	case answer.Attestation == nil || len(answer.Attestation.Document) == 0:
		return nil, nil, errors.New("the security module answers without a document")
	}
	return answer.Attestation.Document, nil, nil
}
