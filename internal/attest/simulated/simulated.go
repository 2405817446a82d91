// Package simulated makes enclaves out of nothing: machines whose evidence has the real formats, AMD SEV-SNP attestation
// reports, Intel TDX and SGX quotes with their collateral, and AWS Nitro attestation documents, and verifies by the very code that verifies hardware's, but chains to a
// private root. It is for demonstrations, tests and development. Nothing here protects anything: who can read a machine's
// file can sign whatever he likes with it.
//
// A [Root] stands in for the manufacturers. Its certificates go into a manifest, under the root's name, and only where a
// manifest names them is its evidence worth anything; the claims that come of it carry that name.
//
// A [Machine] stands in for one machine with one enclave in it. Its file holds what a chip would hold, and what a
// hypervisor would have measured. Its [attest.Attester] signs for whoever asks.
//
//	root, err := simulated.NewRoot("demo", "Genoa", now)    // seconds: two RSA-4096 keys
//	manifest.Roots["demo"] = root.Certificates()
//	machine, err := root.SNP(simulated.SNPSpec{})
//	file, err := machine.Marshal()                          // 0600; platform.Open reads it
//	attester := machine.Attester(time.Now)
//
// So that nobody takes them for a manufacturer's, all certificates have the serialNumber "SIMULATED NAME" in the subject,
// NAME being the root's. Otherwise names, extensions, algorithms and key sizes are the manufacturers'.
package simulated

import (
	"context"
	"fmt"
	"time"

	"consilium.dev/internal/attest"
)

// Machine is one simulated machine. It does not change, and is safe for concurrent use.
type Machine struct {
	root  string
	snp   *snpMachine // one of the three is set
	intel *intelMachine
	nitro *nitroMachine
}

// Attester returns an attester for the machine. now is the machine's clock, which Nitro documents show.
func (m *Machine) Attester(now func() time.Time) attest.Attester {
	return &attester{machine: m, now: now}
}

type attester struct {
	machine *Machine
	now     func() time.Time
}

// Types returns the one type of evidence that the machine makes.
func (a *attester) Types() []attest.Type {
	switch {
	case a.machine.snp != nil:
		return []attest.Type{attest.SEVSNP}
	case a.machine.intel != nil:
		return []attest.Type{a.machine.intel.typ}
	}
	return []attest.Type{attest.Nitro}
}

// Devices returns nothing: no simulated machine has a device.
func (a *attester) Devices(context.Context, []byte) (attest.Bundle, error) { return nil, nil }

// Covered returns nothing: no simulated machine has an event log.
func (a *attester) Covered() attest.Collateral { return nil }

// Attest returns evidence that carries b.
func (a *attester) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	if err := ctx.Err(); err != nil {
		return attest.Evidence{}, fmt.Errorf("attesting: %w", context.Cause(ctx))
	}
	switch {
	case a.machine.snp != nil:
		return a.machine.snp.attest(b)
	case a.machine.intel != nil:
		return a.machine.intel.attest(b)
	}
	return a.machine.nitro.attest(b, a.now())
}

// Simulated returns the name of the machine's root.
func (a *attester) Simulated() string { return a.machine.root }
