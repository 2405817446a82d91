package collateral

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"consilium.dev/internal/attest"
)

// issuerPrefix is what names of issuers' certificates begin with.
const issuerPrefix = "issuer-"

func isIssuer(name string) bool {
	return strings.HasPrefix(name, issuerPrefix) || strings.HasSuffix(name, "chain.pem")
}

// File is a file of collateral.
type File struct {
	Name  string
	Items attest.Collateral
	Fault string // why it has none
}

// endings say what files are by what their names end in. Others are DER or PEM.
var endings = []struct {
	end  string
	kind attest.Kind
}{
	{"certtable.bin", attest.KindCertTable},
	{"tcb_info.json", attest.KindTCBInfo},
	{"qe_identity.json", attest.KindQEIdentity},
	{"ccel.bin", attest.KindEventLog},
}

// encoded are the endings of files that hold certificates and revocation lists.
var encoded = []string{".der", ".cer", ".crt", ".crl", ".pem"}

func kindOf(name string) attest.Kind {
	for _, e := range endings {
		if strings.HasSuffix(name, e.end) {
			return e.kind
		}
	}
	return 0
}

// NameOf returns the name by which a file is known to hold collateral of a kind, "" where its content or its ending says so.
func NameOf(kind attest.Kind) string {
	for _, e := range endings {
		if e.kind == kind {
			return e.end
		}
	}
	return ""
}

// ReadFolder reads what of a folder is collateral, by its names: those that a [Cache] gives, and those of files in collections of evidence.
// It fails with more than limit files; a file that is not what its name says is returned with its fault.
func ReadFolder(folder string, limit int) ([]File, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") || kindOf(e.Name()) == 0 && !slices.Contains(encoded, filepath.Ext(e.Name())) {
			continue
		}
		if len(files) == limit {
			return nil, fmt.Errorf("%s has more than %d files of collateral", folder, limit)
		}
		f := File{Name: e.Name()}
		b, err := readLimited(filepath.Join(folder, f.Name), maxFile)
		if err == nil {
			f.Items, err = itemsIn(f.Name, b)
		}
		if err != nil {
			f.Fault = err.Error()
		}
		files = append(files, f)
	}
	return files, nil
}

// Foreign reports whether a file is named as a cache names what other evidence than e needs: of another machine, or another platform.
func Foreign(file string, e attest.Evidence, verifiers []attest.Verifier) bool {
	bare := file
	if rest, ok := strings.CutPrefix(file, "simulated-"); ok {
		_, bare, _ = strings.Cut(rest, "-")
	}
	named, needed := false, false
	for _, v := range verifiers {
		r, ok := v.(attest.Reader)
		if !ok {
			continue
		}
		if _, _, known := r.Source(bare); known {
			named = true
		}
		if r.Type() == e.Type {
			names, err := r.Needs(e)
			needed = err == nil && slices.Contains(names, file)
		}
	}
	return named && !needed
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, nil
}

// itemsIn returns the collateral in a file: DER that is a certificate or a revocation list, or PEM of such, or a chain.
func itemsIn(name string, b []byte) (attest.Collateral, error) {
	if kind := kindOf(name); kind != 0 {
		return attest.Collateral{{Kind: kind, Bytes: b}}, nil
	}
	if strings.HasSuffix(name, "chain.pem") {
		return attest.Collateral{{Kind: attest.KindIssuerChain, Bytes: b}}, nil
	}
	block, rest := pem.Decode(b)
	if block == nil {
		item, err := derItem(b)
		if err != nil {
			return nil, err
		}
		return attest.Collateral{item}, nil
	}
	var all attest.Collateral
	for ; block != nil; block, rest = pem.Decode(rest) {
		item, err := derItem(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, item)
	}
	return all, nil
}

func derItem(der []byte) (attest.Item, error) {
	if _, err := x509.ParseCertificate(der); err == nil {
		return attest.Item{Kind: attest.KindCertificate, Bytes: der}, nil
	}
	if _, err := x509.ParseRevocationList(der); err != nil {
		return attest.Item{}, errors.New("neither a certificate nor a revocation list")
	}
	return attest.Item{Kind: attest.KindCRL, Bytes: der}, nil
}

// Export writes all pieces that are used, and the highest numbers, into a new folder, for [Cache.Import] at a site without a network and for
// "consilium attest verify --collateral". It returns their names.
func (c *Cache) Export(folder string) ([]string, error) {
	if err := os.Mkdir(folder, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("exporting collateral: %w: name a new folder", err)
		}
		return nil, fmt.Errorf("exporting collateral: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	to := &Cache{o: Options{Folder: folder}, numbers: c.numbers}
	names := slices.Sorted(maps.Keys(c.pieces))
	for _, name := range names {
		if err := to.write(c.pieces[name]); err != nil {
			return nil, fmt.Errorf("exporting %w", err)
		}
	}
	if err := to.writeNumbers(); err != nil {
		return nil, fmt.Errorf("exporting %w", err)
	}
	return names, nil
}

// Imported is what came of an import.
type Imported struct {
	Fresh   []string `json:"fresh"`             // taken in
	Same    []string `json:"same,omitempty"`    // of which this or a later issue is kept already
	Refused []Refuse `json:"refused,omitempty"` // neither signed by whom it should be, nor so new as what was seen
}

// Import takes in what of a folder is collateral, each piece for its own signature: the folder's names are not believed, nor are the numbers
// in it. A piece with a lower number than was seen is refused. The error is of the folder or of this cache's disk.
func (c *Cache) Import(folder string) (Imported, error) {
	files, err := ReadFolder(folder, MaxFiles)
	if err != nil {
		return Imported{}, fmt.Errorf("importing collateral: %w", err)
	}
	c.mu.Lock()
	readers := c.readers
	c.mu.Unlock()
	done := Imported{Fresh: []string{}}
	var all attest.Collateral
	for _, f := range files {
		all = append(all, f.Items...)
	}
	var pieces []attest.Piece
	for _, r := range readers {
		for _, p := range r.Examine(attest.Evidence{Type: r.Type(), Collateral: all}) {
			if !slices.ContainsFunc(pieces, func(q attest.Piece) bool { return q.Name == p.Name && slices.Equal(q.Item.Bytes, p.Item.Bytes) }) {
				pieces = append(pieces, p)
			}
		}
	}
	for _, f := range files {
		known := func(p attest.Piece) bool {
			return holdsItem(f.Items, p.Item)
		}
		switch {
		case f.Fault != "":
			done.Refused = append(done.Refused, Refuse{f.Name, f.Fault})
		case !isIssuer(f.Name) && !slices.ContainsFunc(pieces, known):
			done.Refused = append(done.Refused, Refuse{f.Name, "no root that is trusted here stands behind it"})
		}
	}
	for _, p := range pieces {
		fresh, err := c.keep([]attest.Piece{p})
		var refusal *attest.Error
		switch {
		case errors.As(err, &refusal):
			done.Refused = append(done.Refused, Refuse{p.Name, refusal.Error()})
		case err != nil:
			return done, fmt.Errorf("importing: %w", err)
		case len(fresh) == 0:
			done.Same = append(done.Same, p.Name)
		default:
			done.Fresh = append(done.Fresh, p.Name)
		}
	}
	slices.Sort(done.Fresh)
	slices.Sort(done.Same)
	return done, nil
}
