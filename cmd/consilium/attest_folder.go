package main

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/collateral"
	"consilium.dev/internal/attest/ear"
	"consilium.dev/internal/daemon"
	"consilium.dev/internal/manifest"
)

// fileManifest is the manifest that evidence was held against, in the folder that attest peer makes.
const fileManifest = "manifest.dsse.json"

// checkEmpty refuses a folder that holds something.
func checkEmpty(folder string) error {
	there, err := os.ReadDir(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return usageError("name a new folder with --out", "%w", err)
	case len(there) > 0:
		return usageError("name a new folder with --out", "%s is not empty", folder)
	}
	return nil
}

// numbered returns the name of the first of several, or name-2 and so on.
func numbered(name string, i int) string {
	if i == 0 {
		return name
	}
	return fmt.Sprintf("%s-%d", name, i+1)
}

// keep writes the folder, each file readable by nobody else, and the verdict last: a folder with one is whole. history is the chain of
// manifests that the evidence was held against, oldest first; key, if not nil, signs the outcome for other tools.
func (v *peerVerdict) keep(history []*manifest.Manifest, key crypto.Signer) error {
	f := dossier{path: v.Folder}
	f.make("")
	s, newest := &v.sight, history[len(history)-1]
	v.Anchor = history[0].Epoch()
	f.write(fileManifest, newest.Envelope())
	f.make("manifests")
	for _, m := range history {
		f.write(filepath.Join("manifests", fmt.Sprintf("epoch-%d.dsse.json", m.Epoch())), m.Envelope())
	}
	if s.Leaf != nil {
		f.write("leaf.der", s.Leaf)
		f.write("identity.der", s.Identity)
	}
	if len(s.Evidence) > 0 {
		f.write("binding.bin", s.Preimage)
	}
	for i, e := range s.Evidence {
		one := &v.Evidence[i]
		f.write(one.File, e.Body)
		f.make(one.Folder)
		for _, item := range e.Collateral {
			name := collateralName(item.Kind, one.Collateral)
			f.write(filepath.Join(one.Folder, name), item.Bytes)
			one.Collateral = append(one.Collateral, name)
		}
	}
	if key != nil && len(s.Evidence) > 0 && f.err == nil {
		token, err := v.result(newest, key)
		if err != nil {
			return err
		}
		f.write("ear.jwt", token)
	}
	text, err := json.MarshalIndent(envelope{Schema: schema, Kind: "attest.peer", Data: v}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the verdict: %w", err)
	}
	f.write("verdict.json", append(text, '\n'))
	return unwritten("--out", f.err)
}

// result is the outcome of the evidence as an EAT Attestation Result.
func (v *peerVerdict) result(policy *manifest.Manifest, key crypto.Signer) ([]byte, error) {
	s := &v.sight
	r := ear.Result{
		Type: s.Evidence[0].Type, Evidence: s.Evidence[0].Body, Policy: policy.Digest(), Issued: time.Now(),
		Build: "consilium " + daemon.Version, Verifier: "consilium.dev",
	}
	if len(s.Claims) > 0 {
		r.Claims = &s.Claims[0]
	}
	if !s.Expires.IsZero() {
		r.Appraisal = &s.Appraisal
	} else {
		r.Refusal = &attest.Error{Class: s.Refusal.Class, Err: s.Refusal.Err}
	}
	return ear.Sign(r, key)
}

// collateralName returns a name by which attest verify knows collateral of a kind, that is not among those taken. What it does not
// take from a folder, and what is there twice of which it takes one, has a name that it leaves alone.
func collateralName(kind attest.Kind, taken []string) string {
	n := len(taken) + 1
	switch kind {
	case attest.KindCertificate:
		return fmt.Sprintf("%02d.der", n)
	case attest.KindCRL:
		return fmt.Sprintf("%02d.crl", n)
	case attest.KindIssuerChain:
		return fmt.Sprintf("%02d-chain.pem", n)
	}
	if name := collateral.NameOf(kind); name != "" {
		if slices.Contains(taken, name) {
			return fmt.Sprintf("%02d-%s.more", n, name)
		}
		return name
	}
	return fmt.Sprintf("%02d-kind-%d.bin", n, kind)
}

// dossier is a folder in the making. After the first fault nothing more is written.
type dossier struct {
	path string
	err  error
}

func (f *dossier) make(name string) {
	if f.err == nil {
		f.err = os.MkdirAll(filepath.Join(f.path, name), 0o700)
	}
}

func (f *dossier) write(name string, b []byte) {
	if f.err != nil {
		return
	}
	file, err := os.OpenFile(filepath.Join(f.path, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = file.Write(b)
		err = errors.Join(err, file.Close())
	}
	f.err = err
}
