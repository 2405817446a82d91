package audit

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"consilium.dev/internal/entry"
	"consilium.dev/internal/ledger"
	"consilium.dev/internal/witness"
)

// openCheckpoint returns what a checkpoint says that the log's key has signed, and refuses anything that stands in it and is
// not signed: another signature, or another spelling of this one. Who compares two checkpoints compares all of their bytes.
func openCheckpoint(signed []byte, verifier string) (ledger.Checkpoint, error) {
	c, err := ledger.OpenCheckpoint(signed, verifier)
	if err != nil {
		return c, err
	}
	_, signature, _ := strings.Cut(string(signed), "\n\n")
	text, ok := strings.CutPrefix(signature, "\u2014 "+c.Origin+" ")
	text, newline := strings.CutSuffix(text, "\n")
	if _, err := base64.StdEncoding.Strict().DecodeString(text); err != nil || !ok || !newline || strings.ContainsAny(text, "\r\n") {
		return c, errors.New("the checkpoint holds more than what the log's key has signed")
	}
	return c, nil
}

// cosigned counts the witnesses that have cosigned the checkpoint, each with a key that its member's identity key endorsed for that
// instant. Of each set that decides over its lines a quorum must have: the newest manifest's, and those of before that have not
// handed over in them.
func (a *auditor) cosigned() {
	r, checkpoint := a.report, a.checkpoint
	names, quorum := a.manifest.Quorum()
	r.Quorum, r.Witnesses = quorum, len(names)
	deciding := a.sets.Deciding(a.signed.Size)
	if len(deciding) == 0 {
		return
	}
	text, err := read(filepath.Join(a.folder, cosignedFile), witness.MaxCosigned)
	var c witness.Cosigned
	if err == nil {
		c, err = witness.DecodeCosigned(text)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		a.find(-1, "%s: %v", cosignedFile, err)
	case c.Checkpoint != checkpoint:
		a.find(-1, "%s is about another checkpoint than the copy's", cosignedFile)
		c.Cosignatures = nil
	}
	who, wrong := a.cosigners(c, deciding)
	for _, err := range wrong {
		a.find(-1, "%s: %v", cosignedFile, err)
	}
	for _, set := range deciding {
		there, of, why := among(set, who), "", ""
		if own := (witness.Set{Names: names, Quorum: quorum}); set.Same(own) {
			r.Cosigned = there
		} else {
			r.Former = append(r.Former, Former{set.Epoch, set.Quorum, len(set.Names), there})
			of, why = fmt.Sprintf(" of epoch %d", set.Epoch), ", who have not handed over,"
		}
		if len(there) < set.Quorum {
			a.find(-1, "%d of the %d witnesses%s that are needed%s have cosigned the checkpoint: there may be another history", len(there), set.Quorum, of, why)
		}
	}
}

// among returns those of a set's witnesses that are among who, ascending.
func among(set witness.Set, who []string) []string {
	there := []string{}
	for _, name := range set.Names {
		if slices.Contains(who, name) {
			there = append(there, name)
		}
	}
	return there
}

// cosigners returns which witnesses of those sets have cosigned a checkpoint, under the manifest that holds, ascending, and what is wrong
// with the cosignatures that are none.
func (a *auditor) cosigners(c witness.Cosigned, sets []witness.Set) (who []string, wrong []error) {
	text := witness.Text([]byte(c.Checkpoint))
	for _, x := range c.Cosignatures {
		m, ok := a.manifest.Member(x.Member)
		switch {
		case !ok || !slices.ContainsFunc(sets, func(s witness.Set) bool { return slices.Contains(s.Names, x.Member) }):
			wrong = append(wrong, fmt.Errorf("%.64q is no witness of this federation", x.Member))
		case slices.Contains(who, x.Member):
			wrong = append(wrong, fmt.Errorf("%s stands there twice", x.Member))
		default:
			if _, err := x.Check(a.manifest.Federation(), m.Identity, text); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", x.Member, err))
				continue
			}
			who = append(who, x.Member)
		}
	}
	slices.Sort(who)
	return who, wrong
}

// handedOver judges that the witnesses of before had nothing to say any more from a line on: a quorum of each set that decided had
// cosigned a head of this very history, with the adoption of the manifest that holds in it.
func (a *auditor) handedOver(n int64, f entry.HandedOver) {
	who, err := a.judgeHandover(n, f)
	if err == nil {
		err = a.sets.HandOver(n, f.Size)
	}
	if err != nil {
		a.find(n, "the witnesses hand over to those of epoch %d: %v", f.Epoch, err)
		return
	}
	clear(a.roots)
	a.report.Handovers = append(a.report.Handovers, Handover{f.Epoch, n, f.Size, who})
}

func (a *auditor) judgeHandover(n int64, f entry.HandedOver) ([]string, error) {
	text, err := a.keptText(n, f.Cosigned)
	if err != nil {
		return nil, err
	}
	c, err := witness.DecodeCosigned(text)
	if err != nil {
		return nil, err
	}
	said, err := openCheckpoint([]byte(c.Checkpoint), a.report.LogKey)
	if err != nil {
		return nil, err
	}
	if root, ok := a.roots[f.Size]; !ok || said.Size != f.Size || said.Origin != a.signed.Origin || said.Root != root {
		return nil, fmt.Errorf("the head of %d lines that was cosigned is none of this log since the manifest was adopted", said.Size)
	}
	who, wrong := a.cosigners(c, a.sets.Deciding(f.Size))
	for _, set := range a.sets.Deciding(f.Size) {
		if there := among(set, who); len(there) < set.Quorum {
			wrong = append(wrong, fmt.Errorf("%d of the %d witnesses of epoch %d that are needed have cosigned it", len(there), set.Quorum, set.Epoch))
		}
	}
	return who, errors.Join(wrong...)
}

// spkiOf returns the public key of a C2SP verifier key, NAME+HASH+KEY with an Ed25519 key, as PKIX DER.
func spkiOf(verifier string) ([]byte, error) {
	_, text, _ := strings.Cut(verifier, "+")
	_, text, _ = strings.Cut(text, "+")
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != 1+ed25519.PublicKeySize || b[0] != 1 {
		return nil, errors.New("the log's verifier key is no Ed25519 key")
	}
	spki, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(b[1:]))
	if err != nil {
		return nil, fmt.Errorf("the log's verifier key: %w", err)
	}
	return spki, nil
}
