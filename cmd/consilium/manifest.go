package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/identity"
	"consilium.dev/internal/manifest"
)

// maxManifestFile is the most bytes that a manifest may have in any of its forms.
const maxManifestFile = 1 << 20

// manifestFacts is what every manifest command says of a manifest in JSON.
type manifestFacts struct {
	File       string       `json:"file"`
	Digest     entry.Digest `json:"digest"` // the anchor
	Federation string       `json:"federation"`
	Epoch      uint64       `json:"epoch"`
	Threshold  int          `json:"threshold"`
	Members    []string     `json:"members"`
	Signers    []string     `json:"signers"` // whose governance keys' signatures are on it
	Verified   bool         `json:"verified"`
}

func factsOf(file string, m *manifest.Manifest, verified bool) manifestFacts {
	return manifestFacts{
		File: file, Digest: m.Digest(), Federation: m.Federation(), Epoch: m.Epoch(), Threshold: m.Threshold(),
		Members: m.Members(), Signers: append([]string{}, m.Signers()...), Verified: verified,
	}
}

// signatures says who has signed, and how many must.
func (f manifestFacts) signatures() string {
	who := "nobody"
	if len(f.Signers) > 0 {
		who = strings.Join(f.Signers, ", ")
	}
	return fmt.Sprintf("signed by %s; %d of %d members must sign", who, f.Threshold, len(f.Members))
}

// manifestCommand returns the commands with which members agree on a manifest. Only publish needs a connection.
func manifestCommand(a *app) *cobra.Command {
	group := &cobra.Command{Use: "manifest", Short: "Build, sign, show, verify and publish what the members agree on"}
	group.AddCommand(manifestBuild(a), manifestSign(a), manifestShow(a), manifestVerify(a), manifestPublish(a), manifestAccept(a))
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
			if err := replaceFile(out, payload); err != nil {
				return err
			}
			m, err := manifest.OpenUnverified(payload)
			if err != nil {
				return fmt.Errorf("reading %s again: %w", out, err)
			}
			facts := factsOf(out, m, false)
			return a.emit("manifest.build", facts, func(w *page) {
				w.printf("%s\n", facts.Digest)
				a.say("wrote %s; %d of %d members must sign it: consilium manifest sign %s --key governance.key",
					out, facts.Threshold, len(facts.Members), out)
			})
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: FILE.json)")
	return cmd
}

func manifestSign(a *app) *cobra.Command {
	var out, keyFile string
	cmd := &cobra.Command{
		Use:   "sign MANIFEST.json|ENVELOPE",
		Short: "Add a member's governance signature",
		Long: "Sign adds the signature of one member's governance key. The first member signs what build wrote and gets an\n" +
			"envelope; the others sign that envelope, which is added to in place. Read it first: consilium manifest show.",
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
			var signed []byte
			if isEnvelope(given) {
				signed, err = manifest.Sign(given, nil, key)
			} else {
				signed, err = manifest.Sign(nil, given, key)
			}
			if err != nil {
				return refusedError("see who has signed: consilium manifest show "+args[0], "%s: %w", args[0], err)
			}
			target, err := envelopeFile(args[0], out, isEnvelope(given))
			if err != nil {
				return err
			}
			return a.writeSigned(target, signed)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "file of the governance key (PEM, PKCS #8, readable by you only)")
	cmd.Flags().StringVar(&out, "out", "", "file to write (default: manifest.dsse.json beside MANIFEST.json, or the ENVELOPE itself)")
	return cmd
}

func (a *app) writeSigned(target string, signed []byte) error {
	m, err := manifest.OpenUnverified(signed)
	if err != nil {
		return fmt.Errorf("reading the signed manifest again: %w", err)
	}
	if err := replaceFile(target, signed); err != nil {
		return err
	}
	facts := factsOf(target, m, false)
	return a.emit("manifest.sign", facts, func(w *page) {
		w.printf("%s is %s\n", target, facts.signatures())
		if len(facts.Signers) < facts.Threshold {
			a.say("next, another member: consilium manifest sign %s --key governance.key", target)
		} else {
			a.say("next: consilium manifest verify %s --anchor %s", target, facts.Digest)
		}
	})
}

// envelopeFile chooses where the envelope goes. A fresh envelope never replaces one that others have signed.
func envelopeFile(given, out string, added bool) (string, error) {
	if added {
		if out == "" {
			out = given
		}
		return out, nil
	}
	if out == "" {
		out = filepath.Join(filepath.Dir(given), "manifest.dsse.json")
	}
	switch _, err := os.Lstat(out); {
	case errors.Is(err, fs.ErrNotExist):
		return out, nil
	case err != nil:
		return "", fmt.Errorf("looking for %s: %w", out, err)
	}
	return "", refusedError("sign that one: consilium manifest sign "+out+" --key governance.key",
		"%s exists already, and may hold others' signatures", out)
}

func manifestVerify(a *app) *cobra.Command {
	var anchor, member string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a signed manifest as the programs do when they load it",
		Args:  oneArgument("file"),
		RunE: func(_ *cobra.Command, args []string) error {
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
			facts := factsOf(args[0], m, true)
			return a.emit("manifest.verify", facts, func(w *page) {
				w.printf("%s is epoch %d of %s, %s\n", args[0], facts.Epoch, facts.Federation, facts.signatures())
			})
		},
	}
	cmd.Flags().StringVar(&anchor, "anchor", "", "digest that the manifest must have, 64 hex digits")
	cmd.Flags().StringVar(&member, "member", "", "member whose own governance key must be among the signers")
	return cmd
}

// isEnvelope tells the signed form from what build writes; which of them is good is for package manifest to say.
func isEnvelope(b []byte) bool {
	var form struct {
		Signatures json.RawMessage `json:"signatures"`
	}
	return json.Unmarshal(b, &form) == nil && form.Signatures != nil
}

func readManifestFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFoundError("check the path", "there is no file %s", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifestFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if len(b) > maxManifestFile {
		return nil, refusedError("is it a manifest?", "%s has more than %d bytes", path, maxManifestFile)
	}
	return b, nil
}

// replaceFile puts content at path whole or not at all: a crash leaves the file that was there.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func same(a, b string) bool {
	x, err := os.Stat(a)
	y, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(x, y)
}
