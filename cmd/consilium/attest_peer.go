package main

import (
	"context"
	"crypto"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"consilium.dev/cmd/internal/setup"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/client"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/identity"
	"consilium.dev/internal/socket"
)

const peerLong = `Peer attests the coordinator at ADDR (host:port, or vsock:CID:PORT on the host of its enclave; without it, the one in your
consilium.yaml) as every other command does, says nothing more to it, and leaves no line in its log. What it shows is held
against your own manifest: the file and the anchor that your consilium.yaml names, and those later epochs of it that the members
signed. What the coordinator says of itself counts for nothing.

  admitted    its key is that of the coordinator of that name, and its evidence is genuine, of this session, and matches a set
  refused     with the class of the first check that failed, and the reason; the exit code is 7

Either way a new folder, --out, gets what was shown, so that it can be judged again later, by anybody who has the folder:

  verdict.json                 what this command says, and what the evidence had to carry
  evidence.bin, collateral/    as attest verify takes them
  binding.bin                  whose SHA-512 the evidence carries: both names, keys and nonces, epoch, manifest, session
  leaf.der, identity.der       the certificates that the coordinator showed
  manifest.dsse.json           the manifest that it was held against; manifests/ has its epochs from your anchor on
  ear.jwt                      with --ear-key: the outcome as an EAT Attestation Result (see attest verify)

A coordinator shows its evidence only to those whose key is in its manifest. Who has none, or another manifest, sees its certificate
and no more: ask a lead or an auditor for such a folder.`

// peerOptions are the flags of attest peer.
type peerOptions struct{ name, out, earKey string }

// peerVerdict is what attest peer says.
type peerVerdict struct {
	Address     string    `json:"address"`
	At          time.Time `json:"at"`
	Verdict     string    `json:"verdict"` // admitted or refused
	Class       string    `json:"class,omitempty"`
	Reason      string    `json:"reason,omitempty"`
	ByPeer      bool      `json:"by_peer"` // it refused us
	Coordinator string    `json:"coordinator"`
	Claimed     string    `json:"claimed"` // office and name in its certificate
	Instance    string    `json:"instance,omitempty"`
	Endorsed    bool      `json:"endorsed"` // its certificate is endorsed by the key that the manifest gives to that name

	Federation string       `json:"federation"`
	Epoch      uint64       `json:"epoch"` // of your manifest
	Manifest   entry.Digest `json:"manifest"`
	Anchor     uint64       `json:"anchor_epoch"` // of the oldest manifest in the folder

	Evidence  []shownEvidence `json:"evidence"`
	Sets      []string        `json:"sets,omitempty"`
	NotJudged []string        `json:"not_judged,omitempty"`
	Simulated string          `json:"simulated,omitempty"`
	Expires   time.Time       `json:"expires,omitzero"` // an appraisal of now
	Folder    string          `json:"folder"`

	sight client.Sight
}

// shownEvidence is one piece of evidence, its files, and what it had to carry.
type shownEvidence struct {
	Platform   string         `json:"platform"`
	File       string         `json:"file"`
	Folder     string         `json:"collateral_folder"`
	Collateral []string       `json:"collateral"` // files in it
	ReportData string         `json:"report_data"`
	Nonce      string         `json:"nonce"`
	SPKI       string         `json:"spki"`
	Claims     map[string]any `json:"claims,omitempty"` // where all evidence is genuine
}

func attestPeer(a *app) *cobra.Command {
	var o peerOptions
	cmd := &cobra.Command{
		Use:   "peer [ADDR] --out DIR",
		Short: "Attest a live coordinator, hold it against your own manifest, and keep what it showed",
		Long:  peerLong,
		Args:  oneArgumentAtMost("address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := o.look(cmd.Context(), a, args)
			if err != nil {
				return err
			}
			if err := a.emit("attest.peer", v, v.show); err != nil {
				return err
			}
			if v.Verdict == "refused" {
				return errSaid{kindUntrusted}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.out, "out", "", "new or empty folder for what was shown")
	f.StringVar(&o.name, "name", "", "the coordinator's name in the manifest (default: that in your consilium.yaml)")
	f.StringVar(&o.earKey, "ear-key", "", "key that signs the outcome as an attestation result: a file that consilium init made")
	return cmd
}

// look attests the coordinator and writes the folder. Its error is the command line's, the configuration's or a file's, or says that
// there was nobody to look at; a refusal is a verdict.
func (o *peerOptions) look(ctx context.Context, a *app, args []string) (*peerVerdict, error) {
	if o.out == "" {
		return nil, usageError("name a new folder with --out", "where should what the coordinator shows be kept?")
	}
	if err := checkEmpty(o.out); err != nil {
		return nil, err
	}
	var signer crypto.Signer
	if o.earKey != "" {
		var err error
		if signer, err = identity.Open("file:" + o.earKey); err != nil {
			return nil, refusedError("it is a file that consilium init made", "opening the key of the attestation result: %w", err)
		}
	}
	c, err := a.configured()
	if err != nil {
		return nil, err
	}
	if len(args) == 1 {
		c.config.Address, c.argued = args[0], true
	}
	if err := socket.Check(c.config.Address); err != nil {
		return nil, usageError("write it as host:port, or as vsock:CID:PORT on the host of its enclave", "address of the coordinator: %w", err)
	}
	if o.name != "" {
		c.config.Coordinator = o.name
	}
	if !slices.Contains(c.config.Manifest.Coordinators(), c.config.Coordinator) {
		return nil, refusedError("it has "+names(c.config.Manifest.Coordinators())+"; name one with --name", "your manifest knows no coordinator %q", c.config.Coordinator)
	}
	ctx, cancel := within(ctx, patience, errNoAnswer)
	defer cancel()
	sight, err := c.sight(ctx, a)
	if err != nil {
		return nil, explain(ctx, c, err)
	}
	v := c.verdict(sight)
	v.Folder = o.out
	return v, v.keep(c.epochs.history(), signer)
}

// sight looks at the coordinator, again where it was at a newer epoch of the manifest.
func (c *connection) sight(ctx context.Context, a *app) (client.Sight, error) {
	for n := 0; ; n++ {
		s, err := client.Look(ctx, c.config)
		if !errors.Is(err, client.ErrNewer) || n == maxTurns {
			return s, err
		}
		c.epochs.keep(a)
		m := c.epochs.now()
		verifiers, err := setup.Verifiers(m)
		if err != nil {
			return s, refusedError("the manifest's roots are not usable", "epoch %d of the manifest: %w", m.Epoch(), err)
		}
		c.config.Manifest, c.config.Verifiers = m, verifiers
	}
}

// verdict words what was seen.
func (c *connection) verdict(s client.Sight) *peerVerdict {
	m := c.config.Manifest
	v := &peerVerdict{
		Address: c.config.Address, At: s.At.UTC(), Verdict: "admitted", Coordinator: c.config.Coordinator,
		Endorsed: s.Endorsed, Federation: m.Federation(), Epoch: m.Epoch(), Manifest: m.Digest(),
		Sets: s.Appraisal.Sets, NotJudged: s.Appraisal.Any, Simulated: s.Appraisal.Simulated, Expires: s.Expires.UTC(),
		Evidence: []shownEvidence{}, sight: s,
	}
	if s.Leaf != nil {
		v.Claimed, v.Instance = s.Peer.Office.String()+"/"+s.Peer.Name, s.Instance
	}
	if s.At.IsZero() {
		v.At = time.Now().UTC()
	}
	for i, e := range s.Evidence {
		one := shownEvidence{
			Platform: e.Type.String(), File: numbered("evidence", i) + ".bin", Folder: numbered("collateral", i), Collateral: []string{}, ReportData: hex.EncodeToString(s.Binding.ReportData[:]),
			Nonce: hex.EncodeToString(s.Binding.Nonce[:]), SPKI: hex.EncodeToString(s.Binding.SPKI),
		}
		if i < len(s.Claims) {
			one.Claims = jsonClaims(&s.Claims[i])
		}
		v.Evidence = append(v.Evidence, one)
	}
	r := s.Refusal
	if r == nil {
		return v
	}
	v.Verdict, v.Class, v.ByPeer, v.Reason = "refused", r.Class.String(), r.ByPeer, r.Err.Error()
	var own *attest.Error
	switch person, known := m.Person(c.config.Person); {
	case r.ByPeer && r.Class == attest.ClassManifest && (!known || !person.Key.Equal(c.config.Key.Public())):
		v.Reason = fmt.Sprintf("it shows its evidence only to those whose key is in its manifest, and yours gives this key to no %s", c.config.Person)
	case r.ByPeer && r.Class == attest.ClassManifest:
		v.Reason = "it refused us: it goes by another manifest than yours, or is not the one of that name"
	case r.ByPeer:
		v.Reason = "it refused us, and does not say more"
	case errors.As(r.Err, &own):
		v.Reason = own.Err.Error()
	}
	return v
}

func (v *peerVerdict) show(w *page) {
	w.printf("verdict      %s", v.Verdict)
	if v.Class != "" {
		w.printf(", %s: %s", v.Class, name(v.Reason))
	}
	w.printf("\ncoordinator  %s at %s\n", name(v.Coordinator), name(v.Address))
	switch {
	case v.Endorsed:
		w.printf("key          of %s, as the manifest has it\n", name(v.Claimed))
	case v.Claimed != "":
		w.printf("key          NOT THE MANIFEST'S: it calls itself %s\n", name(v.Claimed))
	}
	w.printf("at           %s\nmanifest     %s, epoch %d, %s\n", v.At.Format(time.RFC3339), name(v.Federation), v.Epoch, v.Manifest)
	if len(v.Sets) > 0 {
		w.printf("matches      %s\n", names(v.Sets))
	}
	if v.Simulated != "" {
		w.printf("enclave      SIMULATED, under the root %s\n", name(v.Simulated))
	}
	for _, reason := range slices.Sorted(slices.Values(v.NotJudged)) {
		w.printf("not judged   %s\n", name(reason))
	}
	w.printf("folder       %s\n", name(v.Folder))
	if len(v.Evidence) == 0 {
		w.printf("evidence     NONE WAS SHOWN\n")
	}
	for _, e := range v.Evidence {
		w.printf("judge again  consilium attest verify --platform %s --evidence %s --collateral %s --policy %s --report-data %s --at %s\n",
			e.Platform, name(filepath.Join(v.Folder, e.File)), name(filepath.Join(v.Folder, e.Folder)),
			name(filepath.Join(v.Folder, fileManifest)), e.ReportData, v.At.Format(time.RFC3339Nano))
	}
	for i := range v.sight.Claims {
		w.tables(claimsTable(&v.sight.Claims[i]))
	}
}
