package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/control"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/keyring"
	"consilium.dev/internal/manifest"
	"consilium.dev/internal/participant"
	"consilium.dev/internal/preflight"
	"consilium.dev/internal/store"
	"consilium.dev/internal/store/dir"
	"consilium.dev/internal/trainer"
)

// The space on the disk below which somebody should look, and that which is too little to keep a model and an update of some size.
const (
	lowSpace  = 1 << 30
	tooLittle = 64 << 20
)

// maxPlan is the most bytes of a plan's file that are read; a plan has 256 KiB at most, and the trainer says so.
const maxPlan = 1 << 20

// examined is what is looked at, and what of it is open.
type examined struct {
	c     *config
	env   daemon.Env
	parts setup.Parts
	kept  *collateral.Cache
	ring  store.Sealer // of the store; nil where there is none yet, or it could not be opened
}

func (x *examined) settings() (string, error) {
	if err := x.c.Times(); err != nil {
		return "", err
	}
	return fmt.Sprintf("participant.yaml reads; member %s, program %s, grace %s", x.c.Name, daemon.Version, time.Duration(x.c.Grace)), nil
}

// memory keeps the keys that are read here off disks, as the daemon does, and says how far that goes.
func (x *examined) memory() (string, error) {
	m, err := daemon.ProtectMemory(x.c.Swap)
	if err != nil {
		return "", preflight.Advise(err, "see Memory in docs/operating.md")
	}
	found := "swap: " + m.Swap
	if m.Swap == "possible" {
		return "", preflight.Warn(found+"; keys and plaintext could reach a disk", "see Memory in docs/operating.md")
	}
	return found, nil
}

func (x *examined) manifest() (found string, err error) {
	m, err := x.c.Agreed(x.env, attest.Participant)
	if err != nil {
		return "", preflight.Advise(err, "%s", x.aboutManifest(err))
	}
	x.parts.Manifest = m
	found = fmt.Sprintf("federation %s, epoch %d, signed by %s; %d are needed", m.Federation(), m.Epoch(), strings.Join(m.Signers(), ", "), m.Threshold())
	if _, ok := m.Key(attest.Coordinator, x.c.Coordinator.Name); !ok {
		return "", preflight.Advise(fmt.Errorf("coordinator.name: the manifest knows no coordinator %q", x.c.Coordinator.Name), "it knows %s",
			strings.Join(m.Coordinators(), ", "))
	}
	return found, nil
}

// aboutManifest says what to do about a manifest that is not taken.
func (x *examined) aboutManifest(err error) string {
	switch file := x.env.Path(x.c.Manifest); {
	case errors.Is(err, setup.ErrAnchor):
		return "put the digest into anchor that the other members have: consilium manifest show " + file + " prints that of the file; compare it with them by another way"
	case errors.Is(err, manifest.ErrNotOurs):
		return "whoever signs for " + x.c.Name + " reads it and signs it, with consilium manifest sign " + file + " --key governance.key; its digest stays the same"
	case errors.Is(err, manifest.ErrNoMember):
		return "correct name: consilium manifest show " + file + " prints the members' names"
	}
	return aboutFile(err, "take manifest.dsse.json and its digest from the other members again, and compare the digest with them by another way")
}

func (x *examined) identity() (found string, err error) {
	if x.parts.Identity, err = x.c.Known(x.env, attest.Participant, x.parts.Manifest); err != nil {
		return "", preflight.Advise(err, "%s", aboutFile(err, "name the key that consilium init made for this member; a new key needs a new epoch of the manifest"))
	}
	return "the key that the manifest gives " + x.c.Name + ", for its owner's eyes only", nil
}

func (x *examined) platform(ctx context.Context) (found string, err error) {
	m, err := x.c.Machine(ctx, x.env)
	if err != nil {
		return "", preflight.Advise(err, "%s", aboutFile(err, "the machine's file or device is missing or another one than platform names; docs/attestation.md says what each needs"))
	}
	x.parts.Attester = m
	found = "attests by " + m.String()
	for _, l := range m.Looks {
		if l != m.Found {
			found += "\n" + l.String()
		}
	}
	if m.NoLog != nil {
		return "", preflight.Warn(fmt.Sprintf("%s\nthe event log of the guest's boot is not shown: %v", found, m.NoLog),
			"nothing, unless the manifest asks for it: a log counts if nothing was measured after the firmware's last line in it")
	}
	if m.Simulated() != "" {
		return "", preflight.Warn(found, "nothing, while you try things out: such a machine protects nobody's data from its host")
	}
	return found, nil
}

// collateral opens the folder of what evidence is judged by beside itself, and fetches what is due where that is wanted. Where there is
// no folder yet, it looks into scratch, another one, so that nothing is left.
func (x *examined) collateral(ctx context.Context, scratch string) (string, error) {
	kept, err := x.c.collateral(x.env, x.parts.Manifest, true)
	if errors.Is(err, fs.ErrNotExist) {
		x.c.Collateral.Folder = scratch
		kept, err = x.c.collateral(x.env, x.parts.Manifest, true)
	}
	if err != nil {
		return "", preflight.Advise(err, "%s", aboutFile(err, "see Collateral in docs/operating.md"))
	}
	x.kept = kept
	if x.parts.Attester != nil {
		if e, err := x.parts.Attester.Attest(ctx, attest.Binding{}); err == nil {
			_, _ = kept.Want(e) // the channel says it if that is missed
		}
	}
	if x.c.Collateral.Fetch == "online" {
		if err := kept.Refresh(ctx); err != nil {
			return "", preflight.Warn("not all could be fetched: "+err.Error(),
				"check collateral in participant.yaml, and whether the firewall or the proxy lets the services through; see Collateral in docs/operating.md")
		}
	}
	found, now := kept.Show(), time.Now()
	for _, p := range found.Pieces {
		if p.State != "current" {
			return "", preflight.Warn(found.Words(now), "fetch or import newer collateral: see Collateral in docs/operating.md")
		}
	}
	return found.Words(now), nil
}

func (x *examined) kek(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	found, ring, err := x.c.TryKEK(ctx, x.env, x.parts.Attester)
	switch {
	case errors.Is(err, keyring.ErrKey):
		return "", preflight.Advise(err, "name in kek the key under which the store rests or, where it is being changed, in kek_previous; without it nothing in the store can be read")
	case err != nil:
		return "", preflight.Advise(err, "%s", aboutFile(err, "see Key-encryption keys in docs/operating.md; without this key the store cannot be opened"))
	}
	x.ring = ring
	return found, nil
}

// store writes where the store would, leaving nothing, and looks how much space is left.
func (x *examined) store() (string, error) {
	path, err := x.c.Folder(x.env)
	if err != nil {
		return "", err
	}
	t, err := dir.Try(path)
	if err != nil {
		return "", preflight.Advise(fmt.Errorf("store: %w", err), "the folder must belong to the user that the daemon runs as, on a local disk that is not full")
	}
	found := fmt.Sprintf("folder %s can be written; %d MiB are free", t.Folder, t.Free>>20)
	if !t.Made {
		found += "; the store's own folder is made at the first start"
	}
	switch {
	case t.Free < tooLittle:
		return "", preflight.Advise(fmt.Errorf("store: %d MiB are free in folder %s, less than %d", t.Free>>20, t.Folder, tooLittle>>20),
			"make room: models and updates are kept here")
	case t.Free < lowSpace:
		return "", preflight.Warn(found, "make room: models and updates are kept here")
	case t.Shared:
		return "", preflight.Warn(found+"; others than its owner may enter it",
			"chmod 700 %s: whoever enters it may speak to the daemon as its administrator", t.Folder)
	}
	return found, nil
}

func (x *examined) daemon(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	data, err := control.Ask(ctx, x.c.control(x.env), control.Question{Verb: "status"})
	if errors.Is(err, control.ErrAbsent) {
		return "not running", nil
	}
	if err != nil {
		return "", preflight.Advise(err, "%s", aboutFile(err, "run this as the user that the daemon runs as"))
	}
	var s participant.Status
	if err := json.Unmarshal(data, &s); err != nil {
		return "", fmt.Errorf("the daemon's answer: %w", err)
	}
	if s.Heard.IsZero() {
		return "", preflight.Warn("running, and has not heard the coordinator since it started", "its log says why; so may the steps below")
	}
	return fmt.Sprintf("running, %s; heard the coordinator %s ago", s.Doing, max(s.Now.Sub(s.Heard), 0).Round(time.Second)), nil
}

// policy judges the owner's policy by the manifest that the daemon goes by, which is newer than the configured one once it has followed to
// another epoch.
func (x *examined) policy(ctx context.Context) (string, error) {
	m, missed := x.newest(ctx)
	by := fmt.Sprintf("by epoch %d, as configured", m.Epoch())
	if m.Epoch() != x.parts.Manifest.Epoch() {
		by = fmt.Sprintf("by epoch %d, as adopted", m.Epoch())
	}
	doubts, err := x.c.Policy.Doubts(m)
	switch {
	case err != nil:
		return "", err
	case len(doubts) > 0:
		return "", preflight.Warn(strings.Join(append(doubts, by), "\n"), "if that is not meant so, correct policy in participant.yaml, and restart the daemon")
	case missed != nil:
		return "", preflight.Warn(fmt.Sprintf("%s; what was adopted since is not known: %v", by, missed), "the daemon would not start so: do what stands there")
	}
	return fmt.Sprintf("runs of %s, among %d members at least; %s", strings.Join(x.c.Policy.Leads, ", "), x.c.Policy.LeastParticipants, by), nil
}

// newest returns the newest manifest that the member has adopted. Where that cannot be read it is the configured one, with why if the store
// has a keyring that opens.
func (x *examined) newest(ctx context.Context) (*manifest.Manifest, error) {
	if x.ring == nil {
		return x.parts.Manifest, nil
	}
	path, err := x.c.Folder(x.env)
	if err != nil {
		return x.parts.Manifest, err
	}
	view, err := dir.Look(path)
	if err != nil {
		return x.parts.Manifest, err
	}
	defer view.Close() //nolint:errcheck // it was only read
	m, err := participant.Adopted(ctx, view, x.ring, x.parts.Manifest)
	if err != nil {
		return x.parts.Manifest, err
	}
	return m, nil
}

// data reads the member's files: by a plan, if one is given, else as far as that goes without. What works and somebody should look at
// is collected, so that the rest is looked at too.
func (x *examined) data(file string) (string, error) {
	d := participant.Data{Records: x.env.Path(x.c.Data.Records), Split: x.env.Path(x.c.Data.Split)}
	if err := d.Check(); err != nil {
		return "", preflight.Advise(err, "%s", aboutFile(err, "correct data in participant.yaml, or the file"))
	}
	var doubts, remedies []string
	for _, name := range []string{d.Records, d.Split} {
		if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o007 != 0 {
			doubts = append(doubts, fmt.Sprintf("every user of this machine may read or alter %s: mode %04o", name, info.Mode().Perm()))
			remedies = append(remedies, fmt.Sprintf("chmod 600 %s, if the daemon's user owns it, or 640", name))
		}
	}
	found := "both files can be read; --plan FILE reads the records by a plan's schema too"
	if file != "" {
		var declined string
		var err error
		if found, declined, err = x.byPlan(d, file); err != nil {
			for _, doubt := range doubts {
				err = fmt.Errorf("%w\n%s", err, doubt)
			}
			return "", err
		}
		if declined != "" {
			doubts = append(doubts, "the owner's policy declines this plan: "+declined)
			remedies = append(remedies, "if that is not meant so, correct policy in participant.yaml, and restart the daemon")
		}
	}
	if len(doubts) > 0 {
		return "", preflight.Warn(strings.Join(append([]string{found}, doubts...), "\n"), "%s", strings.Join(remedies, "; "))
	}
	return found, nil
}

// byPlan reads the records as a run of the plan would, and asks the owner's policy.
func (x *examined) byPlan(d participant.Data, file string) (found, declined string, err error) {
	plan, err := readPlan(file)
	if err != nil {
		return "", "", err
	}
	digest, err := participant.SchemaDigest(plan.Schema)
	if err != nil {
		return "", "", err
	}
	n, err := d.Count(plan)
	if err != nil {
		return "", "", preflight.Advise(err, "the place is said, and never what stands there: correct the file, or ask the plan's author about its schema")
	}
	for _, lead := range x.c.Policy.Leads {
		if declined = x.c.Policy.Refuses(lead, plan); declined != "" {
			break
		}
	}
	return fmt.Sprintf("%d rows to train on and %d to test, of %d numbers each, by schema %s", n.Train, n.Test, n.Columns, digest), declined, nil
}

func readPlan(file string) (entry.Plan, error) {
	f, err := os.Open(file)
	if err != nil {
		return entry.Plan{}, fmt.Errorf("plan: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPlan))
	if err != nil {
		return entry.Plan{}, fmt.Errorf("plan: %w", err)
	}
	plan, err := trainer.ParsePlan(text)
	if err != nil {
		return entry.Plan{}, fmt.Errorf("plan %s: %w", file, err)
	}
	return plan, nil
}

// aboutFile says what to do about a file that is not there or may not be read, and else what otherwise is to be done.
func aboutFile(err error, otherwise string) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "put it there, or correct its path; paths are relative to the configuration's folder"
	case errors.Is(err, fs.ErrPermission):
		return "run this as the user that the daemon runs as, and give that user the right to read it"
	}
	return otherwise
}
