package main

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"consilium.dev/cmd/internal/route"
	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
)

// collateralOptions are the flags that all commands about collateral have.
type collateralOptions struct {
	folder, manifest, at string
}

// collateralCommand returns the commands about what evidence is judged by beside itself.
func collateralCommand(a *app) *cobra.Command {
	group := &cobra.Command{
		Use: "collateral", Short: "Fetch, show and carry what evidence is judged by: certificates, revocation lists, TCB info",
		Long: "Collateral is what evidence is judged by beside itself: certificates of chips, revocation lists, Intel's TCB info and QE\n" +
			"identities, each signed by the processor's maker. It lies in a folder, which is also what a daemon's \"collateral: folder:\"\n" +
			"and attest verify --collateral name. No folder, stick or service is trusted: each piece is taken for its signature, and\n" +
			"never one with a lower number than was seen before. A daemon that runs sees what is new in its folder within a minute.",
	}
	group.AddCommand(collateralFetch(a), collateralShow(a), collateralExport(a), collateralImport(a))
	return group
}

func (o *collateralOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.folder, "folder", "", "folder in which collateral lies")
	f.StringVar(&o.manifest, "manifest", "", "manifest whose simulated roots are trusted beside the makers'")
	f.StringVar(&o.at, "at", "", "instant to judge at, RFC 3339 (default: now)")
}

// open opens the folder, which is made where it is not there if made says so.
func (o *collateralOptions) open(service *collateral.Service, made bool) (*collateral.Cache, error) {
	if o.folder == "" {
		return nil, usageError("name the folder with --folder", "where does the collateral lie?")
	}
	now := time.Now
	if o.at != "" {
		at, err := time.Parse(time.RFC3339, o.at)
		if err != nil {
			return nil, usageError("write it as 2026-03-01T12:00:00Z", "--at %q is no instant", o.at)
		}
		now = func() time.Time { return at }
	}
	policy, err := openPolicy(o.manifest)
	if err != nil {
		return nil, err
	}
	verifiers, err := verifiersUnder(policy)
	if err != nil {
		return nil, err
	}
	c, err := collateral.Open(collateral.Options{Folder: o.folder, Service: service, Now: now, Existing: !made}, verifiers)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, notFoundError("check the path; collateral fetch and import make a folder", "there is no folder %s", o.folder)
	case errors.Is(err, syscall.ENOTDIR):
		return nil, refusedError("name the folder with --folder", "%s is no folder", o.folder)
	}
	return c, err
}

// fetchOptions are the flags of collateral fetch.
type fetchOptions struct {
	collateralOptions
	evidence []string
	platform string
	way      route.Collateral
	proxy    string
}

// fetched is what collateral fetch says.
type fetched struct {
	Wanted []string `json:"wanted"` // names
	Fresh  []string `json:"fresh"`  // of them, what was not there before
	Failed []string `json:"failed,omitempty"`
	collateral.State
}

func collateralFetch(a *app) *cobra.Command {
	o := fetchOptions{way: route.Collateral{Fetch: "online"}}
	cmd := &cobra.Command{
		Use:   "fetch --folder DIR [--evidence FILE]...",
		Short: "Fetch the newest issue of what evidence needs, and of what the folder has",
		Long: "Fetch asks AMD's Key Distribution Service and Intel's Provisioning Certification Service, or what --kds and --pcs name in\n" +
			"their place (a PCCS, for example), for what the evidence in FILE is judged by, and for newer issues of all that the folder\n" +
			"has. A proxy is taken from --proxy, else from HTTPS_PROXY; a service's certificate is judged by the system's roots.",
		Example: "  consilium collateral fetch --folder collateral --evidence report.bin\n" +
			"  consilium collateral fetch --folder collateral --pcs https://pccs.hospital.example:8081",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := o.fetch(cmd)
			if err != nil {
				return err
			}
			if err := a.emit("collateral.fetch", done, done.show); err != nil {
				return err
			}
			if len(done.Failed) > 0 {
				return errSaid{kindUnreachable}
			}
			return nil
		},
	}
	o.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&o.evidence, "evidence", nil, "file with evidence whose collateral is wanted; may be given several times")
	f.StringVar(&o.platform, "platform", "", "type of the evidence, as manifests spell it (default: as it looks)")
	f.StringVar(&o.way.KDS, "kds", "", "address in place of "+collateral.DefaultKDS)
	f.StringVar(&o.way.PCS, "pcs", "", "address in place of "+collateral.DefaultPCS)
	f.StringVar(&o.way.RootCRL, "root-crl", "", "address of the revocation list of Intel's root (default: Intel's, or a PCCS's path)")
	f.StringVar(&o.proxy, "proxy", "", "http://HOST:PORT, or none (default: as the environment says)")
	f.StringVar(&o.way.Proxy.User, "proxy-user", "", "user whom the proxy asks for")
	f.StringVar(&o.way.Proxy.PasswordFile, "proxy-password-file", "", "file with that user's password, mode 0600")
	return cmd
}

func (o *fetchOptions) fetch(cmd *cobra.Command) (*fetched, error) {
	if o.proxy == "none" {
		o.way.Proxy = route.Proxy{None: true}
	} else {
		o.way.Proxy.URL = o.proxy
	}
	service, err := o.way.Service(func(p string) string { return p }, nil)
	if err != nil {
		return nil, usageError("see consilium collateral fetch --help", "%w", err)
	}
	c, err := o.open(service, true)
	if err != nil {
		return nil, err
	}
	for _, path := range o.evidence {
		e, err := readEvidence(path, o.platform)
		if err != nil {
			return nil, err
		}
		if _, err := c.Want(e); err != nil {
			return nil, refusedError("see docs/attestation.md on what each platform needs", "%s: %w", path, err)
		}
	}
	done := &fetched{Wanted: c.Due(), Fresh: []string{}}
	if len(done.Wanted) == 0 {
		return nil, usageError("name evidence of the machine with --evidence", "the folder has nothing that could be fetched anew, and no evidence says what is wanted")
	}
	fresh, err := c.Fetch(cmd.Context(), done.Wanted)
	if cmd.Context().Err() != nil {
		return nil, cmd.Context().Err()
	}
	done.Fresh = append(done.Fresh, fresh...)
	if err != nil {
		done.Failed = strings.Split(err.Error(), "\n")
	}
	done.State = c.Show()
	return done, nil
}

func (d *fetched) show(w *page) {
	w.printf("fetched   %d of %d pieces are new\n", len(d.Fresh), len(d.Wanted))
	for _, why := range d.Failed {
		w.printf("failed    %s\n", name(why))
	}
	showCollateral(w, d.State)
}

func collateralShow(a *app) *cobra.Command {
	var o collateralOptions
	cmd := &cobra.Command{
		Use: "show --folder DIR", Short: "Show what a folder has, until when it holds, and what of it is not used", Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			c, err := o.open(nil, false)
			if err != nil {
				return err
			}
			s := c.Show()
			return a.emit("collateral.show", s, func(w *page) { showCollateral(w, s) })
		},
	}
	o.flags(cmd)
	return cmd
}

func showCollateral(w *page, s collateral.State) {
	w.printf("folder    %s\n", name(s.Folder))
	for _, r := range s.Refused {
		w.printf("not used  %s: %s\n", name(r.Name), name(r.Why))
	}
	if len(s.Pieces) == 0 {
		w.printf("kept      nothing\n")
		return
	}
	t := newTable("PIECE", "NUMBER", "FROM", "UNTIL", "STATE")
	for _, p := range s.Pieces {
		number := p.Number
		if p.Highest != "" {
			number += " (seen: " + p.Highest + ")"
		}
		t.AppendRow(table.Row{elided(p.Name), number, p.From.Format(time.RFC3339), p.Until.Format(time.RFC3339), p.State})
	}
	w.tables(t)
}

// elided returns a name without the middle of a chip's id, whose 128 digits are wider than a terminal. JSON has names whole.
func elided(name string) string {
	if len(name) <= 60 {
		return name
	}
	return name[:30] + "..." + name[len(name)-26:]
}

func collateralExport(a *app) *cobra.Command {
	var o collateralOptions
	cmd := &cobra.Command{
		Use: "export NEWDIR --folder DIR", Short: "Copy what a folder has into a new folder, for a site without a network",
		Long: "Export writes all pieces that are used into the new folder NEWDIR. Carry it, by whatever way, to the site, and take it in with\n" +
			"collateral import there; attest verify --collateral reads it too.",
		Args: oneArgument("new folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := o.open(nil, false)
			if err != nil {
				return err
			}
			if len(c.Show().Pieces) == 0 {
				return refusedError("collateral show says what it has, and why a piece is not used", "%s has nothing to carry", o.folder)
			}
			names, err := c.Export(args[0])
			if errors.Is(err, fs.ErrExist) {
				return refusedError("an export is a folder of its own, which is made", "%w", err)
			}
			if err != nil {
				return err
			}
			data := struct {
				Folder string   `json:"folder"`
				Pieces []string `json:"pieces"`
			}{args[0], append([]string{}, names...)}
			return a.emit("collateral.export", data, func(w *page) { w.printf("exported  %d pieces to %s\n", len(names), name(args[0])) })
		},
	}
	o.flags(cmd)
	return cmd
}

// imported is what collateral import says.
type imported struct {
	collateral.Imported
	Over []collateral.Kept `json:"over,omitempty"` // of what came, what has run out
}

func collateralImport(a *app) *cobra.Command {
	var o collateralOptions
	cmd := &cobra.Command{
		Use: "import FROM --folder DIR", Short: "Take in what another site has exported, or a folder of certificates and lists",
		Long: "Import takes in what of the folder FROM is collateral: what collateral export wrote, or files of a collection (DER or PEM, Intel's\n" +
			"tcb_info.json and qe_identity.json with their chains). Each piece is verified by its signature. One with a lower number than\n" +
			"was seen before is refused. The exit code is 3 if anything was refused, or if there is nothing; what is good is taken in all the\n" +
			"same. What has run out is taken in too, and named.",
		Args: oneArgument("folder"),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := o.open(nil, true)
			if err != nil {
				return err
			}
			var done imported
			done.Imported, err = c.Import(args[0])
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return notFoundError("check the path", "there is no folder %s", args[0])
			case errors.Is(err, syscall.ENOTDIR):
				return refusedError("name the folder that it lies in", "%s is no folder", args[0])
			case err != nil:
				return err
			case len(done.Fresh)+len(done.Same)+len(done.Refused) == 0:
				return refusedError("name the folder that collateral export made: is the stick there?", "there is no collateral in %s", args[0])
			}
			for _, p := range c.Show().Pieces {
				if p.State == "over" && (slices.Contains(done.Fresh, p.Name) || slices.Contains(done.Same, p.Name)) {
					done.Over = append(done.Over, p)
				}
			}
			if err := a.emit("collateral.import", done, func(w *page) {
				w.printf("imported  %d pieces; %d were there already\n", len(done.Fresh), len(done.Same))
				for _, name := range done.Fresh {
					w.printf("new       %s\n", name)
				}
				for _, r := range done.Refused {
					w.printf("refused   %s: %s\n", name(r.Name), name(r.Why))
				}
				for _, over := range done.Over {
					w.printf("over      %s: since %s, so it is of no use now: fetch a newer one where there is a network\n", over.Name, over.Until.Format(time.RFC3339))
				}
			}); err != nil {
				return err
			}
			if len(done.Refused) > 0 {
				return errSaid{kindRefused}
			}
			return nil
		},
	}
	o.flags(cmd)
	return cmd
}

// readCollateral reads what of a folder is collateral, but for what is named for other evidence than e, and returns the names of
// the files that it took.
func readCollateral(folder string, e attest.Evidence, verifiers []attest.Verifier) (c attest.Collateral, taken []string, err error) {
	if folder == "" {
		return nil, nil, nil
	}
	files, err := collateral.ReadFolder(folder, collateral.MaxFiles)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, notFoundError("check the path", "there is no folder %s", folder)
	}
	if err != nil {
		return nil, nil, refusedError("keep one machine's collateral in a folder", "%w", err)
	}
	files = slices.DeleteFunc(files, func(f collateral.File) bool { return collateral.Foreign(f.Name, e, verifiers) })
	if len(files) > maxCollateralFiles {
		return nil, nil, refusedError("keep one machine's collateral in a folder", "%s has more than %d files of collateral", folder, maxCollateralFiles)
	}
	for _, f := range files {
		if f.Fault != "" {
			return nil, nil, refusedError("take it out of the folder, or fetch it again", "%s: %s", filepath.Join(folder, f.Name), f.Fault)
		}
		c, taken = append(c, f.Items...), append(taken, f.Name)
	}
	return c, taken, nil
}
