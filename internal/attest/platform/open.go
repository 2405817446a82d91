package platform

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/hardware"
	"consilium.dev/internal/attest/simulated"
	"consilium.dev/internal/attest/tdx"
	"consilium.dev/internal/keyfile"
)

// Host is what a machine's attester is opened on.
type Host struct {
	Now    func() time.Time // the clock, which a simulated machine's documents show
	System hardware.System
}

// Machine is what attests for the machine that we run on.
type Machine struct {
	attest.Attester
	Looks []hardware.Look // what came of looking at each place, in order; nil for a simulated machine
	Found hardware.Look   // what is used; zero for a simulated machine
	// NoLog is why the event log of the guest's boot is not shown with evidence; nil where it is, or where there is none.
	NoLog error
}

// wants are the values that a configuration's platform may have.
const wants = "want auto, sev-snp, tdx, sgx or nitro, each of these four perhaps with :DEVICE, or simulated:PATH"

// trialTime is how long a device may take for its first evidence: Linux gives a TDX quote 30 seconds.
const trialTime = time.Minute

// Open returns the machine that uri names:
//
//	auto              whichever real platform is found, looked for as package hardware says
//	TYPE              sev-snp, tdx, sgx or nitro, wherever Linux has it
//	TYPE:DEVICE       the same, at that device, or in that folder of configfs-tsm or Gramine
//	simulated:PATH    the simulated machine in the file at PATH, which nobody but its owner may read
//
// A real platform makes one piece of evidence for a trial, so that what cannot attest is not opened. Nothing real is ever replaced by
// something simulated: where no platform is found the error says what was looked for, and what came of it.
func Open(ctx context.Context, uri string, h Host) (*Machine, error) {
	scheme, path, found := strings.Cut(uri, ":")
	if found && path == "" {
		return nil, fmt.Errorf("platform %q: %s", uri, wants)
	}
	if scheme == "simulated" && found {
		m, err := openSimulated(path, h.Now)
		if err != nil {
			return nil, fmt.Errorf("platform %s: %w", uri, err)
		}
		return &Machine{Attester: m}, nil
	}
	typ, known := attest.ParseType(scheme)
	known = known && (typ == attest.SEVSNP || typ == attest.TDX || typ == attest.SGX || typ == attest.Nitro)
	if uri == "auto" {
		typ, known = 0, true
	}
	if !known {
		return nil, fmt.Errorf("platform %q: %s", uri, wants)
	}
	m, err := openHardware(ctx, hardware.Options{Type: typ, Device: path, System: h.System, OpenUnverified: OpenUnverified})
	if err != nil {
		return nil, fmt.Errorf("platform %s: %w", uri, err)
	}
	return m, nil
}

func openSimulated(path string, now func() time.Time) (attest.Attester, error) {
	text, err := keyfile.Read(path)
	if err != nil {
		return nil, err
	}
	machine, err := simulated.ParseMachine(text)
	if err != nil {
		return nil, err
	}
	return machine.Attester(now), nil
}

func openHardware(ctx context.Context, o hardware.Options) (*Machine, error) {
	a, looks, err := hardware.Open(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, trialTime, fmt.Errorf("it gave no evidence within %s", trialTime))
	defer cancel()
	b := attest.Binding{SPKI: make([]byte, 32)}
	for _, chance := range [][]byte{b.ReportData[:], b.Nonce[:], b.SPKI} {
		rand.Read(chance) // cannot fail
	}
	e, err := a.Attest(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("%s was found, and fails at a trial: %w", a.Look().Type, err)
	}
	m := &Machine{Attester: a, Looks: looks, Found: a.Look()}
	if table := a.EventLog(); table != nil {
		log, err := tdx.EventLog(table, e.Body)
		if err != nil {
			m.NoLog = fmt.Errorf("peers would refuse it: %w", err)
		} else {
			m.Attester = &logged{a, log}
		}
	}
	return m, nil
}

// logged is an attester whose evidence goes with the event log of its guest's boot.
type logged struct {
	attest.Attester
	log []byte
}

// Covered returns the log.
func (l *logged) Covered() attest.Collateral {
	return attest.Collateral{{Kind: attest.KindEventLog, Bytes: l.log}}
}

// String says what the machine attests by, for people.
func (m *Machine) String() string {
	var types []string
	for _, t := range m.Types() {
		types = append(types, t.String())
	}
	text := strings.Join(types, ", ")
	if m.Found.Device != "" {
		text += " at " + m.Found.Device
	}
	if root := m.Simulated(); root != "" {
		text += fmt.Sprintf("; SIMULATED under the private root %q", root)
	}
	return text
}
