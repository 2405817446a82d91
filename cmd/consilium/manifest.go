package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"consilium.dev/internal/durable"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/identity"
	"consilium.dev/internal/manifest"
)

// maxManifestFile is the most bytes that a manifest may have in any of its forms.
const maxManifestFile = 1 << 20

// signing is which of a manifest's members have signed, and how many must. "Missing" are those who have not, not all of whom must.
type signing struct {
	Threshold int      `json:"threshold"`
	Members   []string `json:"members"`
	Signers   []string `json:"signers"` // whose governance keys' signatures are on it
	Missing   []string `json:"missing"`
}

func signingOf(m *manifest.Manifest, signers []string) signing {
	s := signing{Threshold: m.Threshold(), Members: m.Members(), Signers: append([]string{}, signers...), Missing: []string{}}
	for _, name := range s.Members {
		if !slices.Contains(s.Signers, name) {
			s.Missing = append(s.Missing, name)
		}
	}
	return s
}

// lacks returns how many more members must sign.
func (s signing) lacks() int { return max(0, s.Threshold-len(s.Signers)) }

// String says who has signed, how many must, and who still can.
func (s signing) String() string {
	who, more := "nobody", ""
	if len(s.Signers) > 0 {
		who = strings.Join(s.Signers, ", ")
	}
	if n := s.lacks(); n > 0 {
		more = fmt.Sprintf(", %d more of %s", n, strings.Join(s.Missing, ", "))
	}
	return fmt.Sprintf("signed by %s; %d of %d members must sign%s", who, s.Threshold, len(s.Members), more)
}

// manifestFacts is what every manifest command says of a manifest in JSON.
type manifestFacts struct {
	File       string       `json:"file"`
	Digest     entry.Digest `json:"digest"` // the anchor
	Federation string       `json:"federation"`
	Epoch      uint64       `json:"epoch"`
	signing
	Verified bool      `json:"verified"`
	Replaces *replaced `json:"replaces,omitempty"` // where the manifest that it replaces was named
}

// replaced is which members of the manifest before have signed, by the governance keys that they have in it.
type replaced struct {
	File   string       `json:"file"`
	Digest entry.Digest `json:"digest"`
	Epoch  uint64       `json:"epoch"`
	signing
}

func factsOf(file string, m *manifest.Manifest, verified bool) manifestFacts {
	return manifestFacts{
		File: file, Digest: m.Digest(), Federation: m.Federation(), Epoch: m.Epoch(), signing: signingOf(m, m.Signers()), Verified: verified,
	}
}

// under adds who has signed for the manifest that m replaces.
func (f manifestFacts) under(old *former, signed []byte) (manifestFacts, error) {
	if old == nil {
		return f, nil
	}
	var signers []string
	if isEnvelope(signed) {
		var err error
		if signers, err = old.Signed(signed); err != nil {
			return f, err
		}
	}
	f.Replaces = &replaced{old.file, old.Digest(), old.Epoch(), signingOf(old.Manifest, signers)}
	return f, nil
}

// signatures says who has signed, and how many must, for either epoch.
func (f manifestFacts) signatures() string {
	if f.Replaces == nil {
		return f.signing.String()
	}
	return fmt.Sprintf("%s; for epoch %d, which it replaces, %s", f.signing, f.Replaces.Epoch, f.Replaces.signing)
}

// former is the manifest that another one replaces. Its file proves itself, by the digest that the other one names.
type former struct {
	*manifest.Manifest
	file string
}

const replacesHelp = "file of the manifest that this one replaces, whose members must agree too"

// openFormer opens the manifest that next replaces, and warns of what does not go well with it; no file is none.
func (a *app) openFormer(file string, next *manifest.Manifest) (*former, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nothing was named
	}
	b, err := readManifestFile(file)
	if err != nil {
		return nil, err
	}
	old, err := manifest.OpenUnverified(b)
	if err != nil {
		return nil, refusedError("name the manifest that holds now, signed or as it was built", "%s: %w", file, err)
	}
	if old.Digest() != next.Previous() {
		return nil, refusedError(fmt.Sprintf("name the manifest of epoch %d: the newest that was adopted is manifest.epoch-N.dsse.json beside the one in consilium.yaml, "+
			"which may be older; and the manifest's prev is the digest of the one that it replaces", next.Epoch()-1),
			"the manifest follows %s, and %s is %s", entry.Digest(next.Previous()), file, entry.Digest(old.Digest()))
	}
	a.sayUnit(next, old)
	return &former{old, file}, nil
}

// sayUnit warns of a budget of privacy for another unit than that of a manifest before, of which those that are known are given, oldest first:
// no run may start then once something was spent. A new log begins with nothing spent.
func (a *app) sayUnit(next *manifest.Manifest, before ...*manifest.Manifest) {
	unit, later := next.Limits().Privacy.Unit, next
	for _, m := range slices.Backward(before) {
		if _, begins := later.OldLog(); begins || unit == "" {
			return
		}
		if was := m.Limits().Privacy.Unit; was != "" && was != unit {
			a.say("warning: the budget of privacy in epoch %d is for unit %s, and that of epoch %d was for unit %s: if anything was spent under that, every "+
				"run is refused under this; a budget of another unit begins with a new log (old_log)", next.Epoch(), unit, m.Epoch(), was)
			return
		}
		later = m
	}
}

// manifestCommand returns the commands with which members agree on a manifest. Only publish needs a connection.
func manifestCommand(a *app) *cobra.Command {
	group := &cobra.Command{Use: "manifest", Short: "Build, sign, show, verify and publish what the members agree on"}
	group.AddCommand(manifestBuild(a), manifestSign(a), manifestShow(a), manifestVerify(a), manifestPublish(a))
	return group
}

func manifestBuild(a *app) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "build FILE.yaml",
		Short: "Turn the YAML that people write into the bytes that members sign",
		Long: "Build checks the whole text, writes the manifest as canonical JSON and prints its digest: the anchor that goes\n" +
			"into the configuration of every program of the federation.",
		Args: oneArgument("file"),
		RunE: func(_ *cobra.Command, args []string) error {
			text, err := readManifestFile(args[0])
			if err != nil {
				return err
			}
			payload, err := manifest.Build(text)
			if err != nil {
				return refusedError("correct these lines and build again", "%s: %w", args[0], err)
			}
			if out == "" {
				out = strings.TrimSuffix(args[0], filepath.Ext(args[0])) + ".json"
			}
			if same(out, args[0]) {
				return usageError("name another file with --out", "%s would overwrite the text it is made from", out)
			}
			if err := durable.Replace(out, payload, 0o644); err != nil {
				return unwritten("--out", err)
			}
			m, err := manifest.OpenUnverified(payload)
			if err != nil {
				return fmt.Errorf("reading %s again: %w", out, err)
			}
			facts := factsOf(out, m, false)
			return a.emit("manifest.build", facts, func(w *page) {
				w.printf("%s\n", facts.Digest)
				a.say("wrote %s; %d of %d members must sign it: consilium manifest sign %s --key governance.key%s",
					out, facts.Threshold, len(facts.Members), out, facts.replaces())
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: FILE.json)")
	return cmd
}

func manifestSign(a *app) *cobra.Command {
	var out, keyFile, replaces string
	cmd := &cobra.Command{
		Use:   "sign MANIFEST.json|ENVELOPE",
		Short: "Add a member's governance signature",
		Long: "Sign adds the signature of one member's governance key. The first member signs what build wrote and gets an\n" +
			"envelope; the others sign that envelope, which is added to in place. Read it first: consilium manifest show.\n" +
			"A manifest that replaces another one needs the signatures that the other one asks for, by its keys, and those that it\n" +
			"asks for itself. A key that is in both signs once. Where a governance key is replaced, or a member leaves, name the\n" +
			"manifest that holds now with --replaces: its keys sign then too, and Sign says whose signatures it still lacks.",
		Args: oneArgument("file"),
		RunE: func(_ *cobra.Command, args []string) error {
			given, err := readManifestFile(args[0])
			if err != nil {
				return err
			}
			if keyFile == "" {
				return usageError("name your governance key with --key", "a manifest is signed with a key")
			}
			key, err := identity.Open("file:" + keyFile)
			if err != nil {
				return refusedError("it is the file that consilium init governance made", "opening the governance key: %w", err)
			}
			next, err := manifest.OpenUnverified(given)
			if err != nil {
				return refusedError("sign what consilium manifest build or sign wrote", "%s: %w", args[0], err)
			}
			old, err := a.openFormer(replaces, next)
			if err != nil {
				return err
			}
			envelope, payload := []byte(nil), given
			if isEnvelope(given) {
				envelope, payload = given, nil
			}
			var signed []byte
			if old != nil {
				signed, err = old.SignSuccessor(envelope, payload, key)
			} else {
				signed, err = manifest.Sign(envelope, payload, key)
			}
			if err != nil {
				return refusedError(signHint(args[0], next, old), "%s: %w", args[0], err)
			}
			target, err := envelopeFile(args[0], out, isEnvelope(given), old != nil, next.Digest())
			if err != nil {
				return err
			}
			return a.writeSigned(target, signed, old)
		},
	}
	cmd.Flags().StringVar(&replaces, "replaces", "", replacesHelp)
	cmd.Flags().StringVar(&keyFile, "key", "", "file of the governance key (PEM, PKCS #8, readable by you only)")
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: manifest.dsse.json beside MANIFEST.json, NAME.dsse.json beside NAME.json with --replaces, or the ENVELOPE itself)")
	return cmd
}

// signHint says what may help whoever could not sign.
func signHint(file string, next *manifest.Manifest, old *former) string {
	if old == nil && next.Epoch() > 1 {
		return fmt.Sprintf("a key of epoch %d that is not in epoch %d signs with --replaces and the manifest of epoch %d", next.Epoch()-1, next.Epoch(), next.Epoch()-1)
	}
	return "see who has signed: consilium manifest show " + file
}

func (a *app) writeSigned(target string, signed []byte, old *former) error {
	m, err := manifest.OpenUnverified(signed)
	if err != nil {
		return fmt.Errorf("reading the signed manifest again: %w", err)
	}
	facts, err := factsOf(target, m, false).under(old, signed)
	if err != nil {
		return fmt.Errorf("reading the signed manifest again: %w", err)
	}
	if err := durable.Replace(target, signed, 0o644); err != nil {
		return unwritten("--out", err)
	}
	return a.emit("manifest.sign", facts, func(w *page) {
		w.printf("%s is %s\n", target, facts.signatures())
		switch with := facts.replaces(); {
		case facts.lacks() > 0 || facts.Replaces != nil && facts.Replaces.lacks() > 0:
			a.say("next, another member: consilium manifest sign %s --key governance.key%s", target, with)
		default:
			a.say("the signatures are enough; members who have not signed may still do so")
			a.say("next: consilium manifest verify %s --anchor %s%s", target, facts.Digest, with)
		}
	})
}

// replaces returns the flag that names the manifest before, in a command that is typed next.
func (f manifestFacts) replaces() string {
	switch {
	case f.Replaces != nil:
		return " --replaces " + f.Replaces.File
	case f.Epoch > 1:
		return fmt.Sprintf(" --replaces MANIFEST-OF-EPOCH-%d", f.Epoch-1)
	}
	return ""
}

// envelopeFile chooses where the envelope goes. A fresh envelope never replaces one that others have signed.
func envelopeFile(given, out string, added, replaces bool, digest entry.Digest) (string, error) {
	if added {
		if out == "" {
			out = given
		}
		return out, nil
	}
	if out == "" {
		out = filepath.Join(filepath.Dir(given), "manifest.dsse.json")
		if replaces { // where the manifest before is likely to lie under the usual name
			out = strings.TrimSuffix(given, filepath.Ext(given)) + ".dsse.json"
		}
	}
	switch _, err := os.Lstat(out); {
	case errors.Is(err, fs.ErrNotExist):
		return out, nil
	case err != nil:
		return "", fmt.Errorf("looking for %s: %w", out, err)
	}
	if b, err := readManifestFile(out); err == nil {
		if m, err := manifest.OpenUnverified(b); err == nil && m.Digest() != digest {
			return "", refusedError("name another file with --out", "%s exists already, and holds another manifest: epoch %d, %s", out, m.Epoch(), m.Digest())
		}
	}
	return "", refusedError("sign that one: consilium manifest sign "+out+" --key governance.key",
		"%s exists already, and may hold others' signatures", out)
}

func manifestVerify(a *app) *cobra.Command {
	var anchor, member, replaces string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a signed manifest as the programs do when they load it",
		Long: "Verify checks a signed manifest as the programs do when they load it. With --replaces it checks as well what a program\n" +
			"that runs under the manifest before checks before it follows: that the members of that one have signed, by their keys.",
		Args: oneArgument("file"),
		RunE: func(_ *cobra.Command, args []string) error {
			if anchor == "" {
				return errNoAnchor()
			}
			var digest entry.Digest
			if err := digest.UnmarshalText([]byte(anchor)); err != nil {
				return usageError("--anchor takes the digest that consilium manifest build printed", "anchor: %w", err)
			}
			b, err := readManifestFile(args[0])
			if err != nil {
				return err
			}
			m, err := manifest.Load(b, manifest.Anchor{Digest: digest, Member: member})
			if err != nil {
				return refusedError("see what it holds: consilium manifest show "+args[0], "%s: %w", args[0], err)
			}
			old, err := a.openFormer(replaces, m)
			if err != nil {
				return err
			}
			if old != nil {
				if _, err := old.Successor(b); err != nil {
					return refusedError("see whose signatures it lacks: consilium manifest show "+args[0]+" --replaces "+replaces, "%s: %w", args[0], err)
				}
			}
			facts, err := factsOf(args[0], m, true).under(old, b)
			if err != nil {
				return err
			}
			return a.emit("manifest.verify", facts, func(w *page) {
				w.printf("%s is epoch %d of %s, %s\n", args[0], facts.Epoch, facts.Federation, facts.signatures())
				switch {
				case facts.Epoch == 1: // each program loads it; there is nobody yet to publish it to
					a.say("next: name %s and the anchor %s in each program's configuration", args[0], facts.Digest)
				case facts.Replaces != nil:
					a.say("next: consilium manifest publish %s", args[0])
				default:
					a.say("whether those of epoch %d have agreed: consilium manifest verify %s --anchor %s%s", facts.Epoch-1, args[0], facts.Digest, facts.replaces())
				}
			})
		},
	}
	cmd.Flags().StringVar(&anchor, "anchor", "", "digest that the manifest must have, 64 hex digits")
	cmd.Flags().StringVar(&replaces, "replaces", "", replacesHelp)
	cmd.Flags().StringVar(&member, "member", "", "member whose own governance key must be among the signers")
	return cmd
}

// errNoAnchor is for a command that judges by a manifest's digest and was given none.
func errNoAnchor() error {
	return usageError("it is the digest that consilium manifest build printed, as a member told you", "--anchor is required")
}

// isEnvelope tells the signed form from what build writes; which of them is good is for package manifest to say.
func isEnvelope(b []byte) bool {
	var form struct {
		Signatures json.RawMessage `json:"signatures"`
	}
	return json.Unmarshal(b, &form) == nil && form.Signatures != nil
}

func readManifestFile(path string) ([]byte, error) {
	return readLimited(path, maxManifestFile, "is it a manifest?")
}

func same(a, b string) bool {
	x, err := os.Stat(a)
	y, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(x, y)
}
