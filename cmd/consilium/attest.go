package main

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"consilium.dev/internal/attest"
	"consilium.dev/internal/attest/platform"
	"consilium.dev/internal/entry"
	"consilium.dev/internal/manifest"
)

// Limits on files of evidence and collateral, above all real ones.
const (
	maxEvidenceFile    = 1 << 20
	maxCollateralFiles = 64
	snpReportBytes     = 1184
)

// attestCommand returns the commands about evidence.
func attestCommand(a *app) *cobra.Command {
	group := &cobra.Command{Use: "attest", Short: "Show and judge evidence of enclaves, and predict what it will say"}
	group.AddCommand(attestPeer(a), attestVerify(a), attestShow(a), attestMeasure(a))
	return group
}

// readEvidence reads a file of evidence. Behind a SEV-SNP report there may be the table of certificates that firmware hands out
// with it. An audit copy's kept/N.json holds evidence too.
func readEvidence(path, typeName string) (attest.Evidence, error) {
	b, err := readLimited(path, entry.MaxKept, "is it evidence?")
	if err != nil {
		return attest.Evidence{}, err
	}
	if bytes.HasPrefix(b, []byte("{")) { // as no platform's evidence begins
		return keptEvidence(path, b, typeName)
	}
	if len(b) > maxEvidenceFile {
		return attest.Evidence{}, refusedError("is it evidence?", "%s has more than %d bytes", path, maxEvidenceFile)
	}
	body, table := b, []byte(nil)
	if typeName == attest.SEVSNP.String() || typeName == "" && recognized(b[:min(len(b), snpReportBytes)]) == attest.SEVSNP {
		body, table = b[:min(len(b), snpReportBytes)], b[min(len(b), snpReportBytes):]
	}
	e := attest.Evidence{Body: body}
	if typeName == "" {
		if e.Type = recognized(body); e.Type == 0 {
			return e, usageError("is it evidence? name its platform with --platform, and what is wrong with it is said", "%s has the form of no evidence that can be recognized", path)
		}
	} else {
		var known bool
		if e.Type, known = attest.ParseType(typeName); !known {
			return e, usageError("--platform takes a type as manifests spell it: sev-snp, nitro, tdx or sgx", "there is no platform %q", typeName)
		}
	}
	if len(table) > 0 {
		e.Collateral = attest.Collateral{{Kind: attest.KindCertTable, Bytes: table}}
	}
	return e, nil
}

// keptEvidence reads what an audit's copy holds of an admission, a boot or an adoption: the first piece of evidence, or that of the
// type that is named, with the collateral that came with it.
func keptEvidence(path string, text []byte, typeName string) (attest.Evidence, error) {
	k, err := entry.DecodeKept(text)
	if err != nil {
		return attest.Evidence{}, refusedError("it begins as kept/N.json of an audit's copy does; is it one, unaltered?", "%s: %w", path, err)
	}
	var types []string
	for _, one := range k.Evidence {
		types = append(types, one.Type)
		t, known := attest.ParseType(one.Type)
		if !known || typeName != "" && typeName != one.Type {
			continue
		}
		e := attest.Evidence{Type: t, Body: one.Body}
		for _, c := range one.Collateral {
			e.Collateral = append(e.Collateral, attest.Item{Kind: attest.Kind(c.Kind), Bytes: c.Bytes})
		}
		return e, nil
	}
	return attest.Evidence{}, usageError("name one of its types with --platform", "%s holds no such evidence, but %s", path, names(types))
}

func recognized(body []byte) attest.Type {
	t, _ := platform.Recognize(body)
	return t
}

// readLimited reads a file of at most so many bytes.
func readLimited(path string, limit int64, hint string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, notFoundError("check the path", "there is no file %s", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if is, err := f.Stat(); err == nil && is.IsDir() {
		return nil, refusedError("name a file in it", "%s is a folder", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, refusedError(hint, "%s has more than %d bytes", path, limit)
	}
	return b, nil
}

// unbound is a verifier that can judge evidence apart from a session, as all of this version can.
type unbound interface {
	VerifyUnbound(e attest.Evidence, now time.Time, c attest.Collateral) (attest.Claims, error)
}

// genuine judges evidence. Without reportData nobody asks for whom it was made. Collateral is held to be the caller's own, but for an
// event log, which belongs to the evidence.
func genuine(v attest.Verifier, e attest.Evidence, reportData []byte, now time.Time, c attest.Collateral) (attest.Claims, error) {
	free, ok := v.(unbound)
	if !ok {
		return attest.Claims{}, usageError("look at it with attest show", "evidence of the type %s is judged in its own session only", e.Type)
	}
	for _, item := range c {
		if item.Kind == attest.KindEventLog {
			e.Collateral = append(e.Collateral, item)
		}
	}
	claims, err := free.VerifyUnbound(e, now, c)
	if err != nil || reportData == nil {
		return claims, err
	}
	got := platform.ReportData(e.Type, e.Body)
	if len(got) == 0 || subtle.ConstantTimeCompare(got, reportData) != 1 {
		return attest.Claims{}, attest.Refuse(attest.ClassBind, "report data is %x, want %x", got, reportData)
	}
	return claims, nil
}

// openPolicy reads the manifest whose reference sets evidence is held against: signed, built, or the YAML that it is built from.
// Who signed it is not asked: it is the caller's own file.
func openPolicy(path string) (*manifest.Manifest, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // none was named
	}
	b, err := readManifestFile(path)
	if err != nil {
		return nil, err
	}
	if ext := filepath.Ext(path); ext == ".yaml" || ext == ".yml" {
		if b, err = manifest.Build(b); err != nil {
			return nil, refusedError("see docs/manifest.md", "%s: %w", path, err)
		}
	}
	m, err := manifest.OpenUnverified(b)
	if err != nil {
		return nil, refusedError("name a manifest: YAML, built or signed", "%s: %w", path, err)
	}
	return m, nil
}
