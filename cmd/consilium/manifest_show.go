package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
)

func manifestShow(a *app) *cobra.Command {
	var replaces string
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Show a manifest, signed or not, without judging it",
		Long: "Show prints what a member should read before signing, and who has signed. With --replaces it says too which signatures\n" +
			"of the members of the manifest before are there, by the keys that they have in it, and which are missing.",
		Args: oneArgument("file"),
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := readManifestFile(args[0])
			if err != nil {
				return err
			}
			m, err := manifest.OpenUnverified(b)
			if err != nil {
				return refusedError("show what consilium manifest build or sign wrote", "%s: %w", args[0], err)
			}
			old, err := a.openFormer(replaces, m)
			if err != nil {
				return err
			}
			facts, err := factsOf(args[0], m, false).under(old, b)
			if err != nil {
				return refusedError("show what consilium manifest build or sign wrote", "%s: %w", args[0], err)
			}
			data := struct {
				manifestFacts
				Manifest json.RawMessage `json:"manifest"`
			}{facts, m.Payload()}
			return a.emit("manifest.show", data, func(w *page) { showManifest(w, facts, m) })
		},
	}
	cmd.Flags().StringVar(&replaces, "replaces", "", replacesHelp)
	return cmd
}

// showManifest prints what a member should read before signing.
func showManifest(w *page, f manifestFacts, m *manifest.Manifest) {
	w.printf("federation  %s, epoch %d\ndigest      %s\nsignatures  %s; NOT VERIFIED\n", f.Federation, f.Epoch, f.Digest, f.signing)
	switch {
	case f.Replaces != nil:
		w.printf("replaces    epoch %d, %s: %s\n", f.Replaces.Epoch, f.Replaces.Digest, f.Replaces.signing)
	case f.Epoch > 1:
		w.printf("replaces    epoch %d, %s; whose members' signatures it has: name that manifest with --replaces\n", f.Epoch-1, entry.Digest(m.Previous()))
	}
	w.printf("witnesses   %s\n", m.Witnesses())
	if old, begins := m.OldLog(); begins {
		w.printf("log         a new one begins, in place of one that is known up to its line %d, root %x\n", old.Lines, old.Root)
	}
	limits, readers := m.Limits(), m.Readers()
	w.printf("runs        strategies %s; trainers %s; %d participants at least; max_abs %s, %d rounds and %d records at most\n",
		strings.Join(limits.Strategies, ", "), strings.Join(limits.Trainers, ", "), limits.LeastParticipants,
		strconv.FormatFloat(limits.MaxAbs, 'f', -1, 64),
		limits.RoundsMax, limits.Records())
	if b := limits.Privacy; b.Epsilon > 0 {
		w.printf("privacy     epsilon %g at delta %g for %s, over all runs\n", b.Epsilon, b.Delta, whom(b.Unit))
	}
	w.printf("readers     models: %s; metrics: %s\n",
		strings.Join(readers.Models, ", "), strings.Join(readers.Metrics, ", "))

	members := newTable("MEMBER", "GOVERNANCE KEY", "IDENTITY KEY", "SIGNED")
	for _, name := range m.Members() {
		one, _ := m.Member(name)
		signed := ""
		if slices.Contains(f.Signers, name) {
			signed = "yes"
		}
		members.AppendRow(table.Row{name, fingerprint(one.Governance), fingerprint(one.Identity), signed})
	}
	people := newTable("PERSON", "OF", "KEY", "MAY")
	for _, one := range m.People() {
		people.AppendRow(table.Row{one.Name, one.Member, fingerprint(one.Key), strings.Join(one.May, ", ")})
	}
	coordinators := newTable("COORDINATOR", "IDENTITY KEY")
	for _, name := range m.Coordinators() {
		key, _ := m.Key(attest.Coordinator, name)
		coordinators.AppendRow(table.Row{name, fingerprint(key)})
	}
	w.tables(members, people, coordinators, setsTable(m))
}

// setsTable lists the reference sets with what they do not judge; every value is in the JSON form.
func setsTable(m *manifest.Manifest) table.Writer {
	var document struct {
		Sets map[string]map[string]any `json:"reference_sets"`
	}
	t := newTable("REFERENCE SET", "TYPE", "ROOT", "NOT JUDGED")
	if err := json.Unmarshal(m.Payload(), &document); err != nil {
		panic("consilium: a manifest that was read is not JSON: " + err.Error())
	}
	for _, name := range slices.Sorted(maps.Keys(document.Sets)) {
		set := document.Sets[name]
		root := "the manufacturer's"
		if simulated, ok := set["simulated"].(string); ok {
			root = "SIMULATED: " + simulated
		}
		t.AppendRow(table.Row{name, set["type"], root, strings.Join(unjudged("", set), "\n")})
	}
	return t
}

// unjudged returns the fields of a set that are {any: true}, with their reasons.
func unjudged(path string, fields map[string]any) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		inner, ok := fields[name].(map[string]any)
		switch {
		case !ok:
		case inner["any"] == true:
			all = append(all, fmt.Sprintf("%s%s: %v", path, name, inner["reason"]))
		default:
			all = append(all, unjudged(path+name+".", inner)...)
		}
	}
	return all
}

// fingerprint names a public key for people: the first 16 hex digits of the SHA-256 of its PKIX form.
func fingerprint(key ed25519.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic("consilium: a key of the manifest has no PKIX form: " + err.Error())
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:8])
}
