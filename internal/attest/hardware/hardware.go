// Package hardware has the machine that it runs on make evidence, in the forms that packages sevsnp, tdx, sgx and nitro read:
//
//	type      where                                        what gives it
//	sgx       /dev/attestation                             Gramine, with sgx.remote_attestation = "dcap"
//	sev-snp   /sys/kernel/config/tsm/report                Linux 6.7, driver sev_guest
//	sev-snp   /dev/sev-guest                               Linux 5.19
//	tdx       /sys/kernel/config/tsm/report                Linux 6.7, driver tdx_guest
//	nitro     /dev/nsm                                     Linux in an enclave of AWS
//
// Open looks for them in this order, and takes the first that is there. The innermost comes first: an enclave of SGX in a guest of
// SEV-SNP attests as the enclave. /dev/tdx_guest alone gives no quote: its TDREPORT can be judged by the same processor only, so
// that it is looked for just to say so.
//
// Nothing here judges a signature. What is looked at is that a device gave evidence of its type's form, and about the bytes that it was
// asked about: a device, or somebody else who uses it, that does not is an error here and no refusal there.
//
//	a, looks, err := hardware.Open(hardware.Options{System: hardware.Linux("/"), OpenUnverified: platform.OpenUnverified})
//	e, err := a.Attest(ctx, binding)
package hardware

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-sev-guest/client/linuxabi"
	"github.com/hf/nsm/request"
	"github.com/hf/nsm/response"
	"golang.org/x/sys/unix"

	"consilium.dev/internal/attest"
)

// Options says what is looked for, and where.
type Options struct {
	// Type is the one platform that is wanted; the zero Type is whichever is found.
	Type attest.Type
	// Device is where it is looked for: a device, or the folder that configfs-tsm's reports or Gramine's files are in. Empty is each
	// place where Linux has it.
	Device string
	// System is asked; Linux gives the real one.
	System System
	// OpenUnverified reads evidence: platform.OpenUnverified.
	OpenUnverified func(t attest.Type, body []byte) (attest.Claims, error)
}

// System is what this package asks of an operating system. Paths are as Linux has them.
type System struct {
	Files configfsi.Client
	Guest func(device string) (Guest, error)
	NSM   func(device string) (NSM, error)
}

// Guest is /dev/sev-guest, open. Errors wrap the kernel's; what the firmware or the host said is in the request.
type Guest interface {
	Ioctl(command uintptr, req *linuxabi.SnpUserGuestRequest) error
	Close() error
}

// NSM is a session with a Nitro Security Module.
type NSM interface {
	Send(request.Request) (response.Response, error)
	Close() error
}

// A Look is what came of looking for a platform at one place.
type Look struct {
	Type   attest.Type
	Device string
	Err    error // why it is not used; nil for what was found
}

// String says what came of it, for people.
func (l Look) String() string {
	if l.Err != nil {
		return fmt.Sprintf("%s, %s: %v", l.Type, l.Device, l.Err)
	}
	return fmt.Sprintf("%s, %s: found", l.Type, l.Device)
}

// AbsentError says that no platform was found, and what came of looking at each place. Its text has a line for each, for people; a log has one
// for each look and then What.
type AbsentError struct{ Looks []Look }

func (e *AbsentError) Error() string {
	what, advice, _ := strings.Cut(e.What(), "; ")
	var text strings.Builder
	text.WriteString(what + ":")
	for _, l := range e.Looks {
		fmt.Fprintf(&text, "\n  %s", l)
	}
	return text.String() + "\n  " + advice
}

// What says in one line what is wrong and what to do, without the looks.
func (e *AbsentError) What() string {
	return "no platform was found that this machine could attest by; Platforms in docs/operating.md says what to do; simulated:PATH is for trying things out without"
}

// Attester has a device make evidence, one piece at a time. It fits attest.Attester.
type Attester struct {
	look   Look
	source source
	open   func(t attest.Type, body []byte) (attest.Claims, error)
	turn   chan struct{} // holds one value while the device is asked
	log    []byte        // the table of a TDX guest's boot; nil where there is none
}

var _ attest.Attester = (*Attester)(nil)

// A source is a device that makes evidence. It is asked by one caller at a time.
type source interface {
	// quote returns evidence that carries b, and the collateral that the device gave along.
	quote(b attest.Binding) ([]byte, attest.Collateral, error)
}

// candidate is a platform at one place.
type candidate struct {
	typ    attest.Type
	device string
	probe  func(s System, device string) (source, error)
}

// candidates are all of them, in the order in which they are looked for.
func candidates() []candidate {
	return []candidate{
		{attest.SGX, "/dev/attestation", openGramine},
		{attest.SEVSNP, reports, openSNPReports},
		{attest.SEVSNP, "/dev/sev-guest", openGuest},
		{attest.TDX, reports, openTDXReports},
		{attest.TDX, "/dev/tdx_guest", openTDXDevice},
		{attest.Nitro, "/dev/nsm", openNSM},
	}
}

// wanted returns the candidates that the options leave. A device is one candidate, of the kind that its name or Linux's says.
func (o Options) wanted() []candidate {
	var all []candidate
	for _, c := range candidates() {
		if o.Type != 0 && c.typ != o.Type {
			continue
		}
		if o.Device == "" {
			all = append(all, c)
			continue
		}
		// Of the two kinds of place that sev-snp and tdx have, configfs's is a folder, and the other a device.
		_, err := o.System.Files.ReadDir(o.Device)
		folder := err == nil
		if twofold := c.typ == attest.SEVSNP || c.typ == attest.TDX; !twofold || folder == (c.device == reports) {
			c.device = o.Device
			all = append(all, c)
		}
	}
	return all
}

// Open looks at every place where the wanted platform may be, says what came of each, and returns an attester for the first that is
// there. If there is none, the error is an [*AbsentError].
func Open(o Options) (*Attester, []Look, error) {
	if o.OpenUnverified == nil || o.System.Files == nil || o.System.Guest == nil || o.System.NSM == nil {
		panic("hardware: Open without a system or a reader of evidence")
	}
	var looks []Look
	var a *Attester
	for _, c := range o.wanted() {
		source, err := c.probe(o.System, c.device)
		look := Look{c.typ, c.device, explained(err)}
		looks = append(looks, look)
		if err == nil && a == nil {
			a = &Attester{look: look, source: source, open: o.OpenUnverified, turn: make(chan struct{}, 1)}
		}
	}
	if a == nil {
		return nil, looks, &AbsentError{looks}
	}
	if a.look.Type == attest.TDX {
		a.log, _ = o.System.Files.ReadFile(ccel) // a guest without it proves no less
	}
	return a, looks, nil
}

// Look says which platform it is, and where.
func (a *Attester) Look() Look { return a.look }

// EventLog returns the table with the event log of a TDX guest's boot, as it was when the attester was opened, and nil where there is none.
// Nobody has looked at it: tdx.EventLog does.
func (a *Attester) EventLog() []byte { return a.log }

// Types returns the one type of evidence that the machine makes.
func (a *Attester) Types() []attest.Type { return []attest.Type{a.look.Type} }

// Devices returns nothing: no attached device is asked by this version.
func (a *Attester) Devices(context.Context, []byte) (attest.Bundle, error) { return nil, nil }

// Covered returns nothing: whoever opened the attester decides whether its event log is shown.
func (a *Attester) Covered() attest.Collateral { return nil }

// Simulated returns "".
func (a *Attester) Simulated() string { return "" }

// How often a device that is busy is asked, and how far apart. Linux gives a TDX quote 30 seconds, and looks once a second; its SEV-SNP
// driver asks a throttled host for 60 seconds by itself.
const (
	tries = 60
	pause = time.Second
)

// Attest returns evidence that carries b, and the certificates that the device gave along. It waits for its turn, and while the device is busy,
// as long as ctx lasts. A call that the kernel has begun cannot be taken back: it ends when the kernel ends it, which may be after ctx.
func (a *Attester) Attest(ctx context.Context, b attest.Binding) (attest.Evidence, error) {
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return attest.Evidence{}, fmt.Errorf("waiting for %s: %w", a.look.Device, context.Cause(ctx))
	}
	var said error
	for try := 1; ctx.Err() == nil; try++ {
		e, err := a.ask(b)
		if err == nil {
			return e, nil
		}
		if !busy(err) || try == tries {
			return attest.Evidence{}, fmt.Errorf("asking %s for evidence: %w", a.look.Device, explained(err))
		}
		said = err
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	if said != nil {
		return attest.Evidence{}, fmt.Errorf("asking %s for evidence: %w; it was busy: %w", a.look.Device, context.Cause(ctx), said)
	}
	return attest.Evidence{}, fmt.Errorf("asking %s for evidence: %w", a.look.Device, context.Cause(ctx))
}

// ask asks once, and looks at what came.
func (a *Attester) ask(b attest.Binding) (attest.Evidence, error) {
	body, c, err := a.source.quote(b)
	if err != nil {
		return attest.Evidence{}, err
	}
	claims, err := a.open(a.look.Type, body)
	if err != nil {
		return attest.Evidence{}, fmt.Errorf("%d bytes that are no evidence of the type %s: %w", len(body), a.look.Type, err)
	}
	if !carries(claims, b) {
		return attest.Evidence{}, errors.New("evidence that was not made for what was asked")
	}
	return attest.Evidence{Type: a.look.Type, Body: body, Collateral: c}, nil
}

// carries reports whether evidence is about b. Nothing of it is secret.
func carries(c attest.Claims, b attest.Binding) bool {
	switch {
	case c.SNP != nil:
		return c.SNP.ReportData == b.ReportData
	case c.TDX != nil:
		return c.TDX.ReportData == b.ReportData
	case c.SGX != nil:
		return c.SGX.ReportData == b.ReportData
	case c.Nitro != nil:
		return string(c.Nitro.UserData) == string(b.ReportData[:]) && string(c.Nitro.Nonce) == string(b.Nonce[:]) &&
			string(c.Nitro.PublicKey) == string(b.SPKI)
	}
	return false
}

// errChanged says that somebody else wrote to a report of ours between our writing and our reading.
var errChanged = errors.New("somebody else wrote to our report")

// busy reports whether asking again, later, may help.
func busy(err error) bool {
	for _, e := range []error{unix.EBUSY, unix.EINTR, unix.EAGAIN, errThrottled, errChanged} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// hints are what to do about what a kernel says. The first that fits is taken.
var hints = []struct {
	is   error
	hint string
}{
	{unix.ENOENT, "absent"},
	{unix.ENODEV, "absent"},
	{unix.EACCES, "this user may not use it: give the daemon's user the right to"},
	{unix.EPERM, "this user may not use it: give the daemon's user the right to"},
	{unix.ENXIO, "no driver stands behind it: load the kernel's module sev-guest or tdx-guest"},
	{unix.ENOTTY, "this is not the device, or the kernel does not know the request; a SEV-SNP guest whose key to the security processor was given up, after an error, must be started again"},
	{unix.ETIMEDOUT, "the host did not answer: ask its operator whether its quoting service runs"},
	{unix.EIO, "the host or the firmware refused: see the kernel's log, and ask the host's operator"},
}

// explained adds to an error of the kernel what to do about it.
func explained(err error) error {
	for _, h := range hints {
		if errors.Is(err, h.is) {
			return fmt.Errorf("%s (%w)", h.hint, err)
		}
	}
	return err
}
